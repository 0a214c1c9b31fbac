package caches_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A stamp whose creation got no reply is not sent again: what was stored under it, and
// invalidated, would come back to life.
func TestStampsAreNeverMadeTwice(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	bad := open(t, "redis://"+proxy.Addr()+patience)
	good := open(t, server.DSN()+patience)
	ctx := t.Context()
	require.NoError(t, bad.Ping(ctx))
	// warm scripts on both connections, on another key
	require.NoError(t, caches.Cache[string]{Prefix: "p", TTL: time.Hour}.On(bad).Key("w").Tagged("warm").Set(ctx, "x"))

	of := func(c *caches.Conn, key string) caches.Tagged[string] {
		return caches.Cache[string]{Prefix: "p", TTL: time.Hour}.On(c).Key(key).Tagged("t")
	}
	proxy.DropReplies(true)
	done := make(chan error, 1)
	go func() { done <- of(bad, "b").Set(ctx, "other") }()
	// the stamp is made by the one whose reply is lost
	require.Eventually(t, func() bool {
		n, err := good.Do(ctx, "EXISTS", "%tag.t")
		return err == nil && n == int64(1)
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, of(good, "a").Set(ctx, "old"))
	require.NoError(t, good.InvalidateTags(ctx, "t"))
	_, err := of(good, "a").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	proxy.Heal() // resets: sent again
	require.NoError(t, <-done)
	v, err := of(good, "a").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss, "an invalidated value is back: %q", v)
}

// within waits for c, for d at most.
func within[T any](d time.Duration, c <-chan T) {
	select {
	case <-c:
	case <-time.After(d):
	}
}

// A run without the server is not joined by callers who can ask it: they may know of
// a later invalidation.
func TestRunsOfAnOutageEndWithIt(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	conn := open(t, "redis://"+proxy.Addr()+"?timeout=3s")
	good := open(t, server.DSN()+patience)
	var truth atomic.Int64
	truth.Store(1)
	started, release := make(chan struct{}, 10), make(chan struct{})
	f := caches.Cached(caches.Cache[int64]{Prefix: "u", TTL: time.Hour}.On(conn),
		func(ctx context.Context, _ int) (int64, error) {
			v := truth.Load()
			started <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return v, nil
		}, &caches.CachedOptions[int, int64]{Name: "f", Tags: func(int) []string { return []string{"t"} }})
	ctx := withTimeout(t, 20*time.Second)
	require.NoError(t, conn.Ping(ctx))
	proxy.Refuse(true)
	proxy.Reset()
	first := make(chan int64, 1)
	go func() { v, _ := f.Get(ctx, 1); first <- v }()
	<-started
	proxy.Heal()
	require.Eventually(t, func() bool { return conn.Ping(ctx) == nil }, 10*time.Second, 5*time.Millisecond)
	truth.Store(2)
	require.NoError(t, good.InvalidateTags(ctx, "t"))
	second := make(chan int64, 1)
	go func() { v, _ := f.Get(ctx, 1); second <- v }()
	within(ample, started) // the second run, which a call that joined the first does not have
	close(release)
	require.EqualValues(t, 1, <-first)
	require.EqualValues(t, 2, <-second, "a call that began after the invalidation got the old result")
}

// A function that hangs and ignores its context does not keep the lease for ever.
func TestHungFunctionIsReplaced(t *testing.T) {
	t.Parallel()
	dsn := realRedis(t)
	a, b := open(t, dsn), open(t, dsn)
	hang := make(chan struct{})
	o := &caches.CachedOptions[int, string]{Name: "f", Lease: 200 * time.Millisecond}
	c := caches.Cache[string]{Prefix: "h", TTL: time.Hour}
	fa := caches.Cached(c.On(a), func(context.Context, int) (string, error) { <-hang; return "late", nil }, o)
	fb := caches.Cached(c.On(b), func(context.Context, int) (string, error) { return "b", nil }, o)
	_, err := fa.Get(withTimeout(t, 100*time.Millisecond), 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	defer close(hang)
	begun := time.Now()
	v, err := fb.Get(withTimeout(t, 5*time.Second), 1) // 25 leases
	require.NoError(t, err, "after %v", time.Since(begun))
	require.Equal(t, "b", v)
}

// Runs within runs of an outage take no second slot, for which they would wait for each
// other.
func TestNestedRunsInAnOutage(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+"?timeout=200ms")
	server.Kill()
	var f *caches.CachedFunc[int, int]
	f = caches.Cached(caches.Cache[int]{Prefix: "r", TTL: time.Hour}.On(conn),
		func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				return 0, nil
			}
			v, err := f.Get(ctx, n-1)
			return v + 1, err
		}, &caches.CachedOptions[int, int]{Name: "depth"})
	v, err := f.Get(withTimeout(t, 10*time.Second), 31)
	require.NoError(t, err)
	require.Equal(t, 31, v)
	v, err = f.Get(withTimeout(t, 10*time.Second), 40)
	require.NoError(t, err)
	require.Equal(t, 40, v)
}

