package memory_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/stretchr/testify/require"
)

var _ driver.Store = (*memory.Store)(nil)

func ping() *driver.Pipeline { return driver.NewPipeline(driver.ReadOnly).Cmd("PING") }

func TestOpenRefusesNegativeBound(t *testing.T) {
	_, err := memory.Open(memory.Options{MaxEntries: -1})
	require.ErrorContains(t, err, "MaxEntries is -1")
	_, err = memory.Shared("negative", memory.Options{MaxEntries: -1})
	require.ErrorContains(t, err, "MaxEntries is -1")
}

func TestDoAfterContextEnded(t *testing.T) {
	s := open(t, memory.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := driver.NewPipeline(0)
	defer p.Free()
	err := s.Do(ctx, p.Cmd("SET").Key("a").String("1"))
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, p.Replies().Len())
	require.Zero(t, s.Len(), "the command must not have run")
}

func TestDoAfterClose(t *testing.T) {
	s := open(t, memory.Options{})
	one(t, s, "SET a 1")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second Close does nothing")
	for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Atomic} {
		p := driver.NewPipeline(mode)
		require.ErrorIs(t, s.Do(context.Background(), p.Cmd("GET").Key("a")), driver.ErrUnavailable)
		p.Free()
	}
	require.Zero(t, s.Len())
}

func TestZeroStoreIsClosed(t *testing.T) {
	var s memory.Store
	require.ErrorIs(t, s.Do(context.Background(), ping()), driver.ErrUnavailable)
	require.Zero(t, s.Len())
	require.NoError(t, s.Close())
}

func TestEmptyPipeline(t *testing.T) {
	s := open(t, memory.Options{})
	require.Empty(t, run(t, s, 0))
	require.Empty(t, run(t, s, driver.Atomic))
}

func TestSharedByName(t *testing.T) {
	a, err := memory.Shared("shared", memory.Options{})
	require.NoError(t, err)
	b, err := memory.Shared("shared", memory.Options{MaxEntries: memory.DefaultMaxEntries})
	require.NoError(t, err, "the same bound, written out")
	other, err := memory.Shared("other", memory.Options{})
	require.NoError(t, err)
	defer other.Close()

	one(t, a, "SET k 1")
	require.Equal(t, `"1"`, one(t, b, "GET k"))
	require.Equal(t, "nil", one(t, other, "GET k"))

	require.NoError(t, a.Close())
	require.NoError(t, a.Close(), "closing twice gives back one place only")
	require.ErrorIs(t, a.Do(context.Background(), ping()), driver.ErrUnavailable)
	require.Equal(t, `"1"`, one(t, b, "GET k"), "b still holds it")
	require.NoError(t, b.Close())

	again, err := memory.Shared("shared", memory.Options{MaxEntries: 5})
	require.NoError(t, err, "freed by the last Close")
	defer again.Close()
	require.Zero(t, again.Len())
}

func TestSharedRefusesOtherOptions(t *testing.T) {
	s, err := memory.Shared("options", memory.Options{MaxEntries: 7})
	require.NoError(t, err)
	defer s.Close()
	_, err = memory.Shared("options", memory.Options{})
	require.EqualError(t, err, `memory: store "options" is already open with MaxEntries 7, not 100000`)
	_, err = memory.Shared("options", memory.Options{MaxEntries: 7, Forget: true})
	require.EqualError(t, err, `memory: store "options" is already open with Forget false, not true`)
	require.NoError(t, s.Close())
	s, err = memory.Shared("options", memory.Options{})
	require.NoError(t, err, "a refused open holds no place")
	require.NoError(t, s.Close())
}

func TestForget(t *testing.T) {
	s := open(t, memory.Options{Forget: true})
	require.Equal(t, []string{"+OK", `"1"`, ":1"},
		run(t, s, 0, words("SET a 1"), words("GET a"), words("DBSIZE")), "within a pipeline it remembers")
	require.Equal(t, "nil", one(t, s, "GET a"))
	require.Equal(t, ":1", one(t, s, "INCR n"))
	require.Equal(t, ":1", one(t, s, "INCR n"))
	require.Equal(t, []string{":3", ":3"}, run(t, s, driver.Atomic|driver.Keep, words("SADD s a b c"), words("SCARD s")))
	var many [][]string
	for i := range 500 {
		many = append(many, words(fmt.Sprint("SET k", i, " v PX 1000")))
	}
	run(t, s, 0, many...)
	require.Zero(t, s.Len())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Do(context.Background(), ping()), driver.ErrUnavailable)
}

