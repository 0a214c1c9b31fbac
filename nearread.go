package caches

import (
	"context"
	"maps"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/near"
)

// nearHit returns the near value of o, counts the hit and reports it to hooks. It
// allocates only if there is a hook.
func nearHit[T any](ctx context.Context, o *Object, op string) (v T, ok bool) {
	if o.opts.Near == nil {
		return v, false
	}
	if o.opts.fresh || o.key == "" || o.err != nil {
		return v, false
	}
	conn, err := resolve(ctx, o.opts.conn, o.opts.Connection)
	if err != nil {
		return v, false
	}
	s := conn.nearSpace(&o.opts)
	if s == nil {
		return v, false
	}
	if v, ok = near.Get[T](s, o.key); !ok {
		return v, false
	}
	s.Hit()
	if conn.observer != nil {
		conn.observer.called(ctx, &CallInfo{
			Op: op, Conn: conn.name, Type: o.opts.typeName(), Key: s.Front() + o.key, Lookup: LookupNear,
		})
	}
	return v, true
}

// nearFill begins a fill, before the commands of q are sent: a later change drops
// it.
func (q *query) nearFill(o *Object) near.Fill {
	return q.conn.nearSpace(&o.opts).Fill(q.shard, q.key)
}

// nearPut keeps v, unless a change has dropped the fill. ttl is the reply to Ask.
func nearPut[T any](f *near.Fill, ttl driver.Reply, v T) {
	if left, ok := f.Left(ttl); ok {
		near.Keep(f, left, v)
	}
}

// nearPutMap is nearPut for a map that its caller may change.
func nearPutMap[K comparable, V any](f *near.Fill, ttl driver.Reply, m map[K]V) {
	if f.Keeps() {
		nearPut(f, ttl, maps.Clone(m))
	}
}
