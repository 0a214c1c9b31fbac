package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// lose closes the connection on commands called name, and answers others as
// echo does.
func lose(name string) reply {
	return func(n *fakeNode, conn int, cmd []string) string {
		if cmd[0] == name {
			return hangUp
		}
		return echo(n, conn, cmd)
	}
}

// Commands that may have run are sent again only if that is harmless.
func TestLostReplies(t *testing.T) {
	for name, c := range map[string]struct {
		mode driver.Mode
		once bool
	}{
		"write":               {0, true},
		"transaction":         {driver.Atomic, true},
		"own":                 {driver.Own, true},
		"read":                {driver.ReadOnly, false},
		"repeatable":          {driver.Repeatable, false},
		"repeatable together": {driver.Repeatable | driver.Atomic, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fakes(t, 2, lose("INCR"))
			s := f.open(cluster.Config{})
			a := on(s, 0, 2, 0)
			_, err := run(s, c.mode, "INCR", a)
			assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
			assert.NotErrorIs(t, err, driver.ErrUnavailable)
			if n := f.nodes[0].count("INCR " + a); c.once {
				assert.Equal(t, 1, n)
			} else {
				assert.Greater(t, n, 1)
			}
			assert.Zero(t, f.nodes[1].count("INCR "+a), "the slot has not moved")
		})
	}
}

// A read whose server is gone finds its replacement.
func TestReadFollowsItsSlot(t *testing.T) {
	f := fakes(t, 3, echo)
	s := f.open(cluster.Config{})
	a := on(s, 1, 3, 0)
	must(t, s, "GET", a)
	f.nodes[1].set(lose("GET"))
	f.give(2, s.Slot("", a))
	for _, mode := range []driver.Mode{driver.ReadOnly, driver.Repeatable, driver.ReadOnly | driver.Atomic} {
		cmd := []string{"GET", a}
		if mode&driver.Atomic != 0 {
			continue
		}
		raw, err := runAll(t.Context(), s, mode, cmd)
		require.NoError(t, err)
		assert.Equal(t, bulk(a), raw)
	}
}

// So does a write of which nothing was written.
func TestWriteFollowsItsSlotWhereNothingWasWritten(t *testing.T) {
	f := fakes(t, 3, echo)
	s := f.open(cluster.Config{})
	a := on(s, 1, 3, 0)
	must(t, s, "SET", a, "1")
	f.nodes[1].kill()
	time.Sleep(time.Millisecond) // the pooled connection is checked before use, as in TestPartOfPipelineFails
	f.give(2, s.Slot("", a))
	raw := must(t, s, "SET", a, "2")
	assert.Equal(t, bulk("2"), raw)
	assert.Equal(t, []string{"SET " + a + " 2"}, f.nodes[2].commands())
}

// A server that is gone and not replaced costs the first call one refresh, and
// later calls nothing.
func TestUnavailable(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	must(t, s, "GET", b)
	f.nodes[1].kill()
	time.Sleep(time.Millisecond) // the pooled connection is checked before use, as in TestPartOfPipelineFails
	for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Atomic, driver.Own} {
		_, err := run(s, mode, "GET", b)
		assert.ErrorIs(t, err, driver.ErrUnavailable)
	}
	assert.GreaterOrEqual(t, f.refreshes(), 2)
	assert.Equal(t, bulk(a), must(t, s, "GET", a), "the other slots are served")
}

// The longest possible timeout means no limit in practice.
func TestHugeTimeout(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{Node: redigo.Config{Timeout: math.MaxInt64}})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	must(t, s, "GET", a)
	f.give(0, s.Slot("", b))
	must(t, s, "GET", b)
}

