package caches

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gocaches/caches/internal/flight"
	"github.com/gocaches/caches/internal/tally"
	"github.com/gocaches/caches/internal/text"
)

// CachedOptions configures [Cached]. Nil and the zero value mean the defaults.
type CachedOptions[A comparable, T any] struct {
	// Name is part of the key of every result, after the prefix of the cache. Empty
	// means the function's own name. A method value, a closure and an instance of a
	// generic function have no name that tells them apart: they need a Name or a
	// Key, and without one every call returns an error.
	Name string

	// Key returns the parts of the key of arg's result, after the prefix of the
	// cache and Name, if set; see [Cache.Key]. Nil means Name and the text of the
	// argument, which must then be a scalar, an encoding.TextMarshaler, or a struct
	// or array of them. Interface types are an error, because 1 and "1" have the
	// same text.
	Key func(arg A) []any

	// Tags returns the tags of arg's result: [InvalidateTags] with one of them
	// invalidates it. They must depend on arg alone. Nil means no tags. Every read
	// asks each shard that holds one of the tags, all shards at once.
	Tags func(arg A) []string

	// Bypass reports whether a result is returned but not stored, so that the next
	// call computes it again. Nil means that all results are stored.
	Bypass func(arg A, result T) bool

	// Lease is the duration of the lease under which one process computes a result
	// while the others wait for it. The lease is renewed while a caller waits. If
	// the process dies, another takes over when the lease expires. A computation is
	// canceled once no caller has waited for it for this long. Zero means 5
	// seconds; a positive Lease of less than 10 milliseconds is an error. A negative
	// Lease means that processes do not wait for each other: each computes its own
	// result.
	Lease time.Duration

	// Negative are the errors of the function that are remembered as results are.
	// The zero value means none.
	Negative NegativeOptions

	// Early is the β of probabilistic early expiration. One caller recomputes a
	// result in the background before it expires. The probability grows toward the
	// expiry and with the duration of the computation, so that a result that is read
	// often never expires. Zero means 1, which is optimal; more is earlier. Negative
	// means never.
	//
	// The formula is XFetch of Vattani, Chierichetti and Lowenstein, "Optimal
	// Probabilistic Cache Stampede Prevention", VLDB 2015
	// (https://cseweb.ucsd.edu/~avattani/papers/cache_stampede.pdf).
	Early float64

	// Stale is how long a result is kept after its TTL. It is served while a new
	// one is computed in the background, or while the function fails. A result that
	// was invalidated is never served. Zero or less means not at all. Stale has no
	// effect on types without a TTL or with [SlideOnRead].
	Stale time.Duration

	// Jitter is the largest fraction by which a TTL is shortened, at random, so
	// that results stored together do not expire together. Zero means 0.05;
	// negative means none. It is capped at 0.9.
	Jitter float64

	// Fallback is the maximum number of concurrent calls of the function in this
	// process while the server cannot be asked. Further calls wait for their turn
	// until their context is done. Zero means 32; negative means no limit.
	Fallback int

	// Hooks observe the function's calls, in addition to the [Hooks] of the
	// connection. Nil means none.
	Hooks *Hooks
}

// NegativeOptions say which errors of a [Cached] function are remembered. They are
// results in their own right, such as "no such user".
type NegativeOptions struct {
	// Errors are the errors to remember. If an error of the function matches one of
	// them by [errors.Is], the text of that element is stored, and later calls
	// return the element.
	Errors []error

	// TTL is how long errors are remembered, at most as long as results. Zero means
	// 10 seconds; negative is an error.
	TTL time.Duration
}

const (
	defaultCachedLease = 5 * time.Second
	defaultNegative    = 10 * time.Second
	defaultJitter      = 0.05
	defaultFallback    = 32
	// maxAhead is how many results one function computes ahead of time at once.
	maxAhead = 16
	// retryPause is the pause after a failed computation ahead of time, in all
	// processes.
	retryPause = time.Second
)

