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
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/tally"
	"github.com/gocaches/caches/internal/trip"
)

// A load is one computation of a cached function's result, from the miss until the
// entry is stored or given up.
type load[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	s     *subject
	arg   A
	seen  finding // about the entry, at the miss
	fault error   // why the entry could not be read; the load runs without the server

	refresh bool          // the load is a Refresh
	ahead   bool          // it runs in the background, before a miss …
	gap     time.Duration // … at most this long before the result expires

	waited atomic.Int64 // nanoseconds spent waiting for other processes
}

// A fence is the basis of a result: the result answers a caller only if the token
// and all stamps are still valid. The zero fence is that of a run without the
// server.
type fence struct {
	token  string
	stamps []layout.Stamp
}

// flightKey returns the key of the runs that compute the entry. The connection is
// part of it: over the connections of two contexts, two tenants may use one key.
func (s *subject) flightKey() flight.Key {
	return flight.Key{Scope: s.conn, Name: s.front + s.key}
}

// holds returns a function that reports whether the result of a run in progress
// answers a caller that comes now. It does if the lease and the stamps of the run
// are still the current ones.
func (l *load[A, T]) holds(ctx context.Context) func(fence) bool {
	return func(basis fence) bool {
		if l.fault != nil || basis.token == "" { // a run without the server is for callers that cannot ask it
			return l.fault != nil && basis.token == ""
		}
		t := trip.New(len(l.s.conn.shards), driver.ReadOnly|driver.Master)
		defer t.Free()
		l.s.ask(t, "", layout.Lease(l.s.front, l.s.key), false)
		if err := t.Run(ctx, l.s.conn.doEach); err != nil {
			if flight.Ended(ctx) { // the caller's context has ended: Do sees it
				return true
			}
			l.fault = l.s.fail(err)
			return false
		}
		lease, _, stamps, err := l.s.answer(t, false)
		return err != nil || layout.TokenOf(lease) == basis.token && slices.Equal(stamps, basis.stamps)
	}
}

