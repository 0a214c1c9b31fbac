package redigo

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A slot is a call's place in the order of replies. It is as large as a line of
// the processor's cache: the reader and the caller, who mostly run on different
// ones, hand over one each.
type slot struct {
	state    atomic.Uint64 // generation and settlement, see below
	deadline atomic.Int64  // nanoseconds after base
	done     chan struct{} // cap 1: settling never waits
	buf      []byte        // the replies, once the slot is answered; of a beat the right one, before
	fault    *error        // why not, once it has failed
	n        int32         // replies
	errs     bool          // one of them is an error
	beat     bool          // it is a heartbeat
}

// base is what the times of calls are counted from: to ask how long ago it was
// costs half of what it costs to ask for the time.
var base = time.Now()

// after returns the nanoseconds from base to t.
func after(t time.Time) int64 { return int64(t.Sub(base)) }

// An entry is a slot as the connection knows it. A slot that was answered is
// used again, perhaps on another connection: the generation tells whether it
// is still the call that was queued here.
type entry struct {
	slot *slot
	gen  uint64
}

// The last two bits of a slot's state are its settlement; above them is its
// generation.
const (
	waiting   = 0
	answered  = 1
	failed    = 2
	abandoned = 3 // by the caller: the reader drops its replies
)

// Only answered slots come back here: the caller has taken the answer, and the
// reader never touches a slot after it has answered. The others may still be
// written by a reader that learns late that nobody waits.
var slots = sync.Pool{New: func() any { return &slot{done: make(chan struct{}, 1)} }}

func newEntry(deadline time.Time, n int) entry {
	sl := slots.Get().(*slot)
	gen := sl.state.Load()>>2 + 1
	sl.n, sl.fault, sl.beat = int32(n), nil, false
	sl.deadline.Store(after(deadline))
	sl.state.Store(gen<<2 | waiting)
	return entry{sl, gen}
}

// settle reports whether it is this call of it that settles the entry.
func (e entry) settle(how uint64) bool {
	return e.slot.state.CompareAndSwap(e.gen<<2|waiting, e.gen<<2|how)
}

func (e entry) waits() bool { return e.slot.state.Load() == e.gen<<2|waiting }

// answer settles the entry by the replies that are in its slot.
func (e entry) answer() {
	if e.settle(answered) {
		e.slot.done <- struct{}{}
	}
}

// fail settles the entry by an error, which is written after the settlement and
// before the caller is told, who reads it after: nobody else does.
func (e entry) fail(err error) {
	if e.settle(failed) {
		e.slot.fault = &err
		e.slot.done <- struct{}{}
	}
}

// err returns why the entry has failed, nil where it has not. Its caller has
// been told; nobody else may ask.
func (e entry) err() error {
	if e.slot.fault == nil {
		return nil
	}
	return *e.slot.fault
}

// expire fails the entry if its time is up, and else returns when it will be.
func (e entry) expire(now int64, err error) (next int64) {
	if !e.waits() {
		return math.MaxInt64
	}
	// The slot may be another call's by now; then fail does nothing.
	if next = e.slot.deadline.Load(); next > now {
		return next
	}
	e.fail(err)
	return math.MaxInt64
}
