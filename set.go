package caches

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// A SetCache describes a type of sets; [SetCache.Key] returns the set at a key.
// It has the fields of [Options]; Serializer is not used.
//
// Members are stored as text if T is a string, number, bool or
// encoding.TextMarshaler, and as JSON if T is a struct or an array of such
// types. With any other T, operations on members return an error.
//
// A struct that embeds a type with a MarshalText method has that method too.
// Its text then omits its other fields, and members that differ only in these
// are the same member. Give such a struct a MarshalText method of its own.
type SetCache[T comparable] Options

// Key returns the set at a key; see [Cache.Key].
func (s SetCache[T]) Key(parts ...any) Set[T] { return Set[T]{(*Options)(&s).object(parts)} }

// On returns a copy of s that uses conn; see [Cache.On].
func (s SetCache[T]) On(conn *Conn) SetCache[T] {
	s.conn = conn
	return s
}

// WithTTL returns a copy of s whose TTL is ttl.
func (s SetCache[T]) WithTTL(ttl time.Duration) SetCache[T] {
	s.TTL = ttl
	return s
}

// Fresh returns a copy of s whose reads bypass the near cache. The values they
// read still refresh it.
func (s SetCache[T]) Fresh() SetCache[T] {
	s.fresh = true
	return s
}

// Clear removes every set under the prefix; see [Cache.Clear].
func (s SetCache[T]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&s).clear(ctx, "SetCache.Clear")
}

// A Set refers to one set, a Redis set of members of type T. [SetCache.Key]
// returns it. The TTL applies to the whole set. An empty set does not exist:
// removing the last member removes the set and its expiry.
type Set[T comparable] struct{ Object }

// Key returns the set at the key of s followed by parts; see [Cache.Key].
func (s Set[T]) Key(parts ...any) Set[T] { return Set[T]{s.below(parts)} }

// On returns a copy of s that uses conn; see [Cache.On].
func (s Set[T]) On(conn *Conn) Set[T] { return Set[T]{s.on(conn)} }

// WithTTL returns a copy of s whose TTL is ttl instead of the type's.
func (s Set[T]) WithTTL(ttl time.Duration) Set[T] { return Set[T]{s.withTTL(ttl)} }

// Fresh returns a copy of s whose reads bypass the near cache; see
// [SetCache.Fresh].
func (s Set[T]) Fresh() Set[T] { return Set[T]{s.afresh()} }

// Add adds members and returns how many were new. O(len(members)), SADD and
// PEXPIRE in one step.
func (s Set[T]) Add(ctx context.Context, members ...T) (added int, err error) {
	if len(members) == 0 {
		return 0, nil
	}
	var q query
	if err := q.begin(ctx, &s.Object, "Set.Add", 0); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeMembers(q.writeMany(setType, "SADD", len(members)), members); err != nil {
		return 0, q.fail(err)
	}
	n, err := q.int(ctx)
	return int(n), err
}

// Update adds all members of other, such as the Copy of another set, and
// returns how many were new; see Add.
func (s Set[T]) Update(ctx context.Context, other map[T]struct{}) (added int, err error) {
	return s.Add(ctx, slices.Collect(maps.Keys(other))...)
}

// Remove removes members and returns the number removed. O(len(members)), SREM.
func (s Set[T]) Remove(ctx context.Context, members ...T) (removed int, err error) {
	return removeMembers(ctx, s.Object, "Set.Remove", "SREM", members)
}

// Contains reports whether member is in the set. O(1), SISMEMBER.
func (s Set[T]) Contains(ctx context.Context, member T) (bool, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, "Set.Contains"); err != nil {
		return false, err
	}
	defer q.end()
	if err := writeMember(q.read("SISMEMBER"), member); err != nil {
		return false, q.fail(err)
	}
	n, err := q.int(ctx)
	return n == 1, err
}

