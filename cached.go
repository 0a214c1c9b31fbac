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
)

// CachedOptions tune [Cached]. The zero value, and nil, mean the defaults.
type CachedOptions[A comparable, T any] struct {
	// Name stands in the key of every result, behind the prefix of the cache.
	// Empty means the function's own name; for functions whose name does not
	// tell them apart (method values, closures, instances of generic
	// functions) either Name or Key is required, and the first call says so.
	Name string

	// Key returns the parts of the key of an argument's result, behind the
	// prefix of the cache; see [Cache.Key]. Nil means Name and the argument,
	// which then is a scalar, an encoding.TextMarshaler, or a struct or array
	// of those, and not of an interface type: as text, 1 and "1" are one.
	Key func(arg A) []any

	// Tags are what an argument's result depends on: [InvalidateTags] of one of
	// them invalidates it. They follow from the argument alone. Nil means none.
	// Each shard that a tag lives on is asked at every read, all at once.
	Tags func(arg A) []string

	// Bypass reports that a result is not to be kept: it is returned, and the
	// next call computes again. Nil keeps all.
	Bypass func(arg A, result T) bool

	// Lock is the lease under which one process computes a result and the
	// others wait for it. It is renewed while a caller waits; a process that
	// dies is replaced when its lease ends, and a computation that nobody waits
	// for any more is ended after it. Zero means 5 seconds, less than 10
	// milliseconds is an error. Less than zero means that processes do not wait
	// for each other: each computes by itself.
	Lock time.Duration

	// Negative are errors of the function that are remembered, as results are.
	// The zero value remembers none.
	Negative Negative

	// Early is the β of probabilistic early expiration: a result is computed
	// anew before it expires, by one caller in the background, the more likely
	// the nearer the end is and the longer the computation takes. So a result
	// that many ask for never expires under them. Zero means 1, which is
	// optimal; more is earlier. Less than zero means never.
	//
	// The formula is XFetch of Vattani, Chierichetti and Lowenstein, "Optimal
	// Probabilistic Cache Stampede Prevention", VLDB 2015
	// (https://cseweb.ucsd.edu/~avattani/papers/cache_stampede.pdf).
	Early float64

	// Stale is for how long a result is kept after its time to live, to be
	// served while it is computed anew in the background, or cannot be because
	// the function fails. What was invalidated is never served. Zero, and less,
	// means not at all. Types that live for ever, or with [SlideOnRead], have
	// no use for it.
	Stale time.Duration

	// Jitter is the part of the time to live by which it is shortened at most,
	// at random, so that results that were stored together do not expire
	// together. Zero means 0.05; less than zero means none; it is 0.9 at most.
	Jitter float64

	// Fallback bounds how many calls of the function run at once, in this
	// process, while the server cannot be asked. The others wait for their
	// turn, until their context ends. Zero means 32, less than zero no bound.
	Fallback int

	// Hook hears of the function's calls, beside the connection's [Hooks]. Nil
	// means none.
	Hook *Hooks
}

// Negative says which errors of a [Cached] function are remembered: those that
// are results, such as that there is no such user.
type Negative struct {
	// Errors are the errors to remember. One that [errors.Is] finds to be one of
	// them is, by its text, and later calls return the one of Errors itself.
	Errors []error

	// TTL is how long they are remembered, but never for longer than results
	// are. Zero means 10 seconds. Less than zero is an error.
	TTL time.Duration
}

const (
	defaultCachedLease = 5 * time.Second
	defaultNegative    = 10 * time.Second
	defaultJitter      = 0.05
	defaultFallback    = 32
	// maxAhead bounds how many results one function computes at once before
	// anybody misses them.
	maxAhead = 16
	// retryPause is for how long a computation ahead of time that failed is not
	// tried again, by any process.
	retryPause = time.Second
)

