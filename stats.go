package caches

import (
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// Stats is what a connection has counted since it was opened; see [Conn.Stats].
type Stats struct {
	// Types has the counts of each type of object, by its Options.Prefix; the
	// objects of a struct that [Bind] fills count by prefix and field,
	// "prefix.name". There are 1,000 at most: what comes later counts under
	// "(others)".
	Types map[string]TypeStats

	// Shards has the counts of the stores that keep any, by the shard's name:
	// what travelled between this process and the servers.
	Shards map[string]driver.Stats
}

// TypeStats counts what was done with the objects of one type. Operations of
// which a look-up is a step count as one; of operations on many keys every key
// that is looked up counts.
type TypeStats struct {
	Hits      int64 // look-ups that found a value in the store
	NearHits  int64 // … in this process's near cache
	StaleHits int64 // … an expired one that was served, see CachedOptions.Stale
	Misses    int64 // … none that counts
	Others    int64 // operations that look nothing up, and did not fail
	Errors    int64 // operations that failed; a miss is no failure

	Loads         int64         // runs of a cached function's own function
	LoadErrors    int64         // … that failed
	LoadTime      time.Duration // … that they took, together
	Dropped       int64         // … whose result was not kept, as it was invalidated by its key meanwhile
	Swallowed     int64         // faults in spite of which a caller was served
	Invalidations int64         // of keys, tags and namespaces
}

// Lookups returns how many look-ups ended without a fault.
func (s TypeStats) Lookups() int64 { return s.Hits + s.NearHits + s.StaleHits + s.Misses }

// HitRatio returns which part of the look-ups found a value, from 0 to 1; 0
// where there were none.
func (s TypeStats) HitRatio() float64 {
	if n := s.Lookups(); n > 0 {
		return 1 - float64(s.Misses)/float64(n)
	}
	return 0
}

// The counters of a tally. Those of results come in the order of [Result].
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

// A tally counts for one type on one connection. Its counters stand in several
// cells, of which each count takes one by chance: on one alone all processors
// would wait for each other.
type tally struct {
	cells [tallyCells]struct {
		n [counters]atomic.Int64
		_ [128 - 8*counters]byte // two lines of a processor's cache each
	}
}

const tallyCells = 8 // a power of two

func (t *tally) add(counter int, n int64) {
	t.cells[rand.Uint32()%tallyCells].n[counter].Add(n)
}

// call counts an operation that has ended.
func (t *tally) call(result Result, err error) {
	switch {
	case result != NoLookup:
		t.add(int(result), 1)
	case err != nil && isOpFault(err):
		t.add(countError, 1)
	default:
		t.add(countOther, 1)
	}
}

// many counts an operation on many keys that has ended.
func (t *tally) many(hits, misses int, err error) {
	if hits+misses == 0 {
		t.call(NoLookup, err)
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

// maxTypes bounds the types that are counted apart: prefixes made at run time
// must not fill the memory.
const maxTypes = 1000

// otherTypes is the name of those beyond.
const otherTypes = "(others)"

// Tallies are the tallies of a connection, by type. The zero value is ready.
type tallies struct {
	mu sync.Mutex // held by writers
	// byType is replaced whole, never changed: readers take no lock.
	byType atomic.Pointer[map[string]*tally]
}

// of returns the tally of a type, which it makes the first time.
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
