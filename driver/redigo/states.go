package redigo

import (
	"math"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

// maxNoted bounds the states that wait for a slow OnState.
const maxNoted = 1024

// states passes the states of the shared connections to OnState, one at a time and
// in order. A state is noted under the lock that makes it true, before any
// goroutine can act on it. It is told later, without a lock, because OnState is the
// user's function and may take long.
type states struct {
	on func(driver.State, error) // nil if not set

	mu      sync.Mutex // locked last, under any other lock; unlocked during on
	noted   []change
	telling bool // a goroutine is calling on
}

type change struct {
	state  driver.State
	reason error
}

// note queues a state. The caller calls tell once it holds no lock.
func (s *states) note(state driver.State, reason error) {
	if s.on == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.noted) == maxNoted {
		s.noted = s.noted[1:] // the newest states matter most
	}
	s.noted = append(s.noted, change{state, reason})
}

// tell passes all noted states to OnState, unless another goroutine is doing so.
// Waiting for it could deadlock: its OnState may be waiting for this goroutine.
//
// States noted meanwhile do not hold up the caller, which may be near its deadline:
// a new goroutine tells them.
func (s *states) tell() {
	if s.on == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.telling {
		s.tellUpTo(len(s.noted))
	}
}

// tellUpTo tells at most the given number of states and leaves the rest to a new
// goroutine. It is called with mu held, and only if no other goroutine is telling.
func (s *states) tellUpTo(most int) {
	s.telling = true
	goesOn := false
	defer func() { s.telling = goesOn }() // even if OnState exits the goroutine
	for ; len(s.noted) > 0; most-- {
		if most == 0 {
			goesOn = true
			go s.continueTelling()
			return
		}
		next := s.noted[0]
		s.noted = s.noted[1:]
		s.callOnState(next)
	}
	s.noted = nil
}

// continueTelling tells the remaining states in a goroutine of its own.
func (s *states) continueTelling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellUpTo(math.MaxInt)
}

// callOnState calls OnState with mu released.
func (s *states) callOnState(c change) {
	s.mu.Unlock()
	defer s.mu.Lock()
	s.on(c.state, c.reason)
}

// noteAndTell is note and tell in one, for callers without a lock.
func (s *states) noteAndTell(state driver.State, reason error) {
	s.note(state, reason)
	s.tell()
}

// wait waits for the last call of OnState, but not beyond end.
func (s *states) wait(end time.Time) {
	for s.busy() && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
}

func (s *states) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.telling
}
