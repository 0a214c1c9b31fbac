package caches_test

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shardsOf returns a connection over stores that only have names.
func shardsOf(t testing.TB, router caches.Router, names ...string) *caches.Conn {
	t.Helper()
	stores := make(map[string]driver.Store, len(names))
	for _, name := range names {
		stores[name] = newRecorder(nil)
	}
	c, err := caches.ConnOptions{Router: router}.OpenStores(stores)
	require.NoError(t, err)
	return c
}

var fourCaches = []string{"cache01", "cache02", "cache03", "cache04"}

func TestRoutingGoldenVectors(t *testing.T) {
	crc, ketama := shardsOf(t, caches.CRC32, fourCaches...), shardsOf(t, caches.Ketama, fourCaches...)
	for _, tt := range []struct{ key, crc, ketama string }{
		{"foo", "cache02", "cache03"},
		{"foo.bar.che", "cache04", "cache02"},
		{"profile.42", "cache04", "cache03"},
		{"user.1", "cache04", "cache01"},
	} {
		assert.Equal(t, tt.crc, crc.ShardOf(tt.key), "crc32 of %s", tt.key)
		assert.Equal(t, tt.ketama, ketama.ShardOf(tt.key), "ketama of %s", tt.key)
		assert.Equal(t, tt.crc, shardsOf(t, nil, fourCaches...).ShardOf(tt.key), "crc32 is the default")
	}
}

// The same through DSNs, in any order and by either spelling.
func TestRoutingByDSN(t *testing.T) {
	dsns := []string{"locmem://?node=cache03", "locmem://x?node=cache01&router=ketama", "locmem://?node=cache04", "dummy://?node=cache02&router=ketama"}
	c := open(t, dsns...)
	assert.Equal(t, fourCaches, c.Shards())
	assert.Equal(t, "cache03", c.ShardOf("foo"))
	assert.Equal(t, "cache02", open(t, "locmem://cache01,cache02,cache03,cache04").ShardOf("foo"))
	assert.Equal(t, []string{"a:6379/1", "b:7/1"}, open(t, "redis://b:7,a/1").Shards(), "by address and database")
}

func TestRoutingByHashTag(t *testing.T) {
	for _, router := range []caches.Router{caches.CRC32, caches.Ketama, custom{}} {
		c := shardsOf(t, router, fourCaches...)
		for _, tt := range []struct{ key, like string }{
			{"{foo}", "foo"},
			{"{foo}.bar", "foo"},
			{"a.{user.1}.b{foo}", "user.1"},
			{"a{}b{profile.42}", "profile.42"}, // the first that is not empty
			{"{{foo}", "{foo"},
			{"}{foo}", "foo"},
		} {
			assert.Equal(t, c.ShardOf(tt.like), c.ShardOf(tt.key), "%T of %s", router, tt.key)
		}
		for _, key := range []string{"{", "}", "{}", "a{", "a}b{", "a{}", "{}{}"} { // no tag: all of it
			assert.Contains(t, fourCaches, c.ShardOf(key))
		}
	}
	crc := shardsOf(t, caches.CRC32, fourCaches...)
	assert.NotEqual(t, crc.ShardOf("{foo.bar.che"), crc.ShardOf("foo.bar.che"), "a brace that never closes is part of the key")
}

// custom routes by the length of the text.
type custom struct{}

func (custom) Route(shards []string) func(text string) int {
	return func(text string) int { return len(text) % len(shards) }
}

func TestCustomRouter(t *testing.T) {
	c := shardsOf(t, custom{}, fourCaches...)
	assert.Equal(t, "cache01", c.ShardOf("four"))
	assert.Equal(t, "cache02", c.ShardOf("seven{x}"))
}

// The exported routers, for those who build on them, agree with connections.
func TestRouteAgrees(t *testing.T) {
	for _, router := range []caches.Router{caches.CRC32, caches.Ketama} {
		c, route := shardsOf(t, router, fourCaches...), router.Route(fourCaches)
		for i := range 1000 {
			key := "key." + strconv.Itoa(i)
			require.Equal(t, c.ShardOf(key), fourCaches[route(key)], "%T of %s", router, key)
		}
	}
}

// referenceFind is Ketama as its documentation says it, without a thought of
// speed.
func referenceFind(shards []string, key string) string {
	points := make(map[uint32]string)
	for _, shard := range shards {
		for i := range 40 {
			sum := md5.Sum(fmt.Appendf(nil, "%s-%d", shard, i))
			for n := range 4 {
				points[binary.LittleEndian.Uint32(sum[4*n:])] = shard
			}
		}
	}
	sum := md5.Sum([]byte(key))
	at := binary.LittleEndian.Uint32(sum[:])
	ring := slices.Sorted(maps.Keys(points))
	for _, point := range ring {
		if point >= at {
			return points[point]
		}
	}
	return points[ring[0]]
}

func TestKetamaAgainstReference(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	route := caches.Ketama.Route(fourCaches)
	for range 500 {
		key := strings.Repeat("k", r.IntN(300)) + strconv.FormatUint(r.Uint64(), 36)
		require.Equal(t, referenceFind(fourCaches, key), fourCaches[route(key)], key)
	}
}

