package caches

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
)

// sortedTags returns tags sorted, without duplicates.
func sortedTags(tags []string) []string {
	if len(tags) < 2 {
		return tags
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return slices.Compact(tags)
}

// InvalidateTags invalidates all entries with any of tags, on the connection of the
// context or else the default one; see [Conn.InvalidateTags].
func InvalidateTags(ctx context.Context, tags ...string) error {
	conn, err := resolve(ctx, nil, "")
	if err != nil {
		return &OpError{Op: "InvalidateTags", Err: err}
	}
	return conn.InvalidateTags(ctx, tags...)
}

// InvalidateTags invalidates all entries on the connection with any of tags:
// results of [Cached] functions and values of [Value.Tagged]. Once it has returned
// nil, no later read in any process finds them, except that a process that keeps
// them [Near] may find them until it hears of the change. A result that is being
// computed is not stored. After an error some entries may still be found: a shard
// could not be asked. It is safe to invalidate twice.
//
// O(len(tags)), however many entries carry them: UNLINK, one round trip per shard,
// all shards at once.
func (c *Conn) InvalidateTags(ctx context.Context, tags ...string) error {
	keys := make([]string, len(tags))
	for i, tag := range tags {
		keys[i] = layout.Tag(tag)
	}
	begun, groups := time.Now(), c.group(c.prefix, keys)
	errs := eachShard(ctx, c, driver.Repeatable, groups, func(p *driver.Pipeline, group []int) error {
		for _, i := range group { // one by one: their slots may differ
			p.CmdKey("UNLINK", c.prefix, keys[i])
		}
		return nil
	}, func(p *driver.Pipeline, group []int) error {
		return errors.Join(restOf(p)...)
	})
	for shard, group := range groups {
		for _, i := range group {
			c.near.Changed(shard, c.prefix+keys[i])
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		err = &OpError{Op: "InvalidateTags", Err: classify(err)}
	}
	c.witness(&Options{}, nil).invalidation(ctx, &CallInfo{Op: "InvalidateTags", Tags: tags, Elapsed: time.Since(begun), Err: err})
	return err
}

// restOf returns the errors among the remaining replies.
func restOf(p *driver.Pipeline) (errs []error) {
	for range p.Len() {
		if err := p.Next().Err(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// InvalidateAll invalidates all results of [Cached] functions and all
// [Value.Tagged] values under the Prefix and Version of the type. Values stored by
// Set remain; see Clear. After an error some entries may still be found; see
// [Conn.InvalidateTags]. O(1) for each shard, UNLINK, all shards at once.
func (c Cache[T]) InvalidateAll(ctx context.Context) error {
	return (*Options)(&c).invalidateAll(ctx, "Cache.InvalidateAll", nil)
}

func (o *Options) invalidateAll(ctx context.Context, op string, fn *observer) error {
	var t target
	if err := t.aimAt(ctx, o, op); err != nil {
		return err
	}
	t.key = layout.NamespaceFront + o.Prefix
	begun, key := time.Now(), t.front+t.key
	err := t.conn.previous.forget(ctx, key)
	if err == nil {
		err = t.conn.shards.every(func(shard int) error {
			defer t.conn.near.Changed(shard, key)
			return t.conn.shards[shard].unlink(ctx, key)
		})
	}
	if err != nil {
		err = t.fail(err)
	}
	t.conn.witness(o, fn).invalidation(ctx, &CallInfo{Op: op, Elapsed: time.Since(begun), Err: err})
	return err
}

// A Tagged is one value with tags; see [Value.Tagged].
type Tagged[T any] struct {
	object Value[T]
	tags   []string
}

// Tagged returns the object with tags. A value that it stores is valid until one of
// the tags is invalidated by [InvalidateTags], or the type by
// [Cache.InvalidateAll]. Read the value through the same tags.
//
//	err := profiles.Key(42).Tagged("team:7").Set(ctx, p)
//
// The value is stored in an envelope with the stamps of its tags. Every Set
// restarts the TTL, also with [FromCreation]. An entry carries at most 65,534 tags.
func (v Value[T]) Tagged(tags ...string) Tagged[T] {
	return Tagged[T]{v, sortedTags(tags)}
}

// String returns the full key; see [Object].
func (t Tagged[T]) String() string { return t.object.String() }

// Get returns the value, or [ErrMiss]. O(1), MGET of the value and the stamps: one
// round trip, all shards at once.
func (t Tagged[T]) Get(ctx context.Context) (T, error) {
	var zero T
	s, err := newSubject(ctx, &t.object.Object, "Tagged.Get", t.tags)
	if err != nil {
		return zero, err
	}
	found, err := look[T](ctx, s)
	if err == nil && found.reason != MissNone {
		err = ErrMiss
	}
	if err != nil {
		return zero, s.end(ctx, hitIf(false), &found.finding, err)
	}
	return found.value, s.end(ctx, found.hit(), &found.finding, nil)
}

// GetOr is Get with def in place of [ErrMiss]. Other errors are returned, beside
// def.
func (t Tagged[T]) GetOr(ctx context.Context, def T) (T, error) {
	return orDefault(def)(t.Get(ctx))
}

// Set stores v under the current stamps of the tags. It does not notice that a tag
// was invalidated while the caller computed v; use [Cached] for that. Two round
// trips: SET NX GET of the stamps, then SET with PX.
func (t Tagged[T]) Set(ctx context.Context, v T) error {
	s, err := newSubject(ctx, &t.object.Object, "Tagged.Set", t.tags)
	if err != nil {
		return err
	}
	return s.end(ctx, LookupNone, &finding{}, t.set(ctx, s, v))
}

func (t Tagged[T]) set(ctx context.Context, s *subject, v T) error {
	payload, err := t.object.opts.serializerAt(s.front, s.key).Marshal(v)
	if err != nil {
		return err
	}
	stamps, err := s.takeStamps(ctx)
	if err != nil {
		return err
	}
	defer s.space().Drop(s.key)
	e := layout.Entry{Created: time.Now(), TTL: time.Duration(s.ms) * time.Millisecond, Stamps: stamps}
	p := driver.NewPipeline(0)
	defer p.Free()
	p.CmdKey("SET", s.front, s.key).Bytes(e.Append(nil, s.front, s.key, payload))
	if s.ms > 0 {
		p.String("PX").Int(s.ms)
	}
	if err := s.conn.do(ctx, s.shard, p); err != nil {
		return err
	}
	_, err = present(p.Next())
	return err
}

// Delete removes the value; see [Value.Delete].
func (t Tagged[T]) Delete(ctx context.Context) (deleted bool, err error) { return t.object.Delete(ctx) }
