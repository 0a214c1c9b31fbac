package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
	ours "github.com/gocaches/caches/driver/redigo"
	"github.com/gomodule/redigo/redis"
	"github.com/mediocregopher/radix/v4"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// A client is a Redis client as its documentation shows it to be used. Each
// operation decodes its reply to strings, of its own memory, and compares it
// with what it must be: nobody wins by not looking.
type client interface {
	get(ctx context.Context, key, want string) error
	set(ctx context.Context, key, value string) error
	mget(ctx context.Context, keys, want []string) error
	// close ends the connections; no operation is under way.
	close()
}

// A peer is a client to set ours beside.
type peer struct {
	name string
	open func(addr string) (client, error)
}

// peers are in their default settings unless the name says otherwise; bare is no
// client, but a measure.
var peers = []peer{
	{"redigo", openRedigo},
	{"go-redis", openGoRedis},
	{"go-redis-auto", openGoRedisAuto},
	{"rueidis", func(addr string) (client, error) { return openRueidis(addr, 0) }},
	{"rueidis-delay", func(addr string) (client, error) { return openRueidis(addr, 20*time.Microsecond) }},
	{"radix", openRadix},
	{"bare", openBare},
}

func peerNames() []string {
	var names []string
	for _, p := range peers {
		names = append(names, p.name)
	}
	return names
}

// A named client takes part in a comparison.
type named struct {
	name string
	client
}

// openAll opens ours and then the peers of the given names.
func openAll(addr string, names ...string) (all []named, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range all {
			c.close()
		}
	}
	for _, p := range append([]peer{{"ours", openOurs}}, peers...) {
		if p.name != "ours" && !slices.Contains(names, p.name) {
			continue
		}
		c, err := p.open(addr)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, named{p.name, c})
	}
	return all, closeAll, nil
}

// ourClient is the store of caches, without the objects above it, in its
// default settings: whatever transport Open chooses, with its limits, retries
// and timeouts.
type ourClient struct{ store *ours.Store }

func openOurs(addr string) (client, error) {
	store, err := ours.Open(ours.Config{Address: addr})
	return ourClient{store}, err
}

func (c ourClient) get(ctx context.Context, key, want string) error {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.CmdKey("GET", "", key)
	if err := c.store.Do(ctx, p); err != nil {
		return err
	}
	v, _, err := p.Next().Bytes()
	return same(string(v), want, err)
}

func (c ourClient) set(ctx context.Context, key, value string) error {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.CmdKey("SET", "", key).String(value)
	if err := c.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().OK()
}

func (c ourClient) mget(ctx context.Context, keys, want []string) error {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.Cmd("MGET")
	for _, key := range keys {
		p.Key(key)
	}
	if err := c.store.Do(ctx, p); err != nil {
		return err
	}
	values, err := decodeAll(p.Next())
	return sameAll(values, want, err)
}

// decodeAll makes strings of the elements of an array, as a caller that keeps
// them would.
func decodeAll(r driver.Reply) ([]string, error) {
	e, err := r.Elems()
	values := make([]string, e.Len())
	for i := range values {
		v, _, err := e.Next().Bytes()
		if err != nil {
			return nil, err
		}
		values[i] = string(v)
	}
	return values, err
}

func (c ourClient) close() { _ = c.store.Close() }

// redigoPool has no timeouts and is asked without contexts, as redigo comes:
// with them it sets a deadline at each call and is slower, alone by 15 %.
type redigoPool struct{ pool *redis.Pool }

func openRedigo(addr string) (client, error) {
	dial := func() (redis.Conn, error) { return redis.Dial("tcp", addr) }
	return redigoPool{&redis.Pool{MaxIdle: 64, MaxActive: 64, Wait: true, Dial: dial}}, nil
}

func (c redigoPool) do(cmd string, args ...any) (any, error) {
	conn := c.pool.Get()
	defer conn.Close()
	return conn.Do(cmd, args...)
}

