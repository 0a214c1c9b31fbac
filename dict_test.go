package caches_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
)

// dictKind is a dict with the fields a, b and c, and its operations.
func dictKind(conn *caches.Conn, o caches.Options) kindOn {
	t := caches.DictCache[string, int](o).On(conn)
	return kindOn{func(key ...any) subject { return dictSubject(t.Key(key...)) }, dictSubject(caches.Dict[string, int]{}.On(conn)), t.Clear}
}

func dictSubject(d caches.Dict[string, int]) subject {
	fill := func(ctx context.Context) error { return d.Update(ctx, map[string]int{"a": 1, "b": 2, "c": 3}) }
	empty := func(ctx context.Context) error {
		for _, field := range []string{"a", "b", "c"} {
			if _, err := d.Pop(ctx, field); err != nil {
				return err
			}
		}
		return nil
	}
	return subject{d, fill, empty, []act{
		{"Set", stores, func(ctx context.Context) error { return d.Set(ctx, "new", 1) }},
		{"Set of a field that is there", stores, func(ctx context.Context) error { return d.Set(ctx, "a", 1) }},
		{"Update", stores, func(ctx context.Context) error { return d.Update(ctx, map[string]int{"new": 1, "a": 2}) }},
		{"GetOrAdd", stores, func(ctx context.Context) error { return err3(d.GetOrAdd(ctx, "new", 1)) }},
		{"Incr", stores, func(ctx context.Context) error { return errOf(d.Incr(ctx, "new", 1)) }},
		{"Incr of a field that is there", stores, func(ctx context.Context) error { return errOf(d.Incr(ctx, "a", 1)) }},
		{"Get", reads, func(ctx context.Context) error { return errOf(d.Get(ctx, "a")) }},
		{"GetOr", reads, func(ctx context.Context) error { return errOf(d.GetOr(ctx, "no", 0)) }},
		{"GetMany", reads, func(ctx context.Context) error { return errOf(d.GetMany(ctx, "a", "no")) }},
		{"Contains", reads, func(ctx context.Context) error { return errOf(d.Contains(ctx, "a")) }},
		{"Keys", reads, func(ctx context.Context) error { return errOf(d.Keys(ctx)) }},
		{"Values", reads, func(ctx context.Context) error { return errOf(d.Values(ctx)) }},
		{"Copy", reads, func(ctx context.Context) error { return errOf(d.Copy(ctx)) }},
		{"All", reads, func(ctx context.Context) error { return errEnd2(d.All(ctx)) }},
		{"Remove", leaves, func(ctx context.Context) error { return errOf(d.Remove(ctx, "a", "no")) }},
		{"Pop", leaves, func(ctx context.Context) error { return errOf(d.Pop(ctx, "a")) }},
		{"PopItem", leaves, func(ctx context.Context) error { return err3(d.PopItem(ctx)) }},
		{"Len", leaves, func(ctx context.Context) error { return errOf(d.Len(ctx)) }},
	}, []act{
		{"Update", leaves, func(ctx context.Context) error { return d.Update(ctx, nil) }},
		{"Update of an empty map", leaves, func(ctx context.Context) error { return d.Update(ctx, map[string]int{}) }},
		{"Remove", leaves, func(ctx context.Context) error { return none(d.Remove(ctx)) }},
		{"GetMany", leaves, func(ctx context.Context) error { return none(d.GetMany(ctx)) }},
	}, func(ctx context.Context, n int) error {
		items := make(map[string]int, n)
		for i := range n {
			items[strconv.Itoa(i)] = i
		}
		return d.Update(ctx, items)
	}}
}