// ContainsMany returns the given members that are in the set. O(len(members)),
// SMISMEMBER.
func (s Set[T]) ContainsMany(ctx context.Context, members ...T) (map[T]struct{}, error) {
	if len(members) == 0 {
		return map[T]struct{}{}, nil
	}
	var q query
	if err := q.beginRead(ctx, &s.Object, "Set.ContainsMany"); err != nil {
		return nil, err
	}
	defer q.end()
	if err := writeMembers(q.readMany(setType, "SMISMEMBER", len(members)), members); err != nil {
		return nil, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	e, err := q.p.Next().Elems()
	found := make(map[T]struct{}, len(members))
	for _, member := range members {
		if err != nil {
			break
		}
		var n int64
		if n, err = e.Next().Int(); n == 1 {
			found[member] = struct{}{}
		}
	}
	if err != nil {
		return nil, q.fail(err)
	}
	return found, nil
}

// Len returns the number of members. O(1), SCARD.
func (s Set[T]) Len(ctx context.Context) (int, error) {
	return s.length(ctx, "Set.Len", "SCARD")
}

// Pop removes a random member and returns it, or [ErrMiss]. O(1), SPOP.
func (s Set[T]) Pop(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.begin(ctx, &s.Object, "Set.Pop", 0); err != nil {
		return zero, err
	}
	defer q.end()
	q.cmd("SPOP")
	return readOne[T](ctx, &q)
}

// PopN removes up to n random members and returns them. O(n), SPOP.
func (s Set[T]) PopN(ctx context.Context, n int) ([]T, error) {
	if err := s.checkCount("Set.PopN", n); err != nil || n == 0 {
		return nil, err
	}
	var q query
	if err := q.begin(ctx, &s.Object, "Set.PopN", 0); err != nil {
		return nil, err
	}
	defer q.end()
	q.cmd("SPOP").Int(int64(n))
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	members, err := readSlice(q.p.Next(), readMember[T])
	if err != nil {
		return nil, q.fail(err)
	}
	return members, nil
}

// Random returns a random member without removing it, or [ErrMiss]. O(1),
// SRANDMEMBER.
func (s Set[T]) Random(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.beginRead(ctx, &s.Object, "Set.Random"); err != nil {
		return zero, err
	}
	defer q.end()
	q.read("SRANDMEMBER")
	return readOne[T](ctx, &q)
}

// readOne runs a query whose first reply is a member, or nil for a miss.
func readOne[T any](ctx context.Context, q *query) (T, error) {
	var zero T
	q.looks = true
	if err := q.run(ctx); err != nil {
		return zero, err
	}
	r := q.p.Next()
	if r.Kind() == driver.KindNil {
		return zero, q.fail(ErrMiss)
	}
	member, err := readMember[T](r)
	if err != nil {
		return zero, q.fail(err)
	}
	return member, nil
}

// Copy returns the whole set as a map, which is empty if there is no set. O(n),
// SMEMBERS; for large sets use All. With Options.Near, the map may be a copy of
// one kept in this process.
func (s Set[T]) Copy(ctx context.Context) (map[T]struct{}, error) {
	if all, ok := nearHit[map[T]struct{}](ctx, &s.Object, "Set.Copy"); ok {
		return maps.Clone(all), nil
	}
	var q query
	if err := q.beginRead(ctx, &s.Object, "Set.Copy"); err != nil {
		return nil, err
	}
	defer q.end()
	fill := q.nearFill(&s.Object)
	q.read("SMEMBERS")
	fill.Ask(q.p)
	all, err := runMembers[T](ctx, &q)
	if err == nil {
		nearPutMap(&fill, q.p.Next(), all)
	}
	return all, err
}

// All returns an iterator over the members, and a function that returns, after
// the loop, the error that stopped it, if any. The iterator reads a page per
// round trip (SSCAN). It behaves like that of [Dict.All].
func (s Set[T]) All(ctx context.Context) (iter.Seq[T], func() error) {
	var failed error
	all := func(yield func(T) bool) {
		failed = s.scan(ctx, "Set.All", "SSCAN", func(e *driver.Elems) (bool, error) {
			member, err := readMember[T](e.Next())
			return err == nil && yield(member), err
		})
	}
	return all, func() error { return failed }
}

// An algebra is one of the three operations between sets, in two forms: the
// command for sets on one shard, and a function for sets read from several.
type algebra[T comparable] struct {
	name    string // of the method
	cmd     string // the Redis command; cmd+STORE is the one that stores
	combine func(into, other map[T]struct{})
}

func union[T comparable]() algebra[T] {
	return algebra[T]{"Union", "SUNION", func(into, other map[T]struct{}) {
		maps.Copy(into, other)
	}}
}

func intersect[T comparable]() algebra[T] {
	return algebra[T]{"Intersect", "SINTER", func(into, other map[T]struct{}) {
		maps.DeleteFunc(into, func(member T, _ struct{}) bool {
			_, ok := other[member]
			return !ok
		})
	}}
}

func difference[T comparable]() algebra[T] {
	return algebra[T]{"Difference", "SDIFF", func(into, other map[T]struct{}) {
		for member := range other {
			delete(into, member)
		}
	}}
}

// Union returns the members of s and others. All sets must be on the connection
// of s. Sets on several shards, or in several slots of a Redis Cluster, are
// read at once and combined in this process, which is not atomic. O(n) for n
// members in total, SUNION.
func (s Set[T]) Union(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, union[T](), others)
}

