package faults

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lastCut is the last byte of a reply after which its connection is lost.
const lastCut = 512

// A cutCase is a call whose reply has more than lastCut bytes.
type cutCase struct {
	name  string
	mode  driver.Mode
	build func(p *driver.Pipeline)
	extra int // bytes on the wire beside the commands' own replies
}

var large = driver.NewScript(`return {KEYS[1], redis.call('GET', KEYS[1]), {1, 2, ARGV[1]}}`, nil)

var cutCases = []cutCase{
	{"GET", 0, func(p *driver.Pipeline) { p.Cmd("GET").Key("a") }, 0},
	{"MGET", 0, func(p *driver.Pipeline) { p.Cmd("MGET").Key("b").Key("none").Key("b").Key("a") }, 0},
	{"HGETALL", 0, func(p *driver.Pipeline) { p.Cmd("HGETALL").Key("h") }, 0},
	{"EVAL", 0, func(p *driver.Pipeline) { p.Script(large, 1).Key("a").String("x") }, 0},
	{"EXEC", driver.Atomic, func(p *driver.Pipeline) {
		p.Cmd("GET").Key("b")
		p.Cmd("EXISTS").Key("b")
		p.Cmd("GET").Key("a")
	}, len("+OK\r\n") + 3*len("+QUEUED\r\n") + len("*3\r\n")},
}

// TestCutAfterEveryByte loses the connection after each of the first bytes of a
// reply: the caller gets all of it or an error, never a part, and the next
// caller gets its own.
func TestCutAfterEveryByte(t *testing.T) {
	r := testutil.Redis(t, nil)
	fill(t, r)
	var runs, next atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, c := range cutCases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				cutEverywhere(t, r, &c, &runs, &next)
			})
		}
	})
	if full {
		require.EqualValues(t, lastCut*len(cutCases), runs.Load())
	}
	report(t, fmt.Sprintf("a reply to GET, MGET, HGETALL, EVAL or EXEC cut after n of its bytes, n up to %d: %d runs", lastCut, runs.Load()),
		"%d times ErrUnknownOutcome and nothing of the reply; %d next calls right", runs.Load(), next.Load())
}

// fill writes what the cases read.
func fill(t *testing.T, r *testutil.RedisServer) {
	t.Helper()
	for _, cmd := range [][]any{
		{"SET", "a", strings.Repeat("0123456789", 60)},
		{"SET", "b", strings.Repeat("b", 50)},
	} {
		_, err := r.Do(cmd[0].(string), cmd[1:]...)
		require.NoError(t, err)
	}
	for i := range 40 {
		_, err := r.Do("HSET", "h", fmt.Sprintf("field-%d", i), fmt.Sprintf("value-%d", i))
		require.NoError(t, err)
	}
}

func cutEverywhere(t *testing.T, r *testutil.RedisServer, c *cutCase, runs, next *atomic.Int64) {
	proxy := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr()})
	want, err := c.run(t, s)
	require.NoError(t, err)
	require.Greater(t, len(want), lastCut, "the reply is long enough")
	step := count(8, 1)
	for n := step; n <= lastCut; n += step {
		proxy.CutReply(n)
		got, err := c.run(t, s)
		proxy.Heal()
		// The server has answered all of it, so only the cut can be the reason,
		// and a write it could have been is not repeated.
		require.ErrorIs(t, err, driver.ErrUnknownOutcome, "after %d bytes", n)
		require.True(t, isOutcome(err), "%v", err)
		require.Empty(t, got, "after %d bytes", n)
		runs.Add(1)

		word := fmt.Sprintf("%s after %d", c.name, n)
		got, err = run(t.Context(), s, 0, "ECHO", word)
		require.NoError(t, err, "the call after %d bytes", n)
		require.Equal(t, bulk(word), got)
		next.Add(1)
	}
	proxy.CutReply(len(want) + c.extra)
	got, err := c.run(t, s)
	require.NoError(t, err, "all bytes came before the cut")
	assert.Equal(t, want, got)
}

// run makes the call and returns its replies as they came over the wire.
func (c *cutCase) run(t *testing.T, s driver.Store) (string, error) {
	p := driver.NewPipeline(c.mode)
	defer p.Free()
	c.build(p)
	err := s.Do(t.Context(), p)
	return string(p.Replies().Raw()), err
}