func TestDictOperations(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[string, string]{Prefix: "prefs", TTL: time.Hour}.On(conn).Key(42)

		// Nothing is there.
		require.ErrorIs(t, errOf(d.Get(ctx, "theme")), caches.ErrMiss)
		require.ErrorIs(t, errOf(d.Pop(ctx, "theme")), caches.ErrMiss)
		require.ErrorIs(t, err3(d.PopItem(ctx)), caches.ErrMiss)
		v, err := d.GetOr(ctx, "theme", "light")
		require.NoError(t, err)
		require.Equal(t, "light", v)
		requireDict(t, ctx, d, map[string]string{})
		removed, err := d.Remove(ctx, "theme")
		require.NoError(t, err)
		require.Zero(t, removed)

		// Set stores, and stores over; an empty value and an empty field are
		// something.
		require.NoError(t, d.Set(ctx, "theme", "dark"))
		require.NoError(t, d.Set(ctx, "theme", "darker"))
		require.NoError(t, d.Set(ctx, "", ""))
		v, err = d.Get(ctx, "theme")
		require.NoError(t, err)
		require.Equal(t, "darker", v)
		v, err = d.GetOr(ctx, "", "def")
		require.NoError(t, err)
		require.Equal(t, "", v)
		requireDict(t, ctx, d, map[string]string{"theme": "darker", "": ""})

		require.NoError(t, d.Update(ctx, map[string]string{"theme": "blue", "lang": "de", "\x00\r\n\xff": "bytes"}))
		requireDict(t, ctx, d, map[string]string{"theme": "blue", "": "", "lang": "de", "\x00\r\n\xff": "bytes"})

		found, err := d.GetMany(ctx, "lang", "no", "theme", "lang")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"theme": "blue", "lang": "de"}, found)

		// Removal counts what there was, and Pop returns it.
		removed, err = d.Remove(ctx, "no", "", "\x00\r\n\xff", "")
		require.NoError(t, err)
		require.Equal(t, 2, removed)
		v, err = d.Pop(ctx, "lang")
		require.NoError(t, err)
		require.Equal(t, "de", v)
		require.ErrorIs(t, errOf(d.Pop(ctx, "lang")), caches.ErrMiss)
		field, v, err := d.PopItem(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"theme", "blue"}, []string{field, v})
		requireDict(t, ctx, d, map[string]string{})
		require.ErrorIs(t, err3(d.PopItem(ctx)), caches.ErrMiss)
	})
}

// tally counts how often each element comes.
func tally[T comparable](all iter.Seq[T]) map[T]int {
	counts := make(map[T]int)
	for v := range all {
		counts[v]++
	}
	return counts
}

// requireDict requires that all ways to read a dict agree on want.
func requireDict[K, V comparable](t *testing.T, ctx context.Context, d caches.Dict[K, V], want map[K]V) {
	t.Helper()
	requireLen(t, ctx, d, len(want))
	got, err := d.Copy(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got)
	all, end := d.All(ctx)
	require.Equal(t, want, maps.Collect(all))
	require.NoError(t, end())
	keys, err := d.Keys(ctx)
	require.NoError(t, err)
	require.Equal(t, tally(maps.Keys(want)), tally(slices.Values(keys)))
	values, err := d.Values(ctx)
	require.NoError(t, err)
	require.Equal(t, tally(maps.Values(want)), tally(slices.Values(values)))
	many, err := d.GetMany(ctx, keys...)
	require.NoError(t, err)
	require.Equal(t, want, many)
	asked := 0
	for field := range want {
		if asked++; asked > 100 {
			break // GetMany has found all
		}
		contains, err := d.Contains(ctx, field)
		require.NoError(t, err)
		require.True(t, contains, "%v", field)
	}
}

func TestDictGetOrAdd(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[string, any]{Prefix: "dict"}.On(conn).Key("goa")
		stored, loaded, err := d.GetOrAdd(ctx, "a", []any{"1"})
		require.NoError(t, err)
		require.False(t, loaded)
		require.Equal(t, []any{"1"}, stored)
		stored, loaded, err = d.GetOrAdd(ctx, "a", []any{"2"})
		require.NoError(t, err)
		require.True(t, loaded)
		require.Equal(t, []any{"1"}, stored, "what is stored, not what was given")
		stored, loaded, err = d.GetOrAdd(ctx, "nil", nil)
		require.NoError(t, err)
		require.False(t, loaded)
		require.Nil(t, stored)
		_, loaded, err = d.GetOrAdd(ctx, "nil", []any{"3"})
		require.NoError(t, err)
		require.True(t, loaded, "nil is a value")
	})
}

// GetOrAdd of a field that is there is a read: it leaves the expiry, unless
// reads slide.
func TestDictGetOrAddExpiry(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for policy, want := range map[caches.TTLPolicy]time.Duration{
			caches.RefreshOnWrite: otherTTL, caches.FromCreation: otherTTL, caches.SlideOnRead: ownTTL,
		} {
			d := caches.DictCache[string, int]{Prefix: "goa", TTL: ownTTL, TTLPolicy: policy}.On(conn).Key(policy.String())
			_, _, err := d.GetOrAdd(ctx, "a", 1)
			require.NoError(t, err)
			requireTTL(t, ctx, d, ownTTL)
			require.NoError(t, d.Touch(ctx, otherTTL))
			_, loaded, err := d.GetOrAdd(ctx, "a", 2)
			require.NoError(t, err)
			require.True(t, loaded)
			requireTTL(t, ctx, d, want, policy.String())
		}
	})
}