func TestAtomicGoesOnAfterError(t *testing.T) {
	s := open(t, memory.Options{})
	require.Equal(t, []string{"+OK", wrongType, ":1"},
		run(t, s, driver.Atomic, words("SET a x"), words("SADD a m"), words("SADD s m")))
	require.Equal(t, `"x"`, one(t, s, "GET a"), "an error of one command undoes nothing")
}

func TestAtomicAbortsOnRefusedCommand(t *testing.T) {
	s := open(t, memory.Options{})
	const abort = "-EXECABORT Transaction discarded because of previous errors."
	require.Equal(t, []string{abort, "-ERR wrong number of arguments for 'get' command", abort},
		run(t, s, driver.Atomic, words("SET a x"), words("GET"), words("SET b x")))
	require.Equal(t, []string{abort, "-ERR unknown command 'FROB', with args beginning with: 'x' "},
		run(t, s, driver.Atomic, words("SET a x"), words("FROB x")))
	require.Zero(t, s.Len())
}

func TestErrorRepeatsArgumentsSafely(t *testing.T) {
	s := open(t, memory.Options{})
	long := strings.Repeat("x", 200)
	got := run(t, s, 0, []string{"FROB\r\n+OK", "a\nb", "c\x00d", long, "never"})[0]
	require.Equal(t, "-ERR unknown command 'FROB  +OK', with args beginning with: 'a b' 'c' '"+
		long[:118]+"' ", got)
}

func TestStoresCopies(t *testing.T) {
	s := open(t, memory.Options{})
	p := driver.NewPipeline(0)
	defer p.Free()
	value := []byte("one")
	p.Cmd("SET").Key("s").Bytes(value).Cmd("HSET").Key("h").String("f").Bytes(value).Cmd("SADD").Key("m").Bytes(value).Cmd("LPUSH").Key("l").Bytes(value)
	require.NoError(t, s.Do(context.Background(), p))
	for i, b := range p.Frames() { // the caller may reuse the buffer
		if b == 'o' {
			p.Frames()[i] = 'X'
		}
	}
	require.Equal(t, []string{`"one"`, `"one"`, `["one"]`, `"one"`},
		run(t, s, 0, words("GET s"), words("HGET h f"), words("SMEMBERS m"), words("LINDEX l 0")))
}

// bump adds argv[0] to the string at keys[0] unless it is more than 10.
var bump = driver.NewScript("return 0", func(tx driver.Tx, keys, argv [][]byte, reply *driver.Replies) {
	r := tx.Call("INCRBY", keys[0], argv[0])
	if err := r.Err(); err != nil {
		reply.Error("BUMP no number")
		return
	}
	n, _ := r.Int()
	if n > 10 {
		tx.Call("DEL", keys[0])
	}
	v, ok, _ := tx.Call("GET", keys[0]).Bytes()
	reply.Array(2)
	reply.Int(n)
	if ok {
		reply.Bytes(v)
	} else {
		reply.Nil()
	}
})

func script(t *testing.T, s *memory.Store, sc *driver.Script, key string, argv ...string) string {
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Script(sc, 1).Key(key)
	for _, arg := range argv {
		p.String(arg)
	}
	require.NoError(t, s.Do(context.Background(), p))
	return render(t, p.Next())
}

func TestScript(t *testing.T) {
	s := open(t, memory.Options{})
	require.Equal(t, `[:4 "4"]`, script(t, s, bump, "n", "4"))
	require.Equal(t, `[:9 "9"]`, script(t, s, bump, "n", "5"))
	require.Equal(t, "[:12 nil]", script(t, s, bump, "n", "3"))
	require.Equal(t, "-BUMP no number", script(t, s, bump, "n", "x"))
}

func TestScriptAmongCommands(t *testing.T) {
	s := open(t, memory.Options{})
	for _, mode := range []driver.Mode{0, driver.Atomic} {
		p := driver.NewPipeline(mode)
		p.Cmd("SET").Key("n").String("1").Script(bump, 1).Key("n").String("2").Cmd("GET").Key("n")
		require.NoError(t, s.Do(context.Background(), p))
		for _, want := range []string{"+OK", `[:3 "3"]`, `"3"`} {
			require.Equal(t, want, render(t, p.Next()))
		}
		p.Free()
	}
}

