package caches_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
)

// Nothing tells a secret: not what is printed, in whatever way, and not what
// goes wrong. The canary is user, password and what might be a token at once;
// these tests put together every text that there is, and look for it.

// requireQuiet checks all ways of printing v, by itself and inside the structs,
// slices and errors that it may be a part of.
func requireQuiet(t *testing.T, name string, v any) {
	t.Helper()
	text := shown(t, v)
	if err, ok := v.(error); ok {
		text += err.Error() + shown(t, errors.Join(err, err)) + shown(t, &caches.OpError{Op: "Op", Key: "key", Err: err})
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
			text += shown(t, inner)
		}
	}
	requireHidden(t, name, text)
}

// requireHidden checks a text for the canary in every form in which package fmt
// may write it.
func requireHidden(t *testing.T, name, text string) {
	t.Helper()
	for _, form := range []string{canary, percent(canary), fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary))} {
		if at := strings.Index(text, form); at >= 0 {
			assert.Failf(t, "a secret is told", "%s: …%s…", name, text[max(0, at-100):min(len(text), at+len(form)+50)])
		}
	}
}

// The check finds a canary wherever it is.
func TestCanaryIsFound(t *testing.T) {
	for name, v := range map[string]any{
		"text":     canary,
		"bytes":    []byte(canary),
		"field":    struct{ Password string }{canary},
		"hidden":   struct{ password string }{canary},
		"map":      map[string]string{"password": canary},
		"error":    errors.New("wrong: " + canary),
		"wrapped":  fmt.Errorf("dial: %w", errors.New(canary)),
		"stringer": json.RawMessage(`"` + canary + `"`),
	} {
		text := shown(t, v)
		require.True(t, strings.Contains(text, canary) || strings.Contains(text, fmt.Sprint([]byte(canary))), name)
	}
}

// secretDSNs are DSNs that parse and have the canary in every place that may
// hold a secret.
func secretDSNs() []string {
	registerTestScheme()
	return []string{
		"redis://" + canary + ":" + canary + "@127.0.0.1:1/2?ttl=1h&timeout=50ms#n",
		"redis://" + canary + "@127.0.0.1:1?timeout=50ms",
		"redis://:" + percent(canary) + "@127.0.0.1:1,127.0.0.1:2?timeout=50ms",
		"rediss://app:" + canary + "@127.0.0.1:1?tls_insecure=1&timeout=50ms",
		"redis+unix://app:" + canary + "@/nowhere/redis.sock?timeout=50ms",
		"test://" + canary + ":" + canary + "@h?token=" + canary + "&password=" + canary,
	}
}

// malformedDSNs have one mistake each, and the canary beside it or in it.
func malformedDSNs() []string {
	registerTestScheme()
	return []string{
		canary, canary + "@h", ":" + canary + "@h", "redis:" + canary, "redis:/" + canary,
		"ftp://app:" + canary + "@h", "redis+cluster://app:" + canary + "@h/1", "redis+sentinel://app:" + canary + "@h/",
		"redis://app:" + canary + "@h:x", "redis://app:" + canary + "@h:99999", "redis://app:" + canary + "@[::1",
		"redis://app:" + canary + "@a,,b", "redis://app:" + canary + "@h/x", "redis://app:" + canary + "@h#a b",
		"redis://app:" + canary + "%zz@h", "redis://" + canary + "%zz:x@h", "redis://" + canary + ":@h",
		"redis://app:x/" + canary + "@h", "redis://app:x?" + canary + "@h", "redis://app:x#" + canary + "@h",
		"redis://app:x?ttl=" + canary + "@h", "redis://" + canary + "/x@h", "redis://app:" + canary, "redis://" + canary + ":x",
		"redis://h:" + canary, "redis://h/" + canary, "redis://[" + canary + "]", "redis://[::1%25" + canary + " ]",
		"redis://a b" + canary, "redis://h#" + canary + " x", "redis://h#%zz" + canary,
		"redis://h?" + canary, "redis://h?password=" + canary, "redis://h?token=" + canary + "&ttl=x", "redis://h?ttl=" + canary,
		"redis://h?ttl=1&ttl=" + canary, "redis://h?timeout=" + canary, "redis://h?conns=" + canary, "redis://h?router=" + canary,
		"redis://h?allow_no_auth=" + canary, "redis://h?tls_key=" + canary, "redis://h?node=" + canary + "%20",
		"redis://h?client_name=" + canary + "%20", "redis://h?prefix=" + canary + "%0A", "redis://h?prefix=" + canary + "%zz",
		"redis://h?" + canary + "=1", "redis://h?=" + canary, "redis://h?db=" + canary,
		"rediss://app:" + canary + "@h?tls_ca=/nowhere/ca.pem", "rediss://app:" + canary + "@h?tls_cert=/a&tls_key=/b",
		"locmem://app:" + canary + "@h", "locmem://" + canary + "/x", "locmem://" + canary + ":1", "locmem://?maxsize=" + canary,
		"dummy://app:" + canary + "@", "dummy://" + canary, "redis+unix://app:" + canary + "@h/run/x",
		"redis+unix://app:" + canary + "@", "redis+unix:///%00" + canary, "redis+unix:///a?db=" + canary,
		"test://u:" + canary + "@h?fail=1", "test://u:" + canary + "@h?nil=1&token=" + canary,
	}
}

