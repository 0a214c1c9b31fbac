package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// servers starts n servers and returns their addresses.
func servers(t *testing.T, n int) []string {
	t.Helper()
	all := make([]string, n)
	for i := range all {
		all[i] = testutil.Redis(t, nil).Addr()
	}
	return all
}

// ringOf opens a connection over hosts, which knows of those of before.
func ringOf(t *testing.T, router string, hosts, previous []string) *caches.Conn {
	t.Helper()
	dsn := "redis://" + strings.Join(hosts, ",") + "/0" + patience + "&router=" + router
	if previous != nil {
		dsn += "&previous=" + strings.Join(previous, ",")
	}
	return open(t, dsn)
}

// With the ring of before named, a change of the ring loses nothing; without it,
// all whose place has changed.
func TestPreviousRingIsStillHit(t *testing.T) {
	hosts := servers(t, 4)
	entries := fullOr(100_000, 2_000)
	ctx := t.Context()
	ids := make([]int, entries)
	values := make(map[int]string, entries)
	for i := range ids {
		ids[i], values[i] = i, fmt.Sprint("value ", i)
	}
	texts := caches.Cache[string]{Prefix: "p", TTL: time.Hour}
	for _, router := range []string{"ketama", "crc32"} {
		old := ringOf(t, router, hosts[:3], nil)
		require.NoError(t, caches.SetMany(ctx, texts.On(old), values))
		hits := func(conn *caches.Conn) (n int) {
			for part := 0; part < entries; part += 1000 {
				found, err := caches.GetMany(ctx, texts.On(conn), ids[part:min(part+1000, entries)])
				require.NoError(t, err)
				for i, v := range found {
					require.Equal(t, values[i], v)
				}
				n += len(found)
			}
			return n
		}
		plain := hits(ringOf(t, router, hosts, nil))
		named := hits(ringOf(t, router, hosts, hosts[:3]))
		t.Logf("%s, 3 shards become 4, %d entries: %d are found without the ring of before, %d with it", router, entries, plain, named)
		require.Equal(t, entries, named)
		require.Less(t, plain, entries)
		require.Equal(t, entries, hits(ringOf(t, router, hosts, nil)), "they have moved")
		left, err := texts.On(ringOf(t, router, hosts, nil)).Key(ids[entries/2]).ExpiresIn(ctx)
		require.NoError(t, err)
		require.InDelta(t, time.Hour, left, float64(10*time.Minute))
		require.NoError(t, old.UnsafeFlush(ctx))
		require.NoError(t, ringOf(t, router, hosts, nil).UnsafeFlush(ctx))
	}
}

// Every kind of object moves, by reads and by writes.
func TestPreviousRingMovesAllObjects(t *testing.T) {
	hosts := servers(t, 3)
	// The same servers the other way round: everything moves somewhere.
	old := ringOf(t, "crc32", hosts[:2], nil)
	now := ringOf(t, "crc32", hosts[2:], hosts[:2])
	ctx := t.Context()
	options := func(prefix string) caches.Options { return caches.Options{Prefix: prefix, TTL: time.Hour} }
	for i := range 20 {
		value := caches.Cache[int](options("v"))
		require.NoError(t, value.On(old).Key(i).Set(ctx, i))
		v, err := value.On(now).Key(i).Get(ctx)
		require.NoError(t, err)
		require.Equal(t, i, v)

		count := caches.CounterCache[int64](options("c"))
		_, err = count.On(old).Key(i).Incr(ctx, 10)
		require.NoError(t, err)
		n, err := count.On(now).Key(i).Incr(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, int64(11), n, "a write finds what there was")

		dict := caches.DictCache[string, int](options("d"))
		require.NoError(t, dict.On(old).Key(i).Update(ctx, map[string]int{"a": 1, "b": 2}))
		require.NoError(t, dict.On(now).Key(i).Set(ctx, "c", 3))
		all, err := dict.On(now).Key(i).Copy(ctx)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"a": 1, "b": 2, "c": 3}, all)

		set := caches.SetCache[int](options("s"))
		_, err = set.On(old).Key(i).Add(ctx, 1, 2)
		require.NoError(t, err)
		_, err = set.On(old).Key("b", i).Add(ctx, 2, 3)
		require.NoError(t, err)
		union, err := set.On(now).Key(i).Union(ctx, set.On(now).Key("b", i))
		require.NoError(t, err)
		require.Len(t, union, 3)

		for _, kind := range kinds {
			require.NoError(t, kind.on(old, options(kind.name)).key(i).fill(ctx))
			c := kind.on(now, options(kind.name)).key(i)
			requireLen(t, ctx, c, 3)
			require.NoError(t, c.empty(ctx), kind.name)
			requireLen(t, ctx, c, 0)
		}

		gate := caches.SentinelCache{Prefix: "g", TTL: time.Hour}
		first, err := gate.On(old).Key(i).Once(ctx)
		require.NoError(t, err)
		require.True(t, first)
		first, err = gate.On(now).Key(i).Once(ctx)
		require.NoError(t, err)
		require.False(t, first, "the gate stays shut")

		for _, key := range []string{value.On(old).Key(i).String(), count.On(old).Key(i).String(), dict.On(old).Key(i).String()} {
			there, err := old.Do(ctx, "EXISTS", key)
			require.NoError(t, err)
			require.Equal(t, int64(0), there, "%s is still at its old place", key)
		}
	}
	removed, err := (caches.Cache[int](options("v"))).On(old).Clear(ctx)
	require.NoError(t, err)
	require.Zero(t, removed)
}

