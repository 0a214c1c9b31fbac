package caches_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
)

// What users' code, a closing connection and servers that fail in part can do to
// calls: end their goroutines, call each other in circles, answer nonsense. No
// call hangs, none is lost, and nothing stays behind.

// A perilous store does what its test says.
type perilous struct {
	driver.Store
	do atomic.Pointer[func(ctx context.Context, p *driver.Pipeline) error]
}

func (s *perilous) Do(ctx context.Context, p *driver.Pipeline) error {
	if f := s.do.Load(); f != nil {
		return (*f)(ctx, p)
	}
	return s.Store.Do(ctx, p)
}

func (s *perilous) set(f func(ctx context.Context, p *driver.Pipeline) error) { s.do.Store(&f) }

// perils returns a connection to perilous stores of these names.
func perils(t *testing.T, names ...string) (*caches.Conn, map[string]*perilous) {
	t.Helper()
	stores, all := map[string]*perilous{}, map[string]driver.Store{}
	for _, n := range names {
		stores[n] = &perilous{Store: testutil.Memory(t)}
		all[n] = stores[n]
	}
	c, err := caches.ConnOptions{}.OpenStores(all)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c, stores
}

// ends fails the test where f does not return, and ends its contexts.
func ends(t *testing.T, f func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		assert.Fail(t, "it does not return")
		cancel()
		<-done
	}
}

func remember[T any](c *caches.Conn, prefix string, f func(context.Context, string) (T, error), o caches.CachedOptions[string, T]) *caches.CachedFunc[string, T] {
	o.Name = prefix
	return caches.Cached(caches.Cache[T]{Prefix: prefix, TTL: time.Hour}.On(c), f, &o)
}

// Connections come and go while all are pinged.
func TestPingWhileConfigured(t *testing.T) {
	t.Parallel()
	c := open(t, "locmem://")
	r := &caches.Registry{}
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.SetConnection("x", c)
				r.SetConnection("x", nil)
			}
		}
	})
	for range 20_000 {
		require.NoError(t, r.Ping(t.Context()))
	}
	close(stop)
	changing.Wait()
}

// Without the server as many functions run as Fallback says. One of them that
// asks for what another caller waits to compute does not wait for that one.
func TestFallbackOfACallWithinACall(t *testing.T) {
	t.Parallel()
	c, stores := perils(t, "one")
	stores["one"].set(func(context.Context, *driver.Pipeline) error { return driver.ErrUnavailable })
	var f *caches.CachedFunc[string, string]
	inLeaf, goOn := make(chan struct{}), make(chan struct{})
	f = remember(c, "tree", func(ctx context.Context, node string) (string, error) {
		if node == "root" {
			return "/", nil
		}
		close(inLeaf)
		<-goOn
		up, err := f.Get(ctx, "root")
		return up + node, err
	}, caches.CachedOptions[string, string]{Fallback: 1})
	ends(t, func(ctx context.Context) {
		var all sync.WaitGroup
		all.Go(func() {
			v, err := f.Get(ctx, "leaf")
			assert.NoError(t, err)
			assert.Equal(t, "/leaf", v)
		})
		<-inLeaf
		all.Go(func() { // waits for the leaf's place
			v, err := f.Get(ctx, "root")
			assert.NoError(t, err)
			assert.Equal(t, "/", v)
		})
		time.Sleep(100 * time.Millisecond)
		close(goOn)
		all.Wait()
	})
}

