package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// A name leads new connections to its present target. The ones that are open
// stay where they are.
type name struct {
	l net.Listener

	mu    sync.Mutex
	to    string
	conns []net.Conn
}

func newName(t testing.TB, to string) *name {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &name{l: l, to: to}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { n.join(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		n.cut()
		running.Wait()
	})
	return n
}

func (n *name) addr() string { return n.l.Addr().String() }

func (n *name) point(to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = to
}

// join copies between c and the target until one of them ends.
func (n *name) join(c net.Conn) {
	n.mu.Lock()
	to := n.to
	n.mu.Unlock()
	s, err := net.Dial("tcp", to)
	if err != nil {
		_ = c.Close()
		return
	}
	n.mu.Lock()
	n.conns = append(n.conns, c, s)
	n.mu.Unlock()
	end := func() { _, _ = c.Close(), s.Close() }
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, s); end() })
	_, _ = io.Copy(s, c)
	end()
	back.Wait()
}

// cut closes all connections.
func (n *name) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

// accepted returns the number of connections so far.
func (n *fakeNode) accepted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// A redirect to the server's own address means that the name leads elsewhere
// now. The name is dialed anew, and what did not run is sent there: no call
// fails, and none runs twice.
func TestRedirectToItself(t *testing.T) {
	for _, code := range []string{"MOVED", "ASK"} {
		for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Own} {
			t.Run(fmt.Sprintf("%s/%d", code, mode), func(t *testing.T) {
				t.Parallel()
				f := fakes(t, 2, echo)
				s := f.open(cluster.Config{})
				before := on(s, 0, 2, 0)
				_, err := run(s, mode, "GET", before)
				require.NoError(t, err)
				old := f.nodes[0].accepted()
				var ran atomic.Int64
				f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
					switch {
					case cmd[0] != "INCR":
						return echo(n, conn, cmd)
					case conn < old:
						return fmt.Sprintf("-%s %d %s\r\n", code, s.Slot("", cmd[1]), n.addr)
					}
					ran.Add(1)
					return ":1\r\n"
				})
				const callers = 32
				var all sync.WaitGroup
				for i := range callers {
					all.Go(func() {
						raw, err := run(s, mode, "INCR", on(s, 0, 2, i))
						assert.NoError(t, err)
						assert.Equal(t, ":1\r\n", raw)
					})
				}
				all.Wait()
				assert.Equal(t, int64(callers), ran.Load())
				assert.Greater(t, s.Stats().Calls, int64(callers), "the former connections count too")
			})
		}
	}
}

// A transaction is sent to the new server as a whole.
func TestTransactionRedirectedToItself(t *testing.T) {
	f := fakes(t, 1, transaction(func([]string) string { return ":1\r\n" }))
	s := f.open(cluster.Config{})
	must(t, s, "PING")
	former := transaction(func(cmd []string) string { return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", "a"), f.nodes[0].addr) })
	next := transaction(func([]string) string { return ":2\r\n" })
	f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
		if conn == 0 {
			return former(n, conn, cmd)
		}
		return next(n, conn, cmd)
	})
	raw, err := runAll(t.Context(), s, driver.Atomic, []string{"INCR", "a"}, []string{"INCR", "a"})
	require.NoError(t, err)
	assert.Equal(t, ":2\r\n:2\r\n", raw)
}

// If the name still leads to the former server, it is dialed again once in a
// while and not for each call. The calls wait, and get an error that says why.
func TestRedirectToItselfThatStays(t *testing.T) {
	f := fakes(t, 1, echo)
	s := f.open(cluster.Config{})
	must(t, s, "GET", "a")
	f.nodes[0].set(redirecting(fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", "a"), f.nodes[0].addr), "a"))
	begun, before := time.Now(), f.nodes[0].accepted()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			_, err := runAll(ctx, s, 0, []string{"GET", "a"})
			if errors.Is(err, context.DeadlineExceeded) {
				return // the machine was so slow that the deadline fell within an attempt
			}
			if assert.ErrorIs(t, err, driver.ErrUnavailable) {
				assert.ErrorContains(t, err, "redirects to that address itself")
			}
		})
	}
	all.Wait()
	dials := f.nodes[0].accepted() - before
	assert.LessOrEqual(t, dials, int(time.Since(begun)/(75*time.Millisecond))+1)
	assert.Positive(t, dials)
	f.nodes[0].set(echo) // the former server has become the right one
	assert.Equal(t, bulk("a"), must(t, s, "GET", "a"))
}

