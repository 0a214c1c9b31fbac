package redigo

import (
	"errors"
	"os"
	"time"
)

// listenAfter is the time from the begin of a lone call to that of the next
// from which that one looks first whether the connection is still what it was.
// Over a network every call is later than that, and the look costs a hundredth
// of its round trip.
const listenAfter = 100 * time.Microsecond

// alone is the way of a caller that nobody else is with: it writes and reads for
// itself, without a hop to another goroutine. It is entered with mu held and
// leaves it free. Its error is the call's own, which then has its end; without
// one the call still waits for its slot.
func (m *mux) serveLone(c *call) error {
	m.reading, m.phase = true, writing
	rest, err := m.write(c)
	switch {
	case err != nil:
		m.wake <- struct{}{}
		m.writeFailed(rest, err)
		return nil
	case m.unsent > 0:
		// Others have come. The role goes before their commands do: a server
		// that waits for its replies to be taken would keep us in the write.
		m.wake <- struct{}{}
		m.flush(c)
		return nil
	}
	m.phase = idle
	if !c.ticket.waits() {
		m.wake <- struct{}{} // our time was up in the write
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

// readAlone ends the reader's role of a lone caller, whose reading ended by err.
// It is entered with mu held and leaves it free.
func (m *mux) readAlone(err error) error {
	switch {
	case m.dead != nil:
		m.mu.Unlock()
		return nil // our slot says why; what the reading ran into then means nothing
	case err != nil && !m.resume(err):
		culprit := m.culprit(err)
		m.fail(err, culprit)
		if culprit == nil && isFinal(err) {
			// More came than was asked for, behind our own reply: which of the
			// two is the wrong one is not known.
			return err
		}
		return nil
	case m.flight() > 0:
		m.wake <- struct{}{} // for others, or for our own after an interruption
	default:
		m.reading = false
	}
	m.mu.Unlock()
	return nil
}

// readFor reads until t is settled.
func (m *mux) readFor(t ticket) error {
	for t.waits() {
		if _, err := m.read(); err != nil {
			return err
		}
	}
	return nil
}

// stale reports whether the server has closed the connection, or has said
// something that nobody asked for, while nothing was under way. It costs a
// system call, so a caller that follows another closely does without.
//
// Where the reader goroutine listens it hears the same, but perhaps later than
// this call writes. It may miss the byte that stale takes: the connection then
// has its end. Called with mu held, by a caller that has queued its commands.
func (m *mux) stale(c *call) bool {
	if m.flight() > 1 {
		return false // what comes may well be asked for
	}
	before := m.lastLone
	m.lastLone = c.begun
	return c.begun-before >= listenAfter && m.conn.check() != nil
}

// resume reports whether err is only the watchdog's interruption of a read, and
// makes the connection readable again. It is called with mu held, after reader
// was taken back: the watchdog sets no other deadline.
func (m *mux) resume(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || m.dead != nil {
		return false
	}
	_ = m.conn.nc.SetReadDeadline(time.Time{})
	return true
}
