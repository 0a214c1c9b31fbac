package caches

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
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

	// Bypass reports that a result is not to be kept: it is returned, and the
	// next call computes again. Nil keeps all.
	Bypass func(arg A, result T) bool
}

// CachedFunc is a function that remembers its results; see [Cached]. It is safe
// for concurrent use.
type CachedFunc[A comparable, T any] struct {
	cache  Cache[T]
	fn     func(context.Context, A) (T, error)
	opts   CachedOptions[A, T]
	flight flight[T]
	name   func() (string, error)
}

// maxLoads bounds how many missing results one GetMany computes at a time.
const maxLoads = 16

// Cached returns fn, with results that are remembered in c: under the prefix,
// for the time to live and with the serializer of c.
//
//	var loadUser = caches.Cached(profiles, func(ctx context.Context, id int) (Profile, error) {
//		return db.LoadProfile(ctx, id)
//	}, &caches.CachedOptions[int, Profile]{Key: func(id int) []any { return []any{"by-id", id} }})
//
// Calls of one argument in this process that miss at the same time compute once.
// Errors of fn are returned and not remembered. fn gets a context with the
// values of the first caller's, which does not end with it.
//
// Callers that waited for one call share its result: where T holds references,
// such as a map, treat it as read-only.
//
// When the server cannot be asked, fn still answers; its result is then not
// written back. What no later try could mend is an error: a connection that is
// not configured, a result that does not serialize.
func Cached[A comparable, T any](c Cache[T], fn func(context.Context, A) (T, error), o *CachedOptions[A, T]) *CachedFunc[A, T] {
	f := &CachedFunc[A, T]{cache: c, fn: fn}
	if o != nil {
		f.opts = *o
	}
	f.name = sync.OnceValues(f.findName)
	return f
}

// Get returns the result for arg: the remembered one, or else fn's.
func (f *CachedFunc[A, T]) Get(ctx context.Context, arg A) (T, error) {
	object, err := f.object(arg)
	if err != nil {
		var zero T
		return zero, err
	}
	landed := f.flight.landed.Load()
	v, err := object.Get(ctx)
	if err == nil || !keeps(err) && !isFault(err) {
		return v, err
	}
	return f.load(ctx, object, arg, landed, keeps(err))
}

// keeps reports whether a result that is computed because of err may be stored:
// after a fault another value may be there that could not be read.
func keeps(err error) bool { return errors.Is(err, ErrMiss) || errors.Is(err, ErrCorrupt) }

// load computes the result for arg, once for all who ask at the same time.
//
// Landed is how many runs had ended before the caller read the cache. A caller
// may read nothing, wait for its turn on the processor, and come here when the
// run that stored the result is over: where a run has ended since, the cache is
// asked once more.
func (f *CachedFunc[A, T]) load(ctx context.Context, object Cache[T], arg A, landed uint64, keep bool) (T, error) {
	return f.flight.do(ctx, flightOf(ctx, object), func(ctx context.Context, call *joined[T]) (T, error) {
		if keep && f.flight.landed.Load() != landed {
			if v, err := object.Get(ctx); err == nil {
				return v, nil
			}
		}
		v, err := f.fn(ctx, arg)
		if err != nil || !keep || f.bypasses(arg, v) {
			return v, err
		}
		return v, f.store(ctx, object, v, call)
	})
}

// store keeps a result, unless it was forgotten while it was computed. That a
// server could not take it is the next caller's loss, not this one's; that it
// can never be stored is an error of the program.
func (f *CachedFunc[A, T]) store(ctx context.Context, object Cache[T], v T, call *joined[T]) error {
	if call.stale.Load() {
		return nil
	}
	if err := object.Set(ctx, v); err != nil && !isFault(err) {
		return err
	}
	if call.stale.Load() { // forgotten between the look and the store
		_ = object.Delete(ctx)
	}
	return nil
}

// flightOf names what is computed for object. Without a connection it is that of
// all calls that have none.
func flightOf[T any](ctx context.Context, object Cache[T]) flightKey {
	conn, _ := resolve(ctx, object.opts.conn, object.opts.Connection)
	return flightKey{conn, object.key}
}

