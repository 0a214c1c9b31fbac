package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

func ExampleBatch() {
	ctx := context.Background()
	online := caches.SetCache[int]{Prefix: "online", TTL: time.Minute}
	prefs := caches.DictCache[string, string]{Prefix: "prefs"}

	b := new(caches.Batch)
	nobody := caches.Later(b, profiles.Key("nobody").Get) // any method that takes a context …
	size := caches.Later(b, online.Key("asia").Len)
	b.Do(func(ctx context.Context) error { // … or a function
		return prefs.Key("ada").Set(ctx, "theme", "dark")
	})
	_, err := size.Value(ctx)
	fmt.Println(errors.Is(err, caches.ErrPending))

	fmt.Println(b.Run(ctx)) // one round trip per shard; a miss is no failure
	n, err := size.Value(ctx)
	fmt.Println(n, err)
	_, err = nobody.Value(ctx)
	fmt.Println(errors.Is(err, caches.ErrMiss))
	// Output:
	// true
	// <nil>
	// 0 <nil>
	// true
}

func ExampleCachedFunc_Later() {
	ctx := context.Background()
	square := caches.Cached(caches.Cache[int]{Prefix: "later"}, func(_ context.Context, n int) (int, error) {
		return n * n, nil
	}, &caches.CachedOptions[int, int]{Name: "square"})

	b := new(caches.Batch)
	var squares []*caches.Promise[int]
	for n := range 4 {
		squares = append(squares, square.Later(b, n)) // one command per shard fetches all that are remembered
	}
	if err := b.Run(ctx); err != nil {
		fmt.Println(err)
	}
	for _, p := range squares {
		n, err := p.Value(ctx)
		fmt.Println(n, err)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 4 <nil>
	// 9 <nil>
}

func ExamplePromise_Then() {
	ctx := context.Background()
	posts := caches.DictCache[string, string]{Prefix: "post"}
	posts.Key(7).Update(ctx, map[string]string{"title": "Notes", "author": "ada"})
	posts.Key("ada").Set(ctx, "name", "Ada Lovelace")

	b := new(caches.Batch)
	title := caches.Later(b, func(ctx context.Context) (string, error) { return posts.Key(7).Get(ctx, "title") })
	var author *caches.Promise[string]
	caches.Later(b, func(ctx context.Context) (string, error) { return posts.Key(7).Get(ctx, "author") }).
		Then(func(id string, err error) { // what is added now runs in a next round
			author = caches.Later(b, func(ctx context.Context) (string, error) { return posts.Key(id).Get(ctx, "name") })
		})
	fmt.Println(b.Run(ctx))
	fmt.Println(title.Value(ctx))
	fmt.Println(author.Value(ctx))
	// Output:
	// <nil>
	// Notes <nil>
	// Ada Lovelace <nil>
}

// A batchPlan adds operations to a batch, and knows what each must come to.
type batchPlan struct {
	random *rand.Rand
	conn   *caches.Conn
	values map[int]string // what is stored: the model
	counts map[int]int64
	square *caches.CachedFunc[int, int]
	checks []func(t *testing.T, ctx context.Context)
}

var (
	planValues = caches.Cache[string]{Prefix: "plan"}
	planCounts = caches.CounterCache[int64]{Prefix: "plan-count", TTL: time.Minute}
)

// expect adds an operation whose result is known.
func expect[T any](p *batchPlan, b *caches.Batch, op func(context.Context) (T, error), want T, wantErr error) {
	promise := caches.Later(b, op)
	p.check(func(t *testing.T, ctx context.Context) {
		got, err := promise.Value(ctx)
		assert.ErrorIs(t, err, wantErr)
		assert.Equal(t, want, got)
		assert.True(t, promise.IsResolved())
		assert.False(t, !promise.IsResolved())
	})
}

func (p *batchPlan) check(f func(*testing.T, context.Context)) { p.checks = append(p.checks, f) }

// step adds one operation on key k, which no other of the round is about.
func (p *batchPlan) step(b *caches.Batch, k int) {
	values, counts := planValues.On(p.conn).Key(k), planCounts.On(p.conn).Key(k)
	stored, ok := p.values[k]
	miss := error(nil)
	if !ok {
		miss = caches.ErrMiss
	}
	switch p.random.IntN(7) {
	case 0:
		text := strconv.Itoa(p.random.IntN(1000))
		p.values[k] = text
		b.Do(func(ctx context.Context) error { return values.Set(ctx, text) })
	case 1:
		delete(p.values, k)
		expect(p, b, values.Pop, stored, miss)
	case 2:
		expect(p, b, values.Exists, ok, nil)
	case 3:
		n := p.random.Int64N(10)
		p.counts[k] += n
		expect(p, b, func(ctx context.Context) (int64, error) { return counts.Incr(ctx, n) }, p.counts[k], nil)
	case 4:
		promise := p.square.Later(b, k%20) // several of one argument
		p.check(func(t *testing.T, ctx context.Context) {
			got, err := promise.Value(ctx)
			assert.NoError(t, err)
			assert.Equal(t, (k%20)*(k%20), got)
		})
	default:
		expect(p, b, values.Get, stored, miss)
	}
}

// Random batches, filled by one goroutine or several, in several rounds, do what
// a map does.
func TestBatchDoesAsPlanned(t *testing.T) {
	rounds, seed := fullOr(500, 8), rand.Uint64()
	t.Logf("seed %d", seed)
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		p := &batchPlan{
			random: rand.New(rand.NewPCG(seed, 1)), conn: conn,
			values: map[int]string{}, counts: map[int]int64{},
		}
		var runs sync.Map
		p.square = caches.Cached(caches.Cache[int]{Prefix: "plan-square"}.On(conn),
			func(_ context.Context, n int) (int, error) {
				if _, again := runs.LoadOrStore(n, true); again {
					return 0, fmt.Errorf("%d is computed a second time", n)
				}
				return n * n, nil
			}, &caches.CachedOptions[int, int]{Name: "square", Early: -1})
		b := new(caches.Batch)
		for range rounds {
			p.checks = nil
			keys := p.random.Perm(60)[:1+p.random.IntN(59)]
			later := keys[:p.random.IntN(len(keys))]
			b.Do(func(context.Context) error { // added while the batch runs
				for _, k := range later {
					p.step(b, k)
				}
				return nil
			})
			for _, k := range keys[len(later):] {
				// step uses p: only one goroutine may, so that Do's must wait
				// for the run.
				p.step(b, k)
			}
			require.NoError(t, b.Run(ctx))
			for _, check := range p.checks {
				check(t, ctx)
			}
			require.Zero(t, b.Len())
		}
	})
}