// The same for many callers of a function that asks for one other argument.
func TestManyNestedRunsInAnOutage(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+"?timeout=200ms")
	server.Kill()
	var f *caches.CachedFunc[int, int]
	f = caches.Cached(caches.Cache[int]{Prefix: "r", TTL: time.Hour}.On(conn),
		func(ctx context.Context, n int) (int, error) {
			time.Sleep(100 * time.Millisecond)
			if n >= 1000 {
				return n, nil
			}
			return f.Get(ctx, n+1000)
		}, &caches.CachedOptions[int, int]{Name: "wide"})
	var group sync.WaitGroup
	var failed atomic.Int64
	for i := range 100 {
		group.Go(func() {
			if _, err := f.Get(withTimeout(t, 10*time.Second), i); err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	require.Zero(t, failed.Load())
}

// A panic of Bypass, or of the serializer, frees the lease.
func TestPanicOfBypassFreesTheLease(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	var once sync.Once
	f := caches.Cached(caches.Cache[string]{Prefix: "b", TTL: time.Hour}.On(conn),
		func(context.Context, int) (string, error) { return "v", nil },
		&caches.CachedOptions[int, string]{Name: "f", Bypass: func(int, string) bool { once.Do(func() { panic("bypass") }); return false }})
	require.NotNil(t, panics(func() { _, _ = f.Get(t.Context(), 1) }))
	begun := time.Now()
	_, err := f.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Less(t, time.Since(begun), ample, "a lease that is left lasts 30 s")
}

// A remembered error under SlideOnRead ends in time, however often it is asked for.
func TestRememberedErrorsDoNotSlide(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gone := errors.New("no such user")
		var runs atomic.Int64
		f := caches.Cached(caches.Cache[string]{Prefix: "s", TTL: time.Hour, TTLPolicy: caches.SlideOnRead}.On(conn),
			func(context.Context, int) (string, error) {
				if runs.Add(1) == 1 {
					return "", gone
				}
				return "there", nil
			}, &caches.CachedOptions[int, string]{Name: "f", Negative: caches.NegativeOptions{Errors: []error{gone}, TTL: 300 * time.Millisecond}})
		_, err := f.Get(ctx, 1)
		require.ErrorIs(t, err, gone)
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if _, err = f.Get(ctx, 1); err == nil {
				return
			}
		}
		require.NoError(t, err, "twenty seconds later, after %d runs", runs.Load())
	})
}

// Refresh of a function that asks for its own result is an error.
func TestRefreshFindsRecursion(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	var f *caches.CachedFunc[int, string]
	f = caches.Cached(caches.Cache[string]{Prefix: "rr", TTL: time.Hour}.On(conn),
		func(ctx context.Context, n int) (string, error) { return f.Get(ctx, n) },
		&caches.CachedOptions[int, string]{Name: "f"})
	begun := time.Now()
	_, err := f.Get(withTimeout(t, 8*time.Second), 1)
	require.Error(t, err)
	require.Less(t, time.Since(begun), ample)
	begun = time.Now()
	_, err = f.Refresh(withTimeout(t, 8*time.Second), 1)
	require.Error(t, err)
	require.Less(t, time.Since(begun), ample, "%v", err)
}

// Two functions that share a key, one over the other, do not wait for each other.
func TestFunctionsOfOneKeyFindRecursion(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	c := caches.Cache[string]{Prefix: "two", TTL: time.Hour}.On(conn)
	o := &caches.CachedOptions[int, string]{Key: func(n int) []any { return []any{n} }}
	inner := caches.Cached(c, func(context.Context, int) (string, error) { return "v", nil }, o)
	outer := caches.Cached(c, inner.Get, o)
	begun := time.Now()
	_, err := outer.Get(withTimeout(t, 8*time.Second), 1)
	require.Less(t, time.Since(begun), ample, "%v", err)
}

