package redigo

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// muxTo returns a store's connection to a server at the other end of a pipe.
func muxTo(t *testing.T, timeout time.Duration, server func(net.Conn)) (*Store, *mux) {
	t.Helper()
	s, err := Open(Config{Address: "127.0.0.1:1", Timeout: timeout})
	require.NoError(t, err)
	s.starvedYield = time.Hour
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		server(theirs)
	}()
	m := newMux(&s.lanes[0], &conn{nc: ours, sock: ours})
	s.lanes[0].cur.Store(m)
	t.Cleanup(func() {
		m.mu.Lock()
		m.fail(errClosed, nil)
		require.NoError(t, s.Close())
		<-served
	})
	return s, m
}

// begin starts a call that is not repeatable, and returns a channel for its
// error.
func begin(ctx context.Context, s *Store, name string, args ...string) (ended chan error) {
	ended = make(chan error, 1)
	go func() {
		p := driver.NewPipeline(0)
		defer p.Free()
		p.Cmd(name)
		for _, arg := range args {
			p.String(arg)
		}
		ended <- s.Do(ctx, p)
	}()
	return ended
}

// TestSilenceBeginsWithTheCall delays the watchdog's look: the silence of a
// server counts from the begin of the unanswered call, and not from the first
// look. Otherwise the connection would end too late, during the next call.
func TestSilenceBeginsWithTheCall(t *testing.T) {
	const timeout, stall = time.Second, 800 * time.Millisecond
	s, m := muxTo(t, timeout, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	start := time.Now()
	ended := begin(context.Background(), s, "INCR", "n")
	for underWay := false; !underWay; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		underWay = m.flight() == 1 && m.phase == idle
		m.mu.Unlock()
	}
	m.mu.Lock()
	time.Sleep(stall)
	m.mu.Unlock()
	err := <-ended
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.GreaterOrEqual(t, time.Since(start), timeout)
	<-m.gone
	assert.Less(t, time.Since(start), timeout+stall-2*tick)
}

// TestInterruptedWriteIsResumed lets a caller's time end during its write: the
// rest of its command is still written, and then the commands of others.
func TestInterruptedWriteIsResumed(t *testing.T) {
	large := strings.Repeat("x", 1000)
	goOn, stuck := make(chan struct{}), make(chan struct{})
	s, _ := muxTo(t, time.Minute, func(nc net.Conn) {
		some := make([]byte, 100)
		_, _ = io.ReadFull(nc, some)
		close(stuck)
		<-goOn
		in := bufio.NewReader(io.MultiReader(bytes.NewReader(some), nc))
		for _, want := range []string{"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n" + large + "\r\n", "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"} {
			got := make([]byte, len(want))
			_, err := io.ReadFull(in, got)
			assert.NoError(t, err)
			assert.Equal(t, want, string(got))
		}
		_, _ = io.WriteString(nc, "+OK\r\n:1\r\n")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	late := begin(ctx, s, "SET", "k", large)
	<-stuck
	next := begin(t.Context(), s, "INCR", "n")
	err := <-late
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(goOn)
	require.NoError(t, <-next)
}

// TestUnsentIsKnown loses a connection during a write: the outcome of the call
// in the write is unknown, and the call behind it certainly has not run.
func TestUnsentIsKnown(t *testing.T) {
	lose, stuck := make(chan struct{}), make(chan struct{})
	s, m := muxTo(t, time.Minute, func(nc net.Conn) {
		_, _ = io.ReadFull(nc, make([]byte, 10))
		close(stuck)
		<-lose
		_ = nc.Close()
	})
	first := begin(t.Context(), s, "INCR", "n")
	<-stuck
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // repeated until the deadline, since nothing listens
	defer cancel()
	second := begin(ctx, s, "INCR", "n")
	for behind := false; !behind; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		behind = m.unsent == 1
		m.mu.Unlock()
	}
	close(lose)
	require.ErrorIs(t, <-first, driver.ErrUnknownOutcome)
	err := <-second
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.NotErrorIs(t, err, driver.ErrUnknownOutcome)
}

// TestLostUnderAWrite loses a connection before its current write has written
// anything. fail has settled the calls, so the write must not count them as
// unsent: a reader with replies left would look for them in an empty queue.
func TestLostUnderAWrite(t *testing.T) {
	lost := make(chan struct{})
	s, m := muxTo(t, time.Minute, func(nc net.Conn) {
		<-lost // a pipe accepts nothing until it is read from
	})
	ended := begin(t.Context(), s, "INCR", "n")
	inWrite := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.writer != nil
	}
	for !inWrite() {
		time.Sleep(time.Millisecond)
	}
	m.mu.Lock()
	m.fail(io.ErrUnexpectedEOF, nil)
	close(lost)
	require.ErrorIs(t, <-ended, driver.ErrUnknownOutcome)
	for inWrite() {
		time.Sleep(time.Millisecond)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.Zero(t, m.unsent)
	assert.NotPanics(t, m.take)
}

// TestSilenceWhileAnswersCome calls silence repeatedly beside a reader that
// counts replies without the lock.
func TestSilenceWhileAnswersCome(t *testing.T) {
	incr := len("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
	s, m := muxTo(t, time.Minute, func(nc net.Conn) {
		for got := make([]byte, incr); ; {
			if _, err := io.ReadFull(nc, got); err != nil {
				return
			}
			if _, err := io.WriteString(nc, ":1\r\n"); err != nil {
				return
			}
		}
	})
	m.mu.Lock()
	m.watchdog.lastBeat = time.Since(base) + time.Hour // no PING: it has another size
	m.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 5000 {
			if err := <-begin(context.Background(), s, "INCR", "n"); !assert.NoError(t, err) {
				return
			}
		}
	}()
	for looks := 0; ; looks++ {
		select {
		case <-ended:
			t.Logf("%d looks", looks)
			return
		default:
			look(m)
		}
	}
}

func look(m *mux) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silence(time.Since(base))
}

