package caches_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// Values are read once and then served from this process, until anybody changes
// them: the server says so.
func ExampleNearOptions() {
	plans := caches.Cache[string]{
		Prefix: "plan",
		TTL:    time.Hour,
		Near:   &caches.NearOptions{MaxEntries: 1000, MaxAge: 10 * time.Second},
	}
	ctx := context.Background()
	_ = plans.Key("ada").Set(ctx, "basic")
	plan, _ := plans.Key("ada").Get(ctx)        // from this process, where it is there
	now, _ := plans.Key("ada").Fresh().Get(ctx) // from the server, always
	fmt.Println(plan, now)
	// Output: basic basic
}

// nearly returns the options of a type that is kept near, on a server of the
// test's own.
func nearly(prefix string) caches.Options {
	return caches.Options{Prefix: prefix, Near: &caches.NearOptions{}}
}

// nearHits returns how many reads of a type asked nobody.
func nearHits(conn *caches.Conn, prefix string) int64 { return conn.Stats().Types[prefix].NearHits }

// untilNear reads until a read is served near, as it is once the server tells
// what changes.
func untilNear(t testing.TB, conn *caches.Conn, prefix string, read func()) {
	t.Helper()
	require.Eventually(t, func() bool {
		before := nearHits(conn, prefix)
		read()
		return nearHits(conn, prefix) > before
	}, 20*time.Second, time.Millisecond)
}

// gets reads an object and checks the value.
func gets[T any](t testing.TB, c caches.Value[T], want T) func() {
	return func() {
		v, err := c.Get(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
}

func TestNearServesUntilAnybodyWrites(t *testing.T) { eachServer(t, testNearServesUntilAnybodyWrites) }

func testNearServesUntilAnybodyWrites(t *testing.T, dsn string) {
	conn, other := open(t, dsn), open(t, dsn)
	near := caches.Cache[string](nearly("n")).On(conn).Key(1)
	far := caches.Cache[string]{Prefix: "n"}.On(other).Key(1)
	ctx := t.Context()

	require.NoError(t, far.Set(ctx, "one"))
	untilNear(t, conn, "n", gets(t, near, "one"))
	before := nearHits(conn, "n")
	for range 100 {
		gets(t, near, "one")()
	}
	assert.Equal(t, before+100, nearHits(conn, "n"))

	require.NoError(t, far.Set(ctx, "two"))
	require.Eventually(t, func() bool {
		v, err := near.Get(ctx)
		return err == nil && v == "two"
	}, 20*time.Second, time.Millisecond, "the other's write is told")

	untilNear(t, conn, "n", gets(t, near, "two"))
	require.NoError(t, errOf(far.Delete(ctx)))
	require.Eventually(t, func() bool {
		_, err := near.Get(ctx)
		return errors.Is(err, caches.ErrMiss)
	}, 20*time.Second, time.Millisecond, "so is its removal")
}

// What this process writes it reads, at once.
func TestNearReadsItsOwnWrites(t *testing.T) { eachServer(t, testNearReadsItsOwnWrites) }

func testNearReadsItsOwnWrites(t *testing.T, dsn string) {
	conn := open(t, dsn)
	c := caches.Cache[int](nearly("own")).On(conn)
	ctx := t.Context()
	require.NoError(t, c.Key(0).Set(ctx, 0))
	untilNear(t, conn, "own", gets(t, c.Key(0), 0))
	for i := range fullOr(2000, 500) {
		require.NoError(t, c.Key(0).Set(ctx, i))
		gets(t, c.Key(0), i)()
	}
	_, err := c.Key(0).Pop(ctx)
	require.NoError(t, err)
	_, err = c.Key(0).Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)

	require.NoError(t, caches.SetMany(ctx, c, map[int]int{1: 1, 2: 2}))
	for range 100 {
		found, err := caches.GetMany(ctx, c, []int{1, 2, 3})
		require.NoError(t, err)
		require.Equal(t, map[int]int{1: 1, 2: 2}, found)
	}
	_, err = caches.DeleteMany(ctx, c, []int{1})
	require.NoError(t, err)
	found, err := caches.GetMany(ctx, c, []int{1, 2, 3})
	require.NoError(t, err)
	require.Equal(t, map[int]int{2: 2}, found)
	require.NoError(t, conn.UnsafeFlush(ctx))
	_, err = c.Key(2).Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
}

// Whole dicts, sets and lists are kept, and given away as copies.
func TestNearCopies(t *testing.T) { eachServer(t, testNearCopies) }

func testNearCopies(t *testing.T, dsn string) {
	conn := open(t, dsn)
	dict := caches.DictCache[string, int](nearly("d")).On(conn).Key(1)
	set := caches.SetCache[int](nearly("s")).On(conn).Key(1)
	list := caches.ListCache[int](nearly("l")).On(conn).Key(1)
	ctx := t.Context()
	require.NoError(t, dict.Update(ctx, map[string]int{"a": 1, "b": 2}))
	_, err := set.Add(ctx, 1, 2)
	require.NoError(t, err)

	untilNear(t, conn, "d", func() {
		all, err := dict.Copy(ctx)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"a": 1, "b": 2}, all)
		all["c"] = 3 // the caller's own
	})
	require.NoError(t, dict.Set(ctx, "a", 7))
	all, err := dict.Copy(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"a": 7, "b": 2}, all)

	untilNear(t, conn, "s", func() {
		all, err := set.Copy(ctx)
		require.NoError(t, err)
		require.ElementsMatch(t, []int{1, 2}, slices.Collect(maps.Keys(all)))
		delete(all, 1)
	})
	_, err = set.Remove(ctx, 1)
	require.NoError(t, err)
	members, err := set.Copy(ctx)
	require.NoError(t, err)
	require.Equal(t, map[int]struct{}{2: {}}, members)

	require.Equal(t, 2, ask(list.PushBack(ctx, 1, 2)).ok(t))
	untilNear(t, conn, "l", func() {
		all := ask(list.Copy(ctx)).ok(t)
		require.Equal(t, []int{1, 2}, all)
		all[0] = 7
	})
	require.Equal(t, 2, ask(list.PushCapped(ctx, 2, 3)).ok(t))
	require.Equal(t, []int{3, 1}, ask(list.Copy(ctx)).ok(t))
}

