package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/maypok86/otter/v2"

	"github.com/gocaches/caches"
)

// User is the struct that is stored as JSON: 144 bytes.
type User struct {
	ID      int       `json:"id"`
	Name    string    `json:"name"`
	Email   string    `json:"email"`
	Active  bool      `json:"active"`
	Score   float64   `json:"score"`
	Tags    []string  `json:"tags"`
	Created time.Time `json:"created"`
	Visits  int64     `json:"visits"`
}

const (
	keys  = 10_000
	value = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
)

var user = User{42, "Ada Lovelace", "ada@example.org", true, 99.5, []string{"a", "b"}, time.Unix(1700000000, 0).UTC(), 12345}

// objects measures what an object costs: beside the same written by hand with
// redigo, on one local Redis, and locmem beside a bare get of the eviction
// library under it. One goroutine, untimed operations: some take 100 ns.
func objects(b bench) error {
	conn, err := caches.Open("redis://" + b.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	pool := &redis.Pool{MaxIdle: 64, MaxActive: 64, Wait: true, Dial: func() (redis.Conn, error) {
		return redis.Dial("tcp", b.addr, redis.DialReadTimeout(time.Second), redis.DialWriteTimeout(time.Second))
	}}
	defer pool.Close()
	if err := errors.Join(fill(setString(conn)), fill(setUser(conn))); err != nil {
		return err
	}
	for _, c := range []struct {
		what         string
		caches, peer op
	}{
		{"set-string", setString(conn), setStringByHand(pool)},
		{"get-string", getString(conn), getStringByHand(pool)},
		{"set-json", setUser(conn), setUserByHand(pool)},
		{"get-json", getUser(conn), getUserByHand(pool)},
	} {
		if err := b.cost(c.what, "caches", c.caches, "redigo", c.peer); err != nil {
			return err
		}
	}
	return locmem(b)
}

// cost prints what one operation takes beside its peer: here less is better.
func (b bench) cost(what, name string, do op, peerName string, peer op) error {
	l := &load{callers: make([]caller, 1)}
	results, err := compete(b.settings, []contender{l.contender(name, do), l.contender(peerName, peer)})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	table := tabwriter.NewWriter(b.out.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "%s\tns/op\tallocs/op\t\n", what)
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%.0f\t%.1f\t\n", r.name, 1e9/r.median(rate), r.median(allocs))
	}
	_ = table.Flush()
	fmt.Fprintf(b.out.w, "ratio objects %s %s/%s %.2f allocs %+.1f\n\n", what, name, peerName,
		results[1].median(rate)/results[0].median(rate), results[0].median(allocs)-results[1].median(allocs))
	return nil
}

// locmem measures a read of a small value in this process, of keys in another
// order than they were written in, as reads come. What the bare library is given, a string that is there,
// the object must find as well: "get-locmem" has the objects made beforehand,
// "get-locmem-key" makes each at its read.
func locmem(b bench) error {
	conn, err := caches.Open("locmem://")
	if err != nil {
		return err
	}
	defer conn.Close()
	bare, err := otter.New(&otter.Options[string, string]{MaximumSize: 100_000})
	if err != nil {
		return err
	}
	defer bare.StopAllGoroutines()
	c := caches.Cache[string]{Prefix: "profile", Serializer: caches.Raw}.On(conn)
	names, objects, order := make([]string, keys), make([]caches.Value[string], keys), rand.Perm(keys)
	for i := range keys {
		names[i], objects[i] = "profile."+strconv.Itoa(i), c.Key(i)
		bare.Set(names[i], small)
		if err := objects[i].Set(context.Background(), small); err != nil {
			return err
		}
	}
	checked := func(v string, err error) error {
		if err == nil && v != small {
			err = errWrong
		}
		return err
	}
	library := func(_ context.Context, i int) error {
		v, _ := bare.GetIfPresent(names[order[i%keys]])
		return checked(v, nil)
	}
	return errors.Join(
		b.cost("get-locmem", "locmem", func(ctx context.Context, i int) error {
			return checked(objects[order[i%keys]].Get(ctx))
		}, "otter", library),
		b.cost("get-locmem-key", "locmem", func(ctx context.Context, i int) error {
			return checked(c.Key(order[i%keys]).Get(ctx))
		}, "otter", library),
	)
}

// small is a value as counters and flags have.
const small = "a small value"

// fill sets every key: a turn may be too short to come around to all.
func fill(set op) error {
	for i := range keys {
		if err := set(context.Background(), i); err != nil {
			return err
		}
	}
	return nil
}

func plain(conn *caches.Conn) caches.Cache[string] {
	return caches.Cache[string]{Prefix: "profile", TTL: time.Hour, Serializer: caches.Raw}.On(conn)
}

func users(conn *caches.Conn) caches.Cache[User] {
	return caches.Cache[User]{Prefix: "user", TTL: time.Hour}.On(conn)
}

func setString(conn *caches.Conn) op {
	c := plain(conn)
	return func(ctx context.Context, i int) error { return c.Key(i%keys).Set(ctx, value) }
}

func getString(conn *caches.Conn) op {
	c := plain(conn)
	return func(ctx context.Context, i int) error {
		v, err := c.Key(i % keys).Get(ctx)
		if err == nil && v != value {
			err = errWrong
		}
		return err
	}
}

func setUser(conn *caches.Conn) op {
	c := users(conn)
	return func(ctx context.Context, i int) error { return c.Key(i%keys).Set(ctx, user) }
}

func getUser(conn *caches.Conn) op {
	c := users(conn)
	return func(ctx context.Context, i int) error {
		v, err := c.Key(i % keys).Get(ctx)
		if err == nil && v.Email != user.Email {
			err = errWrong
		}
		return err
	}
}

func setStringByHand(pool *redis.Pool) op {
	return func(_ context.Context, i int) error {
		conn := pool.Get()
		defer conn.Close()
		_, err := conn.Do("SET", "profile."+strconv.Itoa(i%keys), value, "PX", time.Hour.Milliseconds())
		return err
	}
}

func getStringByHand(pool *redis.Pool) op {
	return func(_ context.Context, i int) error {
		conn := pool.Get()
		defer conn.Close()
		v, err := redis.String(conn.Do("GET", "profile."+strconv.Itoa(i%keys)))
		if err == nil && v != value {
			err = errWrong
		}
		return err
	}
}

func setUserByHand(pool *redis.Pool) op {
	return func(_ context.Context, i int) error {
		data, err := json.Marshal(user)
		if err != nil {
			return err
		}
		conn := pool.Get()
		defer conn.Close()
		_, err = conn.Do("SET", "user."+strconv.Itoa(i%keys), data, "PX", time.Hour.Milliseconds())
		return err
	}
}

func getUserByHand(pool *redis.Pool) op {
	return func(_ context.Context, i int) error {
		conn := pool.Get()
		defer conn.Close()
		data, err := redis.Bytes(conn.Do("GET", "user."+strconv.Itoa(i%keys)))
		if err != nil {
			return err
		}
		var v User
		if err := json.Unmarshal(data, &v); err != nil {
			return err
		}
		if v.Email != user.Email {
			return errWrong
		}
		return nil
	}
}