// CachedFunc is a function that remembers its results; see [Cached]. It is safe
// for concurrent use.
type CachedFunc[A comparable, T any] struct {
	cache    Cache[T]
	fn       func(context.Context, A) (T, error)
	opts     CachedOptions[A, T] // with the defaults filled in
	bad      error               // what is wrong with them
	flight   *flight.Group[T, fence]
	name     func() (string, error)
	observer *observer
	fallback chan struct{} // one for each run while the server cannot be asked; nil without bound
	early    chan struct{} // one for each run ahead of time

	// Tests that show what the guard is for take it out: results then stand on
	// what there is at their end, not at their beginning.
	unguarded bool
}

// maxLoads bounds how many missing results one GetMany computes at a time.
const maxLoads = 16

// Cached returns fn, with results that are remembered in c: under the prefix,
// for the time to live and with the serializer of c.
//
//	var loadUser = caches.Cached(profiles, func(ctx context.Context, id int) (Profile, error) {
//		return db.LoadProfile(ctx, id)
//	}, &caches.CachedOptions[int, Profile]{
//		Key:  func(id int) []any { return []any{"by-id", id} },
//		Tags: func(id int) []string { return []string{"users"} },
//	})
//
// A result is computed once however many callers miss it at the same time: the
// callers of this process wait for one run, and one process at a time computes;
// where that fails, those that waited for it each compute once by themselves.
// Who waits is woken, and leaves when its own context ends. The context of fn has
// the values of the first caller's and does not end with it; it ends when nobody
// has waited for the lease of [CachedOptions.Lock]. A panic of fn is raised in
// the callers of its process. A call of a cached function within fn that would
// wait for its own result, by itself or over runs of this process that others have
// begun, is an error.
//
// Each result lives for the type's time to live from when it was computed, under
// [FromCreation] as well; under [SlideOnRead] it lives as long as it is asked for.
//
// A result that was invalidated while fn ran, by its key, a tag or its namespace,
// is returned to those who called before and is not kept. A value that Set
// stores directly meanwhile is replaced by the result. Errors of fn are
// returned, and not remembered but for those of Negative.
//
// Callers that waited for one call share its result: where T holds references,
// such as a map, treat it as read-only.
//
// When the server cannot be asked, fn still answers: once for all who wait in
// this process, a bounded number of runs at a time, and nothing is written back;
// [Hooks] are told. What no later try could mend is an error: a connection that
// is not configured, a result that does not serialize.
func Cached[A comparable, T any](c Cache[T], fn func(context.Context, A) (T, error), o *CachedOptions[A, T]) *CachedFunc[A, T] {
	f := &CachedFunc[A, T]{cache: c, fn: fn, flight: new(flight.Group[T, fence]), early: make(chan struct{}, maxAhead)}
	if o != nil {
		f.opts = *o
	}
	f.bad = f.opts.fill()
	if f.opts.Fallback > 0 {
		f.fallback = make(chan struct{}, f.opts.Fallback)
	}
	f.observer = newObserver(f.opts.Hook)
	f.name = sync.OnceValues(f.findName)
	return f
}

// fill puts the defaults in place, and refuses what makes no sense.
func (o *CachedOptions[A, T]) fill() error {
	o.Lock = cmp.Or(o.Lock, defaultCachedLease)
	o.Early = cmp.Or(o.Early, 1)
	o.Jitter = min(max(cmp.Or(o.Jitter, defaultJitter), 0), 0.9)
	o.Fallback = cmp.Or(o.Fallback, defaultFallback)
	o.Negative.TTL = cmp.Or(o.Negative.TTL, defaultNegative)
	o.Stale = max(o.Stale, 0)
	switch {
	case slices.Contains(o.Negative.Errors, nil):
		return errors.New("caches: one of CachedOptions.Negative.Errors is nil")
	case o.Lock > 0 && o.Lock < minLease:
		return fmt.Errorf("caches: CachedOptions.Lock of %v is less than %v", o.Lock, minLease)
	case o.Negative.TTL < 0:
		return errors.New("caches: CachedOptions.Negative.TTL is negative")
	case math.IsNaN(o.Early), math.IsNaN(o.Jitter):
		return errors.New("caches: CachedOptions.Early or Jitter is not a number")
	}
	return nil
}

