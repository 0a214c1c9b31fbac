package caches

import (
	"fmt"
	"math"
	"time"
)

// Forever is the TTL of an object that does not expire.
const Forever time.Duration = math.MaxInt64

// A TTLPolicy says when an object's TTL restarts.
type TTLPolicy uint8

const (
	// RefreshOnWrite restarts the TTL on every successful write, even one that
	// changes nothing, such as adding a member that is already in the set. A
	// write whose condition is false ([Value.Add], [Value.Replace],
	// [Dict.GetOrAdd]) leaves it unchanged. RefreshOnWrite is the zero value.
	RefreshOnWrite TTLPolicy = iota
	// FromCreation counts the TTL from the write that created the object; later
	// writes leave it unchanged. It suits a counter of visits per day. An object
	// without an expiry, as after Persist, gets one on its next write.
	FromCreation
	// SlideOnRead also restarts the TTL on every read of the content. Such reads
	// write, so they go only to masters. Len, Exists, ExpiresIn and the
	// operations between sets do not restart it.
	SlideOnRead
)

// String returns the name of the policy in a struct tag of [Bind].
func (p TTLPolicy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("TTLPolicy(%d)", uint8(p))
}

var policyNames = [...]string{RefreshOnWrite: "write", FromCreation: "creation", SlideOnRead: "read"}

// milliseconds returns ttl in milliseconds, the resolution of Redis. A shorter
// ttl becomes one millisecond, because zero would delete the key.
func milliseconds(ttl time.Duration) (int64, error) {
	if ttl < 0 {
		return 0, fmt.Errorf("caches: a TTL of %v is negative: use caches.Forever for none", ttl)
	}
	ms := ttl.Milliseconds()
	if ms == 0 && ttl > 0 {
		ms = 1
	}
	return ms, nil
}
