package caches_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

func ExampleHooks() {
	ctx := context.Background()
	conn, err := caches.ConnOptions{Hooks: &caches.Hooks{
		Call: func(_ context.Context, c *caches.CallInfo) {
			fmt.Printf("%s %s %q %q\n", c.Op, c.Key, c.Lookup, c.Reason)
		},
	}}.Open("locmem://")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ada := profiles.On(conn).Key("ada")
	ada.Get(ctx)
	ada.Set(ctx, Profile{Name: "Ada"})
	ada.Get(ctx)
	// Output:
	// Value.Get profile.ada "miss" "absent"
	// Value.Set profile.ada "" ""
	// Value.Get profile.ada "hit" ""
}

func ExampleLogHooks() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "elapsed" {
				return slog.Attr{}
			}
			return a
		},
	}))
	conn, err := caches.ConnOptions{Hooks: caches.LogHooks(log)}.Open("locmem://?node=a")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	profiles.On(conn).Key("ada").Get(context.Background())
	// Output: level=DEBUG msg="caches: call" call.op=Value.Get call.shard=a call.type=profile call.key=profile.ada call.result=miss call.reason=absent call.bytes_out=31 call.bytes_in=5 call.err="Value.Get \"profile.ada\": caches: miss"
}

func ExampleConn_Stats() {
	ctx := context.Background()
	conn, err := caches.Open("locmem://")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ada := profiles.On(conn).Key("ada")
	ada.Get(ctx)
	ada.Set(ctx, Profile{Name: "Ada"})
	ada.Get(ctx)
	s := conn.Stats().Types["profile"]
	fmt.Println(s.Hits, s.Misses, s.Others, s.HitRatio())
	// Output: 1 1 1 0.5
}

// A listener is Hooks that keep what they hear.
type listener struct {
	mu                                sync.Mutex
	calls, loads, faults, invalidated []caches.CallInfo
	states                            []caches.StateInfo
}

func (l *listener) hooks() *caches.Hooks {
	keep := func(to *[]caches.CallInfo) func(context.Context, *caches.CallInfo) {
		return func(_ context.Context, c *caches.CallInfo) {
			l.mu.Lock()
			defer l.mu.Unlock()
			*to = append(*to, *c)
		}
	}
	return &caches.Hooks{
		Call: keep(&l.calls), Load: keep(&l.loads), Error: keep(&l.faults), Invalidate: keep(&l.invalidated),
		State: func(s caches.StateInfo) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.states = append(l.states, s)
		},
	}
}

// took returns the calls and faults since the last took.
func (l *listener) took() (calls, faults []caches.CallInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls, faults = l.calls, l.faults
	l.calls, l.faults = nil, nil
	return calls, faults
}

func (l *listener) heard() []caches.StateInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.states)
}

