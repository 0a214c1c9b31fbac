package caches_test

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// sortedSetKind is a sorted set of a, b and c, and its operations.
func sortedSetKind(conn *caches.Conn, o caches.Options) kindOn {
	t := caches.SortedSetCache[string](o).On(conn)
	return kindOn{func(key ...any) subject { return sortedSetSubject(t.Key(key...)) }, sortedSetSubject(caches.SortedSet[string]{}.On(conn)), t.Clear}
}

func sortedSetSubject(s caches.SortedSet[string]) subject {
	fill := func(ctx context.Context) error {
		return errOf(s.Add(ctx, scored("a", 1), scored("b", 2), scored("c", 3)))
	}
	empty := func(ctx context.Context) error {
		for range 3 {
			if _, err := s.PopMin(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	inf := math.Inf(1)
	return subject{s, fill, empty, []act{
		{"Add", stores, func(ctx context.Context) error { return errOf(s.Add(ctx, scored("new", 1))) }},
		{"Add of a member that is there", stores, func(ctx context.Context) error { return errOf(s.Add(ctx, scored("a", 1))) }},
		{"AddIf IfNew", stores, func(ctx context.Context) error { return errOf(s.AddIf(ctx, caches.IfNew, scored("new", 1))) }},
		{"AddIf Greater", stores, func(ctx context.Context) error { return errOf(s.AddIf(ctx, caches.IfGreater, scored("new", 1))) }},
		{"Update", stores, func(ctx context.Context) error { return errOf(s.Update(ctx, map[string]float64{"new": 1})) }},
		{"Incr", stores, func(ctx context.Context) error { return errOf(s.Incr(ctx, "new", 1)) }},
		{"Score", reads, func(ctx context.Context) error { return errOf(s.Score(ctx, "a")) }},
		{"Contains", reads, func(ctx context.Context) error { return errOf(s.Contains(ctx, "no")) }},
		{"Rank", reads, func(ctx context.Context) error { return errOf(s.Rank(ctx, "a")) }},
		{"RevRank", reads, func(ctx context.Context) error { return errOf(s.RevRank(ctx, "a")) }},
		{"Count", reads, func(ctx context.Context) error { return errOf(s.Count(ctx, 0, inf)) }},
		{"Range", reads, func(ctx context.Context) error { return errOf(s.Range(ctx, 0, -1)) }},
		{"RevRange", reads, func(ctx context.Context) error { return errOf(s.RevRange(ctx, 0, -1)) }},
		{"RangeByScore", reads, func(ctx context.Context) error { return errOf(s.RangeByScore(ctx, 0, inf)) }},
		{"RevRangeByScore", reads, func(ctx context.Context) error { return errOf(s.RevRangeByScore(ctx, 0, inf)) }},
		{"Copy", reads, func(ctx context.Context) error { return errOf(s.Copy(ctx)) }},
		{"All", reads, func(ctx context.Context) error { return errEnd2(s.All(ctx)) }},
		{"Backward", reads, func(ctx context.Context) error { return errEnd2(s.Backward(ctx)) }},
		{"Chunk", reads, func(ctx context.Context) error { return errEnd(s.Chunk(ctx, 0, 0, 0)) }},
		{"PopMin", leaves, func(ctx context.Context) error { return errOf(s.PopMin(ctx)) }},
		{"PopMax", leaves, func(ctx context.Context) error { return errOf(s.PopMax(ctx)) }},
		{"PopMinN", leaves, func(ctx context.Context) error { return errOf(s.PopMinN(ctx, 2)) }},
		{"PopMaxN", leaves, func(ctx context.Context) error { return errOf(s.PopMaxN(ctx, 2)) }},
		{"Remove", leaves, func(ctx context.Context) error { return errOf(s.Remove(ctx, "a", "no")) }},
		{"RemoveRange", leaves, func(ctx context.Context) error { return errOf(s.RemoveRange(ctx, 0, 1)) }},
		{"RemoveRangeByScore", leaves, func(ctx context.Context) error { return errOf(s.RemoveRangeByScore(ctx, 1, 2)) }},
		{"Trim", leaves, func(ctx context.Context) error { return errOf(s.Trim(ctx, 2)) }},
		{"Len", leaves, func(ctx context.Context) error { return errOf(s.Len(ctx)) }},
	}, []act{
		{"Add", leaves, func(ctx context.Context) error { return none(s.Add(ctx)) }},
		{"AddIf", leaves, func(ctx context.Context) error { return none(s.AddIf(ctx, caches.IfGreater)) }},
		{"Update", leaves, func(ctx context.Context) error { return none(s.Update(ctx, nil)) }},
		{"Remove", leaves, func(ctx context.Context) error { return none(s.Remove(ctx)) }},
		{"PopMinN", leaves, func(ctx context.Context) error { return none(s.PopMinN(ctx, 0)) }},
		{"PopMaxN", leaves, func(ctx context.Context) error { return none(s.PopMaxN(ctx, 0)) }},
	}, func(ctx context.Context, n int) error {
		items := make([]caches.Scored[string], n)
		for i, member := range numerals(n) {
			items[i] = scored(member, float64(i))
		}
		return errOf(s.Add(ctx, items...))
	}}
}

func scored[T comparable](member T, score float64) caches.Scored[T] {
	return caches.Scored[T]{Score: score, Member: member}
}

// board makes a sorted set of strings with the given members, in their order,
// and the scores 0, 1, 2, …
func board(t *testing.T, ctx context.Context, conn *caches.Conn, key string, members ...string) caches.SortedSet[string] {
	t.Helper()
	s := caches.SortedSetCache[string]{Prefix: "board"}.On(conn).Key(key)
	for i, member := range members {
		require.Equal(t, 1, ask(s.Add(ctx, scored(member, float64(i)))).ok(t))
	}
	return s
}

// names are the members of items, joined.
func names(items []caches.Scored[string]) (joined string) {
	for _, item := range items {
		joined += item.Member
	}
	return joined
}

func TestSortedSetOperations(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := board(t, ctx, conn, "it")

		// Nothing is there.
		requireLen(t, ctx, s, 0)
		for name, err := range map[string]error{
			"Score": errOf(s.Score(ctx, "a")), "Rank": errOf(s.Rank(ctx, "a")), "RevRank": errOf(s.RevRank(ctx, "a")),
			"PopMin": errOf(s.PopMin(ctx)), "PopMax": errOf(s.PopMax(ctx)),
		} {
			require.ErrorIs(t, err, caches.ErrMiss, name)
		}
		require.False(t, ask(s.Contains(ctx, "a")).ok(t))
		require.Empty(t, ask(s.PopMinN(ctx, 3)).ok(t))
		require.Empty(t, ask(s.PopMaxN(ctx, 3)).ok(t))
		require.Empty(t, ask(s.Range(ctx, 0, -1)).ok(t))
		require.Empty(t, ask(s.Copy(ctx)).ok(t))
		require.Zero(t, ask(s.Count(ctx, math.Inf(-1), math.Inf(1))).ok(t))
		require.Zero(t, ask(s.Trim(ctx, 0)).ok(t))
		require.Zero(t, ask(s.RemoveRange(ctx, 0, -1)).ok(t))

		// Members are counted when they are new, and the last score counts.
		require.Equal(t, 2, ask(s.Add(ctx, scored("a", 3), scored("b", 1), scored("a", 2))).ok(t))
		require.Equal(t, 1, ask(s.Update(ctx, map[string]float64{"a": 2, "b": 1, "c": 3})).ok(t))
		require.Equal(t, 2.0, ask(s.Score(ctx, "a")).ok(t))
		require.Equal(t, 0, ask(s.Rank(ctx, "b")).ok(t))
		require.Equal(t, 2, ask(s.RevRank(ctx, "b")).ok(t))
		require.ErrorIs(t, errOf(s.Score(ctx, "no")), caches.ErrMiss)
		require.ErrorIs(t, errOf(s.Rank(ctx, "no")), caches.ErrMiss)
		require.ErrorIs(t, errOf(s.RevRank(ctx, "no")), caches.ErrMiss)
		require.True(t, ask(s.Contains(ctx, "a")).ok(t))
		require.Equal(t, map[string]float64{"a": 2, "b": 1, "c": 3}, ask(s.Copy(ctx)).ok(t))

		require.Equal(t, 3.5, ask(s.Incr(ctx, "a", 1.5)).ok(t))
		require.Equal(t, -0.25, ask(s.Incr(ctx, "d", -0.25)).ok(t))
		require.Equal(t, []caches.Scored[string]{scored("d", -0.25), scored("b", 1), scored("c", 3), scored("a", 3.5)}, ask(s.Range(ctx, 0, -1)).ok(t))

		require.Equal(t, scored("d", -0.25), ask(s.PopMin(ctx)).ok(t))
		require.Equal(t, scored("a", 3.5), ask(s.PopMax(ctx)).ok(t))
		require.Equal(t, 1, ask(s.Remove(ctx, "no", "b", "b")).ok(t))
		require.Equal(t, map[string]float64{"c": 3}, ask(s.Copy(ctx)).ok(t))
	})
}

func TestSortedSetRanges(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := board(t, ctx, conn, "ranges", "a", "b", "c", "d", "e") // scores 0 to 4
		for _, tt := range []struct {
			start, stop int
			want, rev   string
		}{
			{0, -1, "abcde", "edcba"}, {0, 0, "a", "e"}, {1, 3, "bcd", "dcb"}, {-2, -1, "de", "ba"}, {-100, 100, "abcde", "edcba"},
			{3, 1, "", ""}, {5, 9, "", ""}, {-1, 0, "", ""}, {-1, -1, "e", "a"}, {0, -6, "", ""}, {math.MinInt, math.MaxInt, "abcde", "edcba"},
		} {
			require.Equal(t, tt.want, names(ask(s.Range(ctx, tt.start, tt.stop)).ok(t)), "Range(%d, %d)", tt.start, tt.stop)
			require.Equal(t, tt.rev, names(ask(s.RevRange(ctx, tt.start, tt.stop)).ok(t)), "RevRange(%d, %d)", tt.start, tt.stop)
		}
		inf := math.Inf(1)
		for _, tt := range []struct {
			min, max  float64
			want, rev string
		}{
			{-inf, inf, "abcde", "edcba"}, {1, 3, "bcd", "dcb"}, {2, 2, "c", "c"}, {3, 1, "", ""}, {2.5, 2.75, "", ""}, {-5, 0, "a", "a"},
			{math.Copysign(0, -1), 0.5, "a", "a"}, {3.5, inf, "e", "e"}, {-inf, -inf, "", ""},
		} {
			require.Equal(t, tt.want, names(ask(s.RangeByScore(ctx, tt.min, tt.max)).ok(t)), "RangeByScore(%v, %v)", tt.min, tt.max)
			require.Equal(t, tt.rev, names(ask(s.RevRangeByScore(ctx, tt.min, tt.max)).ok(t)), "RevRangeByScore(%v, %v)", tt.min, tt.max)
			require.Equal(t, len(tt.want), ask(s.Count(ctx, tt.min, tt.max)).ok(t), "Count(%v, %v)", tt.min, tt.max)
		}
	})
}

