package caches

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/flight"
)

// A load is one computation of a cached function's result: from the miss to the
// entry that is stored, or not.
type load[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	s     *subject
	arg   A
	seen  finding // of the entry, at the miss
	fault error   // in whose place it is, where the entry could not be read

	refresh bool          // by Refresh
	ahead   bool          // before anybody misses it …
	gap     time.Duration // … by so much

	waited atomic.Int64 // nanoseconds, for other processes
}

// A fence is the basis of a result: the result answers a caller only if the token
// and all stamps are still valid. The zero fence is that of a run without the
// server.
type fence struct {
	token  string
	stamps []stamp
}

// flightKey returns the key of the runs that compute the entry. The connection is
// part of it: over the connections of two contexts, two tenants may use one key.
func (s *subject) flightKey() flight.Key {
	return flight.Key{Scope: s.conn, Name: s.front + s.key}
}

// holds returns the function that reports whether the result of a run in progress
// counts for a caller that comes now: the lease under which it is computed and its
// stamps are those of this moment.
func (l *load[A, T]) holds(ctx context.Context) func(fence) bool {
	return func(basis fence) bool {
		if l.fault != nil || basis.token == "" { // a run without the server is for callers that cannot ask it
			return l.fault != nil && basis.token == ""
		}
		t := newTrip(l.s.conn, driver.ReadOnly|driver.Master)
		defer t.free()
		l.s.ask(t, "", sideKey(l.s.front, l.s.key, leaseEnd), false)
		if err := t.run(ctx); err != nil {
			if flight.Ended(ctx) { // the caller's time is up: Do sees it
				return true
			}
			l.fault = l.s.fail(err)
			return false
		}
		lease, _, stamps, err := l.s.answer(t, false)
		return err != nil || tokenOf(lease) == basis.token && slices.Equal(stamps, basis.stamps)
	}
}

// run computes the result, or waits for the process that does.
func (l *load[A, T]) run(ctx context.Context, call *flight.Run[T, fence]) (v T, err error) {
	if l.fault != nil {
		return l.unfenced(ctx, call)
	}
	way, seen := claimOrWait, l.seen.id
	if l.f.opts.Lock < 0 {
		way = claimOrShare
	}
	for first := true; ; first = false {
		look := call.Look()
		c, err := l.claim(ctx, way, seen, first)
		if err != nil {
			return l.refused(ctx, call, err)
		}
		if c.token == "" || c.own && c.id != seen { // another entry than was seen
			if v, err, ok := l.f.recall(c.found); ok {
				if c.own {
					_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
					l.swallow(ctx, fault)
				}
				call.Found(look)
				return v, err
			}
		}
		switch {
		case c.token == "":
			seen = c.id
		case c.own || way == claimOrShare:
			return l.compute(ctx, call, &c.lease, c.finding.stamps)
		case !l.wait(ctx, &c.lease):
			way = claimOrShare
		}
		if ctx.Err() != nil {
			return v, flight.Reason(ctx)
		}
	}
}

// claim claims the entry. Only the first claim of a run is tried by plain
// commands: who has waited expects an entry to be there, and to claim it would
// only keep others from it.
func (l *load[A, T]) claim(ctx context.Context, way, seen string, first bool) (claimed[T], error) {
	ctx = context.WithoutCancel(ctx) // a claim that was broken off might leave a lease behind
	token, lost, life := newToken(tokenRunning), "", l.f.opts.lease()
	if first && way == claimOrWait {
		c, free, err := claimFree[T](ctx, l.s, token, life)
		switch {
		case free, err != nil && !unanswered(ctx, err):
			return c, err
		case err != nil:
			lost, token = token, newToken(tokenRunning)
		}
	}
	return claimEntry[T](ctx, l.s, token, lost, way, seen, life)
}

// refused is the way of a computation whose claim failed.
func (l *load[A, T]) refused(ctx context.Context, call *flight.Run[T, fence], err error) (v T, _ error) {
	if err = l.s.fail(err); !isFault(err) {
		return v, err
	}
	l.swallow(ctx, err)
	return l.unfenced(ctx, call)
}

// wait waits for the process that computes. It is false where that is of no use:
// there will be no result, or nobody to say that there is.
func (l *load[A, T]) wait(ctx context.Context, c *lease) bool {
	begun := time.Now()
	word, err := c.wait(ctx)
	l.waited.Add(int64(time.Since(begun)))
	if err != nil && ctx.Err() == nil {
		if server, ok := errors.AsType[*ServerError](err); !ok || server.Code != "ERR" {
			l.swallow(ctx, l.s.fail(err))
		} // else it is a store of this process, where nobody can wait
	}
	return err == nil && word != wordFailed
}

