package redigo

import "time"

// NeverStarve keeps calls on the shared connections, however busy the test
// machine is.
func (s *Store) NeverStarve() { s.starvedYield = time.Hour }

// Starve makes this process seem short of processors for d.
func (s *Store) Starve(d time.Duration) { s.poolUntil.Store(int64(time.Since(base) + d)) }

// Fill makes each shared connection count n more bytes as waiting to be written.
func (s *Store) Fill(n int) {
	for i := range s.lanes {
		m := s.lanes[i].live()
		m.mu.Lock()
		m.unwritten += n
		m.mu.Unlock()
	}
}

// The limits, for tests that reach them.
const (
	MaxFlight    = maxFlight
	MaxUnwritten = maxUnwritten
	BeatEvery    = beatEvery
)
