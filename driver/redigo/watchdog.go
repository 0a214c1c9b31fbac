package redigo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// tick is how often the watchdog looks: so late may a call end whose
	// context does not say when, or whose goroutine is in a read or a write.
	tick = 5 * time.Millisecond
	// quietTicks is how long a connection must be idle before the watchdog
	// lets the reader goroutine listen, which hears when the server closes it.
	quietTicks = 20
	// stuckLooks is how many looks a write over TLS is given after its caller's
	// time is up.
	stuckLooks = 1
)

var errSilent = errors.New("the server has not answered in time")

// A watchdog sees to the deadlines of one connection's calls, so that no call
// has to set a timer of its own, and to the connection itself. It rests while
// nothing is under way.
type watchdog struct {
	m     *mux
	timer *time.Timer

	// Guarded by m.mu:
	armed   bool
	slow    bool      // it looks every beatEvery only
	idle    int       // looks in a row that saw nothing under way
	stuck   int       // looks in a row that saw the same write over its time
	seen    int64     // progress at the last look that saw some, or a first call
	since   time.Time // of that look
	soonest int64     // no call's deadline is before it; nanoseconds after base
	beaten  time.Time // the last heartbeat
	beats   uint64    // so far
}

func (w *watchdog) init(m *mux) {
	w.m = m
	w.soonest = math.MaxInt64
	w.beaten = time.Now()
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
}

// arm makes the watchdog see to a call with the given deadline. It is called
// with mu held.
func (w *watchdog) arm(deadline int64) {
	w.soonest = min(w.soonest, deadline)
	w.idle = 0
	if !w.armed || w.slow {
		w.armed, w.slow = true, false
		w.since = time.Time{}
		w.timer.Reset(tick)
	}
}

// stop ends it. It is called with mu held.
func (w *watchdog) stop() {
	w.armed, w.slow = true, false // nobody arms it again
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
	now := time.Now()
	expired := w.expire(now)
	w.interrupt(now)
	patience := m.s.timeout
	if expired {
		// The silence is noticed up to a look later than it began, and so is a
		// call's end. Who comes in between would be lost with the connection,
		// long before its own time is up.
		patience -= 2 * tick
	}
	if w.silence(now) > patience {
		m.fail(fmt.Errorf("%w: %w", errSilent, context.DeadlineExceeded), nil)
		m.lane.silence(errSilent)
		return
	}
	w.rest(now)
	if w.beat(now) {
		return // which has let go of mu
	}
	m.mu.Unlock()
}

// expire ends the calls that wait and whose time is up. It reports whether there
// may have been one.
func (w *watchdog) expire(now time.Time) bool {
	at := after(now)
	if at < w.soonest {
		return false
	}
	err := fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, context.DeadlineExceeded)
	w.soonest = math.MaxInt64
	for _, entries := range [...][]entry{w.m.taken, w.m.queue} {
		for _, e := range entries {
			w.soonest = min(w.soonest, e.expire(at, err))
		}
	}
	return true
}

// interrupt fetches callers out of a read or a write whose time is up. Reader
// and writer are set and taken back under mu, and who comes out clears the
// deadline under mu: none is left behind for the next one. A caller that was
// just coming out by itself leaves one, which the next reader or writer takes
// for an interruption of its own and survives.
func (w *watchdog) interrupt(now time.Time) {
	m := w.m
	if m.reader.over(now) {
		_ = m.conn.nc.SetReadDeadline(longAgo)
	}
	if !m.writer.over(now) {
		w.stuck = 0
		return
	}
	// An interrupted write is the end of a TLS connection, so there it must
	// have been stuck for a while: a server that takes nothing.
	if w.stuck++; !m.conn.secure || w.stuck > stuckLooks {
		_ = m.conn.nc.SetWriteDeadline(longAgo)
	}
}

// silence returns for how long nothing has come though something should have.
// After a whole timeout the connection is given up, for it may be to nowhere.
func (w *watchdog) silence(now time.Time) time.Duration {
	progress := w.m.progress.Load()
	if w.m.flight.Load() == 0 || progress != w.seen || w.since.IsZero() {
		w.seen, w.since = progress, now
	}
	return now.Sub(w.since)
}

// rest decides when to look again: soon while calls are under way, from time to
// time for a few heartbeats afterwards, and then not until the next call.
func (w *watchdog) rest(now time.Time) {
	m := w.m
	if m.flight.Load() > 0 {
		w.slow = false
		w.timer.Reset(tick)
		return
	}
	switch w.idle++; {
	case w.idle <= quietTicks:
		w.timer.Reset(tick)
	case w.idle <= quietTicks+idleBeats:
		m.ensureReader()
		w.slow = true
		w.timer.Reset(max(beatEvery-now.Sub(w.beaten), tick))
	default:
		w.armed, w.slow = false, false
	}
}