func TestSortedSetRemoveRanges(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		inf := math.Inf(1)
		for i, tt := range []struct {
			remove func(s caches.SortedSet[string]) (int, error)
			want   string
		}{
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRange(ctx, 1, 2) }, "ade"},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRange(ctx, -2, -1) }, "abc"},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRange(ctx, 3, 1) }, "abcde"},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRange(ctx, 0, -1) }, ""},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRangeByScore(ctx, 1, 3) }, "ae"},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRangeByScore(ctx, 3, 1) }, "abcde"},
			{func(s caches.SortedSet[string]) (int, error) { return s.RemoveRangeByScore(ctx, -inf, inf) }, ""},
			{func(s caches.SortedSet[string]) (int, error) { return s.Trim(ctx, 2) }, "de"},
			{func(s caches.SortedSet[string]) (int, error) { return s.Trim(ctx, 5) }, "abcde"},
			{func(s caches.SortedSet[string]) (int, error) { return s.Trim(ctx, math.MaxInt) }, "abcde"},
			{func(s caches.SortedSet[string]) (int, error) { return s.Trim(ctx, 0) }, ""},
		} {
			s := board(t, ctx, conn, strconv.Itoa(i), "a", "b", "c", "d", "e")
			require.Equal(t, 5-len(tt.want), ask(tt.remove(s)).ok(t), i)
			require.Equal(t, tt.want, names(ask(s.Range(ctx, 0, -1)).ok(t)), i)
		}
	})
}

