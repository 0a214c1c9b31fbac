// Package near keeps values that one process has read in its memory, until the
// stores report that they have changed. It knows no connections, serializers or
// formats of entries: values are of any type, and keys are text.
//
// A [Cache] belongs to one connection of several shards. A [Space] has the values of
// one prefix, its keys under a front that it shares with other prefixes. A [Fill] is
// a read of the store in progress, whose result may be kept.
//
// # The state of a shard
//
// Reports come from a watch, one tracking by the store. A new topic, a prefix of
// full keys, needs a new watch of all topics, which replaces the previous one. "Down"
// means absent or not reporting:
//
//	now   next  values served
//	down  down  none: the epoch is even
//	up    down  topics of now, for the lease after now.synced
//	up    up    topics of next, for the lease after the earlier synced,
//	            until now.synced is after next.since: then next becomes now
//	down  up    next becomes now at once
//
// # Invariants
//
//  1. A value is served only while its ground is valid: its time is not up, and its
//     shard and those of its stamps are in the epoch of its read, within a lease
//     of the last sign of life of the server.
//  2. A value is kept only if changes of its key and of its stamps were reported
//     before it was read. A fill begins, and names its stamps, before the commands
//     are sent.
//  3. A fill and a change of one key are ordered by the lock of their stripe: a
//     value that was read before a change is never kept after it.
//  4. The number of topics that a shard covers is set before its epoch goes up, and
//     read after it: a reader of an epoch sees no more topics than are reported.
//  5. While two watches are up, changes count from both. The previous watch stops
//     only after it has reported all changes from before the next one was up. So a
//     new topic invalidates no value of the others.
//  6. There is at most one live stamp for each key, of the latest epoch. A fill of an
//     earlier epoch gets a dead one, and does not replace it.
//  7. A change of a stamp, or a stamp that is forgotten, ends all values on it.
//  8. Each space, and the number of spaces and stamps, is bounded.
//  9. A value does not outlive its key: the rest of the key's life is asked together
//     with the value, and counts from the beginning of the fill.
//  10. After Close nothing is kept or served, and no watch is begun.
package near

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/snapshot"
	"github.com/maypok86/otter/v2"
)

const (
	defaultEntries = 10_000
	defaultAge     = time.Minute
	// maxSpaces is the maximum number of spaces of one connection. Reads of
	// further prefixes go to the server.
	maxSpaces = 256
	// stripes is the number of stripes of the keys of a space: fills of one stripe
	// take turns, and a change of one key drops all its fills in progress.
	stripes = 256
)

// A Config describes a connection.
type Config struct {
	// Stores are the stores of the shards. A store that is no [driver.Tracker]
	// reports no changes, and none of its values are kept.
	Stores []driver.Store

	// State is called when the reports of a shard begin and end, with the error
	// that ended them.
	State func(shard int, state driver.State, err error)
}

// A Cache is the near cache of one connection. It is safe for concurrent use.
type Cache struct {
	config Config
	tracks bool // a store can report changes
	shards []shard
	base   time.Time
	spaces snapshot.Of[[]*Space]
	stamps stamps

	mu     sync.Mutex // held while a topic is added, and by Close
	closed bool
	topics []string // the prefixes of full keys whose changes are reported
}

// New returns an empty Cache. It tracks nothing until a Space is added.
func New(c Config) *Cache {
	n := &Cache{config: c, shards: make([]shard, len(c.Stores)), base: time.Now()}
	for i := range n.shards {
		n.shards[i] = shard{cache: n, index: i}
	}
	n.tracks = slices.ContainsFunc(c.Stores, func(s driver.Store) bool {
		_, ok := s.(driver.Tracker)
		return ok
	})
	return n
}

// now returns the time since the Cache was made. It costs half as much as the time
// of day.
func (n *Cache) now() int64 { return int64(time.Since(n.base)) }

// A Type identifies a Space of a Cache. Types that differ in a limit share no
// values.
type Type struct {
	Version    string
	Prefix     string        // the first part of the keys
	MaxEntries int           // zero means 10,000
	MaxAge     time.Duration // zero means a minute
}

// A Space has the values of one Type. A nil Space has none.
type Space struct {
	cache   *Cache
	kind    Type
	front   string // precedes all keys
	topic   int    // the index of front + prefix in Cache.topics
	age     time.Duration
	hit     func()
	values  *otter.Cache[string, value] // by key, without front
	stripes [stripes]stripe
}

