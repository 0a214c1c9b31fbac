package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

const allSlots = ":0\r\n:16383\r\n"

// peerReply is one server of CLUSTER SHARDS. fields alternates names and
// encoded values.
func peerReply(fields ...string) string {
	for i := 0; i < len(fields); i += 2 {
		fields[i] = bulk(fields[i])
	}
	return array(fields...)
}

// oneShard is a reply to CLUSTER SHARDS in which one shard has all slots.
func oneShard(peers ...string) string {
	return array(array(bulk("slots"), "*2\r\n"+allSlots, bulk("nodes"), array(peers...), bulk("new"), ":1\r\n"))
}

// Servers are found by every form in which they name themselves and others.
func TestNamesOfServers(t *testing.T) {
	f := fakes(t, 2, echo)
	host, port, err := net.SplitHostPort(f.nodes[1].addr)
	require.NoError(t, err)
	port = ":" + port + "\r\n"
	master, online := bulk("master"), bulk("online")
	for name, shards := range map[string]string{
		"by address":        peerReply("port", port, "ip", bulk(host), "endpoint", bulk(host), "role", master, "health", online),
		"not by itself":     peerReply("port", port, "ip", bulk(""), "endpoint", bulk(""), "role", master, "health", online),
		"as it was dialled": peerReply("port", port, "ip", bulk("10.0.0.1"), "endpoint", "$-1\r\n", "role", master, "health", online),
		"by a missing host": peerReply("port", port, "ip", bulk(host), "endpoint", bulk("?"), "hostname", bulk(""), "role", master, "health", online),
		"by a name":         peerReply("port", port, "ip", bulk("10.0.0.1"), "endpoint", bulk("localhost"), "hostname", bulk("localhost"), "role", master, "health", online),
		"without TLS":       peerReply("port", port, "tls-port", ":1\r\n", "ip", bulk(host), "endpoint", bulk(host), "role", master, "health", online),
		"failed":            peerReply("port", port, "ip", bulk(host), "endpoint", bulk(host), "role", master, "health", bulk("fail")),
	} {
		t.Run(name, func(t *testing.T) {
			f.mu.Lock()
			f.shards = func(*fake, int) string { return oneShard(shards) }
			f.mu.Unlock()
			before := f.nodes[1].count("GET a")
			assert.Equal(t, bulk("a"), must(t, f.open(cluster.Config{}), "GET", "a"))
			assert.Equal(t, before+1, f.nodes[1].count("GET a"))
		})
	}
}

// A failed master that has lost its slots is ignored, and its replacement is
// listed once.
func TestMastersAreThoseThatServe(t *testing.T) {
	f := fakes(t, 3, echo)
	f.shards = func(f *fake, _ int) string {
		return array(
			shardReply([]string{":0\r\n", ":16383\r\n"}, f.nodes[0].addr, "master", "online", f.nodes[2].addr, "replica", "online"),
			shardReply(nil, "127.0.0.1:1", "master", "fail"),
			shardReply(nil, f.nodes[1].addr, "master", "online"),
		)
	}
	s := f.open(cluster.Config{})
	masters, err := s.Masters(t.Context())
	require.NoError(t, err)
	var names []string
	for _, m := range masters {
		names = append(names, fmt.Sprint(m))
	}
	assert.Equal(t, []string{"redis " + f.nodes[0].addr, "redis " + f.nodes[1].addr}, names)
}

