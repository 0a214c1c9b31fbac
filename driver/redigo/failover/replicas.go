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
)

// replicas are those that may be read from, each a Store of its own, which
// checks at each dial that it is in touch with its master.
type replicas struct {
	node redigo.Config

	usable atomic.Pointer[[]*redigo.Store]
	turn   atomic.Uint32

	mu     sync.Mutex
	all    map[string]*redigo.Store // by address
	past   driver.Stats             // of those that are closed
	closed bool
	ending sync.WaitGroup // of Stores that are being closed
}

// newReplicas leaves a read half of its time at a replica: the other half is for
// the master.
func newReplicas(c *Config, timeout time.Duration) *replicas {
	r := &replicas{node: c.Node, all: make(map[string]*redigo.Store)}
	r.node.Role, r.node.Timeout, r.node.OnState = redigo.Replica, timeout/2, nil
	r.node.Refusals = true // the master can be asked at once
	return r
}

// next returns the replica whose turn it is, nil where there is none.
func (r *replicas) next() *redigo.Store {
	usable := r.usable.Load()
	if usable == nil || len(*usable) == 0 {
		return nil
	}
	return (*usable)[r.turn.Add(1)%uint32(len(*usable))]
}

// set makes those at the given addresses the ones to read from, and closes the
// others.
func (r *replicas) set(addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	// Those that stay keep their Stores, and so their connections and breakers:
	// the list comes again every second.
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
			r.end(s)
		}
	}
}

// open returns the Store of a replica. It is called with mu held.
func (r *replicas) open(address string) *redigo.Store {
	if s := r.all[address]; s != nil {
		return s
	}
	node := r.node // its Role makes sure that no former replica is read from
	node.Address = address
	s, err := redigo.Open(node)
	if err != nil {
		return nil // the address is none: a Sentinel was told to announce such
	}
	r.all[address] = s
	return s
}

// end closes a Store without waiting for its calls, which go to the master then.
// It is called with mu held.
func (r *replicas) end(s *redigo.Store) {
	r.ending.Go(func() {
		_ = s.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.past = r.past.Plus(s.Stats())
	})
}

func (r *replicas) stats() driver.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := r.past
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
	r.ending.Wait()
}

// replicaFor returns the replica that may answer p, nil where none may.
func (s *Store) replicaFor(p *driver.Pipeline) *redigo.Store {
	const decides = driver.ReadOnly | driver.Own | driver.Master
	if s.replicas == nil || p.Mode()&decides != driver.ReadOnly {
		return nil
	}
	for i := range p.Len() {
		// What has no key asks about the server (PING, DBSIZE), or walks over it.
		if p.FirstKey(i) == nil || strings.HasSuffix(p.Name(i), "SCAN") {
			return nil
		}
	}
	return s.replicas.next()
}

// A reading is a call that a replica was asked to answer.
type reading struct {
	driver.Pending // at the replica

	s     *Store
	ctx   context.Context // the caller's
	p     *driver.Pipeline
	end   time.Time          // of the call
	spare context.CancelFunc // of the replica's part of the time; nil where that needs none
}

// read begins a call at a replica.
func (s *Store) read(ctx context.Context, at *redigo.Store, p *driver.Pipeline) *reading {
	r := &reading{s: s, ctx: ctx, p: p, end: time.Now().Add(s.timeout)}
	// The replica's own timeout is half of a call's. A nearer deadline of the
	// caller's is halved here: only those calls pay for a timer.
	if end, ok := ctx.Deadline(); ok && end.Before(r.end) {
		r.end = end
		ctx, r.spare = context.WithDeadline(ctx, end.Add(-time.Until(end)/2))
	}
	r.Pending = at.Start(ctx, p)
	return r
}

// Finish ends the call, at the master where the replica was of no use: all that
// was asked of it was to read.
func (r *reading) Finish() error {
	err := r.Pending.Finish()
	if r.spare != nil {
		r.spare()
	}
	if err == nil && !r.p.Replies().Failed() {
		return nil
	}
	// An error reply as well: the replica may be loading, or without its master,
	// or be the only one that refuses; what the master says is what counts.
	r.p.ResetReplies()
	ctx, cancel := context.WithDeadline(r.ctx, r.end)
	defer cancel()
	return r.s.node.Do(ctx, r.p)
}