// CachedFunc is a function that remembers its results; see [Cached]. It is safe for
// concurrent use.
type CachedFunc[A comparable, T any] struct {
	cache    Cache[T]
	fn       func(context.Context, A) (T, error)
	opts     CachedOptions[A, T] // with the defaults filled in
	bad      error               // the error in opts, if any
	flight   *flight.Group[T, fence]
	name     func() (string, error)
	observer *observer
	fallback chan struct{} // a slot for each run without the server; nil for no limit
	early    chan struct{} // a slot for each run ahead of time
}

// maxLoads is how many missing results one GetMany computes at a time.
const maxLoads = 16

// Cached returns fn with its results remembered in c: under the prefix, with the
// TTL and with the serializer of c.
//
//	var loadUser = caches.Cached(profiles, func(ctx context.Context, id int) (Profile, error) {
//		return db.LoadProfile(ctx, id)
//	}, &caches.CachedOptions[int, Profile]{
//		Key:  func(id int) []any { return []any{"by-id", id} },
//		Tags: func(id int) []string { return []string{"users"} },
//	})
//
// A missing result is computed once, however many callers ask for it: the callers
// in one process share one run, and one process computes at a time. If that run
// fails, each process that waited for it computes the result once itself.
//
// Waiting callers are woken when the result is ready; each stops waiting when its
// own context is done. The context passed to fn carries the first caller's values
// but not its cancellation. It is canceled once no caller has waited for the
// duration of [CachedOptions.Lease]. A panic of fn is raised in every caller that
// waits in its process. A call within fn that would wait for its own result,
// directly or through other runs of this process, returns an error.
//
// The TTL of a result is that of c. It starts when the result has been computed,
// also with [FromCreation]; with [SlideOnRead] every read restarts it.
//
// A result that is invalidated while fn runs, by its key, a tag or its namespace,
// is returned to the callers that asked before the invalidation and is not stored.
// A value stored directly by Set in the meantime is replaced by the result. Errors
// of fn are returned and, except for the errors of Negative, not remembered.
//
// Callers that waited for one run share its result: if T holds references, such as
// a map, treat it as read-only.
//
// If the server cannot be asked, fn still answers: once for all waiting callers of
// this process, with a limited number of runs at a time. Nothing is then stored,
// and [Hooks] are told. A fault that no retry can fix is an error: a connection
// that is not configured, a result that cannot be serialized.
func Cached[A comparable, T any](c Cache[T], fn func(context.Context, A) (T, error), o *CachedOptions[A, T]) *CachedFunc[A, T] {
	f := &CachedFunc[A, T]{cache: c, fn: fn, flight: new(flight.Group[T, fence]), early: make(chan struct{}, maxAhead)}
	if o != nil {
		f.opts = *o
	}
	f.bad = f.opts.fill()
	if f.opts.Fallback > 0 {
		f.fallback = make(chan struct{}, f.opts.Fallback)
	}
	f.observer = newObserver(f.opts.Hooks)
	f.name = sync.OnceValues(f.findName)
	return f
}

// fill sets the defaults and rejects invalid options.
func (o *CachedOptions[A, T]) fill() error {
	o.Lease = cmp.Or(o.Lease, defaultCachedLease)
	o.Early = cmp.Or(o.Early, 1)
	o.Jitter = min(max(cmp.Or(o.Jitter, defaultJitter), 0), 0.9)
	o.Fallback = cmp.Or(o.Fallback, defaultFallback)
	o.Negative.TTL = cmp.Or(o.Negative.TTL, defaultNegative)
	o.Stale = max(o.Stale, 0)
	switch {
	case slices.Contains(o.Negative.Errors, nil):
		return errors.New("caches: CachedOptions.Negative.Errors contains nil")
	case o.Lease > 0 && o.Lease < minLease:
		return fmt.Errorf("caches: CachedOptions.Lease of %v is less than %v", o.Lease, minLease)
	case o.Negative.TTL < 0:
		return errors.New("caches: CachedOptions.Negative.TTL is negative")
	case math.IsNaN(o.Early), math.IsNaN(o.Jitter):
		return errors.New("caches: CachedOptions.Early or Jitter is not a number")
	}
	return nil
}

