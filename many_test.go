package caches_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

// A tripStore counts the round trips to a store, notes their commands, and
// fails them while fault is set.
type tripStore struct {
	driver.Store
	mu       sync.Mutex
	trips    int
	commands []string
	fault    func(command string) error
}

func (s *tripStore) Do(ctx context.Context, p *driver.Pipeline) error {
	s.mu.Lock()
	s.trips++
	fault := s.fault
	for i := range p.Len() {
		s.commands = append(s.commands, p.Command(i).Name())
	}
	name := p.Command(0).Name()
	s.mu.Unlock()
	if fault != nil {
		if err := fault(name); err != nil {
			return err
		}
	}
	return s.Store.Do(ctx, p)
}

// took returns the trips since the last call, and their commands.
func (s *tripStore) took() (trips int, commands []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	trips, commands = s.trips, s.commands
	s.trips, s.commands = 0, nil
	return trips, commands
}

func (s *tripStore) fail(fault func(command string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// down is the fault of a server that cannot be reached.
func down(string) error { return fmt.Errorf("%w: by the test", driver.ErrUnavailable) }

// tripShards opens a connection over n stores that count.
func tripShards(t *testing.T, n int) (*caches.Conn, map[string]*tripStore) {
	t.Helper()
	stores, shards := map[string]*tripStore{}, map[string]driver.Store{}
	for i := range n {
		name := fmt.Sprintf("shard%d", i)
		stores[name] = &tripStore{Store: testutil.Memory(t)}
		shards[name] = stores[name]
	}
	conn, err := caches.ConnOptions{}.OpenStores(shards)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn, stores
}

// failing returns the keys that an error speaks of, sorted, which it does in one
// KeysError.
func failing(t *testing.T, err error) []string {
	t.Helper()
	var keys *caches.KeysError
	require.ErrorAs(t, err, &keys)
	return slices.Sorted(slices.Values(keys.Keys))
}

func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestMany(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			c := caches.Cache[string]{Prefix: "many." + policy.String(), TTL: time.Hour, TTLPolicy: policy}.On(conn)
			items := map[int]string{}
			for _, i := range numbers(300) {
				items[i] = fmt.Sprint("v", i)
			}
			require.NoError(t, caches.SetMany(ctx, c, items))
			got, err := caches.GetMany(ctx, c, numbers(300))
			require.NoError(t, err)
			require.Equal(t, items, got)
			one, err := c.Key(7).Get(ctx)
			require.NoError(t, err)
			require.Equal(t, "v7", one, "the keys are those of Key")
			expires(t, ctx, c.Key(299), life, "SetMany carries the expiry")

			// Keys that are not there are not in the map; the same key may come twice.
			got, err = caches.GetMany(ctx, c, []int{-1, 5, 5, 3000})
			require.NoError(t, err)
			require.Equal(t, map[int]string{5: "v5"}, got)
			n, err := caches.DeleteMany(ctx, c, []int{1, 1, 2, -1})
			require.NoError(t, err)
			require.Equal(t, 2, n, "a key counts once")
			n, err = caches.DeleteMany(ctx, c, numbers(300))
			require.NoError(t, err)
			require.Equal(t, 298, n)
			got, err = caches.GetMany(ctx, c, numbers(300))
			require.NoError(t, err)
			require.Empty(t, got)
			require.NotNil(t, got)
		}
	})
}

// More than one command may take, on a server that has limits.
func TestManyThousands(t *testing.T) {
	const thousands = 3500
	ctx, conn := t.Context(), open(t, realRedis(t))
	for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
		c := caches.Cache[int]{Prefix: "big." + policy.String(), TTL: time.Hour, TTLPolicy: policy}.On(conn)
		items := map[int]int{}
		for _, i := range numbers(thousands) {
			items[i] = -i
		}
		require.NoError(t, caches.SetMany(ctx, c, items))
		got, err := caches.GetMany(ctx, c, numbers(thousands+10))
		require.NoError(t, err)
		require.Equal(t, items, got)
		n, err := caches.DeleteMany(ctx, c, numbers(thousands+10))
		require.NoError(t, err)
		require.Equal(t, thousands, n)
	}
}