// TestShortTimeout ends a lone call early by its context: that says nothing
// about the connection, however short the store's own timeout is.
func TestShortTimeout(t *testing.T) {
	const timeout = 2 * tick
	for seen, tries := 0, 0; seen < 3; tries++ {
		require.Less(t, tries, 100, "the machine is too slow for this")
		s, m := muxTo(t, timeout, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		require.ErrorIs(t, <-begin(ctx, s, "INCR", "n"), context.DeadlineExceeded)
		cancel()
		dead := m.isDead()
		if time.Since(start) < timeout*3/4 { // otherwise the connection may be dead
			seen++
			assert.False(t, dead)
		}
	}
}

// TestCallsThatHaveEnded checks that calls abandoned behind a stuck write are
// counted as calls.
func TestCallsThatHaveEnded(t *testing.T) {
	s, m := muxTo(t, time.Minute, func(nc net.Conn) { _, _ = nc.Read(make([]byte, 1)) })
	first := begin(t.Context(), s, "INCR", "n")
	for stuck := false; !stuck; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		stuck = m.phase == writing
		m.mu.Unlock()
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		require.ErrorIs(t, <-begin(ctx, s, "INCR", "n"), context.DeadlineExceeded)
		cancel()
	}
	stats := s.Stats()
	assert.EqualValues(t, 4, stats.Calls)
	assert.EqualValues(t, 3, stats.Errors)
	assert.EqualValues(t, 3, stats.Abandoned)
	m.mu.Lock()
	m.fail(io.ErrUnexpectedEOF, nil)
	require.Error(t, <-first)
	assert.EqualValues(t, 4, s.Stats().Calls)
}

// TestKeptCallHoldsNothing checks that a Pipeline that outlives its Store does
// not keep it in memory.
func TestKeptCallHoldsNothing(t *testing.T) {
	s, m := muxTo(t, time.Second, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	m.mu.Lock()
	m.unwritten = maxUnwritten // refuses every call
	m.mu.Unlock()
	p := driver.NewPipeline(0)
	defer p.Free()
	p.CmdKey("INCR", "", "n")
	pending := s.Start(t.Context(), p)
	require.NoError(t, s.Close())
	require.Error(t, pending.Finish())
	c := (*repliesOf(p).Kept()).(*call)
	assert.Nil(t, c.shared.m)
	assert.Nil(t, c.s)
}

// TestHugeTimeout uses the longest timeout there is, as if there were none.
func TestHugeTimeout(t *testing.T) {
	s, _ := muxTo(t, math.MaxInt64, func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 100))
		time.Sleep(4 * tick)
		_, _ = io.WriteString(nc, ":1\r\n")
	})
	require.NoError(t, <-begin(t.Context(), s, "INCR", "n"))
}

// TestLooksWhenTimeIsUp checks that the watchdog looks when the first call's
// time is up, and that later calls do not postpone that.
func TestLooksWhenTimeIsUp(t *testing.T) {
	_, m := muxTo(t, time.Second, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(base)
	after := func(begun, deadline time.Duration) time.Duration {
		m.watchdog.arm(&entry{begun: now + begun, deadline: now + deadline})
		return m.watchdog.next - now
	}
	assert.Equal(t, tick, after(0, time.Second))
	assert.Equal(t, 2*leastWait, after(leastWait/2, 2*leastWait))
	assert.Equal(t, 2*leastWait, after(leastWait, time.Second))
	assert.Equal(t, 2*leastWait, after(3*leastWait/2, 7*leastWait/4), "sooner than it would look again")
	assert.Equal(t, leastWait, after(0, leastWait/2), "no sooner than leastWait")
}