// lease returns for how long a lease is claimed; also processes that do not wait
// for each other have one, as a fence.
func (o *CachedOptions[A, T]) lease() time.Duration {
	if o.Lock < 0 {
		return defaultCachedLease
	}
	return o.Lock
}

// Get returns the result for arg: the remembered one, or else fn's. A hit is one
// round trip: MGET of the result and its stamps, all shards at once.
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

// settle answers a call that has looked at the entry: with what it has seen,
// where that counts, or with a computation.
func (f *CachedFunc[A, T]) settle(ctx context.Context, s *subject, arg A, seen found[T], fault error) (T, error) {
	if fault == nil {
		if v, err, ok := f.recall(seen); ok {
			r := f.lookAhead(ctx, s, arg, seen)
			if w := s.conn.witness(s.opts, f.observer); !w.heard() {
				w.call(r, err)
				return v, err
			}
			copied := seen.finding // for hooks: else seen would escape
			f.tell(ctx, s, &report{result: r, finding: &copied, err: err})
			return v, err
		}
	} else {
		seen.reason = MissFault
	}
	return f.miss(ctx, s, arg, seen.finding, fault)
}

// miss answers a call by a computation. It is apart from settle so that a hit
// keeps all it needs on its stack.
func (f *CachedFunc[A, T]) miss(ctx context.Context, s *subject, arg A, seen finding, fault error) (T, error) {
	l := &load[A, T]{f: f, s: s, arg: arg, seen: seen, fault: fault}
	v, err := f.flight.Do(ctx, s.flightKey(), l.holds(ctx), l.run)
	if err != nil && flight.Ended(ctx) {
		fault = nil // it was the caller's time that was up
	}
	f.tell(ctx, s, &report{result: Miss, finding: &seen, err: err, fault: fault, waited: time.Duration(l.waited.Load())})
	return v, err
}

// recall returns what an entry says, if it says anything.
func (f *CachedFunc[A, T]) recall(seen found[T]) (v T, err error, ok bool) {
	switch {
	case seen.reason == MissExpired && (f.opts.Stale == 0 || seen.negative):
		return v, nil, false
	case seen.reason != NoReason && seen.reason != MissExpired:
		return v, nil, false
	case !seen.negative:
		return seen.value, nil, true
	}
	for _, known := range f.opts.Negative.Errors {
		if known.Error() == seen.text {
			return v, known, true
		}
	}
	return v, nil, false // of another version of the program
}

func (f *CachedFunc[A, T]) bypasses(arg A, v T) bool {
	return f.opts.Bypass != nil && f.opts.Bypass(arg, v)
}

// GetMany returns the results for all of args. The remembered ones are read
// together, in one round trip per shard (MGET, all shards at once); the others
// are computed, up to 16 at a time. Results are returned beside an error, which
// joins the errors of those arguments that have none.
func (f *CachedFunc[A, T]) GetMany(ctx context.Context, args []A) (map[A]T, error) {
	subjects, unfit := f.subjects(ctx, args, "Cached.GetMany")
	found, failed := f.getMany(ctx, subjects)
	errs := slices.Collect(maps.Values(unfit))
	for arg, err := range failed {
		errs = append(errs, fmt.Errorf("%v: %w", arg, err))
	}
	return found, errors.Join(errs...)
}

// subjects returns where the results for args are, and why some have no place.
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

// getMany returns what there is for each argument: a result or an error.
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