// If some servers fail, the replies of the others are kept.
func TestPartOfPipelineFails(t *testing.T) {
	f := fakes(t, 2, func(n *fakeNode, conn int, cmd []string) string {
		switch cmd[0] {
		case "MGET":
			var all []string
			for _, key := range cmd[1:] {
				all = append(all, bulk(key))
			}
			return array(all...)
		case "UNLINK", "EXISTS":
			return fmt.Sprintf(":%d\r\n", len(cmd)-1)
		}
		return echo(n, conn, cmd)
	})
	s := f.open(cluster.Config{})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	must(t, s, "GET", b)
	f.nodes[1].kill()
	time.Sleep(time.Millisecond) // after this time a call checks its connection before using it
	for _, mode := range []driver.Mode{0, driver.ReadOnly} {
		p := driver.NewPipeline(mode)
		p.Cmd("GET").Key(a)
		p.Cmd("GET").Key(b)
		p.Cmd("MGET").Key(b).Key(a).Key(b)
		p.Cmd("UNLINK").Key(a).Key(b)
		p.Cmd("EXISTS").Key(b).Key(b)
		p.Cmd("SET").Key(a).String("last")
		require.NoError(t, s.Do(t.Context(), p))
		got, ok, err := p.Next().Bytes()
		assert.Equal(t, a, string(got))
		assert.True(t, ok)
		assert.NoError(t, err)
		_, _, err = p.Next().Bytes()
		assert.ErrorIs(t, err, driver.ErrUnavailable)
		assert.NotErrorIs(t, err, driver.ErrUnknownOutcome)
		elems, err := p.Next().Elems()
		require.NoError(t, err)
		require.Equal(t, 3, elems.Len())
		for _, want := range []string{"", a, ""} {
			got, _, err := elems.Next().Bytes()
			assert.Equal(t, want, string(got))
			assert.Equal(t, want == "", errors.Is(err, driver.ErrUnavailable), "%v", err)
		}
		_, err = p.Next().Int()
		if mode == 0 {
			assert.ErrorIs(t, err, driver.ErrUnknownOutcome, "one of the keys is gone")
		} else {
			assert.ErrorIs(t, err, driver.ErrUnavailable)
		}
		_, err = p.Next().Int()
		assert.ErrorIs(t, err, driver.ErrUnavailable)
		got, _, err = p.Next().Bytes()
		assert.Equal(t, "last", string(got))
		assert.NoError(t, err)
		p.Free()
	}
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	c := on(s, 1, 2, 1)
	p.Cmd("MGET").Key(b).Key(c)
	p.Cmd("GET").Key(b)
	assert.ErrorIs(t, s.Do(t.Context(), p), driver.ErrUnavailable, "there is no reply at all")
	assert.Zero(t, p.Replies().Len())
}

// If no part of a Pipeline has a reply and one part may have run, the outcome
// of the Pipeline is unknown.
func TestAllPartsFail(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	must(t, s, "GET", a)
	f.nodes[0].set(lose("INCR"))
	f.nodes[1].kill()
	_, err := runAll(t.Context(), s, 0, []string{"INCR", b}, []string{"INCR", a})
	assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
	assert.NotErrorIs(t, err, driver.ErrUnavailable)
}

// Keys of several slots that must share one are rejected before anything is
// sent.
func TestCrossSlot(t *testing.T) {
	f := fakes(t, 1, echo)
	s := f.open(cluster.Config{})
	for range 2 { // with and without a known table
		for name, write := range map[string]func(p *driver.Pipeline){
			"script":         func(p *driver.Pipeline) { p.Script(script, 2).Key("a").Key("b") },
			"among others":   func(p *driver.Pipeline) { p.Cmd("SET").Key("a").String("v"); p.Script(script, 2).Key("a").Key("b") },
			"atomic":         func(p *driver.Pipeline) { p.Reset(driver.Atomic); p.Cmd("GET").Key("a"); p.Cmd("GET").Key("b") },
			"atomic UNLINK":  func(p *driver.Pipeline) { p.Reset(driver.Atomic); p.Cmd("UNLINK").Bytes([]byte("a")).String("b") },
			"own connection": func(p *driver.Pipeline) { p.Reset(driver.Own); p.Cmd("WATCH").Key("a"); p.Cmd("GET").Key("b") },
		} {
			p := driver.NewPipeline(0)
			write(p)
			err := s.Do(t.Context(), p)
			assert.ErrorIs(t, err, driver.ErrCrossSlot, name)
			assert.ErrorContains(t, err, "caches.HashTag", name)
			assert.ErrorIs(t, s.Start(t.Context(), p).Finish(), driver.ErrCrossSlot, name)
			p.Free()
		}
		require.Empty(t, f.nodes[0].commands())
		_, err := run(s, 0, "PING")
		require.NoError(t, err)
	}
	raw, err := runAll(t.Context(), s, driver.Own, []string{"GET", "{x}a"}, []string{"TIME"}, []string{"GET", "{x}b"})
	require.NoError(t, err)
	assert.Equal(t, bulk("{x}a")+bulk("TIME")+bulk("{x}b"), raw)
}