func TestCanaryInConnections(t *testing.T) {
	t.Parallel()
	for _, dsn := range secretDSNs() {
		d, err := caches.ParseDSN(dsn)
		require.NoError(t, err)
		require.Equal(t, canary, d.Password())
		requireHidden(t, "DSN", fmt.Sprintf("%v %+v %#v %s %q %x %v", d, d, d, d, d, d, []any{d, *d}))
		// Username is a field that any code may read, and so reflection. The
		// password is hidden from that as well.
		d.Username = ""
		requireQuiet(t, "DSN", d)
		requireQuiet(t, "DSN by value", *d)
		conn := open(t, dsn)
		requireQuiet(t, "Conn", conn)
		requireQuiet(t, "Conn by value", *conn)
		requireQuiet(t, "Shards", conn.Shards())
		registry, err := caches.NewRegistry(dsn)
		require.NoError(t, err)
		requireQuiet(t, "Registry", registry)
		requireQuiet(t, "Names", registry.Names())
		if !strings.HasPrefix(dsn, "test:") { // whose store answers
			requireQuiet(t, "Ping", registry.Ping(t.Context()))
			requireQuiet(t, "Conn.Ping", conn.Ping(t.Context()))
		}
		require.NoError(t, registry.Close())
	}
	credentials := func(context.Context) (caches.Credentials, error) {
		return caches.Credentials{Username: canary, Password: canary}, nil
	}
	options := caches.ConnOptions{Credentials: credentials, Timeout: 50 * time.Millisecond}
	requireQuiet(t, "ConnOptions", options)
	requireQuiet(t, "*ConnOptions", &options)
	conn, err := options.Open("redis://127.0.0.1:1")
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	requireQuiet(t, "Conn with credentials", conn)
	requireQuiet(t, "its Ping", conn.Ping(t.Context()))
	_, err = options.Open("redis://app:"+canary+"@h", "redis://app:"+canary+"@h")
	requireQuiet(t, "two shards of one name", err)
	require.Error(t, err)
}

func TestCanaryInObjects(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, dsn := range secretDSNs() {
		conn := open(t, dsn)
		o := caches.Options{Prefix: "c", TTL: time.Hour}
		for name, object := range map[string]any{
			"Options":       o,
			"Cache":         caches.Cache[int](o).On(conn).Key("a"),
			"CounterCache":  caches.CounterCache[int](o).On(conn).Key("a"),
			"SentinelCache": caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn).Key("a"),
			"Context":       caches.WithConn(ctx, conn),
			"CachedFunc": caches.Cached(caches.Cache[int](o).On(conn),
				func(_ context.Context, n int) (int, error) { return n, nil },
				&caches.CachedOptions[int, int]{Key: func(n int) []any { return []any{n} }}),
		} {
			requireQuiet(t, name, object)
		}
		for _, kind := range kinds {
			requireQuiet(t, kind.name, kind.on(conn, o).key("a").collection)
		}
		if strings.HasPrefix(dsn, "test:") {
			continue
		}
		for _, c := range callings(conn, "c") {
			err := c.call(ctx)
			require.ErrorIs(t, err, caches.ErrUnavailable, c.name)
			requireQuiet(t, c.name, err)
		}
		_, err := gates(conn, time.Minute).Key("a").Do(ctx, mustNotRun(t))
		requireQuiet(t, "Sentinel.Do", err)
	}
}