// Intersect returns the members of s that are in all of others; see Union.
// SINTER.
func (s Set[T]) Intersect(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, intersect[T](), others)
}

// Difference returns the members of s that are in none of others; see Union.
// SDIFF.
func (s Set[T]) Difference(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, difference[T](), others)
}

// StoreUnion replaces s with the union of set and others and returns its size.
// The result gets the TTL of s, even under [FromCreation]; an empty result
// removes s. s may be one of the sources. On one shard this is one step,
// SUNIONSTORE and PEXPIRE. Over several, the sets are read first, then s is
// replaced in one transaction.
func (s Set[T]) StoreUnion(ctx context.Context, set Set[T], others ...Set[T]) (int, error) {
	return s.store(ctx, union[T](), set, others)
}

// StoreIntersect replaces s with the members of set that are in all of others;
// see StoreUnion. SINTERSTORE.
func (s Set[T]) StoreIntersect(ctx context.Context, set Set[T], others ...Set[T]) (int, error) {
	return s.store(ctx, intersect[T](), set, others)
}

// StoreDifference replaces s with the members of set that are in none of others;
// see StoreUnion. SDIFFSTORE.
func (s Set[T]) StoreDifference(ctx context.Context, set Set[T], others ...Set[T]) (int, error) {
	return s.store(ctx, difference[T](), set, others)
}

func (s Set[T]) algebra(ctx context.Context, a algebra[T], others []Set[T]) (map[T]struct{}, error) {
	var q query
	if err := q.begin(ctx, &s.Object, "Set."+a.name, driver.ReadOnly); err != nil {
		return nil, err
	}
	defer q.end()
	keys, err := operands(&q, s, others)
	switch {
	case err != nil:
		return nil, q.fail(err)
	case q.together(keys):
		appendKeys(q.p.Cmd(a.cmd), keys)
		return runMembers[T](ctx, &q)
	}
	set, err := combine(ctx, &q, a, keys)
	if err != nil {
		return nil, q.fail(err)
	}
	return set, nil
}

func (s Set[T]) store(ctx context.Context, a algebra[T], set Set[T], others []Set[T]) (int, error) {
	var q query
	if err := q.begin(ctx, &s.Object, "Set.Store"+a.name, driver.Atomic); err != nil {
		return 0, err
	}
	defer q.end()
	keys, err := operands(&q, s, append([]Set[T]{set}, others...))
	if err != nil {
		return 0, q.fail(err)
	}
	sources := keys[1:]
	if q.together(keys) {
		q.store(a.cmd+"STORE", keys)
		n, err := q.int(ctx)
		return int(n), err
	}
	if err := appendReplacement(ctx, &q, a, sources); err != nil {
		return 0, q.fail(err)
	}
	return lastCount(ctx, &q)
}

