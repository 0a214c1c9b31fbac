package redigo_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// ASKING precedes each command, scripts are sent as their source, and the
// replies are those of the commands alone.
func TestAsk(t *testing.T) {
	script := driver.NewScript("return 1", nil)
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "EVAL":
			return ":1\r\n"
		case "GET":
			return bulk(cmd[1])
		case "NO":
			return "-ERR no\r\n"
		}
		return "+OK\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr})
	for range 2 { // the server knows the script the second time
		p := driver.NewPipeline(0)
		p.Cmd("GET").Key("a")
		p.Script(script, 1).Key("b")
		p.Cmd("NO")
		p.Cmd("GET").Key("c")
		require.NoError(t, s.Ask(t.Context(), p))
		assert.Equal(t, bulk("a")+":1\r\n-ERR no\r\n"+bulk("c"), string(p.Replies().Raw()))
		assert.Equal(t, 4, p.Replies().Len())
		p.Free()
	}
	assert.Equal(t, strings.Repeat("ASKING GET a ASKING EVAL return 1 1 b ASKING NO ASKING GET c ", 2),
		strings.Join(server.commands(), " ")+" ")
	assert.Equal(t, bulk("x"), must(t, s, "GET", "x"))
	assert.Equal(t, 8, server.count("ASKING"), "later calls do not ask")
	require.NoError(t, s.Ask(t.Context(), driver.NewPipeline(0)))
}

// ASKING precedes a transaction once, and holds until its end.
func TestAskAtomic(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "EXEC":
			return "*2\r\n:1\r\n:2\r\n"
		case "INCR":
			return "+QUEUED\r\n"
		}
		return "+OK\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr})
	for _, mode := range []driver.Mode{driver.Atomic, driver.Atomic | driver.Own} {
		p := driver.NewPipeline(mode)
		p.Cmd("INCR").Key("a")
		p.Cmd("INCR").Key("a")
		require.NoError(t, s.Ask(t.Context(), p))
		assert.Equal(t, ":1\r\n:2\r\n", string(p.Replies().Raw()))
		p.Free()
	}
	want := []string{"ASKING", "MULTI", "INCR a", "INCR a", "EXEC"}
	assert.Equal(t, append(want, want...), server.commands())
}

// Config.Refusals returns refusals at once, and Config.ReadOnly is announced on
// each connection.
func TestRefusalsAndReadOnly(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "GET":
			return "-LOADING Redis is loading the dataset in memory\r\n"
		case "MULTI", "EXEC":
			return "-CLUSTERDOWN The cluster is down\r\n"
		}
		return "+OK\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr, Refusals: true, ReadOnly: true})
	begun := time.Now()
	for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Atomic, driver.Own} {
		raw, err := run(s, mode, "GET", "a")
		require.NoError(t, err)
		assert.Equal(t, "-LOADING Redis is loading the dataset in memory\r\n", raw)
	}
	assert.Less(t, time.Since(begun), patience)
	assert.Equal(t, 4, server.count("GET a"), "each once")
	assert.Equal(t, "READONLY", server.commands()[0])
	assert.Equal(t, 2, server.count("READONLY"), "on the shared connection, and on the other")
}
