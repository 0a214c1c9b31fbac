package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
)

var errNoUser = errors.New("no such user")

// countedLoad is a function to remember, and how often it ran.
type countedLoad struct{ calls atomic.Int64 }

func (c *countedLoad) load(_ context.Context, id int) (string, error) {
	n := c.calls.Add(1)
	if id < 0 {
		return "", errNoUser
	}
	return fmt.Sprintf("user %d, load %d", id, n), nil
}

func usersOn(conn *caches.Conn) caches.Cache[string] {
	return caches.Cache[string]{Prefix: "users", TTL: time.Hour}.On(conn)
}

func named[A comparable, T any](name string) *caches.CachedOptions[A, T] {
	return &caches.CachedOptions[A, T]{Name: name}
}

func TestCached(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var c countedLoad
		f := caches.Cached(usersOn(conn), c.load, &caches.CachedOptions[int, string]{Key: func(id int) []any { return []any{"by-id", id} }, Jitter: -1})
		get := func(id int, want string) {
			t.Helper()
			v, err := f.Get(ctx, id)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
		get(7, "user 7, load 1")
		get(7, "user 7, load 1")
		get(8, "user 8, load 2")
		object := usersOn(conn).Key("by-id", 7)
		v, err := object.Tagged().Get(ctx)
		require.NoError(t, err, "it is there for those who know the key and the tags")
		require.Equal(t, "user 7, load 1", v)
		_, err = object.Get(ctx)
		require.ErrorIs(t, err, caches.ErrCorrupt)
		require.ErrorContains(t, err, "read it by the function", "and no value like others")
		expires(t, ctx, object, life, "with the cache's time to live")

		require.NoError(t, f.Invalidate(ctx, 7))
		require.NoError(t, f.Invalidate(ctx, 1000), "of nothing")
		get(7, "user 7, load 3")
		get(8, "user 8, load 2")

		v, err = f.Refresh(ctx, 8)
		require.NoError(t, err)
		require.Equal(t, "user 8, load 4", v)
		get(8, "user 8, load 4")

		drop := f.Get // in place of the function
		v, err = drop(ctx, 8)
		require.NoError(t, err)
		require.Equal(t, "user 8, load 4", v)

		// An error is returned as it is and is not remembered; after Refresh, what
		// was remembered stays.
		for range 2 {
			before := c.calls.Load()
			_, err = f.Get(ctx, -1)
			require.Equal(t, errNoUser, err)
			require.Equal(t, before+1, c.calls.Load())
		}
		_, err = f.Refresh(ctx, -1)
		require.Equal(t, errNoUser, err)
		exists, err := usersOn(conn).Key("by-id", -1).Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists)
	})
}

func TestCachedBypass(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var calls int
		result := ""
		f := caches.Cached(usersOn(conn), func(context.Context, int) (string, error) { calls++; return result, nil },
			&caches.CachedOptions[int, string]{Name: "bypass", Bypass: func(_ int, v string) bool { return v == "" }})
		for i := 1; i <= 3; i++ {
			v, err := f.Get(ctx, 1)
			require.NoError(t, err)
			require.Empty(t, v)
			require.Equal(t, i, calls, "what is bypassed is computed again")
		}
		result = "kept"
		for range 2 {
			v, err := f.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, "kept", v)
		}
		require.Equal(t, 4, calls)
		result = ""
		v, err := f.Refresh(ctx, 1)
		require.NoError(t, err)
		require.Empty(t, v)
		_, err = f.Get(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, 6, calls, "the old result does not come back after a bypassed Refresh")
	})
}

// A hundred callers who miss at once compute once, and all get the result.
func TestCachedComputesOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var calls atomic.Int64
		release := make(chan struct{})
		f := caches.Cached(usersOn(conn), func(context.Context, int) (string, error) {
			calls.Add(1)
			<-release
			return "once", nil
		}, named[int, string]("once"))
		var began, all sync.WaitGroup
		var wrong atomic.Int64
		for range 100 {
			began.Add(1)
			all.Go(func() {
				began.Done()
				if v, err := f.Get(ctx, 1); err != nil || v != "once" {
					wrong.Add(1)
				}
			})
		}
		began.Wait()
		require.Eventually(t, func() bool { return calls.Load() == 1 }, 20*time.Second, time.Millisecond)
		// Those who have not read the cache yet will find the result there.
		close(release)
		all.Wait()
		require.Zero(t, wrong.Load())
		require.EqualValues(t, 1, calls.Load())
	})
}

