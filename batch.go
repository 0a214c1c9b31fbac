package caches

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gocaches/caches/internal/flight"
)

// A Batch collects operations and runs them together. Their commands travel
// together, in a few writes to each server, and each operation gives its result to
// a [Promise].
//
//	b := new(caches.Batch)
//	ada := caches.Later(b, profiles.Key("ada").Get) // a method value of any object …
//	size := caches.Later(b, online.Key("eu").Len)
//	b.Do(func(ctx context.Context) error { return prefs.Key(42).Set(ctx, "theme", "dark") }) // … or a function
//	post := loadPost.Later(b, 7) // the hits of a cached function are fetched by one command per shard
//	err := b.Run(ctx)
//	p, err := ada.Value(ctx)
//
// The operations of a batch run concurrently, in no particular order, and not as
// one transaction. An operation added while the batch runs, by another operation,
// by [Promise.Then] or by another goroutine, belongs to the next round of the same
// Run. So a batch can load a page of posts, then all their authors together.
//
// The zero Batch is empty and ready to use, and a Batch can be used again after
// Run. A Batch is safe for concurrent use and must not be copied.
type Batch struct {
	mu     sync.Mutex
	tasks  []*task       // the tasks that have not begun, oldest first
	groups map[any]*task // the tasks that accept further calls, by cached function
	fell   atomic.Pointer[flight.Panic]
}

// A task is one operation of a batch, or all calls of one cached function.
type task struct {
	run   func(ctx context.Context) error
	fail  func(error) // resolves the promises that run has not resolved
	group any         // *laterCalls, for a cached function
}

// maxRunning is how many operations of one Run are in progress at once. With it, a
// thousand gets take some 15 writes to a server, a hundred take 2 to 4.
const maxRunning = 256

// Later adds op to b and returns the promise of its result. op may be a method
// value of any object that takes only a context, such as profiles.Key(42).Get. It
// does not begin before [Batch.Run].
func Later[T any](b *Batch, op func(context.Context) (T, error)) *Promise[T] {
	p := newPromise[T](b)
	b.add(&task{
		run: func(ctx context.Context) error {
			p.begin()
			v, err := op(ctx)
			p.resolve(v, err)
			return err
		},
		fail: p.fail,
	})
	return p
}

// Do is [Later] for a function that returns only an error.
func (b *Batch) Do(op func(context.Context) error) *Promise[struct{}] {
	return Later(b, func(ctx context.Context) (struct{}, error) { return struct{}{}, op(ctx) })
}

// Later adds a call for arg to b and returns the promise of its result, which is
// the result of [CachedFunc.Get]. The calls of one function in a batch are made as
// by [CachedFunc.GetMany]: the hits are read by one command per shard, and each
// missing result is computed once, up to 16 at a time.
func (f *CachedFunc[A, T]) Later(b *Batch, arg A) *Promise[T] {
	if arg != arg { // a NaN, which no map finds again: Get returns the error
		return Later(b, func(ctx context.Context) (T, error) { return f.Get(ctx, arg) })
	}
	p := newPromise[T](b)
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.groups[f]; t != nil {
		t.group.(*laterCalls[A, T]).add(arg, p)
		return p
	}
	calls := &laterCalls[A, T]{f: f, asked: make(map[A][]*Promise[T])}
	calls.add(arg, p)
	t := &task{run: calls.run, fail: calls.fail, group: calls}
	if b.groups == nil {
		b.groups = make(map[any]*task)
	}
	b.groups[f], b.tasks = t, append(b.tasks, t)
	return p
}

// laterCalls are the calls of one cached function in a batch. The batch's lock
// guards them until they begin; then they belong to their task alone.
type laterCalls[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	args  []A
	asked map[A][]*Promise[T]
}

func (l *laterCalls[A, T]) add(arg A, p *Promise[T]) {
	if l.asked[arg] == nil {
		l.args = append(l.args, arg)
	}
	l.asked[arg] = append(l.asked[arg], p)
}

func (l *laterCalls[A, T]) fail(err error) {
	for _, asked := range l.asked {
		for _, p := range asked {
			defer p.fail(err) // resolves all, even if a function passed to Then ends the goroutine
		}
	}
}

func (l *laterCalls[A, T]) run(ctx context.Context) error {
	for _, asked := range l.asked {
		for _, p := range asked {
			p.begin()
		}
	}
	subjects, unfit := l.f.subjects(ctx, l.args, "Cached.Later")
	found, failed := l.f.getMany(ctx, subjects)
	var errs []error
	for _, arg := range l.args {
		v, err := found[arg], cmp.Or(unfit[arg], failed[arg])
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", arg, err))
		}
		for _, p := range l.asked[arg] {
			p.resolve(v, err)
		}
	}
	return errors.Join(errs...)
}

func (b *Batch) add(t *task) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tasks = append(b.tasks, t)
}

// take removes and returns all tasks that have not begun.
func (b *Batch) take() []*task {
	b.mu.Lock()
	defer b.mu.Unlock()
	tasks := b.tasks
	b.tasks, b.groups = nil, nil
	return tasks
}

// Len returns the number of operations that wait for Run. All calls of one cached
// function count as one.
func (b *Batch) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.tasks)
}

