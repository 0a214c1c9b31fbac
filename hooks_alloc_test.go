//go:build !race

package caches_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// Without hooks an operation allocates for its answer alone: hooks and counters
// cost no memory. The race detector has pools forget at random, which allocates.
func TestHooksCostNothingWhenNil(t *testing.T) {
	conn := open(t, "locmem://")
	flag := caches.Cache[bool]{Prefix: "flag", Serializer: caches.Raw}.On(conn).Key(1)
	ctx := t.Context()
	require.NoError(t, flag.Set(ctx, true))
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = flag.Exists(ctx) }))

	hooks := &caches.Hooks{Call: func(context.Context, *caches.CallInfo) {}}
	hooked, err := caches.ConnOptions{Hooks: hooks}.Open("locmem://")
	require.NoError(t, err)
	defer func() { require.NoError(t, hooked.Close()) }()
	heard := flag.On(hooked)
	require.NoError(t, heard.Set(ctx, true))
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { _, _ = heard.Exists(ctx) }), 1.0)
}
