package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gocaches/caches/driver"
)

// An answer is a Sentinel's view of one master.
type answer struct {
	address string
	// epoch is the configuration epoch of the address: of two answers the one with
	// the higher epoch is newer. It is -1 if the Sentinel does not report it.
	epoch    int64
	id       string   // ID of the Sentinel; empty if not reported
	peers    []peer   // the other Sentinels that are up
	replicas []string // replicas that are up and linked to the master
}

// A peer is a Sentinel as another one describes it.
type peer struct{ address, id string }

// maxListed bounds the number of Sentinels or replicas. No real setup has as
// many.
const maxListed = 64

var errUnknownName = errors.New("does not know the master")

// ask queries one Sentinel in one round trip. Only the address of the master is
// required: the user may lack permission for the other queries.
func ask(ctx context.Context, s driver.Store, name string) (answer, error) {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	for _, what := range []string{"MASTER", "GET-MASTER-ADDR-BY-NAME", "SENTINELS", "REPLICAS"} {
		p.Cmd("SENTINEL").String(what).String(name)
	}
	p.Cmd("SENTINEL").String("MYID")
	if err := s.Do(ctx, p); err != nil {
		return answer{}, err
	}
	// The reply to MASTER has the previous master's address until all replicas
	// follow the new one, so the address is a query of its own. The epoch is read
	// before the address: if a failover comes between, the new address has an old
	// epoch and is ignored until the next question. In the other order, an old
	// address would have the new epoch and be believed until doubted.
	a := answer{epoch: -1}
	if epoch, err := strconv.ParseInt(fieldsOf(p.Next())["config-epoch"], 10, 64); err == nil {
		a.epoch = epoch
	}
	var err error
	if a.address, err = addressOf(p.Next()); err != nil {
		return answer{}, err
	}
	a.peers = peersOf(p.Next())
	a.replicas = replicasOf(p.Next())
	if id, _, err := p.Next().Bytes(); err == nil {
		a.id = string(id)
	}
	return a, nil
}

// addressOf parses the reply to GET-MASTER-ADDR-BY-NAME: host and port, or nil
// if the Sentinel does not know the name.
func addressOf(r driver.Reply) (string, error) {
	if r.Kind() == driver.KindNil {
		return "", errUnknownName
	}
	e, err := r.Elems()
	if err != nil {
		return "", err
	}
	host, _, err := e.Next().Bytes()
	if err != nil {
		return "", err
	}
	port, _, err := e.Next().Bytes()
	if err != nil {
		return "", err
	}
	return join(string(host), string(port))
}

// join validates host and port, which a server has announced to a Sentinel, and
// joins them to an address.
func join(host, port string) (string, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, " /@?#[]\r\n") {
		return "", fmt.Errorf("%w: invalid address from a Sentinel", driver.ErrProtocol)
	}
	return net.JoinHostPort(host, port), nil
}

// fieldsOf parses alternating names and values. It returns nil for any other
// reply.
func fieldsOf(r driver.Reply) map[string]string {
	e, err := r.Elems()
	if err != nil {
		return nil
	}
	fields := make(map[string]string, e.Len()/2)
	for e.Len() > 1 {
		name, _, err := e.Next().Bytes()
		value, _, err2 := e.Next().Bytes()
		if err != nil || err2 != nil {
			return nil
		}
		fields[string(name)] = string(value)
	}
	return fields
}

// listOf parses a list of servers and returns the address and the fields of
// each one that the Sentinel does not consider down.
func listOf(r driver.Reply) (addresses []string, fields []map[string]string) {
	e, err := r.Elems()
	if err != nil {
		return nil, nil
	}
	for n := min(e.Len(), maxListed); n > 0; n-- {
		f := fieldsOf(e.Next())
		if address, err := join(f["ip"], f["port"]); err == nil && isUp(f["flags"]) {
			addresses, fields = append(addresses, address), append(fields, f)
		}
	}
	return addresses, fields
}

func isUp(flags string) bool {
	return !slices.ContainsFunc(strings.Split(flags, ","), func(flag string) bool {
		return flag == "s_down" || flag == "o_down" || flag == "disconnected"
	})
}

func peersOf(r driver.Reply) []peer {
	addresses, fields := listOf(r)
	peers := make([]peer, len(addresses))
	for i, address := range addresses {
		peers[i] = peer{address, fields[i]["runid"]}
	}
	return peers
}

// replicasOf parses the list of replicas. It omits a replica that has lost its
// link to the master, reports itself as a master, or is configured not to be
// announced (replica-announced).
func replicasOf(r driver.Reply) []string {
	addresses, fields := listOf(r)
	var up []string
	for i, address := range addresses {
		f := fields[i]
		if f["master-link-status"] == "ok" && f["role-reported"] != "master" && f["replica-announced"] != "0" {
			up = append(up, address)
		}
	}
	return up
}
