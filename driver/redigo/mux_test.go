package redigo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openShared opens a store whose calls stay on the shared connections, so that a
// test can count these on a busy machine.
func openShared(t testing.TB, c redigo.Config) *redigo.Store {
	t.Helper()
	s := open(t, c)
	s.NeverStarve()
	return s
}

// together runs f in n goroutines and waits for all.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// settled waits until no call is in progress.
func settled(t testing.TB, s *redigo.Store) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Stats().InFlight == 0 }, patience, time.Millisecond)
}

// outcome reports which of the two errors err is; it must be exactly one.
func outcome(t testing.TB, err error) (unknown bool) {
	t.Helper()
	unknown = errors.Is(err, driver.ErrUnknownOutcome)
	assert.NotEqual(t, unknown, errors.Is(err, driver.ErrUnavailable), "%v", err)
	return unknown
}

// TestMuxOrder gives each of many callers a unique word to get back, alone and
// several at once.
func TestMuxOrder(t *testing.T) {
	r := testutil.Redis(t, nil)
	for _, conns := range []int{1, 3} {
		s := openShared(t, redigo.Config{Address: r.Addr(), Conns: conns})
		together(64, func(g int) {
			for i := range scale(50, 100) {
				p := driver.NewPipeline(0)
				want := ""
				for k := range 1 + i%3 {
					word := fmt.Sprintf("%d.%d.%d", g, i, k)
					add(p, "ECHO", word)
					want += bulk(word)
				}
				assert.NoError(t, s.Do(context.Background(), p))
				assert.Equal(t, want, string(p.Replies().Raw()))
				p.Free()
			}
		})
		stats := s.Stats()
		t.Logf("%d connections: %+v", conns, stats)
		assert.EqualValues(t, conns, stats.Dials)
		assert.Zero(t, stats.Desyncs)
		assert.Less(t, stats.Writes, stats.Commands, "some have travelled together")
	}
}

// TestMuxCancelStorm cancels half of the calls at random points. This affects
// neither the other calls nor the connection.
func TestMuxCancelStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, o := range []*testutil.RedisOptions{nil, {TLS: true}} {
		r := testutil.Redis(t, o)
		s := openShared(t, configOf(r, o))
		must(t, s, "PING")
		var canceled atomic.Int64
		together(128, func(g int) {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for i := range scale(25, 60) {
				word := fmt.Sprintf("%d-%d", g, i)
				ctx, cancel := context.WithCancel(context.Background())
				if i%2 == 0 {
					time.AfterFunc(time.Duration(random.IntN(2000))*time.Microsecond, cancel)
				}
				p := driver.NewPipeline(0)
				for range 1 + g%3 {
					add(p, "ECHO", word)
				}
				err := s.Do(ctx, p)
				cancel()
				if err == nil {
					assert.Equal(t, strings.Repeat(bulk(word), 1+g%3), string(p.Replies().Raw()))
					p.Free()
					continue
				}
				p.Free()
				canceled.Add(1)
				assert.ErrorIs(t, err, context.Canceled)
				outcome(t, err)
				assert.Zero(t, i%2, "a call that was not canceled has no error")
			}
		})
		settled(t, s)
		t.Logf("%d canceled, %+v", canceled.Load(), s.Stats())
		assert.EqualValues(t, 1, s.Stats().Dials)
		assert.Zero(t, s.Stats().Desyncs)
	}
}

// TestMuxSizes mixes sizes from a byte to more than a shared connection takes,
// through a network that delivers replies in slices.
func TestMuxSizes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := openShared(t, redigo.Config{Address: proxy.Addr()})
	ping(t, s)
	sizes := []int{1, 100, 4 << 10, 33 << 10, 64 << 10, 200 << 10, 1100 << 10}
	exchange := func(rounds int, sizes []int) {
		together(12, func(g int) {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for range rounds {
				word := strconv.Itoa(random.IntN(1e9)) + "."
				value := strings.Repeat(word, sizes[random.IntN(len(sizes))]/len(word)+1)
				got, err := run(s, driver.ReadOnly, "ECHO", value)
				if err == nil {
					assert.True(t, got == bulk(value), "%d bytes", len(value))
				} else {
					outcome(t, err)
				}
			}
		})
	}
	exchange(scale(4, 10), sizes)
	assert.Zero(t, s.Stats().Errors)
	proxy.Slice(true)
	exchange(scale(4, 10), sizes[:2])
	proxy.Heal()
	proxy.Rate(0.02, seed)
	exchange(scale(8, 20), sizes[:6])
	t.Logf("%+v", s.Stats())
	assert.Zero(t, s.Stats().Desyncs)
}

