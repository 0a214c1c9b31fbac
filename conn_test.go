package caches_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpenDialsNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	open(t, "redis://"+l.Addr().String())
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, l.Close())

	c := open(t, "redis://"+l.Addr().String())
	err = c.Ping(t.Context())
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.ErrorContains(t, err, "shard "+l.Addr().String()+"/0: ")
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, dsns := range map[string][]string{
		"caches: no DSN to open":                                 nil,
		"caches: dsn: it has no scheme":                          {""},
		"DSN 2: caches: dsn: it has no scheme":                   {"locmem://", "x"},
		"caches: open rediss://h:6379/0: tls_ca: open ":          {"rediss://h?tls_ca=" + filepath.Join(dir, "none")},
		"tls_ca: the file contains no certificate":               {"rediss://h?tls_ca=" + empty},
		"tls_cert and tls_key: tls: failed to find any PEM data": {"rediss://h?tls_cert=" + empty + "&tls_key=" + empty},
		`locmem://twice`:                                         {"locmem://twice?maxsize=5&node=a", "locmem://twice?maxsize=6&node=b"},
	} {
		_, err := caches.Open(dsns...)
		assert.ErrorContains(t, err, want)
	}
	_, err := caches.ConnOptions{}.OpenStores(nil)
	require.ErrorContains(t, err, "at least one shard")
	_, err = caches.ConnOptions{}.OpenStores(map[string]driver.Store{"x": nil})
	require.ErrorContains(t, err, `the store of shard "x" is nil`)
}

