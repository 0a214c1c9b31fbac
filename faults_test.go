package caches_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
)

// What objects do when the server or the network does not: see the package
// documentation of driver/redigo for the rules that are checked here.

// ample is more than any call of these tests may take beyond its deadline, on a
// machine that is busy with other things.
const ample = 5 * time.Second

// redisStore opens a store of the Redis server at addr.
func redisStore(t *testing.T, addr string) driver.Store {
	t.Helper()
	store, err := redigo.Open(redigo.Config{Address: addr, Timeout: 10 * time.Second})
	require.NoError(t, err)
	return store
}

// A calling is one call of an object, and whether it changes anything.
type calling struct {
	name   string
	writes bool
	call   func(ctx context.Context) error
}

// callings are calls of every object, on keys of conn that begin with prefix.
// All of them succeed, or miss, on a server that is there.
func callings(conn *caches.Conn, prefix string) []calling {
	o := caches.Options{Prefix: prefix, TTL: time.Hour}
	value := caches.Cache[string](o).On(conn)
	counter := caches.CounterCache[int](o).On(conn).Key("counter")
	all := []calling{
		{"Value.Get", false, func(ctx context.Context) error { _, err := value.Key("v").Get(ctx); return err }},
		{"Value.Set", true, func(ctx context.Context) error { return value.Key("v").Set(ctx, "x") }},
		{"Value.Add", true, func(ctx context.Context) error { _, err := value.Key("v").Add(ctx, "x"); return err }},
		{"Value.Pop", true, func(ctx context.Context) error { _, err := value.Key("v").Pop(ctx); return err }},
		{"Exists", false, func(ctx context.Context) error { _, err := value.Key("v").Exists(ctx); return err }},
		{"ExpiresIn", false, func(ctx context.Context) error { _, err := value.Key("v").ExpiresIn(ctx); return err }},
		{"Delete", true, func(ctx context.Context) error { return errOf(value.Key("v").Delete(ctx)) }},
		{"GetMany", false, func(ctx context.Context) error {
			_, err := caches.GetMany(ctx, value, []int{1, 2})
			return err
		}},
		{"SetMany", true, func(ctx context.Context) error {
			return caches.SetMany(ctx, value, map[int]string{1: "a", 2: "b"})
		}},
		{"DeleteMany", true, func(ctx context.Context) error {
			_, err := caches.DeleteMany(ctx, value, []int{1, 2})
			return err
		}},
		{"Counter.Incr", true, func(ctx context.Context) error { _, err := counter.Incr(ctx, 1); return err }},
	}
	for _, kind := range kinds { // one that writes, one that reads, and an iteration
		acts := kind.on(conn, o).key(kind.name).acts
		for _, chosen := range []func(act) bool{
			func(a act) bool { return a.effect == stores },
			func(a act) bool { return a.effect == reads },
			func(a act) bool { return a.name == "All" },
		} {
			a := acts[slices.IndexFunc(acts, chosen)]
			all = append(all, calling{kind.name + " " + a.name, a.effect == stores, a.run})
		}
	}
	return all
}

// hit is err without a miss, which is an answer.
func hit(err error) error {
	if errors.Is(err, caches.ErrMiss) {
		return nil
	}
	return err
}

// comes makes the call until it comes through: the timeouts of these connections
// are shorter than a pause of a busy machine may be.
func (c calling) comes(t *testing.T) {
	t.Helper()
	require.NoError(t, await(t.Context(), func() bool { return hit(c.call(t.Context())) == nil }), c.name)
}

func TestServerDown(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+"?timeout=300ms")
	for _, c := range callings(conn, "down") {
		c.comes(t) // connections stay behind in the pool
	}
	server.Kill()
	for _, c := range callings(conn, "down") {
		start := time.Now()
		err := c.call(t.Context())
		require.ErrorIs(t, err, caches.ErrUnavailable, c.name)
		require.NotErrorIs(t, err, caches.ErrUnknownOutcome, c.name)
		require.NotErrorIs(t, err, caches.ErrMiss, c.name+": a fault is no miss")
		require.Less(t, time.Since(start), 300*time.Millisecond+ample, c.name)
	}
	server.Restart()
	revive(t, conn)
	for _, c := range callings(conn, "down") {
		c.comes(t) // on a server that is back, empty
	}
}

// The scripts went with the server; objects that need them do not notice.
func TestServerRestartForgetsScripts(t *testing.T) {
	ctx, server := t.Context(), testutil.Redis(t, nil)
	conn := open(t, server.DSN()+"?timeout=10s")
	dict := caches.DictCache[string, int]{Prefix: "d", TTL: time.Hour}.On(conn).Key("a")
	for range 3 {
		require.NoError(t, dict.Set(ctx, "f", 1))
		field, n, err := dict.PopItem(ctx)
		require.NoError(t, err)
		require.Equal(t, "f", field)
		require.Equal(t, 1, n)
		ran, err := gates(conn, time.Hour).Key("g").Do(ctx, func(context.Context) error {
			server.Restart()
			return nil
		})
		require.True(t, ran)
		require.ErrorIs(t, err, caches.ErrLeaseLost, "the gate went with the server")
	}
}

