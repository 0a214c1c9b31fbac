package redigo

import (
	"sync"

	"github.com/gocaches/caches/driver"
)

// states tells OnState what becomes of the connections that calls share: one
// state at a time, in the order in which they were noted. A state is noted under
// the lock that makes it so, before anybody can act upon it, and told later, for
// OnState is the user's and may take its time.
type states struct {
	on func(driver.State, error) // nil where nobody wants to know

	mu      sync.Mutex // taken last, under any other; free while on runs
	noted   []change
	telling bool // somebody is at it, and tells of what others note meanwhile
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
	s.noted = append(s.noted, change{state, reason})
	s.mu.Unlock()
}

// tell tells of all that is noted, unless somebody is at it. Waiting for that
// one would be a deadlock where its OnState is what has called us.
func (s *states) tell() {
	if s.on == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.telling {
		return
	}
	s.telling = true
	for len(s.noted) > 0 {
		next := s.noted[0]
		s.noted = s.noted[1:]
		s.mu.Unlock()
		s.on(next.state, next.reason)
		s.mu.Lock()
	}
	s.noted, s.telling = nil, false
}

// told is note and tell at once, for who holds no lock.
func (s *states) told(state driver.State, reason error) {
	s.note(state, reason)
	s.tell()
}
