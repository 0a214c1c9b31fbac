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
	// maxFlight bounds the calls under way on one connection; beyond it a call
	// fails at once, instead of waiting in our memory for an outage to end.
	maxFlight = 4096
	// maxUnwritten bounds the bytes of commands that no write has finished
	// with, for the same reason.
	maxUnwritten = 64 << 20
	// maxShared is the size of commands from which a call takes a connection
	// for itself: on a shared one it would keep the others waiting.
	maxShared = 1 << 20
)

// A mux is one connection that many calls share: their commands go out
// together, and the replies come back in the same order.
//
// Four things hold at any time, and all else follows from them:
//
//   - The order of queue is the order of out, because a call appends to both
//     under one hold of mu: the n-th reply is the n-th slot's.
//   - One goroutine at most writes (state says so), and one at most reads
//     (reading says so): redigo's contract for a connection, "one concurrent
//     caller to the Receive method and one concurrent caller to the Send and
//     Flush methods", is kept for the net.Conn that it dialled.
//   - A slot is settled once, by whoever changes its state first: the reader,
//     the watchdog, fail, or the caller that goes away.
//   - After any error of a read, a write or the framing the connection is
//     dead: nothing is queued, written or read there again. An interruption by
//     the watchdog is no error: it loses no byte.
//
// The methods are in the files of what they do: flush.go writes, lone.go serves
// a caller that nobody else is with, intake.go reads.
type mux struct {
	s    *Store
	lane *lane
	conn *conn

	mu          sync.Mutex
	out         []byte  // commands that no write has taken yet
	spare       []byte  // the buffer of the write before
	unwritten   int     // bytes of out, and of the write under way
	commands    int64   // in out
	queued      int64   // calls so far
	uncounted   int64   // those of them that are not in the statistics yet
	queue       []entry // calls that the reader has not begun with
	taken       []entry // those that it has; it alone changes them, under mu
	unsent      int     // the last so many of queue are in out
	phase       phase
	epoch       uint64        // of the flush: who has yielded sees whether others took over
	peak        int           // calls under way at once, lately
	starvedOnce bool          // the last yield found no processor
	lastLone    time.Duration // the begin of the last lone call, after base
	reader      *call         // whose goroutine is in a read of the connection
	writer      *call         // whose goroutine is in a write of it
	dead        error         // why nothing goes here any more

	reading bool          // somebody has the reader's role
	wake    chan struct{} // hands it to the reader goroutine; one role, one token
	gone    chan struct{} // closed by fail

	replied   atomic.Int64 // calls so far whose replies have come
	answering atomic.Bool  // replies have come whose calls are not answered yet
	retired   atomic.Bool  // the server is a master no longer: new calls go elsewhere
	heard     atomic.Int64 // when the last bytes came, nanoseconds after base; zero before any
	in        intake       // touched by who has the reader's role

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
	errFull      = fmt.Errorf("%d calls are under way on the connection", maxFlight)
	errUnwritten = fmt.Errorf("%d MiB of commands wait to be written on the connection", maxUnwritten>>20)
)

// submit is a call's way through: it queues the commands, sees to it that they
// are written and that somebody reads, and waits.
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
	case m.flight() == 1: // nobody to wait for
		m.ensureReader()
		m.flush(c)
	default:
		m.ensureReader()
		m.yield(c)
	}
	return nil
}

// push queues a call, or turns it away. It leaves with mu held unless it
// returns an error.
func (m *mux) push(c *call, frames []byte, n int) error {
	if c.ticket.slot == nil {
		c.ticket.slot = newSlot()
	}
	c.ticket = c.ticket.slot.ticket()
	m.mu.Lock()
	if err := m.mayQueue(len(frames)); err != nil {
		return m.refuse(c, err)
	}
	// A connection that has worked may have been lost for a reason of its own;
	// another one may then do better at once.
	c.wrote, c.reused = true, m.heard.Load() != 0
	if !c.counted {
		c.counted = true
		m.uncounted++
	}
	m.enqueue(&entry{c.ticket, c.begun, c.deadline, int32(n), false}, frames)
	return nil
}

