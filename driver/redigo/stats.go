package redigo

import (
	"sync/atomic"

	"github.com/gocaches/caches/driver"
)

// Stats counts what a [Store] has done since it was opened.
type Stats = driver.Stats

var _ driver.Meter = (*Store)(nil)

// counters are in groups, by who counts: callers, or who reads and writes for
// them, on another processor perhaps. A line of its cache apart, they do not
// take it from each other.
type counters struct {
	errors, retries, abandoned, refused              atomic.Int64
	_                                                [64]byte
	calls, dials, in, out, commands, writes, desyncs atomic.Int64
}

// Stats returns the counts so far. They are read one after the other: a call
// under way may show in some of them only.
func (s *Store) Stats() Stats {
	inFlight := s.inFlight() // first: it has connections count their calls
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

// inFlight counts the calls on connections that live, and those that have one
// for themselves.
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