// waiting is a cached function that runs until it is released.
type waiting struct {
	calls   atomic.Int64
	running chan struct{}
	release chan struct{}
	ctx     atomic.Pointer[context.Context]
}

func newWaiting() *waiting {
	return &waiting{running: make(chan struct{}, 100), release: make(chan struct{})}
}

func (w *waiting) load(ctx context.Context, id int) (string, error) {
	w.calls.Add(1)
	w.ctx.Store(&ctx)
	w.running <- struct{}{}
	<-w.release
	return fmt.Sprint("user ", id), ctx.Err()
}

type tenantKey struct{}

func TestCachedLeaderLeaves(t *testing.T) {
	conn := open(t, "locmem://")
	w := newWaiting()
	f := caches.Cached(usersOn(conn), w.load, named[int, string]("w"))
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), tenantKey{}, "acme"))
	leader, follower := make(chan error), make(chan error)
	go func() { _, err := f.Get(ctx, 1); leader <- err }()
	<-w.running
	go func() { _, err := f.Get(t.Context(), 1); follower <- err }()
	cancel()
	require.ErrorIs(t, <-leader, context.Canceled)
	close(w.release)
	require.NoError(t, <-follower, "the leader's end fails nobody")
	require.Equal(t, "acme", (*w.ctx.Load()).Value(tenantKey{}), "values come along")
	v, err := f.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "user 1", v)
	require.EqualValues(t, 1, w.calls.Load(), "and the result was kept")
}

func TestCachedEndedContextStartsNothing(t *testing.T) {
	var c countedLoad
	f := caches.Cached(usersOn(open(t, "locmem://")), c.load, named[int, string]("c"))
	cause := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := f.Get(ctx, 1)
	require.ErrorIs(t, err, cause)
	got, err := f.GetMany(ctx, []int{1, 2, 3})
	require.ErrorIs(t, err, cause)
	require.Empty(t, got)
	require.Zero(t, c.calls.Load())
}

// panics returns what f panics with.
func panics(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

func TestCachedPanics(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var calls atomic.Int64
		running, release := make(chan struct{}), make(chan struct{})
		failure := errors.New("index out of sorts")
		f := caches.Cached(usersOn(conn), func(context.Context, int) (string, error) {
			if calls.Add(1) > 1 {
				return "well", nil
			}
			close(running)
			<-release
			panic(failure)
		}, named[int, string]("panics"))
		caught := make(chan any)
		call := func() { caught <- panics(func() { _, _ = f.Get(ctx, 1) }) }
		go call()
		<-running
		close(release)
		v := <-caught
		err, ok := v.(error)
		require.True(t, ok, "%v", v)
		require.ErrorIs(t, err, failure, "what it panicked with can be had")
		require.ErrorContains(t, err, "index out of sorts")
		require.ErrorContains(t, err, "TestCachedPanics", "and where")

		got, err := f.Get(ctx, 1)
		require.NoError(t, err, "the next call works")
		require.Equal(t, "well", got)
	})
}

// A function that ends its goroutine, as t.FailNow does, ends no caller's
// silently.
func TestCachedGoexit(t *testing.T) {
	f := caches.Cached(usersOn(open(t, "locmem://")), func(context.Context, int) (string, error) {
		runtime.Goexit()
		return "", nil
	}, named[int, string]("goexit"))
	v := panics(func() { _, _ = f.Get(t.Context(), 1) })
	require.Contains(t, fmt.Sprint(v), "runtime.Goexit")
	v = panics(func() { _, _ = f.GetMany(t.Context(), []int{1}) })
	require.Contains(t, fmt.Sprint(v), "runtime.Goexit")
}

