package failover_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Tests with real servers and Sentinels.

// rounds returns the number of failovers: CACHES_TEST_FAILOVERS, or a few.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("CACHES_TEST_FAILOVERS"))
	if err != nil {
		return 2
	}
	t.Logf("%d rounds", n)
	return n
}

func openSet(t *testing.T, f *testutil.FailoverServers, c failover.Config) *failover.Store {
	t.Helper()
	c.Sentinels, c.Master = f.SentinelAddrs(), f.MasterName()
	return open(t, c)
}

// TestStore runs the suite that every store passes.
func TestStore(t *testing.T) {
	t.Parallel()
	f := testutil.Failover(t, 1, 1)
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		_, err := f.Node(f.Master()).Do("FLUSHALL")
		require.NoError(t, err)
		return openSet(t, f, failover.Config{})
	})
}

// TestSecured uses TLS everywhere, and different users for Sentinels and nodes.
func TestSecured(t *testing.T) {
	t.Parallel()
	f := testutil.FailoverWith(t, 3, 1, &testutil.FailoverOptions{
		TLS: true, Password: "nodes-secret", SentinelUser: "watcher", SentinelPassword: "sentinels-secret",
	})
	config := failover.Config{
		SentinelUsername: "watcher", SentinelPassword: "sentinels-secret",
		Node: redigo.Config{Password: "nodes-secret", TLS: f.Node(f.Master()).TLSConfig()}, ReadReplicas: true,
	}
	s := openSet(t, f, config)
	must(t, s, "SET", "k", "v")
	f.Failover()
	require.Eventually(t, func() bool {
		reply, err := run(s, 0, "GET", "k")
		return err == nil && reply == bulk("v")
	}, patience, time.Millisecond)

	config.SentinelPassword = "wrong"
	wrong := openSet(t, f, config)
	_, err := run(wrong, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "secret")
}

// A load is checked traffic: counters that only increase.
type load struct {
	s    driver.Store
	stop chan struct{}
	all  sync.WaitGroup

	pause       time.Duration // of each caller between two calls
	plain, safe counts
	begin       atomic.Int64 // Unix nanoseconds; see firstSince
	first       atomic.Int64 // of the first success of a call begun after begin; 0 if none
	overrun     atomic.Int64 // the worst overrun of a deadline
	stall       atomic.Int64 // the longest time without a processor for this process
	odd         atomic.Value // an unexpected reply
}

// counts are the outcomes of calls that increment one key.
type counts struct {
	acked, unknown, refused atomic.Int64
	marked                  atomic.Int64 // in Unix nanoseconds; 0 if unset
	since                   atomic.Int64 // acknowledged calls that began after marked
}

// timeLimit is the timeout of each call.
const timeLimit = 250 * time.Millisecond

// newLoad starts callers. Half of them increment one key. The others increment
// another key and count a call as acknowledged only once a replica has it too
// (WAIT), because writes known only to the master are lost with it.
func newLoad(s driver.Store, callers int) *load {
	l := &load{s: s, stop: make(chan struct{}), pause: 3 * time.Millisecond}
	if os.Getenv("CACHES_TEST_FULL") == "1" {
		l.pause = 0
	}
	l.all.Go(l.watch)
	for i := range callers {
		l.all.Go(func() {
			for ; !l.ended(); time.Sleep(l.pause) {
				if i%2 == 0 {
					l.call(&l.plain, 0, l.count)
				} else {
					l.call(&l.safe, driver.Own, l.countSafely)
				}
			}
		})
	}
	return l
}

// watch measures how much longer than asked this process sleeps: a delay that
// is not the store's.
func (l *load) watch() {
	for last := time.Now(); !l.ended(); last = time.Now() {
		time.Sleep(time.Millisecond)
		longest(&l.stall, time.Since(last))
	}
}

func longest(of *atomic.Int64, d time.Duration) {
	for old := of.Load(); int64(d) > old && !of.CompareAndSwap(old, int64(d)); old = of.Load() {
	}
}

