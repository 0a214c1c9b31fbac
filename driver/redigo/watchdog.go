package redigo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// tick is how often the watchdog looks at least: so late may a call end that
	// is cancelled while its goroutine is in a read or a write.
	tick = 5 * time.Millisecond
	// pause is how long it rests between two looks at least: so late may a call
	// end whose time is up.
	leastWait = time.Millisecond
	// quietTicks is how long a connection must be idle before the watchdog
	// lets the reader goroutine listen, which hears when the server closes it.
	quietTicks = 20
	// stuckFor is how long a write over TLS is given after its caller's time is
	// up.
	stuckFor = 5 * time.Millisecond
)

var errSilent = errors.New("the server has not answered in time")

// A watchdog sees to the deadlines of one connection's calls, so that no call
// has to set a timer of its own, and to the connection itself. It rests while
// nothing is under way.
type watchdog struct {
	m     *mux
	timer *time.Timer

	// Guarded by m.mu:
	armed     bool
	slow      bool          // it looks every beatEvery only
	idleLooks int           // looks in a row that saw nothing under way
	stuck     time.Duration // the first look that saw this write over its time; zero: none
	next      time.Duration // the look to come
	soonest   time.Duration // no call's deadline is before it
	lastBeat  time.Duration // the last heartbeat
	beats     uint64        // so far
}

func (w *watchdog) init(m *mux) {
	w.m = m
	w.soonest = never
	w.lastBeat = time.Since(base)
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
}

// arm makes the watchdog see to a call. It is called with mu held.
func (w *watchdog) arm(e *entry) {
	w.soonest = min(w.soonest, e.deadline)
	w.idleLooks = 0
	// Only ever sooner: else calls that keep coming would keep it from looking.
	if !w.armed || w.slow || max(e.deadline, e.begun+leastWait) < w.next {
		w.armed, w.slow = true, false
		w.lookAgain(e.begun)
	}
}

// lookAgain sets the time of the next look. It is called with mu held.
func (w *watchdog) lookAgain(now time.Duration) {
	after := min(max(w.soonest-now, leastWait), tick)
	w.next = now + after
	w.timer.Reset(after)
}

// stop ends it. It is called with mu held.
func (w *watchdog) stop() {
	w.armed, w.slow, w.next = true, false, 0 // nobody arms it again
	w.timer.Stop()
}

// look ends the calls whose time is up.
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
		// What came last may have come a little after that call. Who comes
		// between its end and the connection's would be lost with that, long
		// before its own time is up.
		patience -= min(2*tick, patience/4)
	}
	if m.silence(now) >= patience {
		m.fail(fmt.Errorf("%w: %w", errSilent, context.DeadlineExceeded), nil)
		m.lane.countSilence(errSilent)
		return
	}
	w.reschedule(now)
	if w.beat(now) {
		return // which has let go of mu
	}
	m.mu.Unlock()
}

// expire ends the calls that wait and whose time is up. It reports whether there
// was one.
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

// interrupt fetches callers out of a read or a write whose time is up. Reader
// and writer are set and taken back under mu, and who comes out clears the
// deadline under mu: none is left behind for the next one. A caller that was
// just coming out by itself leaves one, which the next reader or writer takes
// for an interruption of its own and survives.
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
	// An interrupted write is the end of a TLS connection, so there it must
	// have been stuck for a while: a server that takes nothing.
	if !m.conn.secure || now-w.stuck >= stuckFor {
		_ = m.conn.nc.SetWriteDeadline(longAgo)
	}
}

// silence returns for how long nothing has come though something should have:
// from the last bytes on, or from the begin of the call that waits longest, if
// that was later. After a whole timeout the connection is given up, for it may
// be to nowhere. It is called with mu held.
func (m *mux) silence(now time.Duration) time.Duration {
	replied := m.replied.Load() // once: the reader counts on without mu
	if replied == m.queued {
		return 0
	}
	all := int64(len(m.taken) + len(m.queue))
	at := int(replied - (m.queued - all)) // of taken and queue together
	waits, before := m.taken, 0
	if at >= len(m.taken) {
		waits, before = m.queue, len(m.taken)
	}
	return now - max(waits[at-before].begun, time.Duration(m.heard.Load()))
}

// rest decides when to look again: soon while calls are under way, from time to
// time for a few heartbeats afterwards, and then not until the next call.
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
