package testutil

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Gap is a known omission of a store; see [Lacks].
type Gap struct{ commands []string }

// Lacks names commands that a store does not have or answers differently, each
// whole or by its beginning ("SET k v XX"). [TestStore] skips them in its
// tables. The objects of caches need every one of them: a store with a Gap is
// fit for tests only.
func Lacks(commands ...string) Gap { return Gap{commands} }

func lacks(gaps []Gap, command string) bool {
	return slices.ContainsFunc(gaps, func(g Gap) bool {
		return slices.ContainsFunc(g.commands, func(c string) bool {
			return command == c || strings.HasPrefix(command, c+" ")
		})
	})
}

// TestStore checks that a [driver.Store] can back the objects of caches. open
// must return a new empty store; it is called once for each part of the suite,
// which closes the store.
//
// The suite expects the replies of Redis 7.0, byte by byte. Only if Redis
// leaves the order of elements open are they compared as a set, and scores as
// numbers: Redis 8 and Valkey write 0.1 as "0.1", Redis 7.0 as
// "0.10000000000000001".
func TestStore(t *testing.T, open func(t *testing.T) driver.Store, gaps ...Gap) {
	for _, part := range tables {
		t.Run(part.name, func(t *testing.T) { runTable(t, opened(t, open), part.steps, gaps) })
	}
	for _, part := range []struct {
		name string
		run  func(t *testing.T, s driver.Store)
	}{
		{"expiry", testExpiry},
		{"bytes", testBytes},
		{"pipeline", testPipeline},
		{"scan", testScan},
		{"random", testRandom},
		{"modes", testModes},
		{"atomic", testAtomic},
		{"atomic/alone", testAtomicAlone},
		{"script", testScript},
		{"script/atomic", testScriptAtomic},
		{"concurrent", testConcurrent},
		{"context", testContext},
		{"close", testClose},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, opened(t, open)) })
	}
}

func opened(t *testing.T, open func(t *testing.T) driver.Store) driver.Store {
	t.Helper()
	s := open(t)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// runTable runs each step in a Pipeline of its own, so that a wrong reply
// identifies its step.
func runTable(t *testing.T, s driver.Store, steps []step, gaps []Gap) {
	for i, step := range steps {
		if lacks(gaps, step.cmd) {
			continue
		}
		got := do(t, s, strings.Fields(step.cmd)...)
		assert.True(t, matches(got, step.want), "step %d: %s gives %s, and not %s", i, step.cmd, got, step.want)
	}
}

// matches reports whether the shown reply is as step wants.
func matches(got, want string) bool {
	if most, ok := strings.CutPrefix(want, "<="); ok {
		n, err := strconv.Atoi(got)
		limit, _ := strconv.Atoi(most)
		return err == nil && n <= limit && n > limit/2
	}
	if numbers, ok := strings.CutPrefix(want, "="); ok {
		return slices.EqualFunc(strings.Fields(got), strings.Fields(numbers), sameNumber)
	}
	return order(got, want) == order(want, want)
}

// sameNumber reports whether two words of shown replies are equal, or floats
// of the same value.
func sameNumber(a, b string) bool {
	x, err1 := strconv.ParseFloat(strings.Trim(a, `[]"`), 64)
	y, err2 := strconv.ParseFloat(strings.Trim(b, `[]"`), 64)
	return a == b || err1 == nil && err2 == nil && x == y
}

// order sorts the elements of a shown array if want begins with "~": their
// order is not specified. Elements in the tables contain no spaces.
func order(shown, want string) string {
	if !strings.HasPrefix(want, "~") {
		return shown
	}
	words := strings.Fields(strings.Trim(strings.TrimPrefix(shown, "~"), "[]"))
	slices.Sort(words)
	return strings.Join(words, " ")
}

// do runs one command and shows its reply.
func do(t testing.TB, s driver.Store, args ...string) string {
	t.Helper()
	p := driver.NewPipeline(0)
	defer p.Free()
	add(p, args...)
	require.NoError(t, s.Do(t.Context(), p), "%q", args)
	require.Equal(t, 1, p.Replies().Len())
	return show(p.Next())
}

// add appends a command whose first argument after the name is its key, by
// which a store over several servers finds the right one.
func add(p *driver.Pipeline, args ...string) {
	p.Cmd(args[0])
	for i, arg := range args[1:] {
		if i == 0 {
			p.Key(arg)
		} else {
			p.String(arg)
		}
	}
}

// show renders a reply: OK, "a string", 12, nil, ["an" "array"], !ERR an error.
func show(r driver.Reply) string {
	switch r.Kind() {
	case driver.KindInt:
		n, err := r.Int()
		if err != nil {
			return err.Error()
		}
		return strconv.FormatInt(n, 10)
	case driver.KindBulk:
		b, _, _ := r.Bytes()
		return strconv.Quote(string(b))
	case driver.KindStatus:
		b, _, _ := r.Bytes()
		return string(b)
	case driver.KindNil:
		return "nil"
	case driver.KindArray:
		return showArray(r)
	}
	var e *driver.ServerError
	if err := r.Err(); !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return "!" + e.Code + " " + e.Message()
}

func showArray(r driver.Reply) string {
	elems, err := r.Elems()
	if err != nil {
		return err.Error()
	}
	shown := make([]string, elems.Len())
	for i := range shown {
		shown[i] = show(elems.Next())
	}
	return "[" + strings.Join(shown, " ") + "]"
}

func testExpiry(t *testing.T, s driver.Store) {
	assert.Equal(t, "OK", do(t, s, "SET", "k", "v", "PX", "30"))
	assert.Equal(t, "1", do(t, s, "HSET", "h", "f", "v"))
	assert.Equal(t, "1", do(t, s, "PEXPIRE", "h", "30"))
	gone := func() bool {
		return do(t, s, "GET", "k") == "nil" && do(t, s, "EXISTS", "h") == "0"
	}
	assert.Eventually(t, gone, 10*time.Second, 5*time.Millisecond, "keys must expire by themselves")
	assert.Equal(t, "-2", do(t, s, "PTTL", "k"))

	assert.Equal(t, "OK", do(t, s, "SET", "k", "v", "EX", "100"))
	left, err := strconv.Atoi(do(t, s, "PTTL", "k"))
	assert.NoError(t, err)
	assert.Greater(t, left, 50_000)
	assert.LessOrEqual(t, left, 100_000)
	assert.Equal(t, "1", do(t, s, "PERSIST", "k"))
	assert.Equal(t, "-1", do(t, s, "TTL", "k"))
}

// testBytes sends bytes that would break a text protocol.
func testBytes(t *testing.T, s driver.Store) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, v := range []string{"", "\r\n", "$5\r\nhello\r\n", "-ERR no", string(all), strings.Repeat("x", 1<<20)} {
		key := "k" + v[:min(len(v), 300)]
		assert.Equal(t, "OK", do(t, s, "SET", key, v))
		p := driver.NewPipeline(driver.ReadOnly)
		add(p, "GET", key)
		require.NoError(t, s.Do(t.Context(), p))
		// Not shown and compared: to quote a megabyte takes long.
		if b, ok, err := p.Next().Bytes(); err != nil || !ok || string(b) != v {
			t.Errorf("a value of %d bytes came back changed", len(v))
		}
		p.Free()
	}
}

