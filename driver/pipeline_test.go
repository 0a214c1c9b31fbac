package driver_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// frame returns a command in wire format, as specified by
// https://redis.io/docs/latest/develop/reference/protocol-spec/.
func frame(args ...string) string {
	s := fmt.Sprintf("*%d\r\n", len(args))
	for _, arg := range args {
		s += fmt.Sprintf("$%d\r\n%s\r\n", len(arg), arg)
	}
	return s
}

func TestCommandsOnTheWire(t *testing.T) {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.Cmd("SET").Key("user", ".", "42").Bytes([]byte("a\r\nb")).String("PX").Int(-60000)
	p.CmdKey("GET", "front.", "key")
	p.Cmd("ZADD").Key("z").Float(1.5).String("")
	p.Cmd("PING")
	want := []string{
		frame("SET", "user.42", "a\r\nb", "PX", "-60000"),
		frame("GET", "front.key"),
		frame("ZADD", "z", "1.5", ""),
		frame("PING"),
	}
	assert.Equal(t, strings.Join(want, ""), string(p.Frames()))
	require.Equal(t, len(want), p.Len())
	for i, keys := range []string{"user.42", "front.key", "z", ""} {
		assert.Equal(t, want[i], string(p.Frame(i)))
		assert.Equal(t, keys, string(p.FirstKey(i)))
	}
	assert.Nil(t, p.FirstKey(3))
	assert.Equal(t, "GET", p.Name(1))
	assert.Equal(t, 2, p.Args(1))
	assert.Equal(t, driver.Repeatable, p.Mode())
	assert.False(t, p.HasScripts())

	p.Reset(driver.ReadOnly)
	assert.Zero(t, p.Len())
	assert.Empty(t, p.Frames())
	assert.Equal(t, driver.ReadOnly, p.Mode())
}

// TestCountOfArguments checks the encoded count for any number of arguments, even
// if the frames were read before the last argument was appended.
func TestCountOfArguments(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 10, 97, 98, 99, 100, 1000, 12345} {
		p := driver.NewPipeline(0)
		p.Cmd("ECHO").String("before")
		p.Cmd("MGET")
		args := []string{"MGET"}
		for i := range n {
			key := "key." + strconv.Itoa(i)
			args = append(args, key)
			p.Key(key)
			if i == n/2 {
				p.Frames() // writes the count too early
			}
		}
		p.Cmd("ECHO").String("after")
		require.Equal(t, frame("ECHO", "before")+frame(args...)+frame("ECHO", "after"), string(p.Frames()), n)
		if n > 0 {
			require.Equal(t, "key.0", string(p.FirstKey(1)), n)
		}
		cmd := p.Command(1)
		require.Len(t, cmd.Args, n+1)
		for i, arg := range cmd.Args {
			require.Equal(t, args[i], string(arg))
		}
		p.Free()
	}
}

func TestScriptsInPipelines(t *testing.T) {
	s := driver.NewScript("return ARGV[1]", func(_ driver.Tx, _, args [][]byte, reply *driver.Replies) { reply.Bytes(args[0]) })
	assert.Len(t, s.SHA(), 40)
	assert.Equal(t, "return ARGV[1]", s.Lua())

	p := driver.NewPipeline(0)
	defer p.Free()
	p.Script(s, 2).Key("a").Key("b").String("x").Int(3)
	assert.Equal(t, frame("EVALSHA", s.SHA(), "2", "a", "b", "x", "3"), string(p.Frames()))
	assert.True(t, p.HasScripts())
	assert.Equal(t, "EVALSHA", p.Name(0))
	cmd := p.Command(0)
	assert.Same(t, s, cmd.Script)
	assert.Equal(t, "EVALSHA", cmd.Name())
	assert.Equal(t, [][]byte{[]byte("a"), []byte("b")}, cmd.Keys)
	assert.Equal(t, [][]byte{[]byte("x"), []byte("3")}, cmd.Argv)

	require.True(t, s.Run(nil, cmd.Keys, cmd.Argv, p.Replies()))
	b, ok, err := p.Next().Bytes()
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, "x", string(b))
	assert.False(t, driver.NewScript("return 1", nil).Run(nil, nil, nil, p.Replies()), "there is no Go form")

	p.Reset(0)
	assert.False(t, p.HasScripts())
}

