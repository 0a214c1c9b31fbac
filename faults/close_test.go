package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const (
	// crowd is how many calls are under way when a store is closed.
	crowd = 5000
	// drainTime is how long Close waits for them, as it says.
	drainTime = 5 * time.Second
)

// A closing is a way for a store to be closed while calls are under way. Each
// call adds a word of its own to a set, so what has run can be told afterwards.
type closing struct {
	name  string
	every int // it is tried in each such round
	// open prepares the server and opens the store.
	open func(t *testing.T, c *closed)
	// during is what happens to the server once Close has begun.
	during func(c *closed)
	// fast says that calls do not stay under way long enough to be counted, and
	// holds that they do so however long it takes.
	fast, holds bool
	// served says that every call that had begun must have its answer.
	served bool
}

// A closed is one store that is closed, and how its calls ended.
type closed struct {
	server *testutil.RedisServer
	proxy  *testutil.Proxy
	store  *redigo.Store
	set    string
	paused bool

	begun                               atomic.Int64 // calls
	here                                atomic.Int64 // those that have not ended
	shared                              int64        // those on connections, when Close was called
	served, unknown, unavailable, wrong atomic.Int64
	mu                                  sync.Mutex
	outcomes                            map[string]error // of each word
}

var closings = []closing{
	{
		name: "fast server", every: 1, fast: true, served: true,
		open: func(t *testing.T, c *closed) { c.openAt(t, c.server.Addr(), patience) },
	},
	{
		name: "slow server", every: 1, served: true,
		open: func(t *testing.T, c *closed) {
			c.openAt(t, c.proxy.Addr(), patience)
			c.proxy.Delay(150 * time.Millisecond)
		},
	},
	{
		name: "server that stops and goes on", every: 1, holds: true, served: true,
		open:   func(t *testing.T, c *closed) { c.openAt(t, c.server.Addr(), patience); c.pause() },
		during: (*closed).resume,
	},
	{
		name: "server that stops, impatient calls", every: 1,
		open: func(t *testing.T, c *closed) { c.openAt(t, c.server.Addr(), 300*time.Millisecond); c.pause() },
	},
	{
		name: "connections that are reset", every: 1, holds: true,
		open:   func(t *testing.T, c *closed) { c.openAt(t, c.proxy.Addr(), patience); c.pause() },
		during: func(c *closed) { c.proxy.Reset() },
	},
	{
		name: "server that stops for good", every: 10, holds: true,
		open: func(t *testing.T, c *closed) { c.openAt(t, c.server.Addr(), patience); c.pause() },
	},
}

// openAt opens the store with a connection to each lane: one takes 4,096 calls.
func (c *closed) openAt(t *testing.T, addr string, timeout time.Duration) {
	t.Helper()
	var err error
	c.store, err = redigo.Open(redigo.Config{Address: addr, Conns: 2, Timeout: timeout, ConnectTimeout: patience})
	require.NoError(t, err)
	for range 4 {
		awaitGood(t, c.store)
	}
}

func (c *closed) pause()  { c.server.Pause(); c.paused = true }
func (c *closed) resume() { c.server.Resume(); c.paused = false }

