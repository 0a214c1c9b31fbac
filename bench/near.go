package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/gocaches/caches"
)

var nearOps = []string{"get", "load"}

// near measures reads of a struct of 150 bytes of JSON that is kept in this
// process.
//
// "get" reads values that the server watches over: a Cache with Options.Near,
// and the client-side caches of rueidis and go-redis, which keep what the server
// sent and so decode it at every read. "rueidis-bytes" leaves the decoding out,
// and "ours-no-near" is the Cache that asks the server. "load" calls functions
// whose results are near, with the memories that caches have for that.
func near(b bench) error {
	p, err := newProbe(b.addr)
	if err != nil {
		return err
	}
	defer p.close()
	for _, name := range chosen(b.ops, nearOps...) {
		run := nearGet
		if name == "load" {
			run = nearLoad
		}
		if err := run(b, p); err != nil {
			return err
		}
	}
	return nil
}

func nearGet(b bench, p *probe) error {
	conn, err := caches.Open("redis://" + b.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	all, closeAll, err := nearReaders(b.addr, conn)
	if err != nil {
		return err
	}
	defer closeAll()
	return b.nearOf("get", p, all, func() int64 { return conn.Stats().Types["near"].NearHits })
}

func nearLoad(b bench, p *probe) error {
	loaders, closeAll, err := openLoaders(b.addr, p, fromMemory, b.loaderPeersOf("go-redis-cache", "jetcache", "sturdyc", "rueidisaside"))
	if err != nil {
		return err
	}
	defer closeAll()
	var all []reader
	for _, l := range loaders {
		all = append(all, reader{l.name, l.get, l.watch})
	}
	ours := loaders[0].loader.(*ourLoader).conn
	return b.nearOf("load", p, all, func() int64 { return ours.Stats().Types["ours"].NearHits })
}

func (b bench) nearOf(name string, p *probe, all []reader, hits func() int64) error {
	if err := warm(all, hits); err != nil {
		return err
	}
	for _, g := range b.callersOr(1, 64) {
		l := newLoad(g, b.cancel)
		var contenders []contender
		for _, r := range all {
			if r.watch == nil {
				r.watch = &watch{probe: p}
			}
			contenders = append(contenders, r.watch.contender(l, r.name, func(ctx context.Context, n int) error {
				id := scatter(n)
				u, err := r.get(ctx, id)
				return sameUser(u, id, err)
			}))
		}
		if err := b.compare("near", fmt.Sprintf("%s g=%d", name, g), contenders); err != nil {
			return err
		}
	}
	return nil
}

// A reader reads the value of an id.
type reader struct {
	name  string
	get   func(ctx context.Context, id int) (User, error)
	watch *watch
}

// nearReaders returns those that read values, without a function. They all read
// the same.
func nearReaders(addr string, conn *caches.Conn) (all []reader, closeAll func(), err error) {
	far := caches.Cache[User]{Prefix: "near", TTL: lifetime}.On(conn)
	kept := far
	kept.Near = &caches.NearOptions{MaxEntries: 2 * keys, MaxAge: lifetime}
	names := make([]string, keys)
	nears, fars := make([]caches.Value[User], keys), make([]caches.Value[User], keys)
	for i := range keys {
		if err := far.Key(i).Set(context.Background(), userOf(i)); err != nil {
			return nil, nil, err
		}
		names[i], nears[i], fars[i] = "near."+strconv.Itoa(i), kept.Key(i), far.Key(i)
	}
	ru, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}})
	if err != nil {
		return nil, nil, err
	}
	gr := goredis.NewClient(&goredis.Options{
		Addr: addr, Protocol: 3, ClientSideCacheConfig: &goredis.ClientSideCacheConfig{MaxEntries: 2 * keys},
	})
	return []reader{
			{name: "caches", get: func(ctx context.Context, id int) (User, error) { return nears[id].Get(ctx) }},
			{name: "rueidis", get: func(ctx context.Context, id int) (u User, err error) {
				err = ru.DoCache(ctx, ru.B().Get().Key(names[id]).Cache(), lifetime).DecodeJSON(&u)
				return u, err
			}},
			{name: "rueidis-bytes", get: func(ctx context.Context, id int) (User, error) {
				v, err := ru.DoCache(ctx, ru.B().Get().Key(names[id]).Cache(), lifetime).AsBytes()
				return userOf(id), someBytes(v, err)
			}},
			{name: "go-redis", get: func(ctx context.Context, id int) (u User, err error) {
				v, err := gr.Get(ctx, names[id]).Bytes()
				if err == nil {
					err = json.Unmarshal(v, &u)
				}
				return u, err
			}},
			{name: "ours-no-near", get: func(ctx context.Context, id int) (User, error) { return fars[id].Get(ctx) }},
		}, func() {
			ru.Close()
			_ = gr.Close()
		}, nil
}

// warm reads all keys by all readers until all of ours are near: the telling
// begins some time after the first read.
func warm(all []reader, hits func() int64) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		before := hits()
		for _, r := range all {
			if err := each(keys, func(id int) error {
				u, err := r.get(context.Background(), id)
				return sameUser(u, id, err)
			}); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
		if hits()-before == keys {
			return nil
		}
	}
	return errors.New("the values are not kept near")
}

func someBytes(v []byte, err error) error {
	if err == nil && len(v) < 100 {
		err = errWrong
	}
	return err
}