// TestCopy checks that Copy preserves the key, the number of arguments and the
// script of a command.
func TestCopy(t *testing.T) {
	script := driver.NewScript("return 1", nil)
	from := driver.NewPipeline(0)
	defer from.Free()
	from.Cmd("PING")
	from.CmdKey("SET", "front.", "key").String("v").Int(12)
	from.Script(script, 2).Key("a").Key("b").String("arg")
	from.Cmd("MGET")
	for i := range 30 { // a count of two digits
		from.Key(fmt.Sprint("k", i))
	}
	to := driver.NewPipeline(0)
	defer to.Free()
	to.Cmd("GET").Key("first")
	for i := range from.Len() {
		to.Copy(from, from.Len()-1-i)
	}
	to.String("more") // an argument of PING
	to.Cmd("GET").Key("last")
	require.Equal(t, from.Len()+2, to.Len())
	for i := range from.Len() {
		at := from.Len() - i
		want := string(from.Frame(i))
		if i == 0 {
			want = "*2\r\n$4\r\nPING\r\n$4\r\nmore\r\n"
			assert.Equal(t, 2, to.Args(at))
		} else {
			assert.Equal(t, from.Args(i), to.Args(at))
		}
		assert.Equal(t, want, string(to.Frame(at)))
		assert.Equal(t, from.Name(i), to.Name(at))
		assert.Equal(t, string(from.FirstKey(i)), string(to.FirstKey(at)))
	}
	assert.True(t, to.HasScripts())
	cmd := to.Command(2)
	assert.Same(t, script, cmd.Script)
	assert.Equal(t, [][]byte{[]byte("a"), []byte("b")}, cmd.Keys)
	assert.Equal(t, [][]byte{[]byte("arg")}, cmd.Argv)
	assert.Equal(t, "last", string(to.FirstKey(to.Len()-1)))
}

func TestAppendFloat(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", math.Copysign(0, -1): "0", 1: "1", -1.5: "-1.5", 0.1: "0.1", 1e21: "1e+21",
		math.Inf(1): "inf", math.Inf(-1): "-inf", 9007199254740993: "9.007199254740992e+15",
	} {
		assert.Equal(t, want, string(driver.AppendFloat(nil, f)))
	}
}

// TestFreeForgets checks that a freed Pipeline keeps neither a large buffer nor any
// of its contents.
func TestFreeForgets(t *testing.T) {
	p := driver.NewPipeline(driver.Atomic)
	p.Script(driver.NewScript("return 1", nil), 0).String(strings.Repeat("x", 1<<20))
	p.Replies().String(strings.Repeat("y", 1<<20))
	p.Free()
	for range 100 {
		p := driver.NewPipeline(0)
		assert.Zero(t, p.Len())
		assert.Zero(t, p.Replies().Len())
		assert.Less(t, cap(p.Frames()), 128<<10)
		assert.Equal(t, driver.Mode(0), p.Mode())
		p.Free()
	}
}

// FuzzCommand checks that redigo decodes the arguments that a Pipeline encoded. A
// command has the format of a reply that is an array of strings, and redigo reads
// it as one.
func FuzzCommand(f *testing.F) {
	f.Add("GET", "key", []byte("value"), int64(1), uint8(3))
	f.Add("", "\r\n", []byte("$3\r\nabc\r\n"), int64(math.MinInt64), uint8(200))
	f.Fuzz(func(t *testing.T, name, key string, value []byte, n int64, more uint8) {
		p := driver.NewPipeline(0)
		defer p.Free()
		p.CmdKey(name, key, key).Bytes(value).Int(n)
		want := []string{name, key + key, string(value), strconv.FormatInt(n, 10)}
		for i := range int(more) {
			p.String(strconv.Itoa(i))
			want = append(want, strconv.Itoa(i))
		}
		got, err := redis.Strings(redis.NewConn(&wire{reply: p.Frames(), left: p.Frames()}, 0, 0).Receive())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, key+key, string(p.FirstKey(0)))
	})
}

// TestRepliesRoundTrip checks that random replies are read as they were added, both
// directly and after a copy in wire format.
func TestRepliesRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var want []any
		p, q := driver.NewPipeline(0), driver.NewPipeline(0)
		for range 1 + r.IntN(4) {
			want = append(want, leave(r, p.Replies(), 3))
		}
		require.Equal(t, len(want), p.Replies().Len())
		(*resp.Replies)(q.Replies()).Append(p.Replies().Raw(), p.Replies().Len())
		for i := range want {
			require.Equal(t, want[i], take(t, p.Next()))
			require.Equal(t, want[i], take(t, q.Next()))
		}
		require.ErrorIs(t, p.Next().Err(), driver.ErrProtocol, "there are no more")
		old := (*resp.Replies)(q.Replies()).Swap([]byte("+OK\r\n"), 1)
		require.Empty(t, old)
		p.Free()
		q.Free()
	}
}

