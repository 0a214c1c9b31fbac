package caches_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// listKind is a list of a, b and c, and its operations.
func listKind(conn *caches.Conn, o caches.Options) kindOn {
	t := caches.ListCache[string](o).On(conn)
	return kindOn{func(key ...any) subject { return listSubject(t.Key(key...)) }, listSubject(caches.List[string]{}.On(conn)), t.Clear}
}

func listSubject(l caches.List[string]) subject {
	fill := func(ctx context.Context) error { return errOf(l.PushBack(ctx, "a", "b", "c")) }
	empty := func(ctx context.Context) error {
		for range 3 {
			if _, err := l.PopFront(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	return subject{l, fill, empty, []act{
		{"PushFront", stores, func(ctx context.Context) error { return errOf(l.PushFront(ctx, "new")) }},
		{"PushBack", stores, func(ctx context.Context) error { return errOf(l.PushBack(ctx, "new", "new")) }},
		{"PushCapped", stores, func(ctx context.Context) error { return errOf(l.PushCapped(ctx, 2, "new")) }},
		{"At", reads, func(ctx context.Context) error { return errOf(l.At(ctx, -1)) }},
		{"Range", reads, func(ctx context.Context) error { return errOf(l.Range(ctx, 0, 1)) }},
		{"Copy", reads, func(ctx context.Context) error { return errOf(l.Copy(ctx)) }},
		{"Contains", reads, func(ctx context.Context) error { return errOf(l.Contains(ctx, "b")) }},
		{"Contains of no element", reads, func(ctx context.Context) error { return errOf(l.Contains(ctx, "no")) }},
		{"All", reads, func(ctx context.Context) error { return errEnd2(l.All(ctx)) }},
		{"Backward", reads, func(ctx context.Context) error { return errEnd2(l.Backward(ctx)) }},
		{"PopFront", leaves, func(ctx context.Context) error { return errOf(l.PopFront(ctx)) }},
		{"PopBack", leaves, func(ctx context.Context) error { return errOf(l.PopBack(ctx)) }},
		{"PopFrontN", leaves, func(ctx context.Context) error { return errOf(l.PopFrontN(ctx, 2)) }},
		{"PopBackN", leaves, func(ctx context.Context) error { return errOf(l.PopBackN(ctx, 2)) }},
		{"Remove", leaves, func(ctx context.Context) error { return errOf(l.Remove(ctx, "a", "no")) }},
		{"RemoveN", leaves, func(ctx context.Context) error { return errOf(l.RemoveN(ctx, 1, "a")) }},
		{"Trim", leaves, func(ctx context.Context) error { return errOf(l.Trim(ctx, 2)) }},
		{"KeepRange", leaves, func(ctx context.Context) error { return errOf(l.KeepRange(ctx, -2, -1)) }},
		{"Len", leaves, func(ctx context.Context) error { return errOf(l.Len(ctx)) }},
	}, []act{
		{"Remove", leaves, func(ctx context.Context) error { return none(l.Remove(ctx)) }},
		{"RemoveN", leaves, func(ctx context.Context) error { return none(l.RemoveN(ctx, 0, "a")) }},
		{"PopFrontN", leaves, func(ctx context.Context) error { return none(l.PopFrontN(ctx, 0)) }},
		{"PopBackN", leaves, func(ctx context.Context) error { return none(l.PopBackN(ctx, 0)) }},
	}, func(ctx context.Context, n int) error { return errOf(l.PushFront(ctx, numerals(n)...)) }}
}

// requireList requires that all ways to read a list agree on want.
func requireList[T any](t *testing.T, ctx context.Context, l caches.List[T], want ...T) {
	t.Helper()
	want = append([]T{}, want...)
	requireLen(t, ctx, l, len(want))
	require.Equal(t, want, ask(l.Copy(ctx)).ok(t))
	require.Equal(t, want, ask(l.Range(ctx, 0, -1)).ok(t))
	all, end := l.All(ctx)
	requireIndexed(t, all, end, slices.All(want))
	all, end = l.Backward(ctx)
	requireIndexed(t, all, end, slices.Backward(want))
	for i := range want {
		require.Equal(t, want[i], ask(l.At(ctx, i)).ok(t))
		require.Equal(t, want[i], ask(l.At(ctx, i-len(want))).ok(t))
		require.True(t, ask(l.Contains(ctx, want[i])).ok(t))
		if i > 20 {
			break
		}
	}
	for _, i := range []int{len(want), -len(want) - 1} {
		require.ErrorIs(t, errOf(l.At(ctx, i)), caches.ErrMiss)
	}
}

func requireIndexed[T any](t *testing.T, got iter.Seq2[int, T], end func() error, want iter.Seq2[int, T]) {
	t.Helper()
	next, stop := iter.Pull2(got)
	defer stop()
	for i, v := range want {
		index, element, ok := next()
		require.True(t, ok)
		require.Equal(t, i, index)
		require.Equal(t, v, element)
	}
	_, _, ok := next()
	require.False(t, ok)
	require.NoError(t, end())
}

func indexed[T any](all iter.Seq2[int, T]) (elements []string) {
	for i, v := range all {
		elements = append(elements, fmt.Sprintf("%d=%v", i, v))
	}
	return elements
}

func TestListOperations(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		l := caches.ListCache[string]{Prefix: "jobs", TTL: time.Minute}.On(conn).Key("eu")

		// Nothing is there.
		requireList(t, ctx, l)
		require.ErrorIs(t, errOf(l.PopFront(ctx)), caches.ErrMiss)
		require.ErrorIs(t, errOf(l.PopBack(ctx)), caches.ErrMiss)
		require.Empty(t, ask(l.PopFrontN(ctx, 3)).ok(t))
		require.Empty(t, ask(l.PopBackN(ctx, 3)).ok(t))
		require.Zero(t, ask(l.Remove(ctx, "a")).ok(t))
		require.Zero(t, ask(l.Trim(ctx, 1)).ok(t))
		require.Zero(t, ask(l.KeepRange(ctx, 0, -1)).ok(t))
		require.Zero(t, ask(l.PushFront(ctx)).ok(t))
		require.False(t, ask(l.Contains(ctx, "")).ok(t))

		// Both ends; an empty element is one.
		require.Equal(t, 3, ask(l.PushBack(ctx, "c", "", "d")).ok(t))
		require.Equal(t, 5, ask(l.PushFront(ctx, "b", "a")).ok(t))
		require.Equal(t, 5, ask(l.PushFront(ctx)).ok(t))
		requireList(t, ctx, l, "a", "b", "c", "", "d")
		require.Equal(t, "a", ask(l.PopFront(ctx)).ok(t))
		require.Equal(t, "d", ask(l.PopBack(ctx)).ok(t))
		require.Equal(t, []string{"", "c"}, ask(l.PopBackN(ctx, 2)).ok(t))
		require.Equal(t, []string{"b"}, ask(l.PopFrontN(ctx, 1<<62)).ok(t))
		requireList(t, ctx, l)

		// Ranges, as those of sorted sets.
		require.Equal(t, 5, ask(l.PushBack(ctx, "a", "b", "c", "d", "e")).ok(t))
		for _, tt := range []struct {
			start, stop int
			want        string
		}{{0, 1, "ab"}, {-2, -1, "de"}, {1, 100, "bcde"}, {-100, 0, "a"}, {3, 2, ""}, {5, 9, ""}, {-9, -6, ""}, {2, -2, "cd"},
			{math.MinInt, math.MaxInt, "abcde"}, {math.MaxInt, math.MinInt, ""}, {math.MinInt, math.MinInt, ""}, {math.MaxInt, math.MaxInt, ""},
			{-1, math.MaxInt, "e"}, {math.MinInt, -5, "a"}, {2, math.MinInt, ""}, {math.MaxInt, -1, ""}} {
			var got string
			for _, v := range ask(l.Range(ctx, tt.start, tt.stop)).ok(t) {
				got += v
			}
			require.Equal(t, tt.want, got, tt)
			other := l.Key(tt.start, tt.stop)
			require.Equal(t, 5, ask(other.PushBack(ctx, "a", "b", "c", "d", "e")).ok(t))
			require.Equal(t, 5-len(tt.want), ask(other.KeepRange(ctx, tt.start, tt.stop)).ok(t), tt)
			requireLen(t, ctx, other, len(tt.want))
		}
		require.Equal(t, 2, ask(l.Trim(ctx, 3)).ok(t))
		require.Zero(t, ask(l.Trim(ctx, 9)).ok(t))
		requireList(t, ctx, l, "a", "b", "c")
		require.Equal(t, 3, ask(l.Trim(ctx, 0)).ok(t))
		requireList(t, ctx, l)

		// Removal by value, from the front.
		require.Equal(t, 7, ask(l.PushBack(ctx, "a", "b", "a", "c", "a", "", "a")).ok(t))
		require.Equal(t, 2, ask(l.RemoveN(ctx, 2, "a")).ok(t))
		requireList(t, ctx, l, "b", "c", "a", "", "a")
		require.Equal(t, 3, ask(l.Remove(ctx, "a", "", "no", "a")).ok(t))
		requireList(t, ctx, l, "b", "c")
		require.Equal(t, 1, ask(l.RemoveN(ctx, 1<<62, "b")).ok(t))

		for _, err := range []error{
			errOf(l.PopFrontN(ctx, -1)), errOf(l.PopBackN(ctx, -1)), errOf(l.RemoveN(ctx, -1, "c")), errOf(l.Trim(ctx, -1)), errOf(l.PushCapped(ctx, -1, "x")),
		} {
			require.ErrorContains(t, err, "the number of elements, -1, is negative")
		}
		requireList(t, ctx, l, "c")
	})
}

// A feed has the newest elements, the newest first, and its expiry, whatever its
// policy and however many elements come at once.
func TestListPushCapped(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, ttl := range []time.Duration{0, ownTTL} {
			feed := caches.ListCache[string]{Prefix: "feed", TTL: ttl, TTLPolicy: caches.FromCreation}.On(conn).Key(ttl.String())
			for i, want := range [][]string{{"0"}, {"1", "0"}, {"2", "1", "0"}, {"3", "2", "1"}, {"4", "3", "2"}} {
				require.Equal(t, len(want), ask(feed.PushCapped(ctx, 3, strconv.Itoa(i))).ok(t))
				requireList(t, ctx, feed, want...)
			}
			require.Equal(t, 2, ask(feed.PushCapped(ctx, 2, "5", "6", "7")).ok(t))
			requireList(t, ctx, feed, "7", "6")
			require.Equal(t, 2, ask(feed.PushCapped(ctx, 1)).ok(t), "no values, no change")
			require.Equal(t, 3, ask(feed.PushCapped(ctx, 1<<62, "8")).ok(t))
			require.Equal(t, 100, ask(feed.PushCapped(ctx, 100, numerals(6000)...)).ok(t))
			requireLen(t, ctx, feed, 100)
			require.Equal(t, "5999", ask(feed.At(ctx, 0)).ok(t))
			if ttl > 0 {
				requireTTL(t, ctx, feed, ttl)
			}
			require.Zero(t, ask(feed.PushCapped(ctx, 0, "x")).ok(t))
			requireList(t, ctx, feed)
		}
	})
}

