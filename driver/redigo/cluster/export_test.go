package cluster

import "time"

// SetCalm sets the longest time without a refresh. It must be called before the
// first call.
func (s *Store) SetCalm(d time.Duration) { s.refresher.calm = d }
