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
	// nearby is how close to a call's begin or deadline a stall must be.
	nearby = 5 * time.Millisecond
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

// excuse returns for how long the machine stood still where that makes a call
// late: as it began, so that its time did later, or from shortly before its
// deadline on. In between, a stall makes nothing late.
func (s *stalls) excuse(call span, deadline time.Time) (total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.seen, func(a, b span) int { return a.from.Compare(b.from) })
	counted := call.from // several bystanders see the same stall
	for _, at := range s.seen {
		from, to := at.from, at.to
		if from.Before(counted) {
			from = counted
		}
		if to.After(call.to) {
			to = call.to
		}
		matters := at.from.Before(call.from.Add(nearby)) || to.After(deadline.Add(-nearby))
		if matters && to.After(from) {
			total += to.Sub(from)
			counted = to
		}
	}
	return total
}

func TestStallsAreCountedOnce(t *testing.T) {
	begin := time.Now()
	ms := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Millisecond) }
	at := func(from, to int) span { return span{ms(from), ms(to)} }
	s := stalls{seen: []span{at(30, 40), at(10, 20), at(11, 22), at(12, 19), at(60, 90)}}
	for _, c := range []struct {
		call       span
		deadline   int
		want       int
		whatItSees string
	}{
		{at(8, 100), 80, 12 + 30, "those at its begin and its deadline"},
		{at(0, 100), 80, 30, "that at its deadline"},
		{at(0, 100), 95, 0, "none of those before"},
		{at(0, 100), 94, 30, "one that ends shortly before"},
		{at(0, 100), 35, 10 + 30, "one at its deadline, and one behind"},
		{at(15, 35), 34, 7 + 5, "parts of two"},
		{at(70, 80), 75, 10, "a part of one"},
		{at(90, 100), 95, 0, "none"},
	} {
		assert.Equal(t, time.Duration(c.want)*time.Millisecond, s.excuse(c.call, ms(c.deadline)), c.whatItSees)
	}
}
