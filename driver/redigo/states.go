package redigo

import (
	"math"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

// maxNoted bounds the states that wait for an OnState which is slower than
// connections come and go.
const maxNoted = 1024

// states tells OnState what becomes of the connections that calls share: one
// state at a time, in the order in which they were noted. A state is noted under
// the lock that makes it so, before anybody can act upon it, and told later, for
// OnState is the user's and may take its time.
type states struct {
	on func(driver.State, error) // nil where nobody wants to know

	mu      sync.Mutex // taken last, under any other; free while on runs
	noted   []change
	telling bool // somebody is at it
}

type change struct {
	state  driver.State
	reason error
}

// note puts a state in order. Who notes calls tell once it holds no lock.
func (s *states) note(state driver.State, reason error) {
	if s.on == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.noted) == maxNoted {
		s.noted = s.noted[1:] // the newest say how things are
	}
	s.noted = append(s.noted, change{state, reason})
}

// tell tells of all that is noted, unless somebody is at it. Waiting for that
// one would be a deadlock where its OnState is what has called us.
//
// What others note meanwhile is no reason to keep the caller, whose time may be
// up: a goroutine goes on in its place.
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

// tellOf tells of the next most states. It is called with mu held, by who found
// nobody telling, or goes on.
func (s *states) tellUpTo(most int) {
	s.telling = true
	goesOn := false
	defer func() { s.telling = goesOn }() // also where OnState ends the goroutine
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

// goOn tells in place of a caller.
func (s *states) continueTelling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellUpTo(math.MaxInt)
}

// call calls OnState, with mu released meanwhile.
func (s *states) callOnState(c change) {
	s.mu.Unlock()
	defer s.mu.Lock()
	s.on(c.state, c.reason)
}

// told is note and tell at once, for who holds no lock.
func (s *states) noteAndTell(state driver.State, reason error) {
	s.note(state, reason)
	s.tell()
}

// wait waits until end for whoever is at the telling: a closed store tells
// nothing any more.
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
