package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// A benchmark that does not look at its replies would be won by whoever gives
// wrong ones: each peer must pass with the right value and fail with another.
func TestPeersCheckTheirReplies(t *testing.T) {
	s := start(t)
	d, err := newData(s.addr)
	require.NoError(t, err)
	clients, closeAll, err := openAll(s.addr, peerNames()...)
	require.NoError(t, err)
	defer closeAll()
	require.Len(t, clients, 1+len(peers))
	ctx := context.Background()
	for _, c := range clients {
		for _, name := range rawOps {
			for n := range 10 {
				require.NoError(t, d.op(name, c.client)(ctx, n), "%s %s", c.name, name)
			}
		}
		assert.ErrorIs(t, c.get(ctx, d.keys[1], d.values[2]), errWrong, c.name)
		assert.ErrorIs(t, c.mget(ctx, d.keys[:2], []string{d.values[0], d.values[0]}), errWrong, c.name)
	}
}

func TestDataHasTheSizesThatAreClaimed(t *testing.T) {
	d, err := newData(start(t).addr)
	require.NoError(t, err)
	require.Len(t, d.keys, keyCount+batch)
	seen := make(map[int]bool)
	for i := range keyCount {
		require.Len(t, d.keys[i], 14)
		require.Len(t, d.values[i], valueSize)
		seen[d.at(i)] = true
	}
	assert.Len(t, seen, keyCount, "every key has its turn")
	assert.Equal(t, d.keys[:batch], d.keys[keyCount:])
}

// All lanes, as short as can be: each must print the lines that it promises.
func TestLanesPrintTheirRatios(t *testing.T) {
	var out strings.Builder
	err := run([]string{"-lane", "raw,c,hogs,object,objects", "-rounds", "1", "-turn", "2ms", "-g", "1,8", "-check"}, &out)
	if err != nil { // bounds are missed in turns so short: that is not the test's matter
		require.ErrorContains(t, err, "bounds missed", out.String())
	}
	for _, op := range rawOps {
		for _, peer := range peerNames() {
			assert.Contains(t, out.String(), fmt.Sprintf("\nratio raw %s g=8 ours/%s ", op, peer))
		}
	}
	for _, line := range []string{"ratio c get g=8 ours/redis-benchmark-P8 ", "ratio c set g=1 ours/redis-benchmark-P1 ",
		"ratio hogs get g=8 ours/redigo ", "ratio object get g=8 object/transport ", "ratio objects get-json caches/redigo ",
		"bound allocs raw get g=8 ours "} {
		assert.Contains(t, out.String(), "\n"+line)
	}
}

// The lanes of caches, likewise, and none of their rows may have a fault.
func TestLanesOfCachesPrintTheirRatios(t *testing.T) {
	var out strings.Builder
	err := run([]string{"-lane", "cached,batch,tags,stampede,near", "-rounds", "1", "-turn", "2ms", "-g", "4"}, &out)
	require.NoError(t, err, out.String())
	for _, peer := range loaderNames() {
		for _, what := range []string{"cached hit g=4", "cached miss g=4", "stampede clients=4 g=4"} {
			assert.Contains(t, out.String(), fmt.Sprintf("\nratio %s ours/%s ", what, peer))
		}
	}
	for _, line := range []string{"ratio batch get n=10 g=4 ours/go-redis ", "ratio batch set n=100 g=4 ours/rueidis ",
		"ratio batch cached n=100 hits=50% g=4 ours/jetcache ", "p99 tags read tags=3 g=4 ours/gocache ",
		"ratio tags invalidate n=1000 ours/gocache ", "ratio near get g=4 caches/rueidis ", "ratio near load g=4 ours/sturdyc ",
		"ours ÷ theirs "} {
		assert.Contains(t, out.String(), "\n"+line)
	}
	for _, fault := range []string{"WRONG", "TOO OFTEN", "LOST", "STALE"} {
		assert.NotContains(t, out.String(), fault)
	}
}

func TestTheLaneOfClustersPrintsItsRatios(t *testing.T) {
	var out strings.Builder
	err := run([]string{"-lane", "cluster", "-rounds", "1", "-turn", "2ms", "-g", "1,4", "-check"}, &out)
	require.NoError(t, err, out.String())
	for _, peer := range []string{"go-redis", "rueidis"} {
		for _, what := range []string{"get-many n=1000 g=1", "get g=4", "set-many n=100 g=4"} {
			assert.Contains(t, out.String(), fmt.Sprintf("\nratio cluster %s ours/%s ", what, peer))
		}
	}
	assert.Contains(t, out.String(), "\nbound reads cluster get-many n=1000 g=1 ours ")
	assert.NotContains(t, out.String(), "WRONG")
}