// Work behind a gate hears of it when the server that keeps the gate has died.
func TestLeaseLostWhenRedisDies(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	const lease = 300 * time.Millisecond
	typ := gates(open(t, server.DSN()+"?timeout=3s"), time.Hour)
	typ.Lease = lease
	gate := typ.Key("a")
	ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
		server.Kill()
		start := time.Now()
		<-ctx.Done()
		require.Less(t, time.Since(start), lease+ample)
		return context.Cause(ctx)
	})
	require.True(t, ran)
	require.ErrorIs(t, err, caches.ErrLeaseLost)
	require.ErrorIs(t, err, caches.ErrUnavailable, "the claim could not be given back")
}

// A server that answers nothing holds a call up until its deadline. A write may
// have run: this is where at most once and at least once part.
func TestServerSilent(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+"?timeout=100ms&connect_timeout=1m") // one dial for all of them
	for _, c := range callings(conn, "silent") {
		c.comes(t)
	}
	server.Pause()
	var calls sync.WaitGroup
	for _, c := range callings(conn, "silent") {
		calls.Go(func() {
			start := time.Now()
			err := c.call(t.Context())
			assert.ErrorIs(t, err, context.DeadlineExceeded, c.name)
			// The connection is given up with the first of them, up to 10 ms before the
			// time of the last is up.
			assert.GreaterOrEqual(t, time.Since(start), 90*time.Millisecond, c.name)
			assert.Less(t, time.Since(start), 100*time.Millisecond+ample, c.name)
			if !errors.Is(err, caches.ErrUnavailable) { // a connection of its own, whose greeting had no answer
				assert.ErrorIs(t, err, caches.ErrUnknownOutcome, c.name)
			}
		})
	}
	calls.Wait()
	server.Resume()
	for _, c := range callings(conn, "silent") {
		c.comes(t)
	}
}

func TestContextEndedBefore(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
		defer cancel()
		for _, c := range callings(conn, "ended") {
			err := c.call(canceled)
			require.ErrorIs(t, err, caches.ErrUnavailable, c.name)
			require.ErrorIs(t, err, context.Canceled, c.name)
			err = c.call(late)
			require.ErrorIs(t, err, caches.ErrUnavailable, c.name)
			require.ErrorIs(t, err, context.DeadlineExceeded, c.name)
		}
		removed, err := conn.UnsafeClear(ctx, "*")
		require.NoError(t, err)
		require.Zero(t, removed, "something was written for a caller who had gone")
	})
}

// A caller who gives up while a reply is under way gets away at once, and knows
// that the write may have run.
func TestContextEndsWaiting(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	conn := open(t, "redis://"+proxy.Addr()+"?timeout=1m")
	counter := caches.CounterCache[int]{Prefix: "n"}.On(conn).Key("a")
	_, err := counter.Incr(t.Context(), 1)
	require.NoError(t, err)
	proxy.DropReplies(true)

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_ = await(t.Context(), func() bool {
			n, err := server.Do("GET", "n.a")
			return err == nil && string(n.([]byte)) == "2"
		})
		cancel()
	}()
	_, err = counter.Incr(ctx, 1)
	require.ErrorIs(t, err, caches.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, caches.ErrUnavailable)

	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = counter.Incr(ctx, 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 100*time.Millisecond+ample)

	proxy.Heal()
	n, err := counter.Get(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 2)
}

// cutAfter returns a connection through a proxy that closes each of its
// connections once the greeting and n more bytes of replies have passed. Where n
// is in the middle of a reply behind at least one whole one, whoever sends again
// over a new connection is answered and never fails.
func cutAfter(t *testing.T, server *testutil.RedisServer, n int) *caches.Conn {
	t.Helper()
	proxy := testutil.NewProxy(t, server.Addr())
	proxy.CutReply(len("+PONG\r\n") + n)
	return open(t, "redis://"+proxy.Addr()+"?timeout=20s")
}

func TestReadsSurviveCutReplies(t *testing.T) {
	ctx, server := t.Context(), testutil.Redis(t, nil)
	o := caches.Options{Prefix: "value", Serializer: caches.Raw}
	require.NoError(t, caches.Cache[string](o).On(open(t, server.DSN())).Key(1).Set(ctx, "abc"))
	value := caches.Cache[string](o).On(cutAfter(t, server, 3*len("$3\r\nabc\r\n")+1)).Key(1)
	for i := range 100 {
		v, err := value.Get(ctx)
		require.NoError(t, err, "read %d", i)
		require.Equal(t, "abc", v)
	}
}

