package redigo_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		options *testutil.RedisOptions
	}{
		{"tcp", nil},
		{"unix", &testutil.RedisOptions{Unix: true}},
		{"tls", &testutil.RedisOptions{TLS: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testutil.Redis(t, c.options)
			testutil.TestStore(t, func(t *testing.T) driver.Store {
				_, err := r.Do("FLUSHALL")
				require.NoError(t, err)
				return open(t, configOf(r, c.options))
			})
		})
	}
}

func configOf(r *testutil.RedisServer, o *testutil.RedisOptions) redigo.Config {
	c := redigo.Config{Address: r.Addr(), TLS: r.TLSConfig()}
	if o != nil && o.Unix {
		c.Network = "unix"
	}
	return c
}

func TestOpenChecks(t *testing.T) {
	creds := func(context.Context) (redigo.Credentials, error) { return redigo.Credentials{}, nil }
	for _, c := range []struct {
		config redigo.Config
		want   string
	}{
		{redigo.Config{}, "Address is missing"},
		{redigo.Config{Network: "udp", Address: "h:1"}, "Network is neither"},
		{redigo.Config{Address: "localhost"}, "Address is not host:port"},
		{redigo.Config{Address: "redis://:pw@localhost:1"}, "Address is not host:port"},
		{redigo.Config{Address: "pw@localhost:1"}, "Address is not host:port"},
		{redigo.Config{Address: "h:1", Password: "x", Credentials: creds}, "Credentials replace Username"},
		{redigo.Config{Address: "h:1", DB: -1}, "must not be negative"},
		{redigo.Config{Address: "h:1", Conns: -1}, "must not be negative"},
		{redigo.Config{Address: "h:1", OwnConns: -1}, "must not be negative"},
		{redigo.Config{Address: "h:1", Timeout: -1}, "must not be negative"},
		{redigo.Config{Address: "h:1", ConnectTimeout: -1}, "must not be negative"},
		{redigo.Config{Address: "h:1", ClientName: "a b"}, "ClientName must be printable"},
		{redigo.Config{Address: "h:1", ClientName: "a\n"}, "ClientName must be printable"},
		{redigo.Config{Address: "h:1", ClientName: "é"}, "ClientName must be printable"},
		{redigo.Config{Address: "/s", Network: "unix", TLS: &tls.Config{}}, "needs a ServerName"},
		{redigo.Config{Address: "h:1", Limits: redigo.Limits{Depth: -1}}, "Limits are out of range"},
		{redigo.Config{Address: "h:1", Limits: redigo.Limits{Bulk: 1 << 62}}, "Limits are out of range"},
	} {
		_, err := redigo.Open(c.config)
		require.ErrorContains(t, err, c.want, "%s", c.config)
		assert.NotContains(t, err.Error(), "pw")
	}
}

// TestOpenDoesNotDial opens stores of unreachable servers.
func TestOpenDoesNotDial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:1", "[::1]:1", "no.such.host.invalid:6379"} {
		s := open(t, redigo.Config{Address: address})
		assert.Equal(t, "redis "+address, s.String())
		assert.Equal(t, redigo.Stats{}, s.Stats())
		require.NoError(t, s.Close())
	}
}

func TestConnectionRefused(t *testing.T) {
	s := open(t, redigo.Config{Address: "127.0.0.1:1", Timeout: time.Second})
	for _, mode := range []driver.Mode{0, driver.ReadOnly, driver.Repeatable, driver.Atomic} {
		_, err := run(s, mode, "GET", "k")
		require.ErrorIs(t, err, driver.ErrUnavailable)
		assert.ErrorContains(t, err, "dial tcp 127.0.0.1:1: connect: connection refused")
		assert.NotErrorIs(t, err, driver.ErrUnknownOutcome)
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
	}
}