// A stripe orders fills and changes of its keys.
type stripe struct {
	mu  sync.Mutex
	gen uint64 // changes so far, guarded by mu
}

// A value is a *entry.
type value interface{ valid(now int64) bool }

// An entry is a value with its ground. It is immutable.
type entry[T any] struct {
	ground
	value T
}

// A ground is the validity condition of a value: its deadline, the epoch of its
// shard, and the stamps on which it depends.
type ground struct {
	shard  *shard
	epoch  uint64
	until  int64 // in the time of Cache.now
	stamps []*stamp
}

func (g *ground) valid(now int64) bool {
	if now >= g.until || !g.shard.in(g.epoch, now) {
		return false
	}
	for _, s := range g.stamps {
		if s.dead.Load() || !s.shard.in(s.epoch, now) {
			return false
		}
	}
	return true
}

// Space returns the Space of a type. If it is nil, room reports whether
// [Cache.Add] may make one.
func (n *Cache) Space(t Type) (s *Space, room bool) {
	spaces := n.spaces.Load()
	for _, s := range spaces {
		if s.kind == t {
			return s, true
		}
	}
	return nil, n.tracks && len(spaces) < maxSpaces
}

// Add makes the Space of a type on its first use, and starts the reports for its
// keys, which all begin with front. Hit is called by [Space.Hit]. The result is nil
// if the Cache is closed or has too many spaces.
func (n *Cache) Add(t Type, front string, hit func()) *Space {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, room := n.Space(t)
	if s != nil || !room || n.closed {
		return s
	}
	s = &Space{cache: n, kind: t, front: front, age: cmp.Or(t.MaxAge, defaultAge), hit: hit}
	s.values = otter.Must(&otter.Options[string, value]{
		MaximumSize: cmp.Or(t.MaxEntries, defaultEntries),
		Executor:    func(f func()) { f() }, // no goroutines of its own
	})
	s.topic = n.addTopic(front + t.Prefix)
	n.spaces.Replace(func(all []*Space) []*Space { return append(slices.Clone(all), s) })
	return s
}

// Front returns the text that precedes the keys of s.
func (s *Space) Front() string { return s.front }

// Hit counts a value that was served.
func (s *Space) Hit() { s.hit() }

// Get returns the value of a key, if it is valid and of type T.
func Get[T any](s *Space, key string) (v T, ok bool) {
	found, ok := s.values.GetIfPresent(key)
	if !ok {
		return v, false
	}
	e, ok := found.(*entry[T])
	if !ok || !e.valid(s.cache.now()) {
		return v, false
	}
	return e.value, true
}

// Drop removes the value of key, and drops the fills of its stripe: they keep
// nothing. It is called after this process has changed the key, and does not wait
// for the report.
func (s *Space) Drop(key string) {
	if s == nil {
		return
	}
	stripe := s.stripe(key)
	stripe.mu.Lock()
	defer stripe.mu.Unlock()
	stripe.gen++
	s.values.Invalidate(key)
}

// stripe returns the stripe of a key, by FNV-1a.
func (s *Space) stripe(key string) *stripe {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return &s.stripes[h%stripes]
}

// Changed drops all values that depend on a full key. It is called after this
// process has changed the key, and does not wait for the report.
func (n *Cache) Changed(shard int, key string) {
	if n.spaces.Load() != nil {
		n.changed(&n.shards[shard], []byte(key))
	}
}

func (n *Cache) changed(shard *shard, key []byte) {
	n.stamps.kill(stampKey{shard, string(key)})
	for _, s := range n.spaces.Load() {
		if own, ok := bytes.CutPrefix(key, []byte(s.front)); ok && bytes.HasPrefix(own, []byte(s.kind.Prefix)) {
			s.Drop(string(own))
		}
	}
}

// Flush invalidates all values: this process has changed all keys, and does not
// wait for the reports.
func (n *Cache) Flush() {
	for i := range n.shards {
		n.shards[i].flush()
	}
}

// Close ends all tracking. Nothing is kept from then on.
func (n *Cache) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.spaces.Replace(func([]*Space) []*Space { return nil })
	for i := range n.shards {
		n.shards[i].close()
	}
}
