// Package tally counts what happens to the types of objects of one connection.
package tally

import (
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/internal/snapshot"
)

// A Counter is an index of [Counts].
type Counter uint8

// The counters of a Tally. The first are the outcomes of a look-up; Other is that of
// an operation without one.
const (
	Other Counter = iota
	Hit
	NearHit
	StaleHit
	Miss
	Error
	Load
	LoadError
	LoadTime // nanoseconds
	Dropped
	Swallowed
	Invalidation
	counters
)

// Counts are the sums of a Tally.
type Counts [counters]int64

const cells = 8 // a power of two

// A Tally has the counters of one type. Each counter is divided among several cells,
// one of which is chosen at random for each count: with only one, processors would
// wait for each other. The zero value is usable.
type Tally struct {
	cells [cells]struct {
		n [counters]atomic.Int64
		_ [128 - 8*counters]byte // pads a cell to two cache lines
	}
}

// Add adds n to a counter.
func (t *Tally) Add(c Counter, n int64) {
	t.cells[rand.Uint32()%cells].n[c].Add(n)
}

// Call counts a completed operation by the outcome of its look-up, or Other.
func (t *Tally) Call(outcome Counter, failed bool) {
	if outcome == Other && failed {
		outcome = Error
	}
	t.Add(outcome, 1)
}

// Many counts a completed operation on many keys.
func (t *Tally) Many(hits, misses int, failed bool) {
	if hits+misses == 0 {
		t.Call(Other, failed)
		return
	}
	t.Add(Hit, int64(hits))
	t.Add(Miss, int64(misses))
	if failed {
		t.Add(Error, 1)
	}
}

// Loaded counts a run of a cached function's own function.
func (t *Tally) Loaded(took time.Duration, failed, dropped bool) {
	t.Add(Load, 1)
	t.Add(LoadTime, int64(took))
	if failed {
		t.Add(LoadError, 1)
	}
	if dropped {
		t.Add(Dropped, 1)
	}
}

// Counts returns the sums. They are read one after another, so a call in progress
// may be included in only some of them.
func (t *Tally) Counts() (sums Counts) {
	for i := range t.cells {
		for c := range sums {
			sums[c] += t.cells[i].n[c].Load()
		}
	}
	return sums
}

// maxTypes bounds the types that are counted separately, so that prefixes made at
// run time do not fill the memory.
const maxTypes = 1000

// otherTypes is the name of the types beyond maxTypes.
const otherTypes = "(others)"

// A Set holds the tallies of a connection by type. The zero value is usable.
type Set struct {
	byType snapshot.Of[map[string]*Tally]
}

// Of returns the tally of a type, which it makes if there is none. After the first
// 1,000 types, all others have one, "(others)".
func (s *Set) Of(typeName string) *Tally {
	if found := s.byType.Load()[typeName]; found != nil {
		return found
	}
	return s.add(typeName)
}

// add is Of for a type that has no tally yet. It is apart because its argument
// escapes.
func (s *Set) add(typeName string) *Tally {
	s.byType.Replace(func(all map[string]*Tally) map[string]*Tally {
		if len(all) >= maxTypes && all[typeName] == nil {
			typeName = otherTypes
		}
		if all[typeName] != nil {
			return all
		}
		next := maps.Clone(all)
		if next == nil {
			next = make(map[string]*Tally)
		}
		next[typeName] = new(Tally)
		return next
	})
	return s.byType.Load()[typeName]
}

// All returns the current tallies by type. The map must not be modified.
func (s *Set) All() map[string]*Tally { return s.byType.Load() }
