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

// A table says who has which slot. Calls read it without a lock: the slots are
// the only thing in it that changes, where a server says that one has moved; all
// else comes with the next table. Both are written under Store.mu.
type table struct {
	slots [slotCount]atomic.Pointer[shard]
	// shards are all masters that a server has named, those without a slot too:
	// one that is about to take over its first slots has keys already.
	shards []*shard
	owners []*node   // the masters that have slots
	begun  time.Time // when the servers were asked: what it says is older than this
}

// A shard is a master with its replicas. It never changes: what a call has read of
// it stays true until it has read a table again.
type shard struct {
	master   *node
	replicas []*node // those that are healthy
	owns     bool    // slots, when it was named
}

// shardOf returns the shard of a master; a new one where nobody has named it.
func (t *table) shardOf(master *node) *shard {
	for _, s := range t.shards {
		if s.master == master {
			return s
		}
	}
	return &shard{master: master}
}

// owner returns the master of a slot, nil where there is none.
func (t *table) owner(slot int) *node {
	if s := t.slots[slot].Load(); s != nil {
		return s.master
	}
	return nil
}

// A member is a shard as a server has named it, before addresses are mapped and
// nodes found.
type member struct {
	slots    []span
	master   string // host:port
	failed   bool   // the master, as others see it
	replicas []string
}

// A span is the slots from first to last, both included.
type span struct{ first, last int }

// covered returns how many slots members have between them.
func covered(members []member) (n int) {
	for _, m := range members {
		for _, s := range m.slots {
			n += s.last - s.first + 1
		}
	}
	return n
}

// An asked is a server that has named the others.
type asked struct {
	host string // as it was dialled: a server that does not know its own name leaves it out
	tls  bool
}

var errTopology = errors.New("the server's answer about its cluster is not understood")

// shards reads the answer to CLUSTER SHARDS, an array of arrays in which names
// and values take turns; names that are new are passed by. See
// https://redis.io/docs/latest/commands/cluster-shards/.
func (a asked) shards(r driver.Reply) ([]member, error) {
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
		// A master that has failed and has no slots has been replaced. One that
		// has slots still is the one: nobody else may have them yet.
		if m.master != "" && (!m.failed || len(m.slots) > 0) {
			members = append(members, m)
		}
	}
	return members, nil
}

// shard reads one shard.
func (a asked) shard(fields driver.Elems) (m member, err error) {
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

// spans reads pairs of slots.
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

// nodes reads the servers of a shard.
func (a asked) nodes(m *member, r driver.Reply) error {
	all, err := r.Elems()
	for err == nil && all.Len() > 0 {
		var fields driver.Elems
		if fields, err = all.Next().Elems(); err == nil {
			err = a.node(m, fields)
		}
	}
	return err
}

// A peer is one server of a shard, as another one describes it.
type peer struct {
	role, health      string
	ip                string
	endpoint          string
	named             bool // the endpoint is not nil
	port, securedPort int64
}

func (a asked) node(m *member, fields driver.Elems) error {
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

// set notes one field. Others than these there may be.
func (p *peer) set(name string, value driver.Reply) (err error) {
	switch name {
	case "role":
		p.role, _, err = text(value)
	case "health":
		p.health, _, err = text(value)
	case "ip":
		p.ip, _, err = text(value)
	case "endpoint":
		p.endpoint, p.named, err = text(value)
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

// address returns where a server is. An endpoint that is not there, or empty,
// stands for the server that was asked: it does not know by which name others
// reach it. "?" says that it was told to name itself by a host and has none.
func (a asked) address(endpoint, ip string, port int64) string {
	host := endpoint
	if host == "?" {
		host = ip
	}
	if host == "" {
		host = a.host
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// slots reads the answer to CLUSTER SLOTS, of servers that do not know CLUSTER
// SHARDS, or of users who have no right to it; see
// https://redis.io/docs/latest/commands/cluster-slots/.
func (a asked) slots(r driver.Reply) ([]member, error) {
	all, err := r.Elems()
	if err != nil {
		return nil, err
	}
	var members []member
	at := make(map[string]int) // in members, by master
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

// slotRange reads one range: its bounds, the master, the replicas. Each server
// comes as host, port, name, and perhaps other hosts.
func (a asked) slotRange(e driver.Elems) (m member, err error) {
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
