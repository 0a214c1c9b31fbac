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

// If ASKING is refused, the refusal is the reply to a command that the server then
// redirects. A command that has run keeps its reply.
func TestAskRefused(t *testing.T) {
	const refusal = "-NOPERM User app has no permissions to run the 'asking' command\r\n"
	const hash = "-WRONGTYPE no hash\r\n"
	const aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n"
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "PING", "MULTI":
			return "+OK\r\n"
		case "ASKING":
			return refusal
		case "EXEC":
			return aborted
		case "GET":
			return bulk(cmd[1])
		case "HGET":
			return hash
		}
		return "-MOVED 1 a:1\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr})
	for mode, want := range map[driver.Mode]string{
		0:             bulk("a") + refusal + bulk("b") + hash + refusal,
		driver.Own:    bulk("a") + refusal + bulk("b") + hash + refusal,
		driver.Atomic: aborted + refusal + aborted + hash + refusal,
	} {
		p := driver.NewPipeline(mode)
		p.Cmd("GET").Key("a")
		p.Cmd("INCR").Key("c")
		p.Cmd("GET").Key("b")
		p.Cmd("HGET").Key("d")
		p.Cmd("INCR").Key("e")
		require.NoError(t, s.Ask(t.Context(), p))
		assert.Equal(t, want, string(p.Replies().Raw()), "mode %d", mode)
		p.Free()
	}
}