func (l *load) ended() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *load) call(c *counts, mode driver.Mode, count func(ctx context.Context, p *driver.Pipeline) (bool, error)) {
	p := driver.NewPipeline(mode)
	defer p.Free()
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	begun, marked := time.Now(), c.marked.Load()
	ok, err := count(ctx, p)
	now := time.Now()
	longest(&l.overrun, now.Sub(begun)-timeLimit)
	var refusal *driver.ServerError
	switch {
	case err == nil && ok:
		c.acked.Add(1)
		if marked != 0 && c.marked.Load() == marked {
			c.since.Add(1)
		}
		if begun.UnixNano() > l.begin.Load() {
			l.first.CompareAndSwap(0, now.UnixNano())
		}
		return
	case err == nil, errors.Is(err, driver.ErrUnknownOutcome):
		c.unknown.Add(1)
	case errors.Is(err, driver.ErrUnavailable), errors.As(err, &refusal):
		c.refused.Add(1)
	default:
		l.odd.Store(err)
	}
	time.Sleep(time.Millisecond)
}

func (l *load) count(ctx context.Context, p *driver.Pipeline) (bool, error) {
	p.Cmd("INCR").Key("plain")
	if err := l.s.Do(ctx, p); err != nil {
		return false, err
	}
	_, err := p.Next().Int()
	return true, err
}

func (l *load) countSafely(ctx context.Context, p *driver.Pipeline) (bool, error) {
	p.Cmd("INCR").Key("safe")
	p.Cmd("WAIT").Int(1).Int(timeLimit.Milliseconds() / 2)
	if err := l.s.Do(ctx, p); err != nil {
		return false, err
	}
	if _, err := p.Next().Int(); err != nil {
		return false, err
	}
	replicas, err := p.Next().Int()
	return err == nil && replicas > 0, nil // otherwise the increment may get lost
}

// mark starts counting in since.
func (c *counts) mark() {
	c.since.Store(0)
	c.marked.Store(time.Now().UnixNano())
}

// unmark stops counting and returns the count.
func (c *counts) unmark() int64 {
	c.marked.Store(0)
	return c.since.Load()
}

// firstSince waits for a success of a call that began after a recent time, and
// returns the time of the success.
func (l *load) firstSince(t *testing.T, begin time.Time) time.Time {
	t.Helper()
	l.begin.Store(begin.UnixNano())
	l.first.Store(0)
	require.Eventually(t, func() bool { return l.first.Load() > 0 }, patience, time.Millisecond)
	return time.Unix(0, l.first.Load())
}

// end stops the callers and checks the counters on the master.
func (l *load) end(t *testing.T, f *testutil.FailoverServers) {
	t.Helper()
	close(l.stop)
	l.all.Wait()
	f.Wait()
	at := f.Node(f.Master())
	plain, err := redis.Int64(at.Do("GET", "plain"))
	require.NoError(t, err)
	safe, err := redis.Int64(at.Do("GET", "safe"))
	require.NoError(t, err)
	t.Logf("plain: %d acknowledged, %d unknown, %d refused, counter %d", l.plain.acked.Load(), l.plain.unknown.Load(), l.plain.refused.Load(), plain)
	t.Logf("safe:  %d acknowledged, %d unknown, %d refused, counter %d", l.safe.acked.Load(), l.safe.unknown.Load(), l.safe.refused.Load(), safe)
	overrun, stall := time.Duration(l.overrun.Load()), time.Duration(l.stall.Load())
	t.Logf("worst overrun of a deadline %v; this process had no processor for up to %v", overrun, stall)
	assert.LessOrEqual(t, plain, l.plain.acked.Load()+l.plain.unknown.Load(), "nothing runs twice")
	assert.LessOrEqual(t, safe, l.safe.acked.Load()+l.safe.unknown.Load(), "nothing runs twice")
	assert.GreaterOrEqual(t, safe, l.safe.acked.Load(), "a write that a replica has is not lost")
	assert.Nil(t, l.odd.Load())
	assert.Less(t, overrun, stall+200*time.Millisecond)
}

