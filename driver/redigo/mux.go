package redigo

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// maxFlight bounds the calls in progress on one connection. A further call fails
	// at once; queuing it would fill memory during an outage.
	maxFlight = 4096
	// maxUnwritten bounds the bytes of commands not yet written, for the same reason.
	maxUnwritten = 64 << 20
	// maxShared is the largest size of commands on a shared connection. Larger ones
	// use a dedicated connection, so as not to delay other calls.
	maxShared = 1 << 20
)

// A mux is one connection shared by many calls. Their commands are written
// together, and the replies come back in the same order.
//
// Four invariants hold at all times:
//
//   - queue has the order of out, because a call appends to both while it holds mu.
//     So the nth reply belongs to the nth slot.
//   - At most one goroutine writes (see phase), and at most one reads (see
//     reading). redigo allows a connection "one concurrent caller to the Receive
//     method and one concurrent caller to the Send and Flush methods"; this keeps
//     that contract for the net.Conn.
//   - A slot is settled once, by the first to change its state: the reader, the
//     watchdog, fail, or a caller that gives up.
//   - After any error of a read, a write or the framing the connection is dead:
//     nothing is queued, written or read on it again. An interruption by the
//     watchdog is not an error, because no byte is lost.
//
// The writer's role, and a new call that finds it so:
//
//	phase     writer                          new call
//	idle      none                            takes the role
//	yielding  a caller, after its yield       joins, or writes for all
//	writing   a caller, relieve, watchdog     joins: the writer takes it along
//
// The reader's role:
//
//	reading   reader   role
//	false     nil      free: a lone caller takes it, or ensureReader gives it away
//	true      a call   with that call's goroutine (lone.go)
//	true      nil      with the reader goroutine, or on its way there (intake.go)
//
// The connection itself:
//
//	live      retired and dead are not set   serves calls
//	retired   retired is set                 serves the calls in progress only
//	dead      dead is set                    refuses calls; fail has ended the rest
type mux struct {
	s    *Store
	lane *lane
	conn *conn

	mu          sync.Mutex
	out         []byte  // commands not yet taken by a write
	spare       []byte  // the buffer of the previous write
	unwritten   int     // bytes of out, and of the write in progress
	commands    int64   // in out
	queued      int64   // calls so far
	uncounted   int64   // the part of queued not yet in the statistics
	queue       []entry // calls that the reader has not taken
	taken       []entry // calls that it has; only the reader changes it, under mu
	unsent      int     // how many calls at the end of queue are still in out
	phase       phase
	epoch       uint64        // counts yields, and writes that take their place; see yield
	peak        int           // most calls in progress at once, recently
	starvedOnce bool          // the last yield was short of processors
	lastLone    time.Duration // when the last lone call began, after base
	reader      *call         // the call whose goroutine is reading
	writer      *call         // the call whose goroutine is writing
	dead        error         // why the connection is dead; nil while it is live

	reading bool          // the reader's role is taken
	wake    chan struct{} // hands the role to the reader goroutine; one role, so at most one token
	gone    chan struct{} // closed by fail

	replied   atomic.Int64 // calls so far whose replies have come
	answering atomic.Bool  // replies have come, but their calls are not answered yet
	retired   atomic.Bool  // the server is no longer a master: new calls go elsewhere
	heard     atomic.Int64 // when the last bytes came, nanoseconds after base; zero before the first
	in        intake       // touched only with the reader's role

	watchdog watchdog
}

type phase uint8

const (
	idle     phase = iota
	yielding       // a caller lets others append before it writes
	writing
)