func testPipeline(t *testing.T, s driver.Store) {
	p := driver.NewPipeline(0)
	defer p.Free()
	require.NoError(t, s.Do(t.Context(), p), "an empty Pipeline is fine")
	const n = 1000
	for i := range n {
		p.Cmd("SET").Key("k" + strconv.Itoa(i)).Int(int64(i))
	}
	for i := range n {
		p.Cmd("GET").Key("k" + strconv.Itoa(i))
	}
	p.Cmd("HGET").Key("k1").String("f")
	p.Cmd("DBSIZE")
	require.NoError(t, s.Do(t.Context(), p))
	require.Equal(t, 2*n+2, p.Replies().Len())
	for range n {
		require.NoError(t, p.Next().OK())
	}
	for i := range n {
		require.Equal(t, strconv.Quote(strconv.Itoa(i)), show(p.Next()))
	}
	assert.Equal(t, wrongType, show(p.Next()), "an error of one command is that command's reply")
	assert.Equal(t, strconv.Itoa(n), show(p.Next()))
}

// testScan checks the guarantee of SCAN and its relatives: elements present
// during the whole scan are returned at least once.
func testScan(t *testing.T, s driver.Store) {
	const n = 500
	p := driver.NewPipeline(0)
	defer p.Free()
	for i := range n {
		member := "m" + strconv.Itoa(i)
		p.Cmd("SET").Key("key:" + member).String("v")
		p.Cmd("HSET").Key("h").String(member).String("v")
		p.Cmd("SADD").Key("s").String(member)
		p.Cmd("ZADD").Key("z").Int(int64(i)).String(member)
	}
	require.NoError(t, s.Do(t.Context(), p))
	for _, c := range []struct {
		args  []string
		width int // elements of the reply per member
		want  int
	}{
		{[]string{"SCAN", "", "MATCH", "key:*"}, 1, n},
		{[]string{"SCAN", "", "MATCH", "key:m1?"}, 1, 10},
		{[]string{"SCAN", "", "TYPE", "zset"}, 1, 1},
		{[]string{"HSCAN", "h", ""}, 2, n},
		{[]string{"SSCAN", "s", ""}, 1, n},
		{[]string{"SSCAN", "s", "", "MATCH", "m[12]"}, 1, 2},
		{[]string{"ZSCAN", "z", ""}, 2, n},
	} {
		assert.Len(t, scan(t, s, c.args, c.width), c.want, "%q", c.args)
	}
}