func TestKetamaMovesFewKeys(t *testing.T) {
	const keys = 100_000
	four := caches.Ketama.Route(fourCaches)
	names := slices.Concat(fourCaches, []string{"cache05"})
	five := caches.Ketama.Route(names)
	moved := 0
	for i := range keys {
		key := "profile." + strconv.Itoa(i)
		if before, after := fourCaches[four(key)], names[five(key)]; before != after {
			moved++
			require.Equal(t, "cache05", after, "a key moves to the new shard only")
		}
	}
	assert.InDelta(t, 20, 100*float64(moved)/keys, 3, "percent")
}

// A shard that moves to another host keeps its keys if it keeps its name.
func TestRenamedHostMovesNoKey(t *testing.T) {
	for _, router := range []string{"crc32", "ketama"} {
		dsns := func(host string) []string {
			return []string{
				"redis://a?node=cache01&router=" + router, "redis://" + host + "?node=cache02",
				"redis://c?node=cache03", "redis://d?node=cache04",
			}
		}
		before, after := open(t, dsns("b")...), open(t, dsns("elsewhere:7000")...)
		for i := range 10_000 {
			key := "profile." + strconv.Itoa(i)
			require.Equal(t, before.ShardOf(key), after.ShardOf(key))
		}
	}
}

// Every shard gets its share, within what 160 points each can do.
func TestRoutersSpread(t *testing.T) {
	for _, router := range []caches.Router{caches.CRC32, caches.Ketama} {
		c, count := shardsOf(t, router, fourCaches...), make(map[string]int)
		for i := range 100_000 {
			count[c.ShardOf("key."+strconv.Itoa(i))]++
		}
		for _, name := range fourCaches {
			assert.InDelta(t, 25_000, count[name], 7_500, "%T: %s", router, name)
		}
	}
}

func TestShardNamesDiffer(t *testing.T) {
	for _, dsns := range [][]string{
		{"redis://a,a"},
		{"redis://a", "rediss://a:6379/0"},
		{"redis://a?node=x", "redis://b?node=x"},
		{"locmem://", "locmem://"},
		{"locmem://a", "locmem://a"},
	} {
		_, err := caches.Open(dsns...)
		assert.ErrorContains(t, err, "two shards are named", dsns)
	}
}

func TestShardsAgree(t *testing.T) {
	for option, dsns := range map[string][]string{
		"ttl":     {"redis://a?ttl=1h", "redis://b", "redis://c?ttl=2h"},
		"version": {"redis://a?version=1", "redis://b?version=2"},
		"prefix":  {"redis://a?prefix=x", "redis://b?key_prefix=y"},
		"router":  {"redis://a?router=crc32", "redis://b?router=ketama"},
		"#name":   {"redis://a#x", "redis://b#y"},
	} {
		_, err := caches.Open(dsns...)
		assert.EqualError(t, err, "caches: the shards of one connection disagree on "+option)
	}
	c := open(t, "redis://a?ttl=1h&prefix=p#n", "redis://b?ttl=60m", "redis://c?prefix=p")
	assert.Equal(t, "n", c.Name(), "who leaves an option out agrees")
}

func TestOperationsOverShards(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		ours := caches.Cache[int]{Prefix: "ours"}.On(conn)
		others := caches.Cache[int]{Prefix: "others"}.On(conn)
		const keys = 2_500 // several pages of a scan on every shard
		values := make(map[int]int, keys)
		for i := range keys {
			values[i] = i
		}
		require.NoError(t, caches.SetMany(ctx, ours, values))
		require.NoError(t, others.Key(1).Set(ctx, 1))

		require.NoError(t, conn.Ping(ctx))
		_, err := conn.UnsafeClear(ctx, "")
		require.ErrorContains(t, err, "the pattern is empty")
		n, err := conn.UnsafeClear(ctx, "nothing.*")
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = conn.UnsafeClear(ctx, "ours.1?")
		require.NoError(t, err)
		require.EqualValues(t, 10, n)
		n, err = conn.UnsafeClear(ctx, "ours.*")
		require.NoError(t, err)
		require.EqualValues(t, keys-10, n)
		exists, err := others.Key(1).Exists(ctx)
		require.NoError(t, err)
		require.True(t, exists)

		require.NoError(t, conn.UnsafeFlush(ctx))
		exists, err = others.Key(1).Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists)
	})
}

// One shard that fails does not keep the others from their work.
func TestErrorsNameTheShard(t *testing.T) {
	good, bad := newRecorder(nil), newRecorder(nil)
	bad.fail(driver.ErrUnavailable)
	c, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"good": good, "bad": bad})
	require.NoError(t, err)
	for name, f := range map[string]func(context.Context) error{
		"PING":    c.Ping,
		"FLUSHDB": c.UnsafeFlush,
		"SCAN":    func(ctx context.Context) error { _, err := c.UnsafeClear(ctx, "*"); return err },
	} {
		err := f(t.Context())
		require.ErrorIs(t, err, caches.ErrUnavailable, name)
		require.ErrorContains(t, err, "shard bad: ", name)
		require.NotContains(t, err.Error(), "good", name)
		require.Contains(t, good.commands(), name)
	}
}

func BenchmarkShardOf(b *testing.B) {
	for _, router := range []caches.Router{caches.CRC32, caches.Ketama} {
		b.Run(fmt.Sprintf("%T", router), func(b *testing.B) {
			c := shardsOf(b, router, fourCaches...)
			b.ReportAllocs()
			for b.Loop() {
				c.ShardOf("profile.1234567.email")
			}
		})
	}
}