// Under FromCreation, SetMany replaces values and leaves their end.
func TestSetManyFromCreation(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[int]{Prefix: "smc", TTL: time.Hour, TTLPolicy: caches.FromCreation}.On(conn)
		require.NoError(t, c.Key("old").Set(ctx, 1))
		require.NoError(t, c.Key("old").Touch(ctx, touch))
		require.NoError(t, caches.SetMany(ctx, c, map[string]int{"old": 2, "new": 3}))
		expires(t, ctx, c.Key("old"), touch, "there before")
		expires(t, ctx, c.Key("new"), life, "created")
		got, err := caches.GetMany(ctx, c, []string{"old", "new"})
		require.NoError(t, err)
		require.Equal(t, map[string]int{"old": 2, "new": 3}, got)
	})
}

func TestManyOfNothing(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	c := caches.Cache[int]{Prefix: "none"}.On(conn)
	got, err := caches.GetMany[int](ctx, c, nil)
	require.NoError(t, err)
	require.Equal(t, map[int]int{}, got)
	require.NoError(t, caches.SetMany(ctx, c, map[int]int{}))
	n, err := caches.DeleteMany(ctx, c, []int{})
	require.NoError(t, err)
	require.Zero(t, n)
	for name, store := range stores {
		trips, _ := store.took()
		require.Zero(t, trips, name)
	}
}

func TestManyTakesOneTripPerShard(t *testing.T) {
	ctx := t.Context()
	for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
		conn, stores := tripShards(t, 4)
		c := caches.Cache[int]{Prefix: "trip", TTL: time.Hour, TTLPolicy: policy}.On(conn)
		n := 400
		if policy == caches.RefreshOnWrite {
			n = 5000 // several commands per shard
		}
		items := map[int]int{}
		for _, i := range numbers(n) {
			items[i] = i
		}
		for name, op := range map[string]func() error{
			"SetMany":    func() error { return caches.SetMany(ctx, c, items) },
			"GetMany":    func() error { _, err := caches.GetMany(ctx, c, numbers(n)); return err },
			"DeleteMany": func() error { _, err := caches.DeleteMany(ctx, c, numbers(n)); return err },
		} {
			require.NoError(t, op())
			for shard, store := range stores {
				trips, _ := store.took()
				require.Equal(t, 1, trips, "%s to %s, policy %v", name, shard, policy)
			}
		}
		// Shards without a key are left alone.
		_, err := caches.GetMany(ctx, c, []int{1})
		require.NoError(t, err)
		trips := 0
		for _, store := range stores {
			n, _ := store.took()
			trips += n
		}
		require.Equal(t, 1, trips)
	}
}

// No command of a large operation holds the server for more than a thousand
// keys.
func TestManyChunksItsCommands(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 1)
	c := caches.Cache[int]{Prefix: "chunk"}.On(conn)
	_, err := caches.GetMany(ctx, c, numbers(2001))
	require.NoError(t, err)
	_, commands := stores["shard0"].took()
	require.Equal(t, []string{"MGET", "MGET", "MGET"}, commands)
	_, err = caches.DeleteMany(ctx, c, numbers(1000))
	require.NoError(t, err)
	_, commands = stores["shard0"].took()
	require.Equal(t, []string{"UNLINK", "UNLINK"}, commands, "of the values, and of their leases")
}

