package redigo

import "time"

// NeverStarve keeps calls on the shared connections, however busy the test
// machine is.
func (s *Store) NeverStarve() { s.starvedYield = time.Hour }

// Starve makes this process seem short of processors for d.
func (s *Store) Starve(d time.Duration) { s.poolUntil.Store(int64(time.Since(base) + d)) }

// The limits, for tests that reach them.
const (
	MaxFlight    = maxFlight
	MaxUnwritten = maxUnwritten
	BeatEvery    = beatEvery
)
