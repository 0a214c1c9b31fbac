// Package flight joins the callers of one key in a process: the first caller
// starts a run, the others wait for its result. It knows nothing of caches. The
// caller of a [Group] says on what basis a run computes its result, and whether
// that basis still holds for a caller that comes later.
//
// # A run
//
// A run is on its own goroutine and belongs to no caller. A table of its states:
//
//	state      callers  timer     next
//	joined     ≥ 1      none      abandoned, when the last caller leaves; done, when the function returns
//	abandoned  0        running   joined, by the next caller; canceled, when the grace is over; done
//	canceled   0        expired   done
//	done       ≥ 0      none      the callers that still wait take the result
//
// Do starts a run as joined, Ahead as abandoned. The grace is zero until the
// function calls [Run.Begin], so a run that still prepares ends with its last
// caller. Beside its state a run is listed under its key or not: it is from its
// start until it is done, it is forgotten, its basis no longer holds for a
// caller, or another run takes the place of a canceled one.
//
// # Invariants
//
//  1. A key has one listed run at most, and only a listed run is joined.
//  2. The context of a run carries the values of the caller that started it, but
//     not its end. It is canceled when the run is done or has been abandoned for
//     its grace, and for no other reason.
//  3. A caller leaves when its own context ends. A caller whose context has ended
//     starts and joins nothing.
//  4. A caller gets no result that may be older than its call: it leaves a run
//     whose basis no longer holds, and a result that was found, not computed,
//     must come from a look that began after the caller had joined.
//  5. A panic of the function, or runtime.Goexit, is raised in every caller.
//  6. A run is unlisted before it is done: a caller that it wakes never joins it
//     again.
//  7. No run waits for itself, directly or over other runs: the caller that would
//     close the circle gets [ErrRecursive].
package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

var (
	// ErrAbandoned is the cause with which the context of a run is canceled when
	// no caller has waited for it for its grace.
	ErrAbandoned = errors.New("caches: no caller waits for the result")

	// ErrRecursive reports a function that calls itself with its own argument.
	ErrRecursive = errors.New("caches: the function waits for its own result")
)

// A Key names the result that a run computes. Runs of several groups may have the
// same key: invariant 7 is about keys.
type Key struct {
	Scope any // to which Name belongs, such as a connection; of a comparable type
	Name  string
	ahead bool // the key of runs that Ahead starts, which Do does not join
}

// A Func computes the result of a run.
type Func[T, B any] func(context.Context, *Run[T, B]) (T, error)

// A Group joins the callers of each key. T is the type of the results, B that of
// the basis of a result. The zero value is ready. A Group must not be copied.
type Group[T, B any] struct {
	mu   sync.Mutex
	runs map[Key]*Run[T, B] // guarded by mu: the listed runs
}

// Do returns the result of f for key, or that of a run in progress which the
// caller joins. Holds reports whether a result on the given basis answers a caller
// that comes now. It is called without a lock, and only if the run has begun:
// a function that begins later is new enough for any caller. If it does not hold,
// the run is left to the callers that it has.
//
// Do returns [Reason] when ctx ends, and [ErrRecursive] with the key's name if the
// caller is within a run that would wait for itself.
func (g *Group[T, B]) Do(ctx context.Context, key Key, holds func(B) bool, f Func[T, B]) (T, error) {
	outer := chainOf(ctx)
	for {
		var zero T
		switch {
		case Ended(ctx):
			return zero, Reason(ctx)
		case outer.runs(key):
			return zero, recursive(key)
		}
		t := g.join(ctx, outer, key, f)
		if t.begun && !g.counts(t, holds) {
			g.unlist(t.run)
			continue
		}
		v, known, err := g.wait(ctx, outer, t.run)
		if !known || t.run.found == 0 || t.run.found > t.looks {
			return v, err
		}
	}
}

// Ahead starts a run that no caller waits for or joins, and reports whether it
// did: it does not if such a run of key is in progress. The run is canceled after
// grace.
func (g *Group[T, B]) Ahead(ctx context.Context, key Key, grace time.Duration, f Func[T, B]) bool {
	key.ahead = true
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.runs[key] != nil {
		return false
	}
	r := g.start(ctx, chainOf(ctx), key, f)
	r.grace = grace
	r.abandon()
	return true
}

// Forget unlists the run of key: no later caller joins it.
func (g *Group[T, B]) Forget(key Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.runs, key)
}

// Alone returns a context within a run of key that is never listed, for a function
// that the caller runs itself, and a function that ends that run. The context ends
// as ctx does.
func (g *Group[T, B]) Alone(ctx context.Context, key Key) (alone context.Context, end func()) {
	link := &link{outer: chainOf(ctx), owner: g, key: key, done: make(chan struct{})}
	return context.WithValue(ctx, chainKey{}, link), func() { close(link.done) }
}

// A ticket is a caller's place in a run, with the run's progress when the caller
// joined it.
type ticket[T, B any] struct {
	run   *Run[T, B]
	looks int64
	begun bool
	basis B // if begun
}

// join makes the caller one of those that wait for the listed run of key, which it
// starts if there is none.
func (g *Group[T, B]) join(ctx context.Context, outer *link, key Key, f Func[T, B]) ticket[T, B] {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.runs[key]
	if r == nil || !r.resume() {
		r = g.start(ctx, outer, key, f)
		r.callers = 1
		return ticket[T, B]{run: r}
	}
	r.callers++
	if outer.within(g) {
		r.hurry()
	}
	return ticket[T, B]{run: r, looks: r.looks.Load(), begun: r.begun, basis: r.basis}
}

// start starts a run and lists it. The caller holds mu.
func (g *Group[T, B]) start(ctx context.Context, outer *link, key Key, f Func[T, B]) *Run[T, B] {
	r := &Run[T, B]{group: g, hurried: make(chan struct{})}
	r.link = link{outer: outer, owner: g, key: key, done: make(chan struct{})}
	if g.runs == nil {
		g.runs = make(map[Key]*Run[T, B])
	}
	g.runs[key] = r
	ctx, r.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), chainKey{}, &r.link))
	go r.call(ctx, f)
	return r
}

// counts calls holds for a caller that has joined a run. The caller leaves the run
// if that returns false or panics.
func (g *Group[T, B]) counts(t ticket[T, B], holds func(B) bool) (counts bool) {
	defer func() {
		if !counts {
			g.leave(t.run)
		}
	}()
	return holds(t.basis)
}

// wait waits until the run is done or ctx ends, and leaves the run. It reports
// whether the result is known: of the run, not of this caller.
func (g *Group[T, B]) wait(ctx context.Context, outer *link, r *Run[T, B]) (v T, known bool, err error) {
	defer g.leave(r)
	if asker := outer.innermost(); asker != nil && !asker.over() {
		if !asker.await(&r.link) {
			return v, false, recursive(r.link.key)
		}
		defer asker.awaited(&r.link)
	}
	select {
	case <-r.link.done:
	case <-ctx.Done():
		return v, false, Reason(ctx)
	}
	if r.panic != nil {
		panic(r.panic)
	}
	return r.val, true, r.err
}

// leave takes a caller away from a run. The last one leaves it abandoned.
func (g *Group[T, B]) leave(r *Run[T, B]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.callers--; r.callers == 0 {
		r.abandon()
	}
}

// unlist lets no later caller join r. Another run may be listed in its place.
func (g *Group[T, B]) unlist(r *Run[T, B]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.runs[r.link.key] == r {
		delete(g.runs, r.link.key)
	}
}

func recursive(key Key) error { return fmt.Errorf("%w: %s", ErrRecursive, key.Name) }