// Slots without a server are unavailable. The other slots are served.
func TestUnassignedSlots(t *testing.T) {
	f := fakes(t, 2, echo)
	f.shards = func(f *fake, _ int) string {
		return array(shardReply([]string{":0\r\n", ":8191\r\n"}, f.nodes[0].addr, "master", "online"))
	}
	s := f.open(cluster.Config{})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	assert.Equal(t, bulk(a), must(t, s, "GET", a))
	_, err := run(s, 0, "GET", b)
	assert.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, fmt.Sprintf("no server of the cluster has slot %d", s.Slot("", b)))
	f.mu.Lock()
	f.shards = nil
	f.mu.Unlock()
	assert.Equal(t, bulk(b), must(t, s, "GET", b), "once a server has it")
}

// A seed that has left the cluster, or was never in it, does not hide the other
// servers.
func TestAnswerOfTheFewSlotsIsNotTaken(t *testing.T) {
	f := fakes(t, 2, echo)
	alone := fakes(t, 1, echo)
	alone.shards = func(f *fake, _ int) string { return array(shardReply(nil, f.nodes[0].addr, "master", "online")) }
	for range 8 { // the order of questions is random
		s := open(t, cluster.Config{Seeds: []string{alone.nodes[0].addr, f.nodes[0].addr, "127.0.0.1:1"}})
		a := on(s, 1, 2, 0)
		assert.Equal(t, bulk(a), must(t, s, "GET", a))
	}
	assert.Zero(t, len(alone.nodes[0].commands()))

	s := open(t, cluster.Config{Seeds: []string{alone.nodes[0].addr}, Node: shortly(200 * time.Millisecond)})
	_, err := run(s, 0, "GET", "a")
	assert.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "no server reported the slots of the cluster")
}

// A server that hangs does not delay the answers of the others.
func TestServerThatHangsDoesNotHoldUp(t *testing.T) {
	f := fakes(t, 2, echo)
	mute := fakes(t, 1, func(*fakeNode, int, []string) string { return silence })
	begun := time.Now()
	for range 4 {
		s := open(t, cluster.Config{Seeds: []string{mute.nodes[0].addr, f.nodes[0].addr}})
		assert.Equal(t, bulk("a"), must(t, s, "GET", "a"))
	}
	assert.Less(t, time.Since(begun), patience)
}

// If no server can be reached, the outcome is definite and comes by the
// deadline.
func TestNoServer(t *testing.T) {
	s := open(t, cluster.Config{Seeds: []string{"127.0.0.1:1", "127.0.0.1:2"}, Node: redigo.Config{Password: "hunter2"}})
	for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Atomic, driver.Own} {
		_, err := run(s, mode, "GET", "a")
		assert.ErrorIs(t, err, driver.ErrUnavailable)
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v %s", err, err, err, s), "hunter2")
	}
	_, err := s.Masters(t.Context())
	assert.ErrorIs(t, err, driver.ErrUnavailable)

	mute := fakes(t, 1, func(*fakeNode, int, []string) string { return silence })
	s = mute.open(cluster.Config{})
	for _, start := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		p := driver.NewPipeline(0)
		p.Cmd("GET").Key("a")
		if start {
			err = s.Start(ctx, p).Finish()
		} else {
			err = s.Do(ctx, p)
		}
		assert.ErrorIs(t, err, driver.ErrUnavailable)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		p.Free()
	}
}