func TestSortedSetPopN(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := board(t, ctx, conn, "pop", "a", "b", "c", "d", "e", "f")
		require.Empty(t, ask(s.PopMinN(ctx, 0)).ok(t))
		require.Empty(t, ask(s.PopMaxN(ctx, 0)).ok(t))
		require.Equal(t, []caches.Scored[string]{scored("a", 0), scored("b", 1)}, ask(s.PopMinN(ctx, 2)).ok(t))
		require.Equal(t, []caches.Scored[string]{scored("f", 5), scored("e", 4)}, ask(s.PopMaxN(ctx, 2)).ok(t))
		require.Equal(t, "cd", names(ask(s.PopMinN(ctx, 100)).ok(t)))
		requireLen(t, ctx, s, 0)
		for name, err := range map[string]error{
			"PopMinN": errOf(s.PopMinN(ctx, -1)), "PopMaxN": errOf(s.PopMaxN(ctx, -1)), "Trim": errOf(s.Trim(ctx, -1)),
			"Chunk limit": errEnd(s.Chunk(ctx, -1, 0, 0)), "Chunk offset": errEnd(s.Chunk(ctx, 0, -1, 0)), "Chunk size": errEnd(s.Chunk(ctx, 0, 0, -1)),
		} {
			require.ErrorContains(t, err, "the number of elements, -1, is negative", name)
		}
	})
}