// Elements are values: any type that the serializer takes, equal if they are
// stored alike, which Gob does to maps of one key at most.
func TestListOfStructs(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		type event struct {
			At   time.Time
			Tags map[string]int
			Next *event
		}
		at := time.Date(2024, 2, 29, 12, 30, 0, 1, time.UTC)
		events := []event{{}, {At: at, Tags: map[string]int{"a": 1}}, {Next: &event{At: at}}}
		for _, s := range []caches.Serializer{nil, caches.Gob, caches.Compressed(nil, &caches.CompressOptions{MinSize: 1})} {
			l := caches.ListCache[event]{Prefix: "events", Serializer: s}.On(conn).Key(fmt.Sprintf("%T", s))
			require.Equal(t, 3, ask(l.PushBack(ctx, events...)).ok(t))
			requireList(t, ctx, l, events...)
			require.Equal(t, 1, ask(l.Remove(ctx, events[2])).ok(t))
			require.Equal(t, events[1], ask(l.PopBack(ctx)).ok(t))
		}
	})
}

// What does not decode is an error, and costs no other element: neither the
// elements around it nor those popped with it.
func TestListCorrupt(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "corrupt"}
		texts := caches.ListCache[string](o).On(conn).Key("it")
		ints := caches.ListCache[int](o).On(conn).Key("it")
		fill := func() {
			require.NoError(t, errOf(texts.Delete(ctx)))
			require.Equal(t, 2, ask(ints.PushBack(ctx, 1, 2)).ok(t))
			require.Equal(t, 3, ask(texts.PushBack(ctx, "three")).ok(t))
			require.Equal(t, 4, ask(ints.PushBack(ctx, 4)).ok(t))
		}
		fill()
		all, end := ints.All(ctx)
		require.Equal(t, []string{"0=1", "1=2"}, indexed(all))
		back, endBack := ints.Backward(ctx)
		require.Equal(t, []string{"3=4"}, indexed(back))
		for name, err := range map[string]error{
			"Copy": errOf(ints.Copy(ctx)), "Range": errOf(ints.Range(ctx, 1, 2)), "At": errOf(ints.At(ctx, -2)), "All": end(), "Backward": endBack(),
		} {
			require.ErrorIs(t, err, caches.ErrCorrupt, name)
			require.ErrorContains(t, err, "corrupt.it", name)
			require.NotContains(t, err.Error(), "three", name)
		}
		for range all { // stops before it
			break
		}
		require.NoError(t, end())
		require.Equal(t, 1, ask(ints.Remove(ctx, 2)).ok(t))
		requireLen(t, ctx, ints, 3)

		fill()
		popped, err := ints.PopFrontN(ctx, 9)
		require.ErrorIs(t, err, caches.ErrCorrupt)
		require.Equal(t, []int{1, 2, 4}, popped)
		requireNothing(t, ctx, ints)
		fill()
		popped, err = ints.PopBackN(ctx, 2)
		require.ErrorIs(t, err, caches.ErrCorrupt)
		require.Equal(t, []int{4}, popped)
		fill()
		require.Equal(t, 4, ask(ints.PopBack(ctx)).ok(t))
		require.ErrorIs(t, errOf(ints.PopBack(ctx)), caches.ErrCorrupt)
		requireLen(t, ctx, ints, 2)
	})
}

