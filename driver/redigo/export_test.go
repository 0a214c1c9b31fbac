package redigo

import "time"

// NeverStarve keeps calls on the shared connections however busy the machine
// is that the test runs on.
func (s *Store) NeverStarve() { s.starvedYield = time.Hour }

// Starve makes this process seem short of processors for a while.
func (s *Store) Starve(d time.Duration) { s.poolUntil.Store(int64(time.Since(base) + d)) }

// The bounds, for tests that reach them.
const (
	MaxFlight    = maxFlight
	MaxUnwritten = maxUnwritten
	BeatEvery    = beatEvery
)