// scan follows a cursor, the empty string in args, from 0 back to 0.
func scan(t *testing.T, s driver.Store, args []string, width int) map[string]bool {
	t.Helper()
	found, cursor, at := map[string]bool{}, "0", slices.Index(args, "")
	for range 10_000 {
		args[at] = cursor
		p := driver.NewPipeline(driver.ReadOnly)
		add(p, append(slices.Clone(args), "COUNT", "20")...)
		require.NoError(t, s.Do(t.Context(), p))
		reply, err := p.Next().Elems()
		require.NoError(t, err)
		next, _, err := reply.Next().Bytes()
		require.NoError(t, err)
		cursor = string(next)
		page, err := reply.Next().Elems()
		require.NoError(t, err)
		for i := 0; page.Len() > 0; i++ {
			// SCAN may return a member twice: use a set.
			if member := show(page.Next()); i%width == 0 {
				found[member] = true
			}
		}
		p.Free()
		if cursor == "0" {
			return found
		}
	}
	t.Fatalf("%q does not end", args)
	return nil
}

// testRandom checks that commands that choose at random return existing
// elements.
func testRandom(t *testing.T, s driver.Store) {
	do(t, s, "SADD", "s", "a", "b", "c")
	do(t, s, "HSET", "h", "a", "1", "b", "1", "c", "1")
	do(t, s, "ZADD", "z", "1", "a", "2", "b", "3", "c")
	for _, c := range [][]string{{"SRANDMEMBER", "s"}, {"HRANDFIELD", "h"}, {"ZRANDMEMBER", "z"}} {
		one := do(t, s, c...)
		assert.Contains(t, []string{`"a"`, `"b"`, `"c"`}, one, "%q", c)
		assert.Equal(t, `"a" "b" "c"`, order(do(t, s, append(c, "10")...), "~"), "%q 10", c)
		assert.Len(t, strings.Fields(do(t, s, append(c, "-5")...)), 5, "%q -5", c)
	}
	left := map[string]bool{`"a"`: true, `"b"`: true, `"c"`: true}
	for range 3 {
		popped := do(t, s, "SPOP", "s")
		assert.True(t, left[popped], "SPOP gave %s", popped)
		delete(left, popped)
	}
	assert.Equal(t, "nil", do(t, s, "SPOP", "s"))
	assert.Equal(t, "0", do(t, s, "EXISTS", "s"))
}

func testModes(t *testing.T, s driver.Store) {
	for _, mode := range []driver.Mode{
		0, driver.ReadOnly, driver.Repeatable, driver.Keep, driver.Atomic,
		driver.Atomic | driver.Repeatable, driver.Atomic | driver.ReadOnly, driver.Keep | driver.Repeatable,
	} {
		p := driver.NewPipeline(mode)
		if mode&driver.ReadOnly == 0 {
			p.Cmd("SET").Key("k").Int(int64(mode))
		}
		p.Cmd("GET").Key("k")
		require.NoError(t, s.Do(t.Context(), p), "mode %d", mode)
		last := p.Next()
		if mode&driver.ReadOnly == 0 {
			assert.NoError(t, last.OK(), "mode %d", mode)
			assert.Equal(t, strconv.Quote(strconv.Itoa(int(mode))), show(p.Next()), "mode %d", mode)
		}
		p.Free()
	}
}

func testAtomic(t *testing.T, s driver.Store) {
	p := driver.NewPipeline(driver.Atomic)
	defer p.Free()
	p.Cmd("SET").Key("a").String("x")
	p.Cmd("INCR").Key("a")
	p.Cmd("SADD").Key("b").String("m")
	p.Cmd("SMEMBERS").Key("b")
	p.Cmd("GET").Key("none")
	require.NoError(t, s.Do(t.Context(), p))
	require.Equal(t, 5, p.Replies().Len())
	for _, want := range []string{"OK", notInteger, "1", `["m"]`, "nil"} {
		assert.Equal(t, want, show(p.Next()), "an error does not undo the other commands")
	}

	p.Reset(driver.Atomic)
	p.Cmd("SET").Key("a").String("y")
	p.Cmd("GET").Key("a").String("one too many")
	p.Cmd("DEL").Key("b")
	require.NoError(t, s.Do(t.Context(), p))
	for _, want := range []string{aborted, "!ERR wrong number of arguments for 'get' command", aborted} {
		assert.Equal(t, want, show(p.Next()), "a command that cannot be stops all of them")
	}
	assert.Equal(t, `"x"`, do(t, s, "GET", "a"))
	assert.Equal(t, "1", do(t, s, "EXISTS", "b"))
}

