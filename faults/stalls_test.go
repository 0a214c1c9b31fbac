package faults

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const (
	// bystanders is how many goroutines find out when the machine stands still:
	// more than it has processors, so that one of them is ready on each.
	bystanders = 4
	// stalled is how much longer than it should a short sleep takes then.
	stalled = 2 * time.Millisecond
)

// Stalls are the times at which goroutines that do nothing but sleep were not
// woken: the machine, or what it is a part of, did something else. What a call is
// late by then is not its library's doing; and what a library keeps the
// processors busy with for longer than the bystanders are late still is.
type stalls struct {
	mu   sync.Mutex
	seen []span
}

type span struct{ from, to time.Time }

// watch looks for stalls until stop is closed.
func (s *stalls) watch(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		due := time.Now().Add(time.Millisecond)
		time.Sleep(time.Millisecond)
		if now := time.Now(); now.Sub(due) > stalled {
			s.mu.Lock()
			s.seen = append(s.seen, span{due, now})
			s.mu.Unlock()
		}
	}
}

// total returns for how long, between two times, the machine stood still.
func (s *stalls) total(in span) (total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.seen, func(a, b span) int { return a.from.Compare(b.from) })
	for _, at := range s.seen {
		from, to := at.from, at.to
		if from.Before(in.from) {
			from = in.from
		}
		if to.After(in.to) {
			to = in.to
		}
		if to.After(from) {
			total += to.Sub(from)
			in.from = to // several bystanders see the same stall
		}
	}
	return total
}

func TestStallsAreCountedOnce(t *testing.T) {
	begin := time.Now()
	at := func(from, to int) span {
		return span{begin.Add(time.Duration(from)), begin.Add(time.Duration(to))}
	}
	s := stalls{seen: []span{at(30, 40), at(10, 20), at(11, 22), at(12, 19), at(60, 90)}}
	for _, c := range []struct {
		in   span
		want time.Duration
	}{
		{at(0, 100), 12 + 10 + 30}, {at(0, 10), 0}, {at(15, 35), 7 + 5}, {at(70, 80), 10}, {at(90, 100), 0},
	} {
		assert.Equal(t, c.want, s.total(c.in), "%v", c.in)
	}
}