// A write whose reply is lost is not sent again: it may have run. The audit
// over all of them: no acknowledged write is missing, none ran twice.
func TestWritesRunAtMostOnce(t *testing.T) {
	t.Parallel()
	ctx, server := t.Context(), testutil.Redis(t, nil)
	for _, ttl := range []time.Duration{caches.Forever, time.Hour} { // one command, and a transaction
		o := caches.Options{Prefix: "n", TTL: ttl}
		reply := ":1\r\n"
		if ttl != caches.Forever {
			reply = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n:1\r\n"
		}
		counter := caches.CounterCache[int](o).On(cutAfter(t, server, 3*len(reply)+1)).Key(ttl)
		acknowledged, unknown := 0, 0
		for range 200 {
			switch _, err := counter.Incr(ctx, 1); {
			case err == nil:
				acknowledged++
			default:
				require.ErrorIs(t, err, caches.ErrUnknownOutcome)
				require.NotErrorIs(t, err, caches.ErrUnavailable)
				unknown++
			}
		}
		n, err := caches.CounterCache[int](o).On(open(t, server.DSN())).Key(ttl).Get(ctx)
		require.NoError(t, err)
		t.Logf("%d acknowledged, %d unknown, counter at %d", acknowledged, unknown, n)
		require.Positive(t, unknown, "the proxy cut nothing")
		require.GreaterOrEqual(t, n, acknowledged, "an acknowledged write is missing")
		require.LessOrEqual(t, n, acknowledged+unknown, "a write ran twice")
	}
}

// Every writing call through a proxy that cuts its reply says that it does not
// know, and every reading call comes through.
func TestEveryCallAndACutReply(t *testing.T) {
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	conn := open(t, "redis://"+proxy.Addr()+"?timeout=10s&conns=1")
	for _, c := range callings(conn, "cut") {
		require.NoError(t, hit(c.call(t.Context())), c.name)
		proxy.CutReply(0)
		err := c.call(t.Context())
		switch {
		case c.writes:
			require.ErrorIs(t, err, caches.ErrUnknownOutcome, c.name)
		default: // tried again, and no connection was any better
			require.Error(t, hit(err), c.name)
		}
		require.NotErrorIs(t, err, caches.ErrMiss, c.name)
		proxy.Heal()
		revive(t, conn)
		require.NoError(t, hit(c.call(t.Context())), "%s after the network has healed", c.name)
	}
}

// A gate asked through cut replies still has one winner, who is told so: claims
// are sent again, and know themselves.
func TestOnceThroughCutReplies(t *testing.T) {
	ctx, server := t.Context(), testutil.Redis(t, nil)
	const free, taken = len("$-1\r\n"), len("$34\r\nd:0123456789abcdef0123456789abcdef\r\n")
	conn := cutAfter(t, server, taken+2*free+1) // a claim sent again is answered by its own token
	for i := range 100 {
		won, err := gates(conn, time.Hour).Key(i).Once(ctx)
		require.NoError(t, err, "gate %d", i)
		require.True(t, won, "gate %d: the claim did not know itself", i)
	}
	for i := range 100 {
		requireShut(t, ctx, gates(open(t, server.DSN()), time.Hour).Key(i))
	}
}

// revive waits until every server of conn is tried again: one that has failed
// repeatedly is left in peace for a moment.
func revive(t *testing.T, conn *caches.Conn) {
	t.Helper()
	require.NoError(t, await(t.Context(), func() bool { return conn.Ping(t.Context()) == nil }))
}

func TestConnectionsRefused(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	proxy.Refuse(true)
	conn := open(t, "redis://"+proxy.Addr()+"?timeout=300ms")
	for _, c := range callings(conn, "refused") {
		err := c.call(t.Context())
		require.ErrorIs(t, err, caches.ErrUnavailable, c.name)
		require.NotErrorIs(t, err, caches.ErrUnknownOutcome, c.name)
	}
	proxy.Heal()
	revive(t, conn)
	for _, c := range callings(conn, "refused") {
		c.comes(t)
	}
}

// shards are four servers as one connection, and how to tell on which a key
// lives.
func shards(t *testing.T) (conn *caches.Conn, servers map[string]*testutil.RedisServer) {
	t.Helper()
	servers = make(map[string]*testutil.RedisServer)
	var dsns []string
	for i := range 4 {
		name := fmt.Sprintf("node%d", i)
		servers[name] = testutil.Redis(t, nil)
		dsns = append(dsns, servers[name].DSN()+patience+"&node="+name)
	}
	return open(t, dsns...), servers
}

