package redigo

import (
	"bytes"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// frame frames n replies in raw, given step bytes at a time. It returns the
// bytes after them.
func frame(raw []byte, n, step int, limits Limits) (rest []byte, whole bool, err error) {
	f := framer{limits: limits.orDefaults()}
	f.begin(n)
	for end := 0; end < len(raw) && f.left > 0; {
		end = min(end+step, len(raw))
		if err := f.advance(raw[:end]); err != nil {
			return nil, false, err
		}
	}
	return raw[f.pos:], f.left == 0, nil
}

var wellFormed = []string{
	"+OK\r\n", "+\r\n", "-ERR no\r\n", "-\r\n", ":0\r\n", ":-1\r\n",
	":9223372036854775807\r\n", ":-9223372036854775808\r\n", ":007\r\n",
	"$0\r\n\r\n", "$-1\r\n", "$5\r\nhello\r\n", "$5\r\n\r\n\r\n+\r\n", "$1\r\n\x00\r\n",
	"*0\r\n", "*-1\r\n", "*1\r\n:1\r\n", "*2\r\n$1\r\na\r\n*2\r\n$-1\r\n-ERR x\r\n",
	"*3\r\n*0\r\n*-1\r\n*1\r\n*0\r\n",
	strings.Repeat("*1\r\n", 32) + ":1\r\n",
	"+" + strings.Repeat("x", 60_000) + "\r\n",
	"$70000\r\n" + strings.Repeat("y", 70_000) + "\r\n",
}

// agree checks that usual, if it finds a reply, finds the same one as advance.
func agree(t *testing.T, raw []byte, limits Limits) (size int) {
	t.Helper()
	f := framer{limits: limits.orDefaults()}
	if size = f.usual(raw); size > 0 {
		rest, whole, err := frame(raw, 1, len(raw), limits)
		require.NoError(t, err, "%.40q", raw)
		assert.True(t, whole, "%.40q", raw)
		assert.Equal(t, len(raw)-len(rest), size, "%.40q", raw)
	}
	return size
}

// TestFrameUsual checks that usual finds the common replies, and no reply that
// advance does not find; near a limit it leaves the decision to advance.
func TestFrameUsual(t *testing.T) {
	for _, usual := range []string{
		"+OK\r\n", "$-1\r\n", ":12\r\n", "$0\r\n\r\n", "$5\r\nhello\r\n", "$0070\r\n" + strings.Repeat("y", 70) + "\r\n",
	} {
		assert.Equal(t, len(usual), agree(t, []byte(usual), Limits{}), "%q", usual)
		assert.Equal(t, len(usual), agree(t, []byte(usual+"+OK\r\n$"), Limits{}), "%q", usual)
		for cut := range usual {
			assert.Zero(t, agree(t, []byte(usual[:cut]), Limits{}), "%q", usual[:cut])
			for _, other := range "\x00\r\n-+:$*09" {
				agree(t, []byte(usual[:cut]+string(other)+usual[cut+1:]), Limits{})
			}
		}
		for n := 1; n < 20; n++ {
			for _, limits := range []Limits{{Line: n}, {Bulk: n}, {Reply: n}} {
				agree(t, []byte(usual), limits)
			}
		}
	}
	for _, limits := range []Limits{{Line: 2}, {Bulk: 4}, {Reply: 8}} {
		assert.Zero(t, agree(t, []byte("$5\r\nhello\r\n"), limits))
	}
}

func TestFrameWellFormed(t *testing.T) {
	for _, reply := range wellFormed {
		for _, step := range []int{1, 2, 7, len(reply)} {
			if step == 1 && len(reply) > 1000 {
				step = 1000
			}
			rest, whole, err := frame([]byte(reply), 1, step, Limits{})
			require.NoError(t, err, "%.40q by %d", reply, step)
			assert.True(t, whole, "%.40q", reply)
			assert.Empty(t, rest, "%.40q", reply)
		}
		for cut := range min(len(reply), 200) {
			_, whole, err := frame([]byte(reply[:cut]), 1, 1, Limits{})
			require.NoError(t, err, "%.40q cut at %d", reply, cut)
			assert.False(t, whole, "%.40q cut at %d", reply, cut)
		}
	}
	all := strings.Join(wellFormed, "")
	rest, whole, err := frame([]byte(all+"+more\r\n"), len(wellFormed), 4096, Limits{})
	require.NoError(t, err)
	assert.True(t, whole)
	assert.Equal(t, "+more\r\n", string(rest), "bytes after the last reply are not touched")
}

func TestSplit(t *testing.T) {
	raw := []byte(strings.Join(wellFormed, ""))
	for _, want := range wellFormed {
		var reply []byte
		reply, raw = split(raw)
		assert.Equal(t, want, string(reply))
	}
	assert.Empty(t, raw)
	broken, rest := split([]byte("garbage"))
	assert.Equal(t, "garbage", string(broken), "a framer refuses it")
	assert.Empty(t, rest)
}

// hostile are replies that a framer must refuse, with the reason.
var hostile = []struct {
	reply string
	want  error
	text  string
}{
	{"$67108865\r\n", driver.ErrTooLarge, `"bulk"`},
	{"$99999999999999999999999999\r\n", driver.ErrTooLarge, `"bulk"`},
	{"$9223372036854775807\r\n", driver.ErrTooLarge, `"bulk"`},
	{"*1048577\r\n", driver.ErrTooLarge, `"array"`},
	{"*2147483647\r\n", driver.ErrTooLarge, `"array"`},
	{"*1\r\n*9999999999999999999\r\n", driver.ErrTooLarge, `"array"`},
	{strings.Repeat("*1\r\n", 33), driver.ErrTooLarge, `"depth"`},
	{strings.Repeat("*1\r\n", 100_000), driver.ErrTooLarge, `"depth"`},
	{"+" + strings.Repeat("x", 70_000), driver.ErrTooLarge, `"line"`},
	{"+" + strings.Repeat("x", 70_000) + "\r\n", driver.ErrTooLarge, `"line"`},
	{"$" + strings.Repeat("0", 70_000), driver.ErrTooLarge, `"line"`},
	{"$-2\r\n", driver.ErrProtocol, "length"},
	{"$-0\r\n", driver.ErrProtocol, "length"},
	{"$-9223372036854775808\r\n", driver.ErrProtocol, "length"},
	{"*-2\r\n", driver.ErrProtocol, "length"},
	{"$\r\n", driver.ErrProtocol, "length"},
	{"*\r\n", driver.ErrProtocol, "length"},
	{"$+5\r\nhello\r\n", driver.ErrProtocol, "length"},
	{"$ 5\r\nhello\r\n", driver.ErrProtocol, "length"},
	{"$5x\r\nhello\r\n", driver.ErrProtocol, "length"},
	{"$0x5\r\nhello\r\n", driver.ErrProtocol, "length"},
	{"*1.0\r\n", driver.ErrProtocol, "length"},
	{"$5\r\nhelloXX", driver.ErrProtocol, "CR LF"},
	{"$5\r\nhello\n\r", driver.ErrProtocol, "CR LF"},
	{"$4\r\nhello\r\n", driver.ErrProtocol, "CR LF"},
	{"$5\nhello\r\n", driver.ErrProtocol, "CR LF"},
	{"+OK\n", driver.ErrProtocol, "CR LF"},
	{"+O\rK\r\n", driver.ErrProtocol, "CR LF"},
	{"+OK\r\r\n", driver.ErrProtocol, "CR LF"},
	{"\r\n", driver.ErrProtocol, "0x0d"},
	{"\n", driver.ErrProtocol, "0x0a"},
	{"+\n", driver.ErrProtocol, "CR LF"},
	{"\x00", driver.ErrProtocol, "0x00"},
	{"*2\r\n+a\r\nb", driver.ErrProtocol, "0x62"},
	{":\r\n", driver.ErrProtocol, "integer"},
	{":-\r\n", driver.ErrProtocol, "integer"},
	{":+1\r\n", driver.ErrProtocol, "integer"},
	{":1 \r\n", driver.ErrProtocol, "integer"},
	{":1.5\r\n", driver.ErrProtocol, "integer"},
	{":9223372036854775808\r\n", driver.ErrProtocol, "integer"},
	{":-9223372036854775809\r\n", driver.ErrProtocol, "integer"},
	{":99999999999999999999999999999\r\n", driver.ErrProtocol, "integer"},
	{":18446744073709551617\r\n", driver.ErrProtocol, "integer"},
	{"_\r\n", driver.ErrProtocol, "0x5f"},
	{"#t\r\n", driver.ErrProtocol, "0x23"},
	{",1.5\r\n", driver.ErrProtocol, "0x2c"},
	{"(12345\r\n", driver.ErrProtocol, "0x28"},
	{"!3\r\nERR\r\n", driver.ErrProtocol, "0x21"},
	{"=7\r\ntxt:abc\r\n", driver.ErrProtocol, "0x3d"},
	{"%1\r\n+a\r\n+b\r\n", driver.ErrProtocol, "0x25"},
	{"~1\r\n+a\r\n", driver.ErrProtocol, "0x7e"},
	{">2\r\n+invalidate\r\n*0\r\n", driver.ErrProtocol, "0x3e"},
	{"|1\r\n+a\r\n+b\r\n", driver.ErrProtocol, "0x7c"},
	{"$?\r\n", driver.ErrProtocol, "length"},
	{"*?\r\n", driver.ErrProtocol, "length"},
	{"HTTP/1.1 400 Bad Request\r\n", driver.ErrProtocol, "0x48"},
	{"\x16\x03\x01\x02\r\n", driver.ErrProtocol, "0x16"},
	{"*2\r\n:1\r\ngarbage\r\n", driver.ErrProtocol, "0x67"},
}

func TestFrameHostile(t *testing.T) {
	for _, c := range hostile {
		for _, step := range []int{1, 3, len(c.reply)} {
			if len(c.reply) > 10_000 && step < 1000 {
				step *= 1000
			}
			_, _, err := frame([]byte(c.reply), 1, step, Limits{})
			require.ErrorIs(t, err, c.want, "%.40q", c.reply)
			assert.ErrorContains(t, err, c.text, "%.40q", c.reply)
		}
	}
}

func TestFrameLimits(t *testing.T) {
	for _, c := range []struct {
		fits, over string
		limits     Limits
		name       string
	}{
		{"$3\r\nabc\r\n", "$4\r\n", Limits{Bulk: 3}, "bulk"},
		{"*2\r\n:1\r\n:2\r\n", "*3\r\n", Limits{Array: 2}, "array"},
		{"*1\r\n:1\r\n", "*1\r\n*1\r\n:1\r\n", Limits{Depth: 1}, "depth"},
		{"+12345\r\n", "+12345678\r\n", Limits{Line: 7}, "line"},
		{"*2\r\n$1\r\na\r\n:1\r\n", "*3\r\n$1\r\na\r\n:1\r\n:1\r\n", Limits{Reply: 15}, "reply"},
		{"$3\r\nabc\r\n", "$14\r\n", Limits{Reply: 9}, "reply"},
	} {
		_, whole, err := frame([]byte(c.fits), 1, 1, c.limits)
		require.NoError(t, err, c.name)
		assert.True(t, whole, c.name)
		_, _, err = frame([]byte(c.over), 1, 1, c.limits)
		require.ErrorIs(t, err, driver.ErrTooLarge, c.name)
		assert.ErrorContains(t, err, `"`+c.name+`"`)
		_, _, err = frame([]byte(strings.Repeat(c.fits, 50)), 50, 3, c.limits)
		require.NoError(t, err, "limits are of one reply, not of all: %s", c.name)
	}
	require.NoError(t, Limits{}.check())
	require.Error(t, Limits{Line: math.MaxInt}.check())
}

// oneAnswer is a connection on which raw has arrived.
type oneAnswer struct {
	net.Conn
	*bytes.Reader
}

func (c oneAnswer) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (c oneAnswer) Close() error                    { return nil }
func (c oneAnswer) SetReadDeadline(time.Time) error { return nil }

// FuzzFrame compares the framer with redigo's reader. If the framer accepts a
// reply, redigo must read the same one; if it refuses one, redigo may be more
// lenient. The framer's result must not depend on how the bytes are divided.
func FuzzFrame(f *testing.F) {
	for _, s := range wellFormed {
		f.Add([]byte(s))
	}
	for _, c := range hostile {
		f.Add([]byte(c.reply))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rest, whole, err := frame(raw, 1, max(len(raw), 1), Limits{})
		_, again, againErr := frame(raw, 1, 1+len(raw)/50, Limits{})
		assert.Equal(t, err == nil, againErr == nil, "in one go: %v; in pieces: %v", err, againErr)
		assert.Equal(t, whole, again)
		for _, limits := range []Limits{{}, {Bulk: 5, Array: 1, Depth: 1, Line: 3, Reply: 12}} {
			agree(t, raw, limits)
		}
		if !whole {
			return
		}
		reply := raw[:len(raw)-len(rest)]
		want, err := redis.NewConn(oneAnswer{Reader: bytes.NewReader(reply)}, 0, 0).Receive()
		var refusal redis.Error
		if errors.As(err, &refusal) {
			want, err = refusal, nil
		}
		require.NoError(t, err, "redigo does not read %q", reply)
		var encoded driver.Replies
		require.NoError(t, encode(&encoded, want))
		same, err := redis.NewConn(oneAnswer{Reader: bytes.NewReader(encoded.Raw())}, 0, 0).Receive()
		if !errors.As(err, &refusal) {
			require.NoError(t, err)
			assert.Equal(t, want, same)
		}
		readAll(t, reply)
	})
}

