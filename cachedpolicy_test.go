package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
)

// inBubble runs a test with a clock of its own, on a store of this process.
func inBubble(t *testing.T, test func(t *testing.T, conn *caches.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memory.Open(memory.Options{})
		require.NoError(t, err)
		conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"bubble": store})
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		test(t, conn)
	})
}

func countsOn(conn *caches.Conn) caches.Cache[int64] {
	return caches.Cache[int64]{Prefix: "counts", TTL: time.Hour}.On(conn)
}

func TestCachedNegative(t *testing.T) {
	inBubble(t, func(t *testing.T, conn *caches.Conn) {
		ctx := t.Context()
		var c countedLoad
		f := caches.Cached(usersOn(conn), func(ctx context.Context, id int) (string, error) {
			v, err := c.load(ctx, id)
			if err != nil {
				err = fmt.Errorf("user %d: %w", id, err)
			}
			return v, err
		}, &caches.CachedOptions[int, string]{Name: "negative", Negative: caches.NegativeOptions{Errors: []error{errNoUser}, TTL: time.Minute}})
		_, err := f.Get(ctx, -1)
		require.ErrorIs(t, err, errNoUser)
		require.ErrorContains(t, err, "user -1", "the one who asked first has the error as it is")
		time.Sleep(56 * time.Second) // a minute less the jitter
		_, err = f.Get(ctx, -1)
		require.Equal(t, errNoUser, err, "it is remembered, as the error that was named")
		got, err := f.GetMany(ctx, []int{-1, 2})
		require.ErrorIs(t, err, errNoUser)
		require.Len(t, got, 1)
		require.EqualValues(t, 2, c.calls.Load())
		time.Sleep(5 * time.Second)
		_, err = f.Get(ctx, -1)
		require.ErrorIs(t, err, errNoUser)
		require.EqualValues(t, 3, c.calls.Load(), "for its own time to live, not that of results")
		require.NoError(t, f.Invalidate(ctx, -1))
		_, err = f.Get(ctx, -1)
		require.ErrorIs(t, err, errNoUser)
		require.EqualValues(t, 4, c.calls.Load(), "and can be invalidated")
	})
}

func TestCachedStale(t *testing.T) {
	inBubble(t, func(t *testing.T, conn *caches.Conn) {
		ctx := t.Context()
		var calls atomic.Int64
		var broken atomic.Bool
		f := caches.Cached(countsOn(conn), func(context.Context, int) (int64, error) {
			time.Sleep(time.Second)
			if broken.Load() {
				return 0, errors.New("the database is down")
			}
			return calls.Add(1), nil
		}, &caches.CachedOptions[int, int64]{
			Name: "stale", Stale: 2 * time.Hour, Jitter: -1, Early: -1, Tags: func(int) []string { return []string{"t"} },
		})
		get := func(want int64, takes time.Duration, why string) {
			t.Helper()
			begun := time.Now()
			v, err := f.Get(ctx, 1)
			require.NoError(t, err, why)
			require.Equal(t, want, v, why)
			require.Equal(t, takes, time.Since(begun), why)
		}
		get(1, time.Second, "computed")
		time.Sleep(59 * time.Minute)
		get(1, 0, "fresh")
		time.Sleep(time.Minute)
		for range 3 {
			get(1, 0, "stale, while one computes")
		}
		time.Sleep(2 * time.Second)
		get(2, 0, "computed in the background, once")
		broken.Store(true)
		time.Sleep(2 * time.Hour)
		for range 10 {
			get(2, 0, "stale, as the function fails")
			time.Sleep(3 * time.Second)
		}
		require.NoError(t, conn.InvalidateTags(ctx, "t"))
		_, err := f.Get(ctx, 1)
		require.ErrorContains(t, err, "the database is down", "what was invalidated is never served")
		broken.Store(false)
		get(3, time.Second, "computed")
		time.Sleep(3*time.Hour + time.Second)
		get(4, time.Second, "too old")
	})
}

func TestCachedEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, conn *caches.Conn) {
		ctx := t.Context()
		var calls atomic.Int64
		of := func(early float64) *caches.CachedFunc[int, int64] {
			return caches.Cached(countsOn(conn), func(context.Context, int) (int64, error) {
				time.Sleep(10 * time.Second)
				return calls.Add(1), nil
			}, &caches.CachedOptions[int, int64]{Name: fmt.Sprint("early", early), Early: early})
		}
		// Asked every second, a result that takes ten is computed anew in the
		// background before an hour is over: none of those who ask waits. (With a β
		// of 1 somebody would, once in some twenty runs of the test.)
		f := of(3)
		_, err := f.Get(ctx, 1)
		require.NoError(t, err)
		slow := time.Duration(0)
		for range 3 * 3600 {
			begun := time.Now()
			_, err := f.Get(ctx, 1)
			require.NoError(t, err)
			slow = max(slow, time.Since(begun))
			time.Sleep(time.Second)
		}
		require.GreaterOrEqual(t, calls.Load(), int64(3))
		require.LessOrEqual(t, calls.Load(), int64(6), "one at a time")
		require.Zero(t, slow)

		never := of(-1)
		before := calls.Load()
		for range 3600 + 30 {
			_, err := never.Get(ctx, 1)
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		require.Equal(t, before+2, calls.Load(), "only when it has expired")
	})
}

