package redigo_test

import (
	"strings"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	setScript = driver.NewScript(`return redis.call('SET', KEYS[1], ARGV[1])`, nil)
	getScript = driver.NewScript(`return redis.call('GET', KEYS[1])`, nil)
	bad       = driver.NewScript(`this is not Lua`, nil)
)

// scripts runs two scripts and a command in one Pipeline.
func scripts(t *testing.T, s driver.Store, mode driver.Mode, value string) {
	t.Helper()
	p := driver.NewPipeline(mode)
	defer p.Free()
	p.Script(setScript, 1).Key("k").String(value)
	p.Cmd("STRLEN").Key("other")
	p.Script(getScript, 1).Key("k")
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, "+OK\r\n:0\r\n"+bulk(value), string(p.Replies().Raw()))
}

// commandsOf returns the names of the commands that reach a real Redis.
func commandsOf(t *testing.T, r *testutil.RedisServer, do func()) string {
	t.Helper()
	_, err := r.Do("CONFIG", "RESETSTAT")
	require.NoError(t, err)
	do()
	stats, err := r.Do("INFO", "commandstats")
	require.NoError(t, err)
	var names []string
	for line := range strings.Lines(string(stats.([]byte))) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if calls, _, _ := strings.Cut(rest, ","); ok && !strings.HasPrefix(name, "config") && name != "info" {
			names = append(names, name+" "+calls)
		}
	}
	return strings.Join(names, ", ")
}

func TestScripts(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	must(t, s, "PING")
	has := func(seen string, names ...string) {
		t.Helper()
		for _, name := range []string{"eval", "evalsha"} {
			want := ""
			for _, n := range names {
				if strings.HasPrefix(n, name+" ") {
					want = n
				}
			}
			if want == "" {
				assert.NotContains(t, ", "+seen, ", "+name+" ", "in %q", seen)
			} else {
				assert.Contains(t, ", "+seen+",", ", "+want+",")
			}
		}
	}
	has(commandsOf(t, r, func() { scripts(t, s, 0, "a") }), "eval 2")
	has(commandsOf(t, r, func() { scripts(t, s, 0, "b") }), "evalsha 2")
	_, err := r.Do("SCRIPT", "FLUSH")
	require.NoError(t, err)
	has(commandsOf(t, r, func() { scripts(t, s, 0, "c") }), "evalsha 2", "eval 2")
	has(commandsOf(t, r, func() { scripts(t, s, 0, "d") }), "evalsha 2")
	has(commandsOf(t, r, func() { scripts(t, s, driver.Atomic, "e") }), "eval 2")
	r.Restart()
	has(commandsOf(t, r, func() { scripts(t, s, 0, "f") }), "evalsha 2", "eval 2")
}

// TestForgottenScriptAmongOthers checks that only the forgotten script is sent
// again.
func TestForgottenScriptAmongOthers(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	scripts(t, s, 0, "a")
	_, err := r.Do("SCRIPT", "FLUSH")
	require.NoError(t, err)
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Cmd("INCR").Key("n")
	p.Script(getScript, 1).Key("k")
	p.Cmd("LPUSH").Key("n").String("wrong type")
	p.Cmd("INCR").Key("n")
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, ":1\r\n"+bulk("a")+"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n:2\r\n",
		string(p.Replies().Raw()))
}

// TestBrokenScript sends a script that does not compile: each time the reply is
// the error.
func TestBrokenScript(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	for range 3 {
		p := driver.NewPipeline(0)
		p.Script(bad, 0)
		require.NoError(t, s.Do(t.Context(), p))
		assert.True(t, strings.HasPrefix(string(p.Replies().Raw()), "-ERR Error compiling script"), "%q", p.Replies().Raw())
		p.Free()
	}
}

