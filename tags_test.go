package caches_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

func TestTagged(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		users := usersOn(conn)
		ada := users.Key("ada").Tagged("team:7", "staff", "team:7")
		miss := func(why string) {
			t.Helper()
			_, err := ada.Get(ctx)
			require.ErrorIs(t, err, caches.ErrMiss, why)
		}
		set := func() {
			t.Helper()
			require.NoError(t, ada.Set(ctx, "Ada"))
			v, err := ada.Get(ctx)
			require.NoError(t, err)
			require.Equal(t, "Ada", v)
		}
		miss("nothing is there")
		set()
		expires(t, ctx, users.Key("ada"), life, "with its expiry")
		v, err := users.Key("ada").Tagged("staff", "team:7").Get(ctx)
		require.NoError(t, err, "in any order")
		require.Equal(t, "Ada", v)
		_, err = users.Key("ada").Tagged("staff").Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss, "but by the same tags")

		require.NoError(t, conn.InvalidateTags(ctx, "team:8"))
		set()
		require.NoError(t, conn.InvalidateTags(ctx, "team:7"))
		miss("its tag was invalidated")
		set()
		require.NoError(t, conn.InvalidateTags(ctx, "staff", "none such"))
		miss("one of its tags was")
		set()
		require.NoError(t, users.InvalidateAll(ctx))
		miss("its namespace was")
		set()
		require.NoError(t, errOf(ada.Delete(ctx)))
		miss("it was deleted")

		// The value that was there before does not come back with a new stamp.
		set()
		require.NoError(t, conn.InvalidateTags(ctx, "team:7"))
		require.NoError(t, users.Key("grace").Tagged("team:7").Set(ctx, "Grace"))
		miss("its stamp is another")
		def, err := ada.GetOr(ctx, "nobody")
		require.NoError(t, err)
		require.Equal(t, "nobody", def)

		require.NoError(t, conn.UnsafeFlush(ctx))
		miss("all was flushed")
		require.NoError(t, conn.InvalidateTags(ctx), "of nothing")
	})
}

// Tags tell apart what they should: no tag's text is another's.
func TestTagKeys(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	tags := []string{"", "a", "a.b", "a%2Eb", "{a}", "a b", "\n", "%tag", "A"}
	for _, tag := range tags {
		require.NoError(t, usersOn(conn).Key(tag).Tagged(tag).Set(ctx, tag))
	}
	require.NoError(t, usersOn(conn).Key("tag", "users").Set(ctx, "a user's own key"))
	for i, tag := range tags {
		require.NoError(t, conn.InvalidateTags(ctx, tag))
		_, err := usersOn(conn).Key(tag).Tagged(tag).Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss, "%q", tag)
		for _, other := range tags[i+1:] {
			_, err := usersOn(conn).Key(other).Tagged(other).Get(ctx)
			require.NoError(t, err, "%q is not %q", other, tag)
		}
	}
}