// The loss of a shard costs its keys and no others.
func TestManyWithoutOneShard(t *testing.T) {
	ctx := t.Context()
	for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
		conn, stores := tripShards(t, 4)
		c := caches.Cache[int]{Prefix: "loss", TTL: time.Hour, TTLPolicy: policy}.On(conn)
		items, healthy := map[int]int{}, map[int]int{}
		var lost []string
		for _, i := range numbers(300) {
			items[i] = i
			if key := c.Key(i).String(); conn.ShardOf(key) == "shard2" {
				lost = append(lost, key)
			} else {
				healthy[i] = i
			}
		}
		slices.Sort(lost)
		require.NotEmpty(t, lost)
		require.NotEmpty(t, healthy)
		require.NoError(t, caches.SetMany(ctx, c, items))

		stores["shard2"].fail(down)
		got, err := caches.GetMany(ctx, c, numbers(300))
		require.ErrorIs(t, err, caches.ErrUnavailable)
		require.Equal(t, lost, failing(t, err))
		require.Equal(t, healthy, got)

		next := maps.Clone(items)
		for i := range next {
			next[i] += 1000
		}
		err = caches.SetMany(ctx, c, next)
		require.ErrorIs(t, err, caches.ErrUnavailable)
		require.Equal(t, lost, failing(t, err))

		stores["shard2"].fail(nil)
		got, err = caches.GetMany(ctx, c, numbers(300))
		require.NoError(t, err)
		for i, v := range got {
			if _, ok := healthy[i]; ok {
				require.Equal(t, i+1000, v, "stored")
			} else {
				require.Equal(t, i, v, "not stored, and said so")
			}
		}

		stores["shard2"].fail(down)
		n, err := caches.DeleteMany(ctx, c, numbers(300))
		require.ErrorIs(t, err, caches.ErrUnavailable)
		require.Equal(t, lost, failing(t, err))
		require.Equal(t, len(healthy), n)
		stores["shard2"].fail(nil)
		n, err = caches.DeleteMany(ctx, c, numbers(300))
		require.NoError(t, err)
		require.Equal(t, len(lost), n)
	}
}

func TestManyOnAClosedShard(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	c := caches.Cache[int]{Prefix: "closed"}.On(conn)
	require.NoError(t, caches.SetMany(ctx, c, map[int]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5}))
	require.NoError(t, stores["shard1"].Close())
	got, err := caches.GetMany(ctx, c, []int{1, 2, 3, 4, 5})
	var want []string
	for i := 1; i <= 5; i++ {
		if key := c.Key(i).String(); conn.ShardOf(key) == "shard1" {
			want = append(want, key)
		}
	}
	require.NotEmpty(t, want)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.Equal(t, want, failing(t, err))
	require.Len(t, got, 5-len(want))
}

// Faults of different kinds at once: each is found in the one error, and its
// text says each once however many keys it befell.
func TestManyJoinsCauses(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	c := caches.Cache[int]{Prefix: "join"}.On(conn)
	stores["shard0"].fail(down)
	stores["shard1"].fail(func(string) error { return fmt.Errorf("%w: by the test", driver.ErrUnknownOutcome) })
	_, err := caches.GetMany(ctx, c, numbers(1000))
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.ErrorIs(t, err, caches.ErrUnknownOutcome)
	require.Greater(t, len(failing(t, err)), 100)
	require.Less(t, len(err.Error()), 300, "a message is for reading: %v", err)
	var op *caches.KeysError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "GetMany", op.Op)
}

func TestGetManyCorrupt(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.SlideOnRead} {
			prefix := "corrupt" + policy.String()
			c := caches.Cache[int]{Prefix: prefix, TTL: time.Hour, TTLPolicy: policy}.On(conn)
			text := caches.Cache[string]{Prefix: prefix, Serializer: caches.Raw}.On(conn)
			require.NoError(t, caches.SetMany(ctx, c, map[string]int{"a": 1, "b": 2, "c": 3}))
			require.NoError(t, text.Key("b").Set(ctx, "hunter2"))
			got, err := caches.GetMany(ctx, c, []string{"a", "b", "c", "d"})
			require.ErrorIs(t, err, caches.ErrCorrupt)
			require.Equal(t, []string{prefix + ".b"}, failing(t, err))
			require.NotContains(t, err.Error(), "hunter2")
			require.Equal(t, map[string]int{"a": 1, "c": 3}, got)

			// Another data type is nothing to MGET, and an error to GETEX.
			_, err = caches.SetCache[int](c).On(conn).Key("d").Add(ctx, 1)
			require.NoError(t, err)
			got, err = caches.GetMany(ctx, c, []string{"a", "d"})
			require.Equal(t, map[string]int{"a": 1}, got)
			if policy == caches.SlideOnRead {
				require.ErrorIs(t, err, caches.ErrWrongType)
				require.Equal(t, []string{prefix + ".d"}, failing(t, err))
			} else {
				require.NoError(t, err)
			}
		}
	})
}