// unfenced computes without the server: as many at a time as Fallback allows, and
// nothing is kept.
func (l *load[A, T]) unfenced(ctx context.Context, call *flight.Run[T, fence]) (v T, err error) {
	if slots := l.f.fallback; slots != nil && !call.Nested() {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-call.Hurried():
		case <-ctx.Done():
			return v, flight.Reason(ctx)
		}
	}
	if err = call.Begin(fence{}, l.f.opts.lease()); err != nil {
		return v, err
	}
	begun := time.Now()
	v, err = l.f.fn(ctx, l.arg)
	l.report(ctx, time.Since(begun), err, false)
	return v, err
}

// compute runs the function under a lease, and concludes it.
func (l *load[A, T]) compute(ctx context.Context, call *flight.Run[T, fence], c *lease, stamps []stamp) (v T, err error) {
	life := l.f.opts.lease()
	if call != nil {
		if err = call.Begin(fence{c.token, stamps}, life); err != nil {
			_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
			l.swallow(ctx, fault)
			return v, err
		}
	}
	stop := c.renewing(ctx, life)
	returned, begun := false, time.Now()
	defer func() {
		stop()
		if !returned { // by a panic: the next caller must not wait for the lease's end
			_, fault := c.end(ctx, leaveEntry, 0, nil, 0)
			l.swallow(ctx, fault)
		}
	}()
	v, err = l.f.fn(ctx, l.arg)
	took := time.Since(begun)
	if l.f.unguarded {
		if late, err := claimEntry[T](ctx, l.s, c.token, "", claimAlone, "", life); err == nil {
			c, stamps = &late.lease, late.finding.stamps
		}
	}
	v, err = l.conclude(ctx, c, stamps, v, err, took)
	returned = true
	return v, err
}

// conclude keeps a result, or lets go of the lease. That a server could not take
// it is the next caller's loss, not this one's; that it can never be stored is an
// error of the program.
func (l *load[A, T]) conclude(ctx context.Context, c *lease, stamps []stamp, v T, err error, took time.Duration) (T, error) {
	what, data, ms, wrong := l.verdict(ctx, stamps, v, err, took)
	var pause time.Duration
	if l.ahead && what == leaveEntry {
		pause = min(retryPause, l.f.opts.lease())
	}
	held, fault := c.end(ctx, what, pause, data, ms)
	l.report(ctx, took, err, what == keepEntry && fault == nil && !held)
	switch {
	case wrong != nil:
		return v, l.s.fail(wrong)
	case fault == nil:
	case l.refresh && err == nil, !isFault(fault):
		return v, l.s.fail(fault)
	default:
		l.swallow(ctx, l.s.fail(fault))
	}
	return v, err
}

// verdict says what is to become of a result, and as what it is kept.
func (l *load[A, T]) verdict(ctx context.Context, stamps []stamp, v T, err error, took time.Duration) (what string, data []byte, ms int64, wrong error) {
	e := envelope{created: time.Now(), cost: took, stamps: stamps}
	switch {
	case err != nil && l.f.known(err) != nil:
		e.negative = true
		data = []byte(l.f.known(err).Error())
	case err != nil && ctx.Err() != nil:
		return cedeEntry, nil, 0, nil
	case err != nil:
		return leaveEntry, nil, 0, nil
	case l.f.bypasses(l.arg, v) && l.refresh:
		return removeEntry, nil, 0, nil
	case l.f.bypasses(l.arg, v):
		return leaveEntry, nil, 0, nil
	default:
		if data, wrong = l.s.opts.serializer().Marshal(v); wrong != nil {
			return leaveEntry, nil, 0, wrong
		}
	}
	ms = l.f.life(&e, l.s)
	return keepEntry, e.append(nil, l.s.front, l.s.key, data), ms, nil
}

// life says for how long an entry is fresh, and returns for how long it is kept,
// in milliseconds, 0 without end.
func (f *CachedFunc[A, T]) life(e *envelope, s *subject) int64 {
	ms := s.ms
	if e.negative {
		if negative := max(f.opts.Negative.TTL.Milliseconds(), 1); ms == 0 || negative < ms {
			ms = negative
		}
	}
	if s.slide && !e.negative || ms == 0 {
		return ms
	}
	ms = max(ms-int64(f.opts.Jitter*rand.Float64()*float64(ms)), 1)
	e.ttl = time.Duration(ms) * time.Millisecond
	if s.extra > 0 && !e.negative {
		e.kept = true
		ms += s.extra.Milliseconds()
	}
	return ms
}

// known returns which of the errors to remember err is, nil for none.
func (f *CachedFunc[A, T]) known(err error) error {
	for _, known := range f.opts.Negative.Errors {
		if errors.Is(err, known) {
			return known
		}
	}
	return nil
}