// What AddIf does with a new member, and with one that is there when the score
// is lower, the same and higher: the rules of ZADD.
func TestSortedSetAddIf(t *testing.T) {
	const c = 5.0 // the score that is there
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, tt := range []struct {
			condition              caches.Condition
			added                  bool // a new member
			lower, same, higher    float64
			lowerN, sameN, higherN int
		}{
			{0, true, c - 1, c, c + 1, 1, 0, 1},
			{caches.IfNew, true, c, c, c, 0, 0, 0},
			{caches.IfExisting, false, c - 1, c, c + 1, 1, 0, 1},
			{caches.IfGreater, true, c, c, c + 1, 0, 0, 1},
			{caches.IfLess, true, c - 1, c, c, 1, 0, 0},
			{caches.IfExisting | caches.IfGreater, false, c, c, c + 1, 0, 0, 1},
			{caches.IfExisting | caches.IfLess, false, c - 1, c, c, 1, 0, 0},
		} {
			s := board(t, ctx, conn, strconv.Itoa(int(tt.condition)))
			for _, there := range []struct {
				score, want float64
				changed     int
			}{{c - 1, tt.lower, tt.lowerN}, {c, tt.same, tt.sameN}, {c + 1, tt.higher, tt.higherN}} {
				ask(s.Add(ctx, scored("m", c))).ok(t)
				require.Equal(t, there.changed, ask(s.AddIf(ctx, tt.condition, scored("m", there.score))).ok(t), "%d %v", tt.condition, there.score)
				require.Equal(t, there.want, ask(s.Score(ctx, "m")).ok(t), "%d %v", tt.condition, there.score)
			}
			n := ask(s.AddIf(ctx, tt.condition, scored("new", 7))).ok(t)
			require.Equal(t, tt.added, n == 1, tt.condition)
			require.Equal(t, tt.added, ask(s.Contains(ctx, "new")).ok(t), tt.condition)
		}
		s := board(t, ctx, conn, "refused")
		for _, condition := range []caches.Condition{
			caches.IfNew | caches.IfExisting, caches.IfNew | caches.IfGreater, caches.IfNew | caches.IfLess, caches.IfGreater | caches.IfLess,
			caches.IfExisting | caches.IfGreater | caches.IfLess, 1 << 4, 1<<7 | caches.IfGreater,
		} {
			require.ErrorContains(t, errOf(s.AddIf(ctx, condition, scored("m", 1))), "SortedSet.AddIf", condition)
		}
		require.Equal(t, 2, ask(s.AddIf(ctx, caches.IfGreater, scored("m", 1), scored("n", 1))).ok(t), "several at once")
		require.Equal(t, 1, ask(s.AddIf(ctx, caches.IfGreater, scored("m", 0), scored("n", 2))).ok(t))
	})
}

