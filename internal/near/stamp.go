package near

import (
	"sync"
	"sync/atomic"
)

// maxStamps is the maximum number of stamps followed.
const maxStamps = 1 << 16

// A stamp is a key on which values of other keys depend. It is dead once the key
// has changed, and so are these values.
type stamp struct {
	shard *shard
	epoch uint64
	dead  atomic.Bool
}

// A stampKey is the place of a stamp. One key may be a stamp on each shard.
type stampKey struct {
	shard *shard
	key   string // in full
}

// The stamps of a Cache are the live ones, by their places.
type stamps struct {
	mu   sync.Mutex
	live map[stampKey]*stamp // guarded by mu
}

// of returns the stamp for values that will depend on a key, and have been read in
// an epoch of its shard.
func (a *stamps) of(key stampKey, epoch uint64) *stamp {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := a.live[key]; {
	case s == nil || s.epoch < epoch: // its epoch has ended, so all values on it are invalid
	case s.epoch == epoch:
		return s
	default: // the epoch of the caller has ended meanwhile, the epoch of s has not
		late := &stamp{shard: key.shard, epoch: epoch}
		late.dead.Store(true)
		return late
	}
	if a.live == nil || len(a.live) >= maxStamps {
		for _, s := range a.live { // their changes are no longer noticed
			s.dead.Store(true)
		}
		a.live = make(map[stampKey]*stamp)
	}
	s := &stamp{shard: key.shard, epoch: epoch}
	a.live[key] = s
	return s
}

// kill ends the stamp of a key that has changed.
func (a *stamps) kill(key stampKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.live[key]; s != nil {
		s.dead.Store(true)
		delete(a.live, key)
	}
}
