package caches

import (
	"errors"
	"time"
)

// NearOptions keeps the values read by this process in its memory, decoded, so that the
// next read does not ask the server. The zero value is usable:
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", Near: &caches.NearOptions{}}
//
// It serves Get of a [Value], [GetMany], [Cached] functions, and Copy of a [Dict],
// a [Set] and a [List]. The Fresh method of a type, object or cached function bypasses it.
//
// Near values are kept up to date: over a separate connection to each shard, the
// server reports every change that any client makes, and a changed value is read
// again. While that connection is down, no value of the shard is kept or served. A
// value may be stale while the report of a change travels, mostly less than a
// millisecond; in a network that silently loses all data, for at most 3 seconds. A
// write of this process is seen by its own next read, if both go through types with
// the same Near. [Hooks].State is called when the reports begin and end.
//
// All callers are given the same value: if T holds references (pointers, slices,
// maps), treat it as read-only. Copy makes a new map or slice for each caller;
// its values are shared.
//
// Values are not kept near for types with [SlideOnRead], whose reads must reach the
// server; for objects of [Bind], each with a prefix of its own; or on connections
// whose store cannot report changes, such as your own pools. locmem cannot either,
// and need not. The user of the connection needs the rights listed in
// [redigo.Store.Track].
type NearOptions struct {
	// MaxEntries is the maximum number of values kept, for each prefix on each
	// connection; the least read are dropped first. Zero means 10,000.
	MaxEntries int

	// MaxAge is how long an unchanged value is served before it is read again. Zero
	// means a minute. A value that expires earlier on the server also expires here.
	MaxAge time.Duration
}

// check rejects negative limits.
func (n *NearOptions) check() error {
	if n != nil && (n.MaxEntries < 0 || n.MaxAge < 0) {
		return errors.New("caches: the MaxEntries and MaxAge of NearOptions must not be negative")
	}
	return nil
}
