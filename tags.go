package caches

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// sortedTags puts tags in an order of their own, each once.
func sortedTags(tags []string) []string {
	if len(tags) < 2 {
		return tags
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return slices.Compact(tags)
}

// InvalidateTags invalidates everything that carries one of tags, on the
// connection of the context or else the default one; see [Conn.InvalidateTags].
func InvalidateTags(ctx context.Context, tags ...string) error {
	conn, err := resolve(ctx, nil, "")
	if err != nil {
		return &OpError{Op: "InvalidateTags", Err: err}
	}
	return conn.InvalidateTags(ctx, tags...)
}

// InvalidateTags invalidates everything on the connection that carries one of
// tags: results of [Cached] functions, values of [Cache.Tagged] objects. When it
// has returned nil, no read that begins finds them, in any process (but for what
// others keep [Near], as long as the news travels), and a result that is being
// computed is not kept. With an error, some of them may still be
// found: a shard could not be asked. To invalidate twice does no harm.
//
// O(len(tags)), however many entries carry them: UNLINK, one round trip per
// shard, all shards at once.
func (c *Conn) InvalidateTags(ctx context.Context, tags ...string) error {
	keys := make([]string, len(tags))
	for i, tag := range tags {
		keys[i] = tagKey(tag)
	}
	begun, groups := time.Now(), c.group(c.prefix, keys)
	errs := eachShard(ctx, c, driver.Repeatable, groups, func(p *driver.Pipeline, group []int) error {
		for _, i := range group { // one by one, as they may be of several slots
			p.CmdKey("UNLINK", c.prefix, keys[i])
		}
		return nil
	}, func(p *driver.Pipeline, group []int) error {
		return errors.Join(restOf(p)...)
	})
	for shard, group := range groups {
		for _, i := range group {
			c.near.invalidated(shard, c.prefix+keys[i])
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		err = &OpError{Op: "InvalidateTags", Err: classify(err)}
	}
	c.witness(&Options{}, nil).invalidation(ctx, &CallInfo{Op: "InvalidateTags", Tags: tags, Elapsed: time.Since(begun), Err: err})
	return err
}

// restOf returns the errors among the replies that are left.
func restOf(p *driver.Pipeline) (errs []error) {
	for range p.Len() {
		if err := p.Next().Err(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// InvalidateAll invalidates all that [Cached] functions and [Cache.Tagged]
// objects keep under the Prefix and Version of the type. Values that Set stored
// stay; see Clear. Its error says that some may still be found; see
// [Conn.InvalidateTags]. O(1) for each shard, UNLINK, all shards at once.
func (c Cache[T]) InvalidateAll(ctx context.Context) error {
	return (*Options)(&c).invalidateAll(ctx, "Cache.InvalidateAll", nil)
}

func (o *Options) invalidateAll(ctx context.Context, op string, fn *observer) error {
	conn, err := resolve(ctx, o.conn, o.Connection)
	if err != nil {
		return &OpError{Op: op, Err: err}
	}
	begun, front := time.Now(), conn.front(o.Version)
	key := namespaceFront + o.Prefix
	if err = conn.previous.forget(ctx, front+key); err == nil {
		err = conn.everyShard(func(shard int) error {
			defer conn.near.invalidated(shard, front+key)
			return unlinkOn(ctx, conn.shards[shard], front+key)
		})
	}
	if err != nil {
		err = &OpError{Op: op, Key: front + namespaceFront + o.Prefix, Err: classify(err)}
	}
	conn.witness(o, fn).invalidation(ctx, &CallInfo{Op: op, Elapsed: time.Since(begun), Err: err})
	return err
}

// A Tagged is one value that carries tags; see [Cache.Tagged].
type Tagged[T any] struct {
	object Value[T]
	tags   []string
}

// Tagged returns the object with tags: a value that it stores counts until one
// of them is invalidated ([InvalidateTags]), or its type is
// ([Cache.InvalidateAll]). It is to be read by the same tags.
//
//	err := profiles.Key(42).Tagged("team:7").Set(ctx, p)
//
// The value is kept in an envelope, with the stamps of its tags, and lives for the
// type's time to live from each Set, under [FromCreation] as well. An entry
// carries 65,534 tags at most.
func (v Value[T]) Tagged(tags ...string) Tagged[T] {
	return Tagged[T]{v, sortedTags(tags)}
}

// String returns the full key; see [Object].
func (t Tagged[T]) String() string { return t.object.String() }

// Get returns the value, or [ErrMiss]. O(1), MGET of the value and the stamps:
// one round trip, all shards at once.
func (t Tagged[T]) Get(ctx context.Context) (T, error) {
	var zero T
	s, err := newSubject(ctx, &t.object.Object, "Tagged.Get", t.tags)
	if err != nil {
		return zero, err
	}
	found, err := look[T](ctx, s)
	if err == nil && found.reason != NoReason {
		err = ErrMiss
	}
	if err != nil {
		return zero, s.end(ctx, hitIf(false), &found.finding, err)
	}
	return found.value, s.end(ctx, found.hit(), &found.finding, nil)
}

// GetOr is Get with def in place of [ErrMiss]. Faults are still errors, beside
// def.
func (t Tagged[T]) GetOr(ctx context.Context, def T) (T, error) {
	return orDefault(def)(t.Get(ctx))
}

// Set stores v under the tags as they stand now: what was invalidated while the
// caller made v does not show in it, which is what [Cached] is for. Two round
// trips: SET NX GET of the stamps, then SET with PX.
func (t Tagged[T]) Set(ctx context.Context, v T) error {
	s, err := newSubject(ctx, &t.object.Object, "Tagged.Set", t.tags)
	if err != nil {
		return err
	}
	return s.end(ctx, NoLookup, &finding{}, t.set(ctx, s, v))
}

func (t Tagged[T]) set(ctx context.Context, s *subject, v T) error {
	payload, err := t.object.opts.serializer().Marshal(v)
	if err != nil {
		return err
	}
	stamps, err := s.takeStamps(ctx)
	if err != nil {
		return err
	}
	defer s.space().drop(s.key)
	e := envelope{created: time.Now(), ttl: time.Duration(s.ms) * time.Millisecond, stamps: stamps}
	p := driver.NewPipeline(0)
	defer p.Free()
	p.CmdKey("SET", s.front, s.key).Bytes(e.append(nil, s.front, s.key, payload))
	if s.ms > 0 {
		p.String("PX").Int(s.ms)
	}
	if err := s.conn.do(ctx, s.shard, p); err != nil {
		return err
	}
	_, err = present(p.Next())
	return err
}

// Delete removes the value; see [Cache.Delete].
func (t Tagged[T]) Delete(ctx context.Context) error { return t.object.Delete(ctx) }
