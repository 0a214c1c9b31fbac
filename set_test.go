package caches_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// setKind is a set of a, b and c, and its operations.
func setKind(conn *caches.Conn, o caches.Options) kindOn {
	t := caches.SetCache[string](o).On(conn)
	return kindOn{func(key ...any) subject { return setSubject(t.Key(key...)) }, setSubject(caches.Set[string]{}.On(conn)), t.Clear}
}

func setSubject(s caches.Set[string]) subject {
	fill := func(ctx context.Context) error { return errOf(s.Add(ctx, "a", "b", "c")) }
	empty := func(ctx context.Context) error {
		for _, member := range []string{"a", "b", "c"} {
			if _, err := s.Remove(ctx, member); err != nil {
				return err
			}
		}
		return nil
	}
	return subject{s, fill, empty, []act{
		{"Add", stores, func(ctx context.Context) error { return errOf(s.Add(ctx, "new")) }},
		{"Add of a member that is there", stores, func(ctx context.Context) error { return errOf(s.Add(ctx, "a")) }},
		{"Update", stores, func(ctx context.Context) error { return errOf(s.Update(ctx, setOf("a", "new"))) }},
		{"Contains", reads, func(ctx context.Context) error { return errOf(s.Contains(ctx, "a")) }},
		{"ContainsMany", reads, func(ctx context.Context) error { return errOf(s.ContainsMany(ctx, "a", "no")) }},
		{"Random", reads, func(ctx context.Context) error { return errOf(s.Random(ctx)) }},
		{"Copy", reads, func(ctx context.Context) error { return errOf(s.Copy(ctx)) }},
		{"All", reads, func(ctx context.Context) error { return errEnd(s.All(ctx)) }},
		{"Remove", leaves, func(ctx context.Context) error { return errOf(s.Remove(ctx, "a", "no")) }},
		{"Pop", leaves, func(ctx context.Context) error { return errOf(s.Pop(ctx)) }},
		{"PopN", leaves, func(ctx context.Context) error { return errOf(s.PopN(ctx, 2)) }},
		{"Len", leaves, func(ctx context.Context) error { return errOf(s.Len(ctx)) }},
		{"Union", leaves, func(ctx context.Context) error { return errOf(s.Union(ctx)) }},
		{"Intersect", leaves, func(ctx context.Context) error { return errOf(s.Intersect(ctx)) }},
		{"Difference", leaves, func(ctx context.Context) error { return errOf(s.Difference(ctx)) }},
	}, []act{
		{"Add", leaves, func(ctx context.Context) error { return none(s.Add(ctx)) }},
		{"Update", leaves, func(ctx context.Context) error { return none(s.Update(ctx, nil)) }},
		{"Remove", leaves, func(ctx context.Context) error { return none(s.Remove(ctx)) }},
		{"ContainsMany", leaves, func(ctx context.Context) error { return none(s.ContainsMany(ctx)) }},
		{"PopN", leaves, func(ctx context.Context) error { return none(s.PopN(ctx, 0)) }},
	}, func(ctx context.Context, n int) error { return errOf(s.Add(ctx, numerals(n)...)) }}
}

func setOf[T comparable](members ...T) map[T]struct{} {
	set := make(map[T]struct{}, len(members))
	for _, member := range members {
		set[member] = struct{}{}
	}
	return set
}

// requireSet requires that all ways to read a set agree on want.
func requireSet[T comparable](t *testing.T, ctx context.Context, s caches.Set[T], want map[T]struct{}) {
	t.Helper()
	if len(want) > 0 || !onFake(t) {
		requireLen(t, ctx, s, len(want))
	}
	require.Equal(t, want, ask(s.Copy(ctx)).ok(t))
	all, end := s.All(ctx)
	require.Equal(t, want, setOf(slices.Collect(all)...))
	require.NoError(t, end())
	require.Equal(t, want, ask(s.ContainsMany(ctx, slices.Collect(maps.Keys(want))...)).ok(t))
	if len(want) > 0 {
		member := ask(s.Random(ctx)).ok(t)
		require.Contains(t, want, member)
		require.True(t, ask(s.Contains(ctx, member)).ok(t))
	}
}

