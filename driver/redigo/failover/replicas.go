package failover

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/internal/resp"
)

// replicas are the replicas to read from. Each has a Store, which verifies on
// each dial that the replica is linked to its master.
type replicas struct {
	node redigo.Config

	usable atomic.Pointer[[]*redigo.Store]
	turn   atomic.Uint32

	mu       sync.Mutex
	all      map[string]*redigo.Store // by address
	retired  driver.Stats             // counts of closed Stores
	closed   bool
	retiring sync.WaitGroup // counts Stores being closed
}

// newReplicas gives a read half of its timeout at the replica. The other half
// is left for the master.
func newReplicas(c *Config, timeout time.Duration) *replicas {
	r := &replicas{node: c.Node, all: make(map[string]*redigo.Store)}
	r.node.Role, r.node.Timeout, r.node.OnState = redigo.Replica, timeout/2, nil
	r.node.Refusals = true // the master can be asked instead
	return r
}

// next returns each replica in turn, or nil if there is none.
func (r *replicas) next() *redigo.Store {
	usable := r.usable.Load()
	if usable == nil || len(*usable) == 0 {
		return nil
	}
	return (*usable)[r.turn.Add(1)%uint32(len(*usable))]
}

// set replaces the replicas to read from, and closes the Stores of others.
func (r *replicas) set(addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	// set is called every second. Replicas that stay keep their Stores, with their
	// connections and circuit breakers.
	var usable []*redigo.Store
	for _, address := range addresses {
		if s := r.open(address); s != nil {
			usable = append(usable, s)
		}
	}
	r.usable.Store(&usable)
	for address, s := range r.all {
		if !slices.Contains(addresses, address) {
			delete(r.all, address)
			r.retire(s)
		}
	}
}

// open returns the Store of a replica. The caller holds mu.
func (r *replicas) open(address string) *redigo.Store {
	if s := r.all[address]; s != nil {
		return s
	}
	node := r.node // its Role rejects servers that are no longer replicas
	node.Address = address
	s, err := redigo.Open(node)
	if err != nil {
		return nil // a Sentinel named a malformed address
	}
	r.all[address] = s
	return s
}

// retire closes s without waiting for its calls, which then go to the master.
// The caller holds mu.
func (r *replicas) retire(s *redigo.Store) {
	r.retiring.Go(func() {
		_ = s.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.retired = r.retired.Plus(s.Stats())
	})
}

func (r *replicas) stats() driver.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := r.retired
	for _, s := range r.all {
		sum = sum.Plus(s.Stats())
	}
	return sum
}

func (r *replicas) close() {
	r.set(nil)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.retiring.Wait()
}

// replicaFor returns the replica to answer p, or nil if p needs the master.
func (s *Store) replicaFor(p *driver.Pipeline) *redigo.Store {
	const decides = driver.ReadOnly | driver.Own | driver.Master
	if s.replicas == nil || p.Mode()&decides != driver.ReadOnly {
		return nil
	}
	for i := range p.Len() {
		// A command without a key asks about the server (PING, DBSIZE) or scans it.
		if p.FirstKey(i) == nil || strings.HasSuffix(p.Name(i), "SCAN") {
			return nil
		}
	}
	return s.replicas.next()
}

// A reading is a call sent to a replica first.
type reading struct {
	driver.Pending // the call at the replica

	s           *Store
	ctx         context.Context // the caller's
	p           *driver.Pipeline
	deadline    time.Time          // of the whole call
	cancelShare context.CancelFunc // cancels the replica's context; nil if it has none of its own
}

// read begins a call at a replica.
func (s *Store) read(ctx context.Context, at *redigo.Store, p *driver.Pipeline) *reading {
	r := &reading{s: s, ctx: ctx, p: p, deadline: time.Now().Add(s.timeout)}
	// The replica's Store already has half the timeout. Only an earlier deadline
	// of the caller needs a context, and so a timer, for its half.
	if end, ok := ctx.Deadline(); ok && end.Before(r.deadline) {
		r.deadline = end
		ctx, r.cancelShare = context.WithDeadline(ctx, end.Add(-time.Until(end)/2))
	}
	r.Pending = at.Start(ctx, p)
	return r
}

// Finish ends the call, at the master if the replica failed. Asking twice is
// harmless, because the call only reads.
func (r *reading) Finish() error {
	err := r.Pending.Finish()
	if r.cancelShare != nil {
		r.cancelShare()
	}
	if err == nil && !(*resp.Replies)(r.p.Replies()).Failed() {
		return nil
	}
	// An error reply counts as a failure too: the replica may be loading, without
	// its master, or the only server to refuse. The master's reply decides.
	r.p.ResetReplies()
	ctx, cancel := context.WithDeadline(r.ctx, r.deadline)
	defer cancel()
	return r.s.node.Do(ctx, r.p)
}