func TestListLarge(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, n := range []int{249, 250, 251, 500, many} { // a page has 250
			l := caches.ListCache[string]{Prefix: "large", TTL: time.Hour}.On(conn).Key(n)
			require.Equal(t, n, ask(l.PushBack(ctx, numerals(n)...)).ok(t))
			requireList(t, ctx, l, numerals(n)...)
		}
		l := caches.ListCache[string]{Prefix: "large"}.On(conn).Key(many)
		all, end := l.All(ctx)
		for stop := range 3 {
			seen := 0
			for range all {
				if seen++; seen > stop*many/4 {
					break
				}
			}
			require.Equal(t, stop*many/4+1, seen)
			require.NoError(t, end())
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		all, end = l.All(ctx)
		for range all {
			cancel()
		}
		require.ErrorIs(t, end(), context.Canceled)
		require.ErrorIs(t, end(), caches.ErrUnavailable)
	})
}

// An iteration goes on where it was, whatever happens to the list between two
// pages: each case changes it while the first of two pages is visited, and says
// which of the 400 elements are not seen, or seen twice.
func TestListAllWhileWritten(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		lists := caches.ListCache[string]{Prefix: "busy"}.On(conn)
		type list = caches.List[string]
		forward, backward := numerals(400), numerals(400)
		slices.Reverse(backward)
		for name, tt := range map[string]struct {
			change        func(l list) error
			all, backward []string // nil: each element once
		}{
			"pushed at the front": {change: func(l list) error { return errOf(l.PushFront(ctx, "x", "y")) }},
			"pushed at the back": {
				change: func(l list) error { return errOf(l.PushBack(ctx, "x")) }, all: append(numerals(400), "x")},
			"popped at the front": {
				change: func(l list) error { return errOf(l.PopFrontN(ctx, 100)) }, backward: backward[:300]},
			"popped at the back": {
				change: func(l list) error { return errOf(l.PopBackN(ctx, 100)) }, all: forward[:300]},
			"a queue": {
				change: func(l list) error { return errors.Join(errOf(l.PopFrontN(ctx, 20)), errOf(l.PushBack(ctx, "x"))) },
				all:    append(numerals(400), "x"), backward: backward[:380]},
			"a feed": {
				change: func(l list) error { return errOf(l.PushCapped(ctx, 400, "x", "y", "z")) },
				all:    forward[:397]},
			"all seen are popped": { // backward, the next and the last one are gone: it begins again
				change: func(l list) error { return errOf(l.PopFrontN(ctx, 250)) }, backward: slices.Concat(backward[:250], backward[:150])},
			"all seen are removed, and one is pushed": {
				change: func(l list) error {
					return errors.Join(errOf(l.Remove(ctx, forward[:250]...)), errOf(l.PushFront(ctx, "x")))
				},
				backward: slices.Concat(backward[:250], backward[:150], []string{"x"})},
			"the next one is removed": {
				change:   func(l list) error { return errOf(l.Remove(ctx, "250", "149")) },
				all:      slices.Concat(forward[:250], forward[251:]),
				backward: slices.Concat(backward[:250], backward[251:])},
			"deleted": {change: func(l list) error { return errOf(l.Delete(ctx)) }, all: forward[:250], backward: backward[:250]},
		} {
			for step, iterate := range map[string]func(list, context.Context) (iter.Seq2[int, string], func() error){"All": list.All, "Backward": list.Backward} {
				l := lists.Key(name, step)
				require.Equal(t, 400, ask(l.PushBack(ctx, forward...)).ok(t))
				want := tt.all
				if step == "Backward" {
					want = tt.backward
				}
				if want == nil && step == "All" {
					want = forward
				} else if want == nil {
					want = backward
				}
				if step == "Backward" && name == "pushed at the front" {
					want = append(slices.Clone(backward), "x", "y")
				}
				if step == "Backward" && name == "a feed" {
					want = append(slices.Clone(backward), "x", "y", "z")
				}
				var got []string
				all, end := iterate(l, ctx)
				for _, v := range all {
					if got = append(got, v); len(got) == 100 {
						require.NoError(t, tt.change(l), name)
					}
				}
				require.NoError(t, end(), name)
				require.Equal(t, want, got, "%s, %s", name, step)
			}
		}
	})
}

