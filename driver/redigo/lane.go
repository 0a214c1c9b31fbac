package redigo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// tripAt is how many failures in a row open the breaker.
	tripAt = 3
	// While it is open, a server is tried again after firstRest, then after
	// twice as long, up to lastRest: so late may a server's return be seen.
	firstRest = 50 * time.Millisecond
	lastRest  = 400 * time.Millisecond
)

// A lane is the way to one shared connection: it dials the next one when a
// connection has died, one dial at a time for all who wait, and none while the
// breaker is open. The zero lane with its store is ready.
type lane struct {
	s   *Store
	cur atomic.Pointer[mux]

	mu       sync.Mutex
	pending  *dialing // the dial under way
	failures int      // in a row
	retryAt  time.Time
	lastErr  error // the failure
}

// A dialing is one dial that any number of calls wait for.
type dialing struct {
	done chan struct{}
	m    *mux  // read after done is closed
	err  error // so is this
}

// get returns the connection, dialled if need be. Who joins a dial that then runs
// out of time has waited for the end of another's: what it has left itself, it
// has for the next one.
func (l *lane) get(c *call) (*mux, error) {
	if m := l.live(); m != nil {
		return m, nil
	}
	m, joined, err := l.await(c)
	if joined && errors.Is(c.because(err), context.DeadlineExceeded) && c.Err() == nil && c.left() > 0 {
		m, _, err = l.await(c)
	}
	return m, err
}

// await waits for the dial under way, or for one of its own.
func (l *lane) await(c *call) (m *mux, joined bool, err error) {
	d, joined, err := l.dial()
	if err != nil {
		return nil, joined, err
	}
	timer := time.NewTimer(c.left())
	defer timer.Stop()
	select {
	case <-d.done:
		return d.m, joined, d.err
	case <-timer.C:
		return nil, joined, fmt.Errorf("dialling %s: %w", l.s.address, context.DeadlineExceeded)
	case <-c.Done():
		return nil, joined, c.Err()
	}
}

// live returns the connection if there is one.
func (l *lane) live() *mux {
	if m := l.cur.Load(); m != nil && !m.isDead() && !m.retired.Load() {
		return m
	}
	return nil
}

// dial joins the dial under way or begins one. The dial is nobody's in
// particular: a caller that goes away must not end it for the others.
func (l *lane) dial() (d *dialing, joined bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending != nil {
		return l.pending, true, nil
	}
	if m := l.live(); m != nil {
		return &dialing{done: closedChan, m: m}, true, nil
	}
	if l.failures >= tripAt && time.Now().Before(l.retryAt) {
		l.s.stats.refused.Add(1)
		// %v: the cause is not this call's, and nothing is to be retried for it.
		return nil, false, fmt.Errorf("%w; it is tried again soon: %v", errOpen, l.lastErr)
	}
	l.pending = &dialing{done: make(chan struct{})}
	go l.run(l.pending)
	return l.pending, false, nil
}

var (
	errOpen    = errors.New("the server failed repeatedly")
	closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
)

func (l *lane) run(d *dialing) {
	conn, era, err := l.connect()
	l.mu.Lock()
	for err == nil && era.ended() { // after the dial: drop has not found it here
		l.mu.Unlock()
		_ = conn.Close()
		l.s.states.noteAndTell(driver.Disconnected, context.Cause(era.ctx))
		conn, era, err = l.connect()
		l.mu.Lock()
	}
	l.pending = nil
	switch {
	case err != nil:
		d.err = err
		if !isTemporary(err) { // one that is full or loading answers: it is not broken
			l.failed(err)
		}
	default:
		l.s.stats.dials.Add(1)
		conn.ready(l.s)
		d.m = newMux(l, conn)
		l.cur.Store(d.m)
	}
	l.mu.Unlock()
	close(d.done)
	l.s.states.tell()
}

// connect dials, and tells of it before the connection can be lost. One that was
// retired ends then: calls that have no answer there do not get one any more.
func (l *lane) connect() (*conn, *era, error) {
	conn, era, err := l.s.connect(l.s.ctx)
	if err != nil {
		return nil, nil, err
	}
	if m := l.cur.Load(); m != nil && m.retired.Load() {
		m.mu.Lock()
		m.fail(errDemoted, nil)
	}
	l.mu.Lock()
	l.failures = 0 // a silence that is counted late must not open the breaker
	l.s.states.note(driver.Connected, nil)
	l.mu.Unlock()
	l.s.states.tell()
	return conn, era, nil
}

// failed counts a failure, and notes the one that opens the breaker. It is called
// with mu held.
func (l *lane) failed(err error) {
	l.failures++
	l.lastErr = err
	rest := min(firstRest<<min(max(l.failures-tripAt, 0), 10), lastRest)
	l.retryAt = time.Now().Add(rest/2 + rand.N(rest/2))
	if l.failures == tripAt {
		l.s.states.note(driver.Resting, err)
	}
}

// silence counts a connection that was given up because nothing came. If the
// server answers no greeting either, the breaker opens the sooner for it.
func (l *lane) countSilence(err error) {
	l.mu.Lock()
	l.failed(err)
	l.mu.Unlock()
	l.s.states.tell()
}

// close waits until end for the calls under way, and ends the connection. The
// store's context has ended, so no dial succeeds any more.
func (l *lane) close(end time.Time) {
	l.mu.Lock()
	pending := l.pending
	l.mu.Unlock()
	if pending != nil {
		<-pending.done
	}
	if m := l.cur.Load(); m != nil {
		m.drain(end)
	}
}

// shared is a lane's connection as the link of one call.
type shared struct {
	m     *mux
	c     *call // once it has replies there
	early bool  // an exchange was begun already
	known bool  // it has ended, by …
	err   error // … this error, or well
}

func (l *shared) exchange(c *call, frames []byte, n int) ([]byte, error) {
	err := l.err
	switch {
	case l.known:
	case l.early:
		err = l.m.wait(c)
	default:
		c.begun = time.Since(base)
		err = l.m.submit(c, frames, n)
	}
	l.early, l.known, l.err = false, false, nil
	if err != nil {
		return nil, err
	}
	l.c = c
	c.errs = c.errs || c.ticket.slot.errs
	return c.ticket.slot.buf, nil
}

// reuse gives the slot a buffer for the next replies.
func (l *shared) reuse(buf []byte) {
	if cap(buf) > keepBuffer {
		buf = nil
	}
	l.c.ticket.slot.buf = buf
}

// share makes an attempt on the lane's connection.
func (c *call) share(l *lane) error {
	m, err := l.get(c)
	if err != nil {
		return unavailable(c.because(err))
	}
	return c.serveShared(m)
}

func (c *call) serveShared(m *mux) error {
	c.shared.m = m
	err := c.serve(&c.shared)
	c.shared = shared{}
	if c.demoted() {
		m.retired.Store(true)
	}
	if errors.Is(err, driver.ErrProtocol) {
		// The replies were well formed, but not to these commands.
		m.mu.Lock()
		m.fail(err, nil)
	}
	return c.classify(err)
}