// What fails half-way leaves nothing open: a named store of this process could
// otherwise not be opened again with another bound.
func TestOpenFailureClosesShards(t *testing.T) {
	for _, second := range []string{"rediss://h?tls_ca=/nowhere/ca.pem", "dummy://?node=half"} {
		_, err := caches.Open("locmem://half?maxsize=5", second)
		require.Error(t, err)
		c, err := caches.Open("locmem://half?maxsize=6")
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

func TestConnOptionsErrors(t *testing.T) {
	for want, o := range map[string]caches.ConnOptions{
		"ConnOptions.TTL is negative":         {TTL: -1},
		"a timeout in ConnOptions":            {Timeout: -1},
		"a timeout in ConnOptions is":         {ConnectTimeout: -1},
		"ConnOptions.Conns is negative":       {Conns: -1},
		"ConnOptions.OwnConns is negative":    {OwnConns: -1},
		"Prefix or Version in ConnOptions":    {Prefix: "a\nb"},
		"Prefix or Version in ConnOptions ha": {Version: "\x00"},
	} {
		_, err := o.Open("locmem://")
		assert.ErrorContains(t, err, want)
		_, err = o.OpenStores(map[string]driver.Store{"x": newRecorder(nil)})
		assert.ErrorContains(t, err, want)
		_, err = o.OpenPools(map[string]*redis.Pool{"pool": &redis.Pool{}})
		assert.ErrorContains(t, err, want)
	}
	_, err := caches.ConnOptions{TLS: &tls.Config{}}.Open("redis://h")
	require.ErrorContains(t, err, "ConnOptions.TLS is set, but redis does not use TLS: write rediss")
}

func TestOptionsOverrideDSN(t *testing.T) {
	o := &caches.ConnOptions{Name: "n", Prefix: "p", Version: "v", TTL: time.Minute, Router: caches.Ketama}
	dsn := "locmem://cache01,cache02,cache03,cache04?prefix=x&version=y&ttl=1h&router=crc32#z"
	c, err := o.Open(dsn)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, "n", c.Name())
	assert.Equal(t, "cache03", c.ShardOf("foo"), "ketama")
	object := caches.Cache[int]{}.On(c).Key("k")
	assert.Equal(t, "p.v.k", object.String())
	require.NoError(t, object.Set(t.Context(), 1))
	ttl, err := object.ExpiresIn(t.Context())
	require.NoError(t, err)
	assert.LessOrEqual(t, ttl, time.Minute)
	assert.Equal(t, caches.ConnOptions{Name: "n", Prefix: "p", Version: "v", TTL: time.Minute, Router: caches.Ketama}, *o, "the caller's own is left alone")
}

func TestConnString(t *testing.T) {
	c := open(t, "redis://app:"+canary+"@b:1,a/2#n")
	assert.Equal(t, `caches.Conn("n": a:6379/2, b:1/2)`, c.String())
	assert.Equal(t, c.String(), fmt.Sprintf("%+v", c))
	assert.Equal(t, c.String(), fmt.Sprintf("%#v", c))
	assert.Equal(t, "caches.Conn((the default one): dummy)", open(t, "dummy://").String())
	assert.Equal(t, "[name=n shards=[a:6379/2 b:1/2]]", c.LogValue().String())
}

// The objects of one package-level variable go where the context says.
func TestWithConn(t *testing.T) {
	useDefault(t, &caches.Registry{})
	values := caches.Cache[int]{Prefix: "v"}
	pinned, inContext := open(t, "locmem://"), open(t, "locmem://")
	ctx := caches.WithConn(t.Context(), inContext)
	require.ErrorIs(t, values.Key(1).Set(t.Context(), 1), caches.ErrNoConnection)
	require.NoError(t, values.Key(1).Set(ctx, 2))
	require.NoError(t, values.On(pinned).Key(1).Set(ctx, 3))
	for c, want := range map[*caches.Conn]int{inContext: 2, pinned: 3} {
		got, err := values.On(c).Key(1).Get(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	require.ErrorIs(t, values.Key(1).Set(caches.WithConn(ctx, nil), 1), caches.ErrNoConnection)
}

// Stores of one name are one store, as long as anybody has it open.
func TestLocmemNames(t *testing.T) {
	a, b, private := open(t, "locmem://shared"), open(t, "locmem://shared"), open(t, "locmem://")
	_, err := a.Do(t.Context(), "SET", "k", "v")
	require.NoError(t, err)
	got, err := b.Do(t.Context(), "GET", "k")
	require.NoError(t, err)
	assert.Equal(t, []byte("v"), got)
	got, err = private.Do(t.Context(), "GET", "k")
	require.NoError(t, err)
	assert.Nil(t, got)
}

func TestDummyForgets(t *testing.T) {
	c := open(t, "dummy://")
	_, err := c.Do(t.Context(), "SET", "k", "v")
	require.NoError(t, err)
	got, err := c.Do(t.Context(), "GET", "k")
	require.NoError(t, err)
	assert.Nil(t, got)
}

func TestConnClose(t *testing.T) {
	a, b := newRecorder(nil), newRecorder(nil)
	c, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"a": a, "b": b})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	assert.Equal(t, 2, a.closes())
	assert.Equal(t, 2, b.closes())
	_, err = c.Do(t.Context(), "GET", "k")
	require.ErrorIs(t, err, caches.ErrUnavailable)
}

func TestDo(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, c *caches.Conn) {
		for _, tt := range []struct {
			args []any
			want any
		}{
			{[]any{"set", "k", "v"}, "OK"},
			{[]any{"GET", "k"}, []byte("v")},
			{[]any{"GET", []byte("none")}, nil},
			{[]any{"RPUSHX", "none", 1}, int64(0)},
			{[]any{"HSET", "h", "f", true, "g", false, 1, 2.5}, int64(3)},
			{[]any{"HMGET", "h", "f", "g", "1", "none"}, []any{[]byte("1"), []byte("0"), []byte("2.5"), nil}},
			{[]any{"SMEMBERS", "none"}, []any{}},
		} {
			got, err := c.Do(ctx, tt.args[0].(string), tt.args[1:]...)
			require.NoError(t, err, tt.args)
			assert.Equal(t, tt.want, got, tt.args)
		}
		_, err := c.Do(ctx, "INCR", "h")
		refusal, ok := errors.AsType[*caches.ServerError](err)
		require.True(t, ok)
		assert.Equal(t, "WRONGTYPE", refusal.Code)
		if got, err := c.Do(ctx, "PING"); len(c.Shards()) == 1 && !strings.HasSuffix(t.Name(), "/cluster") {
			require.NoError(t, err)
			assert.Equal(t, "PONG", got)
		} else {
			require.EqualError(t, err, `caches: Do: "PING" names no key, and the connection has several servers`)
		}
	})
}