// Each client of a cluster must read what another has written, and see that it is
// not something else; and each must write.
func TestClientsOfAClusterCheckTheirReplies(t *testing.T) {
	var all servers
	t.Cleanup(all.stop)
	nodes, err := all.startCluster(clusterMasters)
	require.NoError(t, err)
	p, err := newProbe(nodes.addrs()...)
	require.NoError(t, err)
	defer p.close()
	clients, closeAll, err := openCluster(nodes.addrs(), nil)
	require.NoError(t, err)
	defer closeAll()
	d, ctx := newClusterData(), context.Background()
	for i, c := range clients {
		writer := clients[(i+1)%len(clients)]
		require.NoError(t, p.flush())
		require.NoError(t, d.store(writer), writer.name)
		stored, err := p.keys()
		require.NoError(t, err)
		assert.Equal(t, clusterKeys, stored, writer.name)
		require.NoError(t, c.batchGet(ctx, d, 7, clusterBatch), c.name)
		require.NoError(t, c.getOne(ctx, d, 7), c.name)
		bad := *d
		bad.values = append([]string{"another"}, d.values[1:]...)
		assert.ErrorIs(t, c.batchGet(ctx, &bad, 0, 2), errWrong, c.name)
		assert.ErrorIs(t, c.getOne(ctx, &bad, 0), errWrong, c.name)
	}
}

// A loader that is fast because it is wrong must say so in its row.
func TestWatchSeesWhatIsWrong(t *testing.T) {
	p, err := newProbe(start(t).addr)
	require.NoError(t, err)
	defer p.close()
	for name, want := range map[string]string{
		"right":    "",
		"wrong":    `^WRONG in \d+ operations$`,
		"twice":    `^RAN THE FUNCTION \d+ TIMES TOO OFTEN$`,
		"careless": `^LOST \d+ results$`,
	} {
		s := &source{}
		l := &badLoader{source: s, probe: p, how: name}
		w := &watch{probe: p, source: s, promise: 1, cold: true, stores: true}
		var id atomic.Int64
		c := w.contender(newLoad(1, false), name, func(ctx context.Context, _ int) error {
			return opened{loader: l}.ask(ctx, int(id.Add(1)))
		})
		turn, err := c.turn(time.Millisecond)
		require.NoError(t, err, name)
		assert.Positive(t, turn.runs, name)
		remark, faulty := c.remark()
		assert.Equal(t, want != "", faulty, name)
		assert.Regexp(t, cmp.Or(want, "^$"), remark, name)
		remark, _ = c.remark()
		assert.Empty(t, remark, "%s: a remark is made once", name)
	}
}

// badLoader computes and stores each result, or fails to, as its name says.
type badLoader struct {
	source *source
	probe  *probe
	how    string
}

func (l *badLoader) get(ctx context.Context, id int) (User, error) {
	u, err := l.source.load(ctx, id)
	switch l.how {
	case "wrong":
		u = userOf(id + 1)
	case "twice":
		_, err = l.source.load(ctx, id)
		_, _ = l.probe.conns[0].Do("SET", fmt.Sprint(l.how, id, "again"), "")
	case "careless":
		return u, err
	}
	_, _ = l.probe.conns[0].Do("SET", fmt.Sprint(l.how, id), "")
	return u, err
}

func (l *badLoader) close() {}

func TestAColdKeyThatIsNotColdIsAnError(t *testing.T) {
	p, err := newProbe(start(t).addr)
	require.NoError(t, err)
	defer p.close()
	w := &watch{probe: p, source: &source{}, promise: 1, cold: true}
	_, err = w.contender(newLoad(1, false), "idle", func(context.Context, int) error { return nil }).turn(time.Millisecond)
	assert.ErrorContains(t, err, "keys that nobody should have")
}

// Four clients that each run the function once have run it three times too often
// for who promises one run in all, and not for who promises one in a process.
func TestStampedeCountsRunsOfEachRound(t *testing.T) {
	p, err := newProbe(start(t).addr)
	require.NoError(t, err)
	defer p.close()
	for promise, want := range map[int]int{1: 3, 4: 0} {
		s := &source{}
		w := &watch{probe: p, source: s, promise: math.Inf(1)}
		c := &crowd{watch: w, callers: 1, promise: promise}
		for range 4 {
			c.clients = append(c.clients, &badLoader{source: s, how: "careless"})
		}
		require.NoError(t, c.round(context.Background(), 1))
		assert.Equal(t, want, w.extra)
	}
}

// forgetful tags nothing: its invalidation does nothing.
type forgetful struct{ tagger }

func (forgetful) invalidate(context.Context, string) error { return nil }

func TestInvalidationLooksAtWhatIsLeft(t *testing.T) {
	addr := start(t).addr
	p, err := newProbe(addr)
	require.NoError(t, err)
	defer p.close()
	conn, err := caches.Open("redis://" + addr)
	require.NoError(t, err)
	defer conn.Close()
	for _, c := range []struct {
		tagger tagger
		want   string
	}{{newOurTagger(conn), ""}, {forgetful{newOurTagger(conn)}, "STALE: 3 values were still there"}} {
		i := &invalidation{tagger: c.tagger, probe: p, n: 3}
		_, err := i.turn(0)
		require.NoError(t, err)
		remark, faulty := i.remark()
		assert.Equal(t, c.want, remark)
		assert.Equal(t, c.want != "", faulty)
	}
}

