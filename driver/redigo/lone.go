package redigo

import (
	"errors"
	"os"
	"time"
)

// A lone call checks the connection before it writes, unless the previous one began
// less than listenAfter before. Over a network every call does, and the check costs
// a hundredth of its round trip.
const listenAfter = 100 * time.Microsecond

// serveLone writes and reads in the caller's goroutine, without a hand-over to
// another. It releases mu, which the caller holds. If it returns an error the call
// is over; otherwise the call still waits for its slot.
func (m *mux) serveLone(c *call) error {
	m.reading, m.phase = true, writing
	rest, err := m.write(c)
	switch {
	case err != nil:
		m.wake <- struct{}{}
		m.writeFailed(rest, err)
		return nil
	case m.unsent > 0:
		// Other calls have come. Give up the reader's role before writing their commands:
		// a server that takes no more until its replies are read would block this
		// goroutine in the write.
		m.wake <- struct{}{}
		m.flush(c)
		return nil
	}
	m.phase = idle
	if !c.ticket.waits() {
		m.wake <- struct{}{} // the call was out of time during the write
		m.mu.Unlock()
		return nil
	}
	m.reader = c
	m.mu.Unlock()
	err = m.readFor(c.ticket)
	m.mu.Lock()
	m.reader = nil
	return m.readAlone(err)
}

// readAlone gives up the reader's role of a lone caller, whose reading ended with
// err. It releases mu, which the caller holds.
func (m *mux) readAlone(err error) error {
	switch {
	case m.dead != nil:
		m.mu.Unlock()
		return nil // the slot has the reason; err is only a consequence of it
	case err != nil && !m.resume(err):
		culprit := m.culprit(err)
		m.fail(err, culprit)
		if culprit == nil && isFinal(err) {
			// There were bytes after the call's own reply. Which of the two is wrong is not
			// known, so the call fails too.
			return err
		}
		return nil
	case m.flight() > 0:
		m.wake <- struct{}{} // for other calls, or for this one after an interruption
	default:
		m.reading = false
	}
	m.mu.Unlock()
	return nil
}

func (m *mux) readFor(t ticket) error {
	for t.waits() {
		if _, err := m.read(); err != nil {
			return err
		}
	}
	return nil
}

// stale reports whether the server has closed the connection, or has sent
// unsolicited bytes, while no call was in progress. The check costs a system call,
// so a call that closely follows another skips it.
//
// If the reader goroutine has the role it notices the same, but perhaps only after
// this call's write. It may miss the byte that stale reads; the connection is
// closed then anyway. stale is called with mu held, by a caller that has queued its
// commands.
func (m *mux) stale(c *call) bool {
	if m.flight() > 1 {
		return false // incoming bytes may be another call's replies
	}
	before := m.lastLone
	m.lastLone = c.begun
	return c.begun-before >= listenAfter && m.conn.check() != nil
}

// resume reports whether err is only the watchdog's interruption of a read, and
// makes the connection readable again. It is called with mu held, after reader was
// cleared: the watchdog then sets no other deadline.
func (m *mux) resume(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || m.dead != nil {
		return false
	}
	_ = m.conn.nc.SetReadDeadline(time.Time{})
	return true
}
