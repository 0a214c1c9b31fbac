package cluster

import (
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A node is one server. It exists from the first mention of its address until
// no table names it. It is then closed: calls still routed to it fail with
// nothing written, and look up the slot again.
type node struct {
	address string
	store   *redigo.Store
	reader  *redigo.Store // over connections that have sent READONLY; nil without ReadReplicas

	// failingSince is the time of the first failure since the last success, in
	// nanoseconds since base; 0 if there is none. See call.findServer.
	failingSince atomic.Int64
	// renewed is the time of the renewal that made this node, since base; 0 if none did.
	renewed time.Duration
	// importing is set once an ASK has redirected a call to this node: it may have
	// keys without owning a slot.
	importing atomic.Bool
}

// base is the reference point of stored times: time.Since costs half as much as
// time.Now.
var base = time.Now()

func (s *Store) newNode(address string) *node {
	n := &node{address: address}
	n.store = s.open(address, false, s.noted(new(atomic.Bool)))
	if s.replicas {
		n.reader = s.open(address, true, s.noted(new(atomic.Bool)))
	}
	return n
}

// noted returns a function that hears the states of a server's connections. If one
// is lost, or made again, the server may be another one or have another role. The
// first connection says nothing: the table is newer than the server's name is old.
func (s *Store) noted(known *atomic.Bool) func(driver.State, error) {
	return func(state driver.State, reason error) {
		switch {
		case state == driver.Connected && known.Swap(true), state == driver.Disconnected && reason != nil:
			s.refresher.soon()
		}
	}
}

// node returns the node of address, or nil if the Store is closed or the
// address is malformed.
func (s *Store) node(address string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeLocked(address)
}

func (s *Store) nodeLocked(address string) *node {
	if s.closed {
		return nil
	}
	n := s.nodes[address]
	if n == nil && wellFormed(address) {
		n = s.newNode(address)
		s.nodes[address] = n
	}
	return n
}

// has reports whether n is in use, and not closed because no table names it.
func (s *Store) has(n *node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[n.address] == n
}

// renewRest is the shortest time between two renewals of the node at an address.
const renewRest = 75 * time.Millisecond

// renew replaces n by a new node of the same address, so that the address is dialed
// anew: the connections of n lead to a server that is no longer there. It returns
// the node that is now in use at the address, which is n if it was renewed shortly
// before, or nil if the Store is closed. As with a node that has left, calls in
// progress on n come to their end.
func (s *Store) renew(n *node) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(base)
	switch current := s.nodeLocked(n.address); {
	case current != n:
		return current
	case n.renewed != 0 && now-n.renewed < renewRest:
		return n
	}
	fresh := s.newNode(n.address)
	fresh.renewed = now
	fresh.importing.Store(n.importing.Load())
	s.nodes[n.address] = fresh
	for slot, h := range s.hints {
		if h.to == n {
			s.hints[slot] = hint{fresh, h.at}
		}
	}
	replaced := make(chan struct{})
	defer close(replaced)
	s.closing[n] = true
	s.spawnLocked(func() { <-replaced; s.retire(n) })
	if s.table.Load() != nil {
		s.adopt(func() ([]member, time.Time) { t := s.table.Load(); return t.members, t.begun })
	}
	return fresh
}

// retire closes the stores of n and adds their counts to s.retired.
func (s *Store) retire(n *node) {
	_ = n.store.Close()
	if n.reader != nil {
		_ = n.reader.Close()
	}
	s.mu.Lock()
	delete(s.closing, n)
	s.retired = s.retired.Plus(n.stats())
	s.mu.Unlock()
}

func (n *node) stats() driver.Stats {
	sum := n.store.Stats()
	if n.reader != nil {
		sum = sum.Plus(n.reader.Stats())
	}
	return sum
}

// markUp records that the server answers.
func (n *node) markUp() {
	if n.failingSince.Load() != 0 { // a load, unlike a store, does not slow down other processors
		n.failingSince.Store(0)
	}
}

// markDown records that the server does not answer, and returns the time since
// base at which that began.
func (n *node) markDown() time.Duration {
	now := max(int64(time.Since(base)), 1)
	if n.failingSince.CompareAndSwap(0, now) {
		return time.Duration(now)
	}
	return time.Duration(n.failingSince.Load())
}
