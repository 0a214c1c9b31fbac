package testutil_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRedisKinds(t *testing.T) {
	for _, c := range []struct {
		name    string
		options *testutil.RedisOptions
		dsn     string // its beginning
	}{
		{"tcp", nil, "redis://127.0.0.1:"},
		{"unix", &testutil.RedisOptions{Unix: true}, "redis+unix:///"},
		{"unix password", &testutil.RedisOptions{Unix: true, Password: "p%w"}, "redis+unix://:p%25w@/"},
		{"password", &testutil.RedisOptions{Password: "s@cret"}, "redis://:s%40cret@127.0.0.1:"},
		{"acl", &testutil.RedisOptions{ACL: []string{"user app on >secret ~* +@all"}}, "redis://app:secret@127.0.0.1:"},
		{"acl only", &testutil.RedisOptions{ACL: []string{"user default off", "user app on >secret ~* +@all"}}, "redis://app:secret@"},
		{"tls", &testutil.RedisOptions{TLS: true}, "rediss://127.0.0.1:"},
		{"tls both ways", &testutil.RedisOptions{TLSAuthClients: true, Password: "x"}, "rediss://:x@127.0.0.1:"},
		{"config", &testutil.RedisOptions{Config: []string{"maxmemory 12mb"}}, "redis://127.0.0.1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testutil.Redis(t, c.options)
			assert.True(t, strings.HasPrefix(r.DSN(), c.dsn), "%s", r.DSN())
			pong, err := r.Do("PING")
			require.NoError(t, err)
			assert.Equal(t, "PONG", pong)
			if c.options != nil && c.options.Config != nil {
				got, err := redis.Strings(r.Do("CONFIG", "GET", "maxmemory"))
				require.NoError(t, err)
				assert.Equal(t, []string{"maxmemory", "12582912"}, got)
			}
		})
	}
}

func TestRedisTLSFiles(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLSAuthClients: true})
	for _, file := range []string{r.CAFile(), r.CertFile(), r.KeyFile()} {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Contains(t, string(b), "-----BEGIN ")
		assert.Contains(t, r.DSN(), filepath.Base(file))
	}
	_, err := tls.LoadX509KeyPair(r.CertFile(), r.KeyFile())
	require.NoError(t, err)
	plain := testutil.Redis(t, nil)
	assert.Empty(t, plain.CAFile()+plain.CertFile()+plain.KeyFile())
	assert.Nil(t, plain.TLSConfig())
}

func TestRedisKillAndRestart(t *testing.T) {
	r := testutil.Redis(t, nil)
	_, err := r.Do("SET", "k", "v")
	require.NoError(t, err)
	addr := r.Addr()
	r.Kill()
	r.Kill()
	_, err = r.Do("PING")
	require.Error(t, err)
	r.Restart()
	assert.Equal(t, addr, r.Addr())
	n, err := redis.Int(r.Do("DBSIZE"))
	require.NoError(t, err)
	assert.Zero(t, n, "a restart forgets everything")
	r.Restart() // of a running server
	_, err = r.Do("PING")
	require.NoError(t, err)
}

func TestRedisPause(t *testing.T) {
	r := testutil.Redis(t, nil)
	r.Pause()
	c, err := redis.Dial("tcp", r.Addr(), redis.DialReadTimeout(50*time.Millisecond))
	require.NoError(t, err, "the system accepts connections for a stopped process")
	defer func() { _ = c.Close() }()
	_, err = c.Do("PING")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	r.Resume()
	_, err = r.Do("PING")
	require.NoError(t, err)
}

func TestFakeRedisTime(t *testing.T) {
	f := testutil.FakeRedis(t)
	assert.Equal(t, "redis://"+f.Addr()+"/0", f.DSN())
	s := open(t, redigo.Config{Address: f.Addr()})
	defer func() { _ = s.Close() }()
	require.NoError(t, f.Set("slow", "v"))
	f.SetTTL("slow", time.Hour)
	require.NoError(t, f.Set("fast", "v"))
	f.SetTTL("fast", 20*time.Millisecond)
	require.Eventually(t, func() bool { return !f.Exists("fast") }, 10*time.Second, time.Millisecond)
	assert.True(t, f.Exists("slow"))
	f.FastForward(time.Hour)
	assert.False(t, f.Exists("slow"))
}

// reported is a testing.TB that records the end of a test instead of ending it.
type reported struct {
	testing.TB
	skipped, failed string
}

func (r *reported) Helper()          {}
func (r *reported) Skip(args ...any) { r.skipped = args[0].(string); panic(r) }
func (r *reported) Fatal(args ...any) {
	r.failed = args[0].(string)
	panic(r)
}
func (r *reported) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	panic(r)
}

func TestRedisSaysWhyItDoesNotStart(t *testing.T) {
	first := testutil.Redis(t, nil)
	_, port, err := net.SplitHostPort(first.Addr())
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	r := &reported{TB: t}
	assert.PanicsWithValue(t, r, func() { testutil.Redis(r, &testutil.RedisOptions{Port: n}) })
	assert.Contains(t, r.failed, "Address already in use")
	_, err = first.Do("PING")
	require.NoError(t, err)
}

func TestRedisMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct{ env, server, skipped, failed string }{
		{"", "", "redis-server is not installed", ""},
		{"require", "", "", "redis-server is not installed"},
		{"", "/no/such/server", "", "CACHES_TEST_SERVER names no program: "},
	} {
		t.Setenv("CACHES_TEST_REDIS", c.env)
		t.Setenv("CACHES_TEST_SERVER", c.server)
		r := &reported{TB: t}
		assert.PanicsWithValue(t, r, func() { testutil.Redis(r, nil) })
		assert.Contains(t, r.skipped, c.skipped)
		assert.Contains(t, r.failed, c.failed)
		assert.True(t, (r.skipped == "") != (r.failed == ""))
	}
}