// Through the Store of one master, commands without a key run on that master.
// Others run on the server of their keys.
func TestMasters(t *testing.T) {
	f := fakes(t, 3, func(n *fakeNode, conn int, cmd []string) string {
		switch cmd[0] {
		case "DBSIZE":
			return fmt.Sprintf(":%d\r\n", n.at)
		case "UNLINK":
			return fmt.Sprintf(":%d\r\n", len(cmd)-1)
		}
		return echo(n, conn, cmd)
	})
	s := f.open(cluster.Config{})
	masters, err := s.Masters(t.Context())
	require.NoError(t, err)
	require.Len(t, masters, 3)
	for i, m := range masters {
		p := driver.NewPipeline(0)
		p.Cmd("UNLINK").Bytes([]byte(on(s, 0, 3, 0))).Bytes([]byte(on(s, 1, 3, 0))).Bytes([]byte(on(s, 0, 3, 1)))
		p.Cmd("DBSIZE")
		p.Cmd("GET").Key(on(s, 2, 3, 0))
		require.NoError(t, m.Do(t.Context(), p))
		want := fmt.Sprintf(":3\r\n:%d\r\n%s", i, bulk(on(s, 2, 3, 0)))
		assert.Equal(t, want, string(p.Replies().Raw()))
		p.ResetReplies()
		require.NoError(t, m.(driver.Starter).Start(t.Context(), p).Finish())
		assert.Equal(t, want, string(p.Replies().Raw()))
		assert.NoError(t, m.Close())
		p.Free()
	}
	assert.Equal(t, "PONG", string(must(t, masters[0], "PING")[1:5]), "Close does nothing")
	f.nodes[1].kill()
	_, err = run(masters[1], driver.ReadOnly, "DBSIZE")
	assert.True(t, errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrUnknownOutcome), "no other server has the keys: %v", err)
	for range 6 {
		_, err = run(s, driver.ReadOnly, "TIME")
		assert.NoError(t, err, "another server runs it")
	}
}

// A server whose answer to CLUSTER SHARDS is a refusal, or is not understood, is
// asked with CLUSTER SLOTS.
func TestSlotsInPlaceOfShards(t *testing.T) {
	f := fakes(t, 2, nil)
	entry := func(n *fakeNode, host string) string {
		_, port, _ := net.SplitHostPort(n.addr)
		return array(host, ":"+port+"\r\n", bulk("id"), array())
	}
	for _, refusal := range []string{
		"-ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.\r\n", "-NOPERM no\r\n",
		"+OK\r\n", "*-1\r\n", "*1\r\n:1\r\n", array(array(bulk("slots"), array(":0\r\n", ":16384\r\n"))), oneShard(peerReply("port", bulk("x"))),
		"*0\r\n", array(array(bulk("ranges"), array(":0\r\n", ":16383\r\n"))),
		"?\r\n", // not even a reply: the connection is closed
	} {
		f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
			switch strings.Join(cmd, " ") {
			case "CLUSTER SHARDS":
				return refusal
			case "CLUSTER SLOTS":
				return array(
					array(":0\r\n", ":99\r\n", entry(f.nodes[0], bulk("127.0.0.1"))),
					array(":100\r\n", ":8191\r\n", entry(f.nodes[1], "$-1\r\n"), entry(f.nodes[0], bulk(""))),
					array(":8192\r\n", ":16383\r\n", entry(f.nodes[0], bulk("?"))),
				)
			}
			return echo(n, conn, cmd)
		})
		f.nodes[1].set(echo)
		s := f.open(cluster.Config{})
		first, second := "GET "+on(s, 0, 2, 0), "GET "+on(s, 1, 2, 0)
		before := []int{f.nodes[0].count(second), f.nodes[1].count(first)}
		must(t, s, "GET", on(s, 1, 2, 0))
		must(t, s, "GET", on(s, 0, 2, 0))
		masters, err := s.Masters(t.Context())
		require.NoError(t, err)
		assert.Len(t, masters, 2, refusal)
		assert.Equal(t, []int{before[0] + 1, before[1] + 1}, []int{f.nodes[0].count(second), f.nodes[1].count(first)}, refusal)
	}
}

// A malformed answer is an error, and another server is asked.
func TestAnswersThatAreNone(t *testing.T) {
	f := fakes(t, 1, echo)
	var odd *fake
	for _, text := range []string{
		"+OK\r\n", ":1\r\n", "*-1\r\n", "*1\r\n+x\r\n", "*1\r\n*2\r\n$5\r\nslots\r\n+x\r\n", "*1\r\n*2\r\n$5\r\nnodes\r\n*1\r\n:1\r\n",
		array(array(bulk("slots"), array(":0\r\n", ":16384\r\n"))), array(array(bulk("slots"), array(":9\r\n", ":1\r\n"))),
		array(array(bulk("slots"), array(":-1\r\n", ":1\r\n"))), array(array(bulk("slots"), array("+a\r\n", ":1\r\n"))),
		array(array(":1\r\n", ":2\r\n")), oneShard(peerReply("port", bulk("x"))), oneShard(peerReply("role", ":1\r\n")),
	} {
		odd = fakes(t, 1, func(_ *fakeNode, _ int, cmd []string) string {
			if cmd[0] == "CLUSTER" {
				return text
			}
			return ""
		})
		s := open(t, cluster.Config{Seeds: []string{odd.nodes[0].addr, f.nodes[0].addr}})
		assert.Equal(t, bulk("a"), must(t, s, "GET", "a"), text)
		assert.Empty(t, odd.nodes[0].commands())
	}
}

