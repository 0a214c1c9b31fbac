package redigo

import (
	"math"
	"sync/atomic"
	"time"
)

// A slot is where a call's replies are left. It is smaller than a line of the
// processor's cache: the reader and the caller, who mostly run on different
// ones, hand over one each.
type slot struct {
	state atomic.Uint64 // generation and settlement, see below
	done  chan struct{} // cap 1: settling never waits
	buf   []byte        // the replies, once the slot is answered; of a beat the right one, before
	fault *error        // why not, once it has failed
	errs  bool          // one of the replies is an error
}

// base is what the times of calls are counted from: to ask how long ago it was
// costs half of what it costs to ask for the time.
var base = time.Now()

// A ticket is a slot for one exchange. A slot that was answered is used again,
// perhaps on another connection: the generation tells whether it is still for
// that exchange.
type ticket struct {
	slot *slot
	gen  uint64
}

// An entry is a ticket's place in the order of replies.
type entry struct {
	ticket
	begun    time.Duration // after base, like all times here
	deadline time.Duration
	n        int32 // replies
	beat     bool  // it is a heartbeat
}

// The last two bits of a slot's state are its settlement; above them is its
// generation.
const (
	waiting   = 0
	answered  = 1
	failed    = 2
	abandoned = 3 // by the caller: the reader drops its replies
)

func newSlot() *slot { return &slot{done: make(chan struct{}, 1)} }

// ticket makes the slot ready for the next replies. Only a new slot is, one that
// was never queued, and one that was answered: its caller has taken the answer,
// and the reader never touches a slot after it has answered. Any other may still
// be written by a reader that learns late that nobody waits.
func (s *slot) ticket() ticket {
	gen := s.state.Load()>>2 + 1
	s.state.Store(gen<<2 | waiting)
	return ticket{s, gen}
}

// settle reports whether it is this call of it that settles the ticket.
func (t ticket) settle(how uint64) bool {
	return t.slot.state.CompareAndSwap(t.gen<<2|waiting, t.gen<<2|how)
}

func (t ticket) waits() bool { return t.slot.state.Load() == t.gen<<2|waiting }

// answer settles the ticket by the replies that are in its slot.
func (t ticket) answer() {
	if t.settle(answered) {
		t.slot.done <- struct{}{}
	}
}

// fail settles the ticket by an error, which is written after the settlement and
// before the caller is told, who reads it after: nobody else does.
func (t ticket) fail(err error) {
	if t.settle(failed) {
		t.slot.fault = &err
		t.slot.done <- struct{}{}
	}
}

// err returns why the ticket has failed, nil where it has not. Its caller has
// been told; nobody else may ask.
func (t ticket) err() error {
	if t.slot.fault == nil {
		return nil
	}
	return *t.slot.fault
}

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// expire fails the entry if its time is up, and else returns when it will be.
func (e *entry) expire(now time.Duration, err error) (next time.Duration, over bool) {
	switch {
	case !e.waits():
		return never, false
	case e.deadline > now:
		return e.deadline, false
	}
	e.fail(err)
	return never, true
}
