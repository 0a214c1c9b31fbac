package redigo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// tick is the longest time between two looks while calls are in progress. A
	// canceled call whose goroutine is in a read or a write ends at most this late.
	tick = 5 * time.Millisecond
	// leastWait is the shortest time between two looks. A call whose deadline has
	// passed ends at most this late.
	leastWait = time.Millisecond
	// quietTicks is how many ticks a connection must be idle before the reader
	// goroutine gets the reader's role, to notice when the server closes it.
	quietTicks = 20
	// stuckFor is how much time a write over TLS gets after its caller's deadline.
	stuckFor = 5 * time.Millisecond
)

var errSilent = errors.New("the server did not answer in time")

// A watchdog enforces the deadlines of one connection's calls, so that no call
// needs a timer of its own, and checks the connection itself. Its looks:
//
//	calls in progress           at the next deadline, at least every tick
//	idle for quietTicks looks   every tick
//	then for idleBeats looks    every beatEvery, each with a heartbeat
//	then                        none, until arm
type watchdog struct {
	m     *mux
	timer *time.Timer

	// Guarded by m.mu:
	armed     bool
	slow      bool          // the looks are beatEvery apart
	idleLooks int           // consecutive looks without a call in progress
	stuck     time.Duration // first look at which the current write was overdue; zero: it is not
	next      time.Duration // time of the next look
	soonest   time.Duration // no call's deadline is earlier
	lastBeat  time.Duration // time of the last heartbeat
	beats     uint64        // heartbeats so far
}

func (w *watchdog) init(m *mux) {
	w.m = m
	w.soonest = never
	w.lastBeat = time.Since(base)
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
}

// arm schedules a look for e's deadline. The caller holds mu.
func (w *watchdog) arm(e *entry) {
	w.soonest = min(w.soonest, e.deadline)
	w.idleLooks = 0
	// The look may only become earlier: a stream of calls must not postpone it.
	if !w.armed || w.slow || max(e.deadline, e.begun+leastWait) < w.next {
		w.armed, w.slow = true, false
		w.lookAgain(e.begun)
	}
}

// lookAgain schedules the next look. The caller holds mu.
func (w *watchdog) lookAgain(now time.Duration) {
	after := min(max(w.soonest-now, leastWait), tick)
	w.next = now + after
	w.timer.Reset(after)
}

func (w *watchdog) stop() {
	w.armed, w.slow, w.next = true, false, 0 // arm then does nothing
	w.timer.Stop()
}

// look ends the calls whose time is up, and the connection if it is silent.
func (w *watchdog) look() {
	m := w.m
	m.mu.Lock()
	if m.dead != nil {
		m.mu.Unlock()
		return
	}
	now := time.Since(base)
	expired := w.expire(now)
	w.interrupt(now)
	patience := m.s.timeout
	if expired {
		// The last bytes may have come shortly after the expired call began, so that the
		// silence is a little shorter than its timeout. If the connection lived on for
		// the difference, calls that begin meanwhile would be lost long before their own
		// deadlines.
		patience -= min(2*tick, patience/4)
	}
	if m.silence(now) >= patience {
		m.fail(fmt.Errorf("%w: %w", errSilent, context.DeadlineExceeded), nil)
		m.lane.countSilence(errSilent)
		return
	}
	w.reschedule(now)
	if w.beat(now) {
		return // beat has released mu
	}
	m.mu.Unlock()
}

// expire fails waiting calls whose deadline has passed, and reports whether any
// had.
func (w *watchdog) expire(now time.Duration) bool {
	if now < w.soonest {
		return false
	}
	err := fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, context.DeadlineExceeded)
	w.soonest = never
	expired := false
	for _, entries := range [...][]entry{w.m.taken, w.m.queue} {
		for i := range entries {
			next, over := entries[i].expire(now, err)
			w.soonest = min(w.soonest, next)
			expired = expired || over
			if over && !entries[i].beat {
				w.m.s.stats.abandoned.Add(1)
			}
		}
	}
	return expired
}

// interrupt sets a past deadline on a read or write whose caller is out of time.
// reader and writer change under mu, and an interrupted caller clears the deadline
// under mu. If a read ends by itself just then, the deadline stays: the next reader
// is interrupted, clears it and continues. A write clears it itself, see mux.write.
func (w *watchdog) interrupt(now time.Duration) {
	m := w.m
	if m.reader.over(now) {
		_ = m.conn.nc.SetReadDeadline(longAgo)
	}
	if !m.writer.over(now) {
		w.stuck = 0
		return
	}
	if w.stuck == 0 {
		w.stuck = now
	}
	// Interrupting a write ends a TLS connection. So it is done there only if the
	// write has been stuck for a while, on a server that reads nothing.
	if !m.conn.secure || now-w.stuck >= stuckFor {
		_ = m.conn.nc.SetWriteDeadline(longAgo)
	}
}

// silence returns how long the server has owed a reply without sending a byte: the
// time since the last bytes, or since the oldest unanswered call began if that is
// later. After a whole timeout look closes the connection, whose other end may be
// gone. silence is called with mu held.
func (m *mux) silence(now time.Duration) time.Duration {
	replied := m.replied.Load() // once: the reader changes it without mu
	if replied == m.queued {
		return 0
	}
	all := int64(len(m.taken) + len(m.queue))
	at := int(replied - (m.queued - all)) // index in taken followed by queue
	waits, before := m.taken, 0
	if at >= len(m.taken) {
		waits, before = m.queue, len(m.taken)
	}
	return now - max(waits[at-before].begun, time.Duration(m.heard.Load()))
}

// reschedule schedules the next look, if any, as the table of watchdog says.
func (w *watchdog) reschedule(now time.Duration) {
	m := w.m
	if m.flight() > 0 {
		w.slow = false
		w.lookAgain(now)
		return
	}
	w.soonest = never
	switch w.idleLooks++; {
	case w.idleLooks <= quietTicks:
		w.lookAgain(now)
	case w.idleLooks <= quietTicks+idleBeats:
		m.ensureReader()
		w.slow = true
		w.timer.Reset(max(beatEvery-(now-w.lastBeat), tick))
	default:
		w.armed, w.slow = false, false
	}
}
