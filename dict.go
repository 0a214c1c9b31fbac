package caches

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/text"
)

// A DictCache describes a type of dicts; [DictCache.Key] returns the dict at a
// key. It has the fields of [Options].
//
// Fields of a dict are stored as text if K is a string, number, bool or
// encoding.TextMarshaler, and as JSON if K is a struct or an array of such
// types. With any other K, operations on fields return an error. Values are
// stored by the Serializer.
type DictCache[K comparable, V any] Options

// Key returns the dict at a key; see [Cache.Key].
func (d DictCache[K, V]) Key(parts ...any) Dict[K, V] {
	return Dict[K, V]{(*Options)(&d).object(parts)}
}

// On returns a copy of d that uses conn; see [Cache.On].
func (d DictCache[K, V]) On(conn *Conn) DictCache[K, V] {
	d.conn = conn
	return d
}

// WithTTL returns a copy of d whose TTL is ttl.
func (d DictCache[K, V]) WithTTL(ttl time.Duration) DictCache[K, V] {
	d.TTL = ttl
	return d
}

// Fresh returns a copy of d whose reads bypass the near cache. The values they
// read still refresh it.
func (d DictCache[K, V]) Fresh() DictCache[K, V] {
	d.fresh = true
	return d
}

// Clear removes every dict under the prefix; see [Cache.Clear].
func (d DictCache[K, V]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&d).clear(ctx, "DictCache.Clear")
}

// A Dict refers to one dict, a map from K to V in a Redis hash. [DictCache.Key]
// returns it. The TTL applies to the whole dict. An empty dict does not exist.
type Dict[K comparable, V any] struct{ Object }

// Key returns the dict at the key of d followed by parts; see [Cache.Key].
func (d Dict[K, V]) Key(parts ...any) Dict[K, V] { return Dict[K, V]{d.below(parts)} }

// On returns a copy of d that uses conn; see [Cache.On].
func (d Dict[K, V]) On(conn *Conn) Dict[K, V] { return Dict[K, V]{d.on(conn)} }

// WithTTL returns a copy of d whose TTL is ttl instead of the type's.
func (d Dict[K, V]) WithTTL(ttl time.Duration) Dict[K, V] { return Dict[K, V]{d.withTTL(ttl)} }

// Fresh returns a copy of d whose reads bypass the near cache; see
// [DictCache.Fresh].
func (d Dict[K, V]) Fresh() Dict[K, V] { return Dict[K, V]{d.afresh()} }

