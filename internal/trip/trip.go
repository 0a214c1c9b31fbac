// Package trip makes one round trip to several shards, with a pipeline for each
// shard that is asked.
//
// A trip has four steps: the commands are written to the pipelines of On, Run sends
// all of them at once, the replies are read from On in the same order, and Free
// ends the trip.
package trip

import (
	"context"
	"errors"

	"github.com/gocaches/caches/driver"
)

// A Trip is one round trip to some of the shards. It is for one goroutine.
type Trip struct {
	mode driver.Mode
	ps   []*driver.Pipeline // by shard; nil for a shard that is not asked
	errs []error            // by shard, once Run has returned; nil if none failed
}

// New returns a trip to some of the shards, which asks none yet. The pipelines have
// the given mode.
func New(shards int, mode driver.Mode) *Trip {
	return &Trip{mode: mode, ps: make([]*driver.Pipeline, shards)}
}

// On returns the pipeline of a shard, which from now on is asked.
func (t *Trip) On(shard int) *driver.Pipeline {
	if t.ps[shard] == nil {
		t.ps[shard] = driver.NewPipeline(t.mode)
	}
	return t.ps[shard]
}

// Asks reports whether a shard is asked.
func (t *Trip) Asks(shard int) bool { return t.ps[shard] != nil }

// Run sends all pipelines by do, and returns the errors of the shards that failed as
// one. do runs ps[i] on shard i, skips nil entries, and returns when all are done.
// Its result has the error of each shard, and is nil if there is none.
func (t *Trip) Run(ctx context.Context, do func(ctx context.Context, ps []*driver.Pipeline) []error) error {
	if t.errs = do(ctx, t.ps); len(t.errs) == 1 {
		return t.errs[0]
	}
	return errors.Join(t.errs...)
}

// Err returns the error of a shard after Run, nil if it has answered or was not
// asked.
func (t *Trip) Err(shard int) error {
	if t.errs == nil {
		return nil
	}
	return t.errs[shard]
}

// Free frees the pipelines. Views of the replies are invalid afterwards.
func (t *Trip) Free() {
	for _, p := range t.ps {
		if p != nil {
			p.Free()
		}
	}
}
