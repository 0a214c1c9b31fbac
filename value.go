package caches

import (
	"context"
	"errors"

	"github.com/gocaches/caches/driver"
)

// Cache is a type of cached values, and one value of it: Key makes the object
// at a key, and the operations are on that object.
//
//	var profiles = caches.Cache[Profile]{Options: caches.Options{Prefix: "profile", TTL: time.Hour}}
//	…
//	p, err := profiles.Key(42).Get(ctx)
//
// A Cache is a description, not a connection: making one reads no environment
// and touches no server, so a Cache is often a package-level variable. It is
// immutable, cheap to copy and safe for concurrent use. Its value is a Redis
// string.
type Cache[T any] struct {
	// Options say where objects of the type are kept, and for how long.
	Options Options
	Object
}

// Key returns the object whose key is the prefix and parts, joined by dots:
// profile.42. On an object that has a key, the parts go behind that key. Parts
// are strings, bytes, numbers, bools, encoding.TextMarshalers, [RawKey] and
// [HashTag]; all are kept, zero and empty ones too. Any other part is the error
// of every operation. Key() without parts is the prefix alone.
func (c Cache[T]) Key(parts ...any) Cache[T] {
	c.Object = c.Object.derive(c.Options, parts)
	return c
}

// On returns c pinned to conn, whatever Options and the context say; nil takes
// the pin away.
func (c Cache[T]) On(conn *Conn) Cache[T] {
	c.Options.conn, c.Object = conn, c.Object.on(conn)
	return c
}

// Fresh returns c with reads that ask the server, where Options.Near would have
// them ask nobody. What they read is kept near for others.
func (c Cache[T]) Fresh() Cache[T] {
	c.Options.fresh, c.Object = true, c.Object.afresh()
	return c
}

// Get returns the value, or [ErrMiss]. O(1), GET (GETEX under [SlideOnRead]),
// and with Options.Near PTTL beside it, or nothing.
func (c Cache[T]) Get(ctx context.Context) (T, error) {
	if v, ok := nearHit[T](ctx, &c.Object, "Cache.Get"); ok {
		return v, nil
	}
	var zero T
	var q query
	if err := q.beginRead(ctx, &c.Object, "Cache.Get"); err != nil {
		return zero, err
	}
	defer q.end()
	fill := q.nearFill(&c.Object)
	q.get()
	fill.ask(q.p)
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	v, err := readStored[T](&q, c.opts.serializer())
	if err == nil {
		nearPut(&fill, q.p.Next(), v)
	}
	return v, err
}

// get appends the read of a string.
func (q *query) get() {
	if q.slide {
		q.cmd("GETEX").String("PX").Int(q.ms)
		return
	}
	q.cmd("GET")
}

// readStored reads the next reply, a stored value.
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

// GetOr is Get with def in place of [ErrMiss]. Faults are still errors, beside
// def.
func (c Cache[T]) GetOr(ctx context.Context, def T) (T, error) {
	return orDefault(def)(c.Get(ctx))
}

// GetOrSet returns the value; where there is none it calls load and stores what
// load returns, unless somebody else stored a value meanwhile, which is then
// returned. It does not keep callers from loading at the same time: that is
// what [Cached] is for. An error of load is returned as it is, and nothing is
// stored. Two round trips at most, GET and SET NX GET.
func (c Cache[T]) GetOrSet(ctx context.Context, load func(context.Context) (T, error)) (T, error) {
	v, err := c.Get(ctx)
	if !errors.Is(err, ErrMiss) {
		return v, err
	}
	if v, err = load(ctx); err != nil {
		return v, err
	}
	stored, loaded, err := c.set(ctx, "Cache.GetOrSet", v, "NX", "GET")
	if loaded {
		return stored, err
	}
	return v, err
}

// Set stores v. O(1), SET with PX.
func (c Cache[T]) Set(ctx context.Context, v T) error {
	_, _, err := c.set(ctx, "Cache.Set", v)
	return err
}

// Add stores v if there is no value, and reports whether it did. O(1), SET NX.
func (c Cache[T]) Add(ctx context.Context, v T) (added bool, err error) {
	_, added, err = c.set(ctx, "Cache.Add", v, "NX")
	return added, err
}

// Replace stores v if there is a value, and reports whether it did. O(1),
// SET XX.
func (c Cache[T]) Replace(ctx context.Context, v T) (replaced bool, err error) {
	_, replaced, err = c.set(ctx, "Cache.Replace", v, "XX")
	return replaced, err
}

// Swap stores v and returns the value before it; loaded reports whether there
// was one. One that does not decode is replaced all the same, and [ErrCorrupt].
// O(1), SET GET.
func (c Cache[T]) Swap(ctx context.Context, v T) (previous T, loaded bool, err error) {
	return c.set(ctx, "Cache.Swap", v, "GET")
}

// set is SET with the given flags. Without GET among them, ok reports whether v
// was stored; with it, whether there was a value before, which is old.
func (c Cache[T]) set(ctx context.Context, op string, v T, flags ...string) (old T, ok bool, err error) {
	var q query
	if err := q.begin(ctx, &c.Object, op, 0); err != nil {
		return old, false, err
	}
	defer q.end()
	if err := appendSet(&q, c.opts.serializer(), v, flags...); err != nil {
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
	if old, err = readValue[T](c.opts.serializer(), data); err != nil {
		return old, true, q.fail(err)
	}
	return old, true, nil
}

// appendSet appends SET and its expiry. Under FromCreation a value that is
// there keeps its own: only SET NX, which creates, may name one. The others
// keep what there is, and add one where there is none in the same step.
func appendSet[T any](q *query, s Serializer, v T, flags ...string) error {
	keeps := q.fixed && !creates(flags)
	var set *driver.Pipeline
	if keeps {
		set = q.write("SET", 0)
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

// Take removes the value and returns it, or [ErrMiss]. O(1), GETDEL.
func (c Cache[T]) Take(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.begin(ctx, &c.Object, "Cache.Take", 0); err != nil {
		return zero, err
	}
	defer q.end()
	q.cmd("GETDEL")
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	return readStored[T](&q, c.opts.serializer())
}

// Delete removes the value. That there was none is no error. A result that a
// [Cached] function computes meanwhile is not kept. O(1), UNLINK of the key and
// of the lease beside it.
func (c Cache[T]) Delete(ctx context.Context) error {
	var q query
	if err := q.begin(ctx, &c.Object, "Delete", 0); err != nil {
		return err
	}
	defer q.end()
	q.cmd("UNLINK").Key(sideKey(q.front, q.key, leaseEnd))
	_, err := q.int(ctx)
	return err
}

// Clear removes every value under the prefix, on all shards, and returns how
// many. It walks the whole keyspace of each server (SCAN and UNLINK): it is for
// tests and for repair. Values stored meanwhile may stay.
func (c Cache[T]) Clear(ctx context.Context) (int64, error) {
	return c.Options.clear(ctx, "Cache.Clear")
}
