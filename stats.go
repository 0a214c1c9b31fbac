package caches

import (
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// Stats holds the counts of a connection since it was opened; see [Conn.Stats].
type Stats struct {
	// Types has the counts of each type of objects, by its Options.Prefix. The
	// objects of a struct that [Bind] fills are counted by prefix and field,
	// "prefix.name". After the first 1,000 names, all others are counted together
	// under "(others)".
	Types map[string]TypeStats

	// Shards has the counts of the traffic between this process and the servers,
	// by the name of the shard. Stores without such counts are missing.
	Shards map[string]driver.Stats
}

// TypeStats holds the counts of one type of objects. An operation with a
// look-up counts as the look-up, an operation on many keys as one for each key.
type TypeStats struct {
	Hits      int64 // look-ups that found a value in the store
	NearHits  int64 // look-ups that found a value in the near cache
	StaleHits int64 // look-ups served with an expired value; see CachedOptions.Stale
	Misses    int64 // look-ups that found no valid value
	Others    int64 // successful operations without a look-up
	Errors    int64 // failed operations; a miss is not a failure

	Loads         int64         // runs of a cached function's own function
	LoadErrors    int64         // Loads that failed
	LoadTime      time.Duration // total duration of Loads
	Dropped       int64         // Loads whose result was not kept: its key was invalidated meanwhile
	Swallowed     int64         // faults despite which the caller got a result
	Invalidations int64         // of keys, tags and namespaces
}

// Lookups returns the number of look-ups without a fault.
func (s TypeStats) Lookups() int64 { return s.Hits + s.NearHits + s.StaleHits + s.Misses }

// HitRatio returns the fraction of look-ups that found a value, from 0 to 1. It
// is 0 if there were no look-ups.
func (s TypeStats) HitRatio() float64 {
	if n := s.Lookups(); n > 0 {
		return 1 - float64(s.Misses)/float64(n)
	}
	return 0
}

// The counters of a tally. The first are in the order of [Lookup].
const (
	countOther = iota
	countHit
	countNearHit
	countStaleHit
	countMiss
	countError
	countLoad
	countLoadError
	countLoadTime // nanoseconds
	countDropped
	countSwallowed
	countInvalidation
	counters
)

// A tally has the counters of one type on one connection. Each counter is
// divided among several cells, one of which is chosen at random for each count:
// with only one, processors would wait for each other.
type tally struct {
	cells [tallyCells]struct {
		n [counters]atomic.Int64
		_ [128 - 8*counters]byte // pads a cell to two cache lines
	}
}

const tallyCells = 8 // a power of two

func (t *tally) add(counter int, n int64) {
	t.cells[rand.Uint32()%tallyCells].n[counter].Add(n)
}

// call counts a completed operation.
func (t *tally) call(result Lookup, err error) {
	switch {
	case result != LookupNone:
		t.add(int(result), 1)
	case err != nil && isOpFault(err):
		t.add(countError, 1)
	default:
		t.add(countOther, 1)
	}
}

// many counts a completed operation on many keys.
func (t *tally) many(hits, misses int, err error) {
	if hits+misses == 0 {
		t.call(LookupNone, err)
		return
	}
	t.add(countHit, int64(hits))
	t.add(countMiss, int64(misses))
	if err != nil {
		t.add(countError, 1)
	}
}

// load counts a run of a cached function's own function.
func (t *tally) load(took time.Duration, err error, dropped bool) {
	t.add(countLoad, 1)
	t.add(countLoadTime, int64(took))
	if err != nil {
		t.add(countLoadError, 1)
	}
	if dropped {
		t.add(countDropped, 1)
	}
}

func (t *tally) sum() TypeStats {
	var n [counters]int64
	for i := range t.cells {
		for j := range n {
			n[j] += t.cells[i].n[j].Load()
		}
	}
	return TypeStats{
		Hits: n[countHit], NearHits: n[countNearHit], StaleHits: n[countStaleHit], Misses: n[countMiss],
		Others: n[countOther], Errors: n[countError],
		Loads: n[countLoad], LoadErrors: n[countLoadError], LoadTime: time.Duration(n[countLoadTime]),
		Dropped: n[countDropped], Swallowed: n[countSwallowed], Invalidations: n[countInvalidation],
	}
}

// maxTypes bounds the types that are counted separately, so that prefixes made
// at run time do not fill the memory.
const maxTypes = 1000

// otherTypes is the name of the types beyond maxTypes.
const otherTypes = "(others)"

// A tallies holds the tallies of a connection by type. The zero value is
// usable.
type tallies struct {
	mu sync.Mutex // held by writers
	// The map is replaced, never modified, so readers take no lock.
	byType atomic.Pointer[map[string]*tally]
}

// of returns the tally of a type, which it makes if there is none.
func (t *tallies) of(typeName string) *tally {
	if found := t.all()[typeName]; found != nil {
		return found
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all()
	if len(all) >= maxTypes && all[typeName] == nil {
		typeName = otherTypes
	}
	if found := all[typeName]; found != nil {
		return found
	}
	next := maps.Clone(all)
	if next == nil {
		next = make(map[string]*tally)
	}
	next[typeName] = new(tally)
	t.byType.Store(&next)
	return next[typeName]
}

func (t *tallies) all() map[string]*tally {
	if p := t.byType.Load(); p != nil {
		return *p
	}
	return nil
}