// Results of cached functions move with what vouches for them: those that were
// invalidated do not come back, by whatever they were.
func TestPreviousRingOfCachedFunctions(t *testing.T) {
	hosts := servers(t, 4)
	var runs atomic.Int64
	loader := func(conn *caches.Conn) *caches.CachedFunc[int, int64] {
		return caches.Cached(caches.Cache[int64]{Prefix: "f", TTL: time.Hour}.On(conn),
			func(context.Context, int) (int64, error) { return runs.Add(1), nil },
			&caches.CachedOptions[int, int64]{Name: "load", Early: -1, Tags: func(i int) []string { return []string{fmt.Sprint("tag", i%4)} }})
	}
	ctx := t.Context()
	n := fullOr(200, 40)
	args := make([]int, n)
	for i := range args {
		args[i] = i
	}
	for name, invalidate := range map[string]struct {
		do   func(*caches.CachedFunc[int, int64], *caches.Conn) error
		lost int // of n
	}{
		"nothing": {func(*caches.CachedFunc[int, int64], *caches.Conn) error { return nil }, 0},
		"keys": {func(f *caches.CachedFunc[int, int64], _ *caches.Conn) error {
			return errors.Join(f.Invalidate(ctx, 3), f.Invalidate(ctx, 4))
		}, 2},
		"tag":       {func(_ *caches.CachedFunc[int, int64], c *caches.Conn) error { return c.InvalidateTags(ctx, "tag2") }, n / 4},
		"namespace": {func(f *caches.CachedFunc[int, int64], _ *caches.Conn) error { return f.InvalidateAll(ctx) }, n},
	} {
		for _, many := range []bool{false, true} {
			for _, byOld := range []bool{false, true} { // a process that does not know the new ring yet
				what := fmt.Sprint(name, " many ", many, " old ", byOld)
				runs.Store(0)
				old := ringOf(t, "ketama", hosts[:3], nil)
				now := ringOf(t, "ketama", hosts, hosts[:3])
				_, err := loader(old).GetMany(ctx, args)
				require.NoError(t, err)
				require.Equal(t, int64(n), runs.Load())
				load := loader(now)
				if byOld {
					require.NoError(t, invalidate.do(loader(old), old), what)
				} else {
					require.NoError(t, invalidate.do(load, now), what)
				}
				if many {
					_, err = load.GetMany(ctx, args)
					require.NoError(t, err, what)
				}
				for _, i := range args {
					_, err := load.Get(ctx, i)
					require.NoError(t, err, what)
				}
				assert.Equal(t, int64(n+invalidate.lost), runs.Load(), what)
				require.NoError(t, now.UnsafeFlush(ctx))
			}
		}
	}
}

// A leastValues holds, for each key, the value that the last acknowledged write has
// left. One goroutine writes a key; an older value is stale.
type leastValues [100]struct {
	atomic.Int64
	touched atomic.Bool // written or deleted: it may be missing
}

// write sets or deletes the object of key i.
func (l *leastValues) write(ctx context.Context, i int, object caches.Value[int64], remove bool) (err error) {
	next := l[i].Load() + 1
	l[i].touched.Store(true)
	if remove {
		_, err = object.Delete(ctx)
	} else {
		err = object.Set(ctx, next)
	}
	if err == nil {
		l[i].Store(next)
	}
	return err
}

// read reads the object of key i, and reports whether its value is stale.
func (l *leastValues) read(ctx context.Context, i int, object caches.Value[int64]) (stale bool, err error) {
	before := l[i].Load()
	v, err := object.Get(ctx)
	switch {
	case err == nil:
		return v < before, nil
	case !errors.Is(err, caches.ErrMiss):
		return false, err
	case !l[i].touched.Load():
		return false, fmt.Errorf("key %d, which no goroutine has touched, is gone", i)
	}
	return false, nil
}