// lease returns the duration of a claimed lease. Processes that do not wait for
// each other claim one too, as a fence.
func (o *CachedOptions[A, T]) lease() time.Duration {
	if o.Lease < 0 {
		return defaultCachedLease
	}
	return o.Lease
}

// Get returns the remembered result for arg, or computes it. A hit is one round
// trip: MGET of the result and its stamps, all shards at once.
func (f *CachedFunc[A, T]) Get(ctx context.Context, arg A) (T, error) {
	var zero T
	s, err := f.subject(ctx, arg, "Cached.Get")
	if err != nil {
		return zero, err
	}
	seen, err := look[T](ctx, s)
	if err != nil {
		if err = s.fail(err); !isFault(err) {
			f.tell(ctx, s, &report{finding: &finding{}, err: err})
			return zero, err
		}
	}
	return f.settle(ctx, s, arg, seen, err)
}

// settle answers a call after a look at the entry: with the value found, if it is
// valid, or by a computation.
func (f *CachedFunc[A, T]) settle(ctx context.Context, s *subject, arg A, seen found[T], fault error) (T, error) {
	if fault == nil {
		if v, err, ok := f.recall(seen); ok {
			r := f.lookAhead(ctx, s, arg, seen)
			if w := s.conn.witness(s.opts, f.observer); !w.heard() {
				w.call(r, err)
				return v, err
			}
			copied := seen.finding // for hooks: otherwise seen would escape
			f.tell(ctx, s, &report{result: r, finding: &copied, err: err})
			return v, err
		}
	} else {
		seen.reason = MissFault
	}
	return f.miss(ctx, s, arg, seen.finding, fault)
}

// miss answers a call by a computation. It is separate from settle so that all data
// of a hit stays on the stack.
func (f *CachedFunc[A, T]) miss(ctx context.Context, s *subject, arg A, seen finding, fault error) (T, error) {
	l := &load[A, T]{f: f, s: s, arg: arg, seen: seen, fault: fault}
	v, err := f.flight.Do(ctx, s.flightKey(), l.holds(ctx), l.run)
	if err != nil && flight.Ended(ctx) {
		fault = nil // the caller's own context ended: not a fault of the server
	}
	f.tell(ctx, s, &report{result: LookupMiss, finding: &seen, err: err, fault: fault, waited: time.Duration(l.waited.Load())})
	return v, err
}

// recall returns the result or the error of an entry, if the entry is valid.
func (f *CachedFunc[A, T]) recall(seen found[T]) (v T, err error, ok bool) {
	switch {
	case seen.reason == MissExpired && (f.opts.Stale == 0 || seen.Negative):
		return v, nil, false
	case seen.reason != MissNone && seen.reason != MissExpired:
		return v, nil, false
	case !seen.Negative:
		return seen.value, nil, true
	}
	for _, known := range f.opts.Negative.Errors {
		if known.Error() == seen.text {
			return v, known, true
		}
	}
	return v, nil, false // stored by another version of the program
}

func (f *CachedFunc[A, T]) bypasses(arg A, v T) bool {
	return f.opts.Bypass != nil && f.opts.Bypass(arg, v)
}

// GetMany returns the results for args. Remembered results are read together, in
// one round trip per shard (MGET, all shards at once); the others are computed, up
// to 16 at a time. The error joins the errors of the arguments that have no result;
// the results of the others are returned beside it.
func (f *CachedFunc[A, T]) GetMany(ctx context.Context, args []A) (map[A]T, error) {
	subjects, unfit := f.subjects(ctx, args, "Cached.GetMany")
	found, failed := f.getMany(ctx, subjects)
	errs := slices.Collect(maps.Values(unfit))
	for arg, err := range failed {
		errs = append(errs, fmt.Errorf("%v: %w", arg, err))
	}
	return found, errors.Join(errs...)
}

// subjects returns the entry of each argument, or the error in the argument.
func (f *CachedFunc[A, T]) subjects(ctx context.Context, args []A, op string) (subjects map[A]*subject, unfit map[A]error) {
	subjects, unfit = make(map[A]*subject, len(args)), make(map[A]error)
	for _, arg := range args {
		s, err := f.subject(ctx, arg, op)
		if err != nil {
			unfit[arg] = err
			continue
		}
		subjects[arg] = s
	}
	return subjects, unfit
}

