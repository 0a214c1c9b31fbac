package caches

import (
	"fmt"
	"math"
	"time"
)

// Forever is a time to live without end.
const Forever time.Duration = math.MaxInt64

// A TTLPolicy says when an object's time to live starts again.
type TTLPolicy uint8

const (
	// RefreshOnWrite starts the time to live again with every write that
	// succeeds, also where it changes nothing: a set is asked to hold a member
	// that it holds. Writes on a condition that does not hold (Add of a Cache,
	// Replace, GetOrAdd) leave it. It is the zero value and the default.
	RefreshOnWrite TTLPolicy = iota
	// FromCreation counts from the write that created the object; later
	// writes leave it. A counter of visits per day is one. An object that has
	// no end, after Persist, gets one with the next write.
	FromCreation
	// SlideOnRead starts it again with every read of the content as well: not
	// with Len, Exists and ExpiresIn, nor with the operations between sets.
	// Such reads write, so they go to masters only.
	SlideOnRead
)

// String returns the policy's name in a struct tag of [Bind].
func (p TTLPolicy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("TTLPolicy(%d)", uint8(p))
}

var policyNames = [...]string{RefreshOnWrite: "write", FromCreation: "creation", SlideOnRead: "read"}

// milliseconds is how Redis counts: it has nothing smaller, and 0 would delete.
func milliseconds(ttl time.Duration) (int64, error) {
	if ttl < 0 {
		return 0, fmt.Errorf("caches: a time to live of %v is negative: use caches.Forever for none", ttl)
	}
	ms := ttl.Milliseconds()
	if ms == 0 && ttl > 0 {
		ms = 1
	}
	return ms, nil
}
