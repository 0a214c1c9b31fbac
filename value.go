package caches

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// chunk is how many keys one command of an operation on many has: a server runs
// nothing else during a command.
const chunk = 1000

// GetMany returns the values of those keys that have one: of c.Key(k) for every
// k of keys. Keys that are not there are not in the map. O(len(keys)), MGET in
// one round trip per shard, all shards at once (GETEX under [SlideOnRead]). A
// key that holds another Redis data type counts as not there, as it does for
// MGET; under SlideOnRead it is [ErrWrongType]. With Options.Near, those that are
// in this process are not asked for, and PTTL of the others goes with MGET.
//
// What could be read is returned beside an error, which holds a [KeysError] for
// the keys that could not.
func GetMany[K comparable, T any](ctx context.Context, c Cache[T], keys []K) (map[K]T, error) {
	m, err := newMany(ctx, "GetMany", c, keys)
	if err != nil || len(keys) == 0 {
		return map[K]T{}, err
	}
	found := make(map[K]T, len(keys))
	asked := nearMany(m, keys, found)
	if m.fills != nil {
		m.kept = func(i int, ttl driver.Reply) {
			if v, ok := found[asked[i]]; ok {
				nearPut(&m.fills[i], ttl, v)
			}
		}
	}
	err = m.get(ctx, func(data []byte, i int) error {
		v, err := readValue[T](m.opts.serializer(), data)
		if err == nil {
			found[asked[i]] = v
		}
		return err
	})
	return found, err
}

// SetMany stores every value of items under c.Key(k). Each is stored with its
// expiry or not at all; the error holds a [KeysError] for those that were not,
// or may not have been. Where one does not serialize, nothing is stored.
// O(len(items)), SET with PX, one round trip per shard, all shards at once.
func SetMany[K comparable, T any](ctx context.Context, c Cache[T], items map[K]T) error {
	keys := make([]K, 0, len(items))
	for k := range items {
		keys = append(keys, k)
	}
	m, err := newMany(ctx, "SetMany", c, keys)
	if err != nil || len(keys) == 0 {
		return err
	}
	q := query{front: m.front, ms: m.ms, fixed: m.opts.TTLPolicy == FromCreation}
	return m.run(ctx, 0, func(p *driver.Pipeline, group []int) error {
		q.p = p
		for _, i := range group {
			q.key = m.keys[i]
			if err := appendSet(&q, m.opts.serializer(), items[keys[i]]); err != nil {
				return fmt.Errorf("the value for %q: %w", m.front+q.key, err)
			}
		}
		return nil
	}, m.statuses)
}

// DeleteMany removes the values at c.Key(k) for every k of keys and returns how
// many there were. O(len(keys)), UNLINK, one round trip per shard, all shards at
// once. The error holds a [KeysError] for the keys that may still be there.
func DeleteMany[K comparable, T any](ctx context.Context, c Cache[T], keys []K) (int, error) {
	m, err := newMany(ctx, "DeleteMany", c, keys)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	total := 0
	err = m.run(ctx, 0, func(p *driver.Pipeline, group []int) error {
		m.chunks(p, "UNLINK", group)
		for part := range slices.Chunk(group, chunk) { // their leases; see Delete
			p.Cmd("UNLINK")
			for _, i := range part {
				p.Key(sideKey(m.front, m.keys[i], leaseEnd))
			}
		}
		return nil
	}, func(p *driver.Pipeline, group []int) {
		for part := range slices.Chunk(group, chunk) {
			n, err := p.Next().Int()
			m.fail(part, err)
			total += int(n)
		}
		for part := range slices.Chunk(group, chunk) {
			m.fail(part, p.Next().Err())
		}
	})
	return total, err
}

// many is an operation on many values of one type.
type many struct {
	op    string
	opts  Options
	conn  *Conn
	front string
	ms    int64 // the time to live, as in a query
	keys  []string
	// The error of each key, nil where none has one. Only the one goroutine
	// that reads replies writes it, and what it found.
	errs         []error
	hits, misses int
	quiet        bool // a step of a call that hooks are told of as a whole

	near  int                           // values that were found near
	fills []nearFill                    // one for each of keys, nil for none
	kept  func(i int, ttl driver.Reply) // takes the time that the value of a key has left
}

// space returns where values are kept near, nil for nowhere.
func (m *many) space() *nearSpace {
	if m.opts.Near == nil {
		return nil
	}
	return m.conn.nearSpace(&m.opts)
}

func newMany[K comparable, T any](ctx context.Context, op string, c Cache[T], keys []K) (*many, error) {
	conn, err := resolve(ctx, c.Options.conn, c.Options.Connection)
	if err != nil {
		return nil, &OpError{Op: op, Err: err}
	}
	m := &many{op: op, opts: c.Options, conn: conn, front: conn.front(c.Options.Version), keys: make([]string, len(keys))}
	if m.ms, err = m.opts.ttl(conn); err != nil {
		return nil, &OpError{Op: op, Err: err}
	}
	for i, k := range keys {
		object := c.Key(k)
		if object.err != nil {
			return nil, &OpError{Op: op, Err: object.err}
		}
		m.keys[i] = object.key
	}
	return m, nil
}