// A replica that redirects to itself leaves the read to the master, and is
// dialed anew.
func TestReplicaRedirectedToItself(t *testing.T) {
	f := replicated(t, "online")
	s := f.open(cluster.Config{ReadReplicas: true})
	for range 4 {
		_, err := run(s, driver.ReadOnly, "GET", "r")
		require.NoError(t, err)
	}
	old := f.nodes[1].accepted()
	f.nodes[1].set(func(n *fakeNode, conn int, cmd []string) string {
		switch {
		case cmd[0] == "READONLY":
			return "+OK\r\n"
		case cmd[0] == "GET" && conn < old:
			return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", cmd[1]), n.addr)
		}
		return echo(n, conn, cmd)
	})
	for range 10 {
		raw, err := run(s, driver.ReadOnly, "GET", "r")
		require.NoError(t, err)
		assert.Equal(t, bulk("r"), raw)
	}
	assert.Equal(t, 1, f.nodes[0].count("GET r"), "once")
}

// A tracker loses the former server with the name, and tracks the new one.
func TestTrackerOfRenewedServer(t *testing.T) {
	f := fakes(t, 1, tracked)
	s := f.open(cluster.Config{})
	o := track(t, s, "a.")
	old := f.nodes[0].accepted()
	f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
		if cmd[0] == "GET" && conn < old {
			return fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", cmd[1]), n.addr)
		}
		return tracked(n, conn, cmd)
	})
	assert.Equal(t, bulk("a.1"), must(t, s, "GET", "a.1"))
	assert.Equal(t, []string{"tracking", "lost"}, o.all()[:2], "before the call returns")
	eventually(t, o.up, "the new one is tracked")
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// The same with real servers: a master and its replica announce one address,
// which leads to the replica once it has taken over.
func TestMovedToSameNameReal(t *testing.T) {
	t.Parallel()
	endpoint := newName(t, "127.0.0.1:1")
	_, port, _ := net.SplitHostPort(endpoint.addr())
	node := func(bus string) *testutil.RedisServer {
		return testutil.Redis(t, &testutil.RedisOptions{Config: []string{
			"cluster-enabled yes", "cluster-node-timeout 5000", "cluster-port " + bus,
			"cluster-announce-ip 127.0.0.1", "cluster-announce-port " + port,
		}})
	}
	bus := freePort(t)
	a, b := node(bus), node(freePort(t))
	endpoint.point(a.Addr())
	do := func(r *testutil.RedisServer, args ...any) string {
		t.Helper()
		reply, err := r.Do(args[0].(string), args[1:]...)
		require.NoError(t, err)
		return fmt.Sprintf("%s", reply)
	}
	do(a, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	host, at, _ := net.SplitHostPort(a.Addr())
	do(b, "CLUSTER", "MEET", host, at, bus)
	id := do(a, "CLUSTER", "MYID")
	eventually(t, func() bool { _, err := b.Do("CLUSTER", "REPLICATE", id); return err == nil }, "b knows a")
	eventually(t, func() bool { return strings.Contains(do(b, "INFO", "replication"), "master_link_status:up") }, "b follows a")

	s := open(t, cluster.Config{Seeds: []string{endpoint.addr()}})
	eventually(t, func() bool { raw, err := run(s, 0, "SET", "k", "1"); return err == nil && raw == "+OK\r\n" }, "a serves")
	do(b, "CLUSTER", "FAILOVER", "TAKEOVER")
	eventually(t, func() bool { return strings.Contains(do(a, "INFO", "replication"), "role:slave") }, "a follows b")
	endpoint.point(b.Addr())
	begun := time.Now()
	for i := range 100 {
		require.Equal(t, "+OK\r\n", must(t, s, "SET", "k", strconv.Itoa(i)))
	}
	t.Logf("100 calls in %v", time.Since(begun))
	assert.Equal(t, "99", do(b, "GET", "k"))
}