// switches returns a channel with the time of each move of the master, as first
// published by a Sentinel.
func switches(t *testing.T, f *testutil.FailoverServers) <-chan time.Time {
	t.Helper()
	first := make(chan time.Time, 64)
	var mu sync.Mutex
	seen := make(map[string]bool)
	var all sync.WaitGroup
	t.Cleanup(all.Wait) // runs after the cleanup that closes the connections
	for _, addr := range f.SentinelAddrs() {
		c, err := redis.Dial("tcp", addr)
		require.NoError(t, err)
		subscription := redis.PubSubConn{Conn: c}
		require.NoError(t, subscription.Subscribe("+switch-master"))
		t.Cleanup(func() { _ = c.Close() })
		moves := 0
		all.Go(func() {
			for {
				switch m := subscription.ReceiveWithTimeout(0).(type) {
				case redis.Message:
					moves++ // all Sentinels publish the moves in the same order
					mu.Lock()
					if key := strconv.Itoa(moves) + string(m.Data); !seen[key] {
						seen[key] = true
						first <- time.Now()
					}
					mu.Unlock()
				case error:
					return
				}
			}
		})
	}
	return first
}

// TestMasterIsKilled kills the master under load repeatedly. Calls succeed
// again as soon as there is a new master.
func TestMasterIsKilled(t *testing.T) {
	t.Parallel()
	f := testutil.Failover(t, 3, 2)
	switched := switches(t, f)
	s := openSet(t, f, failover.Config{})
	must(t, s, "SET", "plain", "0")
	l := newLoad(s, 16)
	for left := rounds(t); left > 0; left-- {
		old := f.Master()
		f.Node(old).Kill()
		at := <-switched
		late := l.firstSince(t, at).Sub(at)
		t.Logf("first success %v after the switch", late)
		assert.Less(t, late, 500*time.Millisecond)
		f.WaitSwitch(old)
		if left > 1 {
			f.Node(old).Restart() // it comes back as a master, but no call is led to it
			f.Wait()
		}
	}
	l.end(t, f)
}

// TestFormerMasterLivesOn replaces a master that goes on accepting writes: once
// because it was paused, once because the Sentinels were asked to replace it.
// Connections to it are closed at once, and all writes acknowledged afterwards
// are at the new master. (Writes that it acknowledged earlier, before the
// Sentinels noticed that the replica had been promoted, are lost.)
func TestFormerMasterLivesOn(t *testing.T) {
	t.Parallel()
	f := testutil.Failover(t, 3, 1)
	switched, left := switches(t, f), make(chan time.Time, 64)
	s := openSet(t, f, failover.Config{Node: redigo.Config{OnState: func(state driver.State, reason error) {
		if state == driver.Disconnected && reason != nil && strings.Contains(reason.Error(), "moved from") {
			left <- time.Now()
		}
	}}})
	must(t, s, "SET", "plain", "0")
	l := newLoad(s, 16)
	for name, replace := range map[string]func() (now string){
		"stopped": func() string {
			old := f.Master()
			f.Node(old).Pause()
			now := f.WaitSwitch(old)
			f.Node(old).Resume()
			return now
		},
		"asked": f.Failover,
	} {
		now := replace()
		late := (<-left).Sub(<-switched)
		t.Logf("%s: connections were closed %v after the switch", name, late)
		assert.Less(t, late, 500*time.Millisecond)
		time.Sleep(200 * time.Millisecond) // this process may have to wait for a processor before it notices
		before, err := redis.Int64(f.Node(now).Do("GET", "plain"))
		require.NoError(t, err)
		l.plain.mark()
		require.Eventually(t, func() bool { return l.plain.since.Load() > 500 }, patience, time.Millisecond)
		acked := l.plain.unmark()
		after, err := redis.Int64(f.Node(now).Do("GET", "plain"))
		require.NoError(t, err)
		assert.GreaterOrEqual(t, after-before, acked, name)
		f.Wait() // until the previous master has become a replica
	}
	l.end(t, f)
}
