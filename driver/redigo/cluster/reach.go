package cluster

import (
	"fmt"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A spread is a command whose arguments are keys of any slots, by how the
// replies to its parts make one.
type spread uint8

const (
	whole  spread = iota // it is none: all its keys share a slot
	gather               // an array, in the order of the keys
	sum                  // a number
)

func spreadOf(name string) spread {
	switch name {
	case "MGET":
		return gather
	case "DEL", "UNLINK", "EXISTS", "TOUCH":
		return sum
	}
	return whole
}

// A reach is where the keys of a command live.
type reach struct {
	slot  int  // of the first key, noSlot where there is none
	cross bool // there is a key of another slot
}

// reachOf returns the reach of command i. What has one key, or none, is read in
// place. Of other commands only the first key counts: whether the others share
// its slot the server says, and what it refuses has not run.
func reachOf(p *driver.Pipeline, i int) (r reach, err error) {
	r.slot = noSlot
	switch key := p.FirstKey(i); {
	case p.Args(i) > 1 && spreadOf(p.Name(i)) != whole && (key == nil || p.Args(i) > 2):
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

// add counts keys up to the first of another slot.
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

func errCross(what string) error {
	return fmt.Errorf("%w: those of %s must share one: give them the same caches.HashTag", driver.ErrCrossSlot, what)
}

// isWhole reports whether p must go over one connection, all of it.
func isWhole(p *driver.Pipeline) bool { return p.Mode()&(driver.Atomic|driver.Own) != 0 }

// An aim is the server that something goes to.
type aim struct {
	node   *node // nil where there is none
	reader bool  // over a connection that has said READONLY
}

func (a aim) store() *redigo.Store {
	if a.reader {
		return a.node.reader
	}
	return a.node.store
}

// aim returns the one server that all of p can go to as it is, if there is one.
// It is on the way of each call: it allocates nothing.
func (s *Store) aim(p *driver.Pipeline, home *node) aim {
	t := s.table.Load()
	if t == nil {
		return aim{}
	}
	var at *shard
	slot, single := noSlot, isWhole(p)
	for i := range p.Len() {
		r, err := reachOf(p, i)
		switch {
		case err != nil || r.cross || single && slot != noSlot && r.slot != noSlot && r.slot != slot:
			return aim{}
		case r.slot == noSlot || r.slot == slot:
			continue
		}
		slot = r.slot
		sh := t.slots[slot].Load()
		if sh == nil || at != nil && at.master != sh.master {
			return aim{}
		}
		at = sh
	}
	if at == nil {
		return aim{node: t.anyone(home, s.turn.Add(1))}
	}
	if s.readsReplicas(p) {
		return at.reader(s.turn.Add(1))
	}
	return aim{node: at.master}
}

// anyone returns a server for a command without a key: home, or the one whose
// turn it is.
func (t *table) anyone(home *node, turn uint32) *node {
	switch {
	case home != nil:
		return home
	case len(t.owners) == 0:
		return nil
	}
	return t.owners[turn%uint32(len(t.owners))]
}

// reader returns the replica whose turn it is, or the master where there is none.
func (sh *shard) reader(turn uint32) aim {
	if len(sh.replicas) == 0 {
		return aim{node: sh.master}
	}
	return aim{sh.replicas[turn%uint32(len(sh.replicas))], true}
}

// readsReplicas reports whether replicas may answer p.
func (s *Store) readsReplicas(p *driver.Pipeline) bool {
	return s.replicas && p.Mode()&(driver.ReadOnly|driver.Master|driver.Own) == driver.ReadOnly
}
