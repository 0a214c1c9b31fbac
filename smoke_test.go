package caches_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// Each object once, as a user writes it.
func TestSmoke(t *testing.T) {
	eachBackend(t, sweep)
}

// The rights that the README names are enough.
func TestRightsOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rule, _ := strings.Cut(string(readme), "~PREFIX*")
	rule, _, found := strings.Cut(rule, "```")
	require.True(t, found)
	server := testutil.Redis(t, &testutil.RedisOptions{
		ACL: []string{"user app on >secret ~app.*" + strings.ReplaceAll(rule, "\n", " ")},
	})
	dsn := "redis://app:secret@" + server.Addr() + patience + "&prefix=app"
	conn, other := open(t, dsn), open(t, dsn)
	sweep(t, t.Context(), conn)

	c := caches.Cache[string]{Prefix: "x", TTL: time.Hour, Near: &caches.NearOptions{}}
	var runs atomic.Int64
	fn := func(context.Context, int) (string, error) {
		time.Sleep(200 * time.Millisecond) // the other process waits for it
		runs.Add(1)
		return "v", nil
	}
	var both sync.WaitGroup
	for _, conn := range []*caches.Conn{conn, other} {
		f := caches.Cached(c.On(conn), fn, &caches.CachedOptions[int, string]{Name: "f", Tags: func(int) []string { return []string{"t"} }})
		both.Go(func() {
			_, err := f.Get(t.Context(), 1)
			assert.NoError(t, err)
		})
	}
	both.Wait()
	require.EqualValues(t, 1, runs.Load())
	require.Zero(t, conn.Stats().Types["x"].Swallowed+other.Stats().Types["x"].Swallowed)
	untilNear(t, conn, "x", func() {
		require.NoError(t, c.On(conn).Key("near").Set(t.Context(), "v"))
		for range 2 {
			_, err := c.On(conn).Key("near").Get(t.Context())
			require.NoError(t, err)
		}
	})
	require.NoError(t, conn.InvalidateTags(t.Context(), "t"))
}

// requireAct requires that one operation works.
func requireAct(t *testing.T, ctx context.Context, c subject, name string) {
	t.Helper()
	require.NoError(t, c.fill(ctx), name)
	for _, act := range c.acts {
		if act.name == name {
			require.NoError(t, act.run(ctx), name)
		}
	}
	require.NoError(t, errOf(c.Delete(ctx)), name)
}

func sweep(t *testing.T, ctx context.Context, conn *caches.Conn) {
	type profile struct{ Name string }
	profiles := caches.Cache[profile]{Prefix: "profile", TTL: time.Minute}.On(conn)
	_, err := profiles.Key(42).Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	require.NoError(t, profiles.Key(42).Set(ctx, profile{"Ada"}))
	p, err := profiles.Key(42).Get(ctx)
	require.NoError(t, err)
	require.Equal(t, "Ada", p.Name)
	many, err := caches.GetMany(ctx, profiles, []int{41, 42, 43})
	require.NoError(t, err)
	require.Equal(t, map[int]profile{42: {"Ada"}}, many)

	for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
		o := caches.Options{Prefix: "p" + policy.String(), TTL: time.Minute, TTLPolicy: policy}
		c := caches.CounterCache[int64](o).On(conn).Key("home")
		n, err := c.Incr(ctx, 10)
		require.NoError(t, err)
		require.EqualValues(t, 10, n)
		d := caches.DictCache[string, float64](o).On(conn).Key("dict")
		require.NoError(t, d.Set(ctx, "a", 1.5))
		f, err := d.Incr(ctx, "a", 0.25)
		require.NoError(t, err)
		require.Equal(t, 1.75, f)
		v, loaded, err := d.GetOrAdd(ctx, "b", 3)
		require.NoError(t, err)
		require.False(t, loaded)
		require.Equal(t, 3.0, v)
		all, end := d.All(ctx)
		got := map[string]float64{}
		for k, v := range all {
			got[k] = v
		}
		require.NoError(t, end())
		require.Equal(t, map[string]float64{"a": 1.75, "b": 3}, got)
		for _, kind := range kinds {
			for _, act := range kind.on(conn, o).zero.acts {
				requireAct(t, ctx, kind.on(conn, o).key(kind.name), act.name)
			}
		}
		s := caches.SetCache[int](o).On(conn)
		_, err = s.Key("x").Add(ctx, 1, 2, 3)
		require.NoError(t, err)
		_, err = s.Key("y").Add(ctx, 3, 4)
		require.NoError(t, err)
		u, err := s.Key("x").Intersect(ctx, s.Key("y"))
		require.NoError(t, err)
		require.Equal(t, map[int]struct{}{3: {}}, u)
		size, err := s.Key("z").StoreUnion(ctx, s.Key("x"), s.Key("y"))
		require.NoError(t, err)
		require.Equal(t, 4, size)
		z := caches.SortedSetCache[string](o).On(conn).Key("board")
		for i := range 10 {
			_, err = z.Add(ctx, caches.Scored[string]{Score: float64(i / 3), Member: string(rune('a' + i))})
			require.NoError(t, err)
		}
		var names string
		chunks, end := z.Chunk(ctx, 7, 1, 3)
		for chunk := range chunks {
			for _, item := range chunk {
				names += item.Member
			}
			names += "|"
		}
		require.NoError(t, end())
		require.Equal(t, "bcd|efg|h|", names)
		ttl, err := z.ExpiresIn(ctx)
		require.NoError(t, err)
		require.InDelta(t, time.Minute, ttl, float64(5*time.Second))
	}
	gate := caches.SentinelCache{Prefix: "gate", TTL: time.Minute}.On(conn).Key(1)
	first, err := gate.Once(ctx)
	require.NoError(t, err)
	require.True(t, first)
	first, err = gate.Once(ctx)
	require.NoError(t, err)
	require.False(t, first)
	ran, err := gate.Do(ctx, func(context.Context) error { return nil })
	require.NoError(t, err)
	require.False(t, ran)
	ran, err = gate.Key("x").Do(ctx, func(context.Context) error { return nil })
	require.NoError(t, err)
	require.True(t, ran)
	n, err := profiles.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}
