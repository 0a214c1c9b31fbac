package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// on returns the nth key that lives on node i of a fake of n nodes.
func on(s *cluster.Store, i, n, nth int) string {
	for at := 0; ; at++ {
		key := fmt.Sprintf("k%d", at)
		if s.Slot("", key)*n/16384 == i {
			if nth == 0 {
				return key
			}
			nth--
		}
	}
}

// echo answers every command with the command's last word.
func echo(_ *fakeNode, _ int, cmd []string) string {
	switch cmd[0] {
	case "PING", "CLUSTER", "ASKING":
		return ""
	}
	return bulk(cmd[len(cmd)-1])
}

// redirecting answers commands on the given keys with text, and others as echo
// does.
func redirecting(text string, keys ...string) reply {
	return func(n *fakeNode, conn int, cmd []string) string {
		if len(cmd) > 1 && slices.Contains(keys, cmd[1]) && cmd[0] != "CLUSTER" {
			return text
		}
		return echo(n, conn, cmd)
	}
}

// A redirected command is sent on, and later commands go to the new server at
// once.
func TestMoved(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	key := on(s, 0, 2, 0)
	must(t, s, "GET", key)
	f.give(1, s.Slot("", key))
	f.nodes[0].set(redirecting(f.moved(s.Slot("", key)), key))
	for range 10 {
		assert.Equal(t, bulk(key), must(t, s, "GET", key))
	}
	assert.Equal(t, 2, f.nodes[0].count("GET "+key), "once answered, once redirected")
	assert.Equal(t, 10, f.nodes[1].count("GET "+key))
	eventually(t, func() bool { return f.refreshes() == 2 }, "the first redirect starts a refresh for the rest")
}

// Only the commands of a Pipeline that did not run are sent on. The replies
// stay in order.
func TestMovedInPipeline(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a, b, c := on(s, 0, 2, 0), on(s, 0, 2, 1), on(s, 0, 2, 2)
	must(t, s, "GET", a)
	f.give(1, s.Slot("", b))
	f.nodes[0].set(redirecting(f.moved(s.Slot("", b)), b))
	raw, err := runAll(t.Context(), s, 0, []string{"SET", a, "1"}, []string{"INCR", b}, []string{"TIME"}, []string{"SET", b, "2"}, []string{"SET", c, "3"})
	require.NoError(t, err)
	assert.Equal(t, bulk("1")+bulk(b)+bulk("TIME")+bulk("2")+bulk("3"), raw)
	assert.Equal(t, []string{"INCR " + b, "SET " + b + " 2"}, f.nodes[1].commands())
	assert.Equal(t, 1, f.nodes[0].count("SET "+a+" 1"))
	assert.Equal(t, 1, f.nodes[0].count("SET "+c+" 3"))
}

// ASK redirects one command only, which is sent right behind ASKING.
func TestAsk(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a, b, c := on(s, 0, 2, 0), on(s, 0, 2, 1), on(s, 0, 2, 2)
	must(t, s, "GET", a)
	ask := fmt.Sprintf("-ASK %d %s\r\n", s.Slot("", b), f.nodes[1].addr)
	f.nodes[0].set(redirecting(ask, b, c))
	raw, err := runAll(t.Context(), s, 0, []string{"GET", b}, []string{"GET", a}, []string{"GET", c})
	require.NoError(t, err)
	assert.Equal(t, bulk(b)+bulk(a)+bulk(c), raw)
	assert.Equal(t, []string{"ASKING", "GET " + b, "ASKING", "GET " + c}, f.nodes[1].commands())
	assert.Equal(t, bulk(b), must(t, s, "GET", b))
	assert.Equal(t, 2, f.nodes[0].count("GET "+b), "the other server still has the slot")
	assert.Equal(t, 1, f.refreshes())
}

// With many calls at once on one connection, no other command comes between
// ASKING and the command it is meant for.
func TestAskTogether(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	f.nodes[0].set(redirecting(fmt.Sprintf("-ASK %d %s\r\n", s.Slot("", a), f.nodes[1].addr), a))
	var mu sync.Mutex
	asked := map[int]bool{} // by connection: a slow machine opens more of them
	f.nodes[1].set(func(n *fakeNode, conn int, cmd []string) string {
		mu.Lock()
		was := asked[conn]
		asked[conn] = cmd[0] == "ASKING"
		mu.Unlock()
		switch {
		case cmd[0] == "GET" && cmd[1] == a && !was:
			return f.moved(s.Slot("", a))
		case cmd[0] == "GET" && cmd[1] != a && was:
			return "-ERR not what was to be asked for\r\n"
		}
		return echo(n, conn, cmd)
	})
	b := on(s, 1, 2, 0)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for range 50 {
				key := []string{a, b}[i%2]
				raw, err := run(s, 0, "GET", key)
				assert.NoError(t, err)
				assert.Equal(t, bulk(key), raw)
			}
		})
	}
	all.Wait()
	assert.Zero(t, f.nodes[0].count("GET "+b))
}