func (c redigoPool) get(_ context.Context, key, want string) error {
	v, err := redis.String(c.do("GET", key))
	return same(v, want, err)
}

func (c redigoPool) set(_ context.Context, key, value string) error {
	v, err := redis.String(c.do("SET", key, value))
	return same(v, "OK", err)
}

func (c redigoPool) mget(_ context.Context, keys, want []string) error {
	args := make([]any, len(keys))
	for i, key := range keys {
		args[i] = key
	}
	values, err := redis.Strings(c.do("MGET", args...))
	return sameAll(values, want, err)
}

func (c redigoPool) close() { _ = c.pool.Close() }

// goRedis is go-redis, with auto-pipelining where cmds is an AutoPipeliner. It
// has both clients' methods in common; closing the client closes that as well.
type goRedis struct {
	client goredis.UniversalClient
	cmds   goredis.Cmdable
}

func openGoRedis(addr string) (client, error) {
	c := goredis.NewClient(&goredis.Options{Addr: addr})
	return goRedis{c, c}, nil
}

func openGoRedisAuto(addr string) (client, error) {
	c := goredis.NewClient(&goredis.Options{Addr: addr})
	auto, err := c.AutoPipeline()
	return goRedis{c, auto}, err
}

func (c goRedis) get(ctx context.Context, key, want string) error {
	v, err := c.cmds.Get(ctx, key).Result()
	return same(v, want, err)
}

func (c goRedis) set(ctx context.Context, key, value string) error {
	v, err := c.cmds.Set(ctx, key, value, 0).Result()
	return same(v, "OK", err)
}

func (c goRedis) mget(ctx context.Context, keys, want []string) error {
	// Compared as they come, in interfaces: strings would be a copy more.
	values, err := c.cmds.MGet(ctx, keys...).Result()
	if err != nil || len(values) != len(want) {
		return same("", "a value each", err)
	}
	for i, v := range values {
		if v != want[i] {
			return errWrong
		}
	}
	return nil
}

func (c goRedis) close() { _ = c.client.Close() }

// rueidisClient pipelines by itself. Its delay after each flush lets commands
// gather: 20 µs, which its documentation suggests, is its best setting from 64
// goroutines on, and a loss below.
type rueidisClient struct{ client rueidis.Client }

func openRueidis(addr string, delay time.Duration) (client, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, MaxFlushDelay: delay})
	return rueidisClient{c}, err
}

func (c rueidisClient) get(ctx context.Context, key, want string) error {
	v, err := c.client.Do(ctx, c.client.B().Get().Key(key).Build()).ToString()
	return same(v, want, err)
}

func (c rueidisClient) set(ctx context.Context, key, value string) error {
	v, err := c.client.Do(ctx, c.client.B().Set().Key(key).Value(value).Build()).ToString()
	return same(v, "OK", err)
}

func (c rueidisClient) mget(ctx context.Context, keys, want []string) error {
	values, err := c.client.Do(ctx, c.client.B().Mget().Key(keys...).Build()).AsStrSlice()
	return sameAll(values, want, err)
}

func (c rueidisClient) close() { c.client.Close() }

// radixClient shares the connections of its pool among callers and pipelines
// what they send at the same time.
type radixClient struct{ client radix.Client }

func openRadix(addr string) (client, error) {
	c, err := radix.PoolConfig{}.New(context.Background(), "tcp", addr)
	return radixClient{c}, err
}

func (c radixClient) get(ctx context.Context, key, want string) error {
	var v string
	err := c.client.Do(ctx, radix.Cmd(&v, "GET", key))
	return same(v, want, err)
}

func (c radixClient) set(ctx context.Context, key, value string) error {
	var v string
	err := c.client.Do(ctx, radix.Cmd(&v, "SET", key, value))
	return same(v, "OK", err)
}

func (c radixClient) mget(ctx context.Context, keys, want []string) error {
	var values []string
	err := c.client.Do(ctx, radix.Cmd(&values, "MGET", keys...))
	return sameAll(values, want, err)
}

func (c radixClient) close() { _ = c.client.Close() }
