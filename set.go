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

// SetCache is a type of sets: [SetCache.Key] returns the set at a key. Its
// fields are those of [Options]; Serializer is not used.
//
// Members are stored as text if T is a scalar or an encoding.TextMarshaler, and
// as JSON if it is a struct or an array of those. A T of another type is the
// error of every operation.
//
// A struct that embeds a type with a MarshalText method has that method too: its
// other fields are then not part of its text, and members that differ only in
// them are the same member. Give such a struct a MarshalText method of its own.
type SetCache[T comparable] Options

// Key returns the set at a key; see [Cache.Key].
func (s SetCache[T]) Key(parts ...any) Set[T] { return Set[T]{(*Options)(&s).object(parts)} }

// On returns a copy of s that uses conn, whatever Connection and the context
// say. Nil removes an earlier conn.
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
func (s SetCache[T]) Clear(ctx context.Context) (int64, error) {
	return (*Options)(&s).clear(ctx, "SetCache.Clear")
}

// Set is one set: a Redis set of members of type T. [SetCache.Key] returns it.
// The time to live is that of the whole set. An empty set does not exist:
// removing the last member removes the set and its expiry.
type Set[T comparable] struct{ Object }

// Key returns the set whose key is that of s followed by parts; see
// [Cache.Key].
func (s Set[T]) Key(parts ...any) Set[T] { return Set[T]{s.below(parts)} }

// On returns a copy of s that uses conn; see [SetCache.On].
func (s Set[T]) On(conn *Conn) Set[T] { return Set[T]{s.on(conn)} }

// WithTTL returns a copy of s with a time to live of its own: ttl replaces that
// of the type, as [Options] describes it.
func (s Set[T]) WithTTL(ttl time.Duration) Set[T] { return Set[T]{s.withTTL(ttl)} }

// Fresh returns a copy of s whose reads bypass the near cache; see [SetCache.Fresh].
func (s Set[T]) Fresh() Set[T] { return Set[T]{s.afresh()} }

// Add adds members and returns how many were not there before.
// O(len(members)), SADD and PEXPIRE in one step.
func (s Set[T]) Add(ctx context.Context, members ...T) (added int, err error) {
	if len(members) == 0 {
		return 0, nil
	}
	var q query
	if err := q.begin(ctx, &s.Object, "SetCache.Add", 0); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeMembers(q.write("SADD", len(members)), members); err != nil {
		return 0, q.fail(err)
	}
	q.expire()
	n, err := q.int(ctx)
	return int(n), err
}

// Update adds all members of other, such as another set's Copy, and returns how
// many were not there before; see Add.
func (s Set[T]) Update(ctx context.Context, other map[T]struct{}) (added int, err error) {
	return s.Add(ctx, slices.Collect(maps.Keys(other))...)
}

// Remove removes members and returns how many there were. O(len(members)), SREM.
func (s Set[T]) Remove(ctx context.Context, members ...T) (removed int, err error) {
	return removeMembers(ctx, s.Object, "SetCache.Remove", "SREM", members)
}

// Contains reports whether member is in the set. O(1), SISMEMBER.
func (s Set[T]) Contains(ctx context.Context, member T) (bool, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, "SetCache.Contains"); err != nil {
		return false, err
	}
	defer q.end()
	if err := writeMember(q.read("SISMEMBER", 1), member); err != nil {
		return false, q.fail(err)
	}
	q.slid()
	n, err := q.int(ctx)
	return n == 1, err
}

// ContainsMany returns those of members that are in the set.
// O(len(members)), SMISMEMBER.
func (s Set[T]) ContainsMany(ctx context.Context, members ...T) (map[T]struct{}, error) {
	if len(members) == 0 {
		return map[T]struct{}{}, nil
	}
	var q query
	if err := q.beginRead(ctx, &s.Object, "SetCache.ContainsMany"); err != nil {
		return nil, err
	}
	defer q.end()
	if err := writeMembers(q.read("SMISMEMBER", len(members)), members); err != nil {
		return nil, q.fail(err)
	}
	q.slid()
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
	return s.length(ctx, "SetCache.Len", "SCARD")
}

// Pop removes a random member and returns it, or [ErrMiss]. O(1), SPOP.
func (s Set[T]) Pop(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.begin(ctx, &s.Object, "SetCache.Pop", 0); err != nil {
		return zero, err
	}
	defer q.end()
	q.cmd("SPOP")
	return readOne[T](ctx, &q)
}