// Those who wait for leases leave connections to others.
func TestWaitersLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	dsn := realRedis(t)
	dsn = dsn[:len(dsn)-len(patience)]
	a, b := open(t, dsn), open(t, dsn)
	release := make(chan struct{})
	c := caches.Cache[string]{Prefix: "w", TTL: time.Hour}
	o := &caches.CachedOptions[int, string]{Name: "f"}
	var started atomic.Int64
	fa := caches.Cached(c.On(a), func(_ context.Context, n int) (string, error) {
		started.Add(1)
		if n < 100 {
			<-release
		} else {
			time.Sleep(50 * time.Millisecond)
		}
		return "a", nil
	}, o)
	var runsB atomic.Int64
	fb := caches.Cached(c.On(b), func(context.Context, int) (string, error) { runsB.Add(1); return "b", nil }, o)
	ctx := withTimeout(t, 30*time.Second)
	var group sync.WaitGroup
	for n := range 100 {
		group.Go(func() { _, _ = fa.Get(ctx, n) })
	}
	require.Eventually(t, func() bool { return started.Load() == 100 }, 20*time.Second, time.Millisecond)
	for n := range 100 {
		group.Go(func() { _, _ = fb.Get(ctx, n) })
	}
	time.Sleep(300 * time.Millisecond)
	// a quick one: how long does it take b to learn?
	group.Go(func() { _, _ = fa.Get(ctx, 200) })
	require.Eventually(t, func() bool { return started.Load() == 101 }, 20*time.Second, time.Millisecond)
	begun := time.Now()
	v, err := fb.Get(ctx, 200)
	quick := time.Since(begun)
	// a large value
	begun = time.Now()
	errBig := caches.Cache[[]byte]{Prefix: "big", Serializer: caches.Raw, TTL: time.Hour}.On(b).Key(1).Set(ctx, make([]byte, 2<<20))
	big := time.Since(begun)
	time.Sleep(500 * time.Millisecond)
	runs := runsB.Load()
	close(release)
	group.Wait()
	t.Logf("quick key %v (%q %v), big set %v (%v), runs in b %d", quick, v, err, big, errBig, runs)
	assert.Less(t, quick, ample, "a result that is there after 50ms")
	assert.NoError(t, errBig)
	assert.Zero(t, runs, "b ran what a is computing")
}

// MaxAge may be Forever.
func TestNearForever(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	c := caches.Cache[string]{Prefix: "nf", TTL: caches.Forever, Near: &caches.NearOptions{MaxAge: caches.Forever}}.On(conn)
	ctx := t.Context()
	require.NoError(t, c.Key(1).Set(ctx, "v"))
	require.Eventually(t, func() bool {
		v, err := c.Key(1).Get(ctx)
		return err == nil && v == "v" && nearHits(conn, "nf") > 0
	}, 20*time.Second, 5*time.Millisecond)
}

// What is near is served under the tags it was read by.
func TestNearOtherTags(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	c := caches.Cache[string]{Prefix: "nt", TTL: time.Hour, Near: &caches.NearOptions{}}.On(conn)
	ctx := t.Context()
	require.NoError(t, c.Key(1).Tagged("a").Set(ctx, "v"))
	_, err := c.Key(1).Tagged("b").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	untilNear(t, conn, "nt", func() { _, err := c.Key(1).Tagged("a").Get(ctx); require.NoError(t, err) })
	require.NoError(t, conn.InvalidateTags(ctx, "b"))
	_, err = c.Key(1).Tagged("b").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
}

// A store of this process coalesces as servers do.
func TestLocmemComputesOnce(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"locmem://"} {
		t.Run(dsn, func(t *testing.T) {
			conn := open(t, dsn)
			var runs atomic.Int64
			f := caches.Cached(caches.Cache[string]{Prefix: "du", TTL: time.Hour}.On(conn),
				func(ctx context.Context, n int) (string, error) {
					runs.Add(1)
					time.Sleep(300 * time.Millisecond)
					return "v", nil
				}, &caches.CachedOptions[int, string]{Name: "f"})
			var group sync.WaitGroup
			for i := range 50 {
				group.Go(func() {
					time.Sleep(time.Duration(i) * 2 * time.Millisecond)
					_, err := f.Get(t.Context(), 1)
					assert.NoError(t, err)
				})
			}
			group.Wait()
			require.EqualValues(t, 1, runs.Load())
		})
	}
}

