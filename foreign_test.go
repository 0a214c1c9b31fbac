package caches_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// An operation on a key that is not its own fails, and leaves that key as it
// was: above all, it gives a key that lives for ever no expiry.
func TestForeignKeysAreLeftAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			o := caches.Options{Prefix: "foreign", TTL: time.Minute, TTLPolicy: policy}
			text := caches.Cache[string]{Prefix: "foreign"}.On(conn).Key("text")
			list := caches.SetCache[int]{Prefix: "foreign"}.On(conn).Key("set")
			dict := caches.DictCache[string, int](o).On(conn)
			set := caches.SetCache[int](o).On(conn)
			board := caches.SortedSetCache[string](o).On(conn)
			count := caches.CounterCache[int](o).On(conn)
			fields, members := numerals(5100), make([]int, 6000)
			ops := map[string]func() error{
				"Dict.GetMany, many": func() error { _, err := dict.Key("text").GetMany(ctx, fields...); return err },
				"Set.Contains, many": func() error { _, err := set.Key("text").ContainsMany(ctx, members...); return err },
				"Dict.Set":           func() error { return dict.Key("text").Set(ctx, "a", 1) },
				"Dict.Update":        func() error { return dict.Key("text").Update(ctx, map[string]int{"a": 1}) },
				"Dict.Incr":          func() error { _, err := dict.Key("text").Incr(ctx, "a", 1); return err },
				"Dict.GetOrAdd":      func() error { _, _, err := dict.Key("text").GetOrAdd(ctx, "a", 1); return err },
				"Dict.Get":           func() error { _, err := dict.Key("text").Get(ctx, "a"); return err },
				"Dict.Copy":          func() error { _, err := dict.Key("set").Copy(ctx); return err },
				"Set.Add":            func() error { _, err := set.Key("text").Add(ctx, 1); return err },
				"Set.Copy":           func() error { _, err := set.Key("text").Copy(ctx); return err },
				"Set.All": func() error {
					all, end := set.Key("text").All(ctx)
					for range all {
					}
					return end()
				},
				"SortedSet.Add":    func() error { _, err := board.Key("set").Add(ctx, caches.Scored[string]{}); return err },
				"SortedSet.Incr":   func() error { _, err := board.Key("set").Incr(ctx, "a", 1); return err },
				"SortedSet.Range":  func() error { _, err := board.Key("set").Range(ctx, 0, -1); return err },
				"Counter.Incr":     func() error { _, err := count.Key("text").Incr(ctx, 1); return err },
				"Counter.Incr set": func() error { _, err := count.Key("set").Incr(ctx, 1); return err },
			}
			for _, kind := range kinds {
				c := kind.on(conn, o).key("text")
				ops[kind.name+", many"] = func() error { return c.bulk(ctx, 5100) }
			}
			for name, op := range ops {
				require.NoError(t, text.Set(ctx, "not a number"))
				_, err := list.Add(ctx, 1)
				require.NoError(t, err)
				require.Error(t, op(), "%s, policy %v", name, policy)
				for _, object := range []interface {
					ExpiresIn(context.Context) (time.Duration, error)
				}{text, list} {
					left, err := object.ExpiresIn(ctx)
					require.NoError(t, err)
					require.Equal(t, caches.Forever, left, "%s, policy %v", name, policy)
				}
			}
		}
	})
}

// Of its own key, an operation of more arguments than a script takes sets the
// expiry as any other does.
func TestManyArgumentsCarryTheirExpiry(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			o := caches.Options{Prefix: "many." + policy.String(), TTL: time.Minute, TTLPolicy: policy}
			for _, kind := range kinds {
				c := kind.on(conn, o).key(kind.name)
				require.NoError(t, c.bulk(ctx, 5100), kind.name)
				requireLen(t, ctx, c, 5100)
				left, err := c.ExpiresIn(ctx)
				require.NoError(t, err)
				require.InDelta(t, time.Minute, left, float64(20*time.Second), kind.name)
			}
			found, err := caches.DictCache[string, int](o).On(conn).Key("dict").GetMany(ctx, numerals(5100)...)
			require.NoError(t, err)
			require.Len(t, found, 5100)
			require.Equal(t, 77, found["77"])
		}
	})
}