// TestMuxRestart kills the server under load: no value is wrong, every call
// returns in time, and calls succeed soon after the server is back.
func TestMuxRestart(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: time.Second, ConnectTimeout: time.Second})
	var good, late atomic.Int64
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		together(64, func(g int) {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				word := fmt.Sprintf("%d-%d", g, i)
				start := time.Now()
				got, err := run(s, 0, "ECHO", word)
				if time.Since(start) > time.Second+50*time.Millisecond {
					late.Add(1)
				}
				if err == nil {
					assert.Equal(t, bulk(word), got)
					good.Add(1)
				} else if outcome(t, err); i%16 == 0 {
					time.Sleep(time.Millisecond) // refusals return quickly
				}
			}
		})
	}()
	for range 3 {
		before := good.Load()
		require.Eventually(t, func() bool { return good.Load() > before+100 }, patience, time.Millisecond)
		r.Restart()
		before, start := good.Load(), time.Now()
		require.Eventually(t, func() bool { return good.Load() > before }, patience, time.Millisecond)
		t.Logf("works again after %v", time.Since(start))
		assert.Less(t, time.Since(start), time.Second+patience/20)
	}
	close(stop)
	<-ended
	if late.Load() > 0 {
		t.Logf("%d calls came back late", late.Load())
	}
	assert.Zero(t, s.Stats().Desyncs)
}

// TestMuxServerStops stops the server (SIGSTOP) under every kind of caller:
// alone and with others, with a context that can end and without.
func TestMuxServerStops(t *testing.T) {
	const timeout = 200 * time.Millisecond
	r := testutil.Redis(t, nil)
	for _, callers := range []int{1, 40} {
		s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: timeout})
		ping(t, s)
		r.Pause()
		start := time.Now()
		together(callers, func(i int) {
			ctx := context.Background()
			if i%2 == 1 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout/2)
				defer cancel()
			}
			_, err := runCtx(ctx, s, 0, "INCR", "n")
			outcome(t, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
		took := time.Since(start)
		r.Resume()
		t.Logf("%d callers were back after %v", callers, took)
		assert.GreaterOrEqual(t, took, timeout)
		assert.Less(t, took, timeout+slack)
		ping(t, s)
	}
}

// slack is how late a call may be on a busy machine; on a quiet one it is less
// than 10 ms.
const slack = 2 * time.Second

// TestMuxWriteStuck fills the buffers of a server that reads nothing. The calls
// in the write and behind it return in time; canceled ones at once.
func TestMuxWriteStuck(t *testing.T) {
	for _, o := range []*testutil.RedisOptions{nil, {TLS: true}} {
		for _, callers := range []int{1, 12} {
			t.Run(fmt.Sprintf("TLS %v, callers %d", o != nil, callers), func(t *testing.T) {
				t.Parallel()
				stickWrites(t, o, callers)
			})
		}
	}
}

func stickWrites(t *testing.T, o *testutil.RedisOptions, callers int) {
	const timeout = 300 * time.Millisecond
	large := strings.Repeat("x", 900<<10)
	r := testutil.Redis(t, o)
	c := configOf(r, o)
	c.Timeout = timeout
	s := openShared(t, c)
	ping(t, s)
	r.Pause()
	start := time.Now()
	together(callers, func(i int) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if i%2 == 1 {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		p := driver.NewPipeline(0)
		defer p.Free()
		add(p, "SET", "k", large)
		began := time.Now()
		err := s.Do(ctx, p)
		outcome(t, err)
		if errors.Is(err, context.Canceled) {
			assert.Less(t, time.Since(began), 50*time.Millisecond+slack)
		}
	})
	assert.Less(t, time.Since(start), timeout+slack)
	for range 3 { // commands of calls that have ended still fill the buffers
		_, err := run(s, 0, "SET", "k", large)
		outcome(t, err)
	}
	r.Resume()
	ping(t, s)
	settled(t, s)
}

// TestMuxLoneCancel cancels a caller that reads for itself. It returns long
// before its deadline, and the connection stays usable.
func TestMuxLoneCancel(t *testing.T) {
	for _, o := range []*testutil.RedisOptions{nil, {TLS: true}} {
		r := testutil.Redis(t, o)
		s := openShared(t, configOf(r, o))
		for i := range 10 {
			word := strconv.Itoa(i)
			assert.Equal(t, bulk(word), must(t, s, "ECHO", word))
			r.Pause()
			ctx, cancel := context.WithCancel(t.Context())
			var at time.Time
			time.AfterFunc(10*time.Millisecond, func() { at = time.Now(); cancel() })
			_, err := runCtx(ctx, s, 0, "ECHO", "abandoned")
			took := time.Since(at)
			require.ErrorIs(t, err, driver.ErrUnknownOutcome)
			require.ErrorIs(t, err, context.Canceled)
			assert.Less(t, took, slack)
			r.Resume()
		}
		assert.Equal(t, bulk("end"), must(t, s, "ECHO", "end"))
		settled(t, s)
		assert.EqualValues(t, 1, s.Stats().Dials)
		assert.EqualValues(t, 10, s.Stats().Abandoned)
	}
}