// Get returns the value of field, or [ErrMiss]. O(1), HGET.
func (d Dict[K, V]) Get(ctx context.Context, field K) (V, error) {
	var zero V
	var q query
	if err := q.beginRead(ctx, &d.Object, "Dict.Get"); err != nil {
		return zero, err
	}
	defer q.end()
	if err := writeMember(q.read("HGET"), field); err != nil {
		return zero, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	return readStored[V](&q, d.opts.serializer())
}

// GetOr is like Get but returns def instead of [ErrMiss]. Any other error is
// returned together with def.
func (d Dict[K, V]) GetOr(ctx context.Context, field K, def V) (V, error) {
	return orDefault(def)(d.Get(ctx, field))
}

// GetMany returns the values of fields. Missing fields are not in the map.
// O(len(fields)), HMGET.
func (d Dict[K, V]) GetMany(ctx context.Context, fields ...K) (map[K]V, error) {
	if len(fields) == 0 {
		return map[K]V{}, nil
	}
	var q query
	if err := q.beginRead(ctx, &d.Object, "Dict.GetMany"); err != nil {
		return nil, err
	}
	defer q.end()
	if err := writeMembers(q.readMany(hashType, "HMGET", len(fields)), fields); err != nil {
		return nil, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	e, err := q.p.Next().Elems()
	found := make(map[K]V, e.Len())
	for _, field := range fields {
		if err != nil {
			break
		}
		err = putStored(found, field, e.Next(), d.opts.serializer())
	}
	if err != nil {
		return nil, q.fail(err)
	}
	return found, nil
}

// putStored decodes r into m[key], unless it is nil.
func putStored[K comparable, V any](m map[K]V, key K, r driver.Reply, s Serializer) error {
	data, ok, err := r.Bytes()
	if err != nil || !ok {
		return err
	}
	v, err := readValue[V](s, data)
	if err == nil {
		m[key] = v
	}
	return err
}

// Set stores value under field. O(1), HSET and PEXPIRE in one step.
func (d Dict[K, V]) Set(ctx context.Context, field K, value V) error {
	var q query
	err := q.begin(ctx, &d.Object, "Dict.Set", 0)
	if err != nil {
		return err
	}
	defer q.end()
	if err := d.hset(&q, field, value); err != nil {
		return q.fail(err)
	}
	_, err = q.int(ctx)
	return err
}

func (d Dict[K, V]) hset(q *query, field K, value V) error {
	p := q.write("HSET")
	if err := writeMember(p, field); err != nil {
		return err
	}
	return writeValue(p, d.opts.serializer(), value)
}

// Update stores either all of items or none of them. O(len(items)), HSET and
// PEXPIRE in one step.
func (d Dict[K, V]) Update(ctx context.Context, items map[K]V) error {
	if len(items) == 0 {
		return nil
	}
	var q query
	err := q.begin(ctx, &d.Object, "Dict.Update", 0)
	if err != nil {
		return err
	}
	defer q.end()
	p := q.writeMany(hashType, "HSET", 2*len(items))
	for field, value := range items {
		if err = writeMember(p, field); err == nil {
			err = writeValue(p, d.opts.serializer(), value)
		}
		if err != nil {
			return q.fail(err)
		}
	}
	_, err = q.int(ctx)
	return err
}

// hashAdd returns the value of a field. If there is none, it stores one and
// returns nil. A store sets the expiry; a read sets it only under SlideOnRead.
// The field is read only once: some servers let the key expire within the
// script, and a second read could miss. ARGV: field, value, milliseconds or 0,
// and NX for FromCreation, READ for SlideOnRead or nothing.
var hashAdd = driver.NewScript(`
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
if ARGV[3] ~= '0' and (not stored or ARGV[4] == 'READ') then
	if ARGV[4] == 'NX' then
		redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX')
	else
		redis.call('PEXPIRE', KEYS[1], ARGV[3])
	end
end
return stored
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	r := tx.Call("HGET", keys[0], args[0])
	added, policy := r.Kind() == driver.KindNil, ""
	if added {
		r = tx.Call("HSET", keys[0], args[0], args[1])
	}
	switch {
	case r.Kind() == driver.KindError:
		passOn(reply, r)
		return
	case added:
		reply.Nil()
	default:
		passOn(reply, r)
	}
	if len(args) > 3 {
		policy = string(args[3])
	}
	switch {
	case string(args[2]) == "0" || !added && policy != "READ":
	case policy == "NX":
		tx.Call("PEXPIRE", keys[0], args[2], args[3])
	default:
		tx.Call("PEXPIRE", keys[0], args[2])
	}
})

// GetOrAdd returns the value of field if there is one. Otherwise it stores and
// returns value. The loaded result is true if the value was there, false if it
// was stored. If it was there, the call is a read, which restarts the TTL only
// under [SlideOnRead]. O(1), HGET and HSET in one script.
func (d Dict[K, V]) GetOrAdd(ctx context.Context, field K, value V) (stored V, loaded bool, err error) {
	var zero V
	var q query
	if err := q.begin(ctx, &d.Object, "Dict.GetOrAdd", 0); err != nil {
		return zero, false, err
	}
	defer q.end()
	p := q.p.Script(hashAdd, 1).Key(q.front, q.key)
	if err = writeMember(p, field); err == nil {
		err = writeValue(p, d.opts.serializer(), value)
	}
	if err != nil {
		return zero, false, q.fail(err)
	}
	switch p.Int(q.ms); {
	case q.fixed:
		p.String("NX")
	case q.slide:
		p.String("READ")
	}
	if err := q.run(ctx); err != nil {
		return zero, false, err
	}
	data, loaded, err := q.p.Next().Bytes()
	if err != nil {
		return zero, false, q.fail(err)
	}
	if !loaded {
		return value, false, nil
	}
	if stored, err = readValue[V](d.opts.serializer(), data); err != nil {
		return zero, true, q.fail(err)
	}
	return stored, true, nil
}

// Remove removes fields and returns the number removed. O(len(fields)), HDEL.
func (d Dict[K, V]) Remove(ctx context.Context, fields ...K) (removed int, err error) {
	return removeMembers(ctx, d.Object, "Dict.Remove", "HDEL", fields)
}

// Contains reports whether field is in the dict. O(1), HEXISTS.
func (d Dict[K, V]) Contains(ctx context.Context, field K) (bool, error) {
	var q query
	if err := q.beginRead(ctx, &d.Object, "Dict.Contains"); err != nil {
		return false, err
	}
	defer q.end()
	if err := writeMember(q.read("HEXISTS"), field); err != nil {
		return false, q.fail(err)
	}
	n, err := q.int(ctx)
	return n == 1, err
}

// Len returns the number of fields. O(1), HLEN.
func (d Dict[K, V]) Len(ctx context.Context) (int, error) {
	return d.length(ctx, "Dict.Len", "HLEN")
}

// Pop removes field and returns its value, or [ErrMiss]. O(1), HGET and HDEL in
// one transaction.
func (d Dict[K, V]) Pop(ctx context.Context, field K) (V, error) {
	var zero V
	var q query
	err := q.begin(ctx, &d.Object, "Dict.Pop", driver.Atomic)
	if err != nil {
		return zero, err
	}
	defer q.end()
	if err = writeMember(q.cmd("HGET"), field); err == nil {
		err = writeMember(q.cmd("HDEL"), field)
	}
	if err != nil {
		return zero, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	return readStored[V](&q, d.opts.serializer())
}

// hashPop removes a random field and returns it and its value.
var hashPop = driver.NewScript(`
local item = redis.call('HRANDFIELD', KEYS[1], 1, 'WITHVALUES')
if #item > 0 then redis.call('HDEL', KEYS[1], item[1]) end
return item
`, func(tx driver.Tx, keys, _ [][]byte, reply *driver.Replies) {
	r := tx.Call("HRANDFIELD", keys[0], []byte("1"), []byte("WITHVALUES"))
	e, err := r.Elems()
	if err != nil {
		replyError(reply, err)
		return
	}
	if e.Len() == 0 {
		reply.Array(0)
		return
	}
	field, _, _ := e.Next().Bytes()
	value, _, _ := e.Next().Bytes()
	reply.Array(2)
	reply.Bytes(field) // before HDEL: the next Call ends the views
	reply.Bytes(value)
	tx.Call("HDEL", keys[0], append([]byte{}, field...))
})

// PopItem removes a random field and returns it with its value, or [ErrMiss].
// O(1), HRANDFIELD and HDEL in one script.
func (d Dict[K, V]) PopItem(ctx context.Context) (field K, value V, err error) {
	var q query
	if err := q.begin(ctx, &d.Object, "Dict.PopItem", 0); err != nil {
		return field, value, err
	}
	defer q.end()
	q.p.Script(hashPop, 1).Key(q.front, q.key)
	if err := q.run(ctx); err != nil {
		return field, value, err
	}
	e, err := q.p.Next().Elems()
	if err == nil && e.Len() == 0 {
		err = ErrMiss
	}
	if err == nil {
		field, value, err = d.item(&e)
	}
	if err != nil {
		return field, value, q.fail(err)
	}
	return field, value, nil
}

// item decodes a field and its value.
func (d Dict[K, V]) item(e *driver.Elems) (field K, value V, err error) {
	if field, err = readMember[K](e.Next()); err != nil {
		return field, value, err
	}
	data, err := present(e.Next())
	if err != nil {
		return field, value, err
	}
	value, err = readValue[V](d.opts.serializer(), data)
	return field, value, err
}

// Keys returns all fields, in no particular order. O(n), HKEYS.
func (d Dict[K, V]) Keys(ctx context.Context) ([]K, error) {
	return readAll(ctx, d.Object, "Dict.Keys", "HKEYS", readMember[K])
}

// Values returns all values, in no particular order. O(n), HVALS.
func (d Dict[K, V]) Values(ctx context.Context) ([]V, error) {
	return readAll(ctx, d.Object, "Dict.Values", "HVALS", func(r driver.Reply) (v V, err error) {
		data, err := present(r)
		if err != nil {
			return v, err
		}
		return readValue[V](d.opts.serializer(), data)
	})
}

// Copy returns the whole dict as a map, which is empty if there is no dict.
// O(n), HGETALL; for large dicts use All. With Options.Near, the map may be a
// copy of one kept in this process.
func (d Dict[K, V]) Copy(ctx context.Context) (map[K]V, error) {
	if all, ok := nearHit[map[K]V](ctx, &d.Object, "Dict.Copy"); ok {
		return maps.Clone(all), nil
	}
	var q query
	if err := q.beginRead(ctx, &d.Object, "Dict.Copy"); err != nil {
		return nil, err
	}
	defer q.end()
	fill := q.nearFill(&d.Object)
	q.read("HGETALL")
	fill.Ask(q.p)
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	all, err := d.items(q.p.Next())
	if err != nil {
		return nil, q.fail(err)
	}
	nearPutMap(&fill, q.p.Next(), all)
	return all, nil
}

// items decodes a whole dict.
func (d Dict[K, V]) items(r driver.Reply) (map[K]V, error) {
	e, err := r.Elems()
	all := make(map[K]V, e.Len()/2)
	for err == nil && e.Len() > 0 {
		var field K
		var value V
		if field, value, err = d.item(&e); err == nil {
			all[field] = value
		}
	}
	return all, err
}

// All returns an iterator over the fields and their values, and a function that
// returns, after the loop, the error that stopped it, if any. The iterator
// reads a page per round trip (HSCAN).
//
//	all, end := d.All(ctx)
//	for field, value := range all {
//		…
//	}
//	err := end()
//
// A field that exists during the whole iteration is seen. One that is added or
// removed meanwhile may or may not be seen. If the dict changes, a field may be
// seen twice. Only one loop at a time may use the two results.
func (d Dict[K, V]) All(ctx context.Context) (iter.Seq2[K, V], func() error) {
	var failed error
	all := func(yield func(K, V) bool) {
		failed = d.scan(ctx, "Dict.All", "HSCAN", func(e *driver.Elems) (bool, error) {
			field, value, err := d.item(e)
			return err == nil && yield(field, value), err
		})
	}
	return all, func() error { return failed }
}

// Incr adds delta to the number under field and returns the result. A missing
// field counts from zero. V must be a number type, and the serializer must read
// numbers as text, as [JSON] and [Raw] do; otherwise the error is
// [ErrNotNumber], and nothing is stored. O(1), HINCRBY or HINCRBYFLOAT, with
// PEXPIRE in one step.
func (d Dict[K, V]) Incr(ctx context.Context, field K, delta V) (V, error) {
	var zero V
	var q query
	if err := q.begin(ctx, &d.Object, "Dict.Incr", 0); err != nil {
		return zero, err
	}
	defer q.end()
	step, float, err := text.Step(delta, 1)
	if err != nil {
		return zero, q.fail(err)
	}
	if _, err := readValue[V](d.opts.serializer(), step); err != nil { // it could not read the result either
		return zero, q.fail(fmt.Errorf("%w that the serializer reads", ErrNotNumber))
	}
	name := "HINCRBY"
	if float {
		name = "HINCRBYFLOAT"
	}
	p := q.write(name)
	if err := writeMember(p, field); err != nil {
		return zero, q.fail(err)
	}
	p.Bytes(step)
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	return readNumber[V](&q)
}
