package caches

import (
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/tally"
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

// typeStats returns the counts of a tally.
func typeStats(n tally.Counts) TypeStats {
	return TypeStats{
		Hits: n[tally.Hit], NearHits: n[tally.NearHit], StaleHits: n[tally.StaleHit], Misses: n[tally.Miss],
		Others: n[tally.Other], Errors: n[tally.Error],
		Loads: n[tally.Load], LoadErrors: n[tally.LoadError], LoadTime: time.Duration(n[tally.LoadTime]),
		Dropped: n[tally.Dropped], Swallowed: n[tally.Swallowed], Invalidations: n[tally.Invalidation],
	}
}