// An invalidation that did not happen is an error, whatever the other shards say.
func TestInvalidateTagsIsNeverSilent(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	for _, store := range stores {
		store.fail(down)
		require.ErrorIs(t, conn.InvalidateTags(ctx, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"), caches.ErrUnavailable)
		require.ErrorIs(t, usersOn(conn).InvalidateAll(ctx), caches.ErrUnavailable)
		store.fail(nil)
	}
	require.NoError(t, conn.InvalidateTags(ctx, "a"))
	require.NoError(t, usersOn(conn).InvalidateAll(ctx))
}

// A tagged entry is read in one trip to each shard that has a part in it.
func TestTaggedReadIsOneTrip(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 4)
	f := caches.Cached(usersOn(conn), loadByID, &caches.CachedOptions[int, string]{
		Name: "one", Tags: func(int) []string { return []string{"a", "b", "c", "d", "e", "f"} },
	})
	_, err := f.Get(ctx, 1)
	require.NoError(t, err)
	for _, store := range stores {
		store.took()
	}
	_, err = f.Get(ctx, 1)
	require.NoError(t, err)
	for name, store := range stores {
		trips, commands := store.took()
		require.LessOrEqual(t, trips, 1, name)
		require.Subset(t, []string{"MGET"}, commands)
	}
}

// To invalidate a tag takes as many commands for 100,000 entries as for 10.
func TestInvalidateTagsIsConstant(t *testing.T) {
	server := testutil.Redis(t, nil)
	ctx, conn := t.Context(), open(t, server.DSN()+patience)
	f := caches.Cached(usersOn(conn), loadByID, &caches.CachedOptions[int, string]{
		Name: "many", Tags: func(int) []string { return []string{"all of them"} }, Lease: -1,
	})
	for _, n := range []int{10, 1000, fullOr(100_000, 3000)} {
		_, err := f.GetMany(ctx, numbers(n))
		require.NoError(t, err)
		before := commandCalls(t, server, "unlink")
		all := commandCalls(t, server, "")
		require.NoError(t, conn.InvalidateTags(ctx, "all of them"))
		require.Equal(t, 1, commandCalls(t, server, "unlink")-before, "%d entries", n)
		require.Equal(t, 1, commandCalls(t, server, "")-all, "%d entries", n)
		_, err = usersOn(conn).Key("many", "7").Tagged("all of them").Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
	}
}

var callsPattern = regexp.MustCompile(`cmdstat_([a-z|]+):calls=(\d+)`)

// commandCalls returns how often a command was called on a server, or all but
// INFO.
func commandCalls(t *testing.T, server *testutil.RedisServer, command string) (n int) {
	t.Helper()
	reply, err := server.Do("INFO", "commandstats")
	require.NoError(t, err)
	for _, m := range callsPattern.FindAllStringSubmatch(string(reply.([]byte)), -1) {
		if m[1] == command || command == "" && m[1] != "info" && m[1] != "auth" {
			calls, _ := strconv.Atoi(m[2])
			n += calls
		}
	}
	return n
}

// A raced is one entry that is invalidated while it is computed.
type raced struct {
	row   atomic.Int64 // what the function reads
	acked atomic.Int64 // the row whose invalidation was acknowledged
}

// A remembering is a function that remembers its results.
type remembering interface {
	Get(ctx context.Context, i int) (int64, error)
	Invalidate(ctx context.Context, i int) error
	InvalidateAll(ctx context.Context) error
}

type racer struct {
	a, b, c remembering  // the same function in three processes
	conn    *caches.Conn // of the one that invalidates
	rows    []raced
	stale   atomic.Int64
}

func newRacer(t *testing.T, dsn string, rounds int, cached func(caches.Cache[int64], func(context.Context, int) (int64, error)) remembering) *racer {
	r := &racer{rows: make([]raced, rounds)}
	of := func(slow bool) (remembering, *caches.Conn) {
		conn := open(t, dsn)
		return cached(caches.Cache[int64]{Prefix: "race", TTL: time.Minute}.On(conn), func(_ context.Context, i int) (int64, error) {
			v := r.rows[i].row.Load()
			if slow {
				time.Sleep(rand.N(2 * time.Millisecond)) // it takes as long
			}
			return v, nil
		}), conn
	}
	r.a, _ = of(true)
	r.b, _ = of(true)
	r.c, r.conn = of(false)
	return r
}

func tagsOfRow(i int) []string { return []string{fmt.Sprint("row", i)} }

// guarded remembers with Cached.
func guarded(c caches.Cache[int64], fn func(context.Context, int) (int64, error)) remembering {
	return caches.Cached(c, fn, &caches.CachedOptions[int, int64]{Name: "race", Tags: tagsOfRow, Early: -1})
}

// An unguarded remembers as many programs do by hand: it reads, computes and
// stores. The stored result depends on the tags at the end of the computation,
// not at its beginning.
type unguarded struct {
	caches.Cache[int64]
	fn func(context.Context, int) (int64, error)
}

func byHand(c caches.Cache[int64], fn func(context.Context, int) (int64, error)) remembering {
	return unguarded{c, fn}
}

func (u unguarded) Get(ctx context.Context, i int) (int64, error) {
	entry := u.Key(i).Tagged(tagsOfRow(i)...)
	v, err := entry.Get(ctx)
	if !errors.Is(err, caches.ErrMiss) {
		return v, err
	}
	if v, err = u.fn(ctx, i); err != nil {
		return v, err
	}
	return v, entry.Set(ctx, v)
}

func (u unguarded) Invalidate(ctx context.Context, i int) error { return errOf(u.Key(i).Delete(ctx)) }

// round has two processes compute a row and a third one change and invalidate it
// at a random moment, and then counts who is served what was before.
func (r *racer) round(ctx context.Context, i int) error {
	var calls sync.WaitGroup
	var fault atomic.Pointer[error]
	do := func(f func() error) {
		calls.Go(func() {
			if err := f(); err != nil {
				fault.Store(&err)
			}
		})
	}
	row := &r.rows[i]
	read := func(f remembering) error {
		acked := row.acked.Load()
		v, err := f.Get(ctx, i)
		if v < acked {
			r.stale.Add(1)
		}
		return err
	}
	for _, f := range []remembering{r.a, r.b} {
		do(func() error { return read(f) })
	}
	do(func() error {
		time.Sleep(rand.N(2 * time.Millisecond)) // a random moment
		row.row.Add(1)
		var err error
		switch i % 3 {
		case 0:
			err = r.c.Invalidate(ctx, i)
		case 1:
			err = r.conn.InvalidateTags(ctx, fmt.Sprint("row", i))
		case 2:
			err = r.c.InvalidateAll(ctx)
		}
		if err == nil {
			row.acked.Store(row.row.Load())
			err = read(r.a) // it may find the run of before under way
		}
		return err
	})
	calls.Wait()
	for _, f := range []remembering{r.a, r.b, r.c} {
		do(func() error { return read(f) })
	}
	calls.Wait()
	if err := fault.Load(); err != nil {
		return *err
	}
	return nil
}

func (r *racer) run(t *testing.T) {
	var next atomic.Int64
	var lanes sync.WaitGroup
	for range 8 {
		lanes.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(r.rows); i = int(next.Add(1)) - 1 {
				if err := r.round(t.Context(), i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	lanes.Wait()
}

// A result that was invalidated while it was computed, by its key, a tag or its
// namespace, in whatever process, is served to nobody who asks afterwards.
func TestStaleStoreRace(t *testing.T) {
	eachServer(t, func(t *testing.T, dsn string) {
		r := newRacer(t, dsn, fullOr(10_000, 150), guarded)
		r.run(t)
		t.Logf("%d rounds, %d stale values", len(r.rows), r.stale.Load())
		require.Zero(t, r.stale.Load())
	})
}

// The control: without the guard the same rounds find stale values.
func TestStaleStoreRaceUnguarded(t *testing.T) {
	r := newRacer(t, realRedis(t), fullOr(10_000, 150), byHand)
	r.run(t)
	for tries := 1; r.stale.Load() == 0 && tries < 20; tries++ { // a run in which no moment met
		next := newRacer(t, realRedis(t), len(r.rows), byHand)
		next.run(t)
		r = next
	}
	t.Logf("%d rounds, %d stale values", len(r.rows), r.stale.Load())
	require.Positive(t, r.stale.Load())
}

// On a server that evicts whatever was used least, stamps and leases among it,
// no entry comes back to life.
func TestTagsUnderEviction(t *testing.T) {
	server := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"maxmemory 4mb", "maxmemory-policy allkeys-lru"}})
	const entries, tags = 4000, 40
	var row, acked [tags]atomic.Int64
	padding := strings.Repeat("x", 2000)
	f := caches.Cached(caches.Cache[string]{Prefix: "evicted", TTL: time.Minute}.On(open(t, server.DSN()+patience)),
		func(_ context.Context, i int) (string, error) {
			return fmt.Sprint(row[i%tags].Load(), " ", padding), nil
		},
		&caches.CachedOptions[int, string]{
			Name: "evicted", Tags: func(i int) []string { return []string{fmt.Sprint("t", i%tags)} },
		})
	conn := open(t, server.DSN()+patience)
	var reads, stale, faults atomic.Int64
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 6 {
		all.Go(func() {
			for ctx.Err() == nil {
				i := rand.IntN(entries)
				if rand.IntN(2) == 0 {
					i = rand.IntN(400) // some are asked for often
				}
				before := acked[i%tags].Load()
				text, err := f.Get(t.Context(), i)
				if err != nil {
					faults.Add(1)
					continue
				}
				version, _, _ := strings.Cut(text, " ")
				if v, err := strconv.ParseInt(version, 10, 64); err != nil || v < before {
					stale.Add(1)
				}
				reads.Add(1)
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			tag := rand.IntN(tags)
			v := row[tag].Add(1)
			if err := conn.InvalidateTags(t.Context(), fmt.Sprint("t", tag)); err == nil {
				acked[tag].Store(v)
			}
		}
	})
	begun, evicted := time.Now(), "0"
	require.Eventually(t, func() bool {
		info, err := server.Do("INFO", "stats")
		if err != nil {
			return false
		}
		evicted = regexp.MustCompile(`evicted_keys:(\d+)`).FindStringSubmatch(string(info.([]byte)))[1]
		return time.Since(begun) > fullOr(2*time.Minute, time.Second) && reads.Load() > 1000 && evicted != "0"
	}, 3*time.Minute, 50*time.Millisecond)
	stop()
	all.Wait()
	t.Logf("%d reads, %d stale, %d faults, %s keys evicted, %d invalidations", reads.Load(), stale.Load(), faults.Load(), evicted, commandCalls(t, server, "unlink"))
	require.NotEqual(t, "0", evicted, "the server never evicted")
	require.Zero(t, faults.Load())
	require.Zero(t, stale.Load())
	require.Greater(t, reads.Load(), int64(1000))
}