func TestCachedGetMany(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var c countedLoad
		f := caches.Cached(usersOn(conn), c.load, named[int, string]("many"))
		for _, id := range []int{1, 2} {
			_, err := f.Get(ctx, id)
			require.NoError(t, err)
		}
		got, err := f.GetMany(ctx, []int{1, 2, 3, 3, -1, 4})
		require.ErrorIs(t, err, errNoUser)
		require.ErrorContains(t, err, "-1: ", "which argument failed")
		require.Len(t, got, 4)
		require.Equal(t, "user 1, load 1", got[1])
		require.Equal(t, "user 2, load 2", got[2])
		require.EqualValues(t, 5, c.calls.Load(), "only what was missing, once")
		again, err := f.GetMany(ctx, []int{1, 2, 3, 4})
		require.NoError(t, err)
		require.Equal(t, got, again)
		require.EqualValues(t, 5, c.calls.Load())
		none, err := f.GetMany(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestCachedGetManyIsBounded(t *testing.T) {
	var running, most, calls atomic.Int64
	f := caches.Cached(usersOn(open(t, "locmem://")), func(_ context.Context, id int) (string, error) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		// The first wait for their fellows, so that the bound is reached.
		if calls.Add(1) <= 16 {
			for deadline := time.Now().Add(5 * time.Second); calls.Load() < 16 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
		}
		return fmt.Sprint(id), nil
	}, named[int, string]("bounded"))
	got, err := f.GetMany(t.Context(), numbers(200))
	require.NoError(t, err)
	require.Len(t, got, 200)
	require.EqualValues(t, 200, calls.Load())
	require.EqualValues(t, 16, most.Load())
}

func TestCachedGetManyPanics(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var broken atomic.Bool
		broken.Store(true)
		f := caches.Cached(usersOn(conn), func(_ context.Context, id int) (string, error) {
			if id == 5 && broken.Load() {
				panic("five")
			}
			return fmt.Sprint(id), nil
		}, named[int, string]("five"))
		v := panics(func() { _, _ = f.GetMany(ctx, numbers(10)) })
		require.Contains(t, fmt.Sprint(v), "five")
		broken.Store(false)
		got, err := f.GetMany(ctx, numbers(10))
		require.NoError(t, err)
		require.Len(t, got, 10)
	})
}

// When the cache cannot be read, the function answers, and nothing is written:
// what could not be read may be newer.
func TestCachedReadFault(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 1)
	store := stores["shard0"]
	var c countedLoad
	f := caches.Cached(usersOn(conn), c.load, named[int, string]("fault"))
	reads := func(command string) error {
		if command == "GET" || command == "MGET" {
			return down(command)
		}
		return nil
	}
	store.fail(reads)
	v, err := f.Get(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, "user 1, load 1", v)
	_, commands := store.took()
	require.Equal(t, []string{"MGET"}, commands, "not written back")
	got, err := f.GetMany(ctx, []int{1, 2})
	require.NoError(t, err)
	require.Len(t, got, 2)
	_, commands = store.took()
	require.Equal(t, []string{"MGET"}, commands)
	store.fail(nil)
	_, err = f.Get(ctx, 1)
	require.NoError(t, err)
	require.EqualValues(t, 4, c.calls.Load(), "nothing was kept")

	// A result that cannot be stored is returned all the same, …
	writes := func(command string) error {
		if command == "EVALSHA" {
			return down(command)
		}
		return nil
	}
	store.fail(writes)
	v, err = f.Get(ctx, 9)
	require.NoError(t, err)
	require.Equal(t, "user 9, load 5", v)
	// … but Refresh, whose purpose it is, says so.
	v, err = f.Refresh(ctx, 9)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.Equal(t, "user 9, load 6", v)
	require.ErrorIs(t, func() error { store.fail(down); return f.Invalidate(ctx, 9) }(), caches.ErrUnavailable,
		"an invalidation that did not happen is never swallowed")
}