var script = driver.NewScript(`return redis.call('GET', KEYS[1])`, nil)

// A script behind ASKING is sent as source: after NOSCRIPT it would need a
// second ASKING.
func TestAskScript(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	ask := fmt.Sprintf("-ASK %d %s\r\n", s.Slot("", a), f.nodes[1].addr)
	f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
		if strings.HasPrefix(cmd[0], "EVAL") {
			return ask
		}
		return echo(n, conn, cmd)
	})
	for range 3 {
		p := driver.NewPipeline(0)
		p.Script(script, 1).Key(a)
		require.NoError(t, s.Do(t.Context(), p))
		got, _, err := p.Next().Bytes()
		require.NoError(t, err)
		assert.Equal(t, a, string(got))
		p.Free()
	}
	assert.Equal(t, slices.Repeat([]string{"ASKING", "EVAL " + script.Lua() + " 1 " + a}, 3), f.nodes[1].commands())
}

// transaction answers MULTI and EXEC as Redis does, and each command with text.
func transaction(text func(cmd []string) string) reply {
	var queued []string
	failed := false
	return func(n *fakeNode, conn int, cmd []string) string {
		switch cmd[0] {
		case "PING", "CLUSTER", "ASKING":
			return ""
		case "MULTI":
			queued, failed = nil, false
			return "+OK\r\n"
		case "EXEC":
			if failed {
				return "-EXECABORT Transaction discarded because of previous errors.\r\n"
			}
			return array(queued...)
		}
		reply := text(cmd)
		if reply[0] == '-' {
			failed = true
			return reply
		}
		queued = append(queued, reply)
		return "+QUEUED\r\n"
	}
}

// A transaction refused as a whole is sent elsewhere as a whole.
func TestRedirectedTransaction(t *testing.T) {
	for name, code := range map[string]string{"moved": "MOVED", "ask": "ASK"} {
		t.Run(name, func(t *testing.T) {
			f := fakes(t, 2, transaction(func([]string) string { return ":1\r\n" }))
			s := f.open(cluster.Config{})
			key := on(s, 0, 2, 0)
			text := fmt.Sprintf("-%s %d %s\r\n", code, s.Slot("", key), f.nodes[1].addr)
			f.nodes[0].set(transaction(func(cmd []string) string {
				if cmd[0] == "TIME" {
					return "+OK\r\n"
				}
				return text
			}))
			p := driver.NewPipeline(driver.Atomic)
			defer p.Free()
			p.Cmd("SET").Key(key).String("v")
			p.Cmd("TIME")
			p.Cmd("INCR").Key(key)
			require.NoError(t, s.Do(t.Context(), p))
			assert.Equal(t, ":1\r\n:1\r\n:1\r\n", string(p.Replies().Raw()))
			want := []string{"MULTI", "SET " + key + " v", "TIME", "INCR " + key, "EXEC"}
			if code == "ASK" {
				want = append([]string{"ASKING"}, want...)
			}
			assert.Equal(t, want, f.nodes[1].commands())
		})
	}
}

// A transaction that has run is final, whatever its replies look like.
func TestTransactionThatRanStands(t *testing.T) {
	text := ":1\r\n"
	f := fakes(t, 1, nil)
	f.nodes[0].set(transaction(func(cmd []string) string {
		if cmd[0] == "EVAL" {
			return "$-1\r\n"
		}
		return text
	}))
	s := f.open(cluster.Config{})
	raw, err := runAll(t.Context(), s, driver.Atomic, []string{"INCR", "a"}, []string{"INCR", "a"})
	require.NoError(t, err)
	assert.Equal(t, ":1\r\n:1\r\n", raw)
	assert.Equal(t, 2, f.nodes[0].count("INCR a"))
	f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
		switch cmd[0] {
		case "MULTI":
			return "+OK\r\n"
		case "EXEC":
			return array(":1\r\n", "-TRYAGAIN as a script has it\r\n")
		case "INCR":
			return "+QUEUED\r\n"
		}
		return ""
	})
	raw, err = runAll(t.Context(), s, driver.Atomic, []string{"INCR", "a"}, []string{"INCR", "a"})
	require.NoError(t, err)
	assert.Equal(t, ":1\r\n-TRYAGAIN as a script has it\r\n", raw)
	assert.Equal(t, 4, f.nodes[0].count("INCR a"), "part of it has run: nothing may be sent again")
}