// Functions that ask for each other's results in a circle are told so, whoever
// began: also where each of them runs for a caller of its own.
func TestRecursionOverOtherCallers(t *testing.T) {
	t.Parallel()
	c := open(t, realRedis(t))
	next := map[string]string{"a": "b", "b": "c", "c": "a"}
	var f *caches.CachedFunc[string, string]
	var began sync.WaitGroup
	began.Add(len(next))
	var found atomic.Int64
	f = remember(c, "circle", func(ctx context.Context, k string) (string, error) {
		began.Done()
		began.Wait()
		v, err := f.Get(ctx, next[k])
		if err != nil {
			found.Add(1)
			assert.ErrorContains(t, err, "waits for its own result")
			v = "."
		}
		return k + v, nil
	}, caches.CachedOptions[string, string]{})
	ends(t, func(ctx context.Context) {
		var all sync.WaitGroup
		for k := range next {
			all.Go(func() {
				v, err := f.Get(ctx, k)
				assert.NoError(t, err)
				assert.Contains(t, v, k)
			})
		}
		all.Wait()
	})
	assert.EqualValues(t, 1, found.Load(), "the one that would have closed the circle")
}

// Functions that ask for the same result, and one for several, are no circle.
func TestNoRecursion(t *testing.T) {
	t.Parallel()
	c := open(t, "locmem://")
	var f *caches.CachedFunc[string, string]
	f = remember(c, "diamond", func(ctx context.Context, k string) (string, error) {
		time.Sleep(time.Millisecond)
		if k == "" {
			return "", nil
		}
		both := make([]string, 2)
		errs := make([]error, 2)
		var all sync.WaitGroup
		for i := range both {
			all.Go(func() { both[i], errs[i] = f.Get(ctx, k[1:]) })
		}
		all.Wait()
		assert.NoError(t, errs[0])
		assert.NoError(t, errs[1])
		return k[:1] + both[0], nil
	}, caches.CachedOptions[string, string]{})
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			v, err := f.Get(t.Context(), "abcde"[i:])
			assert.NoError(t, err)
			assert.Equal(t, "abcde"[i:], v)
		})
	}
	all.Wait()
}

// untilBlocked waits until a caller waits for a lease.
func untilBlocked(t *testing.T, server *testutil.RedisServer) {
	t.Helper()
	require.NoError(t, await(t.Context(), func() bool {
		clients, err := server.Do("CLIENT", "LIST")
		return err == nil && strings.Contains(fmt.Sprintf("%s", clients), "cmd=blmove")
	}))
}

// A caller that waits for another's result is not left waiting when the
// connection is closed: nobody can tell it of the result any more.
func TestCloseEndsWaitsForLeases(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	c := open(t, server.DSN())
	begun, goOn := make(chan struct{}, 2), make(chan struct{})
	f := remember(c, "closing", func(context.Context, string) (int, error) {
		begun <- struct{}{}
		<-goOn
		return 1, nil
	}, caches.CachedOptions[string, int]{Lease: time.Minute})
	var all sync.WaitGroup
	all.Go(func() { _, _ = f.Refresh(t.Context(), "k") })
	<-begun
	ends(t, func(ctx context.Context) {
		all.Go(func() {
			v, err := f.Get(ctx, "k")
			assert.NoError(t, err)
			assert.Equal(t, 1, v)
		})
		untilBlocked(t, server)
		require.NoError(t, c.Close())
		close(goOn)
		all.Wait()
	})
}

// halfway is a connection whose keys are on a real server, and a tag of which on
// a store that is not there for the first command that makes its stamp.
func halfway(t *testing.T, f func(context.Context, string) (int, error)) (of *caches.CachedFunc[string, int], arg string) {
	t.Helper()
	real, err := redigo.Open(redigo.Config{Address: testutil.Redis(t, nil).Addr()})
	require.NoError(t, err)
	b := &perilous{Store: testutil.Memory(t)}
	c, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"a": real, "b": b})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	on := func(shard, prefix string) (name string) {
		for i := 0; name == "" || c.ShardOf(prefix+name) != shard; i++ {
			name = fmt.Sprint("n", i)
		}
		return name
	}
	tag, arg := on("b", "%tag."), on("a", "half.half.")
	var failed atomic.Bool
	b.set(func(ctx context.Context, p *driver.Pipeline) error {
		if p.Name(0) == "SET" && failed.CompareAndSwap(false, true) {
			return driver.ErrUnavailable
		}
		return b.Store.Do(ctx, p)
	})
	of = remember(c, "half", f, caches.CachedOptions[string, int]{Lease: time.Minute, Tags: func(string) []string { return []string{tag} }})
	t.Cleanup(func() { assert.True(t, failed.Load()) })
	return of, arg
}