func TestSortedSetScores(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		inf, minus := math.Inf(1), math.Copysign(0, -1)
		for _, fill := range []int{0, 200} { // as a list and as a tree: Redis words them differently
			s := board(t, ctx, conn, fmt.Sprint("scores", fill))
			for i := range fill {
				ask(s.Add(ctx, scored(fmt.Sprint("fill", i), 1000))).ok(t)
			}
			for i, score := range []float64{0.1, -0.1, 1 << 53, -(1 << 53), 1e-300, math.MaxFloat64, 5e-324, inf, -inf, 0, 1.0 / 3, 123456789.125, 1e17, 1e21} {
				member := fmt.Sprint("m", i)
				ask(s.Add(ctx, scored(member, score))).ok(t)
				require.Equal(t, score, ask(s.Score(ctx, member)).ok(t))
				require.Equal(t, []caches.Scored[string]{scored(member, score)}, ask(s.RangeByScore(ctx, score, score)).ok(t))
				require.Equal(t, 1, ask(s.Remove(ctx, member)).ok(t))
			}

			ask(s.Add(ctx, scored("zero", minus))).ok(t)
			for _, score := range []float64{
				ask(s.Score(ctx, "zero")).ok(t), ask(s.Copy(ctx)).ok(t)["zero"], ask(s.RangeByScore(ctx, 0, 0)).ok(t)[0].Score,
				ask(s.Incr(ctx, "zero", minus)).ok(t), ask(s.Incr(ctx, "other", minus)).ok(t), ask(s.PopMin(ctx)).ok(t).Score,
			} {
				require.False(t, math.Signbit(score), "negative zero is zero")
			}
			require.NoError(t, errOf(conn.Do(ctx, "ZADD", s.String(), "-0", "foreign"))) // as another program may
			require.False(t, math.Signbit(ask(s.Score(ctx, "foreign")).ok(t)))
			require.False(t, math.Signbit(ask(s.Copy(ctx)).ok(t)["foreign"]))
			for _, err := range []error{
				errOf(s.Add(ctx, scored("m", math.NaN()))), errOf(s.Incr(ctx, "m", math.NaN())), errOf(s.Count(ctx, 0, math.NaN())),
				errOf(s.RangeByScore(ctx, math.NaN(), 0)), errOf(s.RevRangeByScore(ctx, math.NaN(), 0)), errOf(s.RemoveRangeByScore(ctx, 0, math.NaN())),
				errOf(s.AddIf(ctx, caches.IfGreater, scored("m", math.NaN()))), errOf(s.Update(ctx, map[string]float64{"m": math.NaN()})),
			} {
				require.ErrorIs(t, err, caches.ErrNotNumber)
			}
			ask(s.Add(ctx, scored("inf", inf))).ok(t)
			if !onFake(t) {
				require.ErrorIs(t, errOf(s.Incr(ctx, "inf", -inf)), caches.ErrOverflow, "it would be no number")
				require.Equal(t, inf, ask(s.Score(ctx, "inf")).ok(t))
			}
			require.False(t, ask(s.Contains(ctx, "m")).ok(t))
		}
	})
}

func TestSortedSetCorrupt(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "corrupt"}
		texts := caches.SortedSetCache[string](o).On(conn).Key("it")
		ints := caches.SortedSetCache[int](o).On(conn).Key("it")
		require.Equal(t, 1, ask(texts.Add(ctx, scored("three", 3))).ok(t))
		for name, err := range map[string]error{
			"Range": errOf(ints.Range(ctx, 0, -1)), "Copy": errOf(ints.Copy(ctx)), "All": errEnd2(ints.All(ctx)),
			"Chunk": errEnd(ints.Chunk(ctx, 0, 0, 0)), "PopMin": errOf(ints.PopMin(ctx)),
		} {
			require.ErrorIs(t, err, caches.ErrCorrupt, name)
			require.ErrorContains(t, err, "corrupt.it", name)
			require.NotContains(t, err.Error(), "three", name)
		}
	})
}

// ties puts n members of one score between lower and higher ones, and returns
// all of them in order.
func ties(t *testing.T, ctx context.Context, s caches.SortedSet[string], n int) []caches.Scored[string] {
	t.Helper()
	items := []caches.Scored[string]{scored("low", math.Inf(-1)), scored("lower", -1)}
	for i := range n {
		items = append(items, scored(fmt.Sprintf("tie%04d", i), 7))
	}
	items = append(items, scored("high", 7.5), scored("higher", math.Inf(1)))
	require.Equal(t, len(items), ask(s.Add(ctx, items...)).ok(t))
	return items
}