// Commands refused temporarily are sent again until they are accepted.
func TestRefusals(t *testing.T) {
	for _, text := range []string{
		"TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN The cluster is down",
		"LOADING Redis is loading the dataset in memory", "MASTERDOWN Link with MASTER is down",
		"READONLY You can't write against a read only replica.", "ERR max number of clients reached",
	} {
		for _, mode := range []driver.Mode{0, driver.Own} {
			t.Run(fmt.Sprintf("%s/%d", strings.Fields(text)[0], mode), func(t *testing.T) {
				t.Parallel()
				f := fakes(t, 2, nil)
				s := f.open(cluster.Config{})
				left := 4
				f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
					if cmd[0] == "INCR" {
						if left--; left >= 0 {
							return "-" + text + "\r\n"
						}
						return ":1\r\n"
					}
					return ""
				})
				key := on(s, 0, 2, 0)
				raw, err := run(s, mode, "INCR", key)
				require.NoError(t, err)
				assert.Equal(t, ":1\r\n", raw)
				assert.Equal(t, 5, f.nodes[0].count("INCR "+key))
			})
		}
	}
}

// inTime repeats a call until its deadline does not fall within an attempt,
// which happens if the machine stalls and makes the outcome unknown.
func inTime(t *testing.T, call func() (string, error)) (raw string, calls int) {
	t.Helper()
	for calls < 20 {
		raw, err := call()
		calls++
		if late := context.DeadlineExceeded; errors.Is(err, late) || strings.Contains(raw, late.Error()) {
			continue
		}
		require.NoError(t, err)
		return raw, calls
	}
	require.Fail(t, "always late")
	return "", calls
}

// A refusal that lasts until the deadline is the reply.
func TestRefusalStands(t *testing.T) {
	const text = "-CLUSTERDOWN Hash slot not served\r\n"
	f := fakes(t, 2, nil)
	s := f.open(cluster.Config{Node: shortly(150 * time.Millisecond)})
	f.nodes[0].set(func(_ *fakeNode, _ int, cmd []string) string {
		if cmd[0] != "PING" && cmd[0] != "CLUSTER" {
			return text
		}
		return ""
	})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	raw, calls := inTime(t, func() (string, error) {
		return runAll(t.Context(), s, 0, []string{"INCR", a}, []string{"SET", b, "1"}, []string{"GET", a})
	})
	assert.Equal(t, text+"+OK\r\n"+text, raw)
	assert.LessOrEqual(t, f.nodes[1].count("SET "+b+" 1"), calls, "the other commands are not sent again")
	assert.Greater(t, f.nodes[0].count("INCR "+a), calls)

	begun := time.Now()
	raw, _ = inTime(t, func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return runAll(ctx, s, driver.Atomic, []string{"INCR", a})
	})
	assert.Equal(t, text, raw)
	assert.Less(t, time.Since(begun), patience)
}

// Other errors of a server are replies.
func TestErrorsAreReplies(t *testing.T) {
	for _, text := range []string{
		"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", "-ERR no such thing\r\n",
		"-NOPERM no\r\n", "-CROSSSLOT Keys in request don't hash to the same slot\r\n", "-EXECABORT no\r\n",
		"-MOVED\r\n", "-MOVED x y\r\n", "-MOVED 99999 127.0.0.1:1\r\n", "-ASK 1 nowhere\r\n", "-MOVED 1 a@b:1\r\n",
	} {
		f := fakes(t, 1, redirecting(text, "a"))
		s := f.open(cluster.Config{})
		raw, err := run(s, 0, "INCR", "a")
		require.NoError(t, err)
		assert.Equal(t, text, raw)
		assert.Equal(t, 1, f.nodes[0].count("INCR a"), text)
		raw, err = runAll(t.Context(), s, 0, []string{"GET", "b"}, []string{"INCR", "a"}, []string{"GET", "b"})
		require.NoError(t, err)
		assert.Equal(t, bulk("b")+text+bulk("b"), raw)
	}
}

