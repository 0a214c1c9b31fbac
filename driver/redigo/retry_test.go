package redigo_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLostReply loses replies and counts how often the command arrives.
func TestLostReply(t *testing.T) {
	for _, c := range []struct {
		mode     driver.Mode
		losses   int // connections that close instead of replying
		want     error
		attempts int
	}{
		{0, 1, driver.ErrUnknownOutcome, 1},
		{driver.Keep, 1, driver.ErrUnknownOutcome, 1},
		{driver.Atomic, 1, driver.ErrUnknownOutcome, 1},
		{driver.ReadOnly, 1, nil, 2},
		{driver.ReadOnly, 2, nil, 3},
		{driver.ReadOnly, 4, nil, 5},
		{driver.ReadOnly, 5, driver.ErrUnknownOutcome, 5},
		{driver.Repeatable, 2, nil, 3},
		{driver.Repeatable, 9, driver.ErrUnknownOutcome, 5},
		{driver.Repeatable | driver.Atomic, 1, nil, 2},
	} {
		t.Run(fmt.Sprintf("mode %d, %d lost", c.mode, c.losses), func(t *testing.T) {
			server := serve(t, func(conn int, cmd []string) string {
				switch {
				case cmd[0] == "MULTI":
					return "+OK\r\n"
				case cmd[0] == "EXEC":
					return "*1\r\n+OK\r\n"
				case conn < c.losses:
					return ""
				case c.mode&driver.Atomic != 0:
					return "+QUEUED\r\n"
				}
				return "+OK\r\n"
			})
			s := open(t, redigo.Config{Address: server.addr})
			got, err := run(s, c.mode, "SET", "k", "v")
			require.ErrorIs(t, err, c.want)
			if c.want == nil {
				assert.Equal(t, "+OK\r\n", got)
			}
			assert.Equal(t, c.attempts, server.count("SET k v"))
			assert.EqualValues(t, c.attempts-1, s.Stats().Retries)
		})
	}
}

// TestLostThenGone loses a reply and then the server. The second attempt writes
// nothing, but that does not settle the outcome of the first.
func TestLostThenGone(t *testing.T) {
	t.Parallel()
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr()})
	for _, mode := range []driver.Mode{driver.Repeatable, driver.ReadOnly} {
		proxy.Heal()
		ping(t, s)
		proxy.Refuse(true)
		proxy.CutReply(1)
		_, err := run(s, mode, "SET", "k", "v")
		require.ErrorIs(t, err, driver.ErrUnknownOutcome)
		require.NotErrorIs(t, err, driver.ErrUnavailable)
	}
}

