package testutil_test

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A hand is a client that knows nothing of the cluster but redirects, with a
// connection to each node. It is used by one goroutine.
type hand struct {
	dial  func(addr string) (redis.Conn, error)
	conns map[string]redis.Conn
	first string
	moved int
}

func newHand(t *testing.T, c *testutil.ClusterServers, options ...redis.DialOption) *hand {
	h := &hand{
		dial:  func(addr string) (redis.Conn, error) { return redis.Dial("tcp", addr, options...) },
		conns: make(map[string]redis.Conn),
		first: c.Masters()[0],
	}
	t.Cleanup(func() {
		for _, conn := range h.conns {
			_ = conn.Close()
		}
	})
	return h
}

func (h *hand) conn(addr string) (redis.Conn, error) {
	if c, ok := h.conns[addr]; ok && c.Err() == nil {
		return c, nil
	}
	c, err := h.dial(addr)
	if err == nil {
		h.conns[addr] = c
	}
	return c, err
}

// do sends a command to one node and follows its redirects.
func (h *hand) do(cmd string, args ...any) (any, error) {
	addr, ask := h.first, false
	for range 16 {
		c, err := h.conn(addr)
		if err != nil {
			return nil, err
		}
		if ask {
			if _, err := c.Do("ASKING"); err != nil {
				return nil, err
			}
		}
		reply, err := c.Do(cmd, args...)
		kind, to, redirected := redirect(err)
		if !redirected {
			return reply, err
		}
		addr, ask = to, kind == "ASK"
		if !ask {
			h.moved++
		}
	}
	return nil, errors.New("redirected 16 times")
}

func redirect(err error) (kind, addr string, ok bool) {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return "", "", false
	}
	words := strings.Fields(string(answer))
	if words[0] != "MOVED" && words[0] != "ASK" {
		return "", "", false
	}
	return words[0], words[2], true
}

// One cluster goes through everything, because starting one takes two seconds.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 1)
	checkNew(t, c)
	h := newHand(t, c)
	const keys = 1000
	for i := range keys {
		_, err := h.do("SET", key(i), i)
		require.NoError(t, err)
	}
	intact := func(when string) {
		t.Helper()
		for i := range keys {
			n, err := redis.Int(h.do("GET", key(i)))
			require.NoError(t, err, when)
			require.Equal(t, i, n, when)
		}
	}
	intact("at first")
	assert.Positive(t, h.moved)

	checkReshard(t, c)
	intact("after slots went there and back")
	checkFailover(t, c)
	intact("after failovers")
	checkKill(t, c)
	intact("after a master was killed")
}

func key(i int) string { return "key." + strconv.Itoa(i) }

func checkNew(t *testing.T, c *testutil.ClusterServers) {
	addrs := c.Addrs()
	require.Len(t, addrs, 6)
	assert.Equal(t, "redis+cluster://"+strings.Join(addrs, ",")+"/", c.DSN())
	assert.Equal(t, addrs[:3], c.Masters())
	for i, master := range addrs[:3] {
		assert.Equal(t, []string{addrs[3+i]}, c.Replicas(master))
		assert.Equal(t, master, c.Node(master).Addr())
		assert.Empty(t, c.Replicas(addrs[3+i]))
	}
	// 0x31C3 is the test vector of the specification. The other key has a tag.
	assert.Equal(t, 0x31C3, c.Slot("123456789"))
	assert.Equal(t, c.Slot("user"), c.Slot("{user}.name"))
	assert.Equal(t, addrs[0], c.Owner(0))
	assert.Equal(t, addrs[2], c.Owner(16383))
	var all []int
	for _, master := range addrs[:3] {
		all = append(all, c.Slots(master)...)
	}
	require.Len(t, all, 16384)
	assert.True(t, slices.IsSorted(all))
}

// Counters stay exact while their slots move.
func checkReshard(t *testing.T, c *testutil.ClusterServers) {
	from, to := c.Addrs()[0], c.Addrs()[1]
	held := c.Slots(from)
	names, slots := counters(c, 40), slices.Clone(held[:300])
	for _, name := range names {
		slots = append(slots, c.Slot(name))
	}
	slices.Sort(slots)
	slots = slices.Compact(slots)

	counts := countWhile(t, c, names, func() {
		c.MoveSlots(to, slots...)
		assert.Equal(t, to, c.Owner(slots[0]))
		assert.Len(t, c.Slots(from), len(held)-len(slots))
		c.MoveSlots(from, slots...)
	})
	assert.True(t, slices.Equal(held, c.Slots(from)), "all are back")
	h := newHand(t, c)
	for _, name := range names {
		got, err := redis.Int64(h.do("GET", name))
		require.NoError(t, err)
		assert.Equal(t, counts[name].Load(), got, name)
	}
}

// counters returns n keys whose slots the first master owns.
func counters(c *testutil.ClusterServers, n int) []string {
	var names []string
	for i := 0; len(names) < n; i++ {
		name := "count." + strconv.Itoa(i)
		if c.Owner(c.Slot(name)) == c.Addrs()[0] {
			names = append(names, name)
		}
	}
	return names
}

