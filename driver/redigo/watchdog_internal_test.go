package redigo

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// muxTo returns a store's connection to a server that is the other end of a pipe.
func muxTo(t *testing.T, timeout time.Duration, server func(net.Conn)) (*Store, *mux) {
	t.Helper()
	s, err := Open(Config{Address: "127.0.0.1:1", Timeout: timeout})
	require.NoError(t, err)
	s.starved = time.Hour
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

// TestSilenceBeginsWithTheCall has the watchdog look late: the silence of a
// server is counted from the call on that it does not answer, and not from the
// first look. Else the connection would end after that call has, and under the
// next one.
func TestSilenceBeginsWithTheCall(t *testing.T) {
	const timeout, stall = 200 * time.Millisecond, 150 * time.Millisecond
	s, m := muxTo(t, timeout, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	start := time.Now()
	ended := make(chan error)
	go func() {
		p := driver.NewPipeline(0)
		defer p.Free()
		p.CmdKey("INCR", "", "n")
		ended <- s.Do(context.Background(), p)
	}()
	for underWay := false; !underWay; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		underWay = m.flight() == 1 && m.state == idle
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