// leave adds a random reply and returns the value that take returns for it.
func leave(r *rand.Rand, to *driver.Replies, depth int) any {
	switch kind := r.IntN(6); {
	case kind == 0:
		to.Status("OK")
		return "+OK"
	case kind == 1:
		to.Error("ERR no such key")
		return "-ERR"
	case kind == 2:
		n := r.Int64() - r.Int64()
		to.Int(n)
		return n
	case kind == 3:
		to.Nil()
		return nil
	case kind == 4 && depth > 0:
		n := r.IntN(4)
		to.Array(n)
		all := make([]any, n)
		for i := range all {
			all[i] = leave(r, to, depth-1)
		}
		return all
	}
	s := strings.Repeat("\r\n$5", r.IntN(40))
	if r.IntN(2) == 0 {
		to.Bytes([]byte(s))
	} else {
		to.String(s)
	}
	return s
}

func take(t *testing.T, r driver.Reply) any {
	switch r.Kind() {
	case driver.KindStatus:
		b, _, _ := r.Bytes()
		return "+" + string(b)
	case driver.KindError:
		var e *driver.ServerError
		require.ErrorAs(t, r.Err(), &e)
		return "-" + e.Code
	case driver.KindInt:
		n, err := r.Int()
		require.NoError(t, err)
		return n
	case driver.KindNil:
		return nil
	case driver.KindArray:
		e, err := r.Elems()
		require.NoError(t, err)
		all := make([]any, e.Len())
		for i := range all {
			all[i] = take(t, e.Next())
		}
		require.ErrorIs(t, e.Next().Err(), driver.ErrProtocol)
		return all
	}
	b, ok, err := r.Bytes()
	require.NoError(t, err)
	require.True(t, ok)
	return string(b)
}

// TestRepliesOfAnotherKind checks that a reply of an unexpected kind is an error,
// and that an error reply is returned as the server's error.
func TestRepliesOfAnotherKind(t *testing.T) {
	left := func(leave func(*driver.Replies)) driver.Reply {
		p := driver.NewPipeline(0)
		leave(p.Replies())
		return p.Next()
	}
	status := left(func(r *driver.Replies) { r.Status("OK") })
	number := left(func(r *driver.Replies) { r.Int(7) })
	text := left(func(r *driver.Replies) { r.String("1e400") })
	nan := left(func(r *driver.Replies) { r.String("nan") })
	none := left(func(r *driver.Replies) { r.Nil() })
	fault := left(func(r *driver.Replies) { r.Error("WRONGTYPE Operation against a key holding the wrong kind of value") })

	require.NoError(t, status.OK())
	for name, err := range map[string]error{
		"OK of an integer":    number.OK(),
		"Int of a status":     second(status.Int()),
		"Bytes of an integer": third(number.Bytes()),
		"Elems of a string":   second(text.Elems()),
		"Float beyond range":  third(text.Float()),
		"Float of NaN":        third(nan.Float()),
		"Float of an integer": third(number.Float()),
	} {
		assert.ErrorIs(t, err, driver.ErrProtocol, name)
	}
	for name, err := range map[string]error{
		"OK": fault.OK(), "Int": second(fault.Int()), "Bytes": third(fault.Bytes()),
		"Elems": second(fault.Elems()), "Float": third(fault.Float()), "Err": fault.Err(),
	} {
		var e *driver.ServerError
		require.ErrorAs(t, err, &e, name)
		assert.Equal(t, "WRONGTYPE", e.Code, name)
		assert.NotErrorIs(t, err, driver.ErrProtocol, name)
	}
	_, ok, err := none.Float()
	assert.False(t, ok)
	assert.NoError(t, err)
	e, err := none.Elems()
	assert.Zero(t, e.Len())
	assert.NoError(t, err)
	assert.NoError(t, none.Err())
}

func second[T any](_ T, err error) error        { return err }
func third[T any](_ T, _ bool, err error) error { return err }

// TestServerErrorsShowNoArguments checks that Error shows only fixed text of the
// server: other messages may repeat arguments.
func TestServerErrorsShowNoArguments(t *testing.T) {
	for text, want := range map[string]string{
		"ERR value is not an integer or out of range":                  "caches: server says ERR value is not an integer or out of range",
		"OOM command not allowed when used memory > 'maxmemory'.":      "caches: server says OOM command not allowed when used memory > 'maxmemory'.",
		"ERR unknown command 'x', with args beginning with: 'hunter2'": "caches: server says ERR",
		"ERR Error running script: hunter2":                            "caches: server says ERR",
		"MOVED 3999 hunter2:6381":                                      "caches: server says MOVED",
		"NOPERM hunter2":                                               "caches: server says NOPERM",
		"ODD":                                                          "caches: server says ODD",
	} {
		e := driver.NewServerError(text)
		assert.Equal(t, want, e.Error())
		assert.Equal(t, text, strings.TrimSpace(e.Code+" "+e.Message()))
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v %s %q", e, e, e, e, e), "hunter2")
	}
}