// Run runs the operations added before and during the call, up to 256 at a time,
// and returns when all have ended. All promises are then resolved, and no goroutine
// of the batch is left. Concurrent calls of Run divide the operations among
// themselves.
//
// The error is a *[BatchError] of the operations that failed; a miss is not a
// failure. When ctx ends, operations in progress end as with any context. The
// others never begin: their promises have [ErrAbandoned] and the error of ctx.
//
// If an operation or a function passed to Then panics, Run panics when the others
// have ended.
func (b *Batch) Run(ctx context.Context) error {
	ctx = flight.Enter(ctx, b)
	var errs []error
	for tasks := b.take(); len(tasks) > 0; tasks = b.take() {
		errs = append(errs, b.round(ctx, tasks)...)
		if fell := b.fell.Swap(nil); fell != nil {
			b.Abandon()
			panic(fell)
		}
	}
	if errs == nil {
		return nil
	}
	return &BatchError{Errs: errs}
}

// Abandon resolves the operations that have not begun with [ErrAbandoned]. Use it
// for a batch that will not be run.
func (b *Batch) Abandon() {
	for _, t := range slices.Backward(b.take()) {
		defer t.fail(ErrAbandoned) // see laterCalls.fail
	}
}

// round runs tasks and returns the errors of the failed ones, in order. No task
// runs on the caller's goroutine, because a task may end its goroutine.
func (b *Batch) round(ctx context.Context, tasks []*task) (failed []error) {
	var (
		errs  = make([]error, len(tasks))
		next  atomic.Int64
		group sync.WaitGroup
		ready = make(chan struct{}) // closed when all can begin, so that they write together
	)
	for range min(len(tasks), maxRunning) {
		group.Go(func() {
			<-ready
			b.work(func() bool {
				i := int(next.Add(1) - 1)
				if i < len(tasks) {
					errs[i] = errEnded // unless do returns
					errs[i] = b.do(ctx, tasks[i])
				}
				return i < len(tasks)
			})
		})
	}
	close(ready)
	group.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, ErrMiss) {
			failed = append(failed, err)
		}
	}
	return failed
}

// work calls step until it returns false, even if a step ends the goroutine:
// deferred calls still run then.
func (b *Batch) work(step func() bool) {
	over := false
	defer func() {
		if !over {
			b.work(step)
		}
	}()
	for step() {
	}
	over = true
}

// do runs one task, unless ctx has ended. All its promises are resolved afterwards,
// even if it panics or ends its goroutine.
func (b *Batch) do(ctx context.Context, t *task) (err error) {
	defer func() { t.fail(err) }() // the promises that run has left
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrAbandoned, flight.Reason(ctx))
	}
	err = errEnded // unless run returns
	if fell := b.guard(func() { err = t.run(ctx) }); fell != nil {
		return fell
	}
	return err
}

// guard calls f, and keeps the first panic for Run to raise.
func (b *Batch) guard(f func()) (fell *flight.Panic) {
	returned := false
	defer func() {
		if !returned { // by a panic, or by runtime.Goexit, which cannot be stopped
			fell = flight.Caught(recover())
			b.fell.CompareAndSwap(nil, fell)
		}
	}()
	f()
	returned = true
	return nil
}

// A Promise is the present or future result of an operation of a [Batch]. It is
// safe for concurrent use.
type Promise[T any] struct {
	b     *Batch
	done  chan struct{} // closed once v and err are set, and only then are they read
	v     T
	err   error
	begun atomic.Bool

	mu   sync.Mutex
	then []func(T, error) // guarded by mu; not extended once done is closed
}

func newPromise[T any](b *Batch) *Promise[T] {
	return &Promise[T]{b: b, done: make(chan struct{})}
}

// Value returns the result of the operation. While the operation is in progress,
// Value waits for it until ctx ends. If the batch has not begun the operation,
// Value returns [ErrPending]: only [Batch.Run] begins one. Within an operation of
// the same batch, Value returns ErrPending instead of waiting, because each
// operation could wait for the other.
func (p *Promise[T]) Value(ctx context.Context) (T, error) {
	var zero T
	switch {
	case p.IsResolved():
		return p.v, p.err
	case !p.begun.Load():
		return zero, ErrPending
	case flight.Within(ctx, p.b):
		return zero, fmt.Errorf("%w: an operation waits for its own batch", ErrPending)
	}
	select {
	case <-p.done:
		return p.v, p.err
	case <-ctx.Done():
		return zero, flight.Reason(ctx)
	}
}

// IsResolved reports whether there is a result: a value or an error.
func (p *Promise[T]) IsResolved() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Then calls f once with the result: at once if the operation has ended, or else in
// a goroutine of the batch when it ends. Functions are called in the order of the
// calls to Then. Then returns p.
func (p *Promise[T]) Then(f func(v T, err error)) *Promise[T] {
	p.mu.Lock()
	if !p.IsResolved() {
		p.then = append(p.then, f)
		p.mu.Unlock()
		return p
	}
	p.mu.Unlock()
	f(p.v, p.err)
	return p
}

func (p *Promise[T]) begin() { p.begun.Store(true) }

// resolve sets the result of the promise, unless it has one: a task that panics may
// have resolved some of its promises.
func (p *Promise[T]) resolve(v T, err error) {
	p.mu.Lock()
	if p.IsResolved() {
		p.mu.Unlock()
		return
	}
	p.v, p.err = v, err
	then := p.then
	p.then = nil
	close(p.done)
	p.mu.Unlock()
	for _, f := range slices.Backward(then) {
		defer p.b.guard(func() { f(v, err) }) // see laterCalls.fail
	}
}

func (p *Promise[T]) fail(err error) {
	var zero T
	p.resolve(zero, err)
}
