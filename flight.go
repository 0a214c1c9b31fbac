package caches

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A flight joins calls of one key in this process: the first runs, the others
// wait for it. The zero value is ready.
type flight[T any] struct {
	mu    sync.Mutex
	calls map[flightKey]*joined[T] // guarded by mu; an entry stands from the start to the end of its run, unless it is dropped
}

// A flightKey says what is being computed. The connection is part of it: in a
// context's connection, one tenant's key may be the same as another's.
type flightKey struct {
	conn  *Conn
	key   string
	ahead bool // before anybody misses it: nobody waits for that
}

// joined is a run that any number of callers wait for.
type joined[T any] struct {
	cancel  context.CancelCauseFunc
	callers int           // guarded by the flight's mu, as are
	grace   time.Duration // for how long it goes on when nobody waits, and
	timer   *time.Timer   // which ends it then; nil while somebody waits

	waits waits                 // for other runs
	hurry chan struct{}         // closed once a run of the same flight waits for it, which may have the slot that it wants
	fence atomic.Pointer[fence] // what its result will stand on, once its function runs
	looks atomic.Int64          // how often it has looked at the entry

	done  chan struct{} // closed once what follows is set, which is read after it only
	from  int64         // the look whose entry is the result, 0 for one that was computed
	val   T
	err   error
	panic *loadPanic
}

// A fence is what a result stands on: it answers those only for whom all of it
// still stands.
type fence struct {
	token  string
	stamps []stamp
}

// do returns what run returns for key, and joins a run that is under way, if that
// stands: one whose result will be of a time before the caller's call is left to
// those who wait for it. The run's context carries ctx's values but not its end:
// the caller who came first may go away, and the others must not fail for it.
// Each caller still leaves when its own context ends, and one whose context has
// ended starts nothing. A panic of run is raised in every caller. A run that asks
// for its own key, by itself or over others, gets errRecursive: it would wait
// for itself for ever.
func (f *flight[T]) do(ctx context.Context, key flightKey, stands func(*joined[T]) bool, run func(context.Context, *joined[T]) (T, error)) (T, error) {
	within := aboard{flight: f, key: key, outer: ctx.Value(aboardKey{})}
	for {
		var zero T
		switch {
		case ended(ctx):
			return zero, reasonOf(ctx)
		case within.again():
			return zero, fmt.Errorf("%w: %s", errRecursive, key.key)
		}
		call, first := f.join(ctx, within, run)
		looked := int64(0)
		if !first {
			looked = call.looks.Load()
		}
		if !first && !f.counts(call, stands) {
			f.drop(key, call)
			continue
		}
		// What the run had asked the server for before this caller came may be
		// of before an invalidation that the caller knows of.
		v, err, known := f.wait(ctx, within, call)
		if !known || call.from == 0 || call.from > looked {
			return v, err
		}
	}
}

// counts is stands for a caller who then waits, and leaves where it is false or
// panics.
func (f *flight[T]) counts(call *joined[T], stands func(*joined[T]) bool) (counts bool) {
	defer func() {
		if !counts {
			f.leave(call)
		}
	}()
	return stands(call)
}

// join makes the caller one of those who wait for a run, which it starts if none
// is under way.
func (f *flight[T]) join(ctx context.Context, within aboard, run func(context.Context, *joined[T]) (T, error)) (call *joined[T], first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call = f.calls[within.key]; call == nil || !call.board() {
		call, first = f.start(ctx, within, run), true
	}
	call.callers++
	if !first && within.nested() {
		select {
		case <-call.hurry:
		default:
			close(call.hurry)
		}
	}
	return call, first
}

// board keeps a run that nobody waited for from ending. It is false where that
// comes too late. The caller holds the flight's mu.
func (c *joined[T]) board() bool {
	if c.timer == nil {
		return true
	}
	stopped := c.timer.Stop()
	if stopped {
		c.timer = nil
	}
	return stopped
}

// start starts a run. The caller holds mu.
func (f *flight[T]) start(ctx context.Context, within aboard, run func(context.Context, *joined[T]) (T, error)) *joined[T] {
	call := &joined[T]{done: make(chan struct{}), hurry: make(chan struct{})}
	if f.calls == nil {
		f.calls = make(map[flightKey]*joined[T])
	}
	f.calls[within.key], within.done, within.waits = call, call.done, &call.waits
	ctx, call.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), aboardKey{}, within))
	go f.run(ctx, within.key, call, run)
	return call
}

// ahead starts a run that nobody waits for, unless one is under way. It ends
// after grace.
func (f *flight[T]) ahead(ctx context.Context, key flightKey, grace time.Duration, run func(context.Context, *joined[T]) (T, error)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[key] != nil {
		return false
	}
	call := f.start(ctx, aboard{flight: f, key: key, outer: ctx.Value(aboardKey{})}, run)
	call.grace = grace
	call.abandon()
	return true
}

