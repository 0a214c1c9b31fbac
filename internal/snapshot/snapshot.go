// Package snapshot has a value that is replaced whole and never modified, so that
// its readers take no lock.
package snapshot

import (
	"sync"
	"sync/atomic"
)

// An Of is a value of type T, such as a map or a slice, which is read much more
// often than it is replaced. The zero Of has the zero T. It is safe for concurrent
// use.
type Of[T any] struct {
	mu      sync.Mutex // held by writers
	current atomic.Pointer[T]
}

// Load returns the current value. It must not be modified.
func (o *Of[T]) Load() (v T) {
	if p := o.current.Load(); p != nil {
		return *p
	}
	return v
}

// Replace makes next(current) the value. Calls of next do not overlap. It must not
// modify current; a copy of it may be modified until next returns.
func (o *Of[T]) Replace(next func(current T) T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := next(o.Load())
	o.current.Store(&v)
}