// What Do gives is a copy: the buffer that it was read from goes on to others.
func TestDoReplies(t *testing.T) {
	store := newRecorder(nil)
	store.answer = func(_ driver.Command, r *driver.Replies) {
		r.Array(6)
		r.Int(1)
		r.String("text")
		r.Status("OK")
		r.Nil()
		r.Error("ERR no such key")
		r.Array(1)
		r.Array(0)
	}
	c := connTo(t, store)
	got, err := c.Do(t.Context(), "X")
	require.NoError(t, err)
	_, err = c.Do(t.Context(), "X")
	require.NoError(t, err)
	all := got.([]any)
	require.Len(t, all, 6)
	assert.Equal(t, []any{int64(1), []byte("text"), "OK", nil}, all[:4])
	assert.EqualError(t, all[4].(*caches.ServerError), "caches: server says ERR no such key")
	assert.Equal(t, []any{[]any{}}, all[5])

	store.answer = func(driver.Command, *driver.Replies) {}
	_, err = c.Do(t.Context(), "X")
	require.ErrorIs(t, err, driver.ErrProtocol, "no reply")
}

func TestDoArguments(t *testing.T) {
	store := newRecorder(nil)
	c := connTo(t, store)
	_, err := c.Do(t.Context(), "x", "s", []byte{0, 255}, true, false, 1, int8(-2), int16(3), int32(4), int64(math.MinInt64),
		uint(5), uint8(6), uint16(7), uint32(8), uint64(math.MaxUint64), float32(0.1), 0.1, math.Inf(-1), math.Copysign(0, -1))
	require.NoError(t, err)
	assert.Equal(t, []string{`["X" "s" "\x00\xff" "1" "0" "1" "-2" "3" "4" "-9223372036854775808" ` +
		`"5" "6" "7" "8" "18446744073709551615" "0.1" "0.1" "-inf" "0"]`}, store.lines)

	for _, arg := range []any{nil, time.Second, struct{}{}, []string{"a"}, map[string]int{}, new(int)} {
		_, err := c.Do(t.Context(), "GET", "k", arg)
		require.EqualError(t, err, fmt.Sprintf("caches: Do: argument 2 of the command: a %T is not a string, bytes, integer, float or bool", arg))
	}
	for _, cmd := range []string{"", "GET k", "GET\r\nSET", "ÄH"} {
		_, err := c.Do(t.Context(), cmd)
		require.EqualError(t, err, "caches: Do: the command's name is not a single word: pass its arguments one by one")
	}
	assert.Len(t, store.commands(), 1, "nothing was sent")
}

func TestDoRefuses(t *testing.T) {
	store := newRecorder(nil)
	c := connTo(t, store)
	for _, command := range [][]any{
		{"SELECT", 1}, {"select", 1}, {"MULTI"}, {"SUBSCRIBE", "c"}, {"MONITOR"}, {"AUTH", "p"}, {"QUIT"},
		{"BLPOP", "k", 0}, {"CLIENT", "REPLY", "OFF"}, {"client", "tracking", "on"},
		{"XREAD", "COUNT", 1, "block", 0, "STREAMS", "k", "$"},
	} {
		_, err := c.Do(t.Context(), command[0].(string), command[1:]...)
		require.ErrorContains(t, err, "would change or block a shared connection", command)
	}
	assert.Empty(t, store.commands())
	for _, command := range [][]any{{"CLIENT", "LIST"}, {"CLIENT"}, {"XREAD", "STREAMS", "block", "0"}, {"XREAD"}} {
		_, err := c.Do(t.Context(), command[0].(string), command[1:]...)
		require.NoError(t, err, command)
	}
}

