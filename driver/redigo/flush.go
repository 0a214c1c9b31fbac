package redigo

import (
	"errors"
	"os"
	"runtime"
	"time"
)

const (
	// starved is how long a yield takes when there is no processor for us: half
	// of what a spinning goroutine gets before it is preempted. One in which
	// many callers have run may take as long.
	starvedYield = 5 * time.Millisecond
	// fedBy is how many calls must have come in such a time if it was theirs:
	// goroutines that follow each other, and work in between, bring one in some
	// tens of microseconds; those that wait for spinning ones bring one each.
	busyCalls = 75
	// fasting is how long calls go through the pool after that.
	poolFor = 500 * time.Millisecond
	// leastWave is how many calls are worth a write of their own while others are
	// still on their way to the same one.
	leastBatch = 3
	// keepOut is the largest write buffer that a connection keeps.
	keepOut = 1 << 20
)

// yield lets callers that are ready append their commands too, once, and then
// writes all of them: it is what makes commands travel together. A timer could
// not do it: it would make a lone caller wait, too. It is entered with mu held
// and leaves it free.
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
		m.mu.Unlock() // somebody has written meanwhile, or is about to
		return
	}
	m.flush(c)
}

// feel notes how long a yield took, and how many calls came in that time. Two
// in a row without a processor are no accident. It is called with mu held.
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

// flush writes what is queued, until nothing is. It is entered with mu held, by
// who found nobody writing, and leaves it free. c is the call whose goroutine
// this is, nil for a goroutine of our own.
//
// A caller writes for others only as long as it would wait anyway: once it has
// its answer, or its time is up, a goroutine goes on in its place.
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

// relieve goes on with a flush in place of a caller: first with rest, the end
// of a write that was interrupted, which may begin in the middle of somebody's
// command. The state is writing from the one to the other.
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

// write takes what is queued and writes it, with mu released meanwhile. rest is
// what an error has left.
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
	if err == nil && m.watchdog.stuck > 0 { // it was just coming out by itself
		_ = m.conn.nc.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil && cap(buf) <= keepOut:
		m.spare = buf
	case n == 0 && m.dead == nil && !m.mayResume(err):
		// The calls of this write are as good as never taken. They are the
		// last of the queue but for those that have come since. On a dead
		// connection there is no queue any more: fail has told them.
		m.unsent += calls
	}
	return buf[n:], err
}

// mayResume reports whether a write that ended in err can go on where it
// ended. TLS has no way to: what it has begun to encrypt it cannot take back.
func (m *mux) mayResume(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && m.dead == nil && !m.conn.secure
}

// writeFailed ends a flush whose write did. Where the watchdog interrupted it,
// because its caller's time is up, a goroutine writes the rest. It is entered
// with mu held and leaves it free.
func (m *mux) writeFailed(rest []byte, err error) {
	if !m.mayResume(err) {
		m.fail(err, nil)
		return
	}
	// Under mu, and after writer was taken back: the watchdog sets no other.
	_ = m.conn.nc.SetWriteDeadline(time.Time{})
	m.ensureReader()
	go m.relieve(rest)
	m.mu.Unlock()
}