// Goroutines may add to a batch, run it and wait for its promises all at once.
func TestBatchIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	conn := open(t, "locmem://")
	counter := caches.CounterCache[int64]{Prefix: "n"}.On(conn).Key("all")
	double := caches.Cached(caches.Cache[int]{Prefix: "double"}.On(conn),
		func(_ context.Context, n int) (int, error) { return 2 * n, nil }, &caches.CachedOptions[int, int]{Name: "double"})
	var (
		b     caches.Batch
		group sync.WaitGroup
		thens atomic.Int64
	)
	const adders, each = 8, 50
	for range adders {
		group.Go(func() {
			for i := range each {
				one := caches.Later(&b, func(ctx context.Context) (int64, error) { return counter.Incr(ctx, 1) })
				one.Then(func(int64, error) { thens.Add(1) })
				two := double.Later(&b, i)
				if i%5 == 0 {
					assert.NoError(t, b.Run(t.Context()))
				}
				for !one.IsResolved() || !two.IsResolved() {
					assert.NoError(t, b.Run(t.Context()))
					if _, err := one.Value(t.Context()); !errors.Is(err, caches.ErrPending) {
						assert.NoError(t, err)
					}
					runtime.Gosched()
				}
				v, err := two.Value(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, 2*i, v)
			}
		})
	}
	group.Wait()
	n, err := counter.Get(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, adders*each, n)
	require.EqualValues(t, adders*each, thens.Load())
}

func TestBatchErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	broken := errors.New("broken")
	b := new(caches.Batch)
	require.NoError(t, b.Run(ctx)) // of nothing
	for i := range 5 {
		b.Do(func(context.Context) error { return fmt.Errorf("operation %d: %w", i, broken) })
	}
	missed := b.Do(func(context.Context) error { return caches.ErrMiss })
	value := caches.Later(b, func(context.Context) (int, error) { return 1, broken })
	require.Equal(t, 7, b.Len())
	err := b.Run(ctx)
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, caches.ErrMiss)
	require.EqualError(t, err, "caches: batch: operation 0: broken; operation 1: broken; operation 2: broken; and 3 more")
	failures, ok := errors.AsType[*caches.BatchError](err)
	require.True(t, ok)
	require.Len(t, failures.Errs, 6)
	_, err = missed.Value(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	v, err := value.Value(ctx) // a value beside an error is given as it is
	require.ErrorIs(t, err, broken)
	require.Equal(t, 1, v)
	require.NoError(t, b.Run(ctx)) // what failed is not run again
}

