package redigo

import (
	"errors"
	"os"
	"runtime"
	"time"
)

const (
	// starvedYield is how long a yield takes if no processor is free: half of the time
	// a spinning goroutine runs before it is preempted. A yield in which many callers
	// run may take as long.
	starvedYield = 5 * time.Millisecond
	// busyCalls separates the two cases: if at least so many calls come per
	// starvedYield, running callers have used the time. They bring one every few tens
	// of microseconds; callers behind spinning goroutines bring one per time slice.
	busyCalls = 75
	// poolFor is how long calls use the pool once processors are found to be short.
	poolFor = 500 * time.Millisecond
	// leastBatch is the least number of calls written without waiting for more.
	leastBatch = 3
	// keepOut is the largest write buffer that a connection keeps.
	keepOut = 1 << 20
)

// yield lets other ready callers append their commands, once, and then writes all
// of them: this is how commands come to travel together. A timer would delay lone
// callers as well. It releases mu, which the caller holds.
func (m *mux) yield(c *call) {
	m.phase = yielding
	m.epoch++
	epoch, before := m.epoch, m.queued
	m.mu.Unlock()
	start := time.Since(base)
	runtime.Gosched()
	now := time.Since(base)
	m.mu.Lock()
	m.noteYield(now, now-start, int(m.queued-before))
	if m.epoch != epoch || m.phase != yielding || m.dead != nil {
		m.mu.Unlock() // another goroutine has written, or is about to
		return
	}
	m.flush(c)
}

// noteYield records how long a yield took and how many calls came meanwhile. One
// yield without a free processor may be chance; after two in a row calls use the
// pool. The caller holds mu.
func (m *mux) noteYield(now, took time.Duration, calls int) {
	if took <= m.s.starvedYield || time.Duration(calls)*m.s.starvedYield >= took*busyCalls {
		m.starvedOnce = false
		return
	}
	if m.starvedOnce {
		m.s.poolUntil.Store(int64(now + poolFor))
	}
	m.starvedOnce = true
}

// flush takes the writer's role, unless the caller has it, and writes queued
// commands until none are left. It releases mu, which the caller holds. c is the
// call of this goroutine, or nil for relieve and the watchdog.
//
// A caller writes for others only while it waits itself. Once its call is answered
// or out of time, relieve continues in a new goroutine.
func (m *mux) flush(c *call) {
	m.phase = writing
	for m.unsent > 0 && m.dead == nil {
		if c != nil && (!c.ticket.waits() || c.Context.Err() != nil) {
			go m.relieve(nil)
			m.mu.Unlock()
			return
		}
		if rest, err := m.write(c); err != nil {
			m.writeFailed(rest, err)
			return
		}
		if 0 < m.unsent && m.unsent*3 < m.peak && m.dead == nil {
			m.mu.Unlock()
			runtime.Gosched()
			m.mu.Lock()
		}
	}
	m.phase = idle
	m.mu.Unlock()
}

// relieve continues a flush in place of a caller. rest is the end of an interrupted
// write, and may begin inside a command. phase stays writing meanwhile.
func (m *mux) relieve(rest []byte) {
	if len(rest) > 0 {
		n, err := m.conn.nc.Write(rest)
		m.s.stats.out.Add(int64(n))
		if err != nil {
			m.mu.Lock()
			m.fail(err, nil)
			return
		}
	}
	m.mu.Lock()
	m.unwritten -= len(rest)
	m.flush(nil)
}

// write takes the queued commands and writes them, with mu released meanwhile.
// After an error it returns the unwritten rest.
func (m *mux) write(c *call) (rest []byte, err error) {
	buf, calls := m.out, m.unsent
	m.s.stats.writes.Add(1)
	m.s.stats.commands.Add(m.commands)
	m.countCalls()
	m.out, m.spare, m.unsent, m.commands = m.spare[:0], nil, 0, 0
	m.writer = c
	m.watchdog.stuck = 0
	m.mu.Unlock()
	n, err := m.conn.nc.Write(buf)
	m.s.stats.out.Add(int64(n))
	m.mu.Lock()
	m.writer = nil
	m.unwritten -= n
	if err == nil && m.watchdog.stuck > 0 { // the watchdog set a deadline that came too late to interrupt it
		_ = m.conn.nc.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil && cap(buf) <= keepOut:
		m.spare = buf
	case n == 0 && m.dead == nil && !m.mayResume(err):
		// Nothing was sent, so the calls of this write are unsent again. They are in
		// queue, directly before the calls queued since. On a dead connection queue is
		// empty, and fail has settled them.
		m.unsent += calls
	}
	return buf[n:], err
}

// mayResume reports whether a write that failed with err can continue with the
// unwritten rest. A TLS connection cannot: an interrupted write leaves it unusable.
func (m *mux) mayResume(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && m.dead == nil && !m.conn.secure
}

// writeFailed ends a flush after a failed write. If the watchdog interrupted it,
// because its caller was out of time, relieve writes the rest. writeFailed releases
// mu, which the caller holds.
func (m *mux) writeFailed(rest []byte, err error) {
	if !m.mayResume(err) {
		m.fail(err, nil)
		return
	}
	// Under mu, and after writer was cleared: the watchdog sets no other deadline.
	_ = m.conn.nc.SetWriteDeadline(time.Time{})
	m.ensureReader()
	go m.relieve(rest)
	m.mu.Unlock()
}
