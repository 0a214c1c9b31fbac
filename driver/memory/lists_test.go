package memory_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gocaches/caches/driver/memory"
	"github.com/stretchr/testify/require"
)

// TestListGrowsAndShrinks compares a list with a slice, while it grows to thousands of
// elements and shrinks again, wherever in its ring it begins.
func TestListGrowsAndShrinks(t *testing.T) {
	seed := uint64(envInt(t, "CACHES_TEST_SEED", time.Now().UnixNano()))
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := open(t, memory.Options{})
	var want []string
	for round := range 60 {
		grows := round%20 < 10
		for range 50 {
			var c []string
			if (r.IntN(4) > 0) == grows {
				c = []string{"RPUSH", "l"}
				for range 1 + r.IntN(20) {
					c = append(c, fmt.Sprint(r.IntN(100)))
				}
				if want = append(want, c[2:]...); r.IntN(2) == 0 {
					c[0] = "LPUSH"
					want = slices.Concat(reversed(c[2:]), want[:len(want)-len(c)+2])
				}
			} else {
				n := r.IntN(25)
				c = []string{"LPOP", "l", fmt.Sprint(n)}
				if n = min(n, len(want)); r.IntN(2) == 0 {
					c[0] = "RPOP"
					want = want[:len(want)-n]
				} else {
					want = want[n:]
				}
			}
			run(t, s, 0, c)
		}
		got := elements(one(t, s, "LRANGE l 0 -1"))
		require.Len(t, got, len(want), "round %d", round)
		for i, e := range want {
			require.Equal(t, fmt.Sprintf("%q", e), got[i], "round %d, element %d", round, i)
		}
		memory.Check(t, s)
	}
}

func reversed(s []string) []string {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}