// An entry carries 10,000 tags, and 70,000 are an error.
func TestTooManyTags(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	for _, n := range []int{0, 10_000, 70_000} {
		tags := make([]string, n)
		for i := range tags {
			tags[i] = fmt.Sprint("tag", i)
		}
		o := caches.Cache[string]{Prefix: "mt", TTL: time.Hour}.On(conn).Key(n).Tagged(tags...)
		begun := time.Now()
		if err := o.Set(t.Context(), "v"); err != nil {
			t.Logf("%d: %v", n, err)
			continue
		}
		v, err := o.Get(t.Context())
		t.Logf("%d tags: %v", n, time.Since(begun))
		assert.NoError(t, err, n)
		assert.Equal(t, "v", v)
	}
}

// A result of a Forever type that was given an end ends near, too.
func TestNearManyTouched(t *testing.T) {
	t.Parallel()
	dsn := realRedis(t)
	conn, other := open(t, dsn), open(t, dsn)
	c := caches.Cache[string]{Prefix: "nm", TTL: caches.Forever, Near: &caches.NearOptions{}}
	var runs atomic.Int64
	f := caches.Cached(c.On(conn), func(context.Context, int) (string, error) { return fmt.Sprint("run ", runs.Add(1)), nil },
		&caches.CachedOptions[int, string]{Key: func(n int) []any { return []any{n} }})
	ctx := t.Context()
	many := func() { _, err := f.GetMany(ctx, []int{1}); require.NoError(t, err) }
	untilNear(t, conn, "nm", many)
	require.NoError(t, c.On(other).Key(1).Touch(ctx, time.Second))
	time.Sleep(100 * time.Millisecond)
	many()
	many()
	time.Sleep(1100 * time.Millisecond)
	// whether the server has swept it or not, it is gone since 100 ms
	m, err := f.GetMany(ctx, []int{1})
	require.NoError(t, err)
	require.Equal(t, "run 2", m[1])
}

// A function may go on in the background with its context.
func TestContextOfAnEndedRun(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	later := make(chan context.Context, 1)
	f := caches.Cached(caches.Cache[string]{Prefix: "bg", TTL: time.Hour}.On(conn),
		func(ctx context.Context, n int) (string, error) {
			select {
			case later <- context.WithoutCancel(ctx):
			default:
			}
			return "v", nil
		}, &caches.CachedOptions[int, string]{Name: "f"})
	_, err := f.Get(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, f.Invalidate(t.Context(), 1))
	_, err = f.Get(<-later, 1) // the run has ended
	require.NoError(t, err)
}

// An early run that failed holds up nobody who misses.
func TestFailedEarlyRunHoldsUpNoMiss(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+patience)
	var fail atomic.Bool
	ran := make(chan struct{}, 100)
	f := caches.Cached(caches.Cache[string]{Prefix: "pa", TTL: 100 * time.Millisecond}.On(conn),
		func(context.Context, int) (string, error) {
			failing := fail.Load()
			ran <- struct{}{}
			if failing {
				return "", errors.New("down")
			}
			return "v", nil
		}, &caches.CachedOptions[int, string]{Name: "f", Early: -1, Jitter: -1, Stale: time.Minute, Tags: func(int) []string { return []string{"t"} }})
	ctx := t.Context()
	_, err := f.Get(ctx, 1)
	require.NoError(t, err)
	<-ran
	time.Sleep(150 * time.Millisecond)
	fail.Store(true)
	_, err = f.Get(ctx, 1) // stale, and in the background a failure
	require.NoError(t, err)
	<-ran
	fail.Store(false)
	require.NoError(t, await(ctx, func() bool { // its lease has become a pause, which lasts a second
		keys, err := redis.Strings(server.Do("KEYS", "*%lease"))
		if err != nil || len(keys) == 0 {
			return err == nil
		}
		lease, err := redis.String(server.Do("GET", keys[0]))
		return err == nil && strings.HasPrefix(lease, "p:")
	}))
	waits := commandCalls(t, server, "blmove")
	require.NoError(t, conn.InvalidateTags(ctx, "t"))
	begun := time.Now()
	_, err = f.Get(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, waits, commandCalls(t, server, "blmove"), "the call waited for the pause")
	require.Less(t, time.Since(begun), ample)
}

