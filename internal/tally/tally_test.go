package tally_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/internal/tally"
)

func TestTally(t *testing.T) {
	for _, tt := range []struct {
		what string
		add  func(*tally.Tally)
		want map[tally.Counter]int64
	}{
		{"a sum over cells", func(a *tally.Tally) {
			for range 1000 {
				a.Add(tally.Swallowed, 2)
			}
		}, map[tally.Counter]int64{tally.Swallowed: 2000}},
		{"a look-up", func(a *tally.Tally) { a.Call(tally.StaleHit, false) }, map[tally.Counter]int64{tally.StaleHit: 1}},
		{"a miss is no failure", func(a *tally.Tally) { a.Call(tally.Miss, true) }, map[tally.Counter]int64{tally.Miss: 1}},
		{"without a look-up", func(a *tally.Tally) { a.Call(tally.Other, false) }, map[tally.Counter]int64{tally.Other: 1}},
		{"a failure", func(a *tally.Tally) { a.Call(tally.Other, true) }, map[tally.Counter]int64{tally.Error: 1}},
		{"many keys", func(a *tally.Tally) { a.Many(3, 2, true) }, map[tally.Counter]int64{tally.Hit: 3, tally.Miss: 2, tally.Error: 1}},
		{"many keys that succeed", func(a *tally.Tally) { a.Many(3, 2, false) }, map[tally.Counter]int64{tally.Hit: 3, tally.Miss: 2}},
		{"many keys without a look-up", func(a *tally.Tally) { a.Many(0, 0, true) }, map[tally.Counter]int64{tally.Error: 1}},
		{"a load", func(a *tally.Tally) { a.Loaded(time.Second, false, false) }, map[tally.Counter]int64{tally.Load: 1, tally.LoadTime: 1e9}},
		{"a load that failed", func(a *tally.Tally) { a.Loaded(0, true, true) }, map[tally.Counter]int64{
			tally.Load: 1, tally.LoadError: 1, tally.Dropped: 1,
		}},
	} {
		var a tally.Tally
		tt.add(&a)
		var want tally.Counts
		for c, n := range tt.want {
			want[c] = n
		}
		require.Equal(t, want, a.Counts(), tt.what)
	}
}

// Each type has one tally, whichever goroutine asks first, and the number of types
// is bounded.
func TestSet(t *testing.T) {
	var set tally.Set
	require.Empty(t, set.All())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1010 {
				set.Of(fmt.Sprint("type ", i)).Add(tally.Hit, 1)
			}
		})
	}
	all.Wait()
	require.Len(t, set.All(), 1001)
	total := int64(0)
	for _, a := range set.All() {
		total += a.Counts()[tally.Hit]
	}
	require.Equal(t, int64(4*1010), total)
	require.Equal(t, int64(40), set.All()["(others)"].Counts()[tally.Hit])
	require.Same(t, set.All()["(others)"], set.Of("one more"))
}