// PopN removes up to n random members and returns them. O(n), SPOP.
func (s Set[T]) PopN(ctx context.Context, n int) ([]T, error) {
	if err := s.checkCount("SetCache.PopN", n); err != nil || n == 0 {
		return nil, err
	}
	var q query
	if err := q.begin(ctx, &s.Object, "SetCache.PopN", 0); err != nil {
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

// Random returns a random member, which stays, or [ErrMiss]. O(1), SRANDMEMBER.
func (s Set[T]) Random(ctx context.Context) (T, error) {
	var zero T
	var q query
	if err := q.beginRead(ctx, &s.Object, "SetCache.Random"); err != nil {
		return zero, err
	}
	defer q.end()
	q.read("SRANDMEMBER", 0)
	q.slid()
	return readOne[T](ctx, &q)
}

// readOne runs a query whose first reply is a member, nil for a miss.
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

// Copy returns the whole set, empty where there is none. O(n), SMEMBERS: for
// large sets see All. With Options.Near, the map may be copied from one in this
// process.
func (s Set[T]) Copy(ctx context.Context) (map[T]struct{}, error) {
	if all, ok := nearHit[map[T]struct{}](ctx, &s.Object, "SetCache.Copy"); ok {
		return maps.Clone(all), nil
	}
	var q query
	if err := q.beginRead(ctx, &s.Object, "SetCache.Copy"); err != nil {
		return nil, err
	}
	defer q.end()
	fill := q.nearFill(&s.Object)
	q.read("SMEMBERS", 0)
	q.slid()
	fill.ask(q.p)
	all, err := runMembers[T](ctx, &q)
	if err == nil {
		nearPutMap(&fill, q.p.Next(), all)
	}
	return all, err
}

// All iterates over the members, a page per round trip (SSCAN); the function
// beside it reports what stopped the iteration, if anything did. What holds of
// [DictCache.All] holds here.
func (s Set[T]) All(ctx context.Context) (iter.Seq[T], func() error) {
	var failed error
	all := func(yield func(T) bool) {
		failed = s.scan(ctx, "SetCache.All", "SSCAN", func(e *driver.Elems) (bool, error) {
			member, err := readMember[T](e.Next())
			return err == nil && yield(member), err
		})
	}
	return all, func() error { return failed }
}

// An algebra is one of the three operations between sets: the command that the
// server has for sets on one shard, and the same for sets read from several.
type algebra[T comparable] struct {
	name    string // of the method
	cmd     string // Redis' command; with STORE behind it, the one that stores
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

// Union returns the members of s and others. O(n) in their members, SUNION. Sets
// on several shards are read at once and put together here, which is not atomic.
// All sets of one operation are on s's connection.
func (s Set[T]) Union(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, union[T](), others)
}

// Intersect returns the members of s that all others have; see Union. SINTER.
func (s Set[T]) Intersect(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, intersect[T](), others)
}

// Difference returns the members of s that none of others has; see Union. SDIFF.
func (s Set[T]) Difference(ctx context.Context, others ...Set[T]) (map[T]struct{}, error) {
	return s.algebra(ctx, difference[T](), others)
}

// UnionStore makes dst the union of s and others, whatever was there, with dst's
// own time to live, and returns its size. dst may be one of them; an empty
// result removes it. On one shard this is one step, SUNIONSTORE and
// PEXPIRE; over several the sets are read, then dst is replaced in one
// transaction.
func (s Set[T]) UnionStore(ctx context.Context, dst Set[T], others ...Set[T]) (int, error) {
	return s.algebraStore(ctx, union[T](), dst, others)
}

// IntersectStore makes dst the intersection of s and others; see UnionStore.
// SINTERSTORE.
func (s Set[T]) IntersectStore(ctx context.Context, dst Set[T], others ...Set[T]) (int, error) {
	return s.algebraStore(ctx, intersect[T](), dst, others)
}

// DifferenceStore makes dst the difference of s and others; see UnionStore.
// SDIFFSTORE.
func (s Set[T]) DifferenceStore(ctx context.Context, dst Set[T], others ...Set[T]) (int, error) {
	return s.algebraStore(ctx, difference[T](), dst, others)
}

func (s Set[T]) algebra(ctx context.Context, a algebra[T], others []Set[T]) (map[T]struct{}, error) {
	var q query
	if err := q.begin(ctx, &s.Object, "SetCache."+a.name, driver.ReadOnly); err != nil {
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

func (s Set[T]) algebraStore(ctx context.Context, a algebra[T], dst Set[T], others []Set[T]) (int, error) {
	var q query
	if err := q.begin(ctx, &dst.Object, "SetCache."+a.name+"Store", driver.Atomic); err != nil {
		return 0, err
	}
	defer q.end()
	keys, err := operands(&q, dst, append([]Set[T]{s}, others...))
	if err != nil {
		return 0, q.fail(err)
	}
	sources := keys[1:]
	if q.together(keys) {
		q.algebraStore(a.cmd+"STORE", keys)
		n, err := q.int(ctx)
		return int(n), err
	}
	if err := appendReplacement(ctx, &q, a, sources); err != nil {
		return 0, q.fail(err)
	}
	return lastCount(ctx, &q)
}

// storeWithExpiry runs a command that stores a combination of the other keys in
// the first, and sets that one's expiry, unless the command failed. ARGV: the
// command, milliseconds.
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

// algebraStore appends a command that stores. The first key is new, whatever its
// policy: what expiry it had went with what was there.
func (q *query) algebraStore(name string, keys []string) {
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

// appendReplacement reads sources from their shards, and appends what makes the
// query's key their combination.
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

// lastCount runs q and returns the last of its integers: the size of what was
// stored.
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

// operands returns the full keys of first, which q is about, and of others. A
// set without a key, or on another connection, is an error.
func operands[T comparable](q *query, first Set[T], others []Set[T]) ([]string, error) {
	keys := append(make([]string, 0, 1+len(others)), q.front+q.key)
	for i, other := range others {
		switch {
		case other.err != nil:
			return nil, fmt.Errorf("set %d: %w", i+1, other.err)
		case other.key == "":
			return nil, fmt.Errorf("set %d: %w", i+1, ErrNoKey)
		case other.opts.conn != first.opts.conn || other.opts.Connection != first.opts.Connection:
			return nil, fmt.Errorf("caches: set %d is on another connection: sets of one operation live on one", i+1)
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

// together reports whether all keys are on the query's shard, and in its slot
// where the shard is a cluster: so that one command may have them all.
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