// A burst of hits beyond what one connection carries runs no function, while a
// place among its calls comes free within 5 s: so it is not run beside others.
func TestBurstOfHitsComputesNothing(t *testing.T) {
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	conn := open(t, "redis://"+proxy.Addr()+patience)
	var runs atomic.Int64
	f := caches.Cached(caches.Cache[string]{Prefix: "bu", TTL: time.Hour}.On(conn),
		func(context.Context, int) (string, error) { runs.Add(1); return "v", nil },
		&caches.CachedOptions[int, string]{Key: func(i int) []any { return []any{i % 50} }, Early: -1})
	const callers = 4400 // some more than one connection carries
	_, err := f.GetMany(t.Context(), numbers(50))
	require.NoError(t, err)
	before, looks := runs.Load(), commandCalls(t, server, "")
	proxy.Delay(30 * time.Millisecond)
	var group sync.WaitGroup
	for arg := range callers {
		group.Go(func() { _, _ = f.Get(t.Context(), arg) })
	}
	group.Wait()
	require.Equal(t, before, runs.Load(), "all are remembered")
	require.GreaterOrEqual(t, commandCalls(t, server, "")-looks, callers, "each caller looks")
}

// An argument that is not equal to itself is an error.
func TestNaN(t *testing.T) {
	t.Parallel()
	conn := open(t, "locmem://")
	var zero float64
	nan := zero / zero
	f := caches.Cached(caches.Cache[int]{Prefix: "na", TTL: time.Hour}.On(conn),
		func(context.Context, float64) (int, error) { return 1, nil },
		&caches.CachedOptions[float64, int]{Key: func(f float64) []any { return []any{fmt.Sprint(f)} }})
	assert.Nil(t, panics(func() { _, _ = f.GetMany(t.Context(), []float64{nan}) }))
}

// A delayer holds back, once armed, the first bytes of a connection that have
// word in them, and breaks that connection off on the client's side: as a network
// does that loses a segment, which the client's kernel sends again after close.
type delayer struct {
	addr    string
	target  string
	word    []byte
	armed   atomic.Bool
	held    chan struct{}
	release chan struct{}
	passed  chan struct{}
}

func newDelayer(t *testing.T, target, word string) *delayer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d := &delayer{addr: l.Addr().String(), target: target, word: []byte(word), held: make(chan struct{}), release: make(chan struct{}), passed: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.serve(c)
		}
	}()
	return d
}

func (d *delayer) serve(c net.Conn) {
	s, err := net.Dial("tcp", d.target)
	if err != nil {
		_ = c.Close()
		return
	}
	defer s.Close()
	defer c.Close()
	go func() { _, _ = io.Copy(c, s); _ = c.Close() }()
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], d.word) && d.armed.CompareAndSwap(true, false) {
			_ = c.Close()
			close(d.held)
			<-d.release
			_, _ = s.Write(buf[:n])
			time.Sleep(50 * time.Millisecond)
			close(d.passed)
			return
		}
		if _, err := s.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A claim that arrives late gives back no lease that was taken away.
func TestLateClaimRestoresNoLease(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	d := newDelayer(t, server.Addr(), "%lease")
	conn, good := open(t, "redis://"+d.addr+patience), open(t, server.DSN()+patience)
	c := caches.Cache[int64]{Prefix: "late", TTL: time.Hour}
	var truth atomic.Int64
	truth.Store(1)
	begun, finish := make(chan struct{}, 10), make(chan struct{})
	fn := func(_ context.Context, n int) (int64, error) {
		v := truth.Load()
		if n == 1 {
			begun <- struct{}{}
			<-finish
		}
		return v, nil
	}
	o := &caches.CachedOptions[int, int64]{Name: "f", Lease: time.Second} // which the last Get waits for
	f, g := caches.Cached(c.On(conn), fn, o), caches.Cached(c.On(good), fn, o)
	ctx := withTimeout(t, 20*time.Second)
	_, err := f.Get(ctx, 0) // the scripts are known
	require.NoError(t, err)
	d.armed.Store(true)
	done := make(chan error, 1)
	go func() { _, err := f.Get(ctx, 1); done <- err }()
	<-d.held
	<-begun // by the claim that was sent again
	truth.Store(2)
	require.NoError(t, g.Invalidate(ctx, 1))
	close(d.release)
	<-d.passed
	close(finish)
	require.NoError(t, <-done)
	v, err := g.Get(ctx, 1)
	require.NoError(t, err)
	require.EqualValues(t, 2, v, "a result from before an acknowledged invalidation was stored")
}