// An iteration over a feed ends, even if all of the feed is new with every page.
func TestListAllOfABusyFeedEnds(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		l := caches.ListCache[string]{Prefix: "feed"}.On(conn).Key("busy")
		for _, iterate := range []func() (iter.Seq2[int, string], func() error){
			func() (iter.Seq2[int, string], func() error) { return l.All(ctx) },
			func() (iter.Seq2[int, string], func() error) { return l.Backward(ctx) },
		} {
			require.Equal(t, 600, ask(l.PushCapped(ctx, 600, numerals(600)...)).ok(t))
			seen, round := 0, 0
			all, end := iterate()
			for range all {
				if seen++; seen%250 != 0 {
					continue
				}
				round++
				var values []string
				for i := range 600 {
					values = append(values, fmt.Sprint(round, ".", i))
				}
				require.Equal(t, 600, ask(l.PushCapped(ctx, 600, values...)).ok(t))
			}
			require.NoError(t, end())
			require.Equal(t, 250+600, seen)
		}
	})
}

// Each element that is in the list all the time is seen, while others come and go
// at both ends.
func TestListAllWhileDisturbed(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		l := caches.ListCache[int]{Prefix: "busy"}.On(conn).Key("list")
		disturbed(t, ctx, 1000,
			func(ctx context.Context, from, to int) error {
				for i := from; i < to; i += 100 {
					push := l.PushBack
					if i%200 == 0 && from > 0 {
						push = l.PushFront
					}
					var values []int
					for v := i; v < i+100; v++ {
						values = append(values, v)
					}
					if _, err := push(ctx, values...); err != nil {
						return err
					}
				}
				return nil
			},
			func(ctx context.Context, _ ...int) error {
				return errors.Join(errOf(l.PopFrontN(ctx, 1000)), errOf(l.PopBackN(ctx, 1000)))
			},
			func(ctx context.Context, see func(int)) error {
				all, end := l.All(ctx)
				for _, v := range all {
					see(v)
				}
				return end()
			})
	})
}