func TestCanaryInMalformedDSNs(t *testing.T) {
	t.Parallel()
	for _, dsn := range malformedDSNs() {
		require.Contains(t, dsn, canary)
		// The last ones parse, and fail when they are opened.
		if _, err := caches.ParseDSN(dsn); err != nil {
			requireQuiet(t, "ParseDSN", err)
		}
		_, err := caches.Open(dsn)
		assert.Error(t, err, "one that opens proves nothing")
		requireQuiet(t, "Open", err)
		_, err = caches.Open("locmem://?node=x", dsn)
		requireQuiet(t, "Open as a second shard", err)
		_, err = caches.NewRegistry(dsn)
		requireQuiet(t, "NewRegistry", err)
		requireQuiet(t, "Configure", (&caches.Registry{}).Configure(dsn, dsn))

		registry := caches.FromEnv([]string{"CACHES_DSN=" + dsn, "CACHES_DSN_2=" + dsn, "CACHES_DSN_OTHER=" + dsn})
		requireQuiet(t, "Registry", registry)
		requireQuiet(t, "Registry.Ping", registry.Ping(t.Context()))
		for _, name := range append(registry.Names(), "none") {
			_, err = registry.Connection(name)
			requireQuiet(t, "Connection", err)
		}
		require.NoError(t, registry.Close())
	}
}

func TestCanaryInTheEnvironment(t *testing.T) {
	for _, name := range []string{"TTL", "PREFIX", "VERSION", "TIMEOUT", "CONNECT_TIMEOUT", "CONNS"} {
		value := canary + "\n" // of no option a value
		t.Setenv("CACHES_"+name, value)
		for _, registry := range []*caches.Registry{
			caches.FromEnv([]string{"CACHES_DSN=redis://h", "CACHES_" + name + "=" + value + "x"}),
			caches.FromEnv(nil),
		} {
			_, err := registry.Connection("")
			require.Error(t, err, name)
			requireQuiet(t, "CACHES_"+name, err)
			requireQuiet(t, "Registry", registry)
		}
	}
}

// A text that is a panic's, of what panics by design.
func TestCanaryInPanics(t *testing.T) {
	opener := func(*caches.DSN) (driver.Store, error) { return nil, nil }
	for _, name := range []string{"app:" + canary + "@h", "redis://" + canary} {
		text := paniced(func() (err error) {
			defer func() { err = fmt.Errorf("%v", recover()) }()
			caches.Register("redis", opener)
			return nil
		}())
		require.NotContains(t, text, canary, name)
	}
	d, err := caches.ParseDSN("redis://app:" + canary + "@h")
	require.NoError(t, err)
	require.NotContains(t, paniced(d), canary)
	require.NotContains(t, paniced(fmt.Errorf("dsn %v: %w", d, caches.ErrNoConnection)), canary)
}

// What a real server, or a real network, has to say of a secret.
func TestCanaryInDialFailures(t *testing.T) {
	t.Parallel()
	plain := testutil.Redis(t, &testutil.RedisOptions{
		Password: canary + "-of-default",
		ACL:      []string{"user reader on >" + canary + " ~* -@all +get", "user off off >" + canary + " ~* +@all"},
	})
	secured := testutil.Redis(t, &testutil.RedisOptions{TLS: true, Password: canary})
	unguarded := testutil.Redis(t, nil)
	silent := testutil.NewProxy(t, plain.Addr())
	silent.DropReplies(true)
	cut := testutil.NewProxy(t, plain.Addr())
	cut.CutReply(3)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	ca := "tls_ca=" + url.QueryEscape(secured.CAFile())
	for name, dsn := range map[string]string{
		"wrong password":          "redis://:" + canary + "@" + plain.Addr(),
		"wrong password of user":  "redis://reader:" + canary + "x@" + plain.Addr(),
		"unknown user":            "redis://" + canary + ":" + canary + "@" + plain.Addr(),
		"user switched off":       "redis://off:" + canary + "@" + plain.Addr(),
		"not permitted":           "redis://reader:" + canary + "@" + plain.Addr(),
		"no password where asked": "redis://" + plain.Addr() + "?prefix=x",
		"password where not":      "redis://:" + canary + "@" + unguarded.Addr(),
		"no such database":        "redis://:" + canary + "-of-default@" + plain.Addr() + "/4711",
		"connection refused":      "redis://:" + canary + "@" + closed.Addr().String(),
		"no such host":            "redis://:" + canary + "@no-such-host.invalid",
		"no such socket":          "redis+unix://:" + canary + "@/nowhere/redis.sock",
		"no answer":               "redis://:" + canary + "@" + silent.Addr(),
		"cut answer":              "redis://:" + canary + "@" + cut.Addr(),
		"TLS to a plain server":   "rediss://:" + canary + "@" + plain.Addr() + "?" + ca,
		"plain to a TLS server":   "redis://:" + canary + "@" + secured.Addr(),
		"unknown authority":       "rediss://:" + canary + "@" + secured.Addr(),
		"another name":            "rediss://:" + canary + "@" + secured.Addr() + "?tls_server_name=other&" + ca,
		"TLS, wrong password":     "rediss://:x" + canary + "@" + secured.Addr() + "?" + ca,
	} {
		sep := "?"
		if strings.Contains(dsn, "?") {
			sep = "&"
		}
		timeout := "300ms"
		if name == "no answer" {
			timeout = "50ms" // of each call
		}
		conn, err := caches.Open(dsn + sep + "timeout=" + timeout)
		require.NoError(t, err, name)
		value := caches.Cache[string]{Prefix: "c"}.On(conn).Key("a")
		err = value.Set(t.Context(), canary)
		assert.Error(t, err, name)
		requireQuiet(t, name, err)
		requireQuiet(t, name, conn.Ping(t.Context()))
		requireQuiet(t, name, conn.UnsafeFlush(t.Context()))
		_, err = caches.GetMany(t.Context(), caches.Cache[string]{Prefix: "c"}.On(conn), []int{1, 2})
		requireQuiet(t, name, err)
		require.NoError(t, conn.Close())
	}
}

