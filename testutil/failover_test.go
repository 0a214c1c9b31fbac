package testutil_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func role(t *testing.T, s *testutil.RedisServer) string {
	t.Helper()
	v, err := redis.Values(s.Do("ROLE"))
	require.NoError(t, err)
	return string(v[0].([]byte))
}

func TestFailover(t *testing.T) {
	t.Parallel()
	f := testutil.Failover(t, 3, 1)
	addrs := f.Addrs()
	require.Len(t, addrs, 2)
	require.Len(t, f.SentinelAddrs(), 3)
	assert.Equal(t, "mymaster", f.MasterName())
	assert.Equal(t, "redis+sentinel://"+strings.Join(f.SentinelAddrs(), ",")+"/mymaster/0", f.DSN())
	assert.Equal(t, addrs[0], f.Master())
	assert.Equal(t, addrs[1:], f.Replicas())
	c, err := redis.Dial("tcp", addrs[0])
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Do("SET", "k", "v")
	require.NoError(t, err)
	n, err := redis.Int(c.Do("WAIT", 1, 10_000))
	require.NoError(t, err)
	require.Equal(t, 1, n)

	// By death, while one Sentinel is away for a time.
	away := f.Node(f.SentinelAddrs()[0])
	away.Kill()
	f.Node(addrs[0]).Kill()
	assert.Equal(t, addrs[1], f.WaitSwitch(addrs[0]))
	assert.Empty(t, f.Replicas())
	v, err := redis.String(f.Node(addrs[1]).Do("GET", "k"))
	require.NoError(t, err)
	assert.Equal(t, "v", v, "the replica had it")
	away.Restart()
	f.Node(addrs[0]).Restart()
	f.Wait()
	assert.Equal(t, addrs[1], f.Master())
	assert.Equal(t, addrs[:1], f.Replicas())
	v, err = redis.String(f.Node(addrs[0]).Do("GET", "k"))
	require.NoError(t, err)
	assert.Equal(t, "v", v, "it has the key again")
}

func TestFailoverOptions(t *testing.T) {
	t.Parallel()
	f := testutil.FailoverWith(t, 3, 2, &testutil.FailoverOptions{
		TLS: true, Password: "p%w", SentinelUser: "watch", SentinelPassword: "s@cret",
		Config: []string{"min-replicas-to-write 1"},
	})
	u, err := url.Parse(f.DSN())
	require.NoError(t, err)
	assert.Equal(t, "rediss+sentinel", u.Scheme)
	assert.Equal(t, ":p%25w", u.User.String())
	assert.Equal(t, strings.Join(f.SentinelAddrs(), ","), u.Host)
	assert.Equal(t, "/mymaster/0", u.Path)
	q := u.Query()
	assert.Equal(t, "watch", q.Get("sentinel_user"))
	assert.Equal(t, "s@cret", q.Get("sentinel_password"))
	assert.Equal(t, f.Node(f.Master()).CAFile(), q.Get("tls_ca"))

	sentinel := f.Node(f.SentinelAddrs()[0])
	c, err := redis.Dial("tcp", sentinel.Addr(), redis.DialUseTLS(true), redis.DialTLSConfig(sentinel.TLSConfig()))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Do("SENTINEL", "MASTERS")
	require.ErrorContains(t, err, "NOAUTH")
	_, err = f.Node(f.Master()).Do("SET", "k", "v")
	require.NoError(t, err)

	// By command: no server is down.
	before := f.Master()
	now := f.Failover()
	assert.NotEqual(t, before, now)
	assert.Equal(t, now, f.Master())
	assert.Equal(t, "master", role(t, f.Node(now)))
	f.Wait()
	assert.Equal(t, "slave", role(t, f.Node(before)))
	assert.Contains(t, f.Replicas(), before)
}

// Only the Sentinels have a password, and they keep their usual periods.
func TestFailoverRealPeriods(t *testing.T) {
	t.Parallel()
	f := testutil.FailoverWith(t, 2, 0, &testutil.FailoverOptions{SentinelPassword: "x", RealPeriods: true})
	state, err := redis.StringMap(f.Node(f.SentinelAddrs()[0]).Do("SENTINEL", "MASTER", "mymaster"))
	require.NoError(t, err)
	assert.Equal(t, "3000", state["down-after-milliseconds"])
	assert.Equal(t, "2", state["quorum"])
	assert.Contains(t, f.DSN(), "?sentinel_password=x")
	assert.Empty(t, f.Replicas())

	r := &reported{TB: t}
	assert.PanicsWithValue(t, r, func() { testutil.Failover(r, 0, 1) })
	assert.Contains(t, r.failed, "0 Sentinels")
}