// Who claims an entry that another has stored since it was looked at takes that,
// unless it has been invalidated, and leaves no lease behind, also where the reply
// is lost: the next one who misses it need not wait.
func TestCachedStoredBeforeTheClaim(t *testing.T) {
	for name, c := range map[string]struct {
		lost, invalidated bool
		want              string
		runs              int64
	}{
		"stored":      {false, false, "user 1, load 1", 1},
		"lost":        {true, false, "user 1, load 1", 1},
		"invalidated": {false, true, "user 1, load 2", 2},
		"both":        {true, true, "user 1, load 2", 2},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			conn, stores := perils(t, "one")
			store := stores["one"]
			var load countedLoad
			o := &caches.CachedOptions[int, string]{Name: "f", Lease: time.Minute, Tags: func(int) []string { return []string{"t"} }}
			f, g := caches.Cached(usersOn(conn), load.load, o), caches.Cached(usersOn(conn), load.load, o)
			var claimed atomic.Bool // the claim that is the test's to make is the first
			store.set(func(inner context.Context, p *driver.Pipeline) error {
				if !strings.HasSuffix(string(p.FirstKey(0)), "%lease") || !claimed.CompareAndSwap(false, true) {
					return store.Store.Do(inner, p)
				}
				_, err := g.Get(ctx, 1)
				if c.invalidated {
					err = errors.Join(err, conn.InvalidateTags(ctx, "t"))
				}
				if err = errors.Join(err, store.Store.Do(inner, p)); c.lost {
					err = errors.Join(err, fmt.Errorf("%w: by the test", driver.ErrUnknownOutcome))
				}
				return err
			})
			v, err := f.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, c.want, v)
			require.Equal(t, c.runs, load.calls.Load())
			n, err := conn.Do(ctx, "EXISTS", "{"+usersOn(conn).Key("f", 1).String()+"}%lease")
			require.NoError(t, err)
			require.EqualValues(t, 0, n)
			v, err = g.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, c.want, v)
		})
	}
}

// With one of four shards down, the results of the others are read and kept as
// ever, also where one of them is corrupt.
func TestCachedGetManyWithoutOneShard(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	var c countedLoad
	f := caches.Cached(usersOn(conn), c.load, &caches.CachedOptions[int, string]{Key: func(id int) []any { return []any{id} }})
	var lost, corrupt int
	for _, id := range numbers(100) {
		if conn.ShardOf(usersOn(conn).Key(id).String()) == "shard3" {
			lost++
		} else {
			corrupt = id
		}
	}
	require.NoError(t, caches.Cache[string]{Prefix: "users", Serializer: caches.Raw}.On(conn).Key(corrupt).Set(ctx, "{"))
	stores["shard3"].fail(down)
	for round := range 3 {
		got, err := f.GetMany(ctx, numbers(100))
		require.NoError(t, err)
		require.Len(t, got, 100)
		require.EqualValues(t, 100+round*lost, c.calls.Load())
	}
	stores["shard3"].fail(nil)
	kept := 0
	for _, id := range numbers(100) {
		if _, err := usersOn(conn).Key(id).Tagged().Get(ctx); err == nil {
			kept++
		}
	}
	require.Equal(t, 100-lost, kept, "all but the lost shard's were kept, the corrupt one too")
}

func TestCachedCorruptIsAMiss(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var c countedLoad
		f := caches.Cached(usersOn(conn), c.load, &caches.CachedOptions[int, string]{Key: func(id int) []any { return []any{id} }})
		require.NoError(t, caches.Cache[string]{Prefix: "users", Serializer: caches.Raw}.On(conn).Key(1).Set(ctx, "{"))
		for range 2 {
			v, err := f.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, "user 1, load 1", v)
		}
	})
}

// Refresh joins no run that began before it: the caller knows of something new.
func TestCachedRefreshIsNew(t *testing.T) {
	var row atomic.Value
	row.Store("old")
	running, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	f := caches.Cached(usersOn(open(t, "locmem://")), func(context.Context, int) (string, error) {
		v := row.Load().(string)
		if calls.Add(1) == 1 {
			close(running)
			<-release
		}
		return v, nil
	}, named[int, string]("refresh"))
	first := make(chan string)
	go func() { v, _ := f.Get(t.Context(), 1); first <- v }()
	<-running
	row.Store("new")
	v, err := f.Refresh(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "new", v)
	close(release)
	require.Equal(t, "old", <-first)
}