// anew is the computation of Refresh: whoever computes loses the lease to it.
func (l *load[A, T]) anew(ctx context.Context) (T, error) {
	c, fault := l.takeOver(ctx)
	key := l.s.flightKey()
	l.f.flight.Forget(key)
	if fault == nil {
		alone, end := l.f.flight.Alone(ctx, key)
		defer end()
		return l.compute(alone, nil, &c.lease, c.finding.stamps)
	}
	begun := time.Now()
	v, err := l.f.fn(ctx, l.arg)
	l.report(ctx, time.Since(begun), err, false)
	if err == nil {
		err = l.s.fail(fault)
	}
	return v, err
}

// takeOver takes the lease from whoever has it. A caller who goes away meanwhile
// leaves it to nobody, once it is there.
func (l *load[A, T]) takeOver(ctx context.Context) (claimed[T], error) {
	var c claimed[T]
	var fault error
	var fell any // what a user's Store panicked with, for the caller
	done, inner := make(chan struct{}), context.WithoutCancel(ctx)
	go func() {
		defer func() {
			fell = recover()
			close(done)
		}()
		c, fault = claimEntry[T](inner, l.s, newToken(tokenRunning), "", claimAlone, "", l.f.opts.lease())
	}()
	select {
	case <-done:
		if fell != nil {
			panic(fell)
		}
		return c, fault
	case <-ctx.Done():
	}
	go func() {
		if <-done; fell == nil && fault == nil {
			l.s.release(inner, c.token)
		}
	}()
	return claimed[T]{}, fmt.Errorf("%w: %w", ErrUnavailable, flight.Reason(ctx))
}

// lookAhead has a result computed in the background that is about to expire, or
// has, and says what the caller is served.
func (f *CachedFunc[A, T]) lookAhead(ctx context.Context, s *subject, arg A, seen found[T]) Result {
	result := seen.hit()
	var gap time.Duration
	reason := seen.reason
	switch {
	case seen.reason == MissExpired:
		result = StaleHit
	case seen.negative || seen.ttl == 0 || f.opts.Early <= 0:
		return result
	default:
		gap, reason = early(seen.cost, f.opts.Early, rand.Float64()), MissEarly
		if gap < seen.ttl-time.Since(seen.created) {
			return result
		}
	}
	l := &load[A, T]{f: f, s: s, arg: arg, seen: seen.finding, ahead: true, gap: gap}
	l.seen.reason = reason
	select {
	case f.early <- struct{}{}:
		if !f.flight.Ahead(ctx, s.flightKey(), f.opts.lease(), l.runAhead) {
			<-f.early
		}
	default: // as many run already; a later caller will come
	}
	return result
}

// early draws by how much before the end a result is computed anew: cost·β·-ln(u),
// u even between 0 and 1. See [CachedOptions.Early].
func early(cost time.Duration, beta, u float64) time.Duration {
	return time.Duration(min(float64(cost)*beta*-math.Log(1-u), math.MaxInt64/2))
}

// clockSlack is by how much the server's count of what is left may differ from
// ours, for the time that commands travel.
const clockSlack = 20 * time.Millisecond

// runAhead computes a result before anybody misses it, unless another process is
// at it. Our clock may differ from that of whoever stored the entry: what is left
// by the server's own is what counts.
func (l *load[A, T]) runAhead(ctx context.Context, call *flight.Run[T, fence]) (v T, err error) {
	defer func() {
		if r := recover(); r != nil { // nobody waits whom it could reach
			l.swallow(ctx, flight.Caught(r))
		}
		<-l.f.early
	}()
	c, err := claimEntry[T](ctx, l.s, newToken(tokenRunning), "", claimOrShare, l.seen.id, l.f.opts.lease())
	switch {
	case err != nil:
		l.swallow(ctx, l.s.fail(err))
		return v, err
	case !c.own:
		return v, nil
	case c.left-l.s.extra > l.gap+clockSlack:
		_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
		l.swallow(ctx, fault)
		return v, nil
	}
	return l.compute(ctx, call, &c.lease, c.finding.stamps)
}

// swallow counts a fault, in spite of which callers are served, and tells of it.
func (l *load[A, T]) swallow(ctx context.Context, fault error) {
	if fault == nil {
		return
	}
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.add(countSwallowed, 1)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Swallowed = l.f.label(), fault
		w.failed(ctx, c)
	}
}

// report counts a run of the function, and tells of it.
func (l *load[A, T]) report(ctx context.Context, took time.Duration, err error, dropped bool) {
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.load(took, err, dropped)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Result, c.Reason, c.Tag = l.f.label(), Miss, l.seen.reason, l.seen.tag
		c.Ran, c.Waited, c.Dropped, c.Err = took, time.Duration(l.waited.Load()), dropped, err
		w.loaded(ctx, c)
	}
}