// One of many callers adds; all get what it stored.
func TestDictGetOrAddRace(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[string, int]{Prefix: "dict"}.On(conn).Key("race")
		var mu sync.Mutex
		var callers sync.WaitGroup
		adders, seen := 0, map[int]bool{}
		for i := range 32 {
			callers.Go(func() {
				v, loaded, err := d.GetOrAdd(ctx, "field", i)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && !loaded {
					adders++
				}
				seen[v] = true
			})
		}
		callers.Wait()
		require.Equal(t, 1, adders)
		require.Len(t, seen, 1)
	})
}

func TestDictIncr(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "incr", TTL: time.Hour}
		ints := caches.DictCache[string, int64](o).On(conn).Key("ints")
		for _, step := range []struct{ delta, want int64 }{{5, 5}, {-7, -2}, {0, -2}, {math.MaxInt64, math.MaxInt64 - 2}, {2, math.MaxInt64}} {
			n, err := ints.Incr(ctx, "n", step.delta)
			require.NoError(t, err)
			require.Equal(t, step.want, n)
			n, err = ints.Get(ctx, "n")
			require.NoError(t, err)
			require.Equal(t, step.want, n, "the serializer reads what the server counted")
		}
		if !onFake(t) {
			require.ErrorIs(t, errOf(ints.Incr(ctx, "n", 1)), caches.ErrOverflow)
			require.Equal(t, int64(math.MaxInt64), ask(ints.Get(ctx, "n")).ok(t), "nothing was added")
		}
		require.NoError(t, ints.Set(ctx, "set", 40))
		require.Equal(t, int64(42), ask(ints.Incr(ctx, "set", 2)).ok(t), "the server counts on from what Set stored")

		floats := caches.DictCache[string, float64](o).On(conn).Key("floats")
		require.Equal(t, 0.5, ask(floats.Incr(ctx, "n", 0.5)).ok(t))
		require.Equal(t, -2.25, ask(floats.Incr(ctx, "n", -2.75)).ok(t))
		require.Equal(t, -2.25, ask(floats.Get(ctx, "n")).ok(t))
		require.ErrorIs(t, errOf(floats.Incr(ctx, "n", math.Inf(1))), caches.ErrOverflow)
		require.ErrorIs(t, errOf(floats.Incr(ctx, "n", math.NaN())), caches.ErrOverflow)

		type seats uint8
		small := caches.DictCache[string, seats](o).On(conn).Key("small")
		require.Equal(t, seats(250), ask(small.Incr(ctx, "n", 250)).ok(t))
		require.ErrorIs(t, errOf(small.Incr(ctx, "n", 250)), caches.ErrOverflow, "500 is not a uint8")
		require.ErrorIs(t, errOf(floats.Incr(ctx, "new", math.Inf(1))), caches.ErrOverflow)
		require.Equal(t, 1, ask(floats.Len(ctx)).ok(t), "nothing was sent")
	})
}

func TestDictIncrNotNumber(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "nan", TTL: time.Hour}
		texts := caches.DictCache[string, string](o).On(conn).Key("it")
		require.NoError(t, texts.Set(ctx, "text", "three"))
		require.ErrorIs(t, errOf(texts.Incr(ctx, "new", "1")), caches.ErrNotNumber, "V is not a number")
		ints := caches.DictCache[string, int](o).On(conn).Key("it")
		require.ErrorIs(t, errOf(ints.Incr(ctx, "text", 1)), caches.ErrNotNumber)
		floats := caches.DictCache[string, float64](o).On(conn).Key("it")
		require.ErrorIs(t, errOf(floats.Incr(ctx, "text", 1)), caches.ErrNotNumber)

		// What the serializer could not read again is refused before it is
		// stored.
		for _, s := range []caches.Serializer{caches.Gob, caches.Compressed(nil, nil)} {
			o.Serializer = s
			other := caches.DictCache[string, int](o).On(conn).Key("serializer")
			require.ErrorIs(t, errOf(other.Incr(ctx, "n", 1)), caches.ErrNotNumber, "%T", s)
			require.Equal(t, 0, ask(other.Len(ctx)).ok(t))
		}
		o.Serializer = caches.Raw
		raw := caches.DictCache[string, int](o).On(conn).Key("raw")
		require.Equal(t, 3, ask(raw.Incr(ctx, "n", 3)).ok(t))
		require.Equal(t, 3, ask(raw.Get(ctx, "n")).ok(t))
	})
}

