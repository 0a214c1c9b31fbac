package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// refreshEvery is the least time from one refresh of the table to the next.
	refreshEvery = 100 * time.Millisecond
	// nextAfter is how long a server may take to answer before another one is
	// asked as well: one that hangs must not hold the others up.
	nextAfter = 100 * time.Millisecond
)

// A refresher has the servers asked who has which slot.
type refresher struct {
	s *Store

	mu    sync.Mutex
	under *refresh // that is under way, or about to be
	last  *refresh // that has ended; nil before the first
}

// A refresh is one round of asking, which any number of calls wait for.
type refresh struct {
	begun time.Time // read after done is closed
	err   error     // so is this: why there is no new table
	done  chan struct{}
}

// ask begins a refresh, or joins the one that is under way, and does not wait.
// It is nil where the Store is closed.
func (r *refresher) ask() *refresh {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.under != nil {
		return r.under
	}
	var after time.Duration
	if r.last != nil {
		after = time.Until(r.last.begun.Add(refreshEvery))
	}
	f := &refresh{done: make(chan struct{})}
	if !r.s.spawn(func() { r.run(f, after) }) {
		return nil
	}
	r.under = f
	return f
}

func (r *refresher) run(f *refresh, after time.Duration) {
	if sleep(r.s.ctx, after) {
		f.begun = time.Now()
		f.err = r.s.refresh(f.begun)
	} else {
		f.begun, f.err = time.Now(), errClosed
	}
	r.mu.Lock()
	r.under, r.last = nil, f
	r.mu.Unlock()
	close(f.done)
}

// since reports whether a refresh has ended that began after t, which is counted
// from base.
func (r *refresher) since(t time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last != nil && r.last.begun.Sub(base) > t
}

// wait waits until enough says so, or until a refresh has ended that began after
// t, whose error it returns, or that of ctx.
func (r *refresher) wait(ctx context.Context, t time.Duration, enough func() bool) error {
	for !enough() {
		f := r.ask()
		if f == nil {
			return errClosed
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.begun.Sub(base) > t {
			return f.err
		}
	}
	return nil
}

// sleep waits; it is false where ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A round is the asking of a refresh.
type round struct {
	s       *Store
	ctx     context.Context
	queue   []string    // addresses of those that have not been asked
	answers chan answer // has room for all: perhaps nobody is left to take them
	pending int
	best    answer
	errs    []error
}

// An answer is what one server says of the cluster.
type answer struct {
	members []member
	slots   int // that they have between them
	err     error
}

// refresh asks one server after the other until one knows who has every slot;
// where none does, it takes the answer that knows the most.
func (s *Store) refresh(begun time.Time) error {
	ctx, cancel := context.WithTimeout(s.ctx, 2*s.timeout)
	queue := s.whomToAsk()
	r := round{s: s, ctx: ctx, queue: queue, answers: make(chan answer, len(queue))}
	var asking sync.WaitGroup
	for r.best.slots < slotCount && (r.pending > 0 || len(r.queue) > 0) {
		if len(r.queue) > 0 {
			address := r.queue[0]
			r.queue = r.queue[1:]
			r.pending++
			asking.Go(func() { r.answers <- s.question(ctx, address) })
		}
		if !r.listen() {
			break
		}
	}
	cancel() // those that were too slow
	asking.Wait()
	if r.best.slots == 0 {
		return fmt.Errorf("no server says who has which slot: %w", errors.Join(r.errs...))
	}
	s.install(r.best.members, begun)
	return nil
}

// listen waits for an answer, or until another server is to be asked beside. It
// is false where what has come is all that is waited for.
func (r *round) listen() bool {
	var late <-chan time.Time
	if len(r.queue) > 0 || r.best.slots > 0 {
		timer := time.NewTimer(nextAfter)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case a := <-r.answers:
		r.pending--
		if a.err != nil {
			r.errs = append(r.errs, a.err)
		}
		if a.slots > r.best.slots {
			r.best = a
		}
		return true
	case <-late:
		return len(r.queue) > 0
	case <-r.ctx.Done():
		return false
	}
}

// question asks one server.
func (s *Store) question(ctx context.Context, address string) (a answer) {
	n := s.node(address)
	if n == nil {
		return answer{err: errClosed}
	}
	host, _, _ := net.SplitHostPort(address)
	from := asked{host: host, tls: s.tls}
	if a.members, a.err = n.ask(ctx, "SHARDS", from.shards); isRefused(a.err) {
		a.members, a.err = n.ask(ctx, "SLOTS", from.slots)
	}
	a.slots = covered(a.members)
	return a
}

func (n *node) ask(ctx context.Context, what string, read func(driver.Reply) ([]member, error)) ([]member, error) {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.Cmd("CLUSTER").String(what)
	if err := n.store.Do(ctx, p); err != nil {
		return nil, err
	}
	members, err := read(p.Next())
	if err != nil {
		return nil, fmt.Errorf("CLUSTER %s at %s: %w", what, n.address, err)
	}
	return members, nil
}

// isRefused reports whether the server has answered by an error.
func isRefused(err error) bool {
	_, ok := errors.AsType[*driver.ServerError](err)
	return ok && !errors.Is(err, driver.ErrUnavailable)
}

// whomToAsk returns the addresses of the masters, those of the other servers
// that are known, and those of the seeds that are not among them: each in
// random order, so that one that knows less has the word no longer than others.
func (s *Store) whomToAsk() []string {
	var masters, others, seeds []string
	s.mu.Lock()
	if t := s.table.Load(); t != nil {
		for _, sh := range t.shards {
			masters = append(masters, sh.master.address)
		}
	}
	for address := range s.nodes {
		if !slices.Contains(masters, address) {
			others = append(others, address)
		}
	}
	s.mu.Unlock()
	for _, seed := range s.seeds {
		if !slices.Contains(masters, seed) && !slices.Contains(others, seed) {
			seeds = append(seeds, seed)
		}
	}
	for _, part := range [][]string{masters, others, seeds} {
		rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	return slices.Concat(masters, others, seeds)
}