// hooked opens a connection whose hooks are l's.
func hooked(t *testing.T, l *listener, dsns ...string) *caches.Conn {
	t.Helper()
	conn, err := caches.ConnOptions{Name: "main", Hooks: l.hooks()}.Open(dsns...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// What hooks hear of operations, and what is counted.
func TestHooksHearOfOperations(t *testing.T) {
	t.Parallel()
	l := &listener{}
	conn := hooked(t, l, "locmem://?node=a")
	ctx := t.Context()
	words := caches.Cache[string]{Prefix: "word", Serializer: caches.Raw}.On(conn)
	numbers := caches.Cache[int]{Prefix: "word"}.On(conn)
	board := caches.SortedSetCache[string]{Prefix: "board"}.On(conn)
	online := caches.SetCache[int]{Prefix: "online"}.On(conn)
	prefs := caches.DictCache[string, string]{Prefix: "prefs"}.On(conn)
	run := func(op func(context.Context) error) func() error { return func() error { return op(ctx) } }
	for _, step := range []struct {
		do     func() error
		op     string
		result caches.Lookup
		reason caches.MissReason
		err    error
	}{
		{run(func(ctx context.Context) error { _, err := words.Key(1).Get(ctx); return err }), "Value.Get", caches.LookupMiss, caches.MissAbsent, caches.ErrMiss},
		{run(func(ctx context.Context) error { return words.Key(1).Set(ctx, "one") }), "Value.Set", caches.LookupNone, caches.MissNone, nil},
		{run(func(ctx context.Context) error { _, err := words.Key(1).Get(ctx); return err }), "Value.Get", caches.LookupHit, caches.MissNone, nil},
		{run(func(ctx context.Context) error { _, err := numbers.Key(1).Get(ctx); return err }), "Value.Get", caches.LookupNone, caches.MissNone, caches.ErrCorrupt},
		{run(func(ctx context.Context) error { return errOf(words.Key(2).Delete(ctx)) }), "Delete", caches.LookupNone, caches.MissNone, nil},
		{run(func(ctx context.Context) error { return words.Key(2).Touch(ctx, time.Hour) }), "Touch", caches.LookupNone, caches.MissNone, caches.ErrMiss},
		{run(func(ctx context.Context) error { _, err := board.Key(1).PopMin(ctx); return err }), "SortedSet.PopMin", caches.LookupMiss, caches.MissAbsent, nil},
		{run(func(ctx context.Context) error { _, err := board.Key(1).Score(ctx, "a"); return err }), "SortedSet.Score", caches.LookupMiss, caches.MissAbsent, caches.ErrMiss},
		{run(func(ctx context.Context) error { _, err := board.Key(1).Rank(ctx, "a"); return err }), "SortedSet.Rank", caches.LookupMiss, caches.MissAbsent, caches.ErrMiss},
		{run(func(ctx context.Context) error { _, err := online.Key(1).Random(ctx); return err }), "Set.Random", caches.LookupMiss, caches.MissAbsent, caches.ErrMiss},
		{run(func(ctx context.Context) error { _, err := prefs.Key(1).Get(ctx, "a"); return err }), "Dict.Get", caches.LookupMiss, caches.MissAbsent, caches.ErrMiss},
	} {
		err := step.do()
		calls, faults := l.took()
		require.Len(t, calls, 1, step.op)
		c := calls[0]
		require.Equal(t, step.op, c.Op)
		require.Equal(t, "main", c.Conn)
		require.Equal(t, "a", c.Shard)
		require.Equal(t, step.result, c.Lookup, step.op)
		require.Equal(t, step.reason, c.Reason, step.op)
		require.Positive(t, c.BytesOut, step.op)
		require.Positive(t, c.BytesIn, step.op)
		require.Positive(t, c.Elapsed)
		require.True(t, strings.HasPrefix(c.Key, c.Type+"."), c.Key)
		if step.err != nil {
			require.ErrorIs(t, err, step.err)
			require.ErrorIs(t, c.Err, step.err)
		}
		if errors.Is(step.err, caches.ErrCorrupt) {
			require.Equal(t, calls, faults)
		} else {
			require.Empty(t, faults, step.op)
		}
	}
	require.NoError(t, caches.SetMany(ctx, words, map[int]string{1: "one", 2: "two"}))
	_, err := caches.GetMany(ctx, words, []int{1, 2, 3})
	require.NoError(t, err)
	calls, faults := l.took()
	require.Len(t, calls, 2)
	require.Empty(t, faults)
	require.Equal(t, "GetMany", calls[1].Op)
	require.Equal(t, 2, calls[1].Hits)
	require.Equal(t, 1, calls[1].Misses)

	s := conn.Stats()
	word := s.Types["word"]
	require.Equal(t, caches.TypeStats{Hits: 3, Misses: 2, Others: 4, Errors: 1}, word)
	require.EqualValues(t, 5, word.Lookups())
	require.InDelta(t, 0.6, word.HitRatio(), 1e-9)
	require.Equal(t, caches.TypeStats{Misses: 3}, s.Types["board"])
	require.Zero(t, caches.TypeStats{}.HitRatio())
	require.Empty(t, s.Shards) // this process's memory has nothing to count
}

// A server that is down is heard of once for each call.
func TestHooksHearOfFaults(t *testing.T) {
	t.Parallel()
	l := &listener{}
	broken := &tripStore{Store: testutil.Memory(t)}
	broken.fail(down)
	conn, err := caches.ConnOptions{Hooks: l.hooks()}.OpenStores(map[string]driver.Store{"a": broken})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	words := caches.Cache[string]{Prefix: "word"}.On(conn)
	_, err = words.Key(1).Get(t.Context())
	require.ErrorIs(t, err, caches.ErrUnavailable)
	_, err = caches.GetMany(t.Context(), words, []int{1, 2})
	require.ErrorIs(t, err, caches.ErrUnavailable)
	calls, faults := l.took()
	require.Len(t, calls, 2)
	require.Equal(t, calls, faults)
	require.Equal(t, caches.TypeStats{Errors: 2}, conn.Stats().Types["word"])
}

// Cached functions tell their own hooks and the connection's: of calls, with the
// reason of each miss, of runs, of faults that callers did not notice, and of
// invalidations.
func TestHooksHearOfCachedFunctions(t *testing.T) {
	t.Parallel()
	l, own := &listener{}, &listener{}
	ctx := t.Context()
	store := &tripStore{Store: testutil.Memory(t)}
	conn, err := caches.ConnOptions{Hooks: l.hooks()}.OpenStores(map[string]driver.Store{"a": store})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	cache := caches.Cache[int]{Prefix: "square", TTL: time.Hour}.On(conn)
	square := caches.Cached(cache, func(_ context.Context, n int) (int, error) { return n * n, nil },
		&caches.CachedOptions[int, int]{Name: "square", Early: -1, Hooks: own.hooks()})
	last := func() caches.CallInfo {
		t.Helper()
		mine, _ := own.took()
		theirs, _ := l.took()
		require.NotEmpty(t, mine)
		require.Contains(t, theirs, mine[len(mine)-1])
		return mine[len(mine)-1]
	}
	get := func() {
		t.Helper()
		v, err := square.Get(ctx, 3)
		require.NoError(t, err)
		require.Equal(t, 9, v)
	}
	get()
	c := last()
	require.Equal(t, "Cached.Get", c.Op)
	require.Equal(t, caches.LookupMiss, c.Lookup)
	require.Equal(t, caches.MissAbsent, c.Reason)
	require.Equal(t, "square", c.Type)
	require.Len(t, own.loads, 1)
	require.Equal(t, caches.MissAbsent, own.loads[0].Reason)
	get()
	require.Equal(t, caches.LookupHit, last().Lookup)
	require.NoError(t, square.Invalidate(ctx, 3))
	require.Len(t, own.invalidated, 1)
	require.Equal(t, own.invalidated, l.invalidated)
	require.Equal(t, "square.square.3", own.invalidated[0].Key)

	store.fail(down)
	get() // computed
	own.took()
	store.fail(nil)
	stats := conn.Stats().Types["square"]
	require.EqualValues(t, 1, stats.Hits)
	require.EqualValues(t, 2, stats.Loads)
	require.EqualValues(t, 1, stats.Invalidations)
	require.Positive(t, stats.Swallowed)
	require.Equal(t, own.loads, l.loads)
}

// A panic of a hook reaches nobody: the first goes to the error hook, or where
// there is none that holds, to the log.
func TestHookPanicsAreContained(t *testing.T) {
	broken := errors.New("broken")
	fall := func(context.Context, *caches.CallInfo) { panic(broken) }
	var text bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	defer log.SetOutput(os.Stderr) // which SetDefault changes, too
	defer slog.SetDefault(before)
	for name, hooks := range map[string]*caches.Hooks{
		"no error hook":              {Call: fall},
		"an error hook that panics":  {Call: fall, Error: fall},
		"only its error hook panics": {Error: fall},
	} {
		t.Run(name, func(t *testing.T) {
			text.Reset()
			store := &tripStore{Store: testutil.Memory(t)}
			store.fail(down)
			conn, err := caches.ConnOptions{Hooks: hooks}.OpenStores(map[string]driver.Store{"a": store})
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			for range 3 {
				_, err = profiles.On(conn).Key(1).Get(t.Context())
				require.ErrorIs(t, err, caches.ErrUnavailable)
			}
			require.Equal(t, 1, strings.Count(text.String(), "a hook panicked: broken"), text.String())
		})
	}
	t.Run("an error hook", func(t *testing.T) {
		text.Reset()
		var heard []error
		conn, err := caches.ConnOptions{Hooks: &caches.Hooks{
			Call:  fall,
			Error: func(_ context.Context, c *caches.CallInfo) { heard = append(heard, c.Swallowed) },
		}}.Open("locmem://")
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		for range 3 {
			require.NoError(t, profiles.On(conn).Key(1).Set(t.Context(), Profile{}))
		}
		require.Len(t, heard, 1)
		require.ErrorIs(t, heard[0], broken)
		fell, ok := errors.AsType[*caches.HookPanic](heard[0])
		require.True(t, ok)
		require.Equal(t, "Value.Set", fell.Op)
		require.Empty(t, text.String())
	})
}

// Connections that are made, lost and closed are heard of.
func TestHooksHearOfConnections(t *testing.T) {
	t.Parallel()
	l := &listener{}
	server := testutil.Redis(t, nil)
	conn, err := caches.ConnOptions{Name: "main", Hooks: l.hooks()}.Open(server.DSN() + "?node=a&timeout=2s")
	require.NoError(t, err)
	require.Empty(t, l.heard()) // nothing is dialled before the first use
	require.NoError(t, conn.Ping(t.Context()))
	require.Equal(t, []caches.StateInfo{{Conn: "main", Shard: "a", State: driver.Connected}}, l.heard())

	server.Kill()
	resting := func() bool {
		states := l.heard()
		return slices.ContainsFunc(states, func(s caches.StateInfo) bool { return s.State == driver.Resting && s.Err != nil })
	}
	require.Eventually(t, func() bool { return conn.Ping(t.Context()) != nil && resting() }, 20*time.Second, time.Millisecond)
	lost := l.heard()[1]
	require.Equal(t, driver.Disconnected, lost.State)
	require.Error(t, lost.Err)

	server.Restart()
	require.Eventually(t, func() bool { return conn.Ping(t.Context()) == nil }, 20*time.Second, time.Millisecond)
	require.NoError(t, conn.Close())
	states := l.heard()
	require.Equal(t, driver.Connected, states[len(states)-2].State)
	require.Equal(t, caches.StateInfo{Conn: "main", Shard: "a", State: driver.Disconnected}, states[len(states)-1])
	require.NotContains(t, fmt.Sprint(states), "secret")
}

// Each type counts for itself, up to a bound; the objects of Bind count by their
// fields, not by their keys.
func TestStatsByType(t *testing.T) {
	t.Parallel()
	conn := open(t, "locmem://")
	ctx := caches.WithConn(t.Context(), conn)
	type user struct {
		Profile caches.Value[Profile] `caches:"profile"`
		Roles   caches.Set[int]       `caches:"roles"`
	}
	for id := range 5 {
		u, err := caches.Bind[user]("user", id)
		require.NoError(t, err)
		require.NoError(t, u.Profile.Set(ctx, Profile{}))
		_, err = u.Roles.Add(ctx, id)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]caches.TypeStats{"profile": {Others: 5}, "roles": {Others: 5}}, conn.Stats().Types)
	for i := range 1500 {
		made := caches.Cache[int]{Prefix: fmt.Sprint("made-", i)}
		require.NoError(t, made.Key(1).Set(ctx, i))
	}
	types := conn.Stats().Types
	require.LessOrEqual(t, len(types), 1001)
	require.EqualValues(t, 502, types["(others)"].Others)
}

// Many goroutines count without loss.
func TestStatsLoseNothing(t *testing.T) {
	t.Parallel()
	conn := open(t, "locmem://")
	words := caches.Cache[int]{Prefix: "word"}.On(conn)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 200 {
				if _, err := words.Key(g, i).Get(t.Context()); !errors.Is(err, caches.ErrMiss) {
					t.Error(err)
				}
				conn.Stats()
			}
		})
	}
	group.Wait()
	require.Equal(t, caches.TypeStats{Misses: 1600}, conn.Stats().Types["word"])
}

func TestResultsAndReasonsHaveWords(t *testing.T) {
	t.Parallel()
	require.Equal(t, "[ hit near hit stale hit miss]",
		fmt.Sprint([]caches.Lookup{caches.LookupNone, caches.LookupHit, caches.LookupNear, caches.LookupStale, caches.LookupMiss}))
	require.Equal(t, "[absent expired early tag version undecodable error]", fmt.Sprint([]caches.MissReason{
		caches.MissAbsent, caches.MissExpired, caches.MissEarly, caches.MissTag, caches.MissVersion, caches.MissCorrupt, caches.MissFault,
	}))
	require.Equal(t, "caches.MissReason(99)", caches.MissReason(99).String())
	require.Equal(t, "[connected disconnected resting unknown]",
		fmt.Sprint([]driver.State{driver.Connected, driver.Disconnected, driver.Resting, 0}))
}
