package redigo_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
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
)

var threeKeys = driver.NewScript(`return {KEYS[1], ARGV[1], {1, 2}}`, nil)

// TestCutAtEveryByte loses the connection after each byte of a reply: the caller
// gets the whole reply or an error, never a part.
func TestCutAtEveryByte(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr()})
	value := strings.Repeat("0123456789", 10)
	must(t, s, "MSET", "a", value, "b", "x")
	must(t, s, "HSET", "h", "f", "v", "g", "w")
	for _, c := range []struct {
		name  string
		mode  driver.Mode
		build func(p *driver.Pipeline)
		wire  int // bytes on the wire
	}{
		{"GET", 0, func(p *driver.Pipeline) { p.Cmd("GET").Key("a") }, 108},
		{"MGET", 0, func(p *driver.Pipeline) { p.Cmd("MGET").Key("a").Key("none").Key("b") }, 4 + 108 + 5 + 7},
		{"HGETALL", 0, func(p *driver.Pipeline) { p.Cmd("HGETALL").Key("h") }, 4 + 4*7},
		{"EVAL", 0, func(p *driver.Pipeline) { p.Script(threeKeys, 1).Key("k").String("x") }, 4 + 7 + 7 + 4 + 4 + 4},
		{"EXEC", driver.Atomic, func(p *driver.Pipeline) { p.Cmd("GET").Key("b"); p.Cmd("EXISTS").Key("b") }, 5 + 2*9 + 4 + 7 + 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			once := func() (string, error) {
				p := driver.NewPipeline(c.mode)
				defer p.Free()
				c.build(p)
				err := s.Do(t.Context(), p)
				return string(p.Replies().Raw()), err
			}
			ping(t, s)
			want, err := once()
			require.NoError(t, err)
			for n := range c.wire + 1 {
				proxy.Heal()
				ping(t, s)
				proxy.CutReply(n)
				got, err := once()
				if n == c.wire {
					require.NoError(t, err, "all %d bytes came", n)
				}
				if err == nil {
					require.Equal(t, want, got)
					require.Equal(t, c.wire, n)
					continue
				}
				require.ErrorIs(t, err, driver.ErrUnknownOutcome, "after %d bytes", n)
				require.Empty(t, got, "after %d bytes", n)
			}
		})
		proxy.Heal()
	}
}

// TestSlicedReplies gets its replies one byte at a time.
func TestSlicedReplies(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	proxy.Slice(true)
	s := open(t, redigo.Config{Address: proxy.Addr()})
	must(t, s, "SET", "k", strings.Repeat("x", 1000))
	assert.Equal(t, bulk(strings.Repeat("x", 1000)), must(t, s, "GET", "k"))
}

func TestTimeoutAndCancel(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr(), Timeout: 100 * time.Millisecond})
	must(t, s, "PING")
	proxy.DropReplies(true)

	start := time.Now()
	_, err := run(s, 0, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the store's own timeout counts as one")
	assert.Less(t, time.Since(start), 10*time.Second)

	proxy.Heal()
	proxy.KillAll() // no real network drops bytes and delivers later ones
	ping(t, s)
	proxy.DropReplies(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = runCtx(ctx, s, 0, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestCancelInFlight cancels a call that waits for its reply. The call returns
// long before its deadline, and its late reply is dropped.
func TestCancelInFlight(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	must(t, s, "SET", "k", "mine")
	must(t, s, "SET", "other", "not mine")
	r.Pause()
	sent := s.Stats().BytesOut
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := runCtx(ctx, s, driver.ReadOnly, "GET", "other")
		done <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().BytesOut > sent }, patience, time.Millisecond)
	cancel()
	err := <-done
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	r.Resume()
	assert.Equal(t, bulk("mine"), must(t, s, "GET", "k"))
	assert.EqualValues(t, 1, s.Stats().Dials, "the connection lives on")
	assert.Zero(t, s.Stats().InFlight)
}

// TestCancelStorm cancels calls at every point, over few connections. No reply
// may reach another call.
func TestCancelStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Conns: 2})
	var all sync.WaitGroup
	var canceled atomic.Int64
	for w := range 16 {
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		all.Go(func() {
			for i := range scale(80, 200) {
				word := fmt.Sprintf("%d-%d", w, i)
				ctx, cancel := context.WithCancel(context.Background())
				timer := time.AfterFunc(time.Duration(random.IntN(400))*time.Microsecond, cancel)
				got, err := runCtx(ctx, s, 0, "ECHO", word)
				timer.Stop()
				cancel()
				if err == nil {
					assert.Equal(t, bulk(word), got)
					continue
				}
				canceled.Add(1)
				assert.ErrorIs(t, err, context.Canceled)
			}
		})
	}
	all.Wait()
	t.Logf("%d canceled, %+v", canceled.Load(), s.Stats())
	for i := range 20 {
		word := strconv.Itoa(i)
		assert.Equal(t, bulk(word), must(t, s, "ECHO", word))
	}
}