func TestScriptErrors(t *testing.T) {
	s := open(t, memory.Options{})
	require.Equal(t, "-ERR this script has no Go form", script(t, s, driver.NewScript("return 1", nil), "k"))
	silent := driver.NewScript("return 2", func(driver.Tx, [][]byte, [][]byte, *driver.Replies) {})
	require.Equal(t, "-ERR this script returned no reply", script(t, s, silent, "k"))
	bad := driver.NewScript("return 3", func(tx driver.Tx, keys, _ [][]byte, reply *driver.Replies) {
		first := tx.Call("FROB", keys[0]).Err().(*driver.ServerError).Message()
		second := tx.Call("GET").Err().(*driver.ServerError).Message()
		reply.String(first + "; " + second)
	})
	require.Equal(t, `"unknown command 'FROB', with args beginning with: 'k' ; wrong number of arguments for 'get' command"`,
		script(t, s, bad, "k"))
}

func TestScriptPanicFreesTheLock(t *testing.T) {
	s := open(t, memory.Options{})
	sc := driver.NewScript("return 4", func(tx driver.Tx, keys, _ [][]byte, _ *driver.Replies) {
		tx.Call("SET", keys[0], []byte("1"))
		panic("script")
	})
	require.PanicsWithValue(t, "script", func() { script(t, s, sc, "k") })
	require.Equal(t, `"1"`, one(t, s, "GET k"))
}

func TestScriptIsAlone(t *testing.T) {
	s := open(t, memory.Options{})
	sc := driver.NewScript("return 5", func(tx driver.Tx, keys, _ [][]byte, reply *driver.Replies) {
		n, _, _ := tx.Call("GET", keys[0]).Float()
		tx.Call("SET", keys[0], fmt.Append(nil, n+1))
		reply.Status("OK")
	})
	done := make(chan string)
	for range 4 {
		go func() {
			for range 100 {
				script(t, s, sc, "n")
			}
			done <- ""
		}()
	}
	for range 4 {
		<-done
	}
	require.Equal(t, `"400"`, one(t, s, "GET n"))
}

func TestTimeIsThatOfThePipeline(t *testing.T) {
	s := open(t, memory.Options{})
	got := run(t, s, 0, words("TIME"), words("PING"), words("TIME"))
	require.Equal(t, got[0], got[2])
	require.Regexp(t, `^\["\d{10,}" "\d{1,6}"\]$`, got[0])
}

func TestAppendIsBounded(t *testing.T) {
	s := open(t, memory.Options{})
	memory.SetMaxString(s, 10)
	require.Equal(t, ":9", one(t, s, "APPEND a 123456789"))
	require.Equal(t, "-ERR string exceeds maximum allowed size (proto-max-bulk-len)", one(t, s, "APPEND a xy"))
	require.Equal(t, ":10", one(t, s, "APPEND a x"))
}

// TestGetAlone checks that a pipeline of one GET, which has its own code path, has the
// same reply as a longer one.
func TestGetAlone(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{Clock: c.Now})
	run(t, s, 0, words("SET a 1"), words("SADD b m"), words("SET c 1 PX 5"), words("SET d 1 PX 6"))
	c.advance(6 * time.Millisecond)
	for _, get := range []string{"GET a", "GET b", "GET c", "GET d", "GET e", "GET", "GET a b", "get a"} {
		require.Equal(t, run(t, s, 0, words("PING"), words(get))[1], one(t, s, get), get)
	}
}

func TestReadsDoNotAllocate(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 4})
	run(t, s, 0, words("SET a 1 PX 100000"), words("HSET h f v"), words("ZADD z 0.5 m"), words("SADD s m"), words("RPUSH l m"))
	for _, read := range []string{"GET a", "MGET a h none", "HGET h f", "HMGET h f g", "SISMEMBER s m", "ZSCORE z m", "LINDEX l 0", "LRANGE l 0 -1", "LPOS l m", "PTTL a", "EXISTS a h"} {
		p := driver.NewPipeline(driver.ReadOnly)
		appendCommand(p, words(read))
		allocs := testing.AllocsPerRun(200, func() {
			p.ResetReplies()
			if err := s.Do(t.Context(), p); err != nil || p.Replies().Len() != 1 {
				t.Error(err)
			}
		})
		p.Free()
		require.Less(t, allocs, 1.0, read) // not 0, as the race detector empties pools at times
	}
}
