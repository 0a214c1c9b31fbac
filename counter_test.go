package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// A counter counts up, down, and to the ends of its type. TestNumberKinds has all
// types.
func TestCounterKinds(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		countsIn[int](t, ctx, conn, math.MinInt, math.MaxInt)
		countsIn[int8](t, ctx, conn, math.MinInt8, math.MaxInt8)
		countsIn[int64](t, ctx, conn, math.MinInt64, math.MaxInt64)
		countsIn[uint8](t, ctx, conn, 0, math.MaxUint8)
		countsIn[uint64](t, ctx, conn, 0, math.MaxInt64)
		countsIn[float32](t, ctx, conn, -1<<24, 1<<24)
		countsIn[float64](t, ctx, conn, -1<<53, 1<<53)
		countsIn[time.Duration](t, ctx, conn, math.MinInt64, math.MaxInt64)
	})
}

func countsIn[N caches.Number](t *testing.T, ctx context.Context, conn *caches.Conn, lowest, highest N) {
	t.Helper()
	c := caches.CounterCache[N]{Prefix: fmt.Sprintf("count.%T", lowest), TTL: time.Hour}.On(conn).Key("n")
	step := func(n N, err error) N {
		t.Helper()
		require.NoError(t, err, "%T", n)
		return n
	}
	require.EqualValues(t, 10, step(c.Incr(ctx, 10)), "counts from nothing")
	require.EqualValues(t, 7, step(c.Decr(ctx, 3)))
	require.EqualValues(t, 7, step(c.Get(ctx)))
	require.EqualValues(t, 7, step(c.Incr(ctx, 0)))
	require.EqualValues(t, 0, step(c.Decr(ctx, 7)))
	for _, end := range []N{lowest, highest} {
		require.NoError(t, c.Set(ctx, end))
		require.Equal(t, end, step(c.Get(ctx)), "%T keeps %v", end, end)
	}
	require.Equal(t, highest-1, step(c.Decr(ctx, 1)))
	require.Equal(t, highest, step(c.Incr(ctx, 1)))
	require.NoError(t, errOf(c.Delete(ctx)))
}

// A counter has the verbs of a value, over the number's plain text.
func TestCounterIsAValue(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		typ := caches.CounterCache[int]{Prefix: "cv", TTL: time.Hour, Serializer: caches.Gob}.On(conn)
		c := typ.Key("n")
		_, err := c.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
		n, err := c.GetOr(ctx, 4)
		require.NoError(t, err)
		require.Equal(t, 4, n)
		n, err = c.GetOrSet(ctx, func(context.Context) (int, error) { return 5, nil })
		require.NoError(t, err)
		require.Equal(t, 5, n)
		added, err := c.Add(ctx, 1)
		require.NoError(t, err)
		require.False(t, added)
		replaced, err := c.Replace(ctx, 6)
		require.NoError(t, err)
		require.True(t, replaced)
		n, loaded, err := c.Swap(ctx, 7)
		require.NoError(t, err)
		require.True(t, loaded)
		require.Equal(t, 6, n)

		text, err := conn.Do(ctx, "GET", c.String())
		require.NoError(t, err)
		require.Equal(t, []byte("7"), text, "plain text, whatever Options.Serializer says")
		_, err = conn.Do(ctx, "INCR", c.String())
		require.NoError(t, err)
		many, err := caches.GetMany(ctx, typ.Cache(), []string{"n", "none"})
		require.NoError(t, err)
		require.Equal(t, map[string]int{"n": 8}, many)

		n, err = c.Pop(ctx)
		require.NoError(t, err)
		require.Equal(t, 8, n)
		require.NoError(t, typ.Key("m").Set(ctx, 1))
		removed, err := typ.Clear(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, removed)
	})
}

func TestCounterOverflow(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "over", TTL: time.Hour}

		// Beyond int64 the server refuses, and the count stays.
		i := caches.CounterCache[int64](o).On(conn).Key("int64")
		require.NoError(t, i.Set(ctx, math.MaxInt64))
		_, err := i.Incr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrOverflow)
		require.ErrorContains(t, err, `"over.int64"`)
		n, err := i.Get(ctx)
		require.NoError(t, err)
		require.EqualValues(t, math.MaxInt64, n)
		require.NoError(t, i.Set(ctx, math.MinInt64))
		_, err = i.Decr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrOverflow)
		_, err = i.Decr(ctx, math.MinInt64)
		require.ErrorIs(t, err, caches.ErrOverflow, "minus the lowest is no int64")

		// Beyond N the server has counted: the answer says so, above and below.
		small := caches.CounterCache[int8](o).On(conn).Key("small")
		require.NoError(t, small.Set(ctx, 127))
		_, err = small.Incr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrOverflow)
		_, err = small.Get(ctx)
		require.ErrorIs(t, err, caches.ErrOverflow)
		back, err := small.Decr(ctx, 1)
		require.NoError(t, err)
		require.EqualValues(t, 127, back)

		unsigned := caches.CounterCache[uint8](o).On(conn).Key("unsigned")
		_, err = unsigned.Decr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrOverflow, "-1 is a number that uint8 cannot hold")
		require.NotErrorIs(t, err, caches.ErrNotNumber)
		_, err = unsigned.Get(ctx)
		require.ErrorIs(t, err, caches.ErrOverflow)
		up, err := unsigned.Incr(ctx, 2)
		require.NoError(t, err)
		require.EqualValues(t, 1, up)

		// The server counts in int64: what it could not add to is not stored.
		big := caches.CounterCache[uint64](o).On(conn).Key("uint64")
		require.ErrorIs(t, big.Set(ctx, math.MaxInt64+1), caches.ErrOverflow)
		_, err = big.Add(ctx, math.MaxUint64)
		require.ErrorIs(t, err, caches.ErrOverflow)
		_, err = big.Incr(ctx, math.MaxUint64)
		require.ErrorIs(t, err, caches.ErrOverflow)
		exists, err := big.Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists)
		require.NoError(t, big.Set(ctx, math.MaxInt64))
		_, err = big.Incr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrOverflow)
	})
}

