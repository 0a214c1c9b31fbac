package main

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An op does one thing once, and says so if the reply is not the right one. n
// counts up, from elsewhere in each goroutine, so that it can vary its keys.
type op func(ctx context.Context, n int) error

// A load is a number of goroutines that do an op over and over. One load serves
// all contenders of a case, one after the other.
type load struct {
	callers []caller
	every   int             // one in so many operations is timed; 0 is none
	warm    bool            // each caller begins a turn with an operation that is not counted
	cancel  bool            // each caller has a context that can be cancelled
	sorted  []time.Duration // of a turn; kept for the next
}

// A caller is one of those goroutines. Its samples stay with it from turn to
// turn: after the turns that warm up they have their size, and taking them no
// longer shows among the allocations of what is measured.
type caller struct {
	next    int // n of its next op
	done    int // ops in this turn
	samples []time.Duration
	err     error
}

// newLoad returns a load of g callers. Every operation is timed where they are
// few; with many the clock (40 ns) would be a good part of what is measured.
func newLoad(g int, cancel bool) *load {
	l := &load{callers: make([]caller, g), every: 1, cancel: cancel || g == 1}
	if g > 8 {
		l.every = 8
	}
	for i := range l.callers {
		l.callers[i].next = i * 1009
	}
	return l
}

func (l *load) contender(name string, do op) contender {
	return contender{name: name, turn: func(length time.Duration) (turn, error) { return l.turn(do, length) }}
}

// turn lets the callers loose for length. The goroutines and their contexts are
// made before the clock starts, and the last turn's garbage is collected, so
// that neither is charged to this one. In a warm load each caller then does the
// operation once, which fills again what pools the collection has emptied. An
// operation under way at the end is counted, and so is the time until it is done.
func (l *load) turn(do op, length time.Duration) (turn, error) {
	var stop atomic.Bool
	var warm, running sync.WaitGroup
	gate := make(chan struct{})
	runtime.GC()
	warm.Add(len(l.callers))
	for i := range l.callers {
		ctx, cancel := l.context()
		defer cancel()
		running.Go(func() {
			c := &l.callers[i]
			if l.warm {
				c.err = do(ctx, c.next)
			}
			warm.Done()
			<-gate
			c.loop(ctx, do, l.every, &stop)
		})
	}
	var before, after runtime.MemStats
	warm.Wait()
	runtime.ReadMemStats(&before)
	start := time.Now()
	close(gate)
	time.Sleep(length)
	stop.Store(true)
	running.Wait()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	return l.sum(took, &before, &after)
}

func (l *load) context() (context.Context, context.CancelFunc) {
	if l.cancel {
		return context.WithCancel(context.Background())
	}
	return context.Background(), func() {}
}

// loop is one caller's turn. Its first error ends the turn for all: a figure
// with wrong replies in it is worth nothing.
func (c *caller) loop(ctx context.Context, do op, every int, stop *atomic.Bool) {
	c.done, c.samples = 0, c.samples[:0]
	for ; !stop.Load() && c.err == nil; c.done++ {
		n := c.next
		c.next++
		if every == 0 || n%every != 0 {
			c.err = do(ctx, n)
			continue
		}
		start := time.Now()
		c.err = do(ctx, n)
		c.samples = append(c.samples, time.Since(start))
	}
	if c.err != nil {
		stop.Store(true)
	}
}

// sum makes the callers' counts and samples into the turn's figures.
func (l *load) sum(took time.Duration, before, after *runtime.MemStats) (turn, error) {
	var errs []error
	var done float64
	l.sorted = l.sorted[:0]
	for i := range l.callers {
		c := &l.callers[i]
		done += float64(c.done)
		l.sorted = append(l.sorted, c.samples...)
		if c.err != nil && len(errs) < 3 { // they are mostly the same
			errs = append(errs, c.err)
		}
		c.err = nil
	}
	slices.Sort(l.sorted)
	return turn{
		rate:     done / took.Seconds(),
		p50:      quantile(l.sorted, 0.50),
		p99:      quantile(l.sorted, 0.99),
		allocs:   float64(after.Mallocs-before.Mallocs) / done,
		bytes:    float64(after.TotalAlloc-before.TotalAlloc) / done,
		ops:      done,
		runs:     math.NaN(),
		commands: math.NaN(),
		reads:    math.NaN(),
	}, errors.Join(errs...)
}

// quantile returns the q-th quantile of sorted durations in µs, zero of none.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1))]) / 1e3
}