func TestSetOperations(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := caches.SetCache[int]{Prefix: "online", TTL: time.Minute}.On(conn).Key("eu")

		// Nothing is there.
		requireSet(t, ctx, s, setOf[int]())
		require.False(t, ask(s.Contains(ctx, 1)).ok(t))
		require.ErrorIs(t, errOf(s.Random(ctx)), caches.ErrMiss)
		require.ErrorIs(t, errOf(s.Pop(ctx)), caches.ErrMiss)
		require.Empty(t, ask(s.PopN(ctx, 3)).ok(t))
		require.Zero(t, ask(s.Remove(ctx, 1)).ok(t))

		// Members are there once, and counted when they are new.
		require.Equal(t, 3, ask(s.Add(ctx, 1, 2, 3, 2, 1)).ok(t))
		require.Equal(t, 1, ask(s.Add(ctx, 3, 4)).ok(t))
		require.Zero(t, ask(s.Add(ctx, 4)).ok(t))
		require.Equal(t, 1, ask(s.Update(ctx, setOf(4, 5))).ok(t))
		requireSet(t, ctx, s, setOf(1, 2, 3, 4, 5))
		require.Equal(t, setOf(2, 5), ask(s.ContainsMany(ctx, 2, 0, 5, 2)).ok(t))
		require.Equal(t, map[int]struct{}{}, ask(s.ContainsMany(ctx, 0)).ok(t))

		require.Equal(t, 2, ask(s.Remove(ctx, 4, 0, 5, 4)).ok(t))
		requireSet(t, ctx, s, setOf(1, 2, 3))

		// Pop takes out what it returns.
		member := ask(s.Pop(ctx)).ok(t)
		require.False(t, ask(s.Contains(ctx, member)).ok(t))
		rest := ask(s.PopN(ctx, 5)).ok(t)
		require.Equal(t, setOf(1, 2, 3), setOf(append(rest, member)...))
		require.Len(t, rest, 2)
		requireSet(t, ctx, s, setOf[int]())

		require.Error(t, errOf(s.PopN(ctx, -1)))
		require.ErrorContains(t, errOf(s.PopN(ctx, -1)), "-1")
	})
}

func TestSetCorrupt(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "corrupt"}
		texts := caches.SetCache[string](o).On(conn).Key("it")
		ints := caches.SetCache[int](o).On(conn).Key("it")
		require.Equal(t, 1, ask(texts.Add(ctx, "three")).ok(t))
		for name, err := range map[string]error{
			"Copy": errOf(ints.Copy(ctx)), "Random": errOf(ints.Random(ctx)), "All": errEnd(ints.All(ctx)),
			"Union": errOf(ints.Union(ctx, ints)), "Pop": errOf(ints.Pop(ctx)),
		} {
			require.ErrorIs(t, err, caches.ErrCorrupt, name)
			require.ErrorContains(t, err, "corrupt.it", name)
			require.NotContains(t, err.Error(), "three", name)
		}
	})
}

func TestSetLarge(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := caches.SetCache[string]{Prefix: "large", TTL: time.Hour}.On(conn).Key("set")
		members := make([]string, many)
		for i := range members {
			members[i] = "member-" + strconv.Itoa(i)
		}
		require.Equal(t, many, ask(s.Add(ctx, members...)).ok(t))
		requireSet(t, ctx, s, setOf(members...))

		all, end := s.All(ctx)
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

		half := ask(s.PopN(ctx, many/2)).ok(t)
		require.Len(t, setOf(half...), many/2, "all different")
		requireLen(t, ctx, s, many/2)
		require.Empty(t, ask(s.ContainsMany(ctx, half...)).ok(t))

		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		all, end = s.All(ctx)
		for range all {
			cancel()
		}
		require.ErrorIs(t, end(), context.Canceled)
		require.ErrorIs(t, end(), caches.ErrUnavailable)
	})
}

