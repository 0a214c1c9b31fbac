package cluster

import (
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A node is one server. It is there from the time that somebody names it until
// no table does: then it is closed, and calls that still go there are turned
// away with nothing written, and look again who has their slot.
type node struct {
	address string
	store   *redigo.Store
	reader  *redigo.Store // over connections that have said READONLY; nil without ReadReplicas

	// failed is when the first call failed since one went well, in nanoseconds
	// after base; 0 where none has. See call.settle.
	failed atomic.Int64
	// asked says that a call was sent here by ASK: there are keys here, whether
	// or not a slot is.
	asked atomic.Bool
}

// base is what times are counted from: to ask how long ago it was costs half of
// what it costs to ask for the time.
var base = time.Now()

func (s *Store) newNode(address string) *node {
	n := &node{address: address, store: s.open(address, false)}
	if s.replicas {
		n.reader = s.open(address, true)
	}
	return n
}

// node returns the server at an address, nil where the Store is closed or the
// address is none.
func (s *Store) node(address string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeLocked(address)
}

func (s *Store) nodeLocked(address string) *node {
	if s.ended {
		return nil
	}
	n := s.nodes[address]
	if n == nil && wellFormed(address) {
		n = s.newNode(address)
		s.nodes[address] = n
	}
	return n
}

// retire closes the stores of a node, and keeps its counts.
func (s *Store) retire(n *node) {
	_ = n.store.Close()
	if n.reader != nil {
		_ = n.reader.Close()
	}
	s.mu.Lock()
	delete(s.leaving, n)
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

// well notes that the server answers.
func (n *node) well() {
	if n.failed.Load() != 0 { // a read costs those on other processors nothing
		n.failed.Store(0)
	}
}

// ill notes that it does not, and returns since when.
func (n *node) ill() time.Duration {
	now := max(int64(time.Since(base)), 1)
	if n.failed.CompareAndSwap(0, now) {
		return time.Duration(now)
	}
	return time.Duration(n.failed.Load())
}