// An answer is what an operation returned.
type answer[T any] struct {
	value T
	err   error
}

func ask[T any](v T, err error) answer[T] { return answer[T]{v, err} }

// ok returns the value of an operation that must not fail.
func (a answer[T]) ok(t *testing.T) T {
	t.Helper()
	require.NoError(t, a.err)
	return a.value
}

func TestDictCorrupt(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "corrupt"}
		texts := caches.DictCache[string, string](o).On(conn).Key("it")
		ints := caches.DictCache[string, int](o).On(conn).Key("it")
		require.NoError(t, texts.Set(ctx, "text", "three"))
		for name, err := range map[string]error{
			"Get":      errOf(ints.Get(ctx, "text")),
			"GetOr":    errOf(ints.GetOr(ctx, "text", 1)),
			"GetMany":  errOf(ints.GetMany(ctx, "no", "text")),
			"GetOrAdd": err3(ints.GetOrAdd(ctx, "text", 1)),
			"Values":   errOf(ints.Values(ctx)),
			"Copy":     errOf(ints.Copy(ctx)),
			"All":      errEnd2(ints.All(ctx)),
		} {
			require.ErrorIs(t, err, caches.ErrCorrupt, name)
			require.ErrorContains(t, err, "corrupt.it", "%s names the key", name)
			require.NotContains(t, err.Error(), "three", "%s does not show the value", name)
		}
		require.Equal(t, []string{"text"}, ask(ints.Keys(ctx)).ok(t), "the fields decode")
		fields := caches.DictCache[int, string](o).On(conn).Key("it")
		require.ErrorIs(t, errOf(fields.Keys(ctx)), caches.ErrCorrupt)
		require.ErrorIs(t, errEnd2(fields.All(ctx)), caches.ErrCorrupt)
		require.ErrorIs(t, errOf(ints.Pop(ctx, "text")), caches.ErrCorrupt)
	})
}

// A value that does not serialize stores nothing.
func TestDictMarshalError(t *testing.T) {
	ctx := t.Context()
	conn, store := countingConn(t)
	d := caches.DictCache[string, any]{Prefix: "marshal", TTL: time.Hour}.On(conn).Key("it")
	bad := make(chan int)
	require.Error(t, d.Set(ctx, "a", bad))
	require.Error(t, d.Update(ctx, map[string]any{"a": 1, "b": bad}))
	require.Error(t, err3(d.GetOrAdd(ctx, "a", bad)))
	require.Zero(t, store.pipelines.Load())
}

const many = 2000 // elements of a large collection: eight pages

func TestDictLarge(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[int, string]{Prefix: "large", TTL: ownTTL}.On(conn).Key("dict")
		want := make(map[int]string, many)
		for i := range many {
			want[i] = strconv.Itoa(i * i)
		}
		require.NoError(t, d.Update(ctx, want))
		requireDict(t, ctx, d, want)
		requireTTL(t, ctx, d, time.Hour)

		// A loop may stop, and the pair may be used again.
		all, end := d.All(ctx)
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
		require.Equal(t, want, maps.Collect(all))
		require.NoError(t, end())

		// Pages are round trips of their own: other operations fit between.
		for field := range all {
			if field%10 == 0 {
				require.NoError(t, errOf(d.Remove(ctx, field)))
				delete(want, field)
			}
		}
		require.NoError(t, end())
		requireDict(t, ctx, d, want)
	})
}

// What stops an iteration is told at its end, and ends there.
func TestDictAllError(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[int, int]{Prefix: "stopped"}.On(conn).Key("dict")
		items := make(map[int]int, many)
		for i := range many {
			items[i] = i
		}
		require.NoError(t, d.Update(ctx, items))
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		all, end := d.All(ctx)
		seen := map[int]int{}
		for field, value := range all {
			seen[field] = value
			cancel()
		}
		if !onFake(t) { // it gave all in one page
			require.ErrorIs(t, end(), context.Canceled)
			require.ErrorContains(t, end(), "Dict.All")
			require.Less(t, len(seen), many)
		}
		require.NotEmpty(t, seen)
		for range all {
			require.Fail(t, "a canceled context gives nothing")
		}
		require.ErrorIs(t, end(), context.Canceled)
	})
}

