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

// An answer is what a Sentinel says about the master.
type answer struct {
	address string
	// epoch is that of the failover by which the Sentinel knows the address: of
	// two answers, the one with the higher epoch is the newer. It is -1 where the
	// Sentinel does not tell.
	epoch    int64
	id       string   // of the Sentinel, empty where it does not tell
	peers    []peer   // other Sentinels that are up
	replicas []string // that are up and in touch with the master
}

// A peer is a Sentinel as another one knows it.
type peer struct{ address, id string }

// maxListed bounds what is taken of a list: nobody has as many.
const maxListed = 64

var errUnknownName = errors.New("does not know the master")

// ask asks a Sentinel all that there is to know, in one round trip. Only where
// the master is must be answered; a user may have no right to ask the rest.
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
	// The address is not taken from MASTER: while replicas are still told to
	// follow the new master, that names the former one. The epoch comes first:
	// should a failover come between the two, a new address looks old until the
	// next question, where an old address would look new until it is doubted.
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

// addressOf reads the answer to GET-MASTER-ADDR-BY-NAME: host and port, or
// nothing for a name that the Sentinel does not know.
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

// join makes an address of what a Sentinel says, which another server has
// announced to it.
func join(host, port string) (string, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, " /@?#[]\r\n") {
		return "", fmt.Errorf("%w: a Sentinel's answer holds no address", driver.ErrProtocol)
	}
	return net.JoinHostPort(host, port), nil
}

// fieldsOf reads names and values, one after the other. What is none of those
// has no fields.
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

// listOf reads the fields of instances, the address of each among them, and
// leaves out those that the Sentinel calls down.
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

// replicasOf leaves out those whose link to the master is down, those that call
// themselves a master, and those that do not want to be known
// (replica-announced).
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
