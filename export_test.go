package caches

import "time"

// Early is the draw of early refreshes; see early.
func Early(cost time.Duration, beta, u float64) time.Duration { return early(cost, beta, u) }

// OptionsOf returns the options of an object.
func OptionsOf(object binder) Options { return object.binding().opts }

// LeaseOf returns the lease of a gate.
func LeaseOf(gate leaser) time.Duration { return *gate.leaseTime() }