// storeWithExpiry runs a command that stores a combination of the other keys in
// the first, and then sets the expiry of the first, unless the command failed.
// ARGV: the command, milliseconds.
var storeWithExpiry = driver.NewScript(`
local reply = redis.pcall(ARGV[1], unpack(KEYS))
if type(reply) == 'number' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return reply
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	r := tx.Call(string(args[0]), keys...)
	stored := r.Kind() == driver.KindInt
	passOn(reply, r)
	if stored {
		tx.Call("PEXPIRE", keys[0], args[1])
	}
})

// store appends a command that stores. Its first key gets a new expiry
// under any policy, because the command removes the old value and its expiry.
func (q *query) store(name string, keys []string) {
	switch {
	case q.ms == 0:
		appendKeys(q.p.Cmd(name), keys)
	case len(keys) > maxScripted:
		appendKeys(q.p.Cmd(name), keys)
		q.cmd("PEXPIRE").Int(q.ms)
	default:
		q.p.Reset(0)
		appendKeys(q.p.Script(storeWithExpiry, len(keys)), keys)
		q.p.String(name).Int(q.ms)
	}
}

// appendReplacement reads sources from their shards, and appends the commands
// that replace the query's key with their combination.
func appendReplacement[T comparable](ctx context.Context, q *query, a algebra[T], sources []string) error {
	set, err := combine(ctx, q, a, sources)
	if err != nil {
		return err
	}
	q.cmd("DEL")
	if len(set) > 0 {
		p := q.cmd("SADD")
		for member := range set {
			if err := writeMember(p, member); err != nil {
				return err
			}
		}
	}
	if q.ms > 0 {
		q.cmd("PEXPIRE").Int(q.ms)
	}
	q.cmd("SCARD")
	return nil
}

// lastCount runs q and returns the last of its integers, the size of the stored
// set.
func lastCount(ctx context.Context, q *query) (int, error) {
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	var n int64
	for range q.p.Replies().Len() {
		var err error
		if n, err = q.p.Next().Int(); err != nil {
			return 0, q.fail(err)
		}
	}
	return int(n), nil
}

// operands returns the full keys of first, the object of q, and of others. A
// set without a key or on another connection is an error.
func operands[T comparable](q *query, first Set[T], others []Set[T]) ([]string, error) {
	keys := append(make([]string, 0, 1+len(others)), q.front+q.key)
	for i, other := range others {
		switch {
		case other.err != nil:
			return nil, fmt.Errorf("set %d: %w", i+1, other.err)
		case other.key == "":
			return nil, fmt.Errorf("set %d: %w", i+1, ErrNoKey)
		case other.opts.conn != first.opts.conn || other.opts.Connection != first.opts.Connection:
			return nil, fmt.Errorf("caches: set %d is on another connection: all sets of one operation must be on the same connection", i+1)
		}
		keys = append(keys, q.conn.front(other.opts.Version)+other.key)
	}
	return keys, nil
}

func appendKeys(p *driver.Pipeline, keys []string) {
	for _, key := range keys {
		p.Key(key)
	}
}

// together reports whether one command may take all keys: they are on the
// query's shard, and in its slot if the shard is a cluster.
func (q *query) together(keys []string) bool {
	divided, _ := q.conn.shards[q.shard].store.(driver.Cluster)
	for _, key := range keys {
		if q.conn.shardOf("", key) != q.shard || divided != nil && divided.Slot("", key) != divided.Slot(q.front, q.key) {
			return false
		}
	}
	return true
}

// runMembers runs a query whose reply is an array of members.
func runMembers[T comparable](ctx context.Context, q *query) (map[T]struct{}, error) {
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	set, err := readMembers[T](q.p.Next())
	if err != nil {
		return nil, q.fail(err)
	}
	return set, nil
}

// combine reads the sets at keys, all shards at once, and combines them in
// order.
func combine[T comparable](ctx context.Context, q *query, a algebra[T], keys []string) (map[T]struct{}, error) {
	sets := make([]map[T]struct{}, len(keys))
	groups := q.conn.group("", keys)
	errs := eachShard(ctx, q.conn, driver.ReadOnly, groups, func(p *driver.Pipeline, group []int) error {
		for _, i := range group {
			p.Cmd("SMEMBERS").Key(keys[i])
		}
		return nil
	}, func(p *driver.Pipeline, group []int) (err error) {
		for _, i := range group {
			if sets[i], err = readMembers[T](p.Next()); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, other := range sets[1:] {
		a.combine(sets[0], other)
	}
	return sets[0], nil
}