// get reads the strings at all keys and gives each that is there to found.
func (m *many) get(ctx context.Context, found func(data []byte, i int) error) error {
	if m.opts.TTLPolicy == SlideOnRead {
		return m.getSliding(ctx, found)
	}
	mode := driver.ReadOnly
	if m.fills != nil { // see query.begin
		mode |= driver.Master
	}
	return m.run(ctx, mode, func(p *driver.Pipeline, group []int) error {
		m.chunks(p, "MGET", group)
		if m.fills != nil {
			m.each(p, "PTTL", group)
		}
		return nil
	}, func(p *driver.Pipeline, group []int) {
		for part := range slices.Chunk(group, chunk) {
			e, err := p.Next().Elems()
			m.fail(part, err)
			for n := 0; err == nil && n < len(part); n++ {
				m.value(e.Next(), part[n], found)
			}
		}
		if m.fills != nil {
			for _, i := range group {
				m.kept(i, p.Next())
			}
		}
	})
}

// each appends one command for each key.
func (m *many) each(p *driver.Pipeline, cmd string, group []int) {
	for _, i := range group {
		p.CmdKey(cmd, m.front, m.keys[i])
	}
}

// getSliding is get for types whose reads start the time to live again: MGET
// cannot.
func (m *many) getSliding(ctx context.Context, found func(data []byte, i int) error) error {
	return m.run(ctx, driver.Repeatable, func(p *driver.Pipeline, group []int) error {
		q := query{front: m.front, ms: m.ms, slide: m.ms > 0, p: p}
		for _, i := range group {
			q.key = m.keys[i]
			q.get()
		}
		return nil
	}, func(p *driver.Pipeline, group []int) {
		for _, i := range group {
			m.value(p.Next(), i, found)
		}
	})
}

// value gives one value to found, and notes the error of its key.
func (m *many) value(r driver.Reply, i int, found func([]byte, int) error) {
	data, ok, err := r.Bytes()
	if err == nil && ok {
		err = found(data, i)
	}
	switch {
	case err != nil:
	case ok:
		m.hits++
	default:
		m.misses++
	}
	m.fail([]int{i}, err)
}

// statuses reads one reply per key, and notes the errors.
func (m *many) statuses(p *driver.Pipeline, group []int) {
	for n := range group {
		m.fail(group[n:n+1], p.Next().Err())
	}
}

// chunks appends commands of up to chunk keys each.
func (m *many) chunks(p *driver.Pipeline, cmd string, group []int) {
	for part := range slices.Chunk(group, chunk) {
		p.Cmd(cmd)
		for _, i := range part {
			p.Key(m.front, m.keys[i])
		}
	}
}

// run sends one pipeline to each shard that has keys, all at once, and returns
// what failed, by keys.
func (m *many) run(ctx context.Context, mode driver.Mode, write func(p *driver.Pipeline, group []int) error, read func(p *driver.Pipeline, group []int)) error {
	begun := m.begun()
	groups := m.conn.group(m.front, m.keys)
	errs := eachShard(ctx, m.conn, mode, groups, write, func(p *driver.Pipeline, group []int) error {
		read(p, group)
		return nil
	})
	for shard, err := range errs {
		m.fail(groups[shard], err)
	}
	if s := m.space(); s != nil && mode&driver.ReadOnly == 0 {
		for _, key := range m.keys {
			s.drop(key)
		}
	}
	err := m.err()
	m.witness(ctx, begun, err)
	return err
}

// fail notes err, if it is one, for some of the keys.
func (m *many) fail(group []int, err error) {
	if err == nil {
		return
	}
	if m.errs == nil {
		m.errs = make([]error, len(m.keys))
	}
	err = classify(err)
	for _, i := range group {
		m.errs[i] = err
	}
}

// err returns one error for all keys that failed. Keys of one shard mostly fail
// for one reason, which is said once.
func (m *many) err() error {
	if m.errs == nil {
		return nil
	}
	var keys []string
	var causes []error
	said := make(map[string]bool)
	for i, err := range m.errs {
		if err == nil {
			continue
		}
		keys = append(keys, m.front+m.keys[i])
		if text := err.Error(); !said[text] {
			said[text], causes = true, append(causes, err)
		}
	}
	return &KeysError{Op: m.op, Keys: keys, Err: errors.Join(causes...)}
}

// eachShard writes one pipeline for each shard with a group of keys, sends them
// all at once, and reads the replies, one shard after the other on the caller's
// goroutine. It returns the error of each shard, by its index. An error of
// write, which is bad input, is that of all: nothing is sent to any.
func eachShard(ctx context.Context, conn *Conn, mode driver.Mode, groups [][]int, write, read func(p *driver.Pipeline, group []int) error) []error {
	ps := make([]*driver.Pipeline, len(groups))
	errs := make([]error, len(groups))
	defer func() {
		for _, p := range ps {
			if p != nil {
				p.Free()
			}
		}
	}()
	for shard, group := range groups {
		if len(group) == 0 {
			continue
		}
		ps[shard] = driver.NewPipeline(mode)
		if err := write(ps[shard], group); err != nil {
			return everyShard(groups, err)
		}
	}
	failed := conn.doEach(ctx, ps)
	for shard, p := range ps {
		switch {
		case p == nil:
		case failed != nil && failed[shard] != nil:
			errs[shard] = failed[shard]
		default:
			errs[shard] = read(p, groups[shard])
		}
	}
	return errs
}

func everyShard(groups [][]int, err error) []error {
	errs := make([]error, len(groups))
	for shard, group := range groups {
		if len(group) > 0 {
			errs[shard] = err
		}
	}
	return errs
}

// orDefault puts def in place of a miss, and beside any other error.
func orDefault[T any](def T) func(v T, err error) (T, error) {
	return func(v T, err error) (T, error) {
		switch {
		case err == nil:
			return v, nil
		case errors.Is(err, ErrMiss):
			return def, nil
		}
		return def, err
	}
}