func TestSetAllWhileWritten(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		s := caches.SetCache[int]{Prefix: "busy"}.On(conn).Key("set")
		disturbed(t, ctx, 600,
			func(ctx context.Context, from, to int) error {
				members := make([]int, 0, to-from)
				for i := from; i < to; i++ {
					members = append(members, i)
				}
				return errOf(s.Add(ctx, members...))
			},
			func(ctx context.Context, members ...int) error { return errOf(s.Remove(ctx, members...)) },
			func(ctx context.Context, see func(int)) error {
				all, end := s.All(ctx)
				all(func(member int) bool { see(member); return true })
				return end()
			})
	})
}

// The three operations, with any number of sets, in one place and over shards:
// the keys of eight sets lie on all shards that there are, those with a hash
// tag on one.
func TestSetAlgebra(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		sets := caches.SetCache[int]{Prefix: "algebra", TTL: ownTTL}.On(conn)
		for _, spread := range []func(i int) any{
			func(i int) any { return i },
			func(i int) any { return caches.RawKey("{one}." + strconv.Itoa(i)) },
		} {
			var all []caches.Set[int]
			for i := range 8 {
				all = append(all, sets.Key(spread(i)))
			}
			a, b, c, none := all[0], all[1], all[2], all[3]
			require.Equal(t, 4, ask(a.Add(ctx, 1, 2, 3, 4)).ok(t))
			require.Equal(t, 3, ask(b.Add(ctx, 3, 4, 5)).ok(t))
			require.Equal(t, 2, ask(c.Add(ctx, 4, 6)).ok(t))
			for _, tt := range []struct {
				name string
				op   algebra
				with []caches.Set[int]
				want map[int]struct{}
			}{
				{"Union", caches.Set[int].Union, nil, setOf(1, 2, 3, 4)},
				{"Union", caches.Set[int].Union, all[1:3], setOf(1, 2, 3, 4, 5, 6)},
				{"Union", caches.Set[int].Union, all, setOf(1, 2, 3, 4, 5, 6)},
				{"Intersect", caches.Set[int].Intersect, nil, setOf(1, 2, 3, 4)},
				{"Intersect", caches.Set[int].Intersect, all[:3], setOf(4)},
				{"Intersect", caches.Set[int].Intersect, all[:4], setOf[int]()},
				{"Difference", caches.Set[int].Difference, nil, setOf(1, 2, 3, 4)},
				{"Difference", caches.Set[int].Difference, all[1:], setOf(1, 2)},
				{"Difference", caches.Set[int].Difference, all, setOf[int]()},
			} {
				require.Equal(t, tt.want, ask(tt.op(a, ctx, tt.with...)).ok(t), "%s of %v", tt.name, tt.with)
				requireStored(t, ctx, tt.name, a, all[4], tt.with, tt.want)
			}
			require.Empty(t, ask(none.Union(ctx)).ok(t))
			require.Empty(t, ask(none.Difference(ctx, a)).ok(t))
			require.Empty(t, ask(none.Intersect(ctx, a)).ok(t))
			requireTTL(t, ctx, a, ownTTL)
		}
	})
}

type (
	algebra      = func(caches.Set[int], context.Context, ...caches.Set[int]) (map[int]struct{}, error)
	algebraStore = func(caches.Set[int], context.Context, caches.Set[int], ...caches.Set[int]) (int, error)
)

var stored = map[string]algebraStore{
	"Union":      caches.Set[int].StoreUnion,
	"Intersect":  caches.Set[int].StoreIntersect,
	"Difference": caches.Set[int].StoreDifference,
}

// requireStored requires that the Store form replaces dst, whatever it was and
// whatever expiry it had, with want and dst's own time to live.
func requireStored(t *testing.T, ctx context.Context, name string, a, dst caches.Set[int], with []caches.Set[int], want map[int]struct{}) {
	t.Helper()
	for _, before := range []func() error{
		func() error { return errOf(dst.Delete(ctx)) },
		func() error { return errors.Join(errOf(dst.Add(ctx, 100, 101)), dst.Touch(ctx, otherTTL)) },
		func() error { return errors.Join(errOf(dst.Add(ctx, 100)), dst.Persist(ctx)) },
	} {
		require.NoError(t, before())
		if slices.ContainsFunc(with, func(s caches.Set[int]) bool { return s.String() == dst.String() }) {
			require.NoError(t, errOf(dst.Delete(ctx))) // as a source it counts as it is
		}
		require.Equal(t, len(want), ask(stored[name](dst, ctx, a, with...)).ok(t), name)
		requireSet(t, ctx, dst, want)
		if len(want) > 0 {
			requireTTL(t, ctx, dst, ownTTL, "Store%s", name)
		}
	}
	require.NoError(t, errOf(dst.Delete(ctx)))
}