// collected runs through an iterator and calls each with what it gives, before
// it goes on.
func collected(t *testing.T, all iter.Seq2[string, float64], end func() error, each func(i int, item caches.Scored[string])) []caches.Scored[string] {
	t.Helper()
	var seen []caches.Scored[string]
	for member, score := range all {
		seen = append(seen, scored(member, score))
		if each != nil {
			each(len(seen)-1, seen[len(seen)-1])
		}
	}
	require.NoError(t, end())
	return seen
}

func reversed[T any](s []T) []T {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

func TestSortedSetAll(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, n := range []int{0, 1, 245, 246, 247, 1000} { // around a page with the four others
			s := board(t, ctx, conn, fmt.Sprint("all", n))
			items := ties(t, ctx, s, n)
			all, end := s.All(ctx)
			require.Equal(t, items, collected(t, all, end, nil), n)
			require.Equal(t, items, collected(t, all, end, nil), "again")
			backward, end := s.Backward(ctx)
			require.Equal(t, reversed(items), collected(t, backward, end, nil), n)
		}
		s := board(t, ctx, conn, "none")
		all, end := s.All(ctx)
		require.Empty(t, collected(t, all, end, nil))
	})
}

// Scores at both ends, more than a page of each: a page ends at an infinity.
func TestSortedSetAllInfinities(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, remove := range []bool{false, true} {
			s := board(t, ctx, conn, fmt.Sprint("infinities", remove))
			var items []caches.Scored[string]
			for _, score := range []float64{math.Inf(-1), 0, math.Inf(1)} {
				for i := range 300 {
					items = append(items, scored(fmt.Sprintf("m%v %03d", score, i), score))
				}
			}
			require.Equal(t, 900, ask(s.Add(ctx, items...)).ok(t))
			backward, end := s.Backward(ctx)
			require.Equal(t, reversed(items), collected(t, backward, end, nil))
			all, end := s.All(ctx)
			require.Equal(t, items, collected(t, all, end, func(_ int, item caches.Scored[string]) {
				if remove { // the page's last goes too, so that the next one starts from its score
					require.Equal(t, 1, ask(s.Remove(ctx, item.Member)).ok(t))
				}
			}))
		}
	})
}

// Whatever happens to the members around it, a member that stays where it is is
// seen once, in order: also where the one at which a page ended is gone or has
// another score, among a thousand of one score.
func TestSortedSetAllWhileChanged(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		var last []string // that were seen and are still there
		for name, change := range map[string]func(s caches.SortedSet[string], i int, item caches.Scored[string]) []string{
			"remove what was seen": func(s caches.SortedSet[string], i int, item caches.Scored[string]) []string {
				if i == 0 {
					last = nil
				}
				if last = append(last, item.Member); len(last) == 5 { // the last of a page is the fifth
					require.Equal(t, 5, ask(s.Remove(ctx, last...)).ok(t))
					last = nil
				}
				return nil
			},
			"remove what a page may end with": func(s caches.SortedSet[string], i int, item caches.Scored[string]) []string {
				if i%125 == 124 {
					require.Equal(t, 1, ask(s.Remove(ctx, item.Member)).ok(t))
				}
				return nil
			},
			"rescore what was seen": func(s caches.SortedSet[string], i int, item caches.Scored[string]) []string {
				if i%125 == 124 { // to below, or above, all others: then it may be seen again
					ask(s.Add(ctx, scored(item.Member, float64(100-200*(i%2))))).ok(t)
					return []string{item.Member}
				}
				return nil
			},
			"pop at both ends": func(s caches.SortedSet[string], i int, _ caches.Scored[string]) []string {
				if i%100 != 99 {
					return nil
				}
				var gone []string
				for _, item := range append(ask(s.PopMinN(ctx, 20)).ok(t), ask(s.PopMaxN(ctx, 20)).ok(t)...) {
					gone = append(gone, item.Member)
				}
				return gone
			},
			"add on all sides": func(s caches.SortedSet[string], i int, _ caches.Scored[string]) []string {
				if i%10 != 9 {
					return nil
				}
				added := []string{fmt.Sprint("new", i), fmt.Sprintf("tie%04d+", i), fmt.Sprintf("tie%04d+", 999-i)}
				ask(s.Add(ctx, scored(added[0], -5), scored(added[1], 7), scored(added[2], 7))).ok(t)
				return added
			},
		} {
			for direction, iterate := range map[string]func(caches.SortedSet[string], context.Context) (iter.Seq2[string, float64], func() error){
				"All": caches.SortedSet[string].All, "Backward": caches.SortedSet[string].Backward,
			} {
				s := board(t, ctx, conn, name+direction)
				want := ties(t, ctx, s, 1000)
				if direction == "Backward" {
					slices.Reverse(want)
				}
				disturbing := map[string]bool{}
				all, end := iterate(s, ctx)
				added := 0
				seen := collected(t, all, end, func(i int, item caches.Scored[string]) {
					require.Less(t, i, 4000, "an iteration ends")
					if disturbing[item.Member] {
						return
					}
					for _, member := range change(s, added, item) {
						disturbing[member] = true
					}
					added++
				})
				stays := func(item caches.Scored[string]) bool { return disturbing[item.Member] }
				require.Equal(t, slices.DeleteFunc(want, stays), slices.DeleteFunc(seen, stays), "%s, %s", name, direction)
			}
		}
	})
}