// testAtomicAlone writes two keys together and reads them together: no reader
// may see one without the other.
func testAtomicAlone(t *testing.T, s driver.Store) {
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := driver.NewPipeline(driver.Atomic | driver.ReadOnly)
				p.Cmd("GET").Key("a")
				p.Cmd("GET").Key("b")
				if assert.NoError(t, s.Do(t.Context(), p)) {
					assert.Equal(t, show(p.Next()), show(p.Next()))
				}
				p.Free()
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			for i := range 100 {
				p := driver.NewPipeline(driver.Atomic)
				p.Cmd("SET").Key("a").Int(int64(1000*w + i))
				p.Cmd("SET").Key("b").Int(int64(1000*w + i))
				assert.NoError(t, s.Do(t.Context(), p))
				p.Free()
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// deleteIf deletes a key with the given value, or else returns the key's value.
var deleteIf = driver.NewScript(`
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return held`,
	func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
		held, ok, err := tx.Call("GET", keys[0]).Bytes()
		switch {
		case err != nil:
			reply.Error(err.Error())
		case !ok:
			reply.Nil()
		case string(held) == string(args[0]):
			tx.Call("DEL", keys[0])
			reply.Int(1)
		default:
			reply.Bytes(slices.Clone(held))
		}
	})

// echoArgs returns its keys and arguments unchanged.
var echoArgs = driver.NewScript(`return {KEYS[1], ARGV[1], ARGV[2]}`,
	func(_ driver.Tx, keys, args [][]byte, reply *driver.Replies) {
		reply.Array(3)
		reply.Bytes(keys[0])
		reply.Bytes(args[0])
		reply.Bytes(args[1])
	})

func testScript(t *testing.T, s driver.Store) {
	do(t, s, "SET", "k", "mine")
	for range 3 { // by its source first, later by its digest
		p := driver.NewPipeline(0)
		p.Cmd("GET").Key("k")
		p.Script(deleteIf, 1).Key("k").String("yours")
		p.Script(echoArgs, 1).Key("other").String("x").Bytes([]byte{0, '\r', '\n'})
		p.Cmd("EXISTS").Key("k")
		require.NoError(t, s.Do(t.Context(), p))
		for _, want := range []string{`"mine"`, `"mine"`, `["other" "x" "\x00\r\n"]`, "1"} {
			assert.Equal(t, want, show(p.Next()))
		}
		p.Free()
	}
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Script(deleteIf, 1).Key("k").String("mine")
	p.Script(deleteIf, 1).Key("k").String("mine")
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, "1", show(p.Next()))
	assert.Equal(t, "nil", show(p.Next()))
}

func testScriptAtomic(t *testing.T, s driver.Store) {
	for range 2 {
		p := driver.NewPipeline(driver.Atomic)
		p.Cmd("SET").Key("k").String("v")
		p.Script(deleteIf, 1).Key("k").String("v")
		p.Cmd("EXISTS").Key("k")
		require.NoError(t, s.Do(t.Context(), p))
		for _, want := range []string{"OK", "1", "0"} {
			assert.Equal(t, want, show(p.Next()))
		}
		p.Free()
	}
}

// testConcurrent counts: every call must run once and get its own reply.
func testConcurrent(t *testing.T, s driver.Store) {
	const workers, rounds = 16, 50
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range rounds {
				word := fmt.Sprintf("w%d-%d", w, i)
				p := driver.NewPipeline(0)
				p.Cmd("INCR").Key("n")
				p.Cmd("ECHO").String(word)
				if assert.NoError(t, s.Do(t.Context(), p)) {
					_, err := p.Next().Int()
					assert.NoError(t, err)
					assert.Equal(t, strconv.Quote(word), show(p.Next()))
				}
				p.Free()
			}
		})
	}
	all.Wait()
	assert.Equal(t, strconv.Quote(strconv.Itoa(workers*rounds)), do(t, s, "GET", "n"))
}

func testContext(t *testing.T, s driver.Store) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	for ctx, want := range map[context.Context]error{cancelled: context.Canceled, late: context.DeadlineExceeded} {
		p := driver.NewPipeline(0)
		p.Cmd("SET").Key("k").String("v")
		err := s.Do(ctx, p)
		assert.ErrorIs(t, err, driver.ErrUnavailable)
		assert.ErrorIs(t, err, want)
		p.Free()
	}
	assert.Equal(t, "0", do(t, s, "EXISTS", "k"), "nothing may have run")
}

func testClose(t *testing.T, s driver.Store) {
	assert.Equal(t, "PONG", do(t, s, "PING"))
	assert.NoError(t, s.Close())
	assert.NoError(t, s.Close(), "a second Close does nothing")
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.Cmd("PING")
	assert.ErrorIs(t, s.Do(context.WithoutCancel(t.Context()), p), driver.ErrUnavailable)
}