// The destination may be a source, and may have a type of its own.
func TestSetAlgebraStore(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		sets := caches.SetCache[int]{Prefix: "store", TTL: ownTTL}.On(conn)
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			kept := caches.SetCache[int]{Prefix: "kept", TTLPolicy: policy}.On(conn)
			timed := caches.SetCache[int]{Prefix: "timed", TTL: otherTTL, TTLPolicy: policy}.On(conn)
			for i := range 6 {
				p := policy.String()
				a, b := sets.Key(p, "a", i), sets.Key(p, "b", i)
				require.Equal(t, 3, ask(a.Add(ctx, 1, 2, 3)).ok(t))
				require.Equal(t, 2, ask(b.Add(ctx, 3, 4)).ok(t))

				require.Equal(t, 4, ask(kept.Key(p, i).StoreUnion(ctx, a, b)).ok(t))
				requireSet(t, ctx, kept.Key(p, i), setOf(1, 2, 3, 4))
				requireTTL(t, ctx, kept.Key(p, i), caches.Forever, "dst has none")
				require.NoError(t, kept.Key(p, i).Touch(ctx, time.Minute))
				require.Equal(t, 1, ask(kept.Key(p, i).StoreIntersect(ctx, a, b)).ok(t))
				requireTTL(t, ctx, kept.Key(p, i), caches.Forever, "what it had goes with what was there")
				require.Equal(t, 2, ask(timed.Key(p, i).StoreDifference(ctx, a, b)).ok(t))
				requireTTL(t, ctx, timed.Key(p, i), otherTTL)

				require.NoError(t, a.Touch(ctx, time.Minute))
				require.Equal(t, 4, ask(a.StoreUnion(ctx, a, b)).ok(t), "into itself")
				requireSet(t, ctx, a, setOf(1, 2, 3, 4))
				requireTTL(t, ctx, a, ownTTL)
				require.Equal(t, 2, ask(b.StoreDifference(ctx, a, b)).ok(t), "into the second")
				requireSet(t, ctx, b, setOf(1, 2))
				require.Zero(t, ask(a.StoreDifference(ctx, a, a)).ok(t), "nothing is left")
				if !onFake(t) {
					requireNothing(t, ctx, a)
				}
			}
		}
	})
}

// What was there under dst goes, of whatever type; what a source is matters.
func TestSetAlgebraWrongType(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "types", TTL: ownTTL}
		text := caches.Cache[string](o).On(conn)
		sets := caches.SetCache[int](o).On(conn)
		for i := range 8 { // over shards, too
			a, bad, dst := sets.Key(i, "a"), sets.Key(i, "bad"), sets.Key(i, "dst")
			require.Equal(t, 2, ask(a.Add(ctx, 1, 2)).ok(t))
			require.NoError(t, text.Key(i, "bad").Set(ctx, "text"))
			require.NoError(t, text.Key(i, "dst").Set(ctx, "text"))
			require.NoError(t, text.Key(i, "dst").Touch(ctx, otherTTL))
			for _, err := range []error{
				errOf(a.Union(ctx, bad)), errOf(bad.Union(ctx, a)), errOf(a.Intersect(ctx, bad)), errOf(bad.Difference(ctx, a)),
				errOf(dst.StoreUnion(ctx, a, bad)), errOf(dst.StoreUnion(ctx, bad, a)), errOf(dst.StoreDifference(ctx, a, a, bad)),
			} {
				require.ErrorIs(t, err, caches.ErrWrongType)
			}
			require.Equal(t, "text", ask(text.Key(i, "dst").Get(ctx)).ok(t), "nothing was stored")
			requireTTL(t, ctx, dst, otherTTL, "nor was it given an expiry")
			require.Equal(t, 2, ask(dst.StoreUnion(ctx, a, a)).ok(t))
			requireSet(t, ctx, dst, setOf(1, 2))
			requireTTL(t, ctx, dst, ownTTL)
		}
	})
}