// A call ends by its deadline, however often it was sent.
func TestDeadline(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	must(t, s, "GET", a)
	f.nodes[0].set(redirecting(fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", a), f.nodes[1].addr), a))
	f.nodes[1].set(func(_ *fakeNode, _ int, cmd []string) string {
		if cmd[0] == "GET" {
			return silence
		}
		return ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := runAll(ctx, s, driver.ReadOnly, []string{"GET", a})
	assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
	assert.ErrorIs(t, err, context.DeadlineExceeded)

	short := f.open(cluster.Config{Node: shortly(300 * time.Millisecond)})
	_, err = run(short, 0, "GET", a)
	assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	f.nodes[1].kill() // else Close would wait for the replies
}

// A silent server is given up for the server that now has its slots, even if
// every caller has little time.
func TestSilentServerIsReplaced(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	must(t, s, "GET", a)
	f.nodes[0].set(func(*fakeNode, int, []string) string { return silence })
	f.give(1, s.Slot("", a))
	begun := time.Now()
	eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := runAll(ctx, s, 0, []string{"SET", a, "v"})
		return err == nil
	}, "the other has it")
	t.Logf("after %v", time.Since(begun))
	assert.LessOrEqual(t, f.nodes[1].count("SET "+a+" v"), 1)
	f.nodes[0].kill()
}

// The caller does not see a redirect that arrives when no time is left.
func TestRedirectAtTheEnd(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	must(t, s, "GET", a)
	for _, mode := range []driver.Mode{0, driver.Own} {
		ctx, cancel := context.WithCancel(t.Context())
		moved := fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", a), f.nodes[1].addr)
		f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
			if cmd[0] == "INCR" {
				return moved
			}
			return echo(n, conn, cmd)
		})
		f.nodes[1].set(func(n *fakeNode, conn int, cmd []string) string {
			if cmd[0] == "INCR" {
				cancel()
				return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", a), f.nodes[0].addr)
			}
			return echo(n, conn, cmd)
		})
		_, err := runAll(ctx, s, mode, []string{"INCR", a})
		require.Error(t, err)
		assert.ErrorIs(t, err, context.Canceled)
		cancel()
	}
}

// Close ends the calls in progress and leaves no goroutine behind.
func TestClose(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	f.nodes[0].set(redirecting("-CLUSTERDOWN The cluster is down\r\n", "a", "b"))
	f.nodes[1].set(redirecting("-CLUSTERDOWN The cluster is down\r\n", "a", "b"))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			raw, err := runAll(context.Background(), s, 0, []string{"GET", "a"}, []string{"GET", "b"})
			if err != nil {
				assert.ErrorIs(t, err, driver.ErrUnavailable)
			} else {
				assert.Equal(t, 2, strings.Count(raw, "-CLUSTERDOWN"))
			}
		})
	}
	eventually(t, func() bool { return len(f.nodes[0].commands()) > 0 }, "the calls have begun")
	assert.NoError(t, s.Close())
	all.Wait()
	assert.NoError(t, s.Close())
	for _, do := range []func() error{
		func() error { _, err := run(s, 0, "GET", "a"); return err },
		func() error { _, err := run(s, driver.Atomic, "GET", "a"); return err },
		func() error { _, err := runAll(context.Background(), s, 0); return err },
		func() error { _, err := s.Masters(context.Background()); return err },
		func() error {
			p := driver.NewPipeline(0)
			p.Cmd("GET").Key("a")
			return s.Start(context.Background(), p).Finish()
		},
	} {
		assert.ErrorIs(t, do(), driver.ErrUnavailable)
	}
	s.Track([]string{""}, func(driver.Event) { t.Error("nothing tracks") })()
}
