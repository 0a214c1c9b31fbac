package caches

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/require"
)

// TestListPageForms runs the Lua form of listPage on a server and the Go form on
// locmem, with the same random lists and places, and compares the replies.
func TestListPageForms(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var conns []*Conn
	for _, dsn := range []string{"locmem://", testutil.Redis(t, nil).DSN() + "?timeout=20s&connect_timeout=20s"} {
		c, err := Open(dsn)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		conns = append(conns, c)
	}
	// Lua has no whole numbers beyond 2⁵³; an iteration never goes so far.
	index := func(n int) int {
		switch random.IntN(8) {
		case 0:
			return -1
		case 1:
			return []int{math.MaxInt32, -math.MaxInt32, 1 << 52, -1 << 52}[random.IntN(4)]
		}
		return random.IntN(2*n+3) - 2
	}
	letter := func(of int) string { return string(rune('a' + random.IntN(of))) }
	for round := range 400 {
		list := make([]string, random.IntN(7))
		for i := range list {
			list[i] = letter(3)
		}
		args := []int{0, 1 - 2*random.IntN(2), 1 + random.IntN(4), index(len(list)), index(len(list))}
		var seen []string
		if random.IntN(3) > 0 {
			seen = []string{letter(4), letter(4)}
		}
		what := fmt.Sprintf("round %d: list %v args %v seen %v", round, list, args, seen)
		var replies []any
		for _, c := range conns {
			reply, err := listPageOf(t, c, list, args, seen)
			require.NoError(t, err, what)
			replies = append(replies, reply)
		}
		require.Equal(t, replies[0], replies[1], what)
	}
}

// listPageOf stores list and runs listPage on it.
func listPageOf(t *testing.T, c *Conn, list []string, args []int, seen []string) (any, error) {
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Cmd("DEL").Key("l")
	if len(list) > 0 {
		p.Cmd("RPUSH").Key("l")
		for _, e := range list {
			p.String(e)
		}
	}
	p.Script(listPage, 1).Key("l")
	for _, n := range args {
		p.Int(int64(n))
	}
	for _, e := range seen {
		p.String(e)
	}
	require.NoError(t, c.do(t.Context(), 0, p))
	for range p.Len() - 1 {
		p.Next()
	}
	return boxed(p.Next())
}
