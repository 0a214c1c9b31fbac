package trip

import (
	"context"
	"errors"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTripAsksTheShardsThatAreFilled(t *testing.T) {
	tr := New(3, driver.ReadOnly)
	defer tr.Free()
	first := tr.On(2).Cmd("PING")
	assert.Same(t, first, tr.On(2))
	assert.Equal(t, driver.ReadOnly, first.Mode())
	assert.False(t, tr.Asks(0))
	assert.True(t, tr.Asks(2))
	runs := 0
	require.NoError(t, tr.Run(t.Context(), func(_ context.Context, ps []*driver.Pipeline) []error {
		runs++
		assert.Equal(t, []*driver.Pipeline{nil, nil, first}, ps)
		return nil
	}))
	assert.Equal(t, 1, runs)
	for shard := range 3 {
		assert.NoError(t, tr.Err(shard))
	}
}

func TestTripErrors(t *testing.T) {
	down, full := errors.New("down"), errors.New("full")
	failing := func(errs ...error) (*Trip, error) {
		tr := New(len(errs), 0)
		return tr, tr.Run(t.Context(), func(context.Context, []*driver.Pipeline) []error { return errs })
	}
	tr, err := failing(down, nil, full)
	assert.EqualError(t, err, "down\nfull")
	assert.Equal(t, []error{down, nil, full}, []error{tr.Err(0), tr.Err(1), tr.Err(2)})
	tr, err = failing(down)
	assert.Same(t, down, err, "the error of a single shard is not wrapped")
	assert.Same(t, down, tr.Err(0))
}