// getMany is a GetMany under way.
type getMany[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	group sync.WaitGroup
	slots chan struct{}

	mu     sync.Mutex // guards what follows
	found  map[A]T
	failed map[A]error
	fell   any // what the function panicked with, raised again in the caller
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

// compute settles what was not remembered, on a goroutine of its own.
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

// Invalidate forgets the result for arg. When it has returned nil, no call that
// begins gets it, in any process (but for what others keep [Near], as long as the
// news travels); a run that is under way answers those who wait
// for it, and its result is not kept. O(1), UNLINK.
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

// InvalidateAll forgets all results of the function, and with them all that
// other functions and [Cache.Tagged] objects keep under the Prefix of the cache;
// see [Cache.InvalidateAll].
func (f *CachedFunc[A, T]) InvalidateAll(ctx context.Context) error {
	return (*Options)(&f.cache).invalidateAll(ctx, "Cached.InvalidateAll", f.observer)
}

// Refresh computes the result for arg anew, remembers it and returns it. It
// joins no run that is under way, which may have begun before what the caller
// knows of, and the result of such a run is not kept. With an error of fn, what
// was remembered stays; a result that could not be stored is returned beside the
// error, and one that Bypass names takes the place of what was remembered by
// removing it.
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

// Fresh returns f with look-ups that ask the server, where the Options.Near of
// its cache would have them ask nobody. What they read is kept near for others.
// Runs are joined as those of f are.
func (f *CachedFunc[A, T]) Fresh() *CachedFunc[A, T] {
	fresh := *f
	fresh.cache = f.cache.Fresh()
	return &fresh
}

// Func returns Get, in place of fn wherever fn was called.
func (f *CachedFunc[A, T]) Func() func(context.Context, A) (T, error) { return f.Get }

// subject returns the entry of arg's result.
func (f *CachedFunc[A, T]) subject(ctx context.Context, arg A, op string) (*subject, error) {
	switch {
	case f.bad != nil:
		return nil, f.bad
	case arg != arg:
		return nil, &OpError{Op: op, Err: errors.New("caches: the argument is not equal to itself (a NaN): no other call could ask for it")}
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

// object returns where the result for arg is kept.
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
	text, err := appendMember(nil, arg)
	if err != nil {
		return Value[T]{}, fmt.Errorf("caches: Cached: the argument: %w; give CachedOptions a Key", err)
	}
	object := f.cache.Key(name, string(text))
	return object, object.err
}

// findName returns the name that stands in the keys.
func (f *CachedFunc[A, T]) findName() (string, error) {
	if t := reflect.TypeFor[A](); t.Kind() == reflect.Interface {
		return "", fmt.Errorf("caches: Cached: the argument is of the interface type %v, whose values may share a text: give CachedOptions a Key", t)
	}
	if f.opts.Name != "" {
		return f.opts.Name, nil
	}
	name := runtime.FuncForPC(reflect.ValueOf(f.fn).Pointer()).Name()
	if base := name[strings.LastIndexByte(name, '/')+1:]; !identifies(base) {
		return "", fmt.Errorf("caches: Cached: the function's name, %s, does not tell it from others: give CachedOptions a Name or a Key", name)
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

// A report is what a call came to.
type report struct {
	result  Result
	finding *finding
	err     error // what the caller got
	fault   error // in spite of which
	waited  time.Duration
}

// tell counts a call, and tells those who want to hear of it.
func (f *CachedFunc[A, T]) tell(ctx context.Context, s *subject, r *report) {
	w := s.conn.witness(s.opts, f.observer)
	w.call(r.result, r.err)
	if r.fault != nil {
		w.add(countSwallowed, 1)
	}
	if !w.heard() {
		return
	}
	c := s.info()
	c.Function, c.Result, c.Reason, c.Tag = f.label(), r.result, r.finding.reason, r.finding.tag
	c.Waited, c.Err, c.Swallowed = r.waited, r.err, r.fault
	w.called(ctx, c)
}

// identifies reports whether the name of a function, "pkg.Load", stands for one
// function only. "pkg.(*DB).Load-fm" is the method of any DB, "pkg.init.func1"
// changes its number as code is added, "pkg.Gen[...]" is all instances of Gen,
// and reflect.MakeFunc gives all that it makes one name.
func identifies(base string) bool {
	return base != "reflect.makeFuncStub" && !strings.HasSuffix(base, "-fm") && !strings.ContainsAny(base, "[(") && strings.Count(base, ".") == 1
}