// getMany returns a result or an error for each argument.
func (f *CachedFunc[A, T]) getMany(ctx context.Context, subjects map[A]*subject) (map[A]T, map[A]error) {
	g := &getMany[A, T]{f: f, found: make(map[A]T, len(subjects)), slots: make(chan struct{}, maxLoads)}
	seen, faults := lookMany[A, T](ctx, subjects)
	for arg, s := range subjects {
		if v, err, ok := f.recall(seen[arg]); ok && faults[arg] == nil && err == nil {
			r := f.lookAhead(ctx, s, arg, seen[arg])
			finding := seen[arg].finding
			f.tell(ctx, s, &report{result: r, finding: &finding})
			g.keep(arg, v, nil)
			continue
		}
		g.compute(ctx, s, arg, seen[arg], faults[arg])
	}
	g.group.Wait()
	if g.fell != nil {
		panic(g.fell)
	}
	return g.found, g.failed
}

// getMany is a GetMany in progress.
type getMany[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	group sync.WaitGroup
	slots chan struct{}

	mu     sync.Mutex // guards the fields below
	found  map[A]T
	failed map[A]error
	fell   any // the panic value of the function, raised again in the caller
}

func (g *getMany[A, T]) keep(arg A, v T, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.found[arg] = v
		return
	}
	if g.failed == nil {
		g.failed = make(map[A]error)
	}
	g.failed[arg] = err
}

// compute settles a missing result on its own goroutine.
func (g *getMany[A, T]) compute(ctx context.Context, s *subject, arg A, seen found[T], fault error) {
	g.slots <- struct{}{}
	g.group.Go(func() {
		var v T
		err := errEnded // unless settle returns
		defer func() {
			if r := recover(); r != nil {
				g.mu.Lock()
				g.fell = r
				g.mu.Unlock()
			}
			g.keep(arg, v, err)
			<-g.slots
		}()
		v, err = g.f.settle(ctx, s, arg, seen, fault)
	})
}

// Invalidate removes the result for arg. Once it has returned nil, no later call in
// any process gets that result, except that a process that keeps it [Near] may
// return it until it hears of the change. A run in progress still answers its
// waiting callers, but its result is not stored. O(1), UNLINK.
func (f *CachedFunc[A, T]) Invalidate(ctx context.Context, arg A) error {
	s, err := f.subject(ctx, arg, "Cached.Invalidate")
	if err != nil {
		return err
	}
	f.flight.Forget(s.flightKey())
	if err = s.unlink(ctx); err != nil {
		err = s.fail(err)
	}
	c := s.info()
	c.Function, c.Err = f.label(), err
	s.conn.witness(s.opts, f.observer).invalidation(ctx, c)
	return err
}

// InvalidateAll invalidates all results of the function, and with them all results
// of other functions and all [Value.Tagged] values under the Prefix of the cache;
// see [Cache.InvalidateAll].
func (f *CachedFunc[A, T]) InvalidateAll(ctx context.Context) error {
	return (*Options)(&f.cache).invalidateAll(ctx, "Cached.InvalidateAll", f.observer)
}

// Refresh computes the result for arg again, stores it and returns it. It joins no
// run in progress, because such a run may have begun before the change that the
// caller knows of; the result of that run is not stored. If fn fails, the stored
// result remains. If Bypass reports true, the stored result is removed. If the new
// result cannot be stored, it is returned beside the error.
func (f *CachedFunc[A, T]) Refresh(ctx context.Context, arg A) (T, error) {
	s, err := f.subject(ctx, arg, "Cached.Refresh")
	if err != nil {
		var zero T
		return zero, err
	}
	l := &load[A, T]{f: f, s: s, arg: arg, refresh: true}
	v, err := l.anew(ctx)
	f.tell(ctx, s, &report{finding: &finding{}, err: err})
	return v, err
}

// Fresh returns a copy of f whose reads bypass the near cache of Options.Near. The
// values they read still refresh it. Runs are shared with f.
func (f *CachedFunc[A, T]) Fresh() *CachedFunc[A, T] {
	fresh := *f
	fresh.cache = f.cache.Fresh()
	return &fresh
}

