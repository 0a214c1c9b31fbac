// Package memory implements a [driver.Store] in the memory of the process. It has
// the commands of Redis 7.0 that package caches uses, with the same replies and
// error texts, expiry to the millisecond, and a bound on the number of keys.
//
// It is for development, for tests, and for programs that use the cache objects
// without a server. The data is lost when the process exits.
//
// # How it works
//
// One lock guards the key space. Commands that only read share it; all others
// hold it exclusively. So each command is atomic, and so are an Atomic pipeline
// and a script. The keys are in a map. An otter cache (W-TinyLFU) is told when a
// key is added, read or removed, and chooses the keys to evict when there are too
// many. They are evicted between commands, never within a transaction or a
// script. Keys written by [driver.Keep] pipelines are exempt.
//
// A key is absent as soon as it has expired, to the millisecond. Later writes free
// its memory. The package starts no goroutines.
//
// # Cost
//
// Reading a string allocates nothing and takes a few times as long as a look-up
// in otter. Commands have the complexity that Redis documents, with two
// exceptions: ranks are found in O(log² n), and a *SCAN call visits exactly COUNT
// elements. Pipelines that only read run concurrently. A pipeline holds the lock
// until its end, so a very long one delays the others.
//
// # Differences from Redis
//
// There is a single database. Blocking commands, streams, bitmaps, pub/sub and Lua
// are missing: a [driver.Script] runs in its Go form. A full *SCAN returns each
// element, but applies COUNT to small collections too, which Redis returns at
// once. A sorted set stores negative zero as zero.
package memory

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// DefaultMaxEntries is the default of [Options].MaxEntries.
const DefaultMaxEntries = 100_000

// Options configure a [Store]. The zero value is valid.
type Options struct {
	// MaxEntries is the maximum number of keys, of any size. 0 means
	// [DefaultMaxEntries]; a negative number is an error.
	//
	// A key written by a [driver.Keep] pipeline is neither counted nor evicted
	// until it expires or is deleted.
	MaxEntries int

	// Forget deletes all keys after each pipeline, so that each one finds an
	// empty Store. A program then runs as if nothing were ever cached, but its
	// values are still encoded and checked.
	Forget bool

	// Clock returns the time for the expiry of keys. Nil means [time.Now], which
	// in a testing/synctest bubble is the time of the bubble. If a clock goes
	// backwards, expired keys that were not yet removed reappear. Clock is
	// called with locks held and must not use the Store.
	Clock func() time.Time
}

// max returns MaxEntries or its default.
func (o Options) max() int {
	if o.MaxEntries == 0 {
		return DefaultMaxEntries
	}
	return o.MaxEntries
}

// validate returns an error if o is not valid.
func (o Options) validate() error {
	if o.MaxEntries < 0 {
		return fmt.Errorf("memory: MaxEntries is %d; use 0 for the default of %d", o.MaxEntries, DefaultMaxEntries)
	}
	return nil
}

// A Store keeps the data of cache objects in this process. It is safe for
// concurrent use. The zero Store is closed; see [Open] and [Shared].
//
// A Store is a reference to a key space, which several Stores may share by name.
// Closing a Store twice does not affect the others.
type Store struct {
	space  *space
	closed atomic.Bool
	leave  func() // called by the first Close
}

// Open returns an empty Store. It fails only if o is not valid.
func Open(o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	sp, err := newSpace(o)
	if err != nil {
		return nil, err
	}
	return &Store{space: sp, leave: sp.close}, nil
}

// shared holds the named key spaces, each from its first [Shared] to its last
// Close.
var shared = struct {
	sync.Mutex
	byName map[string]*holding
}{byName: make(map[string]*holding)}

// A holding is a key space with the number of its open Stores, which shared's
// lock guards.
type holding struct {
	space   *space
	options Options
	holders int
}

// Shared returns a Store with the given name. All Stores of a name in this process
// have the same keys. Each must be closed; the last Close deletes the keys.
//
// Shared fails if o is not valid, or if a Store of that name is open with another
// MaxEntries or Forget. The Clock of the first Store applies to all.
func Shared(name string, o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	shared.Lock()
	defer shared.Unlock()
	h := shared.byName[name]
	if h == nil {
		sp, err := newSpace(o)
		if err != nil {
			return nil, err
		}
		h = &holding{space: sp, options: o}
		shared.byName[name] = h
	}
	if err := h.accept(name, o); err != nil {
		return nil, err
	}
	h.holders++
	return &Store{space: h.space, leave: func() { release(name, h) }}, nil
}

// accept returns an error if the open space of h does not match o.
func (h *holding) accept(name string, o Options) error {
	if h.options.max() != o.max() {
		return fmt.Errorf("memory: store %q is already open with MaxEntries %d, not %d", name, h.options.max(), o.max())
	}
	if h.options.Forget != o.Forget {
		return fmt.Errorf("memory: store %q is already open with Forget %t, not %t", name, h.options.Forget, o.Forget)
	}
	return nil
}

// release decrements the number of Stores of h, and closes it after the last.
func release(name string, h *holding) {
	shared.Lock()
	h.holders--
	last := h.holders == 0
	if last {
		// Under the lock of Shared, so that a later call for the same name
		// returns a new space and never one that is about to be closed.
		delete(shared.byName, name)
	}
	shared.Unlock()
	if last {
		h.space.close()
	}
}

// Do implements [driver.Store]. It fails only if ctx is already done or the Store
// is closed, before any command has run. So its error always wraps
// [driver.ErrUnavailable] and never [driver.ErrUnknownOutcome]. Do ignores a ctx
// that is canceled later, as there is no network to wait for.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	if s.space == nil || s.closed.Load() {
		return errClosed
	}
	return s.space.do(p)
}

// errClosed is the error of a closed Store. It is made once, so that calls after
// Close are cheap.
var errClosed = fmt.Errorf("%w: the memory store is closed", driver.ErrUnavailable)

// Close implements [driver.Store]. It waits for the pipelines that hold the lock,
// so none is interrupted. It deletes the data, unless another Store of the same
// name is open. The error is always nil.
func (s *Store) Close() error {
	if s.space != nil && !s.closed.Swap(true) {
		s.leave()
	}
	return nil
}

// Len returns the number of keys that have not expired, or 0 for a closed Store. It
// takes O(1+n) time for n expired keys that are not yet removed.
func (s *Store) Len() int {
	if s.space == nil || s.closed.Load() {
		return 0
	}
	return s.space.len()
}