// Two tenants with connections of their own share no computation.
func TestCachedPerConnection(t *testing.T) {
	cache := caches.Cache[string]{Prefix: "users", TTL: time.Hour}
	running, release := make(chan struct{}, 2), make(chan struct{})
	f := caches.Cached(cache, func(ctx context.Context, _ int) (string, error) {
		running <- struct{}{}
		<-release
		return ctx.Value(tenantKey{}).(string), nil
	}, named[int, string]("tenant"))
	results := make(chan string, 2)
	for _, tenant := range []string{"acme", "duff"} {
		ctx := caches.WithConn(context.WithValue(t.Context(), tenantKey{}, tenant), open(t, "locmem://"))
		go func() { v, _ := f.Get(ctx, 1); results <- tenant + ":" + v }()
	}
	for range 2 {
		select {
		case <-running:
		case <-time.After(10 * time.Second):
			t.Error("one tenant waits for the other")
		}
	}
	close(release)
	require.ElementsMatch(t, []string{"acme:acme", "duff:duff"}, []string{<-results, <-results})
}

func loadByID(_ context.Context, id int) (string, error)       { return fmt.Sprint("id ", id), nil }
func loadByOther(_ context.Context, id int) (string, error)    { return fmt.Sprint("other ", id), nil }
func loadAny[A comparable](context.Context, A) (string, error) { return "any", nil }

type database struct{ name string }

func (d database) Load(context.Context, int) (string, error) { return d.name, nil }

func TestCachedDefaultName(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	get := func(fn func(context.Context, int) (string, error), o *caches.CachedOptions[int, string]) (string, error) {
		return caches.Cached(usersOn(conn), fn, o).Get(ctx, 1)
	}
	// Plain functions are told apart by their names.
	v, err := get(loadByID, nil)
	require.NoError(t, err)
	require.Equal(t, "id 1", v)
	v, err = get(loadByOther, nil)
	require.NoError(t, err)
	require.Equal(t, "other 1", v)
	v, err = usersOn(conn).Key("github.com/gocaches/caches_test.loadByID", 1).Tagged().Get(ctx)
	require.NoError(t, err, "under their full name")
	require.Equal(t, "id 1", v)

	db := database{"first"}
	made := reflect.MakeFunc(reflect.TypeOf(loadByID), func([]reflect.Value) []reflect.Value {
		return []reflect.Value{reflect.ValueOf("made"), reflect.Zero(reflect.TypeFor[error]())}
	}).Interface().(func(context.Context, int) (string, error))
	for name, fn := range map[string]func(context.Context, int) (string, error){
		"a method value": db.Load,
		"a closure":      func(context.Context, int) (string, error) { return db.name, nil },
		"an instance":    loadAny[int],
		"a made one":     made,
	} {
		_, err := get(fn, nil)
		require.ErrorContains(t, err, "is not unique: set CachedOptions.Name or Key", name)
		f := caches.Cached(usersOn(conn), fn, nil)
		require.Error(t, f.Invalidate(ctx, 1), name)
		_, err = f.GetMany(ctx, []int{1})
		require.Error(t, err, name)
		_, err = f.Refresh(ctx, 1)
		require.Error(t, err, name)
		_, err = get(fn, named[int, string](name))
		require.NoError(t, err, "with a name it is fine")
		_, err = get(fn, &caches.CachedOptions[int, string]{Key: func(id int) []any { return []any{name, id} }})
		require.NoError(t, err, "and with a key")
	}
}

type query struct {
	Name string
	Page int
}