// The drivers' own types, for who uses them without this package.
func TestCanaryInDrivers(t *testing.T) {
	c := redigo.Config{Address: "127.0.0.1:1", Username: canary, Password: canary, Timeout: 50 * time.Millisecond}
	// Its Password is a field for the caller to fill: where it is unexported in
	// something else, reflection reads past every method.
	requireHidden(t, "Config", logged(t, c)+logged(t, &c)+fmt.Sprintf("%d %t", c, &c))

	store, err := redigo.Open(c)
	require.NoError(t, err)
	requireQuiet(t, "Store", store)
	requireQuiet(t, "Store.Stats", store.Stats())
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.Cmd("GET").Key("a")
	requireQuiet(t, "Store.Do", store.Do(t.Context(), p))
	require.NoError(t, store.Close())

	for _, bad := range []redigo.Config{
		{Address: "redis://app:" + canary + "@h"}, {Address: "app:" + canary + "@h:1", Password: canary},
		{Network: "udp", Address: "h:1", Password: canary}, {Address: "h:1", Password: canary, DB: -1},
		{Address: "h:1", Password: canary, ClientName: canary + " "},
	} {
		_, err := redigo.Open(bad)
		require.Error(t, err)
		requireQuiet(t, "redigo.Open", err)
		assertNoCanary(t, fmt.Sprintf("%v %+v %#v", bad, bad, bad))
	}

	server := testutil.Redis(t, &testutil.RedisOptions{Password: canary})
	conn, err := caches.ConnOptions{}.OpenPools(map[string]*redis.Pool{"pool": &redis.Pool{Dial: func() (redis.Conn, error) {
		return redis.Dial("tcp", server.Addr(), redis.DialPassword(canary+"x"))
	}}})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	requireQuiet(t, "Conn over a pool", conn)
	err = conn.Ping(t.Context())
	require.Error(t, err)
	requireQuiet(t, "a pool's dial failure", err)
}