// Fields that are there all the time are seen, whatever else comes and goes.
func TestDictAllWhileWritten(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		d := caches.DictCache[int, int]{Prefix: "busy"}.On(conn).Key("dict")
		disturbed(t, ctx, 600,
			func(ctx context.Context, from, to int) error {
				items := map[int]int{}
				for i := from; i < to; i++ {
					items[i] = i
				}
				return d.Update(ctx, items)
			},
			func(ctx context.Context, members ...int) error { return errOf(d.Remove(ctx, members...)) },
			func(ctx context.Context, see func(int)) error {
				all, end := d.All(ctx)
				for field, value := range all {
					require.Equal(t, field, value)
					see(field)
				}
				return end()
			})
	})
}

// disturbed iterates over a collection of n members while others come and go,
// often enough for its tables to grow and to shrink, and requires that each
// iteration sees those n.
func disturbed(t *testing.T, ctx context.Context, n int, add func(ctx context.Context, from, to int) error,
	remove func(ctx context.Context, members ...int) error, iterate func(ctx context.Context, see func(int)) error) {
	t.Helper()
	require.NoError(t, add(ctx, 0, n))
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for round := 0; err == nil; round++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			others := make([]int, 0, 2*n)
			for i := range 2 * n {
				others = append(others, n+i)
			}
			if err = add(ctx, n, 3*n); err == nil {
				err = remove(ctx, others...)
			}
		}
		ended <- err
	}()
	for range 5 {
		seen := make(map[int]bool, n)
		require.NoError(t, iterate(ctx, func(member int) { seen[member] = true }))
		for i := range n {
			require.True(t, seen[i] || onFake(t), "%d was there all the time", i)
		}
	}
	close(stop)
	require.NoError(t, <-ended)
}

// Members and fields come back as they were: bytes, numbers, what marshals itself,
// and structs. TestMemberKinds has all kinds of types.
func TestMembers(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		requireMembers(t, ctx, conn, "", "a", "a b", "\x00", "\xff\xfe", "a.b%{}", "1", "ü")
		requireMembers(t, ctx, conn, 0, 1, -1, math.MinInt, math.MaxInt)
		requireMembers(t, ctx, conn, time.Date(2024, 2, 29, 12, 30, 0, 1, time.UTC), time.Time{})
		requireMembers(t, ctx, conn, point{}, point{"Köln <&>", 50.9, -6.9, [2]int8{1, -128}}, point{Name: "Köln"})
	})
}

// requireMembers puts members, all different, into all three collections and
// requires that they are found there, and can be taken out.
func requireMembers[T comparable](t *testing.T, ctx context.Context, conn *caches.Conn, members ...T) {
	t.Helper()
	o := caches.Options{Prefix: fmt.Sprintf("members of %T", members)}
	set := caches.SetCache[T](o).On(conn).Key("set")
	dict := caches.DictCache[T, int](o).On(conn).Key("dict")
	sorted := caches.SortedSetCache[T](o).On(conn).Key("sorted")
	wantSet, wantDict, wantSorted := map[T]struct{}{}, map[T]int{}, map[T]float64{}
	for i, member := range members {
		wantSet[member], wantDict[member], wantSorted[member] = struct{}{}, i, float64(i)
	}
	n, err := set.Update(ctx, wantSet)
	require.NoError(t, err)
	require.Equal(t, len(members), n, "%T", members)
	requireSet(t, ctx, set, wantSet)
	require.NoError(t, dict.Update(ctx, wantDict))
	requireDict(t, ctx, dict, wantDict)
	n, err = sorted.Update(ctx, wantSorted)
	require.NoError(t, err)
	require.Equal(t, len(members), n, "%T", members)
	require.Equal(t, wantSorted, ask(sorted.Copy(ctx)).ok(t))
	for i, member := range members {
		require.Equal(t, float64(i), ask(sorted.Score(ctx, member)).ok(t), "%T %v", member, member)
		require.Equal(t, i, ask(sorted.Rank(ctx, member)).ok(t))
	}
	for _, remove := range []func(context.Context, ...T) (int, error){set.Remove, dict.Remove, sorted.Remove} {
		require.Equal(t, len(members), ask(remove(ctx, members...)).ok(t), "%T", members)
	}
}

