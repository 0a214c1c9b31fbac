package caches

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// A flight joins calls of one key in this process: the first runs, the others
// wait for it. The zero value is ready.
type flight[T any] struct {
	mu     sync.Mutex
	calls  map[flightKey]*joined[T] // guarded by mu; an entry stands from the start to the end of its run
	landed atomic.Uint64            // runs that have ended
}

// A flightKey says what is being computed. The connection is part of it: in a
// context's connection, one tenant's key may be the same as another's.
type flightKey struct {
	conn *Conn
	key  string
}

// joined is a run that any number of callers wait for.
type joined[T any] struct {
	stale atomic.Bool   // forgotten while it ran: its result is not to be kept
	done  chan struct{} // closed once val and err are set; they are read after it only
	val   T
	err   error
	panic *loadPanic
}

// A loadPanic carries a panic of the run to those who wait for it.
type loadPanic struct {
	value any
	stack []byte
}

func (p *loadPanic) Error() string {
	if p.value == nil { // panic(nil) panics with a *runtime.PanicNilError
		return "caches: the function ended its goroutine (runtime.Goexit)"
	}
	return fmt.Sprintf("caches: the function panicked: %v\n\n%s", p.value, p.stack)
}

// Unwrap returns what the function panicked with, where that is an error.
func (p *loadPanic) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// do returns what run returns for key, and joins a run that is under way. The
// run's context carries ctx's values but not its end: the caller who came first
// may go away, and the others must not fail for it. Each caller still leaves
// when its own context ends, and one whose context has ended starts nothing. A
// panic of run is raised in every caller. A run that asks for its own key, by
// itself or over others, gets errRecursive: it would wait for itself for ever.
func (f *flight[T]) do(ctx context.Context, key flightKey, run func(context.Context, *joined[T]) (T, error)) (T, error) {
	var zero T
	if ctx.Err() != nil {
		return zero, reasonOf(ctx)
	}
	within := aboard{f, key, ctx.Value(aboardKey{})}
	if within.again() {
		return zero, fmt.Errorf("%w: %s", errRecursive, key.key)
	}
	f.mu.Lock()
	call, under := f.calls[key]
	if !under {
		call = &joined[T]{done: make(chan struct{})}
		if f.calls == nil {
			f.calls = make(map[flightKey]*joined[T])
		}
		f.calls[key] = call
		go f.run(context.WithValue(context.WithoutCancel(ctx), aboardKey{}, within), key, call, run)
	}
	f.mu.Unlock()
	select {
	case <-call.done:
	case <-ctx.Done():
		return zero, reasonOf(ctx)
	}
	if call.panic != nil {
		panic(call.panic)
	}
	return call.val, call.err
}

// errRecursive is what a function gets that calls itself with its own argument.
var errRecursive = errors.New("caches: the function waits for its own result")

// aboard says within which run a context is, and within which ones that run is.
type aboard struct {
	flight any
	key    flightKey
	outer  any // an aboard, nil at the end
}

type aboardKey struct{}

// again reports whether a is among those that it is within.
func (a aboard) again() bool {
	for outer, ok := a.outer.(aboard); ok; outer, ok = outer.outer.(aboard) {
		if outer.flight == a.flight && outer.key == a.key {
			return true
		}
	}
	return false
}

// forget lets no later caller join the run under way for key, and tells that
// run that its result is stale.
func (f *flight[T]) forget(key flightKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call := f.calls[key]; call != nil {
		call.stale.Store(true)
		delete(f.calls, key)
	}
}

func (f *flight[T]) run(ctx context.Context, key flightKey, call *joined[T], run func(context.Context, *joined[T]) (T, error)) {
	returned := false
	defer func() {
		if !returned { // by a panic, or by runtime.Goexit, for which recover gives nil
			call.panic = &loadPanic{recover(), debug.Stack()}
		}
		f.landed.Add(1) // before delete: who finds no call finds this one counted
		f.mu.Lock()
		if f.calls[key] == call { // a newer one may stand there, after forget
			delete(f.calls, key) // before done closes: whom done wakes never joins this call again
		}
		f.mu.Unlock()
		close(call.done)
	}()
	call.val, call.err = run(ctx, call)
	returned = true
}

// reasonOf returns why ctx has ended: its error, and its cause where that is
// another.
func reasonOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