// With one shard of four gone, the keys of the other three are served, and the
// error names those of the lost one: all of them and no other.
func TestShardLost(t *testing.T) {
	ctx := t.Context()
	conn, servers := shards(t)
	values := caches.Cache[int]{Prefix: "value", TTL: time.Hour}.On(conn)
	all := make(map[int]int)
	for i := range 200 {
		all[i] = i * i
	}
	require.NoError(t, caches.SetMany(ctx, values, all))

	const lost = "node2"
	servers[lost].Kill()
	healthy, keys, gone := make(map[int]int), make([]int, 0, len(all)), []string(nil)
	for i, v := range all {
		keys = append(keys, i)
		if full := values.Key(i).String(); conn.ShardOf(full) == lost {
			gone = append(gone, full)
		} else {
			healthy[i] = v
		}
	}
	require.NotEmpty(t, gone)
	requireLost := func(t *testing.T, op string, err error) {
		t.Helper()
		require.ErrorIs(t, err, caches.ErrUnavailable)
		failed, ok := errors.AsType[*caches.KeysError](err)
		require.True(t, ok, err)
		require.Equal(t, op, failed.Op)
		require.ElementsMatch(t, gone, failed.Keys)
		require.Contains(t, err.Error(), fmt.Sprintf("and %d more", len(gone)-5))
	}
	found, err := caches.GetMany(ctx, values, keys)
	requireLost(t, "GetMany", err)
	require.Equal(t, healthy, found)

	for i := range all {
		all[i] = -i
	}
	requireLost(t, "SetMany", caches.SetMany(ctx, values, all))
	for i := range healthy {
		v, err := values.Key(i).Get(ctx)
		require.NoError(t, err, "a key of a healthy shard")
		require.Equal(t, -i, v)
	}

	n, err := caches.DeleteMany(ctx, values, keys)
	requireLost(t, "DeleteMany", err)
	require.Equal(t, len(healthy), n)

	err = conn.Ping(ctx)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.Equal(t, 1, strings.Count(err.Error(), "shard node"), err)
	require.Contains(t, err.Error(), "shard "+lost)

	servers[lost].Restart()
	revive(t, conn)
	require.NoError(t, caches.SetMany(ctx, values, all), "no word more about the lost shard")
	found, err = caches.GetMany(ctx, values, keys)
	require.NoError(t, err)
	require.Equal(t, all, found)
}

// Nothing goes to another shard instead: keys of the lost one fail, and are
// nowhere when it is back. (A key that lived on two shards would be stale on
// one of them.)
func TestShardLostIsNotReplaced(t *testing.T) {
	ctx := t.Context()
	conn, servers := shards(t)
	gate := gates(conn, time.Hour)
	const lost = "node1"
	servers[lost].Kill()
	failed := 0
	for i := range 40 {
		won, err := gate.Key(i).Once(ctx)
		if conn.ShardOf(gate.Key(i).String()) == lost {
			failed++
			assert.ErrorIs(t, err, caches.ErrUnavailable)
			assert.False(t, won, "a gate that fails open")
			continue
		}
		assert.NoError(t, err)
		assert.True(t, won)
	}
	require.Positive(t, failed)
	servers[lost].Restart()
	revive(t, conn)
	for i := range 40 {
		won, err := gate.Key(i).Once(ctx)
		require.NoError(t, err)
		require.Equal(t, conn.ShardOf(gate.Key(i).String()) == lost, won)
	}
}

// Whole sets are read from several shards, or not at all: a part of a union
// would look like a whole one.
func TestShardLostUnderSetAlgebra(t *testing.T) {
	ctx := t.Context()
	conn, servers := shards(t)
	sets := caches.SetCache[int]{Prefix: "s", TTL: time.Hour}.On(conn)
	var others []caches.Set[int]
	for i := range 16 {
		_, err := sets.Key(i).Add(ctx, i)
		require.NoError(t, err)
		others = append(others, sets.Key(i))
	}
	servers[conn.ShardOf(sets.Key(3).String())].Kill()
	union, err := others[0].Union(ctx, others[1:]...)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.Empty(t, union)
	dst := sets.Key("dst")
	_, err = dst.StoreUnion(ctx, others[0], others[1:]...)
	require.ErrorIs(t, err, caches.ErrUnavailable)
	if conn.ShardOf(dst.String()) != conn.ShardOf(sets.Key(3).String()) {
		stored, err := dst.Exists(ctx)
		require.NoError(t, err)
		require.False(t, stored, "a part of the union was stored")
	}
}

// Closing ends what is under way and what comes later, with a definite outcome.
func TestClosed(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		require.NoError(t, conn.Close())
		for _, c := range callings(conn, "closed") {
			require.ErrorIs(t, c.call(ctx), caches.ErrUnavailable, c.name)
		}
		won, err := gates(conn, time.Minute).Key("a").Once(ctx)
		require.ErrorIs(t, err, caches.ErrUnavailable)
		require.False(t, won)
	})
}