// TestLostThenLoading is the same for a server that returns and says that it did
// not run the second attempt.
func TestLostThenLoading(t *testing.T) {
	server := serve(t, func(conn int, _ []string) string {
		if conn == 0 {
			return ""
		}
		return "-LOADING Redis is loading the dataset in memory\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr, Timeout: 100 * time.Millisecond})
	_, err := run(s, driver.Repeatable, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
}

// codes are error replies, and whether the command is sent again.
var codes = []struct {
	text  string
	again bool
}{
	{"LOADING Redis is loading the dataset in memory", true},
	{"TRYAGAIN Multiple keys request during rehashing of slot", true},
	{"CLUSTERDOWN The cluster is down", true},
	{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true},
	{"ERR max number of clients reached", true},
	{"NOAUTH Authentication required.", false},
	{"WRONGPASS invalid username-password pair or user is disabled.", false},
	{"NOPERM this user has no permissions to run the 'get' command", false},
	{"READONLY You can't write against a read only replica.", false},
	{"OOM command not allowed when used memory > 'maxmemory'.", false},
	{"MISCONF Redis is configured to save RDB snapshots", false},
	{"NOREPLICAS Not enough good replicas to write.", false},
	{"BUSY Redis is busy running a script.", false},
	{"MOVED 3999 127.0.0.1:6381", false},
	{"ASK 3999 127.0.0.1:6381", false},
	{"CROSSSLOT Keys in request don't hash to the same slot", false},
	{"NOSCRIPT No matching script. Please use EVAL.", false},
	{"WRONGTYPE Operation against a key holding the wrong kind of value", false},
	{"EXECABORT Transaction discarded because of previous errors.", false},
	{"ERR value is not an integer or out of range", false},
	{"ERR max number of something else", false},
	{"LOADINGX", false},
}

func TestErrorReplies(t *testing.T) {
	for _, c := range codes {
		for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Repeatable} {
			t.Run(fmt.Sprintf("%.20s/%d", c.text, mode), func(t *testing.T) {
				t.Parallel()
				var n atomic.Int64
				server := serve(t, func(int, []string) string {
					if n.Add(1) <= 3 {
						return "-" + c.text + "\r\n"
					}
					return "+OK\r\n"
				})
				s := open(t, redigo.Config{Address: server.addr})
				got, err := run(s, mode, "SET", "k", "v")
				require.NoError(t, err)
				if c.again {
					assert.Equal(t, "+OK\r\n", got)
					assert.Equal(t, 4, server.count("SET k v"))
				} else {
					assert.Equal(t, "-"+c.text+"\r\n", got)
					assert.Equal(t, 1, server.count("SET k v"))
				}
				assert.EqualValues(t, 1, s.Stats().Dials)
			})
		}
	}
}

// TestLoadingUntilTheDeadline has a server that is loading until the deadline.
func TestLoadingUntilTheDeadline(t *testing.T) {
	server := serve(t, func(int, []string) string { return "-LOADING later\r\n" })
	s := open(t, redigo.Config{Address: server.addr, Timeout: 150 * time.Millisecond})
	got, err := run(s, 0, "GET", "k")
	require.NoError(t, err)
	assert.Equal(t, "-LOADING later\r\n", got)
	assert.Greater(t, server.count("GET k"), 1)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	got, err = runCtx(ctx, s, 0, "GET", "k")
	if err == nil { // the context may have ended in a pause or in a round trip
		assert.Equal(t, "-LOADING later\r\n", got)
	} else {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// TestPartlyRefused sends nothing again if part of a Pipeline has run.
func TestPartlyRefused(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		if cmd[1] == "b" {
			return "-TRYAGAIN later\r\n"
		}
		return "+OK\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr})
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		p := driver.NewPipeline(0)
		for _, key := range order {
			add(p, "SET", key, "v")
		}
		require.NoError(t, s.Do(t.Context(), p))
		assert.Equal(t, 2, p.Replies().Len())
		p.Free()
	}
	assert.Len(t, server.commands(), 4)
	var n atomic.Int64
	all := serve(t, func(int, []string) string {
		if n.Add(1) <= 2 {
			return "-TRYAGAIN later\r\n"
		}
		return "+OK\r\n"
	})
	s = open(t, redigo.Config{Address: all.addr})
	p := driver.NewPipeline(0)
	defer p.Free()
	add(p, "SET", "a", "v")
	add(p, "SET", "b", "v")
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, "+OK\r\n+OK\r\n", string(p.Replies().Raw()), "all of it was refused, so all of it is sent again")
}

// TestMaxClients dials a full server: real Redis replies to the handshake with
// an error and closes.
func TestMaxClients(t *testing.T) {
	t.Parallel()
	r := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"maxclients 1"}})
	first := open(t, redigo.Config{Address: r.Addr()})
	second := open(t, redigo.Config{Address: r.Addr(), Timeout: 150 * time.Millisecond})
	must(t, first, "SET", "k", "v")
	_, err := run(second, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)

	patient := open(t, redigo.Config{Address: r.Addr()})
	done := make(chan string)
	go func() {
		got, err := run(patient, 0, "GET", "k")
		assert.NoError(t, err)
		done <- got
	}()
	require.Eventually(t, func() bool { return patient.Stats().Retries > 1 }, patience, time.Millisecond)
	require.NoError(t, first.Close())
	assert.Equal(t, bulk("v"), <-done)
}

