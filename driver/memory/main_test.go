package memory_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a Store that is closed at the end of the test.
func open(t testing.TB, o memory.Options) *memory.Store {
	t.Helper()
	s, err := memory.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// run runs commands as one pipeline and returns the rendered replies.
func run(t testing.TB, s driver.Store, mode driver.Mode, commands ...[]string) []string {
	t.Helper()
	p := driver.NewPipeline(mode)
	defer p.Free()
	for _, c := range commands {
		appendCommand(p, c)
	}
	require.NoError(t, s.Do(context.Background(), p))
	replies := make([]string, len(commands))
	for i := range replies {
		replies[i] = render(t, p.Next())
	}
	require.Zero(t, p.Next().Kind(), "more replies than commands")
	return replies
}

// one runs a single command, given as words separated by spaces; "”" is an empty word.
func one(t testing.TB, s driver.Store, command string) string {
	t.Helper()
	return run(t, s, 0, words(command))[0]
}

func words(command string) []string {
	fields := strings.Fields(command)
	for i, f := range fields {
		if f == "''" {
			fields[i] = ""
		}
	}
	return fields
}

func appendCommand(p *driver.Pipeline, c []string) {
	p.Cmd(c[0])
	for i, arg := range c[1:] {
		if i == 0 {
			p.Key(arg) // has no effect for an argument that is not a key
		} else {
			p.String(arg)
		}
	}
}

// render formats a reply as one line: +status, -error, :integer, "string", nil or
// [array].
func render(t testing.TB, r driver.Reply) string {
	t.Helper()
	switch r.Kind() {
	case driver.KindNil:
		return "nil"
	case driver.KindError:
		e := r.Err().(*driver.ServerError)
		return "-" + e.Code + " " + e.Message()
	case driver.KindInt:
		n, err := r.Int()
		require.NoError(t, err)
		return fmt.Sprint(":", n)
	case driver.KindArray:
		elems, err := r.Elems()
		require.NoError(t, err)
		parts := make([]string, elems.Len())
		for i := range parts {
			parts[i] = render(t, elems.Next())
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	b, ok, err := r.Bytes()
	require.NoError(t, err)
	require.True(t, ok)
	if r.Kind() == driver.KindStatus {
		return "+" + string(b)
	}
	return strconv.Quote(string(b))
}

// renderRedis is like render, for a reply of redigo.
func renderRedis(reply any) string {
	switch r := reply.(type) {
	case nil:
		return "nil"
	case redis.Error:
		return "-" + string(r)
	case int64:
		return fmt.Sprint(":", r)
	case []byte:
		return strconv.Quote(string(r))
	case string:
		return "+" + r
	case []any:
		parts := make([]string, len(r))
		for i := range parts {
			parts[i] = renderRedis(r[i])
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	return fmt.Sprintf("%T", reply)
}

// elements splits a rendered array. It flattens inner arrays.
func elements(array string) (parts []string) {
	for {
		array = strings.TrimLeft(array, "[] ")
		if array == "" {
			return parts
		}
		part, err := strconv.QuotedPrefix(array)
		if err != nil { // not a string
			part = array[:strings.IndexAny(array, "] ")]
		}
		parts, array = append(parts, part), array[len(part):]
	}
}

// sorted sorts a rendered array.
func sorted(array string) string {
	e := elements(array)
	slices.Sort(e)
	return "[" + strings.Join(e, " ") + "]"
}

// A server is a connection to a redis-server, with its differences from Redis 7.0,
// which a Store follows.
type server struct {
	redis.Conn
	shortest bool // scores have the fewest digits: 0.1, not 0.10000000000000001
	left     []func(c []string) bool
}

// startRedis starts a redis-server for the test.
func startRedis(t testing.TB) *server {
	t.Helper()
	conn, err := redis.Dial("unix", testutil.Redis(t, &testutil.RedisOptions{Unix: true}).Addr())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	s := &server{Conn: conn}
	redisStep(t, conn, words("ZADD long 1 "+strings.Repeat("m", 100))) // not in the encoding of small sets
	for _, q := range quirks {
		if redisStep(t, conn, q.command) != q.reply {
			s.left = append(s.left, q.match)
		}
	}
	redisStep(t, conn, words("ZADD z 0.1 m"))
	s.shortest = redisStep(t, conn, words("ZSCORE z m")) == `"0.1"`
	redisStep(t, conn, words("FLUSHALL"))
	return s
}

// quirks are commands with other replies in later releases: an example with its reply in
// Redis 7.0, and a function that matches all such commands. Package caches uses none of them.
var quirks = []struct {
	command []string
	reply   string
	match   func(c []string) bool
}{
	{words("ZADD z 0x10 m"), ":1", func(c []string) bool {
		return c[0][0] == 'Z' && slices.ContainsFunc(c, func(arg string) bool { return strings.Contains(arg, "0x") })
	}},
	{words("SCAN 0 TYPE tree"), `["0" []]`, func(c []string) bool { return c[0] == "SCAN" && slices.Contains(c, "tree") }},
	{[]string{"SCAN", " 0"}, "-ERR invalid cursor", func(c []string) bool {
		return strings.HasSuffix(c[0], "SCAN") && slices.Contains(c, " 0")
	}},
	{words("ZRANGE long 0 1 BYSCORE LIMIT -1 1"), "[]", func(c []string) bool {
		i := slices.Index(c, "LIMIT")
		return c[0][0] == 'Z' && i >= 0 && i+1 < len(c) && strings.HasPrefix(c[i+1], "-")
	}},
	{words("GETEX z EX -1"), "-WRONGTYPE Operation against a key holding the wrong kind of value", func(c []string) bool {
		if c[0] != "GETEX" || len(c) < 4 {
			return false
		}
		n, err := strconv.ParseInt(c[3], 10, 64)
		return err != nil || n <= 0 || n > 1e15
	}},
}

// differs reports whether the server has another reply to a command than Redis 7.0.
func (s *server) differs(c []string) bool {
	return slices.ContainsFunc(s.left, func(match func(c []string) bool) bool { return match(c) })
}

// redisStep runs one command on the real server.
func redisStep(t testing.TB, conn redis.Conn, c []string) string {
	t.Helper()
	args := make([]any, len(c)-1)
	for i, arg := range c[1:] {
		args[i] = arg
	}
	reply, err := conn.Do(c[0], args...)
	if e, ok := err.(redis.Error); ok {
		reply, err = e, nil
	}
	require.NoError(t, err)
	return renderRedis(reply)
}