// TestRestart restarts the server while connections are idle. The next write
// succeeds, because a connection that the server has closed is not used.
func TestRestart(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	for range 5 {
		must(t, s, "SET", "k", "v")
		r.Restart()
		assert.Equal(t, ":1\r\n", must(t, s, "INCR", "n"))
	}
	r.Kill()
	_, err := run(s, 0, "INCR", "n")
	require.ErrorIs(t, err, driver.ErrUnavailable, "nothing was written")
}

// TestKillUnderLoad kills the server during calls. Every call has a definite
// outcome, and calls succeed again once the server is back.
func TestKillUnderLoad(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Timeout: time.Second})
	stop := make(chan struct{})
	var all sync.WaitGroup
	var good atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := run(s, 0, "SET", "k", "v")
				if err == nil {
					assert.Equal(t, "+OK\r\n", got)
					good.Add(1)
					continue
				}
				unknown, unavailable := errors.Is(err, driver.ErrUnknownOutcome), errors.Is(err, driver.ErrUnavailable)
				assert.True(t, unknown != unavailable, "%v", err)
			}
		})
	}
	for range 3 {
		before := good.Load()
		require.Eventually(t, func() bool { return good.Load() > before+50 }, patience, time.Millisecond)
		r.Restart()
	}
	before := good.Load()
	assert.Eventually(t, func() bool { return good.Load() > before+50 }, patience, time.Millisecond)
	close(stop)
	all.Wait()
}

// TestAtMostOnce counts increments through a proxy that breaks connections: each
// acknowledged one has run, and no other has run twice.
func TestAtMostOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr()})
	must(t, s, "PING")
	proxy.Rate(0.1, seed)
	var acks, unknown atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				switch _, err := run(s, 0, "INCR", "n"); {
				case err == nil:
					acks.Add(1)
				case errors.Is(err, driver.ErrUnknownOutcome):
					unknown.Add(1)
				default:
					assert.ErrorIs(t, err, driver.ErrUnavailable)
				}
			}
		})
	}
	all.Wait()
	n, err := redis.Int64(r.Do("GET", "n"))
	require.NoError(t, err)
	t.Logf("%d acknowledged, %d unknown, %d counted, %+v", acks.Load(), unknown.Load(), n, s.Stats())
	assert.NotZero(t, unknown.Load())
	assert.GreaterOrEqual(t, n, acks.Load())
	assert.LessOrEqual(t, n, acks.Load()+unknown.Load())
}

// hold stops the server during a call that has the only dedicated connection
// until the server continues.
func hold(t *testing.T, s *redigo.Store, r *testutil.RedisServer) (ended <-chan error) {
	t.Helper()
	_, err := run(s, driver.Own, "PING")
	require.NoError(t, err)
	r.Pause()
	before, done := s.Stats().BytesOut, make(chan error, 1)
	go func() {
		_, err := run(s, driver.Own, "SET", "k", "held")
		done <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().BytesOut > before }, patience, time.Millisecond)
	return done
}

func TestPoolExhausted(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), OwnConns: 1})
	first := hold(t, s, r)

	late, cancelLate := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelLate()
	_, err := runCtx(late, s, driver.Own, "SET", "k", "w")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "all connections are in use")

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err = runCtx(ctx, s, driver.Own, "SET", "k", "w")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)

	second := make(chan error, 1)
	go func() {
		_, err := run(s, driver.Own, "SET", "k", "second")
		second <- err
	}()
	r.Resume()
	require.NoError(t, <-first)
	require.NoError(t, <-second, "a returned connection goes to the waiting call")
	assert.EqualValues(t, 1, s.Stats().Dials)
}

func TestCloseWhileWaiting(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), OwnConns: 1})
	first := hold(t, s, r)
	calls, second := s.Stats().Calls, make(chan error, 1)
	go func() {
		_, err := run(s, driver.Own, "SET", "k", "w")
		second <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().Calls > calls }, patience, time.Millisecond)
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-second, driver.ErrUnavailable)
	r.Resume()
	require.NoError(t, <-first, "Close waits for calls in progress")
}