// What a server says of a command may repeat the command's arguments, which are
// the caller's data: a message that is not known to be a fixed sentence is not
// shown. Nor is a stored value that does not decode.
func TestCanaryInData(t *testing.T) {
	ctx, server := t.Context(), testutil.Redis(t, nil)
	conn := open(t, server.DSN())
	for _, cmd := range [][]any{
		{"NOSUCHCOMMAND", canary, canary},
		{"EVAL", "return redis.error_reply('ERR ' .. ARGV[1])", 0, canary},
		{"EVAL", "error(ARGV[1])", 0, canary},
		{"CONFIG", "SET", "maxmemory", canary},
		{"CONFIG", "GET" + canary},
		{"SET", "k", "v", canary},
		{"OBJECT", canary, "k"},
		{"EXPIRE", "k", canary},
		{"INCRBY", "k", canary},
	} {
		_, err := conn.Do(ctx, cmd[0].(string), cmd[1:]...)
		require.Error(t, err, cmd[0])
		requireHidden(t, fmt.Sprint(cmd[0]), logged(t, err))
		requireHidden(t, fmt.Sprint(cmd[0]), logged(t, &caches.OpError{Op: "Op", Err: errors.Join(err, err)}))
	}

	o := caches.Options{Prefix: "c", Serializer: caches.Raw}
	texts := caches.Cache[string](o).On(conn)
	o.Serializer = nil
	number := "4172953286004711" // a value that only the test knows, as a number
	for name, tt := range map[string]struct {
		stored string
		read   func(caches.Options) error
	}{
		"not JSON":        {canary, func(o caches.Options) error { return readAs[int](ctx, conn, o) }},
		"another type":    {`"` + canary + `"`, func(o caches.Options) error { return readAs[int](ctx, conn, o) }},
		"another field":   {`{"A":"` + canary + `"}`, func(o caches.Options) error { return readAs[reading](ctx, conn, o) }},
		"a quoted number": {`{"B":"` + canary + `"}`, func(o caches.Options) error { return readAs[reading](ctx, conn, o) }},
		"a time":          {`"` + canary + `"`, func(o caches.Options) error { return readAs[time.Time](ctx, conn, o) }},
		"a large number":  {number, func(o caches.Options) error { return readAs[int8](ctx, conn, o) }},
		"a large field":   {`{"N":` + number + `}`, func(o caches.Options) error { return readAs[reading](ctx, conn, o) }},
		"a map's key":     {`{"M":{"` + canary + `":1}}`, func(o caches.Options) error { return readAs[reading](ctx, conn, o) }},
		"raw": {canary, func(o caches.Options) error {
			o.Serializer = caches.Raw
			return readAs[int](ctx, conn, o)
		}},
		"gob": {canary, func(o caches.Options) error {
			o.Serializer = caches.Gob
			return readAs[int](ctx, conn, o)
		}},
		"a raw time": {canary, func(o caches.Options) error {
			o.Serializer = caches.Raw
			return readAs[time.Time](ctx, conn, o)
		}},
		"a raw number": {canary, func(o caches.Options) error {
			_, err := caches.CounterCache[int](o).On(conn).Key("a").Incr(ctx, 1)
			return err
		}},
	} {
		require.NoError(t, texts.Key("a").Set(ctx, tt.stored))
		err := tt.read(o)
		require.Error(t, err, name)
		require.True(t, errors.Is(err, caches.ErrCorrupt) || errors.Is(err, caches.ErrNotNumber), "%s: %v", name, err)
		text := logged(t, err)
		requireHidden(t, name, text)
		require.NotContains(t, text, number, name)
		require.Contains(t, err.Error(), `"c.a"`, "the key is what one looks for")
	}
}

// logged is v as a program that means no harm prints it: like shown, but for
// the unexported fields of others, which reflection reads past every method.
func logged(t *testing.T, v any) string {
	t.Helper()
	var b strings.Builder
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x") {
		fmt.Fprintf(&b, verb+"\n", v)
		fmt.Fprintf(&b, verb+"\n", []any{v, map[string]any{"k": v}})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Error("m", "v", v, slog.Group("g", "v", v))
	}
	text, err := json.Marshal(map[string]any{"v": v})
	require.NoError(t, err)
	return b.String() + string(text) + paniced(v) + fmt.Errorf("wrapped: %v", v).Error()
}

// A reading has the fields that values are read into.
type reading struct {
	A int
	B int `json:",string"`
	N int8
	M map[int]int
}

// readAs reads the value at a key as a T.
func readAs[T any](ctx context.Context, conn *caches.Conn, o caches.Options) error {
	_, err := caches.Cache[T](o).On(conn).Key("a").Get(ctx)
	return err
}

// Members that do not decode are as private as values.
func TestCanaryInMembers(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	o := caches.Options{Prefix: "c"}
	_, err := caches.SetCache[string](o).On(conn).Key("s").Add(ctx, canary)
	require.NoError(t, err)
	require.NoError(t, caches.DictCache[string, string](o).On(conn).Key("d").Set(ctx, canary, canary))
	_, err = caches.SortedSetCache[string](o).On(conn).Key("z").Add(ctx, caches.Scored[string]{Score: 1, Member: canary})
	require.NoError(t, err)
	_, err = caches.ListCache[string](o).On(conn).Key("l").PushBack(ctx, canary)
	require.NoError(t, err)
	errs := make(map[string]error)
	_, errs["elements"] = caches.ListCache[int](o).On(conn).Key("l").PopFrontN(ctx, 1)
	_, errs["ints"] = caches.SetCache[int](o).On(conn).Key("s").Copy(ctx)
	_, errs["times"] = caches.SetCache[time.Time](o).On(conn).Key("s").Copy(ctx)
	_, errs["structs"] = caches.SetCache[point](o).On(conn).Key("s").Copy(ctx)
	_, errs["fields"] = caches.DictCache[int, string](o).On(conn).Key("d").Copy(ctx)
	_, errs["values"] = caches.DictCache[string, int](o).On(conn).Key("d").Copy(ctx)
	_, errs["scored"] = caches.SortedSetCache[int](o).On(conn).Key("z").Range(ctx, 0, -1)
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		require.ErrorIs(t, errs[name], caches.ErrCorrupt, name)
		require.NotContains(t, errs[name].Error(), canary, name)
	}
}