// A call redirected in circles gives up in the end.
func TestRedirectsEnd(t *testing.T) {
	f := fakes(t, 2, nil)
	s := f.open(cluster.Config{})
	key := on(s, 0, 2, 0)
	slot := s.Slot("", key)
	must(t, s, "PING")
	for i, n := range f.nodes {
		n.set(redirecting(fmt.Sprintf("-MOVED %d %s\r\n", slot, f.nodes[1-i].addr), key))
	}
	raw, err := run(s, 0, "INCR", key)
	require.NoError(t, err)
	assert.Contains(t, raw, "-MOVED")
	sent := f.nodes[0].count("INCR "+key) + f.nodes[1].count("INCR "+key)
	assert.Equal(t, 17, sent)
}

// However many calls are redirected, the servers are asked for the slots at
// most once per 100 ms, and no call waits for it.
func TestRefreshIsBounded(t *testing.T) {
	f := fakes(t, 2, nil)
	s := f.open(cluster.Config{})
	// The first node says that the others have all slots. They run everything.
	f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
		if cmd[0] == "GET" {
			return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", cmd[1]), f.nodes[1].addr)
		}
		return ""
	})
	begun, until := time.Now(), make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() { close(until) })
	var all sync.WaitGroup
	var calls atomic.Int64
	for i := range 64 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-until:
					return
				default:
				}
				_, err := run(s, 0, "GET", fmt.Sprintf("%d.%d", i, n))
				assert.NoError(t, err)
				calls.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	assert.LessOrEqual(t, f.refreshes(), int(took/(100*time.Millisecond))+1)
	t.Logf("%d calls, %d refreshes in %v", calls.Load(), f.refreshes(), took)
	assert.Greater(t, calls.Load(), int64(64))
}

// An outdated answer does not undo a move.
func TestOlderAnswerDoesNotUndoMoved(t *testing.T) {
	f := fakes(t, 3, echo)
	s := f.open(cluster.Config{})
	first, key := on(s, 0, 3, 0), on(s, 0, 3, 1)
	must(t, s, "GET", key)

	// From now on only the last node answers questions for the slots, when told
	// to, and with an outdated answer.
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	t.Cleanup(func() { close(answer) })
	old := f.describe()
	for _, n := range f.nodes {
		n.set(func(n *fakeNode, conn int, cmd []string) string {
			switch {
			case cmd[0] == "CLUSTER" && n.at < 2:
				return "-ERR no\r\n"
			case cmd[0] == "CLUSTER":
				asked <- struct{}{}
				<-answer
				return old
			case n.at == 0 && len(cmd) > 1:
				return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", cmd[1]), f.nodes[1].addr)
			}
			return echo(n, conn, cmd)
		})
	}
	must(t, s, "GET", first) // starts a refresh
	<-asked
	must(t, s, "GET", key) // learns of a move that the answer lacks
	answer <- struct{}{}
	for nth := 2; len(asked) == 0; nth++ {
		must(t, s, "GET", on(s, 0, 3, nth)) // starts another refresh, after the outdated answer was used
	}
	before := f.nodes[0].count("GET " + key)
	must(t, s, "GET", key)
	assert.Equal(t, before, f.nodes[0].count("GET "+key))
}

// A user without the right to ASKING sees that refusal, and not redirects in
// circles.
func TestAskRefused(t *testing.T) {
	const refusal = "-NOPERM User app has no permissions to run the 'asking' command\r\n"
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a, b := on(s, 0, 2, 0), on(s, 0, 2, 1)
	must(t, s, "GET", a)
	f.nodes[0].set(redirecting(fmt.Sprintf("-ASK %d %s\r\n", s.Slot("", b), f.nodes[1].addr), b))
	f.nodes[1].set(func(n *fakeNode, conn int, cmd []string) string {
		switch cmd[0] {
		case "ASKING":
			return refusal
		case "GET":
			return f.moved(s.Slot("", cmd[1]))
		}
		return echo(n, conn, cmd)
	})
	raw, err := runAll(t.Context(), s, 0, []string{"GET", b}, []string{"GET", a})
	require.NoError(t, err)
	assert.Equal(t, refusal+bulk(a), raw)
	assert.Equal(t, 1, f.nodes[1].count("GET "+b))
}
