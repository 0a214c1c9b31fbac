package caches

import (
	"context"
	"errors"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
)

// A Cache describes a type of cached values. Its fields say where the values
// are kept and for how long; [Cache.Key] returns the value at a key.
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", TTL: time.Hour}
//	…
//	p, err := profiles.Key(42).Get(ctx)
//
// A Cache is a description, not a connection: making one reads no environment
// and contacts no server, so a Cache is often a package-level variable. It is
// cheap to copy and, like any value that is not modified, safe for concurrent
// use. It has the fields of [Options].
type Cache[T any] Options

// Key returns the value at the key that joins the prefix and parts with dots,
// such as profile.42. Parts are strings, byte slices, numbers, bools,
// encoding.TextMarshalers, [RawKey] and [HashTag]. Every part is kept, even if
// it is zero or empty. With a part of another type, every operation returns an
// error. Without parts, the key is the prefix alone.
func (c Cache[T]) Key(parts ...any) Value[T] { return Value[T]{(*Options)(&c).object(parts)} }

// On returns a copy of c that uses conn, regardless of Connection and the
// context. A nil conn undoes an earlier On.
func (c Cache[T]) On(conn *Conn) Cache[T] {
	c.conn = conn
	return c
}

// Under returns a type whose Prefix is the key of c.Key(parts...). It describes
// the values under that key, so that [GetMany] and Clear apply to the values of
// one user, for example. Statistics count them as values of c. They are not
// kept near.
func (c Cache[T]) Under(parts ...any) Cache[T] {
	o := c.Key(parts...)
	c.field, c.err = (*Options)(&c).typeName(), o.err
	c.Prefix = o.key
	return c
}

// WithTTL returns a copy of c whose TTL is ttl.
func (c Cache[T]) WithTTL(ttl time.Duration) Cache[T] {
	c.TTL = ttl
	return c
}

// Fresh returns a copy of c whose reads bypass the near cache. The values they
// read still refresh it.
func (c Cache[T]) Fresh() Cache[T] {
	c.fresh = true
	return c
}

// Clear removes every value under the prefix, on all shards, and returns the
// number removed. It scans the whole keyspace of each server (SCAN and UNLINK),
// so it is meant for tests and repairs. Values stored during the scan may
// remain. A type without a Prefix cannot be cleared.
func (c Cache[T]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&c).clear(ctx, "Cache.Clear")
}

// A Value refers to one cached value, a Redis string at a key. [Cache.Key]
// returns it. A Value is immutable, cheap to copy and safe for concurrent use,
// and holds none of the stored data. The zero Value has no key: its operations
// return [ErrNoKey].
type Value[T any] struct{ Object }

// Key returns the value at the key of v followed by parts; see [Cache.Key].
func (v Value[T]) Key(parts ...any) Value[T] { return Value[T]{v.below(parts)} }

// On returns a copy of v that uses conn; see [Cache.On].
func (v Value[T]) On(conn *Conn) Value[T] { return Value[T]{v.on(conn)} }

// WithTTL returns a copy of v whose TTL is ttl instead of the type's.
func (v Value[T]) WithTTL(ttl time.Duration) Value[T] { return Value[T]{v.withTTL(ttl)} }

// Fresh returns a copy of v whose reads bypass the near cache; see
// [Cache.Fresh].
func (v Value[T]) Fresh() Value[T] { return Value[T]{v.afresh()} }

// Get returns the value, or [ErrMiss] if there is none. O(1), GET (GETEX under
// [SlideOnRead]). With Options.Near it sends PTTL as well, or nothing if the
// value is kept near.
func (v Value[T]) Get(ctx context.Context) (T, error) {
	if value, ok := nearHit[T](ctx, &v.Object, "Value.Get"); ok {
		return value, nil
	}
	var zero T
	var q query
	if err := q.beginRead(ctx, &v.Object, "Value.Get"); err != nil {
		return zero, err
	}
	defer q.end()
	fill := q.nearFill(&v.Object)
	q.get()
	fill.Ask(q.p)
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	value, err := readStored[T](&q, v.opts.serializerAt(q.front, q.key))
	if err == nil {
		nearPut(&fill, q.p.Next(), value)
	}
	return value, err
}

// get appends the command that reads a string.
func (q *query) get() {
	if q.slide {
		q.cmd("GETEX").String("PX").Int(q.ms)
		return
	}
	q.cmd("GET")
}

// readStored decodes the next reply as a stored value. A nil reply is a miss.
func readStored[T any](q *query, s Serializer) (T, error) {
	var zero T
	q.looks = true
	data, ok, err := q.p.Next().Bytes()
	if err == nil && !ok {
		err = ErrMiss
	}
	if err != nil {
		return zero, q.fail(err)
	}
	v, err := readValue[T](s, data)
	if err != nil {
		return zero, q.fail(err)
	}
	return v, nil
}

// GetOr is like Get but returns def instead of [ErrMiss]. Any other error is
// returned together with def.
func (v Value[T]) GetOr(ctx context.Context, def T) (T, error) {
	return orDefault(def)(v.Get(ctx))
}