// Whatever befalls a batch, every promise has a definite end.
func TestBatchAbandoned(t *testing.T) {
	t.Parallel()
	ran := func(context.Context) (int, error) { return 0, errors.New("it ran") }
	fn := caches.Cached(caches.Cache[int]{Prefix: "abandoned"},
		func(context.Context, int) (int, error) { return ran(nil) }, &caches.CachedOptions[int, int]{Name: "fn"})
	abandoned := func(t *testing.T, promises ...*caches.Promise[int]) (err error) {
		t.Helper()
		for _, p := range promises {
			require.True(t, p.IsResolved())
			_, err = p.Value(t.Context())
			require.ErrorIs(t, err, caches.ErrAbandoned)
		}
		return err
	}
	t.Run("by its owner", func(t *testing.T) {
		b := new(caches.Batch)
		p, q := caches.Later(b, ran), fn.Later(b, 1)
		_, err := p.Value(t.Context())
		require.ErrorIs(t, err, caches.ErrPending)
		b.Abandon()
		abandoned(t, p, q)
		require.NoError(t, b.Run(t.Context()))
	})
	t.Run("by its context", func(t *testing.T) {
		why := errors.New("the page was left")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		b := new(caches.Batch)
		p, q := caches.Later(b, ran), fn.Later(b, 1)
		require.ErrorIs(t, b.Run(ctx), why)
		err := abandoned(t, p, q)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, why)
	})
	t.Run("under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			b := new(caches.Batch)
			slow := caches.Later(b, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			var next *caches.Promise[int]
			slow.Then(func(int, error) { next = caches.Later(b, ran) })
			go func() { // waits from outside, for less time
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				for {
					if _, err := slow.Value(ctx); !errors.Is(err, caches.ErrPending) {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
						assert.True(t, !slow.IsResolved())
						return
					}
					synctest.Wait()
				}
			}()
			require.ErrorIs(t, b.Run(ctx), context.DeadlineExceeded)
			abandoned(t, next)
			v, err := slow.Value(t.Context())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Zero(t, v)
		})
	})
}

// An operation that waits for its own batch is told so instead.
func TestBatchDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	b, inner := new(caches.Batch), new(caches.Batch)
	var waits [2]error
	var slow *caches.Promise[int]
	begun, ended := make(chan struct{}), make(chan struct{})
	slow = caches.Later(b, func(context.Context) (int, error) {
		close(begun)
		<-ended
		return 1, nil
	})
	b.Do(func(ctx context.Context) error {
		<-begun
		_, waits[0] = slow.Value(ctx)
		inner.Do(func(ctx context.Context) error { // also over another batch
			_, waits[1] = slow.Value(ctx)
			return nil
		})
		err := inner.Run(ctx)
		close(ended)
		return err
	})
	require.NoError(t, b.Run(t.Context()))
	for _, err := range waits {
		require.ErrorIs(t, err, caches.ErrPending)
	}
	var after error
	b.Do(func(ctx context.Context) error { // what is there needs no waiting
		_, after = slow.Value(ctx)
		return nil
	})
	require.NoError(t, b.Run(t.Context()))
	require.NoError(t, after)
}