func TestStats(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	for range 3 {
		must(t, s, "SET", "k", "v")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := runCtx(ended, s, 0, "SET", "k", "v")
	require.Error(t, err)
	assert.Equal(t, redigo.Stats{
		Calls: 4, Errors: 1, Dials: 1, Commands: 3, Writes: 3, BytesIn: 3 * 5, BytesOut: 3 * 27,
	}, s.Stats())
}

func TestDatabaseAndClientName(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), DB: 3, ClientName: "caches-test"})
	must(t, s, "SET", "k", "v")
	assert.Equal(t, bulk("caches-test"), must(t, s, "CLIENT", "GETNAME"))
	assert.Contains(t, must(t, s, "CLIENT", "INFO"), "db=3")
	other := open(t, redigo.Config{Address: r.Addr()})
	assert.Equal(t, "$-1\r\n", must(t, other, "GET", "k"))
	none := open(t, redigo.Config{Address: r.Addr(), DB: 99})
	_, err := run(none, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "SELECT: caches: server says ERR DB index is out of range")
}

// TestGetAllocations checks that a GET decoded in place allocates nothing.
func TestGetAllocations(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	must(t, s, "SET", "k", strings.Repeat("x", 100))
	get := func() {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("GET").Key("k")
		if err := s.Do(context.Background(), p); err != nil {
			t.Error(err)
		}
		if b, _, _ := p.Next().Bytes(); len(b) != 100 {
			t.Error("not the value that was set")
		}
		p.Free()
	}
	get()
	if raceEnabled {
		t.Log("allocations are not counted under the race detector, where sync.Pool drops at random")
		return
	}
	assert.Less(t, testing.AllocsPerRun(200, get), 0.5)
}

// TestLargePipeline sends 6 MB and receives 6 MB in one call.
func TestLargePipeline(t *testing.T) {
	n := scale(600, 10_000)
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Timeout: time.Minute})
	value := bytes.Repeat([]byte("0123456789"), 1<<10)
	p := driver.NewPipeline(0)
	defer p.Free()
	for i := range n {
		p.Cmd("SET").Key("k" + strconv.Itoa(i)).Bytes(value)
		p.Cmd("GET").Key("k" + strconv.Itoa(i))
	}
	require.NoError(t, s.Do(t.Context(), p))
	for range n {
		require.NoError(t, p.Next().OK())
		b, _, err := p.Next().Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, b))
	}
	assert.EqualValues(t, 1, s.Stats().Dials)
	assert.Equal(t, "+PONG\r\n", must(t, s, "PING"))
	assert.EqualValues(t, 2, s.Stats().Dials, "a large call has a dedicated connection")
}

// TestNoDeadlock talks to a server that reads no further command until its last
// reply has been read.
func TestNoDeadlock(t *testing.T) {
	echo := serve(t, func(_ int, cmd []string) string { return bulk(cmd[1]) })
	s := open(t, redigo.Config{Address: echo.addr})
	value := strings.Repeat("x", 10<<10)
	p := driver.NewPipeline(0)
	defer p.Free()
	n := scale(700, 3000) // more than the buffers of both sides hold
	for range n {
		p.Cmd("ECHO").String(value)
	}
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, n, p.Replies().Len())
	assert.EqualValues(t, 1, s.Stats().Dials)
}

func TestClose(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	must(t, s, "PING")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err := run(s, driver.ReadOnly, "PING")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "closed")
	assert.Eventually(t, func() bool { return clients(t, r) == 1 }, patience, time.Millisecond,
		"only the connection that asks is left")
}

// clients returns the number of the server's connections.
func clients(t testing.TB, r *testutil.RedisServer) int {
	t.Helper()
	list, err := redis.String(r.Do("CLIENT", "LIST"))
	require.NoError(t, err)
	return strings.Count(list, "\n")
}

