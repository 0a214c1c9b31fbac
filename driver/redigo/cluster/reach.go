package cluster

import (
	"fmt"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A spread says how the replies to the pieces of a divided command are
// combined. Only commands whose arguments are all keys can be divided.
type spread uint8

const (
	notSpread spread = iota // not divided: all keys share a slot
	gather                  // one array, in the order of the keys
	sum                     // the sum of integers
)

func spreadOf(name string) spread {
	switch name {
	case "MGET":
		return gather
	case "DEL", "UNLINK", "EXISTS", "TOUCH":
		return sum
	}
	return notSpread
}

// A reach is the slots used by a command.
type reach struct {
	slot  int  // of the first key; noSlot if there is no key
	cross bool // another key has another slot
}

// reachOf returns the reach of command i. The keys of divisible commands and
// scripts are all examined. For other commands the first key decides: a
// server refuses a command with keys of several slots without running it.
func reachOf(p *driver.Pipeline, i int) (r reach, err error) {
	r.slot = noSlot
	switch key := p.FirstKey(i); {
	case p.Args(i) > 1 && spreadOf(p.Name(i)) != notSpread && (key == nil || p.Args(i) > 2):
		r.add(p.Command(i).Args[1:])
	case p.HasScripts() && p.Name(i) == "EVALSHA" && p.Command(i).Script != nil:
		if r.add(p.Command(i).Keys); r.cross {
			return r, errCross("a script")
		}
	case key != nil:
		r.slot = slotOf(key)
	}
	return r, nil
}

// add examines keys up to the first one of another slot.
func (r *reach) add(keys [][]byte) {
	for _, key := range keys {
		switch slot := slotOf(key); {
		case r.slot == noSlot:
			r.slot = slot
		case r.slot != slot:
			r.cross = true
			return
		}
	}
}

func errCross(owner string) error {
	return fmt.Errorf("%w: the keys of %s must share one slot: give them the same caches.HashTag", driver.ErrCrossSlot, owner)
}

// needsOneConnection reports whether all of p must use the same connection.
func needsOneConnection(p *driver.Pipeline) bool { return p.Mode()&(driver.Atomic|driver.Own) != 0 }

// A route is a destination: a server, and which of its stores to use.
type route struct {
	node   *node // nil if there is none
	reader bool  // use node.reader
}

func (a route) store() *redigo.Store {
	if a.reader {
		return a.node.reader
	}
	return a.node.store
}

// routeOf returns the one route on which all of p can be sent unchanged, if
// there is one. Every call runs it: it must not allocate.
func (s *Store) routeOf(p *driver.Pipeline, home *node) route {
	t := s.table.Load()
	if t == nil {
		return route{}
	}
	var at *shard
	slot, single := noSlot, needsOneConnection(p)
	for i := range p.Len() {
		r, err := reachOf(p, i)
		switch {
		case err != nil || r.cross:
			return route{}
		case r.slot == noSlot || r.slot == slot:
			continue
		case single && slot != noSlot:
			return route{}
		}
		slot = r.slot
		sh := t.slots[slot].Load()
		if sh == nil || at != nil && at.master != sh.master {
			return route{}
		}
		at = sh
	}
	if at == nil {
		return route{node: t.anyone(home, s.turn.Add(1))}
	}
	if s.readsReplicas(p) {
		return at.reader(s.turn.Add(1))
	}
	return route{node: at.master}
}

// anyone returns a server for commands without a key: home if set, otherwise
// each master in turn.
func (t *table) anyone(home *node, turn uint32) *node {
	switch {
	case home != nil:
		return home
	case len(t.owners) == 0:
		return nil
	}
	return t.owners[turn%uint32(len(t.owners))]
}

// reader returns the route to each replica in turn, or to the master if there
// is none.
func (sh *shard) reader(turn uint32) route {
	if len(sh.replicas) == 0 {
		return route{node: sh.master}
	}
	return route{sh.replicas[turn%uint32(len(sh.replicas))], true}
}

// readsReplicas reports whether replicas may answer p.
func (s *Store) readsReplicas(p *driver.Pipeline) bool {
	return s.replicas && p.Mode()&(driver.ReadOnly|driver.Master|driver.Own) == driver.ReadOnly
}