func newMux(l *lane, c *conn) *mux {
	m := &mux{s: l.s, lane: l, conn: c, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	m.in.init(l.s.limits)
	m.watchdog.init(m)
	go m.run()
	return m
}

func (m *mux) isDead() bool {
	select {
	case <-m.gone:
		return true
	default:
		return false
	}
}

var (
	errFull      = fmt.Errorf("%d calls are in progress on the connection", maxFlight)
	errUnwritten = fmt.Errorf("%d MiB of commands are waiting to be written to the connection", maxUnwritten>>20)
)

// submit makes a whole exchange: it queues the commands, ensures that they are
// written and that the replies are read, and waits for these.
func (m *mux) submit(c *call, frames []byte, n int) error {
	if err := m.push(c, frames, n); err != nil {
		return err
	}
	switch {
	case m.phase != idle:
		m.join(c)
	case m.stale(c):
		m.fail(errStale, nil) // nothing of this call was written
	case !m.reading && len(frames) <= writeAhead:
		if err := m.serveLone(c); err != nil {
			c.ticket.slot = nil
			return err
		}
	default:
		m.ensureReader()
		m.yield(c)
	}
	return m.wait(c)
}

// start is submit without the waiting, and so without the reading.
func (m *mux) start(c *call, frames []byte, n int) error {
	if err := m.push(c, frames, n); err != nil {
		return err
	}
	switch {
	case m.phase != idle:
		m.join(c)
	case m.stale(c):
		m.fail(errStale, nil)
	case m.flight() == 1: // no other call to wait for
		m.ensureReader()
		m.flush(c)
	default:
		m.ensureReader()
		m.yield(c)
	}
	return nil
}

// push queues a call and returns with mu held, or refuses it with an error.
func (m *mux) push(c *call, frames []byte, n int) error {
	if c.ticket.slot == nil {
		c.ticket.slot = newSlot()
	}
	c.ticket = c.ticket.slot.ticket()
	m.mu.Lock()
	if err := m.mayQueue(len(frames)); err != nil {
		return m.refuse(c, err)
	}
	// A connection that has served calls may be lost for a reason of its own. A new
	// one may then work at once.
	c.wrote, c.reused = true, m.heard.Load() != 0
	if !c.counted {
		c.counted = true
		m.uncounted++
	}
	m.enqueue(&entry{c.ticket, c.begun, c.deadline, int32(n), false}, frames)
	return nil
}

// flight returns the number of calls still without replies. The caller holds mu.
func (m *mux) flight() int { return int(m.queued - m.replied.Load()) }

// countCalls adds new calls to the Store's count, many at once: a counter that each
// call changed would move between processors with every call. The caller holds mu.
func (m *mux) countCalls() {
	m.s.stats.calls.Add(m.uncounted)
	m.uncounted = 0
}

// join leaves the writing of a queued call to the current writer, unless enough
// calls have gathered to write them now. It releases mu, which the caller holds.
func (m *mux) join(c *call) {
	m.ensureReader()
	if m.phase == yielding && m.unsent >= leastBatch && m.unsent*3 >= m.peak {
		// Enough for one write: waiting for all would leave the server idle meanwhile. A
		// third keeps both sides busy.
		m.epoch++
		m.flush(c)
		return
	}
	m.mu.Unlock()
}

// mayQueue returns why a call of so many bytes must be refused, or nil. The caller
// holds mu.
func (m *mux) mayQueue(frames int) error {
	switch {
	case m.dead != nil:
		return m.dead
	case m.flight() >= maxFlight:
		return errFull
	case m.unwritten+frames > maxUnwritten:
		return errUnwritten
	}
	return nil
}

// refuse returns the error of a refused call. It releases mu, which the caller
// holds.
func (m *mux) refuse(c *call, err error) error {
	c.reused = m.dead != nil // another connection may work
	m.mu.Unlock()
	if !c.reused {
		m.s.stats.refused.Add(1)
	}
	// The cause is not wrapped: it may be final for another call, or wrap the error of
	// another call's context.
	if err == errFull {
		return fmt.Errorf("%w: %w: %v", driver.ErrUnavailable, driver.ErrBusy, err)
	}
	return fmt.Errorf("%w: %v", driver.ErrUnavailable, err)
}

// enqueue appends an entry to queue and its commands to out. The caller holds mu.
func (m *mux) enqueue(e *entry, frames []byte) {
	m.out = append(m.out, frames...)
	m.unwritten += len(frames)
	m.commands += int64(e.n)
	m.queued++
	m.queue = append(m.queue, *e)
	m.unsent++
	m.peak = max(m.peak, m.flight())
	m.watchdog.arm(e)
}

// ensureReader gives the reader's role to the reader goroutine if it is free. It
// must be called before queued commands are written by another goroutine: the
// current reader may just have stopped. The caller holds mu and has seen that dead
// is nil.
func (m *mux) ensureReader() {
	if !m.reading {
		m.reading = true
		m.wake <- struct{}{} // never blocks: capacity 1, and there is one role
	}
}

// wait waits for the replies or the end of the caller's context. A call that ends
// without replies leaves its slot to the reader.
func (m *mux) wait(c *call) error {
	if ended := c.Done(); ended != nil {
		return m.waitUntil(c, ended)
	}
	<-c.ticket.slot.done
	return c.result()
}

// waitUntil is wait for a context that can end. It is a separate function to keep
// wait's stack frame small: many stacks fill the processor's cache.
func (m *mux) waitUntil(c *call, ended <-chan struct{}) error {
	t := c.ticket
	select {
	case <-t.slot.done:
	case <-ended:
		if t.settle(abandoned) {
			m.s.stats.abandoned.Add(1)
			c.ticket.slot = nil
			return c.Err()
		}
		<-t.slot.done
	}
	return c.result()
}

// result returns the error with which the ticket was settled, if any.
func (c *call) result() error {
	err := c.ticket.err()
	if err != nil {
		c.ticket.slot = nil
	}
	return err
}

// fail closes the connection: first new calls are refused, then the socket is
// closed, then waiting calls get their errors. culprit, if not nil, is the call
// whose reply caused err. fail releases mu, which the caller holds.
func (m *mux) fail(err error, culprit *entry) {
	if m.dead != nil {
		m.mu.Unlock()
		return
	}
	m.dead = err
	reason := err
	if err == errClosed {
		reason = nil
	}
	m.s.states.note(driver.Disconnected, reason) // before a new dial can note Connected
	close(m.gone)
	m.watchdog.stop()
	_ = m.conn.sock.Close()
	all := append(append([]entry{}, m.taken...), m.queue...)
	sent := len(all) - m.unsent
	m.countCalls()
	// The reader may still deliver the replies in its buffer. It finds no further
	// calls in queue; taken is left to it.
	m.out, m.spare, m.queue, m.unsent = nil, nil, nil, 0
	m.mu.Unlock()
	if errors.Is(err, driver.ErrProtocol) {
		m.s.stats.desyncs.Add(1)
	}
	if culprit != nil {
		culprit.fail(err)
	}
	lost, unsent := outcomes(err)
	for i, e := range all {
		if i < sent {
			e.fail(lost)
		} else {
			e.fail(unsent)
		}
	}
	m.s.states.tell()
}

// outcomes returns the errors that calls get when the connection ends: lost if
// their commands may have been sent, unsent if not.
func outcomes(err error) (lost, unsent error) {
	if isFinal(err) {
		// Only the call with the bad reply gets err. The others merely miss a reply.
		return fmt.Errorf("%w: the connection was closed because of a bad reply to another call", driver.ErrUnknownOutcome),
			fmt.Errorf("%w: the connection was closed because of a bad reply to another call", driver.ErrUnavailable)
	}
	return fmt.Errorf("%w: the connection was lost: %w", driver.ErrUnknownOutcome, err), unavailable(err)
}

// drainTime is how long Close waits for calls in progress.
const drainTime = 5 * time.Second

// drain waits until end for the calls in progress, and closes the connection.
func (m *mux) drain(end time.Time) {
	m.mu.Lock()
	for (m.flight() > 0 || m.answering.Load()) && m.dead == nil && time.Now().Before(end) {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	m.fail(errClosed, nil)
}