// TestCloseDuringCalls closes a store during calls: each call ends, and the
// connections close.
func TestCloseDuringCalls(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Conns: 2, OwnConns: 2})
	done := make(chan error)
	for range 8 {
		go func() {
			for {
				if _, err := run(s, 0, "INCR", "n"); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	require.Eventually(t, func() bool { return s.Stats().Calls > 100 }, patience, time.Millisecond)
	require.NoError(t, s.Close())
	for range 8 {
		require.ErrorIs(t, <-done, driver.ErrUnavailable)
	}
	assert.Eventually(t, func() bool { return clients(t, r) == 1 }, patience, time.Millisecond)
}

// canary is in every secret: output that contains it reveals one.
const canary = "CANARY-42"

func TestSecretsStaySecret(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLS: true, Password: canary, ACL: []string{"user app on >" + canary + " ~* +@all"}})
	plain := testutil.Redis(t, nil)
	configs := map[string]redigo.Config{
		"right":      {Address: r.Addr(), Password: canary, TLS: r.TLSConfig()},
		"acl":        {Address: r.Addr(), Username: "app", Password: canary, TLS: r.TLSConfig()},
		"wrong":      {Address: r.Addr(), Password: canary + "x", TLS: r.TLSConfig()},
		"wrong user": {Address: r.Addr(), Username: canary, Password: canary, TLS: r.TLSConfig()},
		"no tls":     {Address: r.Addr(), Password: canary},
		"no ca":      {Address: r.Addr(), Password: canary, TLS: &tls.Config{}},
		"refused":    {Address: "127.0.0.1:1", Password: canary},
		"not needed": {Address: plain.Addr(), Password: canary},
		"dsn":        {Address: "redis://:" + canary + "@127.0.0.1:1", Password: canary},
		"unix":       {Network: "unix", Address: "/nowhere.sock", Password: canary},
		"asked": {Address: r.Addr(), TLS: r.TLSConfig(), Credentials: func(context.Context) (redigo.Credentials, error) {
			return redigo.Credentials{Username: canary, Password: canary}, nil
		}},
	}
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			c.Timeout = patience
			assert.NotContains(t, everyForm(c), canary)
			assert.NotContains(t, everyForm(&c), canary)
			s, err := redigo.Open(c)
			if err != nil {
				assert.NotContains(t, everyForm(err), canary)
				return
			}
			defer func() { _ = s.Close() }()
			for _, cmd := range [][]string{{"PING"}, {"NOSUCH", canary}, {"SET", "k", "v", canary}} {
				_, err = run(s, 0, cmd...)
				assert.NotContains(t, everyForm(err), canary)
			}
			assert.NotContains(t, everyForm(s), canary)
			// In an unexported field, fmt prints all of it without a lock: so this Store
			// has no call in progress.
			rests := open(t, c)
			assert.NotContains(t, everyForm(struct{ inside *redigo.Store }{rests}), canary)
		})
	}
}

// everyForm prints v in all the forms that reach logs.
func everyForm(v any) string {
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("text", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("json", "v", v)
	if text, err := json.Marshal(v); err == nil {
		b.Write(text)
	}
	for err, _ := v.(error); err != nil; err = errors.Unwrap(err) {
		fmt.Fprintf(&b, "%+v %#v\n", err, err)
	}
	return b.String()
}

func TestConfigShowsItsAddress(t *testing.T) {
	c := redigo.Config{Address: "cache.example:6379", DB: 2, Password: canary}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		assert.Equal(t, "redigo.Config(tcp cache.example:6379/2)", fmt.Sprintf(verb, c))
	}
	assert.Equal(t, c.String(), c.GoString())
	assert.Equal(t, c.String(), c.LogValue().String())
	text, err := json.Marshal(&c)
	require.NoError(t, err)
	assert.Equal(t, strconv.Quote(c.String()), string(text))
	assert.Equal(t, "redigo.Config(invalid address)", redigo.Config{Address: "redis://h:1"}.String())
}

// TestArgumentBeyondTheLimit checks that nothing is stored that could not be
// read.
func TestArgumentBeyondTheLimit(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Limits: redigo.Limits{Bulk: 1000}})
	whole := strings.Repeat("x", 1000)
	must(t, s, "SET", "k", whole)
	must(t, s, "MSET", "a", whole, "b", whole)
	for _, mode := range []driver.Mode{0, driver.Own, driver.Atomic} {
		_, err := run(s, mode, "SET", "k", whole+"x")
		require.ErrorIs(t, err, driver.ErrTooLarge)
		assert.ErrorContains(t, err, `an argument of 1001 bytes exceeds the limit "bulk" of 1000 bytes`)
	}
	assert.Equal(t, bulk(whole), must(t, s, "GET", "k"))
	call, _ := start(t.Context(), s, 0, "SET", "k", whole+"x")
	require.ErrorIs(t, call.Finish(), driver.ErrTooLarge)
}
