//go:build !race

package caches_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// No key is made for a serializer that does not want one.
func TestOrdinarySerializersCostNoKey(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://?prefix=app")
	costs := func(s caches.Serializer) float64 {
		v := caches.Cache[string]{Prefix: "a prefix of over 32 bytes, which no stack keeps", Serializer: s}.On(conn).Key(1)
		require.NoError(t, v.Set(ctx, ""))
		return testing.AllocsPerRun(1000, func() { _, _ = v.Get(ctx) })
	}
	plain := costs(hexSerializer{})
	require.InDelta(t, plain, costs(caches.Compressed(hexSerializer{}, nil)), 0.5)
	require.Greater(t, costs(keyNoter{hexSerializer{}, new(atomic.Pointer[string])}), plain)
}

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