// A panic, or the end of its goroutine, of one operation leaves the others
// alone, and is raised by Run.
func TestBatchPanics(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, operation := range map[string]func(context.Context) (int, error){
		"panic":  func(context.Context) (int, error) { panic(broken) },
		"goexit": func(context.Context) (int, error) { runtime.Goexit(); return 0, nil },
	} {
		t.Run(name, func(t *testing.T) {
			for _, others := range []int{0, 3} {
				b := new(caches.Batch)
				fell := caches.Later(b, operation)
				var well []*caches.Promise[int]
				for range others {
					well = append(well, caches.Later(b, func(context.Context) (int, error) { return 1, nil }))
				}
				require.Panics(t, func() { _ = b.Run(t.Context()) })
				_, err := fell.Value(t.Context())
				require.Error(t, err)
				if name == "panic" {
					require.ErrorIs(t, err, broken)
				}
				for _, p := range well {
					v, err := p.Value(t.Context())
					require.NoError(t, err)
					require.Equal(t, 1, v)
				}
				require.NoError(t, b.Run(t.Context()))
			}
		})
	}
	t.Run("then", func(t *testing.T) {
		b := new(caches.Batch)
		calls := 0
		p := caches.Later(b, func(context.Context) (int, error) { return 1, nil }).
			Then(func(int, error) { panic(broken) }).
			Then(func(int, error) { calls++ })
		require.Panics(t, func() { _ = b.Run(t.Context()) })
		v, err := p.Value(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.Equal(t, 1, calls)
		require.PanicsWithError(t, "broken", func() { p.Then(func(int, error) { panic(broken) }) }) // it is the caller's now
	})
	t.Run("cached function", func(t *testing.T) {
		fn := caches.Cached(caches.Cache[int]{Prefix: "falls"}.On(open(t, "locmem://")),
			func(_ context.Context, n int) (int, error) { panic(broken) }, &caches.CachedOptions[int, int]{Name: "fn"})
		b := new(caches.Batch)
		p := fn.Later(b, 1)
		require.Panics(t, func() { _ = b.Run(t.Context()) })
		_, err := p.Value(t.Context())
		require.ErrorIs(t, err, broken)
	})
}

// The calls of cached functions in a batch: one command per shard for all, every
// argument computed once, and each promise with its own error.
func TestCachedLater(t *testing.T) {
	t.Parallel()
	conn, stores := tripShards(t, 4)
	odd := errors.New("odd")
	var mu sync.Mutex
	runs := map[int]int{}
	halve := caches.Cached(caches.Cache[int]{Prefix: "halve"}.On(conn),
		func(_ context.Context, n int) (int, error) {
			mu.Lock()
			runs[n]++
			mu.Unlock()
			if n%2 != 0 {
				return 0, fmt.Errorf("%d: %w", n, odd)
			}
			return n / 2, nil
		}, &caches.CachedOptions[int, int]{Name: "halve", Early: -1})
	b := new(caches.Batch)
	ask := func() (promises []*caches.Promise[int]) {
		for n := range 40 {
			promises = append(promises, halve.Later(b, n), halve.Later(b, n))
		}
		require.Equal(t, 1, b.Len())
		return promises
	}
	for round := range 2 {
		promises := ask()
		if round == 1 {
			for n := 1; n < 40; n += 2 {
				require.NoError(t, errOf(caches.Cache[int]{Prefix: "halve"}.On(conn).Key("halve", n).Delete(t.Context())))
			}
		}
		for _, s := range stores {
			s.took()
		}
		err := b.Run(t.Context())
		require.ErrorIs(t, err, odd)
		for i, p := range promises {
			v, err := p.Value(t.Context())
			if n := i / 2; n%2 == 0 {
				require.NoError(t, err)
				require.Equal(t, n/2, v)
			} else {
				require.ErrorIs(t, err, odd)
				require.ErrorContains(t, err, fmt.Sprint(n, ": odd")) // its own
			}
		}
	}
	for n, times := range runs {
		require.Equal(t, 1+n%2, times, n) // errors are not remembered
	}
	var even []*caches.Promise[int]
	for n := 0; n < 40; n += 2 {
		even = append(even, halve.Later(b, n))
	}
	for _, s := range stores {
		s.took()
	}
	require.NoError(t, b.Run(t.Context()))
	for _, s := range stores {
		trips, commands := s.took()
		require.Equal(t, 1, trips, commands)
	}
	require.True(t, even[3].IsResolved())
}

// Operations of a batch travel together: by far not each needs a write of its
// own. How many do depends on the machine's load, and for half a second after a
// process was found short of processors calls do not share connections at all.
func TestBatchTravelsTogether(t *testing.T) {
	t.Parallel()
	conn := open(t, realRedis(t))
	shard := conn.Shards()[0]
	values := caches.Cache[int]{Prefix: "v"}.On(conn)
	for _, n := range []int{10, 100, 1000} {
		require.Eventually(t, func() bool {
			b := new(caches.Batch)
			for i := range n {
				caches.Later(b, values.Key(i).Get)
			}
			before := conn.Stats().Shards[shard]
			assert.NoError(t, b.Run(t.Context()))
			after := conn.Stats().Shards[shard]
			commands, writes := after.Commands-before.Commands, after.Writes-before.Writes
			if commands < int64(n) || writes > int64(n/10+1) {
				return false
			}
			t.Logf("%d gets: %d commands in %d writes", n, commands, writes)
			return true
		}, 30*time.Second, 10*time.Millisecond)
	}
}
