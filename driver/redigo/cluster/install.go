package cluster

import (
	"slices"
	"time"
)

// A hint is a redirect (MOVED) of one slot. It overrides every table requested
// before it: servers learn of a move one after the other, so the answering
// server may not have known of it yet.
type hint struct {
	to *node
	at time.Time
}

// install replaces the table with the shards named by a server, and closes
// nodes that are no longer named.
func (s *Store) install(members []member, begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(func() ([]member, time.Time) { return members, begun })
}

// adopt replaces the table with the one of source. The caller holds mu. It is
// released while trackers are told, so source is called again afterwards.
func (s *Store) adopt(source func() ([]member, time.Time)) {
	var t *table
	// A tracker must be told of a master it does not track before any call reads
	// from that master.
	s.warnTrackers(func() map[*node]bool {
		t = s.tabulate(source())
		s.applyHints(t)
		return s.masters(t)
	})
	if s.closed {
		return
	}
	s.table.Store(t)
	s.retireOthers(t)
	for tr := range s.trackers {
		tr.kick()
	}
}

// tabulate makes the table of members. The caller holds mu.
func (s *Store) tabulate(members []member, begun time.Time) *table {
	t := &table{members: members, begun: begun}
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

// shard makes the shard of m, or returns nil if the master has no valid
// address. The caller holds mu.
func (s *Store) shard(m member) *shard {
	sh := &shard{master: s.nodeLocked(m.master), owns: len(m.slots) > 0}
	if sh.master == nil {
		return nil
	}
	if !s.replicas {
		return sh
	}
	for _, address := range m.replicas {
		if n := s.nodeLocked(address); n != nil {
			sh.replicas = append(sh.replicas, n)
		}
	}
	return sh
}

// applyHints writes the hints newer than t into t and deletes the others. The
// caller holds mu.
func (s *Store) applyHints(t *table) {
	for slot, h := range s.hints {
		if h.at.Before(t.begun) {
			delete(s.hints, slot)
			continue
		}
		t.slots[slot].Store(t.shardOf(h.to))
	}
}

// masters returns the nodes that may have keys: the masters of t that own
// slots, the nodes of hints, and masters that were importing slots. The caller
// holds mu.
func (s *Store) masters(t *table) map[*node]bool {
	all := make(map[*node]bool)
	for _, sh := range t.shards {
		if sh.owns || sh.master.importing.Load() {
			all[sh.master] = true
		}
	}
	for _, h := range s.hints {
		all[h.to] = true
	}
	return all
}

// retireOthers closes the nodes named neither by t nor by a hint. The caller
// holds mu.
func (s *Store) retireOthers(t *table) {
	for address, n := range s.nodes {
		if t.names(n) || s.hinted(n) {
			continue
		}
		delete(s.nodes, address)
		s.closing[n] = true
		s.spawnLocked(func() { s.retire(n) })
	}
}

func (t *table) names(n *node) bool {
	return slices.ContainsFunc(t.shards, func(sh *shard) bool {
		return sh.master == n || slices.Contains(sh.replicas, n)
	})
}

// hinted reports whether a hint names n. The caller holds mu.
func (s *Store) hinted(n *node) bool {
	for _, h := range s.hints {
		if h.to == n {
			return true
		}
	}
	return false
}

// noteMoved records that slot has moved to n, and starts a refresh for the rest
// of the table without waiting for it.
func (s *Store) noteMoved(slot int, n *node) {
	s.mu.Lock()
	if t := s.table.Load(); t != nil && t.owner(slot) != n {
		s.hints[slot] = hint{n, time.Now()}
		s.warnTrackers(func() map[*node]bool { return map[*node]bool{n: true} })
		// warnTrackers released mu: by now the table may be another one, and the hint
		// deleted.
		if h, ok := s.hints[slot]; ok && h.to == n {
			t = s.table.Load()
			t.slots[slot].Store(t.shardOf(n))
		}
	}
	s.mu.Unlock()
	s.refresher.ask()
}

// noteImport records that n has keys of a slot that is moving to it.
func (s *Store) noteImport(n *node) {
	if n.importing.Load() {
		return
	}
	s.mu.Lock()
	n.importing.Store(true)
	s.warnTrackers(func() map[*node]bool { return map[*node]bool{n: true} })
	s.mu.Unlock()
}
