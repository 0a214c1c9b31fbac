package redigo_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func poolOf(t testing.TB, addr string) *redis.Pool {
	t.Helper()
	p := &redis.Pool{
		MaxIdle: 16,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", addr)
		},
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestFromPoolStore(t *testing.T) {
	r := testutil.Redis(t, nil)
	pool := poolOf(t, r.Addr())
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		_, err := r.Do("FLUSHALL")
		require.NoError(t, err)
		return redigo.FromPool(pool, redigo.PoolOptions{Timeout: patience})
	})
}

// TestFromPoolLeavesThePool checks that the pool works after Close.
func TestFromPoolLeavesThePool(t *testing.T) {
	r := testutil.Redis(t, nil)
	pool := poolOf(t, r.Addr())
	s := redigo.FromPool(pool, redigo.PoolOptions{})
	assert.Equal(t, "redis (a pool)", s.String())
	must(t, s, "SET", "k", "v")
	assert.Equal(t, 1, pool.IdleCount())
	require.NoError(t, s.Close())
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	c := pool.Get()
	defer func() { _ = c.Close() }()
	v, err := redis.String(c.Do("GET", "k"))
	require.NoError(t, err)
	assert.Equal(t, "v", v)
}

func TestFromPoolRepliesOfEachKind(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := redigo.FromPool(poolOf(t, r.Addr()), redigo.PoolOptions{Timeout: patience})
	must(t, s, "SET", "k", "v")
	for script, want := range map[string]string{
		`return 1`:                           ":1\r\n",
		`return 'a'`:                         bulk("a"),
		`return redis.status_reply('FINE')`:  "+FINE\r\n",
		`return redis.error_reply('MY bad')`: "-MY bad\r\n",
		`return nil`:                         "$-1\r\n",
		`return {}`:                          "*0\r\n",
		`return {1, {'a', redis.error_reply('E x')}}`: "*2\r\n:1\r\n*2\r\n" + bulk("a") + "-E x\r\n",
	} {
		assert.Equal(t, want, must(t, s, "EVAL", script, "0"), script)
	}
}

func TestFromPoolStats(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := redigo.FromPool(poolOf(t, r.Addr()), redigo.PoolOptions{Timeout: patience})
	must(t, s, "SET", "k", "v")
	assert.Equal(t, redigo.Stats{Calls: 1, BytesIn: 5, BytesOut: 27}, s.Stats())
}

func TestFromPoolLargePipeline(t *testing.T) {
	echo := serve(t, func(_ int, cmd []string) string { return bulk(cmd[1]) })
	s := redigo.FromPool(poolOf(t, echo.addr), redigo.PoolOptions{Timeout: patience})
	value := bytes.Repeat([]byte("x"), 10<<10)
	p := driver.NewPipeline(0)
	defer p.Free()
	const n = 200
	for range n {
		p.Cmd("ECHO").Bytes(value)
	}
	require.NoError(t, s.Do(t.Context(), p))
	for range n {
		b, _, err := p.Next().Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, b))
	}
}

func TestFromPoolUnavailable(t *testing.T) {
	fault := errors.New("no way")
	failing := &redis.Pool{Dial: func() (redis.Conn, error) { return nil, fault }}
	s := redigo.FromPool(failing, redigo.PoolOptions{})
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, fault)

	r := testutil.Redis(t, nil)
	full := poolOf(t, r.Addr())
	full.MaxActive = 1
	held := full.Get()
	defer func() { _ = held.Close() }()
	s = redigo.FromPool(full, redigo.PoolOptions{})
	_, err = run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, redis.ErrPoolExhausted)

	waiting := poolOf(t, r.Addr())
	waiting.MaxActive, waiting.Wait = 1, true
	heldToo := waiting.Get()
	defer func() { _ = heldToo.Close() }()
	s = redigo.FromPool(waiting, redigo.PoolOptions{Timeout: 30 * time.Millisecond})
	_, err = run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestFromPoolLosses ends a call in every way. The pool must never hand out a
// connection with a reply outstanding.
func TestFromPoolLosses(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	pool := poolOf(t, proxy.Addr())
	s := redigo.FromPool(pool, redigo.PoolOptions{Timeout: 50 * time.Millisecond})
	patient := redigo.FromPool(pool, redigo.PoolOptions{Timeout: patience})
	must(t, patient, "PING")

	proxy.DropReplies(true)
	_, err := run(s, 0, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = runCtx(ctx, patient, 0, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)

	proxy.Heal()
	assert.Equal(t, bulk("x"), must(t, patient, "ECHO", "x"))
	proxy.CutReply(3)
	_, err = run(patient, 0, "ECHO", "long enough")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	proxy.Heal()
	assert.Equal(t, bulk("y"), must(t, patient, "ECHO", "y"))

	proxy.KillAll()
	require.Eventually(t, func() bool { return proxy.Conns() == 0 }, patience, time.Millisecond)
	got, err := run(patient, driver.ReadOnly, "ECHO", "z")
	require.NoError(t, err, "reads are sent again")
	assert.Equal(t, bulk("z"), got)
}

// TestFromPoolBrokenConnection gets a broken connection from the pool.
func TestFromPoolBrokenConnection(t *testing.T) {
	fault := errors.New("broken before")
	pool := &redis.Pool{Dial: func() (redis.Conn, error) { return brokenConn{err: fault}, nil }}
	s := redigo.FromPool(pool, redigo.PoolOptions{})
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, fault)
}

type brokenConn struct {
	redis.Conn
	err error
}

func (c brokenConn) Err() error                     { return c.err }
func (c brokenConn) Close() error                   { return nil }
func (c brokenConn) Do(string, ...any) (any, error) { return nil, c.err }

func TestFromPoolScripts(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := redigo.FromPool(poolOf(t, r.Addr()), redigo.PoolOptions{Timeout: patience})
	for _, value := range []string{"a", "b"} {
		scripts(t, s, 0, value)
		_, err := r.Do("SCRIPT", "FLUSH")
		require.NoError(t, err)
		scripts(t, s, 0, strings.ToUpper(value))
	}
}

func TestFromPoolPanics(t *testing.T) {
	assert.Panics(t, func() { redigo.FromPool(nil, redigo.PoolOptions{}) })
	assert.Panics(t, func() { redigo.FromPool(&redis.Pool{}, redigo.PoolOptions{Timeout: -1}) })
}
