package redigo

import (
	"sync/atomic"

	"github.com/gocaches/caches/driver"
)

// Stats counts the work of a [Store] since it was opened.
type Stats = driver.Stats

var _ driver.Meter = (*Store)(nil)

// counters are in two groups by the goroutines that change them: callers, and the
// readers and writers of shared connections, which may run on another processor.
// The gap keeps the groups in different lines of the processor's cache.
type counters struct {
	errors, retries, abandoned, refused              atomic.Int64
	_                                                [64]byte
	calls, dials, in, out, commands, writes, desyncs atomic.Int64
}

// Stats returns the current counts. They are read one after the other, so a call in
// progress may be part of some of them only.
func (s *Store) Stats() Stats {
	inFlight := s.inFlight() // first: it makes the connections count their calls
	return Stats{
		Calls:     s.stats.calls.Load(),
		Errors:    s.stats.errors.Load(),
		Dials:     s.stats.dials.Load(),
		Retries:   s.stats.retries.Load(),
		Commands:  s.stats.commands.Load(),
		Writes:    s.stats.writes.Load(),
		InFlight:  inFlight,
		Abandoned: s.stats.abandoned.Load(),
		Refused:   s.stats.refused.Load(),
		Desyncs:   s.stats.desyncs.Load(),
		BytesIn:   s.stats.in.Load(),
		BytesOut:  s.stats.out.Load(),
	}
}

// inFlight returns the number of calls on live shared and on dedicated connections.
func (s *Store) inFlight() int64 {
	n := int64(len(s.permits))
	for i := range s.lanes {
		if m := s.lanes[i].cur.Load(); m != nil && !m.isDead() {
			m.mu.Lock()
			m.countCalls()
			n += int64(m.flight())
			m.mu.Unlock()
		}
	}
	return n
}
