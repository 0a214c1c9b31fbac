package cluster

import (
	"slices"
	"time"
)

// A hint is what a server said of one slot, by MOVED. It stands until there is
// a table whose asking began later: servers learn of a move one after the other,
// and the one that was asked may not have known.
type hint struct {
	to *node
	at time.Time
}

// install makes a table of what a server has named, and closes the nodes that
// nobody names any more.
func (s *Store) install(members []member, begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tabulate(members, begun)
	// Whoever tracks must hear that there is a master that it does not track
	// before anybody reads from that one.
	s.warn(func() map[*node]bool {
		s.applyHints(t)
		return s.masters(t)
	})
	if s.ended {
		return
	}
	s.table.Store(t)
	s.retireOthers(t)
	for tr := range s.trackers {
		tr.kick()
	}
}

// tabulate makes the table. It is called with mu held.
func (s *Store) tabulate(members []member, begun time.Time) *table {
	t := &table{begun: begun}
	for _, m := range members {
		sh := s.shard(m)
		if sh == nil {
			continue
		}
		t.shards = append(t.shards, sh)
		if sh.owns {
			t.owners = append(t.owners, sh.master)
		}
		for _, span := range m.slots {
			for slot := span.first; slot <= span.last; slot++ {
				t.slots[slot].Store(sh)
			}
		}
	}
	return t
}

// shard makes one shard, or nil where its master has no address that is one. It
// is called with mu held.
func (s *Store) shard(m member) *shard {
	sh := &shard{master: s.nodeLocked(s.mapped(m.master)), owns: len(m.slots) > 0}
	if sh.master == nil {
		return nil
	}
	if !s.replicas {
		return sh
	}
	for _, address := range m.replicas {
		if n := s.nodeLocked(s.mapped(address)); n != nil {
			sh.replicas = append(sh.replicas, n)
		}
	}
	return sh
}

// mapped returns the address to dial for one that a server has named.
func (s *Store) mapped(address string) string {
	if s.address == nil {
		return address
	}
	return s.address(address)
}

// applyHints writes into t what is newer, and forgets the rest. It is called
// with mu held.
func (s *Store) applyHints(t *table) {
	for slot, h := range s.hints {
		if h.at.Before(t.begun) {
			delete(s.hints, slot)
			continue
		}
		t.slots[slot].Store(t.shardOf(h.to))
	}
}

// masters returns those nodes that may have keys: the masters of t that have
// slots, those that hints name, and those that were asked for keys on their way.
// It is called with mu held.
func (s *Store) masters(t *table) map[*node]bool {
	all := make(map[*node]bool)
	for _, sh := range t.shards {
		if sh.owns || sh.master.asked.Load() {
			all[sh.master] = true
		}
	}
	for _, h := range s.hints {
		all[h.to] = true
	}
	return all
}

// retireOthers closes the nodes that neither t nor a hint names. It is called
// with mu held.
func (s *Store) retireOthers(t *table) {
	for address, n := range s.nodes {
		if t.names(n) || s.hinted(n) {
			continue
		}
		delete(s.nodes, address)
		s.leaving[n] = true
		s.spawnLocked(func() { s.retire(n) })
	}
}

func (t *table) names(n *node) bool {
	return slices.ContainsFunc(t.shards, func(sh *shard) bool {
		return sh.master == n || slices.Contains(sh.replicas, n)
	})
}

// hinted is called with mu held.
func (s *Store) hinted(n *node) bool {
	for _, h := range s.hints {
		if h.to == n {
			return true
		}
	}
	return false
}

// moved notes that a slot has gone to n, and has the others asked about the rest
// of the table, which no caller waits for.
func (s *Store) moved(slot int, n *node) {
	s.mu.Lock()
	if t := s.table.Load(); t != nil && t.owner(slot) != n {
		s.hints[slot] = hint{n, time.Now()}
		s.warn(func() map[*node]bool { return map[*node]bool{n: true} })
		// Meanwhile there may be another table, with the hint or newer than it.
		if h, ok := s.hints[slot]; ok && h.to == n {
			t = s.table.Load()
			t.slots[slot].Store(t.shardOf(n))
		}
	}
	s.mu.Unlock()
	s.refresher.ask()
}

// asks notes that n has keys of a slot that is on its way there.
func (s *Store) asks(n *node) {
	if n.asked.Load() {
		return
	}
	s.mu.Lock()
	n.asked.Store(true)
	s.warn(func() map[*node]bool { return map[*node]bool{n: true} })
	s.mu.Unlock()
}