// call adds one word and keeps how that ended.
func (c *closed) call(word string) error {
	c.begun.Add(1)
	c.here.Add(1)
	raw, err := run(context.Background(), c.store, 0, "SADD", c.set, word)
	c.here.Add(-1)
	switch {
	case err == nil && raw == ":1\r\n":
		c.served.Add(1)
	case err == nil || !isOutcome(err):
		c.wrong.Add(1)
	case errors.Is(err, driver.ErrUnknownOutcome):
		c.unknown.Add(1)
	default:
		c.unavailable.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.outcomes[word]; twice {
		c.wrong.Add(1)
	}
	c.outcomes[word] = err
	return err
}

// repeat makes calls until one fails or the store is closed.
func (c *closed) repeat(w int, over <-chan struct{}) {
	for i := 0; ; i++ {
		if err := c.call(fmt.Sprintf("%d.%d", w, i)); err != nil || isOver(over) {
			return
		}
	}
}

// gather has callers come until so many calls have begun and not ended; of a
// fast server, until so many callers have come. They come by the score: a crowd
// that comes at once looks like a shortage of processors, and then calls have
// connections for themselves, or wait for one. Such a time is waited out where
// the calls are still there afterwards, as often as leaves a busy machine an end.
func (c *closed) gather(t *testing.T, k *closing, over <-chan struct{}) (callers *sync.WaitGroup) {
	t.Helper()
	const batch = 20
	callers = new(sync.WaitGroup)
	patient := count(1, 3)
	for w := 0; k.fast && w < crowd || !k.fast && c.here.Load() < crowd; w += batch {
		calls, shared := c.begun.Load(), c.store.Stats().InFlight
		for caller := w; caller < w+batch; caller++ {
			callers.Go(func() { c.repeat(caller, over) })
		}
		await(t.Context().Done(), func() bool { return c.begun.Load() >= calls+batch })
		if k.holds && patient > 0 && !c.arrive(t, shared+batch) {
			patient--
			time.Sleep(500 * time.Millisecond)
		}
	}
	c.shared = c.store.Stats().InFlight
	return callers
}

// arrive reports whether so many calls are on connections, or soon will be.
func (c *closed) arrive(t *testing.T, n int64) bool {
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	return await(soon.Done(), func() bool { return c.store.Stats().InFlight >= n })
}

func isOver(over <-chan struct{}) bool {
	select {
	case <-over:
		return true
	default:
		return false
	}
}

// round closes one store under way.
func (k *closing) round(t *testing.T, c *closed) {
	t.Helper()
	k.open(t, c)
	over := make(chan struct{})
	callers := c.gather(t, k, over)
	var acting sync.WaitGroup
	acting.Go(func() {
		time.Sleep(5 * time.Millisecond) // Close has begun by then, or does so in the midst of it
		if k.during != nil {
			k.during(c)
		}
	})
	begun := time.Now()
	require.NoError(t, c.store.Close())
	took := time.Since(begun)
	close(over)
	acting.Wait()
	callers.Wait()
	assert.Less(t, took, drainTime+ample, k.name)
	_, err := run(t.Context(), c.store, driver.ReadOnly, "PING")
	require.ErrorIs(t, err, driver.ErrUnavailable, "a call after Close")
	require.NoError(t, c.store.Close(), "a second Close")
	c.check(t, k)
	t.Logf("%s: %d on connections, Close took %v: %d served, %d unknown, %d unavailable", k.name, c.shared,
		took.Round(time.Millisecond), c.served.Load(), c.unknown.Load(), c.unavailable.Load())
}

// check compares what the calls were told with what the server has.
func (c *closed) check(t *testing.T, k *closing) {
	t.Helper()
	if c.paused {
		c.resume()
	}
	awaitNoClients(t, c.server)
	words, err := redis.Strings(c.server.Do("SMEMBERS", c.set))
	require.NoError(t, err)
	ran := make(map[string]bool, len(words))
	for _, word := range words {
		ran[word] = true
		err, called := c.outcomes[word]
		require.True(t, called, "%s was never called", word)
		require.NotErrorIs(t, err, driver.ErrUnavailable, "%s has run", word)
	}
	for word, err := range c.outcomes {
		if err == nil {
			require.True(t, ran[word], "%s was acknowledged and has not run", word)
		}
	}
	require.Zero(t, c.wrong.Load(), k.name)
	require.EqualValues(t, len(c.outcomes), c.served.Load()+c.unknown.Load()+c.unavailable.Load())
	if k.served {
		require.Zero(t, c.unknown.Load(), "%s: every call under way has its answer", k.name)
	}
}

// TestClose closes stores whose servers are fast, slow, stopped or cut off.
func TestClose(t *testing.T) {
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	before := goleak.IgnoreCurrent()
	rounds, calls := 0, 0
	var shared, served, unknown, unavailable int64
	for cycle := 1; rounds < count(5, 200); cycle++ {
		for _, k := range closings {
			if cycle%k.every != 0 {
				continue
			}
			c := &closed{server: server, proxy: proxy, set: fmt.Sprint("set", rounds), outcomes: make(map[string]error)}
			k.round(t, c)
			_, err := server.Do("UNLINK", c.set)
			require.NoError(t, err)
			proxy.Heal()
			rounds++
			calls += len(c.outcomes)
			served, unknown, unavailable = served+c.served.Load(), unknown+c.unknown.Load(), unavailable+c.unavailable.Load()
			shared += c.shared
		}
	}
	proxy.KillAll()
	goleak.VerifyNone(t, before)
	require.NotZero(t, served)
	require.NotZero(t, unknown)
	report(t, fmt.Sprintf("Close with %d calls under way, on servers that are fast, slow, stopped or cut off", crowd),
		"%d times, %d on connections on average, %d calls: %d served, %d unknown, %d unavailable; each exactly one of them, as the server's data has it",
		rounds, shared/int64(rounds), calls, served, unknown, unavailable)
}