// A list that expires during an iteration ends it.
func TestListExpiresDuringAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, conn := t.Context(), open(t, "locmem://")
		l := caches.ListCache[string]{Prefix: "expires", TTL: time.Minute}.On(conn).Key("list")
		require.Equal(t, 400, ask(l.PushBack(ctx, numerals(400)...)).ok(t))
		seen := 0
		all, end := l.All(ctx)
		for range all {
			if seen++; seen == 100 {
				time.Sleep(time.Minute + time.Second)
			}
		}
		require.NoError(t, end())
		require.Equal(t, 250, seen)
	})
}

// Concurrent pops at both ends take each element once.
func TestListConcurrentPops(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		l := caches.ListCache[int]{Prefix: "jobs", TTL: time.Hour}.On(conn).Key("list")
		const each = 300
		var all sync.WaitGroup
		taken := make([][]int, 6)
		errs := make([]error, len(taken))
		for w := range taken {
			all.Go(func() {
				for i := range each {
					_, errs[w] = l.PushBack(ctx, w*each+i)
					var popped []int
					switch {
					case errs[w] != nil:
						return
					case i%3 == 0:
						popped, errs[w] = l.PopBackN(ctx, 2)
					default:
						var v int
						if v, errs[w] = l.PopFront(ctx); errs[w] == nil {
							popped = []int{v}
						}
					}
					if errs[w] = hit(errs[w]); errs[w] != nil {
						return
					}
					taken[w] = append(taken[w], popped...)
				}
			})
		}
		all.Wait()
		require.NoError(t, errors.Join(errs...))
		got := slices.Concat(append(taken, ask(l.PopFrontN(ctx, len(taken)*each)).ok(t))...)
		slices.Sort(got)
		want := make([]int, len(taken)*each)
		for i := range want {
			want[i] = i
		}
		require.Equal(t, want, got)
		requireNothing(t, ctx, l)
	})
}

// Hooks hear of what pops found.
func TestListPopsAreLookups(t *testing.T) {
	l := &listener{}
	conn := hooked(t, l, "locmem://")
	list := caches.ListCache[int]{Prefix: "jobs"}.On(conn).Key(1)
	for _, want := range []caches.Lookup{caches.LookupHit, caches.LookupMiss} {
		for range 2 {
			if want == caches.LookupHit {
				require.Positive(t, ask(list.PushBack(t.Context(), 1)).ok(t))
			}
			l.took()
			require.NoError(t, hit(errOf(list.PopFront(t.Context()))))
			if want == caches.LookupHit {
				require.Positive(t, ask(list.PushBack(t.Context(), 1)).ok(t))
			}
			require.NoError(t, errOf(list.PopBackN(t.Context(), 2)))
			calls, faults := l.took()
			require.Empty(t, faults)
			for _, c := range calls {
				if c.Op != "List.PushBack" {
					require.Equal(t, want, c.Lookup, c.Op)
				}
			}
		}
	}
}
