package flight_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/gocaches/caches/internal/flight"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Invariant 7: a function that asks for its own key, directly or over other keys and
// groups, gets an error.
func TestRecursion(t *testing.T) {
	g, other := new(group), new(group)
	var ask func(next []flight.Key) flight.Func[string, int]
	ask = func(next []flight.Key) flight.Func[string, int] {
		return func(ctx context.Context, _ *run) (string, error) {
			if len(next) == 0 {
				return "v", nil
			}
			group := g
			if len(next)%2 == 0 {
				group = other
			}
			return group.Do(ctx, next[0], always, ask(next[1:]))
		}
	}
	c := flight.Key{Scope: "s", Name: "c"}
	for _, circle := range [][]flight.Key{{a}, {b, a}, {b, c, a}, {b, b}} {
		_, err := g.Do(t.Context(), a, always, ask(circle))
		require.ErrorIs(t, err, flight.ErrRecursive, "%v", circle)
		require.ErrorContains(t, err, ": "+circle[len(circle)-1].Name)
	}
	for _, line := range [][]flight.Key{{b}, {b, c}, {{Scope: "of another", Name: "a"}}} {
		v, err := g.Do(t.Context(), a, always, ask(line))
		require.NoError(t, err, "%v", line)
		require.Equal(t, "v", v)
	}
}

// Invariant 7: the same if each of the runs has been started by a caller of its own.
func TestRecursionOverOtherCallers(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		keys := []flight.Key{a, b, {Name: "c"}, {Name: "d"}}
		goOn := make(chan struct{})
		refused := 0 // one run is refused, so no lock
		var calls []<-chan outcome
		for i, key := range keys {
			calls = append(calls, call(t.Context(), g, key, always, func(ctx context.Context, _ *run) (string, error) {
				<-goOn
				v, err := g.Do(ctx, keys[(i+1)%len(keys)], always, unwanted(t))
				if err != nil {
					refused++
					require.ErrorIs(t, err, flight.ErrRecursive)
					return "v", nil
				}
				return v, nil
			}))
		}
		synctest.Wait()
		close(goOn)
		for _, c := range calls {
			require.Equal(t, outcome{v: "v"}, <-c)
		}
		require.Equal(t, 1, refused)
	})
}

// A run may wait for several others, and two for one: no circle.
func TestWaitingForSeveral(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w := newWork()
		ask := func(ctx context.Context, _ *run) (string, error) {
			one := call(ctx, g, flight.Key{Name: "c"}, always, w.do)
			two := call(ctx, g, flight.Key{Name: "c"}, always, w.do)
			return (<-one).v + (<-two).v, nil
		}
		first, second := call(t.Context(), g, a, always, ask), call(t.Context(), g, b, always, ask)
		synctest.Wait()
		close(w.release)
		require.Equal(t, outcome{v: "11"}, <-first)
		require.Equal(t, outcome{v: "11"}, <-second)
	})
}

// The context of a run may outlive it: then it is within that run no longer.
func TestContextOutlivesTheRun(t *testing.T) {
	g := new(group)
	var kept context.Context
	_, err := g.Do(t.Context(), a, always, func(ctx context.Context, _ *run) (string, error) {
		kept = context.WithoutCancel(ctx)
		return "", nil
	})
	require.NoError(t, err)
	v, err := g.Do(kept, a, always, func(context.Context, *run) (string, error) { return "again", nil })
	require.NoError(t, err)
	require.Equal(t, "again", v)
}

// Alone is a run for recursion, is joined by no caller, and ends as its context does.
func TestAlone(t *testing.T) {
	g := new(group)
	ctx, cancel := context.WithCancel(t.Context())
	alone, end := g.Alone(ctx, a)
	_, err := g.Do(alone, a, always, unwanted(t))
	require.ErrorIs(t, err, flight.ErrRecursive)
	value := func(context.Context, *run) (string, error) { return "v", nil }
	v, err := g.Do(t.Context(), a, always, value)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.True(t, flight.Within(alone, g))
	end()
	_, err = g.Do(alone, a, always, value)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, alone.Err(), context.Canceled)
}

// A run within another one of its group knows it, whatever is between them.
func TestNested(t *testing.T) {
	g, other := new(group), new(group)
	nested := func(ctx context.Context, g *group, key flight.Key) (is bool) {
		_, err := g.Do(ctx, key, always, func(_ context.Context, r *run) (string, error) { is = r.Nested(); return "", nil })
		assert.NoError(t, err)
		return is
	}
	require.False(t, nested(t.Context(), g, b))
	_, err := g.Do(t.Context(), a, always, func(ctx context.Context, r *run) (string, error) {
		assert.False(t, r.Nested())
		ctx = flight.Enter(ctx, "batch")
		assert.False(t, nested(ctx, other, b))
		assert.True(t, nested(ctx, g, b))
		return "", nil
	})
	require.NoError(t, err)
}

// A run that another one of its group waits for is hurried; other callers hurry none.
func TestHurried(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		hurried := false
		release := make(chan struct{})
		first := call(t.Context(), g, b, always, func(_ context.Context, r *run) (string, error) {
			<-r.Hurried()
			hurried = true
			<-release
			return "b", nil
		})
		synctest.Wait()
		second := call(flight.Enter(t.Context(), "batch"), g, b, always, unwanted(t))
		synctest.Wait()
		require.False(t, hurried)
		var within []<-chan outcome
		for _, key := range []flight.Key{a, {Name: "c"}} { // twice, which changes nothing
			within = append(within, call(t.Context(), g, key, always, func(ctx context.Context, _ *run) (string, error) {
				return g.Do(ctx, b, always, unwanted(t))
			}))
		}
		synctest.Wait()
		require.True(t, hurried)
		close(release)
		for _, c := range append(within, first, second) {
			require.Equal(t, outcome{v: "b"}, <-c)
		}
	})
}

// A batch is one more link of the chain: a run within it waits, and recursion is
// found across it.
func TestEnter(t *testing.T) {
	g, batch, other := new(group), new(int), new(int)
	require.False(t, flight.Within(t.Context(), batch))
	ctx := flight.Enter(flight.Enter(t.Context(), batch), other)
	_, err := g.Do(ctx, a, always, func(ctx context.Context, _ *run) (string, error) {
		assert.True(t, flight.Within(ctx, batch))
		assert.True(t, flight.Within(ctx, other))
		assert.False(t, flight.Within(ctx, new(int)))
		return g.Do(flight.Enter(ctx, new(int)), a, always, unwanted(t))
	})
	require.ErrorIs(t, err, flight.ErrRecursive)
}

// Recursion over other callers is found across batches.
func TestRecursionAcrossBatches(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		goOn := make(chan struct{})
		ask := func(next flight.Key) flight.Func[string, int] {
			return func(ctx context.Context, _ *run) (string, error) {
				<-goOn
				return g.Do(flight.Enter(ctx, "batch"), next, always, unwanted(t))
			}
		}
		first, second := call(t.Context(), g, a, always, ask(b)), call(t.Context(), g, b, always, ask(a))
		synctest.Wait()
		close(goOn)
		require.ErrorIs(t, (<-first).err, flight.ErrRecursive)
		require.ErrorIs(t, (<-second).err, flight.ErrRecursive)
	})
}