// Equal members are one member: both zeros are the same, within structs, too.
func TestMembersZeros(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		minus := math.Copysign(0, -1)
		points := caches.SetCache[point]{Prefix: "zeros"}.On(conn).Key("points")
		require.Equal(t, 2, ask(points.Add(ctx, point{X: minus}, point{Y: minus}, point{}, point{X: -0.5, Y: minus})).ok(t))
		require.True(t, ask(points.Contains(ctx, point{X: minus, Y: minus})).ok(t))
	})
}

// A member that could not come back as it was is refused by every operation, before
// anything is sent: for its type, or for its value. TestMemberRefused has all kinds.
func TestMembersRefusedByAll(t *testing.T) {
	refused[any](t, "a")
	refused(t, point{Name: "\xff"}) // JSON would make it U+FFFD, as it would "\xfe"
}

func refused[T comparable](t *testing.T, member T) {
	t.Helper()
	ctx := t.Context()
	conn, store := countingConn(t)
	o := caches.Options{Prefix: "refused"}
	set := caches.SetCache[T](o).On(conn).Key("it")
	dict := caches.DictCache[T, int](o).On(conn).Key("it")
	sorted := caches.SortedSetCache[T](o).On(conn).Key("it")
	for name, err := range map[string]error{
		"Set.Add": errOf(set.Add(ctx, member)), "Set.Contains": errOf(set.Contains(ctx, member)),
		"Set.ContainsMany": errOf(set.ContainsMany(ctx, member)), "Set.Remove": errOf(set.Remove(ctx, member)),
		"Dict.Set": dict.Set(ctx, member, 1), "Dict.Get": errOf(dict.Get(ctx, member)),
		"Dict.GetMany": errOf(dict.GetMany(ctx, member)), "Dict.Update": dict.Update(ctx, map[T]int{member: 1}),
		"Dict.GetOrAdd": err3(dict.GetOrAdd(ctx, member, 1)), "Dict.Remove": errOf(dict.Remove(ctx, member)),
		"Dict.Contains": errOf(dict.Contains(ctx, member)), "Dict.Pop": errOf(dict.Pop(ctx, member)),
		"Dict.Incr":     errOf(dict.Incr(ctx, member, 1)),
		"SortedSet.Add": errOf(sorted.Add(ctx, caches.Scored[T]{Member: member})), "SortedSet.Incr": errOf(sorted.Incr(ctx, member, 1)),
		"SortedSet.Score": errOf(sorted.Score(ctx, member)), "SortedSet.Rank": errOf(sorted.Rank(ctx, member)),
		"SortedSet.RevRank": errOf(sorted.RevRank(ctx, member)), "SortedSet.Remove": errOf(sorted.Remove(ctx, member)),
	} {
		require.Error(t, err, "%T %s", member, name)
		require.ErrorContains(t, err, name+` "refused.it"`, "%T", member)
		require.NotErrorIs(t, err, caches.ErrCorrupt, "%T", member)
	}
	require.Zero(t, store.pipelines.Load(), "%T", member)
}

// An unlucky store answers with an array of an error.
type unlucky struct{}

func (unlucky) Do(_ context.Context, p *driver.Pipeline) error {
	for range p.Len() {
		p.Replies().Array(1)
		p.Replies().Error("ERR out of luck")
	}
	return nil
}

func (unlucky) Close() error { return nil }

// A reply that is not what was asked for is an error, never half a result.
func TestCollectionsBadReply(t *testing.T) {
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"bad": unlucky{}})
	require.NoError(t, err)
	ctx := t.Context()
	d := caches.DictCache[string, int]{}.On(conn).Key("it")
	s := caches.SetCache[string]{}.On(conn).Key("it")
	for _, err := range []error{
		errOf(d.Get(ctx, "a")), errOf(d.GetMany(ctx, "a")), errOf(d.GetMany(ctx, "a", "b")), errOf(d.Keys(ctx)), errOf(d.Values(ctx)),
		errOf(d.Copy(ctx)), errEnd2(d.All(ctx)), err3(d.PopItem(ctx)), err3(d.GetOrAdd(ctx, "a", 1)), errOf(d.Incr(ctx, "a", 1)),
		errOf(s.ContainsMany(ctx, "a")), errOf(s.ContainsMany(ctx, "a", "b")), errOf(s.Copy(ctx)), errOf(s.PopN(ctx, 1)), errEnd(s.All(ctx)),
	} {
		require.Error(t, err)
		require.NotErrorIs(t, err, caches.ErrMiss)
	}
}