// What has expired is not kept near, though the server's sweep lags.
func TestNearManyTouchedUnswept(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"enable-debug-command yes"}})
	conn, other := open(t, server.DSN()+patience), open(t, server.DSN()+patience)
	c := caches.Cache[string]{Prefix: "nm", TTL: caches.Forever, Near: &caches.NearOptions{}}
	var runs atomic.Int64
	f := caches.Cached(c.On(conn), func(context.Context, int) (string, error) {
		if runs.Add(1) == 1 {
			return "run 1", nil
		}
		return "run 2", nil
	}, &caches.CachedOptions[int, string]{Key: func(n int) []any { return []any{n} }})
	ctx := t.Context()
	_, err := other.Do(ctx, "DEBUG", "SET-ACTIVE-EXPIRE", "0")
	require.NoError(t, err)
	many := func() { _, err := f.GetMany(ctx, []int{1}); require.NoError(t, err) }
	untilNear(t, conn, "nm", many)
	require.NoError(t, c.On(other).Key(1).Touch(ctx, time.Second))
	time.Sleep(100 * time.Millisecond)
	many()
	many()
	time.Sleep(1100 * time.Millisecond)
	m, err := f.GetMany(ctx, []int{1})
	require.NoError(t, err)
	require.Equal(t, "run 2", m[1])
}

// Stamps of types that slide expire.
func TestStampsOfSlidingTypesEnd(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	ctx := t.Context()
	f := caches.Cached(caches.Cache[string]{Prefix: "st", TTL: time.Second, TTLPolicy: caches.SlideOnRead}.On(conn),
		func(context.Context, int) (string, error) { return "v", nil },
		&caches.CachedOptions[int, string]{Name: "f", Tags: func(int) []string { return []string{"user:1"} }})
	_, err := f.Get(ctx, 1)
	require.NoError(t, err)
	left, err := conn.Do(ctx, "PTTL", "%tag.user:1")
	require.NoError(t, err)
	require.NotEqualValues(t, -1, left)
}

// A caller who cannot ask joins no run of before an invalidation.
func TestFaultJoinsNoFencedRun(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	conn := open(t, "redis://"+proxy.Addr()+"?timeout=3s")
	var truth atomic.Int64
	truth.Store(1)
	started, release := make(chan struct{}, 10), make(chan struct{})
	var once atomic.Bool
	f := caches.Cached(caches.Cache[int64]{Prefix: "u", TTL: time.Hour}.On(conn),
		func(ctx context.Context, _ int) (int64, error) {
			v := truth.Load()
			started <- struct{}{}
			if once.CompareAndSwap(false, true) {
				<-release
			}
			return v, nil
		}, &caches.CachedOptions[int, int64]{Name: "f", Tags: func(int) []string { return []string{"t"} }})
	ctx := withTimeout(t, 20*time.Second)
	first := make(chan int64, 1)
	go func() { v, _ := f.Get(ctx, 1); first <- v }()
	<-started
	truth.Store(2)
	require.NoError(t, conn.InvalidateTags(ctx, "t"))
	proxy.Refuse(true)
	proxy.Reset()
	second := make(chan int64, 1)
	go func() { v, _ := f.Get(ctx, 1); second <- v }()
	within(ample, started) // the second run, which a call that joined the first does not have
	close(release)
	require.EqualValues(t, 2, <-second)
	<-first
}