// unlikeIntegers are texts that Redis does not take for integers and strconv
// does. The fake Redis reads with strconv: for it there are none.
func unlikeIntegers(t *testing.T) []string {
	if strings.HasSuffix(t.Name(), "/fake") {
		return nil
	}
	return []string{"01", "+1", "-0"}
}

func TestCounterNotNumber(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "nan", TTL: time.Hour}
		text := caches.Cache[string]{Prefix: "nan", Serializer: caches.Raw}.On(conn)
		i := caches.CounterCache[int](o).On(conn).Key("x")
		f := caches.CounterCache[float64](o).On(conn).Key("x")
		for _, s := range append([]string{"hunter2", "", "1.5", " 1", "1 "}, unlikeIntegers(t)...) {
			require.NoError(t, text.Key("x").Set(ctx, s))
			_, err := i.Incr(ctx, 1)
			require.ErrorIs(t, err, caches.ErrNotNumber, "%q", s)
			require.ErrorContains(t, err, `"nan.x"`)
			require.NotContains(t, err.Error(), "hunter2")
			got, err := text.Key("x").Get(ctx)
			require.NoError(t, err)
			require.Equal(t, s, got, "a failed increment changes nothing")
		}
		require.NoError(t, text.Key("x").Set(ctx, "hunter2"))
		_, err := f.Incr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrNotNumber)
		_, err = i.Get(ctx)
		require.ErrorIs(t, err, caches.ErrNotNumber)
		require.ErrorIs(t, err, caches.ErrCorrupt)
		require.NotContains(t, err.Error(), "hunter2")

		_, err = caches.SetCache[int](o).On(conn).Key("set").Add(ctx, 1)
		require.NoError(t, err)
		set := caches.CounterCache[int](o).On(conn).Key("set")
		_, err = set.Incr(ctx, 1)
		require.ErrorIs(t, err, caches.ErrWrongType)
		_, err = set.Get(ctx)
		require.ErrorIs(t, err, caches.ErrWrongType)
	})
}

func TestCounterFloats(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.CounterCache[float64]{Prefix: "float", TTL: time.Hour}.On(conn).Key("f")
		n, err := c.Incr(ctx, 0.1)
		require.NoError(t, err)
		require.Equal(t, 0.1, n)
		n, err = c.Incr(ctx, 0.2)
		require.NoError(t, err)
		require.InDelta(t, 0.3, n, 1e-15)
		n, err = c.Decr(ctx, 0.3)
		require.NoError(t, err)
		require.InDelta(t, 0, n, 1e-15)
		require.NoError(t, c.Set(ctx, 1e21))
		n, err = c.Incr(ctx, -1e21)
		require.NoError(t, err)
		require.Zero(t, n)
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			_, err = c.Incr(ctx, bad)
			require.ErrorIs(t, err, caches.ErrOverflow)
			_, err = c.Decr(ctx, bad)
			require.ErrorIs(t, err, caches.ErrOverflow)
		}
		require.Error(t, c.Set(ctx, math.NaN()))
		got, err := c.Get(ctx)
		require.NoError(t, err)
		require.Zero(t, got, "what was refused changed nothing")

		narrow := caches.CounterCache[float32]{Prefix: "float"}.On(conn).Key("f32")
		m, err := narrow.Incr(ctx, 0.1)
		require.NoError(t, err)
		require.Equal(t, float32(0.1), m, "0.1 travels as 0.1, not as its float64 expansion")
	})
}

// A window of counting ends a set time after it began, however much is counted
// in it, and the next one begins from nothing.
func TestCounterWindow(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "window", TTL: 300 * time.Millisecond, TTLPolicy: caches.FromCreation}
		c := caches.CounterCache[int](o).On(conn).Key("w")
		began := time.Now()
		for i := 1; ; i++ {
			n, err := c.Incr(ctx, 1)
			require.NoError(t, err)
			if n == 1 && i > 1 {
				break
			}
			require.Equal(t, i, n, "nothing is lost within the window")
			require.Less(t, time.Since(began), 10*time.Second, "a write must not prolong the window")
			time.Sleep(5 * time.Millisecond)
		}
		// The server's clock may tick up to a millisecond from ours.
		require.Greater(t, time.Since(began), 280*time.Millisecond, "the window ended early")
		if left, err := c.ExpiresIn(ctx); !errors.Is(err, caches.ErrMiss) { // it may have ended by now
			require.NoError(t, err)
			require.NotEqual(t, caches.Forever, left, "the new window ends, too")
		}
	})
}

func TestCounterLosesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.CounterCache[int64]{Prefix: "sum", TTL: time.Hour}.On(conn).Key("n")
		const workers, each = 20, 20
		seen := make([]map[int64]bool, workers)
		var all sync.WaitGroup
		for w := range workers {
			seen[w] = make(map[int64]bool)
			all.Go(func() {
				for range each {
					if n, err := c.Incr(ctx, 1); err == nil {
						seen[w][n] = true
					}
				}
			})
		}
		all.Wait()
		distinct := map[int64]bool{}
		for _, s := range seen {
			for n := range s {
				distinct[n] = true
			}
		}
		require.Len(t, distinct, workers*each, "every increment has a result of its own")
		n, err := c.Get(ctx)
		require.NoError(t, err)
		require.EqualValues(t, workers*each, n)
	})
}