// GetMany asks for what is not near, and only for that.
func TestNearMany(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+patience)
	c := caches.Cache[int](nearly("many")).On(conn)
	ctx := t.Context()
	all := make(map[int]int)
	for i := range 100 {
		all[i] = i * i
	}
	require.NoError(t, caches.SetMany(ctx, c, all))
	keys := slices.Collect(maps.Keys(all))
	read := func() {
		found, err := caches.GetMany(ctx, c, keys)
		require.NoError(t, err)
		require.Equal(t, all, found)
	}
	require.Eventually(t, func() bool {
		before := nearHits(conn, "many")
		read()
		return nearHits(conn, "many") == before+100
	}, 20*time.Second, time.Millisecond)
	gets(t, c.Key(7), 49)()
	before := commands(t, server)
	read()
	assert.Equal(t, before, commands(t, server), "nobody was asked")
}

// commands returns how many reads the server has had.
func commands(t testing.TB, server *testutil.RedisServer) int {
	t.Helper()
	n := 0
	for _, name := range []string{"get", "mget", "pttl"} {
		n += callsOf(t, server, name)
	}
	return n
}

// callsOf returns how often the server ran a command.
func callsOf(t testing.TB, server *testutil.RedisServer, name string) int {
	t.Helper()
	info, err := redis.String(server.Do("INFO", "commandstats"))
	require.NoError(t, err)
	found := regexp.MustCompile("cmdstat_" + name + ":calls=([0-9]+)").FindStringSubmatch(info)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return n
}

// A read that is Fresh asks the server, and what it finds is kept.
func TestNearFresh(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+patience)
	c := caches.Cache[int](nearly("f")).On(conn)
	ctx := t.Context()
	require.NoError(t, c.Key(1).Set(ctx, 1))
	untilNear(t, conn, "f", gets(t, c.Key(1), 1))
	before := commands(t, server)
	for range 10 {
		gets(t, c.Fresh().Key(1), 1)()
		gets(t, c.Key(1).Fresh(), 1)()
	}
	assert.Equal(t, before+40, commands(t, server), "GET and PTTL of each")
	gets(t, c.Key(1), 1)()
	assert.Equal(t, before+40, commands(t, server))

	load := caches.Cached(c, func(_ context.Context, arg int) (int, error) { return arg, nil },
		&caches.CachedOptions[int, int]{Name: "load"})
	results := func(load *caches.CachedFunc[int, int]) func() {
		return func() {
			v, err := load.Get(ctx, 7)
			require.NoError(t, err)
			require.Equal(t, 7, v)
		}
	}
	untilNear(t, conn, "f", results(load))
	before = commands(t, server)
	for range 10 {
		results(load.Fresh())()
	}
	assert.Equal(t, before+20, commands(t, server), "MGET and PTTL of each")
	results(load)()
	assert.Equal(t, before+20, commands(t, server))
}

