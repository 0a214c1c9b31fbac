package snapshot_test

import (
	"maps"
	"sync"
	"testing"

	"github.com/gocaches/caches/internal/snapshot"
	"github.com/stretchr/testify/require"
)

// Replacements do not lose each other, and a loaded value never changes.
func TestReplace(t *testing.T) {
	var counts snapshot.Of[map[int]int]
	require.Nil(t, counts.Load())
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 100 {
				counts.Replace(func(current map[int]int) map[int]int {
					next := maps.Clone(current)
					if next == nil {
						next = make(map[int]int)
					}
					next[i]++
					return next
				})
			}
		})
	}
	writers.Wait()
	loaded := counts.Load()
	for i := range 8 {
		require.Equal(t, 100, loaded[i])
	}
	counts.Replace(func(map[int]int) map[int]int { return nil })
	require.Nil(t, counts.Load())
	require.Len(t, loaded, 8, "a loaded value stays")
}