func TestSetAlgebraRefused(t *testing.T) {
	ctx := t.Context()
	here, there := open(t, "locmem://"), open(t, "locmem://")
	sets := caches.SetCache[int]{Prefix: "s"}
	a := sets.On(here).Key("a")
	require.Equal(t, 1, ask(a.Add(ctx, 1)).ok(t))
	for name, tt := range map[string]struct {
		other caches.Set[int]
		want  string
	}{
		"another connection": {sets.On(there).Key("b"), "another connection"},
		"not pinned":         {sets.Key("b"), "another connection"},
		"another name":       {caches.SetCache[int]{Connection: "other"}.Key("b"), "another connection"},
		"no key":             {caches.Set[int]{}.On(here), "no key"},
		"a bad key":          {sets.On(here).Key([]int{1}), "part 1 of the key"},
	} {
		for op, err := range map[string]error{
			"Union": errOf(a.Union(ctx, a, tt.other)), "Intersect": errOf(a.Intersect(ctx, tt.other)), "Difference": errOf(a.Difference(ctx, tt.other)),
			"StoreUnion": errOf(a.StoreUnion(ctx, a, tt.other)), "StoreIntersect": errOf(a.Key("dst").StoreIntersect(ctx, a, tt.other)),
			"StoreDifference": errOf(a.StoreDifference(ctx, a, a, tt.other)),
			"as the first":    errOf(a.StoreUnion(caches.WithConn(ctx, there), tt.other, a)),
			"as dst":          errOf(tt.other.StoreUnion(caches.WithConn(ctx, there), a, a)),
		} {
			require.ErrorContains(t, err, tt.want, "%s, %s", name, op)
			require.ErrorContains(t, err, "Set.", "%s, %s", name, op)
		}
	}
	requireSet(t, ctx, a, setOf(1))

	// Names and contexts decide as for any operation.
	ctx = caches.WithConn(ctx, here)
	require.Equal(t, setOf(1), ask(sets.Key("a").Union(ctx, sets.Key("b"))).ok(t))
}

// Sets of other prefixes and versions of one connection go together.
func TestSetAlgebraVersions(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		one := caches.SetCache[int]{Prefix: "one", Version: "v1"}.On(conn).Key("x")
		two := caches.SetCache[int]{Prefix: "two", Version: "v2"}.On(conn).Key("x")
		require.Equal(t, 1, ask(one.Add(ctx, 1)).ok(t))
		require.Equal(t, 1, ask(two.Add(ctx, 2)).ok(t))
		require.Equal(t, setOf(1, 2), ask(one.Union(ctx, two)).ok(t))
		dst := caches.SetCache[int]{Prefix: "dst", Version: "v3"}.On(conn).Key("x")
		require.Equal(t, 2, ask(dst.StoreUnion(ctx, two, one)).ok(t))
		requireSet(t, ctx, dst, setOf(1, 2))
	})
}

// One trip where all sets are together, one per shard where they are not.
func TestSetAlgebraTrips(t *testing.T) {
	ctx := t.Context()
	conn, store := countingConn(t)
	sets := caches.SetCache[int]{Prefix: "s", TTL: ownTTL}.On(conn)
	require.Equal(t, 1, ask(sets.Key(1).Add(ctx, 1)).ok(t))
	store.pipelines.Store(0)
	require.Equal(t, setOf(1), ask(sets.Key(1).Union(ctx, sets.Key(2), sets.Key(3))).ok(t))
	require.EqualValues(t, 1, store.pipelines.Load())
	require.Equal(t, 1, ask(sets.Key(4).StoreUnion(ctx, sets.Key(1), sets.Key(3))).ok(t))
	require.EqualValues(t, 2, store.pipelines.Load())
}
