package main

import (
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
