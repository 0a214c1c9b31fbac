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
	// tripAt is the number of consecutive failures that opens the breaker.
	tripAt = 3
	// An open breaker allows the next dial after firstRest, then after twice as long,
	// up to lastRest. A server's return is noticed at most that late.
	firstRest = 50 * time.Millisecond
	lastRest  = 400 * time.Millisecond
)

// A lane holds one shared connection and replaces it when it dies. All calls that
// wait for a connection share one dial. Repeated failures open the breaker:
//
//	breaker   failures           a call without a connection
//	closed    less than tripAt   dials, or joins the dial in progress
//	open      tripAt or more     fails until retryAt, then dials
//
// A successful dial and Drop set failures to 0. A lane is ready once s is set.
type lane struct {
	s   *Store
	cur atomic.Pointer[mux]

	mu       sync.Mutex
	pending  *dialing // the dial in progress, if any
	failures int      // consecutive
	retryAt  time.Time
	lastErr  error // the last failure
}

// A dialing is one dial, for which any number of calls may wait.
type dialing struct {
	done chan struct{}
	m    *mux  // read after done is closed
	err  error // as is err
}

// get returns the connection, dialing if necessary. A dial that the call joins late
// may time out before the call does; the call then spends its remaining time on one
// more dial.
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

// await waits for the dial in progress, or begins one.
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
		return nil, joined, fmt.Errorf("dialing %s: %w", l.s.address, context.DeadlineExceeded)
	case <-c.Done():
		return nil, joined, c.Err()
	}
}

// live returns the current connection, or nil if it cannot take calls.
func (l *lane) live() *mux {
	if m := l.cur.Load(); m != nil && !m.isDead() && !m.retired.Load() {
		return m
	}
	return nil
}

// dial joins the dial in progress or begins one. A dial does not depend on the call
// that began it: if that call gives up, others still wait.
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
		// %v: the cause is another call's, so it must not cause a retry of this one.
		return nil, false, fmt.Errorf("%w, and will be tried again soon; the last failure: %v", errOpen, l.lastErr)
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
	for err == nil && era.ended() { // drop came after the dial and did not find this connection
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
		if !isTemporary(err) { // a full or loading server does answer
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

// connect dials, and notes Connected before the connection can be lost. It then
// closes the retired connection, whose waiting calls will get no reply.
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
	l.failures = 0 // under mu with note: a late countSilence must not open the breaker
	l.s.states.note(driver.Connected, nil)
	l.mu.Unlock()
	l.s.states.tell()
	return conn, era, nil
}

// failed counts a failure, and notes the state if it opens the breaker. The caller
// holds mu.
func (l *lane) failed(err error) {
	l.failures++
	l.lastErr = err
	rest := min(firstRest<<min(max(l.failures-tripAt, 0), 10), lastRest)
	l.retryAt = time.Now().Add(rest/2 + rand.N(rest/2))
	if l.failures == tripAt {
		l.s.states.note(driver.Resting, err)
	}
}

// countSilence counts a connection that was closed because its server was silent.
// If the server does not answer the next dials either, the breaker opens sooner.
func (l *lane) countSilence(err error) {
	l.mu.Lock()
	l.failed(err)
	l.mu.Unlock()
	l.s.states.tell()
}

// close waits until end for the calls in progress and closes the connection. The
// Store's context has ended, so no further dial succeeds.
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

// A shared is a lane's connection as the link of one call.
type shared struct {
	m     *mux
	c     *call // the call whose slot holds the replies; nil before
	early bool  // mux.start has begun the exchange
	known bool  // the exchange is over …
	err   error // … with this result
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

func (l *shared) reuse(buf []byte) {
	if cap(buf) > keepBuffer {
		buf = nil
	}
	l.c.ticket.slot.buf = buf
}

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
		// The replies were well-formed, but not replies to these commands.
		m.mu.Lock()
		m.fail(err, nil)
	}
	return c.classify(err)
}