// TestLostWhileRecalling loses the connection after a Pipeline's replies and
// before the reply to a script that is sent again: something has run.
func TestLostWhileRecalling(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		switch cmd[0] {
		case "EVALSHA":
			return "-NOSCRIPT No matching script.\r\n"
		case "EVAL":
			if strings.Contains(cmd[1], "SET") {
				return "+OK\r\n"
			}
		}
		return ""
	})
	s := open(t, redigo.Config{Address: server.addr})
	for i, want := range []error{nil, nil, driver.ErrUnknownOutcome, driver.ErrUnknownOutcome} {
		p := driver.NewPipeline(0)
		p.Script(setScript, 1).Key("k").String("v")
		if i >= 2 {
			p.Script(getScript, 1).Key("k")
		}
		require.ErrorIs(t, s.Do(t.Context(), p), want, "call %d", i)
		p.Free()
	}
}

// TestTransactionsOddEnds replies to MULTI, a command and EXEC as only a broken
// server does, or a server in trouble.
func TestTransactionsOddEnds(t *testing.T) {
	for name, c := range map[string]struct {
		multi, a, b, exec string
		want              string // the replies …
		err               error  // … or the error
	}{
		"as it should be": {"+OK", "+QUEUED", "+QUEUED", "*2\r\n:1\r\n:2", ":1\r\n:2\r\n", nil},
		"one refused": {"+OK", "-ERR a", "+QUEUED", "-EXECABORT no",
			"-ERR a\r\n-EXECABORT no\r\n", nil},
		"EXEC refused": {"+OK", "+QUEUED", "+QUEUED", "-MISCONF no",
			"-MISCONF no\r\n-MISCONF no\r\n", nil},
		"all refused": {"-NOAUTH a", "-NOAUTH b", "-NOAUTH c", "-NOAUTH d",
			"-NOAUTH b\r\n-NOAUTH c\r\n", nil},
		"no MULTI":                {"-NOPERM a", ":1", ":2", "-ERR EXEC without MULTI", "", driver.ErrUnknownOutcome},
		"watched":                 {"+OK", "+QUEUED", "+QUEUED", "*-1", "", driver.ErrProtocol},
		"too few":                 {"+OK", "+QUEUED", "+QUEUED", "*1\r\n:1", "", driver.ErrProtocol},
		"too many":                {"+OK", "+QUEUED", "+QUEUED", "*3\r\n:1\r\n:2\r\n:3", "", driver.ErrProtocol},
		"no array":                {"+OK", "+QUEUED", "+QUEUED", ":1", "", driver.ErrProtocol},
		"refused and yet it runs": {"+OK", "-ERR a", "+QUEUED", "*1\r\n:2", "", driver.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, func(_ int, cmd []string) string {
				reply := map[string]string{"MULTI": c.multi, "A": c.a, "B": c.b, "EXEC": c.exec}[cmd[0]]
				return reply + "\r\n"
			})
			s := open(t, redigo.Config{Address: server.addr})
			p := driver.NewPipeline(driver.Atomic)
			defer p.Free()
			p.Cmd("A")
			p.Cmd("B")
			err := s.Do(t.Context(), p)
			require.ErrorIs(t, err, c.err)
			assert.Equal(t, c.want, string(p.Replies().Raw()))
			assert.Equal(t, []string{"MULTI", "A", "B", "EXEC"}, server.commands())
			if c.err == nil {
				assert.Equal(t, 2, p.Replies().Len())
			}
		})
	}
}

// TestBuffersAreNotShared keeps one Pipeline's replies while the connection
// serves another.
func TestBuffersAreNotShared(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Conns: 1})
	var kept []*driver.Pipeline
	for _, word := range []string{"one", "two", "three", "four"} {
		for _, mode := range []driver.Mode{0, driver.Atomic} {
			p := driver.NewPipeline(mode)
			p.Cmd("ECHO").String(word)
			require.NoError(t, s.Do(t.Context(), p))
			kept = append(kept, p)
		}
	}
	for i, word := range []string{"one", "one", "two", "two", "three", "three", "four", "four"} {
		b, _, err := kept[i].Next().Bytes()
		require.NoError(t, err)
		assert.Equal(t, word, string(b))
		kept[i].Free()
	}
}