// The default key is canonical and injective in the argument, as members are:
// TestMemberKinds has all kinds of types.
func TestCachedArguments(t *testing.T) {
	conn := open(t, "locmem://")
	remembers(t, conn, 0, -1, math.MaxInt)
	remembers(t, conn, "", "a", "a.b", "a%2Eb", "{a}", "\xff", "\xfe", "\x00")
	remembers(t, conn, query{"a", 1}, query{"a", 2}, query{"a1", 0}, query{})

	fails(t, conn, any(1), "interface")
	_, err := caches.Cached(caches.Cache[int]{}.On(conn), func(context.Context, float64) (int, error) { return 0, nil },
		&caches.CachedOptions[float64, int]{Name: "nan"}).Get(t.Context(), math.NaN())
	require.ErrorContains(t, err, "not equal to itself")
	fails(t, conn, query{Name: "\xff"}, "not UTF-8")
}

// remembers calls a function of each argument twice: the second time none runs
// again, and no two share a result.
func remembers[A comparable](t *testing.T, conn *caches.Conn, args ...A) {
	t.Helper()
	ctx, calls := t.Context(), 0
	f := caches.Cached(usersOn(conn), func(_ context.Context, a A) (string, error) {
		calls++
		return fmt.Sprintf("%q", fmt.Sprint(a)), nil
	}, named[A, string](fmt.Sprintf("arg %T", args[0])))
	for range 2 {
		for _, a := range args {
			v, err := f.Get(ctx, a)
			require.NoError(t, err, "%#v", a)
			require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(a)), v, "%#v", a)
		}
	}
	require.Equal(t, len(args), calls, "%T", args[0])
	calls = 0
	got, err := f.GetMany(ctx, args)
	require.NoError(t, err)
	require.Len(t, got, len(args))
	require.Zero(t, calls)
}

func fails[A comparable](t *testing.T, conn *caches.Conn, arg A, want string) {
	t.Helper()
	f := caches.Cached(usersOn(conn), func(context.Context, A) (string, error) {
		t.Errorf("called with %v", arg)
		return "", nil
	}, named[A, string]("fails"))
	_, err := f.Get(t.Context(), arg)
	require.ErrorContains(t, err, want, "%T", arg)
	require.ErrorContains(t, err, "set CachedOptions.Key")
	_, err = f.GetMany(t.Context(), []A{arg})
	require.ErrorContains(t, err, want)
	keyed := caches.Cached(usersOn(conn), func(context.Context, A) (string, error) { return "keyed", nil },
		&caches.CachedOptions[A, string]{Key: func(A) []any { return []any{"keyed"} }})
	v, err := keyed.Get(t.Context(), arg)
	require.NoError(t, err)
	require.Equal(t, "keyed", v)
}

func TestCachedBadKey(t *testing.T) {
	conn := open(t, "locmem://")
	var c countedLoad
	f := caches.Cached(usersOn(conn), c.load, &caches.CachedOptions[int, string]{Key: func(int) []any { return []any{nil} }})
	_, err := f.Get(t.Context(), 1)
	require.ErrorContains(t, err, "part 1 of the key")
	_, err = f.GetMany(t.Context(), []int{1})
	require.ErrorContains(t, err, "part 1 of the key")
	require.Zero(t, c.calls.Load())
}

// Many callers, many arguments, and invalidations between them: whatever comes
// back was computed for its own argument.
func TestCachedConcurrently(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		f := caches.Cached(usersOn(conn), loadByID, nil)
		var wrong atomic.Int64
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := range 35 {
					id := (i + w) % 10
					switch i % 7 {
					case 5:
						if f.Invalidate(ctx, id) != nil {
							wrong.Add(1)
						}
					case 6:
						got, err := f.GetMany(ctx, numbers(10))
						if err != nil || len(got) != 10 || got[id] != fmt.Sprint("id ", id) {
							wrong.Add(1)
						}
					default:
						if v, err := f.Get(ctx, id); err != nil || v != fmt.Sprint("id ", id) {
							wrong.Add(1)
						}
					}
				}
			})
		}
		all.Wait()
		require.Zero(t, wrong.Load())
	})
}