// hostileReplies are replies of a broken or malicious server, with the result of
// the call.
var hostileReplies = []struct {
	name, reply string
	want        error
}{
	{"huge bulk", "$536870912\r\nabc", driver.ErrTooLarge},
	{"huge array", "*100000000\r\n", driver.ErrTooLarge},
	{"deep", strings.Repeat("*1\r\n", 5000), driver.ErrTooLarge},
	{"long line", "+" + strings.Repeat("x", 16<<20), driver.ErrTooLarge},
	{"negative bulk", "$-5\r\n", driver.ErrProtocol},
	{"no CR", "$3\r\nabc\n\n", driver.ErrProtocol},
	{"RESP3 map", "%1\r\n+a\r\n+b\r\n", driver.ErrProtocol},
	{"RESP3 null", "_\r\n", driver.ErrProtocol},
	{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", driver.ErrProtocol},
	{"one reply too many", "+OK\r\n+OK\r\n", driver.ErrProtocol},
	{"announced, not sent", "$60000000\r\nabc" + hangUp, driver.ErrUnknownOutcome},
	{"half an array", "*1000000\r\n:1\r\n:2\r\n" + hangUp, driver.ErrUnknownOutcome},
	{"nothing", "", driver.ErrUnknownOutcome},
}

func TestHostileServer(t *testing.T) {
	for _, c := range hostileReplies {
		for _, mode := range []driver.Mode{0, driver.Atomic} {
			t.Run(fmt.Sprintf("%s/%d", c.name, mode), func(t *testing.T) {
				server := serve(t, func(int, []string) string { return c.reply })
				s := open(t, redigo.Config{Address: server.addr})
				before := allocated()
				_, err := run(s, mode, "GET", "k")
				grown := allocated() - before
				if mode == 0 {
					require.ErrorIs(t, err, c.want)
				}
				require.Error(t, err)
				// The test's server writes from this process, too.
				assert.Less(t, grown, uint64(8<<20+2*len(c.reply)), "memory follows the bytes received, not the length announced")
			})
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestProtocolErrorCostsTheConnection checks that nothing is sent on a
// connection after a malformed reply.
func TestProtocolErrorCostsTheConnection(t *testing.T) {
	server := serve(t, func(conn int, cmd []string) string {
		if conn == 0 {
			return "?\r\n"
		}
		return bulk(cmd[1])
	})
	s := open(t, redigo.Config{Address: server.addr})
	_, err := run(s, driver.ReadOnly, "ECHO", "a")
	require.ErrorIs(t, err, driver.ErrProtocol)
	assert.Equal(t, bulk("b"), must(t, s, "ECHO", "b"))
	assert.EqualValues(t, 2, s.Stats().Dials)
	assert.Equal(t, []string{"ECHO a", "ECHO b"}, server.commands())
}

// TestSubscriptionIsNobodysReply makes Redis send messages on a connection. Only
// the subscriber has that connection, so no other call gets a message as its
// reply.
func TestSubscriptionIsNobodysReply(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), OwnConns: 1})
	must(t, s, "PING")
	must(t, s, "SUBSCRIBE", "news")
	_, err := r.Do("PUBLISH", "news", "extra")
	require.NoError(t, err)
	for _, mode := range []driver.Mode{0, driver.Own} {
		got, err := run(s, mode, "ECHO", "b")
		require.NoError(t, err)
		assert.Equal(t, bulk("b"), got)
	}
	assert.EqualValues(t, 3, s.Stats().Dials, "shared, the subscription's, its successor")
}

// TestUnsolicitedReply sends a second reply after the first call has returned:
// the next call must not get it.
func TestUnsolicitedReply(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	returned, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for conn := range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			r := bufio.NewReader(c)
			for _, reply := range []string{"+PONG\r\n", bulk("right")} {
				if _, err := readCommand(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, reply)
			}
			if conn == 0 {
				<-returned
				_, _ = io.WriteString(c, bulk("wrong"))
			}
		}
	}()
	s := open(t, redigo.Config{Address: l.Addr().String()})
	assert.Equal(t, bulk("right"), must(t, s, "GET", "k"))
	close(returned)
	require.Eventually(t, func() bool { return s.Stats().Desyncs == 1 }, patience, time.Millisecond)
	assert.Equal(t, bulk("right"), must(t, s, "GET", "k"))
	assert.EqualValues(t, 2, s.Stats().Dials)
	<-ended
}

// TestLargeRequestLost loses the connection while 5 MB are being written: the
// call ends and releases the Pipeline.
func TestLargeRequestLost(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*testutil.Proxy){
		"request cut": func(p *testutil.Proxy) { p.CutRequest(1 << 20) },
		"reply cut":   func(p *testutil.Proxy) { p.CutReply(500) },
		"no replies":  func(p *testutil.Proxy) { p.DropReplies(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testutil.Redis(t, nil)
			proxy := testutil.NewProxy(t, r.Addr())
			s := open(t, redigo.Config{Address: proxy.Addr(), Timeout: 3 * time.Second})
			_, err := run(s, driver.Own, "PING")
			require.NoError(t, err)
			fault(proxy)
			p := driver.NewPipeline(0)
			defer p.Free()
			value := strings.Repeat("x", 10<<10)
			for range 500 {
				p.Cmd("SET").Key("k").String(value)
			}
			require.ErrorIs(t, s.Do(t.Context(), p), driver.ErrUnknownOutcome)
			p.Reset(0) // a race if a writer were still there
			p.Cmd("PING")
			proxy.Heal()
			proxy.KillAll()
			ping(t, s)
			require.NoError(t, s.Do(t.Context(), p))
		})
	}
}
