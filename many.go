package caches

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/near"
	"github.com/gocaches/caches/internal/tally"
)

// begun returns the current time if the connection has hooks.
func (m *many) begun() (now time.Time) {
	if m.conn.observer != nil {
		now = time.Now()
	}
	return now
}

// witness counts a finished operation on many keys and tells the hooks, unless
// the caller does (quiet).
func (m *many) witness(ctx context.Context, begun time.Time, err error) {
	w := m.conn.witness(&m.opts, nil)
	if m.near == 0 || m.hits+m.misses > 0 || err != nil {
		w.Many(m.hits, m.misses, err != nil)
	}
	w.Add(tally.NearHit, int64(m.near))
	if m.quiet || !w.heard() {
		return
	}
	w.called(ctx, &CallInfo{Op: m.op, Hits: m.hits + m.near, Misses: m.misses, Elapsed: time.Since(begun), Err: err})
}

// nearMany moves the values that are kept near to found and removes their keys
// from m. It begins a fill for each remaining key, and returns the remaining
// keys.
func nearMany[K comparable, T any](m *many, keys []K, found map[K]T) []K {
	s := m.space()
	if s == nil {
		return keys
	}
	rest := make([]K, 0, len(keys))
	left := m.keys[:0]
	for i, key := range m.keys {
		if v, ok := near.Get[T](s, key); ok && !m.opts.fresh {
			found[keys[i]] = v
			m.near++
			continue
		}
		rest, left = append(rest, keys[i]), append(left, key)
		m.fills = append(m.fills, s.Fill(m.conn.shardOf(m.front, key), key))
	}
	m.keys = left
	return rest
}

// GetMany returns the values at c.Key(k) for every k of keys. Keys without a
// value are not in the map. O(len(keys)), MGET in one round trip per shard, all
// shards at once (GETEX under [SlideOnRead]). A key that holds another Redis
// data type counts as missing, as in MGET; under SlideOnRead it is
// [ErrWrongType]. Values that are kept near are not requested; with
// Options.Near, PTTL of the other keys is sent along with MGET.
//
// If some keys cannot be read, GetMany returns the other values together with a
// *[KeysError] for the failed keys.
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
		v, err := readValue[T](m.opts.serializerAt(m.front, m.keys[i]), data)
		if err == nil {
			found[asked[i]] = v
		}
		return err
	})
	return found, err
}

// SetMany stores every items[k] at c.Key(k). Each value is stored with its
// expiry or not at all. On failure the error is a *[KeysError] for the keys
// that were not, or may not have been, stored. If a value cannot be serialized,
// nothing is stored. O(len(items)), SET with PX, one round trip per shard, all
// shards at once.
func SetMany[K comparable, T any](ctx context.Context, c Cache[T], items map[K]T) error {
	keys := make([]K, 0, len(items))
	for k := range items {
		keys = append(keys, k)
	}
	m, err := newMany(ctx, "SetMany", c, keys)
	if err != nil || len(keys) == 0 {
		return err
	}
	q := query{target: m.target}
	return m.run(ctx, 0, func(p *driver.Pipeline, group []int) error {
		q.p = p
		for _, i := range group {
			q.key = m.keys[i]
			if err := appendSet(&q, m.opts.serializerAt(q.front, q.key), items[keys[i]]); err != nil {
				return fmt.Errorf("the value for %q: %w", m.front+q.key, err)
			}
		}
		return nil
	}, m.statuses)
}

// DeleteMany removes the values at c.Key(k) for every k of keys and returns the
// number removed. On failure the error is a *[KeysError] for the keys that may
// still exist. O(len(keys)), UNLINK, one round trip per shard, all shards at
// once.
func DeleteMany[K comparable, T any](ctx context.Context, c Cache[T], keys []K) (int, error) {
	m, err := newMany(ctx, "DeleteMany", c, keys)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	total := 0
	err = m.run(ctx, 0, func(p *driver.Pipeline, group []int) error {
		for part := range slices.Chunk(group, chunk) { // their leases first; see Value.Delete
			p.Cmd("UNLINK")
			for _, i := range part {
				p.Key(layout.Lease(m.front, m.keys[i]))
			}
		}
		m.chunks(p, "UNLINK", group)
		return nil
	}, func(p *driver.Pipeline, group []int) {
		for part := range slices.Chunk(group, chunk) {
			m.record(part, p.Next().Err())
		}
		for part := range slices.Chunk(group, chunk) {
			n, err := p.Next().Int()
			m.record(part, err)
			total += int(n)
		}
	})
	return total, err
}

// many is an operation on many values of one type.
type many struct {
	target // of the type
	opts   Options
	keys   []string
	// The error of each key; errs is nil if no key has one. Only the goroutine
	// that reads the replies writes errs, hits and misses.
	errs         []error
	hits, misses int
	quiet        bool // the caller tells the hooks of the whole call

	near  int                           // values found near
	fills []near.Fill                   // one per key, nil for none
	kept  func(i int, ttl driver.Reply) // receives the remaining TTL of a key
}

// space returns the near space of the type, or nil if its values are not kept
// near.
func (m *many) space() *near.Space { return m.conn.nearSpace(&m.opts) }

func newMany[K comparable, T any](ctx context.Context, op string, c Cache[T], keys []K) (*many, error) {
	m := &many{opts: Options(c), keys: make([]string, len(keys))}
	if err := m.aimAt(ctx, &m.opts, op); err != nil {
		return nil, err
	}
	if err := m.expiry(&m.opts); err != nil {
		return nil, err
	}
	for i, k := range keys {
		object := c.Key(k)
		if object.err != nil {
			return nil, m.fail(object.err)
		}
		m.keys[i] = object.key
	}
	return m, nil
}

// get reads the strings at all keys and passes each one that exists to found.
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
			m.record(part, err)
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

// each appends one command per key.
func (m *many) each(p *driver.Pipeline, cmd string, group []int) {
	for _, i := range group {
		p.CmdKey(cmd, m.front, m.keys[i])
	}
}

// getSliding is get for types whose reads restart the TTL, which MGET cannot
// do.
func (m *many) getSliding(ctx context.Context, found func(data []byte, i int) error) error {
	return m.run(ctx, driver.Repeatable, func(p *driver.Pipeline, group []int) error {
		q := query{target: m.target, p: p}
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

// value passes one value to found and records the error of its key, if any.
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
	m.record([]int{i}, err)
}

// statuses reads one reply per key, none of them nil, and records the errors.
func (m *many) statuses(p *driver.Pipeline, group []int) {
	for n := range group {
		_, err := present(p.Next())
		m.record(group[n:n+1], err)
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
// one error for the keys that failed.
func (m *many) run(ctx context.Context, mode driver.Mode, write func(p *driver.Pipeline, group []int) error, read func(p *driver.Pipeline, group []int)) error {
	begun := m.begun()
	groups := m.conn.group(m.front, m.keys)
	errs := eachShard(ctx, m.conn, mode, groups, write, func(p *driver.Pipeline, group []int) error {
		read(p, group)
		return nil
	})
	for shard, err := range errs {
		m.record(groups[shard], err)
	}
	if s := m.space(); s != nil && mode&driver.ReadOnly == 0 {
		for _, key := range m.keys {
			s.Drop(key)
		}
	}
	err := m.err()
	m.witness(ctx, begun, err)
	return err
}

// record records err, unless it is nil, for some of the keys.
func (m *many) record(group []int, err error) {
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

// err returns one error for all keys that failed. Keys of one shard usually
// fail for the same reason, which is reported once.
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
