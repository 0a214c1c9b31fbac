package redigo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMuxFull has as many calls in progress as a connection takes: one more
// fails at once, and the others are served.
func TestMuxFull(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr()})
	must(t, s, "PING")
	r.Pause()
	var served, displaced, refused atomic.Int64
	begun := time.Now()
	ended, resumed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		together(redigo.MaxFlight, func(i int) {
			word := strconv.Itoa(i)
			got, err := run(s, 0, "ECHO", word)
			if errors.Is(err, driver.ErrBusy) { // heartbeats, one a second, take places too
				displaced.Add(1)
				<-resumed
			}
			for errors.Is(err, driver.ErrBusy) { // until there is a reply
				refused.Add(1)
				time.Sleep(time.Millisecond)
				got, err = run(s, 0, "ECHO", word)
			}
			if assert.NoError(t, err) && assert.Equal(t, bulk(word), got) {
				served.Add(1)
			}
		})
	}()
	require.Eventually(t, func() bool { return s.Stats().InFlight >= redigo.MaxFlight }, patience, time.Millisecond)
	_, err := run(s, driver.ReadOnly, "ECHO", "one too many")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "4096 calls are in progress")
	atMost := 1 + int64(time.Since(begun)/time.Second)
	r.Resume()
	close(resumed)
	<-ended
	assert.LessOrEqual(t, displaced.Load(), atMost, "more calls refused than heartbeats sent")
	assert.EqualValues(t, 1+refused.Load(), s.Stats().Refused)
	assert.EqualValues(t, redigo.MaxFlight, served.Load())
}

// TestMuxBytesAreBounded queues commands behind a stuck write until they exceed
// the limit of bytes; the accepted ones are served.
func TestMuxBytesAreBounded(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: patience})
	must(t, s, "PING")
	r.Pause()
	room := scale(4<<20, redigo.MaxUnwritten)
	s.Fill(redigo.MaxUnwritten - room)
	value := strings.Repeat("x", 1000<<10)
	var refused, served atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		together(room>>20+30, func(int) {
			_, err := run(s, 0, "SET", "k", value)
			if err == nil {
				served.Add(1)
			} else if assert.ErrorIs(t, err, driver.ErrUnavailable) && assert.ErrorContains(t, err, "waiting to be written") {
				refused.Add(1)
			}
		})
	}()
	require.Eventually(t, func() bool { return refused.Load() > 0 }, patience, time.Millisecond)
	assert.Zero(t, served.Load())
	r.Resume()
	<-ended
	t.Logf("%d refused, %d served", refused.Load(), served.Load())
	assert.GreaterOrEqual(t, served.Load(), int64(room>>20), "the full number was accepted")
	assert.Equal(t, refused.Load(), s.Stats().Refused)
}

// TestMuxClose closes a store with thousands of calls in progress: calls
// that the server answers get their replies, and each has a definite outcome.
func TestMuxClose(t *testing.T) {
	t.Parallel()
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprint("answers ", answers), func(t *testing.T) {
			t.Parallel()
			closeMux(t, answers)
		})
	}
}

func closeMux(t *testing.T, answers bool) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Conns: 2})
	calls := scale(2000, 5000)
	together(4, func(int) { ping(t, s) })
	before := s.Stats().Calls
	r.Pause()
	var served, unknown, unavailable atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		together(calls, func(i int) {
			word := strconv.Itoa(i)
			got, err := run(s, 0, "ECHO", word)
			switch {
			case err == nil:
				assert.Equal(t, bulk(word), got)
				served.Add(1)
			case outcome(t, err):
				unknown.Add(1)
			default:
				unavailable.Add(1)
			}
		})
	}()
	// Not InFlight: heartbeats are among those.
	require.Eventually(t, func() bool { return s.Stats().Calls-before == int64(calls) }, patience, time.Millisecond)
	if answers {
		time.AfterFunc(20*time.Millisecond, r.Resume)
	}
	start := time.Now()
	require.NoError(t, s.Close())
	took := time.Since(start)
	<-ended
	t.Logf("%d served, %d unknown, %d unavailable in %v", served.Load(), unknown.Load(), unavailable.Load(), took)
	if answers {
		assert.EqualValues(t, calls, served.Load())
	} else {
		r.Resume()
		assert.EqualValues(t, calls, unknown.Load())
		assert.Less(t, took, 5*time.Second+patience)
	}
}

// TestMuxCloseWaitsForCallsOnly closes a store whose server takes longer to
// reply than the time between two heartbeats.
func TestMuxCloseWaitsForCallsOnly(t *testing.T) {
	t.Parallel()
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := openShared(t, redigo.Config{Address: proxy.Addr(), Timeout: patience})
	must(t, s, "PING")
	proxy.Delay(redigo.BeatEvery * 6 / 5)
	ended := make(chan error)
	go func() {
		_, err := run(s, 0, "SET", "k", "v")
		ended <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().InFlight >= 2 }, patience, time.Millisecond, "with a heartbeat")
	start := time.Now()
	require.NoError(t, s.Close())
	require.NoError(t, <-ended)
	assert.Less(t, time.Since(start), 4*redigo.BeatEvery)
}

// TestMuxStarves checks that calls use the pool while this process is short of
// processors, and the shared connection afterwards.
func TestMuxStarves(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr()})
	must(t, s, "PING")
	s.Starve(time.Hour)
	writes := s.Stats().Writes
	together(16, func(g int) {
		for i := range 20 {
			word := fmt.Sprintf("%d-%d", g, i)
			got, err := run(s, 0, "ECHO", word)
			assert.NoError(t, err)
			assert.Equal(t, bulk(word), got)
		}
	})
	assert.LessOrEqual(t, s.Stats().Writes, writes+5, "no more than heartbeats")
	assert.Greater(t, s.Stats().Dials, int64(1))
	s.Starve(0)
	dials := s.Stats().Dials
	must(t, s, "PING")
	assert.Greater(t, s.Stats().Writes, writes)
	assert.Equal(t, dials, s.Stats().Dials)
}

