package cluster

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// A table maps slots to shards. Calls read it without a lock. Only slots
// changes, when a server redirects; all other changes need a new table.
// Store.mu guards writes.
type table struct {
	slots [slotCount]atomic.Pointer[shard]
	// shards are all shards that a server has named. They include masters without
	// a slot: such a master already has keys while it imports its first slots.
	shards  []*shard
	owners  []*node   // the masters that own slots
	members []member  // the answer
	begun   time.Time // the time of the question: the answer may be as old as this
}

// A shard is a master with its replicas. It is immutable: a call may keep using
// a shard until it loads the table again.
type shard struct {
	master   *node
	replicas []*node // healthy ones only
	owns     bool    // whether the master owned slots when it was named
}

// shardOf returns the shard of master. If t does not name it, the shard is new.
func (t *table) shardOf(master *node) *shard {
	for _, s := range t.shards {
		if s.master == master {
			return s
		}
	}
	return &shard{master: master}
}

// owner returns the master of slot, or nil.
func (t *table) owner(slot int) *node {
	if s := t.slots[slot].Load(); s != nil {
		return s.master
	}
	return nil
}

// A member is a shard as described by a server, with the addresses that it announces.
type member struct {
	slots    []span
	master   string // host:port
	failed   bool   // the master is not online, as others see it
	replicas []string
}

// A span is a range of slots, both ends included.
type span struct{ first, last int }

// covered returns the number of slots of all members.
func covered(members []member) (n int) {
	for _, m := range members {
		for _, s := range m.slots {
			n += s.last - s.first + 1
		}
	}
	return n
}

// A describer is a server asked for the cluster's topology.
type describer struct {
	host string // as dialled; stands for its own name if it does not know that
	tls  bool
}

var errTopology = errors.New("malformed cluster topology")

// shards parses the reply to CLUSTER SHARDS: an array of arrays of alternating
// names and values. Unknown names are skipped. See
// https://redis.io/docs/latest/commands/cluster-shards/.
func (a describer) shards(r driver.Reply) ([]member, error) {
	all, err := r.Elems()
	if err != nil {
		return nil, err
	}
	var members []member
	for all.Len() > 0 {
		fields, err := all.Next().Elems()
		if err != nil {
			return nil, err
		}
		m, err := a.shard(fields)
		if err != nil {
			return nil, err
		}
		// A failed master without slots has been replaced. A failed master with slots
		// has not: no other server may have them yet.
		if m.master != "" && (!m.failed || len(m.slots) > 0) {
			members = append(members, m)
		}
	}
	return members, nil
}

// shard parses one shard.
func (a describer) shard(fields driver.Elems) (m member, err error) {
	for fields.Len() > 1 {
		name, _, err := fields.Next().Bytes()
		if err != nil {
			return m, err
		}
		value := fields.Next()
		switch string(name) {
		case "slots":
			m.slots, err = spans(value)
		case "nodes":
			err = a.nodes(&m, value)
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// spans parses pairs of slots.
func spans(r driver.Reply) (all []span, err error) {
	e, err := r.Elems()
	for err == nil && e.Len() > 1 {
		var s span
		if s, err = spanOf(e.Next(), e.Next()); err == nil {
			all = append(all, s)
		}
	}
	return all, err
}

func spanOf(first, last driver.Reply) (span, error) {
	a, err := first.Int()
	b, err2 := last.Int()
	if err = errors.Join(err, err2); err != nil {
		return span{}, err
	}
	if a < 0 || b < a || b >= slotCount {
		return span{}, errTopology
	}
	return span{int(a), int(b)}, nil
}

// nodes parses the servers of a shard.
func (a describer) nodes(m *member, r driver.Reply) error {
	all, err := r.Elems()
	for err == nil && all.Len() > 0 {
		var fields driver.Elems
		if fields, err = all.Next().Elems(); err == nil {
			err = a.node(m, fields)
		}
	}
	return err
}

// A peer is one server of a shard, as described by the describer.
type peer struct {
	role, health      string
	ip                string
	endpoint          string
	port, securedPort int64
}

func (a describer) node(m *member, fields driver.Elems) error {
	var p peer
	for fields.Len() > 1 {
		name, _, err := fields.Next().Bytes()
		if err == nil {
			err = p.set(string(name), fields.Next())
		}
		if err != nil {
			return err
		}
	}
	port := p.port
	if a.tls && p.securedPort != 0 {
		port = p.securedPort
	}
	address := a.address(p.endpoint, p.ip, port)
	switch online := p.health == "online"; {
	case p.role == "master":
		m.master, m.failed = address, !online
	case online:
		m.replicas = append(m.replicas, address)
	}
	return nil
}

// set stores one field. Unknown fields are ignored.
func (p *peer) set(name string, value driver.Reply) (err error) {
	switch name {
	case "role":
		p.role, _, err = text(value)
	case "health":
		p.health, _, err = text(value)
	case "ip":
		p.ip, _, err = text(value)
	case "endpoint":
		p.endpoint, _, err = text(value)
	case "port":
		p.port, err = value.Int()
	case "tls-port":
		p.securedPort, err = value.Int()
	}
	return err
}

func text(r driver.Reply) (string, bool, error) {
	b, ok, err := r.Bytes()
	return string(b), ok, err
}

// address returns the address of a described server. A nil or empty endpoint
// means the describer itself, which does not know the name used to reach it.
// "?" means that the server prefers a hostname but has none.
func (a describer) address(endpoint, ip string, port int64) string {
	host := endpoint
	if host == "?" {
		host = ip
	}
	if host == "" {
		host = a.host
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// slots parses the reply to CLUSTER SLOTS, which is asked for if CLUSTER SHARDS is
// of no use. See https://redis.io/docs/latest/commands/cluster-slots/.
func (a describer) slots(r driver.Reply) ([]member, error) {
	all, err := r.Elems()
	if err != nil {
		return nil, err
	}
	var members []member
	at := make(map[string]int) // index in members, by master
	for all.Len() > 0 {
		e, err := all.Next().Elems()
		if err != nil {
			return nil, err
		}
		m, err := a.slotRange(e)
		if err != nil {
			return nil, err
		}
		i, ok := at[m.master]
		if !ok {
			at[m.master] = len(members)
			members = append(members, m)
			continue
		}
		members[i].slots = append(members[i].slots, m.slots...)
	}
	return members, nil
}

// slotRange parses one range: its bounds, the master, the replicas. Each server
// is a host, a port, an ID and possibly more hosts.
func (a describer) slotRange(e driver.Elems) (m member, err error) {
	s, err := spanOf(e.Next(), e.Next())
	if err != nil {
		return m, err
	}
	m.slots = []span{s}
	for e.Len() > 0 {
		n, err := e.Next().Elems()
		if err != nil {
			return m, err
		}
		host, _, err := text(n.Next())
		if err != nil {
			return m, err
		}
		port, err := n.Next().Int()
		if err != nil {
			return m, err
		}
		if host == "?" {
			host = ""
		}
		if address := a.address(host, "", port); m.master == "" {
			m.master = address
		} else {
			m.replicas = append(m.replicas, address)
		}
	}
	if m.master == "" {
		return m, fmt.Errorf("%w: slots %d to %d have no server", errTopology, s.first, s.last)
	}
	return m, nil
}