// The chance that a call refreshes early is exp(-left/(cost·β)), as published.
func TestEarlyFollowsTheFormula(t *testing.T) {
	seed := seedOf(t)
	random := rand.New(rand.NewPCG(seed, 0))
	const draws = 1_000_000
	for _, c := range []struct{ beta, left float64 }{{1, 0.5}, {1, 1}, {1, 3}, {2, 3}, {0.5, 1}} {
		const cost = 50 * time.Millisecond
		left := time.Duration(c.left * float64(cost))
		n := 0
		for range draws {
			if caches.Early(cost, c.beta, random.Float64()) >= left {
				n++
			}
		}
		got, want := float64(n)/draws, math.Exp(-c.left/c.beta)
		t.Logf("β %v, %v·cost left: %.5f of the calls, %.5f published", c.beta, c.left, got, want)
		require.InEpsilon(t, want, got, 0.05)
	}
}

// A run that nobody waits for is ended after its lease; while somebody waits, it
// is not.
func TestCachedAbandonedRunEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, conn *caches.Conn) {
		ended := make(chan error, 2)
		begun := time.Now()
		f := caches.Cached(usersOn(conn), func(ctx context.Context, id int) (string, error) {
			select {
			case <-ctx.Done():
				ended <- context.Cause(ctx)
				return "", ctx.Err()
			case <-time.After(time.Minute):
				return "in time", nil
			}
		}, &caches.CachedOptions[int, string]{Name: "abandoned", Lease: 10 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := f.Get(ctx, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(begun))
		require.ErrorContains(t, <-ended, "no caller waits")
		require.Equal(t, 12*time.Second, time.Since(begun))

		begun = time.Now()
		v, err := f.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "in time", v)
		require.Equal(t, time.Minute, time.Since(begun))
		v, err = usersOn(conn).Key("abandoned", 1).Tagged().Get(t.Context())
		require.NoError(t, err, "its lease was renewed: the result was kept")
		require.Equal(t, "in time", v)
	})
}

// Of many callers half give up at random: none of the others fails.
func TestCachedCancelledCallers(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		seed := seedOf(t)
		random := rand.New(rand.NewPCG(seed, 0))
		var calls, wrong atomic.Int64
		f := caches.Cached(usersOn(conn), func(context.Context, int) (string, error) {
			calls.Add(1)
			time.Sleep(20 * time.Millisecond) // it takes as long
			return "v", nil
		}, named[int, string]("cancelled"))
		for round := range fullOr(100, 3) {
			var callers sync.WaitGroup
			for i := range fullOr(1000, 300) {
				patience := time.Duration(random.Int64N(int64(25 * time.Millisecond)))
				callers.Go(func() {
					ctx := ctx
					if i%2 == 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, patience)
						defer cancel()
					}
					v, err := f.Get(ctx, round)
					if i%2 == 1 && (err != nil || v != "v") || err != nil && !errors.Is(err, context.DeadlineExceeded) {
						wrong.Add(1)
					}
				})
			}
			callers.Wait()
			require.EqualValues(t, round+1, calls.Load())
		}
		require.Zero(t, wrong.Load())
	})
}

// The look-up of a GetMany is one MGET to each shard, and every missing result
// is computed once.
func TestCachedGetManyTrips(t *testing.T) {
	var dsns []string
	var servers []*testutil.RedisServer
	for i := range 4 {
		servers = append(servers, testutil.Redis(t, nil))
		dsns = append(dsns, servers[i].DSN()+patience+fmt.Sprint("&node=n", i))
	}
	mgets := func() (n int) {
		for _, s := range servers {
			n += commandCalls(t, s, "mget")
		}
		return n
	}
	conn := open(t, dsns...)
	var c countedLoad
	f := caches.Cached(usersOn(conn), c.load, named[int, string]("trips"))
	half := numbers(50)
	for _, step := range []struct {
		name  string
		args  []int
		loads int64
	}{{"0 %", half, 50}, {"50 %", numbers(100), 50}, {"100 %", numbers(100), 0}} {
		before, loads := mgets(), c.calls.Load()
		got, err := f.GetMany(t.Context(), step.args)
		require.NoError(t, err)
		require.Len(t, got, len(step.args))
		require.Equal(t, 4, mgets()-before, step.name)
		require.Equal(t, step.loads, c.calls.Load()-loads, step.name)
	}
}