// A hit allocates nothing.
func TestNearHitAllocatesNothing(t *testing.T) {
	conn := open(t, realRedis(t))
	c := caches.Cache[Profile](nearly("a")).On(conn).Key(1)
	ctx := t.Context()
	require.NoError(t, c.Set(ctx, Profile{Name: "Ada"}))
	untilNear(t, conn, "a", gets(t, c, Profile{Name: "Ada"}))
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = c.Get(ctx) }))
}

// BenchmarkNearHit reads one value that is near.
func BenchmarkNearHit(b *testing.B) {
	conn := open(b, realRedis(b))
	c := caches.Cache[Profile](nearly("a")).On(conn).Key(1)
	ctx := b.Context()
	require.NoError(b, c.Set(ctx, Profile{Name: "Ada"}))
	untilNear(b, conn, "a", gets(b, c, Profile{Name: "Ada"}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// Results of cached functions are kept near, and go with their key, their tags
// and their namespace.
func TestNearCachedFollowsKeyTagsAndNamespace(t *testing.T) {
	eachServer(t, func(t *testing.T, dsn string) { testNearCachedFollowsKeyTagsAndNamespace(t, dsn) })
	t.Run("sharded", func(t *testing.T) {
		t.Parallel()
		testNearCachedFollowsKeyTagsAndNamespace(t, realRedis(t), realRedis(t), realRedis(t))
	})
}

func testNearCachedFollowsKeyTagsAndNamespace(t *testing.T, dsns ...string) {
	conn, other := open(t, dsns...), open(t, dsns...)
	var runs atomic.Int64
	loader := func(conn *caches.Conn) *caches.CachedFunc[int, int64] {
		c := caches.Cache[int64]{Prefix: "c", TTL: time.Hour, Near: &caches.NearOptions{}}.On(conn)
		return caches.Cached(c, func(context.Context, int) (int64, error) { return runs.Add(1), nil },
			&caches.CachedOptions[int, int64]{Name: "load", Tags: func(arg int) []string { return []string{"all", fmt.Sprint("one:", arg)} }})
	}
	load, theirs := loader(conn), loader(other)
	ctx := t.Context()
	for name, invalidate := range map[string]func() error{
		"key":       func() error { return theirs.Invalidate(ctx, 7) },
		"tag":       func() error { return other.InvalidateTags(ctx, "all") },
		"own tag":   func() error { return other.InvalidateTags(ctx, "one:7") },
		"namespace": func() error { return theirs.InvalidateAll(ctx) },
	} {
		var last int64
		untilNear(t, conn, "c", func() {
			v, err := load.Get(ctx, 7)
			require.NoError(t, err)
			last = v
		})
		require.NoError(t, invalidate(), name)
		require.Eventually(t, func() bool {
			v, err := load.Get(ctx, 7)
			return err == nil && v > last
		}, 20*time.Second, time.Millisecond, name)
	}
	for name, invalidate := range map[string]func() error{ // in this process: at once
		"key":       func() error { return load.Invalidate(ctx, 7) },
		"tag":       func() error { return conn.InvalidateTags(ctx, "all") },
		"namespace": func() error { return load.InvalidateAll(ctx) },
	} {
		var last int64
		untilNear(t, conn, "c", func() {
			v, err := load.Get(ctx, 7)
			require.NoError(t, err)
			last = v
		})
		require.NoError(t, invalidate(), name)
		v, err := load.Get(ctx, 7)
		require.NoError(t, err)
		require.Greater(t, v, last, name)
	}
	untilNear(t, conn, "c", func() {
		_, err := load.GetMany(ctx, []int{7, 8, 9})
		require.NoError(t, err)
	})
}

// Storing results does not make those of the same type and tags untrue: a stamp
// is touched only when it would not live long enough.
func TestNearSurvivesOtherResultsOfItsTag(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	c := caches.Cache[int]{Prefix: "c", TTL: time.Hour, Near: &caches.NearOptions{}}.On(conn)
	load := caches.Cached(c, func(_ context.Context, arg int) (int, error) { return arg, nil },
		&caches.CachedOptions[int, int]{Name: "load", Tags: func(int) []string { return []string{"all"} }})
	ctx := t.Context()
	untilNear(t, conn, "c", func() {
		_, err := load.Get(ctx, 0)
		require.NoError(t, err)
	})
	before := nearHits(conn, "c")
	for i := range 100 {
		_, err := load.Get(ctx, i+1)
		require.NoError(t, err)
		_, err = load.Get(ctx, 0)
		require.NoError(t, err)
	}
	assert.GreaterOrEqual(t, nearHits(conn, "c"), before+90)
}