// Hooks may call the cache.
func TestHooksCallBack(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	var f *caches.CachedFunc[int, string]
	var deep atomic.Int64
	hooks := &caches.Hooks{}
	conn, err := caches.ConnOptions{Hooks: hooks}.Open(server.DSN() + patience)
	require.NoError(t, err)
	defer conn.Close()
	call := func(ctx context.Context, c *caches.CallInfo) {
		if deep.Add(1) < 10 {
			_, _ = f.Get(ctx, int(deep.Load()))
			_ = f.Invalidate(ctx, 0)
			_ = conn.InvalidateTags(ctx, "t")
			conn.Stats()
		}
		panic("hook")
	}
	f = caches.Cached(caches.Cache[string]{Prefix: "hk", TTL: time.Hour, Near: &caches.NearOptions{}}.On(conn),
		func(context.Context, int) (string, error) { return "v", nil },
		&caches.CachedOptions[int, string]{Name: "f", Tags: func(int) []string { return []string{"t", "t", ""} },
			Hooks: &caches.Hooks{Call: call, Load: call, Invalidate: call, Error: call}})
	v, err := f.Get(withTimeout(t, 20*time.Second), 0)
	require.NoError(t, err)
	require.Equal(t, "v", v)
}

// Types without a prefix can be near.
func TestNearNoPrefix(t *testing.T) {
	t.Parallel()
	dsn := realRedis(t)
	conn, other := open(t, dsn), open(t, dsn)
	c := caches.Cache[string]{TTL: time.Hour, Near: &caches.NearOptions{}}.On(conn)
	d := caches.Cache[string]{Prefix: "x", TTL: 700 * time.Millisecond, Near: &caches.NearOptions{}}.On(conn)
	ctx := t.Context()
	require.NoError(t, c.Key("a").Set(ctx, "v"))
	untilNear(t, conn, "", func() { _, _ = c.Key("a").Get(ctx) })
	untilNear(t, conn, "x", func() { _ = d.Key("a").Set(ctx, "w"); _, _ = d.Key("a").Get(ctx); _, _ = d.Key("a").Get(ctx) })
	_, err := other.Do(ctx, "SET", "a", `"raw"`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { v, _ := c.Key("a").Get(ctx); return v == "raw" }, 20*time.Second, time.Millisecond)
	time.Sleep(710 * time.Millisecond)
	_, err = d.Key("a").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
}

// Everything on the same key at once, with a check that what was acknowledged counts.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	for _, near := range []*caches.NearOptions{nil, {}} {
		t.Run(fmt.Sprint(near != nil), func(t *testing.T) {
			t.Parallel()
			dsn := realRedis(t)
			conns := []*caches.Conn{open(t, dsn), open(t, dsn)}
			var truth atomic.Int64
			var fs []*caches.CachedFunc[int, int64]
			for _, conn := range conns {
				fs = append(fs, caches.Cached(caches.Cache[int64]{Prefix: "all", TTL: 50 * time.Millisecond, Near: near}.On(conn),
					func(context.Context, int) (int64, error) {
						v := truth.Load()
						time.Sleep(time.Duration(rand.N(2000)) * time.Microsecond)
						return v, nil
					}, &caches.CachedOptions[int, int64]{Name: "f", Lease: 100 * time.Millisecond, Stale: 20 * time.Millisecond, Tags: func(n int) []string { return []string{"t", fmt.Sprint(n)} }}))
			}
			ctx := withTimeout(t, 60*time.Second)
			var group sync.WaitGroup
			end := time.Now().Add(fullOr(5*time.Second, 400*time.Millisecond))
			for w := range 8 {
				group.Go(func() {
					for time.Now().Before(end) {
						f, conn := fs[w%2], conns[w%2]
						var err error
						var v int64
						before := truth.Add(1)
						switch rand.N(4) {
						case 0:
							err = f.Invalidate(ctx, 1)
						case 1:
							err = conn.InvalidateTags(ctx, "t")
						case 2:
							err = f.InvalidateAll(ctx)
						default:
							err = conn.InvalidateTags(ctx, "1")
						}
						assert.NoError(t, err)
						switch rand.N(4) {
						case 0:
							v, err = f.Get(ctx, 1)
						case 1:
							var m map[int]int64
							m, err = f.GetMany(ctx, []int{1, 1, 2})
							v = m[1]
						case 2:
							b := new(caches.Batch)
							p := f.Later(b, 1)
							_ = b.Run(ctx)
							v, err = p.Value(ctx)
						default:
							v, err = f.Refresh(ctx, 1)
						}
						if assert.NoError(t, err) && !assert.GreaterOrEqual(t, v, before) {
							return
						}
						_, _ = conn.Stats(), before
					}
				})
			}
			group.Wait()
		})
	}
}
