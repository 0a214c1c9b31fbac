// Package memory is a [driver.Store] in this process: the commands of Redis
// 7.0 that the objects of package caches use, with the same replies and the
// same error texts, real expiry, and a bound on the number of keys.
//
// It is for development, for tests, and for programs that want the objects
// without a server. Nothing outlives the process.
//
// # How it works
//
// One lock guards the key space: commands that only read share it, the others
// have it alone, so a command is atomic, and so are an Atomic pipeline and a
// script. The map of keys is the truth. An otter cache (W-TinyLFU) beside it
// sees the same keys come, go and be read, and says which one has to go when
// there are too many; the key space follows its word between commands, never
// inside a transaction or a script. Keys written by [driver.Keep] pipelines are
// not shown to it.
//
// Expired keys are absent at once, to the millisecond, and are removed by the
// writes that follow. The package starts no goroutine.
//
// # Cost
//
// A read of a string allocates nothing and costs a few times a bare look-up in
// otter. Commands have the complexity that Redis documents for them, with two
// exceptions: ranks are found in O(log² n), and a *SCAN call visits exactly
// COUNT elements. All pipelines of a Store take turns at one lock; those that
// only read go together. A pipeline keeps its turn to the end, so a very long
// one makes the others wait.
//
// # Differences from Redis
//
// There is one database, no lists, streams, bitmaps or pub/sub, and no Lua: a
// [driver.Script] runs as its Go form. A full *SCAN gives each element, but
// COUNT is honoured on small collections as well, where Redis gives all at
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

// DefaultMaxEntries is the bound on keys where Options name none.
const DefaultMaxEntries = 100_000

// Options configure a [Store]; the zero value is usable.
type Options struct {
	// MaxEntries bounds the number of keys, whatever their size. 0 means
	// [DefaultMaxEntries]; negative is an error.
	//
	// A key that a [driver.Keep] pipeline has written is not counted and not
	// evicted from then on, until it expires or is deleted.
	MaxEntries int

	// Forget makes the Store forget everything after each pipeline: each one
	// is answered as by an empty server. For a program that is to run as if
	// nothing were ever cached, its values still checked on their way.
	Forget bool

	// Clock tells the time by which keys expire. Nil means [time.Now], which
	// inside a testing/synctest bubble is that of the bubble. Where a clock
	// goes backwards, keys that have not been removed by then are there again.
	// It is called with locks held and must not use the Store.
	Clock func() time.Time
}

// max returns the bound in force.
func (o Options) max() int {
	if o.MaxEntries == 0 {
		return DefaultMaxEntries
	}
	return o.MaxEntries
}

// validate reports what no Store can be made of.
func (o Options) validate() error {
	if o.MaxEntries < 0 {
		return fmt.Errorf("memory: MaxEntries is %d; leave it 0 for the default of %d", o.MaxEntries, DefaultMaxEntries)
	}
	return nil
}

// A Store keeps the data of cache objects in this process. It is safe for
// concurrent use. The zero Store is closed; [Open] makes one that is not.
//
// A Store is a hold on a key space rather than the space itself: several may
// share one by name, and each can be closed twice without harm to the others.
type Store struct {
	space  *space
	closed atomic.Bool
	leave  func() // what Close does besides: a shared Store gives back its place
}

// Open makes an empty Store. It fails only where o is not valid.
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

// shared holds the key spaces that have a name, each from the first [Shared]
// to the last Close.
var shared = struct {
	sync.Mutex
	byName map[string]*holding
}{byName: make(map[string]*holding)}

// A holding is a key space and how many Stores hold it; shared's lock guards
// the count.
type holding struct {
	space   *space
	options Options
	holders int
}

// Shared opens the Store of that name: all of one name in this process see the
// same keys, as long as at least one of them is open; the last Close forgets
// them. Each call's result is closed by itself.
//
// It fails where o is not valid, and where the name is open with another bound
// or another Forget. The Clock is that of the first.
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

// accept reports why o cannot be had of a space that is already open.
func (h *holding) accept(name string, o Options) error {
	if h.options.max() != o.max() {
		return fmt.Errorf("memory: store %q is open with a bound of %d entries, not %d", name, h.options.max(), o.max())
	}
	if h.options.Forget != o.Forget {
		return fmt.Errorf("memory: store %q is open with Forget %t, not %t", name, h.options.Forget, o.Forget)
	}
	return nil
}

// release gives back one place in h.
func release(name string, h *holding) {
	shared.Lock()
	h.holders--
	last := h.holders == 0
	if last {
		// Under the lock that Shared takes: whoever asks for the name from now
		// on gets a new space, never one that is about to be closed.
		delete(shared.byName, name)
	}
	shared.Unlock()
	if last {
		h.space.close()
	}
}

// Do implements [driver.Store]. It fails only before it has run anything: when
// ctx has ended, and when the Store is closed. So its error always wraps
// [driver.ErrUnavailable], and never [driver.ErrUnknownOutcome]. A ctx that ends
// later changes nothing: there is no network to wait for.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	if s.space == nil || s.closed.Load() {
		return errClosed
	}
	return s.space.do(p)
}

// errClosed is what a closed Store answers. It is one value for all, made once:
// a program that goes on after Close should at least do so cheaply.
var errClosed = fmt.Errorf("%w: the memory store is closed", driver.ErrUnavailable)

// Close implements [driver.Store]. Pipelines under way end as they would have:
// none is cut in the middle, and Close waits for the one that holds the lock.
// The data goes with it, unless another Store of the same name is open. It
// always returns nil.
func (s *Store) Close() error {
	if s.space != nil && !s.closed.Swap(true) {
		s.leave()
	}
	return nil
}

// Len returns the number of keys that have not expired, in O(1) besides those
// that have expired and are not yet removed. A closed Store has none.
func (s *Store) Len() int {
	if s.space == nil || s.closed.Load() {
		return 0
	}
	return s.space.len()
}