func TestDoRoutesByFirstKey(t *testing.T) {
	stores := make(map[string]driver.Store)
	for _, name := range fourCaches {
		stores[name] = newRecorder(nil)
	}
	c, err := caches.ConnOptions{}.OpenStores(stores)
	require.NoError(t, err)
	for _, command := range [][]any{
		{"GET", "KEY"},
		{"MSET", "KEY", 1, "other", 2},
		{"EVAL", "return 1", 1, "KEY", "arg"},
		{"EVALSHA_RO", "sha", "2", "KEY", "other"},
		{"FCALL", "f", 1, "KEY"},
		{"XREAD", "COUNT", 1, "streams", "KEY", "$"},
		{"XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"},
		{"OBJECT", "ENCODING", "KEY"},
		{"MEMORY", "USAGE", "KEY"},
		{"XINFO", "STREAM", "KEY"},
		{"BITOP", "AND", "KEY", "other"},
		{"ZDIFF", 1, "KEY"},
		{"SINTERCARD", "1", "KEY"},
		{"MIGRATE", "h", 1, "KEY", 0, 1},
	} {
		for key, shard := range map[string]string{"foo": "cache02", "user.1": "cache04", "{foo}.x": "cache02"} {
			args := make([]any, len(command))
			for i, arg := range command {
				if args[i] = arg; arg == "KEY" {
					args[i] = key
				}
			}
			before := len(stores[shard].(*recorder).commands())
			_, err := c.Do(t.Context(), args[0].(string), args[1:]...)
			require.NoError(t, err)
			assert.Len(t, stores[shard].(*recorder).commands(), before+1, "%v goes to %s", args, shard)
		}
	}
	for _, command := range [][]any{
		{"PING"}, {"SCAN", 0}, {"EVAL", "return 1", 0}, {"EVAL", "return 1"}, {"XREAD", "COUNT", 1}, {"OBJECT", "HELP"}, {"GET"}, {"CONFIG", "GET", "x"},
	} {
		_, err := c.Do(t.Context(), command[0].(string), command[1:]...)
		require.ErrorContains(t, err, "names no key, and the connection has several servers", command)
	}
}

// A reply to SCAN or UNLINK that is none ends the clearing with an error and
// the count so far.
func TestUnsafeClearBadReplies(t *testing.T) {
	page := func(r *driver.Replies, cursor string, keys ...string) {
		r.Array(2)
		r.String(cursor)
		r.Array(len(keys))
		for _, key := range keys {
			r.String(key)
		}
	}
	for name, answer := range map[string]func(r *driver.Replies){
		"no array":  func(r *driver.Replies) { r.Int(1) },
		"no cursor": func(r *driver.Replies) { r.Array(2); r.Int(1); r.Array(0) },
		"no keys":   func(r *driver.Replies) { r.Array(2); r.String("0"); r.Int(1) },
		"no key":    func(r *driver.Replies) { r.Array(2); r.String("0"); r.Array(1); r.Int(1) },
	} {
		store, scans := newRecorder(nil), 0
		store.answer = func(cmd driver.Command, r *driver.Replies) {
			if cmd.Name() == "UNLINK" {
				r.Int(int64(len(cmd.Args) - 1))
			} else if scans++; scans == 1 {
				page(r, "7", "a", "b")
			} else {
				answer(r)
			}
		}
		n, err := connTo(t, store).UnsafeClear(t.Context(), "*")
		require.ErrorIs(t, err, driver.ErrProtocol, name)
		assert.EqualValues(t, 2, n, name)
		assert.Equal(t, []string{
			`["SCAN" "0" "MATCH" "*" "COUNT" "1000"]`, `["UNLINK" "a" "b"]`, `["SCAN" "7" "MATCH" "*" "COUNT" "1000"]`,
		}, store.lines, name)
	}
	store := newRecorder(nil)
	store.answer = func(cmd driver.Command, r *driver.Replies) {
		if cmd.Name() == "UNLINK" {
			r.Error("NOPERM no")
			return
		}
		page(r, "0", "a")
	}
	_, err := connTo(t, store).UnsafeClear(t.Context(), "*")
	refusal, ok := errors.AsType[*caches.ServerError](err)
	require.True(t, ok)
	assert.Equal(t, "NOPERM", refusal.Code)
}