// wait waits for the end of a run, or of ctx: then the run's end is not known. A
// run that would wait for itself that way does not.
func (f *flight[T]) wait(ctx context.Context, within aboard, call *joined[T]) (v T, err error, known bool) {
	defer f.leave(call)
	if asks, ok := within.outer.(aboard); ok && !asks.over() {
		if !asks.waits.begin(&call.waits) {
			return v, fmt.Errorf("%w: %s", errRecursive, within.key.key), false
		}
		defer asks.waits.end(&call.waits)
	}
	select {
	case <-call.done:
	case <-ctx.Done():
		return v, reasonOf(ctx), false
	}
	if call.panic != nil {
		panic(call.panic)
	}
	return call.val, call.err, true
}

// leave takes a caller away from a run. The last one leaves it to its grace.
func (f *flight[T]) leave(call *joined[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call.callers--; call.callers == 0 {
		call.abandon()
	}
}

// abandon ends a run that nobody waits for, after its grace. The caller holds the
// flight's mu.
func (c *joined[T]) abandon() {
	select {
	case <-c.done:
	default:
		c.timer = time.AfterFunc(c.grace, func() { c.cancel(errAbandoned) })
	}
}

// linger says for how long a run goes on when nobody waits for it any more. It is
// false where the run is to end already.
func (f *flight[T]) linger(call *joined[T], grace time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	call.grace = grace
	if call.timer == nil {
		return true
	}
	if !call.timer.Stop() {
		return false
	}
	call.abandon()
	return true
}

// errAbandoned is why the context of a function ends that nobody waits for.
var errAbandoned = errors.New("caches: nobody waits for the result")

// errRecursive is what a function gets that calls itself with its own argument.
var errRecursive = errors.New("caches: the function waits for its own result")

// aboard says within which run a context is, and within which ones that run is.
type aboard struct {
	flight any
	key    flightKey
	outer  any             // an aboard, nil at the end
	done   <-chan struct{} // closed when the run has ended: its context may be kept for longer
	waits  *waits          // the run's
}

func (a aboard) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

type aboardKey struct{}

// again reports whether a is among those that it is within.
func (a aboard) again() bool {
	for outer, ok := a.outer.(aboard); ok; outer, ok = outer.outer.(aboard) {
		if outer.key == a.key && !outer.over() { // of whichever function: they share the lease
			return true
		}
	}
	return false
}

// nested reports whether the run of ctx is within another one of f: that one has
// a slot, and would wait for this one to get one.
func nested(ctx context.Context) bool {
	within, _ := ctx.Value(aboardKey{}).(aboard)
	return within.nested()
}

// nested reports whether a is within another run of its flight.
func (a aboard) nested() bool {
	for outer, ok := a.outer.(aboard); ok; outer, ok = outer.outer.(aboard) {
		if outer.flight == a.flight {
			return true
		}
	}
	return false
}

// waits are the runs that a run waits for, because its function called them. A
// function may call several at once.
type waits struct{ runs []*waits }

// waiting guards the waits of all runs. Only calls from within a run take it.
var waiting sync.Mutex

// begin notes that w's run waits for another one, unless that one waits for w's
// already, by itself or over others: they would wait for each other for ever.
func (w *waits) begin(other *waits) bool {
	waiting.Lock()
	defer waiting.Unlock()
	if other.reaches(w, make(map[*waits]bool)) {
		return false
	}
	w.runs = append(w.runs, other)
	return true
}

func (w *waits) end(other *waits) {
	waiting.Lock()
	defer waiting.Unlock()
	at := slices.Index(w.runs, other)
	w.runs = slices.Delete(w.runs, at, at+1)
}

// reaches reports whether w's run waits for another one. The caller holds
// waiting.
func (w *waits) reaches(other *waits, seen map[*waits]bool) bool {
	if w == other {
		return true
	}
	seen[w] = true
	return slices.ContainsFunc(w.runs, func(next *waits) bool { return !seen[next] && next.reaches(other, seen) })
}

// drop lets no later caller join a run.
func (f *flight[T]) drop(key flightKey, call *joined[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[key] == call {
		delete(f.calls, key)
	}
}

// forget lets no later caller join the run under way for key.
func (f *flight[T]) forget(key flightKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.calls, key)
}

func (f *flight[T]) run(ctx context.Context, key flightKey, call *joined[T], run func(context.Context, *joined[T]) (T, error)) {
	returned := false
	defer func() {
		if !returned { // by a panic, or by runtime.Goexit, for which recover gives nil
			call.panic = &loadPanic{recover(), debug.Stack()}
		}
		f.drop(key, call) // before done closes: whom done wakes never joins this call again
		close(call.done)
		f.mu.Lock()
		defer f.mu.Unlock()
		if call.timer != nil {
			call.timer.Stop()
		}
		call.cancel(nil)
	}()
	call.val, call.err = run(ctx, call)
	returned = true
}