// What is wrong of ours ends the run; what is wrong of a peer stands in its row.
func TestFaultsStandInTheReport(t *testing.T) {
	fine := func(time.Duration) (turn, error) { return turn{rate: 1, ops: 1}, nil }
	fault := func() (string, bool) { return "WRONG in 3 operations", true }
	var out strings.Builder
	b := bench{settings: settings{rounds: 1}, out: newReport(&out)}
	require.NoError(t, b.compare("x", "y", []contender{{name: "ours", turn: fine}, {"theirs", fine, fault}}))
	b.out.summary()
	assert.Regexp(t, `(?m)^ +theirs .* WRONG in 3 operations$`, out.String())
	assert.Regexp(t, `(?m)^x y +theirs +1.00 .* WRONG in 3 operations$`, out.String())
	assert.ErrorContains(t, b.compare("x", "y", []contender{{"ours", fine, fault}}), "ours WRONG in 3 operations")
}

func TestUnknownNamesAreErrors(t *testing.T) {
	for _, args := range [][]string{{"-lane", "fast"}, {"-ops", "gett"}, {"-peers", "redis"}, {"-g", "0"}} {
		assert.ErrorContains(t, run(args, io.Discard), "no", args)
	}
}

func TestLoadCountsAndEndsAtAnError(t *testing.T) {
	var calls atomic.Int64
	l := newLoad(16, false)
	turn, err := l.turn(func(context.Context, int) error { calls.Add(1); return nil }, 10*time.Millisecond)
	require.NoError(t, err)
	done := 0
	for _, c := range l.callers {
		done += c.done
	}
	assert.EqualValues(t, calls.Load(), done)
	assert.Positive(t, turn.rate)
	assert.LessOrEqual(t, turn.p50, turn.p99)

	bad := errors.New("bad")
	_, err = l.turn(func(_ context.Context, n int) error {
		if n%1000 == 999 {
			return bad
		}
		return nil
	}, 10*time.Millisecond)
	assert.ErrorIs(t, err, bad)
}

func TestALoneCallerCanCancel(t *testing.T) {
	for g, want := range map[int]bool{1: true, 8: false} {
		_, err := newLoad(g, false).turn(func(ctx context.Context, _ int) error {
			if (ctx.Done() != nil) != want {
				return errors.New("the wrong kind of context")
			}
			return nil
		}, time.Millisecond)
		assert.NoError(t, err, g)
	}
}

func TestRatioIsTheMedianOfRounds(t *testing.T) {
	a := result{turns: []turn{{rate: 10}, {rate: 100}, {rate: 30}}}
	b := result{turns: []turn{{rate: 5}, {rate: 25}, {rate: 10}}}
	assert.Equal(t, 3.0, ratio(a, b, rate), "of 2, 4 and 3")
	b.turns[2].rate = 1000
	assert.Equal(t, 2.0, ratio(a, b, rate), "of 2, 4 and 0.03; the ratio of medians would be 1.2")
	assert.Equal(t, 1.5, median([]float64{2, 1}))
}

func TestQuantile(t *testing.T) {
	var sorted []time.Duration
	for i := range 101 {
		sorted = append(sorted, time.Duration(i)*time.Microsecond)
	}
	assert.Equal(t, 50.0, quantile(sorted, 0.5))
	assert.Equal(t, 99.0, quantile(sorted, 0.99))
	assert.Zero(t, quantile(nil, 0.5))
}

func TestParseRedisBenchmark(t *testing.T) {
	got, err := parseRedisBenchmark("\"test\",\"rps\",\"p50_latency_ms\",\"p99_latency_ms\"\n\"GET\",\"667733.38\",\"0.063\",\"0.199\"\n")
	require.NoError(t, err)
	assert.InDelta(t, 667733.38, got.rate, 0.01)
	assert.InDelta(t, 63, got.p50, 1e-9)
	assert.InDelta(t, 199, got.p99, 1e-9)
	assert.True(t, math.IsNaN(got.allocs))
	for _, bad := range []string{"", "ERR no\n", "\"test\",\"rps\"\n\"GET\",\"x\"\n"} {
		_, err := parseRedisBenchmark(bad)
		assert.Error(t, err, bad)
	}
}

func TestCheck(t *testing.T) {
	all := []bound{{what: "a", limit: 1.5}, {what: "b", limit: 1, most: true}, {what: "c", limit: 1}}
	var out strings.Builder
	r := newReport(&out)
	assert.ErrorContains(t, r.check(all), "nothing was measured")
	r.measured["a"], r.measured["b"] = 1.5, 1
	assert.NoError(t, r.check(all))
	r.measured["b"] = 1.01
	assert.EqualError(t, r.check(all), "1 of 2 bounds missed")
	assert.Contains(t, out.String(), "bound a 1.50 >= 1.50 ok\nbound b 1.01 <= 1.00 FAILS\n3 bounds, 1 not measured, 1 missed\n")
}

func start(t *testing.T) *server {
	s, err := startRedis()
	require.NoError(t, err)
	t.Cleanup(s.stop)
	return s
}
