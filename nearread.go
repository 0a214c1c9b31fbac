package caches

import (
	"context"
	"maps"

	"github.com/gocaches/caches/driver"
)

// nearHit returns the near value of o, counts the hit and reports it to hooks. It
// allocates only if there is a hook.
func nearHit[T any](ctx context.Context, o *Object, op string) (v T, ok bool) {
	if o.opts.Near == nil {
		return v, false
	}
	v, s := nearGet[T](ctx, o)
	if s == nil {
		return v, false
	}
	s.tally.add(countNearHit, 1)
	if s.conn.observer != nil {
		s.conn.observer.called(ctx, &CallInfo{
			Op: op, Conn: s.conn.name, Type: o.opts.typeName(), Key: s.front + o.key, Result: NearHit,
		})
	}
	return v, true
}

// nearGet returns the near value of o and its space, or nil if no value is kept.
func nearGet[T any](ctx context.Context, o *Object) (v T, s *nearSpace) {
	if o.opts.Near == nil || o.opts.fresh || o.key == "" || o.err != nil {
		return v, nil
	}
	conn, err := resolve(ctx, o.opts.conn, o.opts.Connection)
	if err != nil {
		return v, nil
	}
	if s = conn.nearSpace(&o.opts); s == nil {
		return v, nil
	}
	v, ok := nearValueOf[T](s, o.key)
	if !ok {
		return v, nil
	}
	return v, s
}

// nearFill begins a fill, before the commands of q are sent: a later change drops
// it.
func (q *query) nearFill(o *Object) nearFill {
	if o.opts.Near == nil {
		return nearFill{}
	}
	return q.conn.nearSpace(&o.opts).fill(q.shard, q.key)
}

// nearPut keeps v, unless a change has dropped the fill. ttl is the reply to ask.
func nearPut[T any](f *nearFill, ttl driver.Reply, v T) {
	if left, ok := f.left(ttl); ok {
		nearKeep(f, left, v)
	}
}

// nearPutMap is nearPut for a map that its caller may change.
func nearPutMap[K comparable, V any](f *nearFill, ttl driver.Reply, m map[K]V) {
	if f.space != nil {
		nearPut(f, ttl, maps.Clone(m))
	}
}
