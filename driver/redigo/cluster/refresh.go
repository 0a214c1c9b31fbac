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
	// refreshEvery is the shortest time between the starts of two refreshes.
	refreshEvery = 100 * time.Millisecond
	// calmFor is the longest time without a refresh; the shortest is half of it.
	calmFor = 20 * time.Second
	// eventEvery is the shortest time from one refresh to the next one because of the
	// state of a connection: a server that drops each connection is asked no more often.
	eventEvery = time.Second
	// nextAfter is the time servers have to answer before more are asked too, so
	// that hanging servers do not delay the refresh.
	nextAfter = 100 * time.Millisecond
)

// A refresher keeps the table of slots up to date by asking the servers.
type refresher struct {
	s    *Store
	calm time.Duration // calmFor, except in tests

	mu      sync.Mutex
	current *refresh    // in progress or about to start; nil if none
	last    *refresh    // the last one finished; nil before the first
	timer   *time.Timer // asks for the next one, without a goroutine; nil before the first
	early   bool        // a connection was lost or made again during current
	stopped bool        // the Store is closed
}

// A refresh is one round of questions. Any number of calls wait for it.
type refresh struct {
	begun time.Time // read only after done is closed
	err   error     // the reason for not having a new table; read only after done is closed
	done  chan struct{}
}

// ask returns the refresh in progress, starting one if necessary, without
// waiting for it. It returns nil if the Store is closed.
func (r *refresher) ask() *refresh {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		return r.current
	}
	var after time.Duration
	if r.last != nil {
		after = time.Until(r.last.begun.Add(refreshEvery))
	}
	f := &refresh{done: make(chan struct{})}
	if !r.s.spawn(func() { r.run(f, after) }) {
		return nil
	}
	r.current = f
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
	r.current, r.last = nil, f
	if r.schedule(r.calm/2 + rand.N(r.calm/2)); r.early {
		r.soonLocked()
	}
	r.mu.Unlock()
	close(f.done)
}

// schedule sets the time of the next refresh; a call may ask for one earlier. The
// caller holds mu.
func (r *refresher) schedule(after time.Duration) {
	if r.stopped {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = time.AfterFunc(after, func() { r.ask() })
}

// soon asks for a refresh because of the state of a connection. It does not wait, and
// may be called by any goroutine that does not hold the mu of the Store.
func (r *refresher) soon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.soonLocked()
}

func (r *refresher) soonLocked() {
	if r.early = r.current != nil; !r.early && r.last != nil {
		r.schedule(time.Until(r.last.begun.Add(eventEvery)))
	}
}

// stop ends the refreshes that no call asks for.
func (r *refresher) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped = true; r.timer != nil {
		r.timer.Stop()
	}
}

// since reports whether a refresh that began after t, a time since base, has
// finished.
func (r *refresher) since(t time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last != nil && r.last.begun.Sub(base) > t
}

// wait waits until enough reports true or until a refresh that began after t
// has finished. It returns the error of that refresh or of ctx.
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

// sleep waits for d. It reports false if ctx is done before.
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

// An inquiry is the state of a running refresh.
type inquiry struct {
	s       *Store
	ctx     context.Context
	waves   [][]string  // addresses not asked yet; the ones of a wave are asked side by side
	answers chan answer // has room for all answers: the refresh may end before they come
	pending int
	best    answer
	errs    []error
	asking  sync.WaitGroup
}

// An answer is one server's description of the cluster.
type answer struct {
	members []member
	slots   int // number of slots that have a server
	err     error
}

// refresh asks the servers, in waves, until an answer covers every slot. If none
// does, it uses the answer that covers the most.
func (s *Store) refresh(begun time.Time) error {
	ctx, cancel := context.WithTimeout(s.ctx, 2*s.timeout)
	waves := s.askOrder()
	r := inquiry{s: s, ctx: ctx, waves: waves, answers: make(chan answer, len(slices.Concat(waves...)))}
	for r.best.slots < slotCount && (r.pending > 0 || len(r.waves) > 0) {
		r.askWave()
		if !r.listen() {
			break
		}
	}
	cancel() // give up on servers that have not answered
	r.asking.Wait()
	if r.best.slots == 0 {
		return fmt.Errorf("no server reported the slots of the cluster: %w", errors.Join(r.errs...))
	}
	s.install(r.best.members, begun)
	return nil
}

// askWave asks the servers of the next wave, if there is one.
func (r *inquiry) askWave() {
	if len(r.waves) == 0 {
		return
	}
	for _, address := range r.waves[0] {
		r.pending++
		r.asking.Go(func() { r.answers <- r.s.askServer(r.ctx, address) })
	}
	r.waves = r.waves[1:]
}

// listen waits for an answer, or until it is time for another wave. It reports false if waiting for more answers is pointless.
func (r *inquiry) listen() bool {
	var late <-chan time.Time
	if len(r.waves) > 0 || r.best.slots > 0 {
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
		return len(r.waves) > 0
	case <-r.ctx.Done():
		return false
	}
}

// askServer asks the server at address.
func (s *Store) askServer(ctx context.Context, address string) (a answer) {
	n := s.node(address)
	if n == nil {
		return answer{err: errClosed}
	}
	host, _, _ := net.SplitHostPort(address)
	from := describer{host: host, tls: s.tls}
	a.members, a.err = n.ask(ctx, "SHARDS", from.shards)
	if a.slots = covered(a.members); a.slots > 0 || isMissing(a.err) {
		return a
	}
	// The server or the user lacks CLUSTER SHARDS, or has another form of it.
	shards := a.err
	if a.members, a.err = n.ask(ctx, "SLOTS", from.slots); a.err != nil {
		a.err = errors.Join(shards, a.err)
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

// isMissing reports whether the server gave no answer at all, not even one that is
// malformed or a refusal.
func isMissing(err error) bool { return isUnavailable(err) || isUnknown(err) }

// askOrder returns the addresses to ask, in waves: one master, which is usually
// enough, then all seeds that are no known server, then the other known servers,
// two, four, … at a time. If a master is failing, or none is known, the seeds are
// asked at once: all known servers may be gone. Each group is in random order, so
// that a server with less knowledge is not preferred every time; servers that are
// failing come last.
func (s *Store) askOrder() (waves [][]string) {
	masters, failing, others := s.known()
	var seeds []string
	for _, seed := range s.seeds {
		if !slices.Contains(slices.Concat(masters, failing, others), seed) {
			seeds = append(seeds, seed)
		}
	}
	for _, part := range [][]string{masters, failing, others} {
		rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	rest := slices.Concat(masters, others, failing)
	first := min(1, len(masters))
	if first == 0 || len(failing) > 0 {
		waves = append(waves, slices.Concat(rest[:first], seeds))
	} else {
		waves = append(waves, rest[:first], seeds)
	}
	rest = rest[first:]
	for size := 2; len(rest) > 0; size *= 2 {
		size = min(size, len(rest))
		waves, rest = append(waves, rest[:size]), rest[size:]
	}
	return slices.DeleteFunc(waves, func(wave []string) bool { return len(wave) == 0 })
}

// known returns the addresses of the masters of the table, the ones of them that are
// failing, and the other servers.
func (s *Store) known() (masters, failing, others []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.table.Load(); t != nil {
		for _, sh := range t.shards {
			if sh.master.failingSince.Load() == 0 {
				masters = append(masters, sh.master.address)
			} else {
				failing = append(failing, sh.master.address)
			}
		}
	}
	for address := range s.nodes {
		if !slices.Contains(masters, address) && !slices.Contains(failing, address) {
			others = append(others, address)
		}
	}
	return masters, failing, others
}