// flight returns the number of calls whose replies have not come. It is called
// with mu held.
func (m *mux) flight() int { return int(m.queued - m.replied.Load()) }

// countCalls tells the store of calls, many at once: a counter that each call
// changed for itself would go from processor to processor with every one. It is
// called with mu held.
func (m *mux) countCalls() {
	m.s.stats.calls.Add(m.uncounted)
	m.uncounted = 0
}

// join is the way of a call that finds somebody at the writing: what it has
// queued goes along. It is entered with mu held and leaves it free.
func (m *mux) join(c *call) {
	m.ensureReader()
	if m.phase == yielding && m.unsent >= leastBatch && m.unsent*3 >= m.peak {
		// Enough for one write: waiting for all would leave the server idle
		// meanwhile. A third keeps both sides busy.
		m.epoch++
		m.flush(c)
		return
	}
	m.mu.Unlock()
}

// room returns why a call must be turned away, nil where it need not. It is
// called with mu held.
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

// refuse turns a call away. It is entered with mu held and leaves it free.
func (m *mux) refuse(c *call, err error) error {
	c.reused = m.dead != nil // another connection may do better
	m.mu.Unlock()
	if !c.reused {
		m.s.stats.refused.Add(1)
	}
	// The cause may say of its own call that it is final, and the context that
	// ended there is not this call's.
	if err == errFull {
		return fmt.Errorf("%w: %w: %v", driver.ErrUnavailable, driver.ErrBusy, err)
	}
	return fmt.Errorf("%w: %v", driver.ErrUnavailable, err)
}

// enqueue puts an entry and its commands in order. It is called with mu held.
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

// ensureReader gives the reader's role to the goroutine if nobody has it. What
// is queued must have a reader before it is written: a caller that finds the
// state not idle leaves the reading to others, and those may just have stopped.
// It is called with mu held, on a connection that is not dead.
func (m *mux) ensureReader() {
	if !m.reading {
		m.reading = true
		m.wake <- struct{}{} // cap 1: there is one role, so there is room
	}
}

// wait waits for the replies, or for the caller's end. A call without replies
// leaves its slot behind, for the reader.
func (m *mux) wait(c *call) error {
	if ended := c.Done(); ended != nil {
		return m.waitUntil(c, ended)
	}
	<-c.ticket.slot.done
	return c.result()
}

// waitUntil is wait with an end. It is apart for the sake of the others: many
// stacks are many lines of the processor's cache.
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

// told returns what a call has been told.
func (c *call) result() error {
	err := c.ticket.err()
	if err != nil {
		c.ticket.slot = nil
	}
	return err
}

// fail makes an end of the connection: newcomers are turned away first, then
// the socket is closed, then everybody who waits is told. culprit, if it is not
// nil, is the call whose reply was the reason. fail is entered with mu held and
// leaves it free.
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
	m.s.states.note(driver.Disconnected, reason) // before anybody can dial again
	close(m.gone)
	m.watchdog.stop()
	_ = m.conn.sock.Close()
	all := append(append([]entry{}, m.taken...), m.queue...)
	sent := len(all) - m.unsent
	m.countCalls()
	// A reader may be in the middle of what has come: it finds nobody further.
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

// outcomes returns what the end of a connection means for calls whose commands
// may have been sent and for those whose were not.
func outcomes(err error) (lost, unsent error) {
	if isFinal(err) {
		// Whose reply it was is told that; the others know no more than that
		// theirs will not come.
		return fmt.Errorf("%w: the connection was given up over the reply to another call", driver.ErrUnknownOutcome),
			fmt.Errorf("%w: the connection was given up over the reply to another call", driver.ErrUnavailable)
	}
	return fmt.Errorf("%w: the connection was lost: %w", driver.ErrUnknownOutcome, err), unavailable(err)
}

// drainTime is how long Close waits for the calls under way.
const drainTime = 5 * time.Second

// drain waits until end for the calls under way, and ends the connection.
func (m *mux) drain(end time.Time) {
	m.mu.Lock()
	for (m.flight() > 0 || m.answering.Load()) && m.dead == nil && time.Now().Before(end) {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	m.fail(errClosed, nil)
}
