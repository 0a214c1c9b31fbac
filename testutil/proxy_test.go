package testutil_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// echoServer sends every byte back.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

func dial(t *testing.T, p *testutil.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo sends s and returns the bytes that come back and the error that ended
// them.
func echo(c net.Conn, s string) (string, error) {
	if _, err := io.WriteString(c, s); err != nil {
		return "", err
	}
	b := make([]byte, len(s))
	n, err := io.ReadFull(c, b)
	return string(b[:n]), err
}

func TestProxyPasses(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	a, b := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{a, b} {
		got, err := echo(c, strings.Repeat("hello", 10_000))
		require.NoError(t, err)
		assert.Len(t, got, 50_000)
	}
	assert.Equal(t, 2, p.Conns())
	require.NoError(t, a.Close())
	assert.Eventually(t, func() bool { return p.Conns() == 1 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 2, p.Accepted())
}

func TestProxyCuts(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	open := dial(t, p)
	_, err := echo(open, "before")
	require.NoError(t, err)
	p.CutReply(3)
	for _, c := range []net.Conn{open, dial(t, p)} {
		got, err := echo(c, "hello")
		assert.Equal(t, "hel", got)
		assert.Error(t, err)
	}
	p.Heal()
	p.CutRequest(2)
	got, err := echo(dial(t, p), "hello")
	assert.Contains(t, "he", got, "bytes that arrived may come back")
	require.Error(t, err)
	p.Heal()
	got, err = echo(dial(t, p), "hello")
	require.NoError(t, err)
	assert.Equal(t, "hello", got)
}

func TestProxyDropsAndDelays(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	c := dial(t, p)
	p.DropReplies(true)
	require.NoError(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := echo(c, "lost")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	other := dial(t, p) // lost nothing
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, "on the broken one")
	require.NoError(t, err, "no error until the fault ends")
	p.DropReplies(false)
	_, err = io.ReadAll(c)
	require.ErrorIs(t, err, syscall.ECONNRESET)

	c = other
	p.Delay(30 * time.Millisecond)
	start := time.Now()
	got, err := echo(c, "late")
	require.NoError(t, err)
	assert.Equal(t, "late", got)
	assert.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)
}

func TestProxyEndsWhileDelaying(t *testing.T) {
	t.Run("inner", func(t *testing.T) {
		p := testutil.NewProxy(t, echoServer(t))
		c := dial(t, p)
		p.Delay(time.Hour)
		_, err := io.WriteString(c, "x")
		require.NoError(t, err)
	})
}

func TestProxySlices(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	p.Slice(true)
	got, err := echo(dial(t, p), strings.Repeat("ab", 500))
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("ab", 500), got)
}

func TestProxyBandwidth(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	c := dial(t, p)
	p.Bandwidth(100_000)
	word := strings.Repeat("x", 10_000)
	start := time.Now()
	got, err := echo(c, word)
	require.NoError(t, err)
	assert.Equal(t, word, got)
	assert.GreaterOrEqual(t, time.Since(start), 90*time.Millisecond, "all but the last portion on the way back")

	p.Bandwidth(1)
	returned := make(chan string)
	go func() {
		got, _ := echo(c, word)
		returned <- got
	}()
	p.Heal()
	assert.Equal(t, word, <-returned, "at one byte a second this would take hours")
}

// TestProxyStalls writes until the buffers between writer and reader are full.
// After the stall it gets everything back.
func TestProxyStalls(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	c := dial(t, p)
	_, err := echo(c, "before")
	require.NoError(t, err)
	p.Stall(true)
	word, sent := make([]byte, 64<<20), 0
	for sent == 0 { // a stalled machine may let a deadline pass before anything is written
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		sent, err = c.Write(word)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	p.Stall(true) // neither starts another stall nor ends this one
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "nothing passes")
	p.Stall(false)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	got, err := io.CopyN(io.Discard, c, int64(sent))
	require.NoError(t, err)
	assert.EqualValues(t, sent, got)
}

func TestProxyEndsWhileStalled(t *testing.T) {
	t.Run("inner", func(t *testing.T) {
		p := testutil.NewProxy(t, echoServer(t))
		c := dial(t, p)
		p.Stall(true)
		_, err := io.WriteString(c, "x")
		require.NoError(t, err)
	})
}

func TestProxyBreaksOff(t *testing.T) {
	p := testutil.NewProxy(t, echoServer(t))
	for _, c := range []struct {
		how  func()
		want error
	}{
		{p.Reset, syscall.ECONNRESET},
		{p.KillAll, io.EOF},
	} {
		conn := dial(t, p)
		_, err := echo(conn, "x")
		require.NoError(t, err)
		c.how()
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, c.want)
		assert.Eventually(t, func() bool { return p.Conns() == 0 }, 10*time.Second, time.Millisecond)
	}
	p.Refuse(true)
	require.Error(t, dialAndEcho(p))
	p.Refuse(false)
	_, err := echo(dial(t, p), "x")
	require.NoError(t, err)
}

func TestProxyWithoutServer(t *testing.T) {
	p := testutil.NewProxy(t, "/nowhere/redis.sock")
	require.Error(t, dialAndEcho(p))
	assert.Zero(t, p.Accepted())
}

// dialAndEcho returns the error of a proxy that refuses: of the dial or of the
// echo.
func dialAndEcho(p *testutil.Proxy) error {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = echo(c, "x")
	return err
}

// TestProxyRate checks that about the given share of connections is cut, and
// the same share for the same seed.
func TestProxyRate(t *testing.T) {
	const seed, rounds = 42, 200
	t.Logf("seed %d", seed)
	p := testutil.NewProxy(t, echoServer(t))
	count := func() (cut int) {
		p.Rate(0.25, seed)
		for range rounds {
			c := dial(t, p)
			if got, err := echo(c, "x"); err != nil {
				assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "%q", got)
				cut++
			}
			_ = c.Close()
		}
		return cut
	}
	first := count()
	assert.InDelta(t, rounds/4, first, rounds/8)
	assert.Equal(t, first, count())
}