// Two functions of one cache type are told apart by Name, whatever their Key.
func TestCachedNameAndKey(t *testing.T) {
	ctx := caches.WithConn(t.Context(), open(t, "locmem://"))
	c := caches.Cache[string]{Prefix: "named"}
	of := func(name string) *caches.CachedFunc[int, string] {
		return caches.Cached(c, func(context.Context, int) (string, error) { return name, nil },
			&caches.CachedOptions[int, string]{Name: name, Key: func(id int) []any { return []any{id} }})
	}
	for _, name := range []string{"a", "b"} {
		got, err := of(name).Get(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, name, got)
	}
	none := caches.Cached(c, func(context.Context, int) (string, error) { return "", nil },
		&caches.CachedOptions[int, string]{Key: func(int) []any { return nil }})
	_, err := none.Get(ctx, 1)
	require.ErrorIs(t, err, caches.ErrNoKey)
}

// A result that was invalidated, or refreshed, while it was computed answers
// those who wait for it, and nobody later.
func TestCachedInvalidatedWhileComputed(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		ctx := caches.WithConn(t.Context(), open(t, "locmem://"))
		var db atomic.Int64
		db.Store(1)
		read, goOn := make(chan struct{}), make(chan struct{})
		var begun atomic.Bool
		f := caches.Cached(caches.Cache[int64]{Prefix: "race"}, func(context.Context, int) (int64, error) {
			v := db.Load()
			if begun.CompareAndSwap(false, true) {
				close(read)
				<-goOn
			}
			return v, nil
		}, &caches.CachedOptions[int, int64]{Name: "f"})
		old := make(chan int64)
		go func() {
			v, _ := f.Get(ctx, 1)
			old <- v
		}()
		<-read
		db.Store(2)
		if refresh {
			v, err := f.Refresh(ctx, 1)
			require.NoError(t, err)
			require.EqualValues(t, 2, v)
		} else {
			require.NoError(t, f.Invalidate(ctx, 1))
		}
		v, err := f.Get(ctx, 1)
		require.NoError(t, err)
		require.EqualValues(t, 2, v, "the run that began before is joined by nobody")
		close(goOn)
		require.EqualValues(t, 1, <-old)
		v, err = f.Get(ctx, 1)
		require.NoError(t, err)
		require.EqualValues(t, 2, v, "and stores nothing")
	}
}

// A function that asks for its own result, by itself or over another, gets an
// error instead of waiting for ever.
func TestCachedRecursion(t *testing.T) {
	ctx := caches.WithConn(t.Context(), open(t, "locmem://"))
	c := caches.Cache[int]{Prefix: "recursion"}
	var a, b *caches.CachedFunc[int, int]
	a = caches.Cached(c, func(ctx context.Context, n int) (int, error) { return b.Get(ctx, n) }, &caches.CachedOptions[int, int]{Name: "a"})
	b = caches.Cached(c, func(ctx context.Context, n int) (int, error) {
		if n == 0 {
			return 0, nil
		}
		v, err := a.Get(ctx, n/2*2-n%2) // an odd one asks for itself, an even one too
		return v + 1, err
	}, &caches.CachedOptions[int, int]{Name: "b"})
	_, err := a.Get(ctx, 2)
	require.ErrorContains(t, err, "waits for its own result")
	v, err := a.Get(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, v)
}

// What no later try could mend is not hidden: it would be computed every time.
func TestCachedShowsErrorsOfTheProgram(t *testing.T) {
	ctx := caches.WithConn(t.Context(), open(t, "locmem://"))
	for name, c := range map[string]caches.Cache[any]{
		"a value that does not serialize": {Prefix: "p"},
		"a negative time to live":         {Prefix: "p", TTL: -1},
	} {
		_, err := caches.Cached(c, func(context.Context, int) (any, error) { return func() {}, nil },
			&caches.CachedOptions[int, any]{Name: "f"}).Get(ctx, 1)
		require.Error(t, err, name)
	}
	_, err := caches.Cached(caches.Cache[int]{Prefix: "p", Connection: "none such"},
		func(context.Context, int) (int, error) { return 1, nil }, &caches.CachedOptions[int, int]{Name: "f"}).Get(context.Background(), 1)
	require.ErrorIs(t, err, caches.ErrNoConnection)
}
