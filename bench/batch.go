package main

import (
	"context"
	"fmt"

	"github.com/gomodule/redigo/redis"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/gocaches/caches"
)

var batchOps = []string{"get", "set", "cached"}

// batches sets a Batch beside what clients call by other names: 10 and 100
// operations that travel together, each with a result of its own. An operation
// of the table is a whole batch. Then come 100 calls of one function, all of
// whose results the server has, or half of them, beside bulk loaders of caches.
func batches(b bench) error {
	p, err := newProbe(b.addr)
	if err != nil {
		return err
	}
	defer p.close()
	for _, name := range chosen(b.ops, batchOps...) {
		run := batchPlain
		if name == "cached" {
			run = batchCached
		}
		if err := run(b, p, name); err != nil {
			return err
		}
	}
	return nil
}

// A batcher does one thing with each of n keys, together.
type batcher interface {
	batchGet(ctx context.Context, d *data, from, n int) error
	batchSet(ctx context.Context, d *data, from, n int) error
}

type batcherPeer struct {
	name string
	batcher
	note string
}

// batchPlain measures batches of GETs, or of SETs.
func batchPlain(b bench, p *probe, name string) error {
	d, err := newData(b.addr)
	if err != nil {
		return err
	}
	clients, closeAll, err := openAll(b.addr, chosen(b.peers, "redigo", "go-redis", "rueidis")...)
	if err != nil {
		return err
	}
	defer closeAll()
	conn, err := caches.Open("redis://" + b.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	all := []batcherPeer{{"ours", ourBatch{benchCache(conn)}, ""}, {"ours-many", ourMany{benchCache(conn)}, "GetMany, SetMany: one MGET"}}
	for _, c := range clients[1:] { // without the bare transport
		all = append(all, batcherPeer{c.name, c.client.(batcher), batchNotes[c.name]})
	}
	for _, n := range []int{10, 100} {
		for _, g := range b.callersOr(1, 8) {
			if err := b.batchOf(p, d, name, n, g, all); err != nil {
				return err
			}
		}
	}
	return nil
}

var batchNotes = map[string]string{"redigo": "Send, Flush, Receive", "go-redis": "Pipelined", "rueidis": "DoMulti"}

func (b bench) batchOf(p *probe, d *data, name string, n, g int, all []batcherPeer) error {
	l := newLoad(g, b.cancel)
	var contenders []contender
	for _, c := range all {
		do := c.batchGet
		if name == "set" {
			do = c.batchSet
		}
		w := &watch{probe: p, note: c.note}
		contenders = append(contenders, w.contender(l, c.name, func(ctx context.Context, i int) error { return do(ctx, d, d.at(i), n) }))
	}
	return b.compare("batch", fmt.Sprintf("%s n=%d g=%d", name, n, g), contenders)
}

// ourBatch adds the operations of objects to a Batch.
type ourBatch struct{ cache caches.Cache[string] }

func (o ourBatch) batchGet(ctx context.Context, d *data, from, n int) error {
	b := new(caches.Batch)
	promises := make([]*caches.Promise[string], n)
	for i := range promises {
		promises[i] = caches.Later(b, o.cache.Key(d.ids[from+i]).Get)
	}
	if err := b.Run(ctx); err != nil {
		return err
	}
	for i, p := range promises {
		v, err := p.Value(ctx)
		if err := same(v, d.values[from+i], err); err != nil {
			return err
		}
	}
	return nil
}

func (o ourBatch) batchSet(ctx context.Context, d *data, from, n int) error {
	b := new(caches.Batch)
	for i := from; i < from+n; i++ {
		b.Do(func(ctx context.Context) error { return o.cache.Key(d.ids[i]).Set(ctx, d.values[i]) })
	}
	return b.Run(ctx)
}

// ourMany is for what it is enough for: many objects of one type, read or
// written.
type ourMany struct{ cache caches.Cache[string] }

func (o ourMany) batchGet(ctx context.Context, d *data, from, n int) error {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = d.ids[from+i]
	}
	values, err := caches.GetMany(ctx, o.cache, ids)
	for i, id := range ids {
		if err = same(values[id], d.values[from+i], err); err != nil {
			return err
		}
	}
	return nil
}

func (o ourMany) batchSet(ctx context.Context, d *data, from, n int) error {
	values := make(map[int]string, n)
	for i := from; i < from+n; i++ {
		values[d.ids[i]] = d.values[i]
	}
	return caches.SetMany(ctx, o.cache, values)
}

func (c redigoPool) batchGet(_ context.Context, d *data, from, n int) error {
	return c.sendAll(from, n, func(conn redis.Conn, i int) error {
		return conn.Send("GET", d.keys[i])
	}, func(reply any, err error, i int) error {
		v, err := redis.String(reply, err)
		return same(v, d.values[i], err)
	})
}

func (c redigoPool) batchSet(_ context.Context, d *data, from, n int) error {
	return c.sendAll(from, n, func(conn redis.Conn, i int) error {
		return conn.Send("SET", d.keys[i], d.values[i], "PX", lifetime.Milliseconds())
	}, func(reply any, err error, _ int) error {
		v, err := redis.String(reply, err)
		return same(v, "OK", err)
	})
}

// sendAll sends n commands at once and looks at each reply.
func (c redigoPool) sendAll(from, n int, send func(redis.Conn, int) error, look func(any, error, int) error) error {
	conn := c.pool.Get()
	defer conn.Close()
	for i := from; i < from+n; i++ {
		if err := send(conn, i); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	for i := from; i < from+n; i++ {
		reply, err := conn.Receive()
		if err := look(reply, err, i); err != nil {
			return err
		}
	}
	return nil
}

func (c goRedis) batchGet(ctx context.Context, d *data, from, n int) error {
	replies := make([]*goredis.StringCmd, n)
	_, err := c.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i := range replies {
			replies[i] = p.Get(ctx, d.keys[from+i])
		}
		return nil
	})
	for i, r := range replies {
		if err = same(r.Val(), d.values[from+i], err); err != nil {
			return err
		}
	}
	return nil
}

func (c goRedis) batchSet(ctx context.Context, d *data, from, n int) error {
	_, err := c.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for i := from; i < from+n; i++ {
			p.Set(ctx, d.keys[i], d.values[i], lifetime)
		}
		return nil
	})
	return err
}

func (c rueidisClient) batchGet(ctx context.Context, d *data, from, n int) error {
	cmds := make(rueidis.Commands, n)
	for i := range cmds {
		cmds[i] = c.client.B().Get().Key(d.keys[from+i]).Build()
	}
	for i, r := range c.client.DoMulti(ctx, cmds...) {
		v, err := r.ToString()
		if err := same(v, d.values[from+i], err); err != nil {
			return err
		}
	}
	return nil
}

func (c rueidisClient) batchSet(ctx context.Context, d *data, from, n int) error {
	cmds := make(rueidis.Commands, n)
	for i := range cmds {
		cmds[i] = c.client.B().Set().Key(d.keys[from+i]).Value(d.values[from+i]).Px(lifetime).Build()
	}
	for _, r := range c.client.DoMulti(ctx, cmds...) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}