// readAll reads a framed reply through package driver, which must consume all of
// it.
func readAll(t *testing.T, raw []byte) {
	t.Helper()
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Cmd("X")
	repliesOf(p).Append(raw, 1)
	r := p.Next()
	require.NotZero(t, r.Kind())
	if elems, err := r.Elems(); err == nil {
		for elems.Len() > 0 {
			e := elems.Next()
			require.NotZero(t, e.Kind(), "%q", raw)
		}
	}
}

func TestArguments(t *testing.T) {
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Cmd("SET").Key("k").String("").Bytes([]byte("a\r\nb"))
	p.Cmd("PING")
	args, rest := arguments(p.Frames())
	assert.Equal(t, []any{[]byte("SET"), []byte("k"), []byte{}, []byte("a\r\nb")}, args)
	args, rest = arguments(rest)
	assert.Equal(t, []any{[]byte("PING")}, args)
	assert.Empty(t, rest)
}

func TestEncodeRefusesWhatRedigoDoesNotReturn(t *testing.T) {
	var r driver.Replies
	require.ErrorIs(t, encode(&r, 1.5), driver.ErrProtocol)
	require.ErrorIs(t, encode(&r, []any{int64(1), true}), driver.ErrProtocol)
}

func TestOldVersion(t *testing.T) {
	for info, want := range map[string]string{
		"# Server\r\nredis_version:6.2.6\r\nredis_git_sha1:0": "6.2.6",
		"redis_version:5\r\n":         "5",
		"redis_version:7.0.15\r\n":    "",
		"redis_version:255.255.1\r\n": "",
		"redis_version:\r\n":          "",
		"redis_version:x6\r\n":        "",
		"redis_version:6.2":           "",
		"nothing":                     "",
		"":                            "",
	} {
		version, old := oldVersion([]byte(info))
		assert.Equal(t, want != "", old, "%q", info)
		if old {
			assert.Equal(t, want, version)
		}
	}
}