// While many processes move the same keys, no read returns a value that was deleted
// or written over before it.
func TestPreviousRingUnderChange(t *testing.T) {
	hosts := servers(t, 4)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx := t.Context()
	var stale, reads atomic.Int64
	for round := range fullOr(200, 4) {
		prefix := caches.Cache[int64]{Prefix: fmt.Sprint("p", round), TTL: time.Hour}
		var least leastValues
		values := make(map[int]int64, len(least))
		for i := range least {
			values[i] = 1
			least[i].Store(1)
		}
		require.NoError(t, caches.SetMany(ctx, prefix.On(ringOf(t, "crc32", hosts[:3], nil)), values))
		var all sync.WaitGroup
		for writer := range 4 {
			conn := ringOf(t, "crc32", hosts, hosts[:3])
			random := rand.New(rand.NewPCG(seed, uint64(round*4+writer)))
			all.Go(func() {
				for range 300 {
					i := random.IntN(len(least))
					object := prefix.On(conn).Key(i)
					if i%4 == writer && random.IntN(3) == 0 {
						if !assert.NoError(t, least.write(ctx, i, object, random.IntN(2) == 0)) {
							return
						}
						continue
					}
					old, err := least.read(ctx, i, object)
					reads.Add(1)
					if old {
						stale.Add(1)
					}
					if !assert.NoError(t, err) {
						return
					}
				}
			})
		}
		all.Wait()
	}
	t.Logf("%d reads, %d stale", reads.Load(), stale.Load())
	require.Zero(t, stale.Load())
}

// A key that one process moves because it reads it, while another deletes it or
// writes it over, is afterwards what the other has left.
func TestPreviousRingOfOneKey(t *testing.T) {
	hosts := servers(t, 4)
	ctx := t.Context()
	const keys = 200
	wrong := 0
	for round := range fullOr(100, 2) {
		numbers := caches.Cache[int]{Prefix: fmt.Sprint("p", round), TTL: time.Hour}
		values := make(map[int]int, keys)
		for i := range keys {
			values[i] = 1
		}
		require.NoError(t, caches.SetMany(ctx, numbers.On(ringOf(t, "crc32", hosts[:3], nil)), values))
		reader, writer, later := ringOf(t, "crc32", hosts, hosts[:3]), ringOf(t, "crc32", hosts, hosts[:3]), ringOf(t, "crc32", hosts, hosts[:3])
		for i := range keys {
			var both sync.WaitGroup
			both.Go(func() {
				if _, err := numbers.On(reader).Key(i).Get(ctx); !errors.Is(err, caches.ErrMiss) {
					assert.NoError(t, err)
				}
			})
			both.Go(func() {
				time.Sleep(time.Duration(rand.Int64N(int64(400 * time.Microsecond)))) // a random moment
				assert.NoError(t, errOf(numbers.On(writer).Key(i).Delete(ctx)))
				if i%2 == 0 {
					assert.NoError(t, numbers.On(writer).Key(i).Set(ctx, 2))
				}
			})
			both.Wait()
			v, err := numbers.On(later).Key(i).GetOr(ctx, 0)
			require.NoError(t, err)
			if want := 2 * (1 - i%2); v != want {
				wrong++
			}
		}
	}
	require.Zero(t, wrong)
}

func TestPreviousRingBadInput(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"redis://a,b?previous=a%20b":              "may contain only",
		"redis://a,b?previous=a,a":                "named twice",
		"redis://a,b?previous=:x":                 "previous",
		"redis://a,b?previous_router=sha":         "neither crc32 nor ketama",
		"locmem://?previous=x":                    "previous",
		"redis+unix:///run/x.sock?previous=other": "previous",
	} {
		_, err := caches.Open(dsn)
		require.ErrorContains(t, err, want, dsn)
	}
	conn, err := caches.Open("redis://a:1,b:2,c:3?previous=a:1,b:2/0,d:4")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

// Delete of a key that is still on its previous shard reports it.
func TestPreviousRingReportsDeletes(t *testing.T) {
	hosts := servers(t, 3)
	ctx := t.Context()
	numbers := caches.Cache[int]{Prefix: "d", TTL: time.Hour}
	previous, current := ringOf(t, "crc32", hosts[:2], nil), ringOf(t, "crc32", hosts, hosts[:2])
	for i := range 30 {
		require.NoError(t, numbers.On(previous).Key(i).Set(ctx, i))
	}
	for i := range 30 {
		require.True(t, ask(numbers.On(current).Key(i).Delete(ctx)).ok(t), "%d", i)
		require.False(t, ask(numbers.On(current).Key(i).Delete(ctx)).ok(t), "%d", i)
		require.ErrorIs(t, errOf(numbers.On(previous).Key(i).Get(ctx)), caches.ErrMiss)
	}
}