// TestBreaker refuses connections until calls fail without a dial, and then
// checks that the server's return is noticed soon.
func TestBreaker(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := openShared(t, redigo.Config{Address: proxy.Addr()})
	proxy.Refuse(true)
	require.Eventually(t, func() bool {
		_, err := run(s, 0, "INCR", "n")
		require.ErrorIs(t, err, driver.ErrUnavailable)
		return strings.Contains(err.Error(), "failed repeatedly")
	}, patience, time.Microsecond)
	refused := s.Stats().Refused
	assert.NotZero(t, refused)
	proxy.Heal()
	start := time.Now()
	require.Eventually(t, func() bool {
		_, err := run(s, 0, "INCR", "n")
		return err == nil
	}, patience, time.Millisecond)
	t.Logf("found again after %v", time.Since(start))
	n, err := redis.Int64(r.Do("GET", "n"))
	require.NoError(t, err)
	assert.EqualValues(t, 1, n, "a refused command did not run")
}

// TestMuxAtMostOnce counts increments of many callers over a network that breaks
// connections. With the faults off, the counts are equal.
func TestMuxAtMostOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := openShared(t, redigo.Config{Address: proxy.Addr()})
	for _, rate := range []float64{0, 0.05} {
		ping(t, s)
		_, err := r.Do("DEL", "n")
		require.NoError(t, err)
		proxy.Rate(rate, seed)
		var acks, unknown atomic.Int64
		together(32, func(int) {
			for range 60 {
				_, err := run(s, 0, "INCR", "n")
				switch {
				case err == nil:
					acks.Add(1)
				case outcome(t, err):
					unknown.Add(1)
				}
			}
		})
		proxy.Heal()
		n, err := redis.Int64(r.Do("GET", "n"))
		require.NoError(t, err)
		t.Logf("%d acknowledged, %d unknown, %d counted, %+v", acks.Load(), unknown.Load(), n, s.Stats())
		assert.GreaterOrEqual(t, n, acks.Load())
		assert.LessOrEqual(t, n, acks.Load()+unknown.Load())
		if rate == 0 {
			assert.EqualValues(t, 32*60, n)
			assert.Zero(t, unknown.Load())
		}
	}
}

// TestForgottenScriptOnALostConnection closes the connection after a NOSCRIPT
// reply: the commands before the script have run, so the call must not be sent
// again.
func TestForgottenScriptOnALostConnection(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "INCR":
			return ":1\r\n"
		case "EVAL":
			return "+OK\r\n"
		}
		return "-NOSCRIPT No matching script.\r\n" + hangUp
	})
	s := openShared(t, redigo.Config{Address: server.addr})
	p := driver.NewPipeline(0)
	p.Script(setScript, 1).Key("k").String("v") // sent as its source, and known from now on
	require.NoError(t, s.Do(t.Context(), p))
	p.Free()
	together(8, func(g int) {
		for i := range 10 {
			p := driver.NewPipeline(0)
			add(p, "INCR", fmt.Sprintf("n%d-%d", g, i))
			p.Script(setScript, 1).Key("k").String("v")
			if err := s.Do(context.Background(), p); err != nil {
				outcome(t, err)
			}
			p.Free()
		}
	})
	seen := map[string]int{}
	for _, line := range server.commands() {
		if strings.HasPrefix(line, "INCR") {
			seen[line]++
			assert.Equal(t, 1, seen[line], line)
		}
	}
}

// TestHeartbeat answers heartbeats with replies to other commands: the
// connection is closed, although every call got a plausible reply.
func TestHeartbeat(t *testing.T) {
	for name, c := range map[string]struct {
		reply   string
		desyncs int64
	}{
		"right":    {"", 0},
		"wrong":    {bulk("another"), 1},
		"a status": {"+PONG\r\n", 1},
		"no right": {"-NOPERM no\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var beats atomic.Int64
			server := serveAll(t, func(_ int, cmd []string) string {
				switch {
				case len(cmd) == 1:
					return "+PONG\r\n"
				case cmd[0] != "PING":
					return bulk(cmd[1])
				case beats.Add(1) == 1 && c.reply != "":
					return c.reply
				}
				return bulk(cmd[1])
			})
			s := openShared(t, redigo.Config{Address: server.addr})
			require.Eventually(t, func() bool {
				word := strconv.Itoa(rand.Int())
				got, err := run(s, driver.ReadOnly, "ECHO", word)
				require.NoError(t, err)
				require.Equal(t, bulk(word), got)
				return beats.Load() >= 2
			}, patience, 10*time.Millisecond)
			settled(t, s)
			assert.Equal(t, c.desyncs, s.Stats().Desyncs)
			assert.Equal(t, c.desyncs+1, s.Stats().Dials)
		})
	}
}

// TestMuxSilence makes one call after the other on a server that never replies:
// no call is lost with a connection that was closed because of earlier calls.
func TestMuxSilence(t *testing.T) {
	t.Parallel()
	const timeout = 50 * time.Millisecond
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: timeout})
	for range 20 {
		r.Resume()
		ping(t, s)
		r.Pause()
		for range 2 {
			start := time.Now()
			_, err := run(s, 0, "SET", "k", "v")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Greater(t, time.Since(start), timeout/2)
		}
	}
	r.Resume()
}