// GetOrSet returns the value. If there is none, it calls load and stores the
// result, unless another caller has stored a value in the meantime, which it
// then returns. Concurrent callers may all call load; [Cached] prevents this.
// An error of load is returned unchanged, and nothing is stored. At most two
// round trips, GET and SET NX GET.
func (v Value[T]) GetOrSet(ctx context.Context, load func(context.Context) (T, error)) (T, error) {
	value, err := v.Get(ctx)
	if !errors.Is(err, ErrMiss) {
		return value, err
	}
	if value, err = load(ctx); err != nil {
		return value, err
	}
	stored, loaded, err := v.set(ctx, "Value.GetOrSet", value, "NX", "GET")
	if loaded {
		return stored, err
	}
	return value, err
}

// Set stores value. O(1), SET with PX.
func (v Value[T]) Set(ctx context.Context, value T) error {
	_, _, err := v.set(ctx, "Value.Set", value)
	return err
}

// Add stores value if there is no value, and reports whether it did. O(1), SET NX.
func (v Value[T]) Add(ctx context.Context, value T) (added bool, err error) {
	_, added, err = v.set(ctx, "Value.Add", value, "NX")
	return added, err
}

// Replace stores value if there is a value, and reports whether it did. O(1),
// SET XX.
func (v Value[T]) Replace(ctx context.Context, value T) (replaced bool, err error) {
	_, replaced, err = v.set(ctx, "Value.Replace", value, "XX")
	return replaced, err
}

// Swap stores value and returns the previous value; loaded reports whether there
// was one. A previous value that cannot be decoded is replaced as well, and the
// error is [ErrCorrupt]. O(1), SET GET.
func (v Value[T]) Swap(ctx context.Context, value T) (previous T, loaded bool, err error) {
	return v.set(ctx, "Value.Swap", value, "GET")
}

// set is SET with the given flags. With GET among them, old is the previous
// value and ok reports whether there was one. Without GET, ok reports whether
// value was stored.
func (v Value[T]) set(ctx context.Context, op string, value T, flags ...string) (old T, ok bool, err error) {
	var q query
	if err := q.begin(ctx, &v.Object, op, 0); err != nil {
		return old, false, err
	}
	defer q.end()
	if err := appendSet(&q, v.opts.serializerAt(q.front, q.key), value, flags...); err != nil {
		return old, false, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return old, false, err
	}
	data, ok, err := q.p.Next().Bytes()
	if err == nil && !ok && flags == nil {
		err = errNil
	}
	if err == nil {
		err = q.rest()
	}
	if err != nil {
		return old, false, q.fail(err)
	}
	if !ok || flags == nil || flags[len(flags)-1] != "GET" {
		return old, ok, nil
	}
	if old, err = readValue[T](v.opts.serializerAt(q.front, q.key), data); err != nil {
		return old, true, q.fail(err)
	}
	return old, true, nil
}

// appendSet appends SET and its expiry. Under FromCreation an existing value
// keeps its expiry, so only SET NX, which creates the value, may set one. Other
// forms keep the existing expiry, or add one in the same step if there is none.
func appendSet[T any](q *query, s Serializer, v T, flags ...string) error {
	keeps := q.fixed && !creates(flags)
	var set *driver.Pipeline
	if keeps {
		set = q.write("SET")
	} else {
		set = q.cmd("SET")
	}
	if err := writeValue(set, s, v); err != nil {
		return err
	}
	for _, flag := range flags {
		set.String(flag)
	}
	switch {
	case keeps:
		set.String("KEEPTTL")
	case q.ms > 0:
		set.String("PX").Int(q.ms)
	}
	return nil
}

func creates(flags []string) bool { return len(flags) > 0 && flags[0] == "NX" }

// Pop removes the value and returns it, or [ErrMiss]. O(1), GETDEL.
func (v Value[T]) Pop(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.begin(ctx, &v.Object, "Value.Pop", 0); err != nil {
		return zero, err
	}
	defer q.end()
	q.cmd("GETDEL")
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	return readStored[T](&q, v.opts.serializerAt(q.front, q.key))
}

// Delete removes the value, and reports whether there was one. A result that a
// [Cached] function is computing for the key is not kept. O(1), UNLINK of the
// lease and of the key.
func (v Value[T]) Delete(ctx context.Context) (deleted bool, err error) {
	var q query
	if err := q.begin(ctx, &v.Object, "Delete", 0); err != nil {
		return false, err
	}
	defer q.end()
	// The lease goes first: in the other order, a computation that ends between the
	// two would store its result, which may be older than this call.
	q.p.Cmd("UNLINK").Key(layout.Lease(q.front, q.key))
	q.cmd("UNLINK")
	if err := q.run(ctx); err != nil {
		return false, err
	}
	if err := q.p.Next().Err(); err != nil {
		return false, q.fail(err)
	}
	n, err := q.p.Next().Int()
	if err != nil {
		return false, q.fail(err)
	}
	return n > 0, nil
}