// Addresses named by servers go through DialAddress before they are dialed, in
// redirects too, and those of seeds do. If it refuses, the call says so.
func TestDialAddress(t *testing.T) {
	f := fakes(t, 2, echo)
	f.shards = func(f *fake, _ int) string {
		return array(shardReply([]string{":0\r\n", ":8191\r\n"}, "10.0.0.1:6379", "master", "online"),
			shardReply([]string{":8192\r\n", ":16383\r\n"}, "[fd00::2]:6379", "master", "online"))
	}
	refused := errors.New("not ours")
	s := open(t, cluster.Config{Seeds: []string{"seed:1"}, Node: redigo.Config{Timeout: time.Second, DialAddress: func(_ context.Context, address string) (string, error) {
		switch address {
		case "seed:1", "10.0.0.1:6379":
			return f.nodes[0].addr, nil
		case "[fd00::2]:6379":
			return f.nodes[1].addr, nil
		}
		return "", refused
	}}})
	a, b := on(s, 0, 2, 0), on(s, 1, 2, 0)
	must(t, s, "GET", a)
	must(t, s, "GET", b)
	f.nodes[0].set(redirecting(fmt.Sprintf("-MOVED %d fd00::2:6379\r\n", s.Slot("", a)), a))
	assert.Equal(t, bulk(a), must(t, s, "GET", a))
	assert.Equal(t, 1, f.nodes[1].count("GET "+a))

	f.nodes[1].set(redirecting(fmt.Sprintf("-MOVED %d 10.9.9.9:1\r\n", s.Slot("", b)), b))
	_, err := run(s, 0, "GET", b)
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, refused)
	assert.ErrorContains(t, err, "DialAddress of 10.9.9.9:1")
}

// A redirect without a host means a port of the server that replied.
func TestRedirectWithoutHost(t *testing.T) {
	f := fakes(t, 2, echo)
	s := f.open(cluster.Config{})
	a := on(s, 0, 2, 0)
	_, port, _ := net.SplitHostPort(f.nodes[1].addr)
	for _, host := range []string{"", "?"} {
		f.nodes[0].set(redirecting(fmt.Sprintf("-ASK %d %s:%s\r\n", s.Slot("", a), host, port), a))
		assert.Equal(t, bulk(a), must(t, s, "GET", a))
	}
	assert.Equal(t, 2, f.nodes[1].count("GET "+a))
}

// A server that is no longer named is closed. Calls still routed to it go to
// the new servers of its slots.
func TestServerThatLeaves(t *testing.T) {
	f := fakes(t, 3, echo)
	s := f.open(cluster.Config{})
	keys := []string{on(s, 0, 3, 0), on(s, 1, 3, 0), on(s, 2, 3, 0)}
	for _, key := range keys {
		must(t, s, "GET", key)
	}
	all := make([]int, 16384)
	for slot := range all {
		all[slot] = slot
	}
	f.mu.Lock()
	f.shards = func(f *fake, _ int) string {
		return array(shardReply([]string{":0\r\n", ":16383\r\n"}, f.nodes[0].addr, "master", "online"))
	}
	f.mu.Unlock()
	f.give(0, all...)
	f.nodes[1].set(redirecting(f.moved(s.Slot("", keys[1])), keys[1]))
	must(t, s, "GET", keys[1]) // starts a refresh
	eventually(t, func() bool {
		must(t, s, "GET", keys[2])
		return f.nodes[0].count("GET "+keys[2]) > 0
	}, "all slots are the first's")
	before := len(f.nodes[2].commands())
	for _, key := range keys {
		assert.Equal(t, bulk(key), must(t, s, "GET", key))
	}
	assert.Len(t, f.nodes[2].commands(), before)
	stats := s.Stats()
	assert.GreaterOrEqual(t, stats.Calls, int64(7), "servers that have left count too")
	assert.GreaterOrEqual(t, stats.Dials, int64(3))
}
