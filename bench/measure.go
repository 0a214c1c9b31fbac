package main

import (
	"fmt"
	"slices"
	"time"
)

// A contender is measured one turn at a time.
type contender struct {
	name string
	turn func(length time.Duration) (turn, error)
	// remark says what a reader of its figures must know, and whether some of it
	// is a fault. Nil says nothing.
	remark func() (remark string, faulty bool)
}

// A turn is what one contender did in one of its turns.
type turn struct {
	rate     float64 // operations per second
	p50, p99 float64 // µs; zero where latencies were not taken
	allocs   float64 // per operation; NaN where they cannot be seen
	bytes    float64 // per operation, likewise
	ops      float64 // how many operations
	runs     float64 // of the function that is remembered, per operation; NaN where nobody counts
	commands float64 // that the servers ran, per operation, likewise
	reads    float64 // of the servers from their clients, per operation, likewise
}

// What can be asked of a turn, for median and ratio.
func rate(t turn) float64   { return t.rate }
func p50(t turn) float64    { return t.p50 }
func p99(t turn) float64    { return t.p99 }
func allocs(t turn) float64 { return t.allocs }
func size(t turn) float64   { return t.bytes }
func runs(t turn) float64   { return t.runs }
func cmds(t turn) float64   { return t.commands }
func reads(t turn) float64  { return t.reads }

// A result is one contender's turns, one a round.
type result struct {
	name   string
	turns  []turn
	remark string
	faulty bool // what is wrong stands in remark
}

// median returns the median over the rounds.
func (r result) median(of func(turn) float64) float64 {
	values := make([]float64, len(r.turns))
	for i, t := range r.turns {
		values[i] = of(t)
	}
	return median(values)
}

// ratio returns the median over the rounds of a's figure divided by b's in the
// same round. A slow phase of the machine, which is longer than a round, falls
// on both and cancels out, as it would not in a ratio of medians.
func ratio(a, b result, of func(turn) float64) float64 {
	values := make([]float64, len(a.turns))
	for i := range a.turns {
		values[i] = of(a.turns[i]) / of(b.turns[i])
	}
	return median(values)
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// compete gives all contenders a turn in every round, in an order that turns
// with the rounds, after one turn each to warm up: connections are dialled then,
// and buffers grow. Nobody is always the one behind the same neighbour, whose
// garbage and whose dirty caches it would inherit.
func compete(s settings, all []contender) ([]result, error) {
	results := make([]result, len(all))
	for i, c := range all {
		results[i].name = c.name
		if _, err := c.turn(s.turn); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for round := range s.rounds {
		for n := range all {
			i := (round + n) % len(all)
			t, err := all[i].turn(s.turn)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
			results[i].turns = append(results[i].turns, t)
		}
	}
	for i, c := range all {
		if c.remark != nil {
			results[i].remark, results[i].faulty = c.remark()
		}
	}
	return results, nil
}
