package redigo

import (
	"math"
	"sync/atomic"
	"time"
)

// A slot receives the replies to a call. Its size is less than a line of the
// processor's cache, so that the reader and the caller, which mostly run on
// different processors, hand over a single line.
type slot struct {
	state atomic.Uint64 // generation<<2 | settlement
	done  chan struct{} // capacity 1: settling never blocks
	buf   []byte        // the replies, once answered; until then the expected reply, for a heartbeat
	fault *error        // the error, once failed
	errs  bool          // one of the replies is an error
}

// base is the origin of the times of calls, which are durations: time.Since(base)
// costs half as much as time.Now.
var base = time.Now()

// A ticket is one use of a slot, for one exchange. A slot may be used again, on any
// connection; the generation tells whether it still serves this exchange.
type ticket struct {
	slot *slot
	gen  uint64
}

// An entry is a ticket in the order of replies.
type entry struct {
	ticket
	begun    time.Duration // since base, as is deadline
	deadline time.Duration
	n        int32 // number of replies
	beat     bool  // it is a heartbeat
}

// The settlements of a slot:
//
//	waiting    the replies have not come
//	answered   the replies are in buf; the slot may be used again
//	failed     the error is in fault; the slot is dropped
//	abandoned  the caller has gone: replies are ignored; the slot is dropped
//
// A slot leaves waiting once per generation, by settle.
const (
	waiting   = 0
	answered  = 1
	failed    = 2
	abandoned = 3
)

func newSlot() *slot { return &slot{done: make(chan struct{}, 1)} }

// ticket begins the next use of the slot, which must be new, never queued, or
// answered: its caller has then taken the answer, and the reader does not touch a
// slot after answering it. To any other slot a reader may still write late replies.
func (s *slot) ticket() ticket {
	gen := s.state.Load()>>2 + 1
	s.state.Store(gen<<2 | waiting)
	return ticket{s, gen}
}

// settle changes the state from waiting to how. It reports whether it did, which is
// false if the ticket is settled already.
func (t ticket) settle(how uint64) bool {
	return t.slot.state.CompareAndSwap(t.gen<<2|waiting, t.gen<<2|how)
}

func (t ticket) waits() bool { return t.slot.state.Load() == t.gen<<2|waiting }

// answer settles the ticket with the replies in its slot.
func (t ticket) answer() {
	if t.settle(answered) {
		t.slot.done <- struct{}{}
	}
}

// fail settles the ticket with an error. The error is stored after the settlement
// and before done wakes the caller, its only reader.
func (t ticket) fail(err error) {
	if t.settle(failed) {
		t.slot.fault = &err
		t.slot.done <- struct{}{}
	}
}

// err returns the error of the ticket, or nil if it has not failed. Only its caller
// may call it, after it has received from done.
func (t ticket) err() error {
	if t.slot.fault == nil {
		return nil
	}
	return *t.slot.fault
}

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// expire fails the entry if its deadline has passed. Otherwise it returns the
// deadline; next is never once the entry is settled.
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