// run computes the result, or waits for the process that computes it.
func (l *load[A, T]) run(ctx context.Context, call *flight.Run[T, fence]) (v T, err error) {
	if l.fault != nil {
		return l.unfenced(ctx, call)
	}
	way, seen := claimOrWait, l.seen.id
	if l.f.opts.Lease < 0 {
		way = claimOrShare
	}
	for first := true; ; first = false {
		look := call.Look()
		c, err := l.claim(ctx, way, seen, first)
		if err != nil {
			return l.refused(ctx, call, err)
		}
		if c.token == "" || c.own && c.id != seen { // the entry is not the one seen
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

// claim claims the entry. Only the first claim of a run tries plain commands. After
// a wait, an entry is likely to be there, and a claim by plain commands would only
// keep other callers from it.
func (l *load[A, T]) claim(ctx context.Context, way claimWay, seen string, first bool) (claimed[T], error) {
	ctx = context.WithoutCancel(ctx) // an interrupted claim might leave a lease behind
	r := claimRequest{way: way, token: layout.NewToken(layout.TokenRunning), seen: seen, life: l.f.opts.lease()}
	if first && way == claimOrWait {
		c, free, err := claimFree[T](ctx, l.s, r.token, r.life)
		switch {
		case free, err != nil && !unanswered(ctx, err):
			return c, err
		case err != nil:
			r.lost, r.token = r.token, layout.NewToken(layout.TokenRunning)
		}
	}
	return claimEntry[T](ctx, l.s, r)
}

// refused answers a call after its claim has failed.
func (l *load[A, T]) refused(ctx context.Context, call *flight.Run[T, fence], err error) (v T, _ error) {
	if err = l.s.fail(err); !isFault(err) {
		return v, err
	}
	l.swallow(ctx, err)
	return l.unfenced(ctx, call)
}

// wait waits for the process that computes the result. It returns false if waiting
// is of no use: that process has no result, or the server cannot report one.
func (l *load[A, T]) wait(ctx context.Context, c *lease) bool {
	begun := time.Now()
	word, err := c.wait(ctx)
	l.waited.Add(int64(time.Since(begun)))
	if err != nil && ctx.Err() == nil {
		if server, ok := errors.AsType[*ServerError](err); !ok || server.Code != "ERR" {
			l.swallow(ctx, l.s.fail(err))
		} // otherwise it is a store in this process, which cannot wait
	}
	return err == nil && word != wordFailed
}

// unfenced computes without the server, at most Fallback runs at a time, and stores
// nothing.
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

// compute runs the function under a lease, then concludes the lease.
func (l *load[A, T]) compute(ctx context.Context, call *flight.Run[T, fence], c *lease, stamps []layout.Stamp) (v T, err error) {
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
		if !returned { // by a panic: the next caller must not wait until the lease expires
			_, fault := c.end(ctx, leaveEntry, 0, nil, 0)
			l.swallow(ctx, fault)
		}
	}()
	v, err = l.f.fn(ctx, l.arg)
	took := time.Since(begun)
	v, err = l.conclude(ctx, c, stamps, v, err, took)
	returned = true
	return v, err
}

// conclude stores a result or releases the lease. A server that cannot store it
// costs the next caller, not this one. A result that can never be stored is an
// error of the program.
func (l *load[A, T]) conclude(ctx context.Context, c *lease, stamps []layout.Stamp, v T, err error, took time.Duration) (T, error) {
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

// verdict returns the mode in which the lease ends and, for keepEntry, the entry
// and its life in milliseconds. wrong is the error of a result that does not
// serialize.
func (l *load[A, T]) verdict(ctx context.Context, stamps []layout.Stamp, v T, err error, took time.Duration) (what ending, data []byte, ms int64, wrong error) {
	e := layout.Entry{Created: time.Now(), Cost: took, Stamps: stamps}
	switch {
	case err != nil && l.f.known(err) != nil:
		e.Negative = true
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
		if data, wrong = l.s.opts.serializerAt(l.s.front, l.s.key).Marshal(v); wrong != nil {
			return leaveEntry, nil, 0, wrong
		}
	}
	ms = l.f.life(&e, l.s)
	return keepEntry, e.Append(nil, l.s.front, l.s.key, data), ms, nil
}

// life sets the time for which an entry is fresh, and returns the time for which it
// is stored, in milliseconds; 0 means for ever.
func (f *CachedFunc[A, T]) life(e *layout.Entry, s *subject) int64 {
	ms := s.ms
	if e.Negative {
		if negative := max(f.opts.Negative.TTL.Milliseconds(), 1); ms == 0 || negative < ms {
			ms = negative
		}
	}
	if s.slide && !e.Negative || ms == 0 {
		return ms
	}
	ms = max(ms-int64(f.opts.Jitter*rand.Float64()*float64(ms)), 1)
	e.TTL = time.Duration(ms) * time.Millisecond
	if s.extra > 0 && !e.Negative {
		e.Kept = true
		ms += s.extra.Milliseconds()
	}
	return ms
}

// known returns the element of Negative.Errors that err matches, or nil.
func (f *CachedFunc[A, T]) known(err error) error {
	for _, known := range f.opts.Negative.Errors {
		if errors.Is(err, known) {
			return known
		}
	}
	return nil
}

// anew is the computation of Refresh: it takes the lease from a computation in
// progress.
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

// takeOver takes the lease, also from another holder. If the caller's context ends
// meanwhile, the lease is released as soon as it has been claimed.
func (l *load[A, T]) takeOver(ctx context.Context) (claimed[T], error) {
	var c claimed[T]
	var fault error
	var fell any // the panic value of a user's Store, for the caller
	done, inner := make(chan struct{}), context.WithoutCancel(ctx)
	go func() {
		defer func() {
			fell = recover()
			close(done)
		}()
		c, fault = claimEntry[T](inner, l.s, claimRequest{way: claimAlone, token: layout.NewToken(layout.TokenRunning), life: l.f.opts.lease()})
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

// lookAhead starts a computation in the background if the result is about to expire
// or has expired, and returns the kind of result that the caller is served.
func (f *CachedFunc[A, T]) lookAhead(ctx context.Context, s *subject, arg A, seen found[T]) Lookup {
	result := seen.hit()
	var gap time.Duration
	reason := seen.reason
	switch {
	case seen.reason == MissExpired:
		result = LookupStale
	case seen.Negative || seen.TTL == 0 || f.opts.Early <= 0:
		return result
	default:
		gap, reason = early(seen.Cost, f.opts.Early, rand.Float64()), MissEarly
		if gap < seen.TTL-time.Since(seen.Created) {
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
	default: // all slots are taken; a later caller tries again
	}
	return result
}

// early draws how long before its expiry a result is computed again: cost·β·-ln(u),
// u even between 0 and 1. See [CachedOptions.Early].
func early(cost time.Duration, beta, u float64) time.Duration {
	return time.Duration(min(float64(cost)*beta*-math.Log(1-u), math.MaxInt64/2))
}

// clockSlack is the allowed difference between the remaining life of an entry by
// the server's clock and by ours, for the time that commands travel.
const clockSlack = 20 * time.Millisecond

// runAhead computes a result before a caller misses it, unless another process
// already does. Our clock may differ from the clock of the process that stored the
// entry, so only the remaining life reported by the server counts.
func (l *load[A, T]) runAhead(ctx context.Context, call *flight.Run[T, fence]) (v T, err error) {
	defer func() {
		if r := recover(); r != nil { // no caller waits for it
			l.swallow(ctx, flight.Caught(r))
		}
		<-l.f.early
	}()
	c, err := claimEntry[T](ctx, l.s, claimRequest{way: claimOrShare, token: layout.NewToken(layout.TokenRunning), seen: l.seen.id, life: l.f.opts.lease()})
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

// swallow counts a fault that callers do not see, and reports it to hooks.
func (l *load[A, T]) swallow(ctx context.Context, fault error) {
	if fault == nil {
		return
	}
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.Add(tally.Swallowed, 1)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Swallowed = l.f.label(), fault
		w.failed(ctx, c)
	}
}

// report counts a run of the function and reports it to hooks.
func (l *load[A, T]) report(ctx context.Context, took time.Duration, err error, dropped bool) {
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.Loaded(took, err != nil, dropped)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Lookup, c.Reason, c.Tag = l.f.label(), LookupMiss, l.seen.reason, l.seen.tag
		c.Ran, c.Waited, c.Dropped, c.Err = took, time.Duration(l.waited.Load()), dropped, err
		w.loaded(ctx, c)
	}
}
