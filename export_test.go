package caches

import "time"

// Unguard takes the guard out: results stand on what there is when they are
// stored. It is for tests that show what the guard is for.
func (f *CachedFunc[A, T]) Unguard() { f.unguarded = true }

// Early is the draw of early refreshes; see early.
func Early(cost time.Duration, beta, u float64) time.Duration { return early(cost, beta, u) }

// OptionsOf returns the options of an object.
func OptionsOf(object binder) Options { return object.binding().opts }

// LeaseOf returns the lease of a gate.
func LeaseOf(gate leaser) time.Duration { return *gate.leaseTime() }