// isFault reports whether err is of the kind that comes and goes: a server that
// is not there, or answers an error. What is left is wrong in the program: no
// such connection, a value that no serializer takes.
func isFault(err error) bool {
	if _, ok := errors.AsType[*ServerError](err); ok {
		return true
	}
	for _, fault := range []error{
		ErrUnavailable, ErrUnknownOutcome, ErrTooLarge, ErrProtocol, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

func (f *CachedFunc[A, T]) bypasses(arg A, v T) bool {
	return f.opts.Bypass != nil && f.opts.Bypass(arg, v)
}

// GetMany returns the results for all of args. The remembered ones are read
// together; the others are computed, up to 16 at a time. Results are returned
// beside an error, which joins the errors of those arguments that have none.
func (f *CachedFunc[A, T]) GetMany(ctx context.Context, args []A) (map[A]T, error) {
	objects := make(map[A]Cache[T], len(args))
	for _, arg := range args {
		object, err := f.object(arg)
		if err != nil {
			return nil, err
		}
		objects[arg] = object
	}
	landed := f.flight.landed.Load()
	found, unread := f.read(ctx, objects)
	var (
		mu    sync.Mutex // guards found, errs and fell
		errs  []error
		fell  any // what fn panicked with, raised again in the caller
		group sync.WaitGroup
		slots = make(chan struct{}, maxLoads)
	)
	for arg, object := range objects {
		mu.Lock()
		_, ok := found[arg]
		mu.Unlock()
		if ok {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					mu.Lock()
					fell = r
					mu.Unlock()
				}
				<-slots
			}()
			v, err := f.load(ctx, object, arg, landed, !unread[arg])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%v: %w", arg, err))
				return
			}
			found[arg] = v
		})
	}
	group.Wait()
	if fell != nil {
		panic(fell)
	}
	return found, errors.Join(errs...)
}

// read reads several objects together. A key in unread could not be read, which
// is not the same as a miss.
func (f *CachedFunc[A, T]) read(ctx context.Context, objects map[A]Cache[T]) (found map[A]T, unread map[A]bool) {
	found, unread = make(map[A]T, len(objects)), make(map[A]bool)
	args := make([]A, 0, len(objects))
	keys := make([]RawKey, 0, len(objects))
	for arg, object := range objects {
		args, keys = append(args, arg), append(keys, RawKey(object.key))
	}
	c := f.cache
	c.Options.Prefix, c.Object = "", Object{} // the keys have the prefix already
	m, err := newMany(ctx, "Cached.GetMany", c, keys)
	if err == nil {
		_ = m.get(ctx, func(data []byte, i int) (err error) {
			v, err := readValue[T](c.Options.serializer(), data)
			if err == nil {
				found[args[i]] = v
			}
			return err
		})
	}
	for i, arg := range args {
		unread[arg] = err != nil || m.errs != nil && m.errs[i] != nil && !keeps(m.errs[i])
	}
	return found, unread
}

// Invalidate forgets the result for arg. A call of fn that is under way in this
// process answers those who wait for it; its result is not kept.
func (f *CachedFunc[A, T]) Invalidate(ctx context.Context, arg A) error {
	object, err := f.object(arg)
	if err != nil {
		return err
	}
	f.flight.forget(flightOf(ctx, object))
	return object.Delete(ctx)
}

// Refresh computes the result for arg anew, remembers it and returns it. It
// joins no call that is under way, which may have begun before what the caller
// knows of. With an error of fn, what was remembered stays; a result that could
// not be stored is returned beside the error, and one that Bypass names takes
// the place of what was remembered by removing it.
func (f *CachedFunc[A, T]) Refresh(ctx context.Context, arg A) (T, error) {
	object, err := f.object(arg)
	if err != nil {
		var zero T
		return zero, err
	}
	v, err := f.fn(ctx, arg)
	if err != nil {
		return v, err
	}
	f.flight.forget(flightOf(ctx, object)) // an older run must not store over it
	if f.bypasses(arg, v) {
		return v, object.Delete(ctx)
	}
	return v, object.Set(ctx, v)
}

// Func returns Get, in place of fn wherever fn was called.
func (f *CachedFunc[A, T]) Func() func(context.Context, A) (T, error) { return f.Get }

// object returns where the result for arg is kept.
func (f *CachedFunc[A, T]) object(arg A) (Cache[T], error) {
	if f.opts.Key != nil {
		parts := f.opts.Key(arg)
		if len(parts) == 0 {
			return Cache[T]{}, fmt.Errorf("%w: CachedOptions.Key returned no parts: all arguments would share one result", ErrNoKey)
		}
		if f.opts.Name != "" {
			parts = append([]any{f.opts.Name}, parts...)
		}
		object := f.cache.Key(parts...)
		return object, object.err
	}
	name, err := f.name()
	if err != nil {
		return Cache[T]{}, err
	}
	text, err := appendMember(nil, arg)
	if err != nil {
		return Cache[T]{}, fmt.Errorf("caches: Cached: the argument: %w; give CachedOptions a Key", err)
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

// identifies reports whether the name of a function, "pkg.Load", stands for one
// function only. "pkg.(*DB).Load-fm" is the method of any DB, "pkg.init.func1"
// changes its number as code is added, "pkg.Gen[...]" is all instances of Gen,
// and reflect.MakeFunc gives all that it makes one name.
func identifies(base string) bool {
	return base != "reflect.makeFuncStub" && !strings.HasSuffix(base, "-fm") && !strings.ContainsAny(base, "[(") && strings.Count(base, ".") == 1
}