// TestLoading starts a server that takes a while to load.
func TestLoading(t *testing.T) {
	server := serveAll(t, func(conn int, cmd []string) string {
		switch {
		case conn < 2:
			return "-LOADING Redis is loading the dataset in memory\r\n"
		case cmd[0] == "PING":
			return "+PONG\r\n"
		}
		return bulk("v")
	})
	s := open(t, redigo.Config{Address: server.addr})
	assert.Equal(t, bulk("v"), must(t, s, "GET", "k"), "the greeting was refused twice")
	assert.Equal(t, 1, server.count("GET k"))
}

// TestComesBack dials a server that is away for less time than the pauses take.
func TestComesBack(t *testing.T) {
	var n atomic.Int64
	server := serveAll(t, func(_ int, cmd []string) string {
		if cmd[0] == "PING" {
			if n.Add(1) <= 2 {
				return ""
			}
			return "+PONG\r\n"
		}
		return bulk("v")
	})
	s := open(t, redigo.Config{Address: server.addr})
	assert.Equal(t, bulk("v"), must(t, s, "GET", "k"))
}

// TestOldServer talks to a Redis 6, which lacks commands that caches needs.
func TestOldServer(t *testing.T) {
	for _, c := range []struct{ reply, info, want string }{
		{"-ERR syntax error\r\n", "redis_version:6.2.6\r\n", "Redis 6.2.6; caches needs 7.0 or newer"},
		{"-ERR unknown command `GETEX`, with args beginning with: `k`\r\n", "redis_version:5.0.7\r\n", "Redis 5.0.7;"},
		{"-ERR Unsupported option NX\r\n", "redis_version:6.0.0\r\n", "Redis 6.0.0;"},
		{"-ERR syntax error\r\n", "redis_version:7.0.0\r\n", ""},
		{"-ERR syntax error\r\n", "", ""},
		{"-WRONGTYPE no\r\n", "redis_version:6.2.6\r\n", ""},
	} {
		for _, mode := range []driver.Mode{0, driver.Atomic} {
			t.Run(fmt.Sprintf("%.20q %q/%d", c.reply, c.info, mode), func(t *testing.T) {
				server := serve(t, func(_ int, cmd []string) string {
					switch {
					case cmd[0] == "INFO":
						return bulk("# Server\r\n" + c.info)
					case cmd[0] == "MULTI":
						return "+OK\r\n"
					case cmd[0] == "EXEC":
						return "*1\r\n" + c.reply
					case mode == driver.Atomic:
						return "+QUEUED\r\n"
					}
					return c.reply
				})
				s := open(t, redigo.Config{Address: server.addr})
				for range 3 {
					got, err := run(s, mode, "SET", "k", "v", "NX", "GET")
					if c.want == "" {
						require.NoError(t, err)
						assert.Equal(t, c.reply, got)
						continue
					}
					require.ErrorIs(t, err, driver.ErrOldServer)
					assert.ErrorContains(t, err, "caches: the server at "+server.addr+" is "+c.want)
				}
				asked := 1
				if strings.HasPrefix(c.reply, "-WRONGTYPE") {
					asked = 0
				}
				assert.Equal(t, asked, server.count("INFO server"))
			})
		}
	}
}

// TestOldServerThatDoesNotTell loses the connection while asking for the
// version: the replies remain valid.
func TestOldServerThatDoesNotTell(t *testing.T) {
	server := serve(t, func(_ int, cmd []string) string {
		if cmd[0] == "INFO" {
			return ""
		}
		return "-ERR syntax error\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr})
	for range 2 {
		got, err := run(s, 0, "SET", "k", "v", "NX", "GET")
		require.NoError(t, err)
		assert.Equal(t, "-ERR syntax error\r\n", got)
	}
	assert.Equal(t, 2, server.count("INFO server"))
}
