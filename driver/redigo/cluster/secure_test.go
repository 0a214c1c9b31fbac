package cluster_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// Servers with TLS and users are reached with the one set of credentials and
// certificates.
func TestTLSAndUsers(t *testing.T) {
	t.Parallel()
	c := testutil.ClusterWith(t, 2, 0, &testutil.ClusterOptions{
		TLS: true, Password: "secret", ACL: []string{"user app on >hunter2 ~app.* +@all"},
	})
	server := c.Node(c.Addrs()[0])
	var asked atomic.Int32
	s := open(t, cluster.Config{Seeds: c.Addrs()[1:], Node: redigo.Config{
		TLS: server.TLSConfig(),
		Credentials: func(context.Context) (redigo.Credentials, error) {
			asked.Add(1)
			return redigo.Credentials{Username: "app", Password: "hunter2"}, nil
		},
	}})
	for _, key := range []string{"app.1", "app.2", "app.3", "app.4", "app.5", "app.6"} {
		assert.Equal(t, "+OK\r\n", must(t, s, "SET", key, "v"))
	}
	assert.GreaterOrEqual(t, asked.Load(), int32(2), "at each dial")
	assert.Contains(t, must(t, s, "GET", "other"), "-NOPERM")

	wrong := open(t, cluster.Config{Seeds: c.Addrs(), Node: redigo.Config{TLS: server.TLSConfig(), Password: "wrong-one"}})
	_, err := run(wrong, 0, "GET", "app.1")
	assert.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "wrong-one")
}

// DialAddress makes servers reachable that name themselves by unreachable addresses,
// in redirects too.
func TestServersBehindNAT(t *testing.T) {
	t.Parallel()
	c := testutil.ClusterWith(t, 2, 0, &testutil.ClusterOptions{
		Hostname: "cache.invalid", Config: []string{"cluster-preferred-endpoint-type hostname"},
	})
	var behind atomic.Int64
	s := open(t, cluster.Config{Seeds: c.Addrs()[:1], Node: redigo.Config{DialAddress: func(_ context.Context, address string) (string, error) {
		host, port, err := net.SplitHostPort(address)
		if host == "cache.invalid" {
			behind.Add(1)
		}
		return net.JoinHostPort("127.0.0.1", port), err
	}}})
	defer func() { assert.Positive(t, behind.Load()) }()
	must(t, s, "SET", "a", "1")
	must(t, s, "SET", "b", "2")
	masters := c.Masters()
	for _, key := range []string{"a", "b"} {
		slot := s.Slot("", key)
		to := masters[0]
		if c.Owner(slot) == to {
			to = masters[1]
		}
		c.MoveSlots(to, slot)
	}
	assert.Equal(t, bulk("1"), must(t, s, "GET", "a"))
	assert.Equal(t, bulk("2"), must(t, s, "GET", "b"))
}

// Replicas answer reads, and a blocking command waits on the server of its key.
func TestReplicasAndBlocking(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 1)
	s := open(t, cluster.Config{Seeds: c.Addrs()[3:4], ReadReplicas: true})
	for _, key := range []string{"a", "b", "c", "d"} {
		must(t, s, "SET", key, key)
		owner := c.Owner(s.Slot("", key))
		_, err := c.Node(owner).Do("WAIT", 1, 5000)
		require.NoError(t, err)
		eventually(t, func() bool {
			raw, err := run(s, driver.ReadOnly, "GET", key)
			return err == nil && raw == bulk(key)
		}, "the replica has it soon")
	}
	raw, err := runAll(t.Context(), s, driver.ReadOnly, []string{"MGET", "a", "b", "c", "d", "none"})
	require.NoError(t, err)
	assert.Equal(t, array(bulk("a"), bulk("b"), bulk("c"), bulk("d"), "$-1\r\n"), raw)

	popped := make(chan string)
	go func() {
		raw, err := run(s, driver.Own, "BLPOP", "{list}", "10")
		assert.NoError(t, err)
		popped <- raw
	}()
	must(t, s, "RPUSH", "{list}", "v")
	assert.Equal(t, array(bulk("{list}"), bulk("v")), <-popped)
}