// subject returns the entry of arg's result.
func (f *CachedFunc[A, T]) subject(ctx context.Context, arg A, op string) (*subject, error) {
	switch {
	case f.bad != nil:
		return nil, f.bad
	case arg != arg:
		return nil, &OpError{Op: op, Err: errors.New("caches: the argument is not equal to itself (a NaN): no later call could find its result")}
	}
	object, err := f.object(arg)
	if err != nil {
		return nil, err
	}
	var tags []string
	if f.opts.Tags != nil {
		tags = sortedTags(f.opts.Tags(arg))
	}
	s, err := newSubject(ctx, &object.Object, op, tags)
	if err == nil && s.ms > 0 && !s.slide {
		s.extra = f.opts.Stale
	}
	return s, err
}

// object returns the object that holds the result for arg.
func (f *CachedFunc[A, T]) object(arg A) (Value[T], error) {
	if f.opts.Key != nil {
		parts := f.opts.Key(arg)
		if len(parts) == 0 {
			return Value[T]{}, fmt.Errorf("%w: CachedOptions.Key returned no parts: all arguments would share one result", ErrNoKey)
		}
		if f.opts.Name != "" {
			parts = append([]any{f.opts.Name}, parts...)
		}
		object := f.cache.Key(parts...)
		return object, object.err
	}
	name, err := f.name()
	if err != nil {
		return Value[T]{}, err
	}
	encoded, err := text.AppendMember(nil, arg)
	if err != nil {
		return Value[T]{}, fmt.Errorf("caches: Cached: the argument: %w; set CachedOptions.Key", err)
	}
	object := f.cache.Key(name, string(encoded))
	return object, object.err
}

// findName returns the name of the function in its keys.
func (f *CachedFunc[A, T]) findName() (string, error) {
	if t := reflect.TypeFor[A](); t.Kind() == reflect.Interface {
		return "", fmt.Errorf("caches: Cached: the argument is of the interface type %v, whose different values may have the same text: set CachedOptions.Key", t)
	}
	if f.opts.Name != "" {
		return f.opts.Name, nil
	}
	name := runtime.FuncForPC(reflect.ValueOf(f.fn).Pointer()).Name()
	if base := name[strings.LastIndexByte(name, '/')+1:]; !identifies(base) {
		return "", fmt.Errorf("caches: Cached: the function's name, %s, is not unique: set CachedOptions.Name or Key", name)
	}
	return name, nil
}

// label returns the name of the function for hooks.
func (f *CachedFunc[A, T]) label() string {
	if name, err := f.name(); err == nil {
		return name
	}
	return runtime.FuncForPC(reflect.ValueOf(f.fn).Pointer()).Name()
}

// A report is the outcome of a call.
type report struct {
	result  Lookup
	finding *finding
	err     error // returned to the caller
	fault   error // of the server, if the caller was served in spite of it
	waited  time.Duration
}

// tell counts a call and reports it to hooks.
func (f *CachedFunc[A, T]) tell(ctx context.Context, s *subject, r *report) {
	w := s.conn.witness(s.opts, f.observer)
	w.call(r.result, r.err)
	if r.fault != nil {
		w.Add(tally.Swallowed, 1)
	}
	if !w.heard() {
		return
	}
	c := s.info()
	c.Function, c.Lookup, c.Reason, c.Tag = f.label(), r.result, r.finding.reason, r.finding.tag
	c.Waited, c.Err, c.Swallowed = r.waited, r.err, r.fault
	w.called(ctx, c)
}

// identifies reports whether the name of a function, such as "pkg.Load", belongs to
// one function only. "pkg.(*DB).Load-fm" is the method of any DB, "pkg.init.func1"
// changes its number as code is added, "pkg.Gen[...]" is every instance of Gen, and
// all functions of reflect.MakeFunc have one name.
func identifies(base string) bool {
	return base != "reflect.makeFuncStub" && !strings.HasSuffix(base, "-fm") && !strings.ContainsAny(base, "[(") && strings.Count(base, ".") == 1
}