func TestSetManyRefusesOneRefusesAll(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[any]{Prefix: "refuse", TTL: time.Hour}.On(conn)
		items := map[int]any{}
		for _, i := range numbers(100) {
			items[i] = i
		}
		items[50] = make(chan int)
		err := caches.SetMany(ctx, c, items)
		require.ErrorContains(t, err, `"refuse.50"`, "the error names the one")
		require.Len(t, failing(t, err), 100, "and all that were not stored")
		got, err := caches.GetMany(ctx, c, numbers(100))
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

func TestManyBadInput(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 2)
	c := caches.Cache[int]{Prefix: "badkey"}.On(conn)
	_, err := caches.GetMany(ctx, c, []any{1, struct{ X int }{1}})
	require.ErrorContains(t, err, "part 1 of the key")
	err = caches.SetMany(ctx, c, map[any]int{struct{}{}: 1})
	require.ErrorContains(t, err, "part 1 of the key")
	_, err = caches.DeleteMany(ctx, c, []any{nil})
	require.ErrorContains(t, err, "part 1 of the key")
	c.TTL = -1
	_, err = caches.GetMany(ctx, c, []int{1})
	require.ErrorContains(t, err, "negative")
	for name, store := range stores {
		trips, _ := store.took()
		require.Zero(t, trips, name)
	}
	unknown := caches.Cache[int]{Connection: "nobody-configured-this"}
	_, err = caches.GetMany(ctx, unknown, []int{1})
	require.ErrorIs(t, err, caches.ErrNoConnection)
	var op *caches.OpError
	require.True(t, errors.As(err, &op))
	require.Equal(t, "GetMany", op.Op)
}

// An object's own key is a prefix as well: what lies below it comes together.
func TestManyBelowAnObject(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[int]{Prefix: "below"}.On(conn).Under("user", 7)
		require.NoError(t, caches.SetMany(ctx, c, map[string]int{"a": 1, "b": 2}))
		v, err := c.Key("a").Get(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.Equal(t, "below.user.7.a", c.Key("a").String())
	})
}

// Under a context that has ended nothing is done, and all keys are named.
func TestManyCancelled(t *testing.T) {
	conn, _ := tripShards(t, 4)
	c := caches.Cache[int]{Prefix: "cancel"}.On(conn)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := caches.GetMany(ctx, c, numbers(20))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.Len(t, failing(t, err), 20)
	require.Empty(t, got)
}

// A commandLog records the commands that it passes on.
type commandLog struct {
	driver.Store
	commands []string // name and first key
}

func (r *commandLog) Do(ctx context.Context, p *driver.Pipeline) error {
	for i := range p.Len() {
		args := p.Command(i).Args
		r.commands = append(r.commands, string(args[0])+" "+string(args[1]))
	}
	return r.Store.Do(ctx, p)
}

// Deletes remove the leases first. In the other order, a computation that ends
// between the two would store a result that is older than the delete.
func TestDeletesBeginWithLeases(t *testing.T) {
	r := &commandLog{Store: testutil.Memory(t)}
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": r})
	require.NoError(t, err)
	ctx, numbers := t.Context(), caches.Cache[int]{Prefix: "n"}.On(conn)
	require.NoError(t, numbers.Key(1).Set(ctx, 1))
	r.commands = nil
	require.True(t, ask(numbers.Key(1).Delete(ctx)).ok(t))
	require.Zero(t, ask(caches.DeleteMany(ctx, numbers, []int{1})).ok(t))
	require.Equal(t, []string{"UNLINK {n.1}%lease", "UNLINK n.1", "UNLINK {n.1}%lease", "UNLINK n.1"}, r.commands)
}