// A miss that nobody else is at costs the server one script, that of its end. One
// whose entry another process computes waits for that, and then asks for the entry
// without claiming it.
func TestCachedClaimsWithoutScript(t *testing.T) {
	ctx := withTimeout(t, 20*time.Second)
	server := testutil.Redis(t, nil)
	one := open(t, server.DSN()+patience)
	inner, err := redigo.Open(redigo.Config{Address: server.Addr(), Timeout: 20 * time.Second})
	require.NoError(t, err)
	store := &tripStore{Store: inner}
	two, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": store})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, two.Close()) })
	w := newWaiting()
	f, g := caches.Cached(usersOn(one), w.load, named[int, string]("plain")), caches.Cached(usersOn(two), w.load, named[int, string]("plain"))
	done := make(chan error, 1)
	go func() { _, err := f.Get(ctx, 1); done <- err }()
	<-w.running
	require.Zero(t, commandCalls(t, server, "evalsha")+commandCalls(t, server, "eval"))
	go func() { _, err := g.Get(ctx, 1); done <- err }()
	untilBlocked(t, server) // behind a script
	require.Positive(t, commandCalls(t, server, "evalsha")+commandCalls(t, server, "eval"))
	close(w.release)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.EqualValues(t, 1, w.calls.Load())
	trips, commands := store.took()
	require.Equal(t, 5, trips, "look, claim, mark, wait, look: %v", commands)
}

// While the server cannot be asked, the function runs once for all who ask for
// one result, and no more than Fallback times at once.
func TestCachedFallback(t *testing.T) {
	conn, stores := tripShards(t, 1)
	stores["shard0"].fail(down)
	var running, most, calls atomic.Int64
	var faults atomic.Int64
	f := caches.Cached(usersOn(conn), func(_ context.Context, id int) (string, error) {
		calls.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(2 * time.Millisecond) // it takes as long
		return fmt.Sprint(id), nil
	}, &caches.CachedOptions[int, string]{
		Name: "fallback", Fallback: 4,
		Hooks: &caches.Hooks{Error: func(_ context.Context, c *caches.CallInfo) {
			if errors.Is(c.Swallowed, caches.ErrUnavailable) {
				faults.Add(1)
			}
		}},
	})
	var callers sync.WaitGroup
	for i := range 400 {
		callers.Go(func() {
			if v, err := f.Get(t.Context(), i%40); err != nil || v != fmt.Sprint(i%40) {
				t.Errorf("%q, %v", v, err)
			}
		})
	}
	callers.Wait()
	require.EqualValues(t, 4, most.Load())
	require.Less(t, calls.Load(), int64(400), "callers of one result share a run")
	require.EqualValues(t, 400, faults.Load(), "each caller's fault is told")
}

// Without Lock processes do not wait for each other, and are fenced all the same.
func TestCachedWithoutLock(t *testing.T) {
	dsn := realRedis(t)
	var calls atomic.Int64
	both := make(chan struct{})
	of := func() *caches.CachedFunc[int, string] {
		return caches.Cached(usersOn(open(t, dsn)), func(context.Context, int) (string, error) {
			if calls.Add(1) == 2 {
				close(both)
			}
			<-both
			return "v", nil
		}, &caches.CachedOptions[int, string]{Name: "lockless", Lease: -1})
	}
	a, b := of(), of()
	var callers sync.WaitGroup
	for _, f := range []*caches.CachedFunc[int, string]{a, b} {
		callers.Go(func() {
			_, err := f.Get(t.Context(), 1)
			require.NoError(t, err)
		})
	}
	callers.Wait()
	_, err := of().Get(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, 2, calls.Load(), "kept")
}

// A panic frees the lease at once: another process need not wait for its end.
func TestCachedPanicFreesTheLease(t *testing.T) {
	dsn := realRedis(t)
	of := func(load func(context.Context, int) (string, error)) *caches.CachedFunc[int, string] {
		return caches.Cached(usersOn(open(t, dsn)), load, &caches.CachedOptions[int, string]{Name: "panic", Lease: time.Hour})
	}
	running, release := make(chan struct{}), make(chan struct{})
	a := of(func(context.Context, int) (string, error) {
		close(running)
		<-release
		panic("at the disco")
	})
	b := of(func(context.Context, int) (string, error) { return "well", nil })
	fell, got := make(chan any), make(chan string)
	go func() { fell <- panics(func() { _, _ = a.Get(t.Context(), 1) }) }()
	<-running
	go func() {
		v, err := b.Get(t.Context(), 1)
		got <- fmt.Sprint(v, err)
	}()
	close(release)
	require.Contains(t, fmt.Sprint(<-fell), "at the disco")
	require.Equal(t, "well<nil>", <-got)
}

// The options that make no sense are errors of every call.
func TestCachedBadOptions(t *testing.T) {
	conn := open(t, "locmem://")
	for _, o := range []caches.CachedOptions[int, string]{
		{Lease: time.Millisecond}, {Negative: caches.NegativeOptions{TTL: -1}}, {Early: math.NaN()}, {Jitter: math.NaN()},
	} {
		o.Name = "bad"
		f := caches.Cached(usersOn(conn), loadByID, &o)
		_, err := f.Get(t.Context(), 1)
		require.Error(t, err)
		_, err = f.GetMany(t.Context(), []int{1})
		require.Error(t, err)
		require.Error(t, f.Invalidate(t.Context(), 1))
	}
}
