package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"
)

// A watch sees what a contender does beside being fast: wrong values, runs of
// its function, commands, results that it loses. None of it ends the turn; all
// of it stands in the contender's row.
type watch struct {
	probe  *probe
	source *source // nil where there is no function
	// promise is how often the function may run for one operation; what is
	// more was too often. All runs of a turn are held against all its operations.
	promise float64
	// cold says that the function must run in every operation: the keys are new.
	cold bool
	// before, where it is not nil, makes ready for a turn, outside its time.
	before func() error
	// stores says that the results of runs are stored, and that a turn ends no
	// sooner: some store them behind the caller's back.
	stores bool
	note   string // what a reader must know of the contender

	wrong       atomic.Int64 // operations, since the last remark; so are
	extra, lost int
}

// contender returns do from the callers of l, under the watch's eyes.
func (w *watch) contender(l *load, name string, do op) contender {
	return contender{name, func(length time.Duration) (turn, error) { return w.turn(l, do, length) }, w.remark}
}

func (w *watch) turn(l *load, do op, length time.Duration) (turn, error) {
	if w.before != nil {
		if err := w.before(); err != nil {
			return turn{}, err
		}
	}
	runs, keys := w.runs(), 0
	if w.stores {
		var err error
		if keys, err = w.probe.keys(); err != nil {
			return turn{}, err
		}
	}
	before, err := w.probe.count()
	if err != nil {
		return turn{}, err
	}
	t, err := l.turn(w.checked(do), length)
	if err != nil {
		return t, err
	}
	if w.stores {
		if err := w.drain(&t, keys+int(w.runs()-runs)); err != nil {
			return t, err
		}
	}
	return t, w.count(&t, runs, before)
}

// drain waits for the results that are to be stored. The time that it takes is
// the contender's.
func (w *watch) drain(t *turn, keys int) error {
	begun := time.Now()
	missing, err := w.probe.await(keys)
	w.lost += missing
	if missing == 0 { // else it is the wait for nothing
		took := t.ops / t.rate
		t.rate = t.ops / (took + time.Since(begun).Seconds())
	}
	return err
}

// count puts into the turn what happened in it.
func (w *watch) count(t *turn, runs float64, before count) error {
	after, err := w.probe.count()
	if err != nil {
		return err
	}
	done := after.since(w.probe, before)
	t.commands, t.reads = done.commands/t.ops, done.reads/t.ops
	if w.source == nil {
		return nil
	}
	runs = w.runs() - runs
	t.runs = runs / t.ops
	if w.cold && runs < t.ops {
		return fmt.Errorf("the function ran %.0f times in %.0f operations on keys that nobody should have", runs, t.ops)
	}
	w.extra += int(max(math.Round(runs-w.promise*t.ops), 0))
	return nil
}

func (w *watch) runs() float64 {
	if w.source == nil {
		return 0
	}
	return float64(w.source.runs.Load())
}

// checked is do whose wrong values are counted.
func (w *watch) checked(do op) op {
	return func(ctx context.Context, n int) error {
		err := do(ctx, n)
		if errors.Is(err, errWrong) {
			w.wrong.Add(1)
			return nil
		}
		return err
	}
}

// remark says what a reader of the figures must know, and first what is wrong
// that it has not said yet.
func (w *watch) remark() (remark string, faulty bool) {
	var words []string
	wrong, extra, lost := w.wrong.Swap(0), w.extra, w.lost
	w.extra, w.lost = 0, 0
	for _, f := range []struct {
		n      int
		format string
	}{
		{int(wrong), "WRONG in %d operations"},
		{extra, "RAN THE FUNCTION %d TIMES TOO OFTEN"},
		{lost, "LOST %d results"},
	} {
		if f.n > 0 {
			words = append(words, fmt.Sprintf(f.format, f.n))
		}
	}
	faulty = len(words) > 0
	if w.note != "" {
		words = append(words, w.note)
	}
	return strings.Join(words, "; "), faulty
}