// With a real server: what the DSN says reaches it.
func TestOpenRedis(t *testing.T) {
	ctx := t.Context()
	t.Run("tcp", func(t *testing.T) {
		s := testutil.Redis(t, &testutil.RedisOptions{Password: canary})
		dsn := s.DSN()
		c := open(t, dsn[:len(dsn)-1]+"3?client_name=web-1&ttl=1h")
		require.NoError(t, c.Ping(ctx))
		info, err := c.Do(ctx, "CLIENT", "INFO")
		require.NoError(t, err)
		assert.Contains(t, string(info.([]byte)), " name=web-1 ")
		assert.Contains(t, string(info.([]byte)), " db=3 ")

		err = open(t, "redis://:wrong-"+canary+"@"+s.Addr()).Ping(ctx)
		require.ErrorIs(t, err, caches.ErrUnavailable)
		assertNoCanary(t, shown(t, err))
		require.Error(t, open(t, "redis://:@"+s.Addr()+"?allow_no_auth=1").Ping(ctx), "it has a password")
	})
	t.Run("credentials", func(t *testing.T) {
		s := testutil.Redis(t, &testutil.RedisOptions{ACL: []string{"user app on >" + canary + " ~* +@all"}})
		o := &caches.ConnOptions{
			Credentials: func(context.Context) (caches.Credentials, error) {
				return caches.Credentials{Username: "app", Password: canary}, nil
			},
			ClientName: "code",
		}
		c, err := o.Open("redis://other:wrong@" + s.Addr() + "?client_name=dsn")
		require.NoError(t, err)
		defer c.Close()
		info, err := c.Do(ctx, "CLIENT", "INFO")
		require.NoError(t, err)
		assert.Contains(t, string(info.([]byte)), " name=code ")
		assert.Contains(t, string(info.([]byte)), " user=app ")
		assertNoCanary(t, shown(t, c))
	})
	t.Run("dial address", func(t *testing.T) {
		s := testutil.Redis(t, nil)
		refused := errors.New("not ours")
		o := &caches.ConnOptions{DialAddress: func(_ context.Context, address string) (string, error) {
			if address == "a.invalid:6379" {
				return s.Addr(), nil
			}
			return "", refused
		}}
		c, err := o.Open("redis://a.invalid")
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Ping(ctx))
		bad, err := o.Open("redis://b.invalid")
		require.NoError(t, err)
		defer bad.Close()
		err = bad.Ping(ctx)
		require.ErrorIs(t, err, caches.ErrUnavailable)
		require.ErrorIs(t, err, refused)
	})
	t.Run("unix", func(t *testing.T) {
		s := testutil.Redis(t, &testutil.RedisOptions{Unix: true})
		c := open(t, s.DSN()+"?db=2&node=socket")
		require.NoError(t, c.Ping(ctx))
		assert.Equal(t, []string{"socket"}, c.Shards())
		assert.Equal(t, []string{s.Addr() + "/0"}, open(t, s.DSN()).Shards())
	})
	t.Run("tls", func(t *testing.T) {
		s := testutil.Redis(t, &testutil.RedisOptions{TLSAuthClients: true})
		require.NoError(t, open(t, s.DSN()).Ping(ctx))
		require.NoError(t, open(t, s.DSN()+"&tls_server_name=localhost").Ping(ctx))
		require.Error(t, open(t, s.DSN()+"&tls_server_name=elsewhere").Ping(ctx))
		require.Error(t, open(t, "rediss://"+s.Addr()).Ping(ctx), "an authority that nobody trusts")
		require.NoError(t, open(t, "rediss://"+s.Addr()+"?tls_insecure=1&tls_cert="+s.CertFile()+"&tls_key="+s.KeyFile()).Ping(ctx))
		c, err := caches.ConnOptions{TLS: s.TLSConfig()}.Open("rediss://" + s.Addr())
		require.NoError(t, err)
		require.NoError(t, c.Ping(ctx))
		require.NoError(t, c.Close())
	})
}

func TestOpenPools(t *testing.T) {
	s := testutil.Redis(t, nil)
	pool := func(db int) *redis.Pool {
		p := &redis.Pool{MaxIdle: 4, DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", s.Addr(), redis.DialDatabase(db))
		}}
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return p
	}
	c, err := caches.ConnOptions{Name: "mine", Prefix: "p"}.OpenPools(map[string]*redis.Pool{"pool": pool(0)})
	require.NoError(t, err)
	assert.Equal(t, `caches.Conn("mine": pool)`, c.String())
	object := caches.Cache[string]{Prefix: "v"}.On(c).Key(1)
	require.NoError(t, object.Set(t.Context(), "text"))
	got, err := object.Get(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "text", got)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Ping(t.Context()), caches.ErrUnavailable)

	pools := map[string]*redis.Pool{"a": pool(1), "b": pool(2)}
	c, err = caches.ConnOptions{}.OpenPools(pools)
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b"}, c.Shards())
	require.NoError(t, c.Ping(t.Context()))
	require.NoError(t, c.Close())
	direct := pools["a"].Get()
	_, err = direct.Do("PING")
	require.NoError(t, err, "the pool is its owner's and still open")
	require.NoError(t, direct.Close())

	_, err = caches.ConnOptions{}.OpenPools(map[string]*redis.Pool{"x": nil})
	require.ErrorContains(t, err, `pool "x" is nil`)
}