// Members that are there all the time are seen, whatever other callers do.
func TestSortedSetAllWhileWritten(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := caches.SortedSetCache[int]{Prefix: "busy"}.On(conn).Key("sorted")
		disturbed(t, ctx, 600,
			func(ctx context.Context, from, to int) error {
				items := make([]caches.Scored[int], 0, to-from)
				for i := from; i < to; i++ {
					items = append(items, scored(i, float64(i%7)))
				}
				return errOf(s.Add(ctx, items...))
			},
			func(ctx context.Context, members ...int) error { return errOf(s.Remove(ctx, members...)) },
			func(ctx context.Context, see func(int)) error {
				all, end := s.All(ctx)
				all(func(member int, _ float64) bool { see(member); return true })
				return end()
			})
	})
}

func TestSortedSetAllStops(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := board(t, ctx, conn, "stops")
		ties(t, ctx, s, 1000)
		all, end := s.All(ctx)
		seen := 0
		for range all {
			if seen++; seen == 600 {
				break
			}
		}
		require.NoError(t, end())
		require.Equal(t, 600, seen)

		// The key goes, or becomes something else, in the middle.
		seen = 0
		for range all {
			if seen++; seen == 1 {
				require.NoError(t, errOf(s.Delete(ctx)))
			}
		}
		require.NoError(t, end())
		require.Equal(t, 250, seen, "the page that was there")

		ties(t, ctx, s, 1000)
		sliding := caches.SortedSetCache[string]{Prefix: "board", TTL: ownTTL, TTLPolicy: caches.SlideOnRead}.On(conn).Key("stops")
		all, end = sliding.All(ctx)
		text := caches.Cache[string]{Prefix: "board"}.On(conn).Key("stops")
		for range all {
			require.NoError(t, text.Set(ctx, "text"))
		}
		if !onFake(t) { // it was a script's
			require.ErrorIs(t, end(), caches.ErrWrongType)
		}
		require.Error(t, end())
		requireTTL(t, ctx, s, caches.Forever, "what is not one's own is left as it is")

		require.NoError(t, errOf(s.Delete(ctx)))
		ties(t, ctx, s, 1000)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		chunks, end := s.Chunk(ctx, 0, 0, 100)
		seen = 0
		for range chunks {
			cancel()
			seen++
		}
		require.ErrorIs(t, end(), context.Canceled)
		require.Less(t, seen, 10)
	})
}

func TestSortedSetChunk(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := board(t, ctx, conn, "chunk")
		items := ties(t, ctx, s, 1196) // 1200 in all
		for _, tt := range []struct{ limit, offset, size int }{
			{0, 0, 0}, {0, 0, 1}, {0, 0, 7}, {0, 0, 250}, {0, 0, 251}, {0, 0, 1200}, {0, 0, 5000}, {0, 0, math.MaxInt},
			{1, 0, 0}, {10, 0, 3}, {300, 0, 7}, {300, 100, 300}, {1200, 0, 400}, {1201, 0, 400}, {math.MaxInt, 0, math.MaxInt},
			{0, 5, math.MaxInt}, {0, 1199, 10}, {0, 1200, 10}, {0, 5000, 10}, {10, 1195, 4}, {7, math.MaxInt, 3}, {251, 1, 0},
		} {
			want := items[min(tt.offset, len(items)):]
			if tt.limit > 0 {
				want = want[:min(tt.limit, len(want))]
			}
			requireChunks(t, ctx, s, tt.limit, tt.offset, tt.size, want, nil)
		}
	})
}