// countWhile increments the keys from several hands while f runs, each at least
// once, and returns the counts.
func countWhile(t *testing.T, c *testutil.ClusterServers, names []string, f func()) map[string]*atomic.Int64 {
	counts := make(map[string]*atomic.Int64)
	for _, name := range names {
		counts[name] = new(atomic.Int64)
	}
	var stop atomic.Bool
	var running sync.WaitGroup
	for range 4 {
		h := newHand(t, c)
		running.Go(func() {
			for !stop.Load() {
				for _, name := range names {
					if _, err := h.do("INCR", name); !assert.NoError(t, err) {
						return
					}
					counts[name].Add(1)
				}
			}
		})
	}
	f()
	stop.Store(true)
	running.Wait()
	return counts
}

func checkFailover(t *testing.T, c *testutil.ClusterServers) {
	addrs := c.Addrs()
	assert.Equal(t, addrs[3], c.Failover(addrs[0]), "by the master")
	assert.Equal(t, []string{addrs[3], addrs[1], addrs[2]}, c.Masters())
	assert.Equal(t, []string{addrs[0]}, c.Replicas(addrs[3]))
	assert.Equal(t, addrs[0], c.Failover(addrs[0]), "by the replica")
	assert.Equal(t, addrs[:3], c.Masters())
}

func checkKill(t *testing.T, c *testutil.ClusterServers) {
	master, replica := c.Addrs()[1], c.Addrs()[4]
	slot := c.Slots(master)[0]
	c.Node(master).Kill()
	assert.NotContains(t, c.Masters(), master)
	assert.Empty(t, c.Owner(slot), "no replica has taken over yet")
	c.Wait()
	assert.Equal(t, replica, c.Owner(slot))
	assert.Empty(t, c.Replicas(replica))
	c.Node(master).Restart()
	c.Wait()
	assert.Equal(t, []string{master}, c.Replicas(replica))
}

func TestClusterOptions(t *testing.T) {
	t.Parallel()
	c := testutil.ClusterWith(t, 2, 1, &testutil.ClusterOptions{
		TLS: true, ACL: []string{"user default off", "user app on >s@cret ~* &* +@all"},
		Hostname: "cache.invalid", Config: []string{"maxmemory 12mb"},
	})
	u, err := url.Parse(c.DSN())
	require.NoError(t, err)
	assert.Equal(t, "rediss+cluster", u.Scheme)
	assert.Equal(t, "app:s%40cret", u.User.String())
	assert.Equal(t, strings.Join(c.Addrs(), ","), u.Host)
	node := c.Node(c.Addrs()[0])
	assert.Equal(t, node.CAFile(), u.Query().Get("tls_ca"))
	got, err := redis.Strings(node.Do("CONFIG", "GET", "maxmemory"))
	require.NoError(t, err)
	assert.Equal(t, "12582912", got[1])

	// A client that maps the announced addresses reaches every node.
	h := newHand(t, c, redis.DialUseTLS(true), redis.DialTLSConfig(node.TLSConfig()),
		redis.DialUsername("app"), redis.DialPassword("s@cret"))
	direct := h.dial
	h.dial = func(addr string) (redis.Conn, error) {
		return direct(strings.Replace(addr, "cache.invalid", "127.0.0.1", 1))
	}
	for i := range 20 {
		_, err := h.do("SET", key(i), i)
		require.NoError(t, err)
	}
	for addr := range h.conns {
		assert.True(t, addr == h.first || strings.HasPrefix(addr, "cache.invalid:"), addr)
	}
	slot := c.Slot(key(1))
	to := c.Masters()[0]
	if to == c.Owner(slot) {
		to = c.Masters()[1]
	}
	c.MoveSlots(to, slot)
	n, err := redis.Int(h.do("GET", key(1)))
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

func TestClusterPassword(t *testing.T) {
	t.Parallel()
	c := testutil.ClusterWith(t, 2, 0, &testutil.ClusterOptions{Password: "p%w", NodeTimeout: 6 * time.Second})
	assert.Contains(t, c.DSN(), "redis+cluster://:p%25w@127.0.0.1:")
	got, err := redis.Strings(c.Node(c.Addrs()[1]).Do("CONFIG", "GET", "cluster-node-timeout"))
	require.NoError(t, err)
	assert.Equal(t, "6000", got[1])
	h := newHand(t, c, redis.DialPassword("p%w"))
	_, err = h.do("SET", "k", "v")
	require.NoError(t, err)

	// A master without slots becomes a replica.
	from := c.Owner(c.Slot("k"))
	to := c.Masters()[0]
	if to == from {
		to = c.Masters()[1]
	}
	c.MoveSlots(to, c.Slots(from)...)
	assert.Equal(t, []string{to}, c.Masters())
	assert.Equal(t, []string{from}, c.Replicas(to))
	v, err := redis.String(h.do("GET", "k"))
	require.NoError(t, err)
	assert.Equal(t, "v", v)
}

// After a test, however it ends, its servers are gone and their ports are free.
func TestClusterEnds(t *testing.T) {
	t.Parallel()
	var addrs []string
	t.Run("", func(t *testing.T) {
		c := testutil.Cluster(t, 1, 1)
		addrs = c.Addrs()
		c.Node(addrs[0]).Pause()
		r := &reported{TB: t}
		assert.PanicsWithValue(t, r, func() { testutil.Cluster(r, 0, 0) })
		assert.Contains(t, r.failed, "invalid cluster of 0 masters")
	})
	require.Len(t, addrs, 2)
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
}
