package caches

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
)

// An operation that cannot miss takes a nil reply for a fault of the server, and
// so does one that reads an array with a nil element: ErrMiss is what a look-up
// returns for an absent value, and callers rely on that.
func TestNilReplyIsNoMiss(t *testing.T) {
	const ttl = time.Hour
	type op = func(ctx context.Context, o Options) error
	drop := func(_ any, err error) error { return err }
	value := func(o Options) Value[int] { return Cache[int](o).Key(1) }
	count := func(o Options) Counter[int] { return CounterCache[int](o).Key(1) }
	dict := func(o Options) Dict[string, int] { return DictCache[string, int](o).Key(1) }
	set := func(o Options) Set[int] { return SetCache[int](o).Key(1) }
	sorted := func(o Options) SortedSet[string] { return SortedSetCache[string](o).Key(1) }
	list := func(o Options) List[int] { return ListCache[int](o).Key(1) }
	ops := map[string]op{
		"Value.Set": func(ctx context.Context, o Options) error { return value(o).Set(ctx, 1) },
		"SetMany": func(ctx context.Context, o Options) error {
			return SetMany(ctx, Cache[int](o), map[int]int{1: 1})
		},
		"Delete":      func(ctx context.Context, o Options) error { _, err := value(o).Delete(ctx); return err },
		"Exists":      func(ctx context.Context, o Options) error { return drop(value(o).Exists(ctx)) },
		"ExpiresIn":   func(ctx context.Context, o Options) error { return drop(value(o).ExpiresIn(ctx)) },
		"Touch":       func(ctx context.Context, o Options) error { return value(o).Touch(ctx, ttl) },
		"Counter.Set": func(ctx context.Context, o Options) error { return count(o).Set(ctx, 1) },
		"Counter.Incr": func(ctx context.Context, o Options) error {
			return drop(count(o).Incr(ctx, 1))
		},
		"Counter.Decr": func(ctx context.Context, o Options) error { return drop(count(o).Decr(ctx, 1)) },
		"CounterCache[float64].Incr": func(ctx context.Context, o Options) error {
			return drop(CounterCache[float64](o).Key(1).Incr(ctx, 1))
		},
		"Dict.Set":      func(ctx context.Context, o Options) error { return dict(o).Set(ctx, "f", 1) },
		"Dict.Update":   func(ctx context.Context, o Options) error { return dict(o).Update(ctx, map[string]int{"f": 1}) },
		"Dict.Incr":     func(ctx context.Context, o Options) error { return drop(dict(o).Incr(ctx, "f", 1)) },
		"Dict.Remove":   func(ctx context.Context, o Options) error { return drop(dict(o).Remove(ctx, "f")) },
		"Dict.Contains": func(ctx context.Context, o Options) error { return drop(dict(o).Contains(ctx, "f")) },
		"Dict.Len":      func(ctx context.Context, o Options) error { return drop(dict(o).Len(ctx)) },
		"Set.Add":       func(ctx context.Context, o Options) error { return drop(set(o).Add(ctx, 1)) },
		"Set.Contains":  func(ctx context.Context, o Options) error { return drop(set(o).Contains(ctx, 1)) },
		"SortedSet.Add": func(ctx context.Context, o Options) error {
			return drop(sorted(o).Add(ctx, Scored[string]{1, "m"}))
		},
		"SortedSet.Incr":  func(ctx context.Context, o Options) error { return drop(sorted(o).Incr(ctx, "m", 1)) },
		"SortedSet.Trim":  func(ctx context.Context, o Options) error { return drop(sorted(o).Trim(ctx, 1)) },
		"List.PushBack":   func(ctx context.Context, o Options) error { return drop(list(o).PushBack(ctx, 1)) },
		"List.PushCapped": func(ctx context.Context, o Options) error { return drop(list(o).PushCapped(ctx, 1, 1)) },
		"List.Remove":     func(ctx context.Context, o Options) error { return drop(list(o).Remove(ctx, 1, 2)) },
		"List.Trim":       func(ctx context.Context, o Options) error { return drop(list(o).Trim(ctx, 1)) },
		"List.All": func(ctx context.Context, o Options) error {
			all, end := list(o).All(ctx)
			for range all {
			}
			return end()
		},
	}
	arrays := map[string]op{
		"List.Range":      func(ctx context.Context, o Options) error { return drop(list(o).Range(ctx, 0, -1)) },
		"List.Copy":       func(ctx context.Context, o Options) error { return drop(list(o).Copy(ctx)) },
		"List.PopFrontN":  func(ctx context.Context, o Options) error { return drop(list(o).PopFrontN(ctx, 2)) },
		"Dict.Keys":       func(ctx context.Context, o Options) error { return drop(dict(o).Keys(ctx)) },
		"Dict.Values":     func(ctx context.Context, o Options) error { return drop(dict(o).Values(ctx)) },
		"Dict.Copy":       func(ctx context.Context, o Options) error { return drop(dict(o).Copy(ctx)) },
		"Set.Copy":        func(ctx context.Context, o Options) error { return drop(set(o).Copy(ctx)) },
		"Set.PopN":        func(ctx context.Context, o Options) error { return drop(set(o).PopN(ctx, 2)) },
		"SortedSet.Range": func(ctx context.Context, o Options) error { return drop(sorted(o).Range(ctx, 0, -1)) },
		"SortedSet.PopMinN": func(ctx context.Context, o Options) error {
			return drop(sorted(o).PopMinN(ctx, 2))
		},
	}
	nils := func(_ int, p *driver.Pipeline) error {
		for range p.Len() {
			p.Replies().Nil()
		}
		return nil
	}
	// Two elements: a member that is there, and a score or a value that is not.
	halves := func(_ int, p *driver.Pipeline) error {
		for range p.Len() {
			p.Replies().Array(2)
			p.Replies().String("1")
			p.Replies().Nil()
		}
		return nil
	}
	for _, tt := range []struct {
		name  string
		ops   map[string]op
		reply func(int, *driver.Pipeline) error
	}{{"nil", ops, nils}, {"element", arrays, halves}} {
		for _, policy := range []TTLPolicy{RefreshOnWrite, FromCreation, SlideOnRead} {
			for name, f := range tt.ops {
				conn := connOver(t, 1, ConnOptions{}, tt.reply)
				err := f(WithConn(t.Context(), conn), Options{Prefix: "nil", TTL: ttl, TTLPolicy: policy})
				require.ErrorIs(t, err, ErrProtocol, "%s, %s, policy %v", tt.name, name, policy)
				require.NotErrorIs(t, err, ErrMiss, "%s, %s, policy %v", tt.name, name, policy)
			}
		}
	}
}