// requireChunks requires that Chunk gives want, in full slices but for the
// last. Each chunk is given to each, then spoiled: it is the caller's.
func requireChunks(t *testing.T, ctx context.Context, s caches.SortedSet[string], limit, offset, size int, want []caches.Scored[string], each func(chunk []caches.Scored[string])) {
	t.Helper()
	if size == 0 {
		size = 250
	}
	var got []caches.Scored[string]
	last := size
	chunks, end := s.Chunk(ctx, limit, offset, size)
	for chunk := range chunks {
		require.Equal(t, size, last, "only the last may have fewer: (%d, %d, %d)", limit, offset, size)
		require.NotEmpty(t, chunk)
		require.LessOrEqual(t, len(chunk), size)
		last = len(chunk)
		got = append(got, chunk...)
		if each != nil {
			each(slices.Clone(chunk))
		}
		for i := range chunk {
			chunk[i] = scored("spoiled", 0)
		}
		_ = append(chunk, scored("spoiled", 1))
	}
	require.NoError(t, end())
	require.Equal(t, len(want), len(got), "(%d, %d, %d)", limit, offset, size)
	if len(want) > 0 {
		require.Equal(t, want, got, "(%d, %d, %d)", limit, offset, size)
	}
}

// The limit and the size of chunks hold where members go meanwhile, too.
func TestSortedSetChunkWhileChanged(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, tt := range []struct{ limit, offset, size int }{{0, 0, 250}, {260, 0, 250}, {300, 500, 50}, {0, 10, 7}, {0, 1, 600}} {
			for _, every := range []bool{false, true} {
				s := board(t, ctx, conn, fmt.Sprint(tt, every))
				want := ties(t, ctx, s, 1000)[tt.offset:]
				if tt.limit > 0 {
					want = want[:tt.limit]
				}
				requireChunks(t, ctx, s, tt.limit, tt.offset, tt.size, want, func(chunk []caches.Scored[string]) {
					if !every { // only the one at which a page may end: the others stay before the next
						chunk = chunk[len(chunk)-1:]
					}
					require.Equal(t, len(chunk), ask(s.Remove(ctx, membersOf(chunk)...)).ok(t))
				})
			}
		}
	})
}

func TestSortedSetLarge(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := caches.SortedSetCache[int]{Prefix: "large", TTL: time.Hour}.On(conn).Key("sorted")
		want := make(map[int]float64, many)
		for i := range many {
			want[i] = float64(i * 7 % many)
		}
		require.Equal(t, many, ask(s.Update(ctx, want)).ok(t))
		require.Equal(t, want, ask(s.Copy(ctx)).ok(t))
		last, seen := math.Inf(-1), 0
		all, end := s.All(ctx)
		for member, score := range all {
			require.Equal(t, want[member], score)
			require.Less(t, last, score)
			last = score
			seen++
		}
		require.NoError(t, end())
		require.Equal(t, many, seen)
		for policy, want := range map[caches.TTLPolicy]time.Duration{caches.SlideOnRead: ownTTL, caches.FromCreation: otherTTL} {
			require.NoError(t, s.Touch(ctx, otherTTL))
			again := caches.SortedSetCache[int]{Prefix: "large", TTL: ownTTL, TTLPolicy: policy}.On(conn).Key("sorted")
			pages, end := again.Chunk(ctx, 0, 0, many/2)
			for range pages { // each page starts the time again
				requireTTL(t, ctx, s, want, policy.String())
				require.NoError(t, s.Touch(ctx, otherTTL))
			}
			require.NoError(t, end())
		}
		require.NoError(t, s.Touch(ctx, time.Hour))
		require.Equal(t, many-100, ask(s.Trim(ctx, 100)).ok(t))
		require.Equal(t, float64(many-100), ask(s.Range(ctx, 0, 0)).ok(t)[0].Score)
		requireTTL(t, ctx, s, time.Hour)
	})
}