// A claim that failed where a tag is leaves no lease where the entry is.
func TestClaimThatFailsInPart(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(*caches.CachedFunc[string, int], context.Context, string){
		"Get":     func(f *caches.CachedFunc[string, int], ctx context.Context, arg string) { _, _ = f.Get(ctx, arg) },
		"Refresh": func(f *caches.CachedFunc[string, int], ctx context.Context, arg string) { _, _ = f.Refresh(ctx, arg) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, arg := halfway(t, func(context.Context, string) (int, error) { return 1, nil })
			ends(t, func(ctx context.Context) {
				first(f, ctx, arg)
				_, err := f.Get(ctx, arg)
				assert.NoError(t, err)
			})
		})
	}
}

// A Refresh whose caller goes away while it claims the lease leaves none, and
// returns in time.
func TestRefreshLeavesNoLease(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	c := open(t, "redis://"+proxy.Addr()+"/0?timeout=20s")
	f := remember(c, "gone", func(ctx context.Context, _ string) (int, error) { return 1, ctx.Err() }, caches.CachedOptions[string, int]{Lease: time.Minute})
	_, err := f.Get(t.Context(), "other")
	require.NoError(t, err)
	proxy.DropReplies(true) // the lease is claimed, and the reply never comes
	ends(t, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := f.Refresh(ctx, "k")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
	proxy.DropReplies(false)
	ends(t, func(ctx context.Context) {
		_, err := f.Get(ctx, "k")
		assert.NoError(t, err)
	})
}

// A NaN is no argument for a map; the promise says what Get says.
func TestLaterNaN(t *testing.T) {
	t.Parallel()
	c := open(t, "locmem://")
	f := caches.Cached(caches.Cache[int]{Prefix: "nan"}.On(c),
		func(context.Context, float64) (int, error) { return 7, nil }, &caches.CachedOptions[float64, int]{Name: "nan"})
	_, want := f.Get(t.Context(), math.NaN())
	require.Error(t, want)
	b := new(caches.Batch)
	p := f.Later(b, math.NaN())
	require.Error(t, b.Run(t.Context()))
	_, err := p.Value(t.Context())
	require.EqualError(t, err, want.Error())
}

// A hook that ends its goroutine, as a test's may, loses no result without a word.
func TestHookEndsGoroutineOfMany(t *testing.T) {
	t.Parallel()
	c := open(t, "locmem://")
	hooks := &caches.Hooks{Call: func(context.Context, *caches.CallInfo) { runtime.Goexit() }}
	f := remember(c, "exit", func(context.Context, string) (int, error) { return 1, nil }, caches.CachedOptions[string, int]{Hooks: hooks})
	b := new(caches.Batch)
	p := f.Later(b, "k")
	require.Error(t, b.Run(t.Context()))
	_, err := p.Value(t.Context())
	require.ErrorContains(t, err, "Goexit")
}

// Nor does a function of Then that does leave other promises open.
func TestThenEndsGoroutine(t *testing.T) {
	t.Parallel()
	c := open(t, "locmem://")
	f := remember(c, "then", func(context.Context, string) (int, error) { panic("fn") }, caches.CachedOptions[string, int]{})
	exit := func(int, error) { runtime.Goexit() }
	b := new(caches.Batch)
	var all []*caches.Promise[int]
	for i := range 4 {
		all = append(all, f.Later(b, fmt.Sprint(i)).Then(exit))
	}
	require.Panics(t, func() { _ = b.Run(t.Context()) })
	for _, p := range all {
		require.True(t, p.IsResolved())
	}

	b, all = new(caches.Batch), nil
	for i := range 4 {
		all = append(all, f.Later(b, fmt.Sprint(i)).Then(exit))
	}
	ends(t, func(context.Context) { b.Abandon() })
	for _, p := range all {
		_, err := p.Value(t.Context())
		require.ErrorIs(t, err, caches.ErrAbandoned)
	}
}

// An MGET whose answer has another length is an error of the shard.
func TestShortMGET(t *testing.T) {
	t.Parallel()
	c, stores := perils(t, "one")
	stores["one"].set(func(ctx context.Context, p *driver.Pipeline) error {
		if p.Name(0) != "MGET" {
			return stores["one"].Store.Do(ctx, p)
		}
		p.ResetReplies()
		for range p.Len() {
			p.Replies().Array(0)
		}
		return nil
	})
	f := remember(c, "short", func(_ context.Context, k string) (string, error) { return k, nil }, caches.CachedOptions[string, string]{})
	got, err := f.GetMany(t.Context(), []string{"a", "b"})
	require.NoError(t, err, "they are computed")
	require.Equal(t, map[string]string{"a": "a", "b": "b"}, got)
	_, err = caches.GetMany(t.Context(), caches.Cache[string]{Prefix: "short"}.On(c), []string{"a", "b"})
	require.ErrorIs(t, err, caches.ErrProtocol)
}

// A caller that panics as it joins a run is not counted among those who wait: the
// run ends when the others are gone.
func TestJoinThatPanics(t *testing.T) {
	t.Parallel()
	c, stores := perils(t, "one")
	begun, ended := make(chan struct{}), make(chan struct{})
	f := remember(c, "join", func(ctx context.Context, _ string) (int, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return 0, ctx.Err()
	}, caches.CachedOptions[string, int]{Lease: 50 * time.Millisecond})
	ends(t, func(ctx context.Context) {
		first, cancel := context.WithCancel(ctx)
		var all sync.WaitGroup
		all.Go(func() { _, _ = f.Get(first, "k") })
		<-begun
		var looks atomic.Int64
		stores["one"].set(func(ctx context.Context, p *driver.Pipeline) error {
			if p.Name(0) == "MGET" && looks.Add(1) == 2 {
				panic("store")
			}
			return stores["one"].Store.Do(ctx, p)
		})
		assert.Panics(t, func() { _, _ = f.Get(ctx, "k") })
		cancel()
		<-ended
		all.Wait()
	})
}

// Work learns that its lease is lost also where a hook ends the goroutine that
// renews it.
func TestHookEndsRenewals(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c, err := caches.ConnOptions{Hooks: &caches.Hooks{Call: func(context.Context, *caches.CallInfo) {
		if calls.Add(1) == 2 { // the first renewal
			runtime.Goexit()
		}
	}}}.Open(realRedis(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	ends(t, func(ctx context.Context) {
		gate := caches.SentinelCache{Prefix: "renewed", TTL: time.Hour, Lease: 100 * time.Millisecond}
		_, err := gate.On(c).Key(1).Do(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		assert.ErrorIs(t, err, caches.ErrLeaseLost)
	})
}

// A store that panics does so in its caller, where it can be recovered from, on
// however many shards.
func TestStoresThatPanic(t *testing.T) {
	t.Parallel()
	c, stores := perils(t, "a", "b", "c")
	for _, s := range stores {
		s.set(func(context.Context, *driver.Pipeline) error { panic("store") })
	}
	require.PanicsWithValue(t, "store", func() { _ = c.Ping(t.Context()) })
	only := stores["c"]
	for name, s := range stores {
		if name != "c" {
			s.set(s.Store.Do)
		}
	}
	require.PanicsWithValue(t, "store", func() { _ = c.Ping(t.Context()) })
	only.set(only.Store.Do)
	require.NoError(t, c.Ping(t.Context()))

	f := remember(c, "panics", func(context.Context, string) (int, error) { return 1, nil }, caches.CachedOptions[string, int]{})
	for _, s := range stores {
		s.set(func(context.Context, *driver.Pipeline) error { panic("store") })
	}
	require.PanicsWithValue(t, "store", func() { _, _ = f.Refresh(t.Context(), "k") })
}
