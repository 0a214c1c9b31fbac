package caches_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A recorder is a store that keeps the commands that it is given and answers
// each with OK, or as told.
type recorder struct {
	dsn *caches.DSN

	mu     sync.Mutex
	lines  []string
	names  []string
	err    error
	answer func(cmd driver.Command, r *driver.Replies)
	closed int
}

func newRecorder(d *caches.DSN) *recorder { return &recorder{dsn: d} }

func (r *recorder) Do(_ context.Context, p *driver.Pipeline) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range p.Len() {
		cmd := p.Command(i)
		r.lines = append(r.lines, fmt.Sprintf("%q", cmd.Args))
		r.names = append(r.names, cmd.Name())
		switch {
		case r.err != nil || r.closed > 0:
		case r.answer != nil:
			r.answer(cmd, p.Replies())
		case cmd.Name() == "SCAN":
			p.Replies().Array(2)
			p.Replies().String("0")
			p.Replies().Array(0)
		default:
			p.Replies().Status("OK")
		}
	}
	if r.closed > 0 {
		return driver.ErrUnavailable
	}
	return r.err
}

func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed++
	return nil
}

func (r *recorder) fail(err error) { r.mu.Lock(); defer r.mu.Unlock(); r.err = err }

func (r *recorder) commands() []string { r.mu.Lock(); defer r.mu.Unlock(); return r.names }

func (r *recorder) closes() int { r.mu.Lock(); defer r.mu.Unlock(); return r.closed }

// connOver returns a connection of one shard.
func connTo(t testing.TB, store driver.Store) *caches.Conn {
	t.Helper()
	c, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"only": store})
	require.NoError(t, err)
	return c
}

// fromEnv returns the registry of an environment, closed when the test ends.
func fromEnv(t *testing.T, environ ...string) *caches.Registry {
	t.Helper()
	r := caches.FromEnv(environ)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// useDefault makes r the default registry for the time of a test, which must
// not be parallel.
func useDefault(t *testing.T, r *caches.Registry) {
	t.Helper()
	old := caches.Default()
	caches.SetDefault(r)
	t.Cleanup(func() { caches.SetDefault(old) })
}

func TestFromEnvNames(t *testing.T) {
	r := fromEnv(t,
		"CACHES_DSN=locmem://?node=a",
		"CACHES_DSN_2=locmem://?node=c", // a gap hides nothing
		"CACHES_DSN_10=locmem://?node=b",
		"CACHES_DSN_SESSIONS=locmem://?node=d",
		"CACHES_DSN_7=locmem://?node=e#sessions",
		"CACHES_DSN_Other_One=locmem://",
		"CACHES_DSN_RENAMED=locmem://#Boards",
		"CACHES_DSN_3=",
		"OTHER=x",
	)
	assert.Equal(t, []string{"", "Boards", "other_one", "sessions"}, r.Names())
	for name, shards := range map[string][]string{
		"": {"a", "b", "c"}, "sessions": {"d", "e"}, "other_one": {"locmem"}, "Boards": {"locmem"},
	} {
		c, err := r.Connection(name)
		require.NoError(t, err)
		assert.Equal(t, name, c.Name())
		assert.Equal(t, shards, c.Shards(), name)
	}
	require.NoError(t, r.Ping(t.Context()))
}

func TestFromEnvDefaults(t *testing.T) {
	r := fromEnv(t, "CACHES_DSN=locmem://", "CACHES_DSN_X=locmem://?prefix=own", "CACHES_PREFIX=app", "CACHES_VERSION=v2", "CACHES_TTL=1h", "GORACE=atexit_sleep_ms=0")
	for name, want := range map[string]string{"": "app.v2.p.1", "x": "own.v2.p.1"} {
		c, err := r.Connection(name)
		require.NoError(t, err)
		object := caches.Cache[int]{Prefix: "p"}.On(c).Key(1)
		assert.Equal(t, want, object.String())
		require.NoError(t, object.Set(t.Context(), 1))
		ttl, err := object.ExpiresIn(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, time.Hour, ttl, float64(time.Minute))
	}
}

// An environment that is handed in is all that counts.
func TestFromEnvReadsOnlyWhatItIsGiven(t *testing.T) {
	t.Setenv("CACHES_DSN", "locmem://?node=process")
	t.Setenv("CACHES_PREFIX", "process")
	assert.Empty(t, caches.FromEnv([]string{}).Names())

	c, err := fromEnv(t, "CACHES_DSN=locmem://").Connection("")
	require.NoError(t, err)
	assert.Equal(t, "k", caches.Cache[int]{}.On(c).Key("k").String())

	process := caches.FromEnv(nil)
	defer process.Close()
	c, err = process.Connection("")
	require.NoError(t, err)
	assert.Equal(t, []string{"process"}, c.Shards())
	assert.Equal(t, "process.k", caches.Cache[int]{}.On(c).Key("k").String())
}

// A DSN that is wrong is the error of its own name, and of no other.
func TestFromEnvKeepsErrors(t *testing.T) {
	r := fromEnv(t,
		"CACHES_DSN=locmem://",
		"CACHES_DSN_A=redis://h:x",
		"CACHES_DSN_2=ftp://h#b",
		"CACHES_DSN_3=locmem://#c", "CACHES_DSN_4=locmem://?ttl=0#c", "CACHES_DSN_5=locmem://?maxsize=x#c",
		"CACHES_DSN_D=locmem://?node=x&ttl=1", "CACHES_DSN_6=locmem://?node=y&ttl=2#d",
	)
	assert.Equal(t, []string{"", "a", "b", "c", "d"}, r.Names())
	_, err := r.Connection("")
	require.NoError(t, err)
	_, err = r.Connection("a")
	require.ErrorContains(t, err, "CACHES_DSN_A: caches: dsn: host 1: the port")
	_, err = r.Connection("b")
	require.ErrorContains(t, err, `CACHES_DSN_2: caches: dsn: unknown scheme "ftp"`)
	_, err = r.Connection("c")
	require.ErrorContains(t, err, "CACHES_DSN_4: ")
	require.ErrorContains(t, err, "CACHES_DSN_5: ")
	_, err = r.Connection("d")
	require.ErrorContains(t, err, "disagree on ttl")

	err = r.Ping(t.Context())
	require.ErrorContains(t, err, `connection "a": CACHES_DSN_A: `)
	require.ErrorContains(t, err, `connection "d": caches: the shards`)
	require.NotContains(t, err.Error(), "(the default one)")
}

func TestNoConnection(t *testing.T) {
	for _, tt := range []struct {
		environ    []string
		name, want string
	}{
		{nil, "", "caches: no connection (the default one): set CACHES_DSN or call Configure"},
		{nil, "sessions", `caches: no connection "sessions": set CACHES_DSN_SESSIONS or call Configure`},
		{nil, "my-boards", `caches: no connection "my-boards": set CACHES_DSN_1, or any other number, to a DSN that ends in #my-boards, or call Configure`},
		{nil, "Upper", `caches: no connection "Upper": set CACHES_DSN_1, or any other number, to a DSN that ends in #Upper, or call Configure`},
		{nil, "42", `caches: no connection "42": set CACHES_DSN_1, or any other number, to a DSN that ends in #42, or call Configure`},
		{[]string{"CACHES_DSN=locmem://", "CACHES_DSN_B=x"}, "a", `caches: no connection "a": set CACHES_DSN_A or call Configure; there are: "", "b"`},
	} {
		_, err := fromEnv(t, append(tt.environ, "X=")...).Connection(tt.name)
		require.ErrorIs(t, err, caches.ErrNoConnection)
		assert.EqualError(t, err, tt.want)
	}
}

func TestNewRegistry(t *testing.T) {
	r, err := caches.NewRegistry("locmem://?node=a", "locmem://#x", "locmem://?node=b")
	require.NoError(t, err)
	defer r.Close()
	assert.Equal(t, []string{"", "x"}, r.Names())
	c, err := r.Connection("")
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b"}, c.Shards())
	assert.Equal(t, `caches.Registry("", "x")`, r.String())
	assert.Equal(t, r.String(), fmt.Sprintf("%#v", r))

	r, err = caches.NewRegistry("locmem://", "ftp://", "redis://:x#y")
	require.ErrorContains(t, err, `DSN 2: caches: dsn: unknown scheme "ftp"`)
	require.ErrorContains(t, err, "DSN 3: ")
	assert.Nil(t, r)

	r, err = caches.NewRegistry()
	require.NoError(t, err)
	assert.Empty(t, r.Names())
	require.NoError(t, r.Ping(t.Context()))
	require.NoError(t, r.Close())
}

func TestZeroRegistry(t *testing.T) {
	var r caches.Registry
	assert.Empty(t, r.Names())
	_, err := r.Connection("")
	require.ErrorIs(t, err, caches.ErrNoConnection)
	c := connTo(t, newRecorder(nil))
	r.SetConnection("", c)
	got, err := r.Connection("")
	require.NoError(t, err)
	assert.Same(t, c, got)
	r.SetConnection("", nil)
	assert.Empty(t, r.Names())
}

func TestConfigure(t *testing.T) {
	r := &caches.Registry{}
	useDefault(t, r)
	stays, goes, shared := newRecorder(nil), newRecorder(nil), newRecorder(nil)
	caches.Default().SetConnection("stays", connTo(t, stays))
	caches.Default().SetConnection("goes", connTo(t, goes))
	both := connTo(t, shared)
	caches.Default().SetConnection("one", both)
	caches.Default().SetConnection("other", both)

	err := caches.Configure("locmem://#goes", "nonsense")
	require.ErrorContains(t, err, "it has no scheme")
	require.NoError(t, caches.Ping(t.Context()), "on an error nothing has changed")
	assert.Zero(t, goes.closes())

	require.NoError(t, caches.Configure("locmem://?node=a#goes", "locmem://?node=b#goes", "locmem://", "locmem://#one"))
	defer func() { require.NoError(t, caches.Close()) }()
	assert.Equal(t, []string{"", "goes", "one", "other", "stays"}, caches.Default().Names())
	assert.Equal(t, 1, goes.closes(), "what was replaced is closed")
	assert.Zero(t, stays.closes())
	assert.Zero(t, shared.closes(), "it still has another name")
	c, err := caches.Connection("goes")
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b"}, c.Shards())

	require.NoError(t, caches.Configure(), "no DSN, no change")
	assert.Len(t, caches.Default().Names(), 5)
}

func TestRegistryClose(t *testing.T) {
	r := fromEnv(t, "CACHES_DSN=locmem://", "CACHES_DSN_BAD=x")
	set := newRecorder(nil)
	r.SetConnection("set", connTo(t, set))
	c, err := r.Connection("")
	require.NoError(t, err)
	require.NoError(t, r.Close())
	assert.Equal(t, 1, set.closes())
	require.ErrorIs(t, c.Ping(t.Context()), caches.ErrUnavailable)
	again, err := r.Connection("")
	require.NoError(t, err)
	assert.Same(t, c, again, "it keeps its name")
	err = r.Ping(t.Context())
	require.ErrorContains(t, err, "connection (the default one): shard locmem: ")
	require.ErrorContains(t, err, `connection "set": shard only: `)
	require.ErrorContains(t, err, `connection "bad": CACHES_DSN_BAD: `)
}

func TestDefault(t *testing.T) {
	useDefault(t, nil)
	t.Setenv("CACHES_DSN", "locmem://?node=first")
	r := caches.Default()
	defer r.Close()
	t.Setenv("CACHES_DSN", "locmem://?node=second")
	assert.Same(t, r, caches.Default(), "the environment is read once")
	c, err := caches.Connection("")
	require.NoError(t, err)
	assert.Equal(t, []string{"first"}, c.Shards())

	caches.SetDefault(nil)
	again := caches.Default()
	defer again.Close()
	c, err = again.Connection("")
	require.NoError(t, err)
	assert.Equal(t, []string{"second"}, c.Shards())
}

// However many ask at once, the default registry is made once.
func TestDefaultIsOne(t *testing.T) {
	useDefault(t, nil)
	var wg sync.WaitGroup
	got := make([]*caches.Registry, 16)
	for i := range got {
		wg.Go(func() { got[i] = caches.Default() })
	}
	wg.Wait()
	for _, r := range got {
		assert.Same(t, got[0], r)
	}
	require.NoError(t, got[0].Close())
}

func TestRegistryConcurrently(t *testing.T) {
	r := fromEnv(t, "CACHES_DSN=locmem://")
	var wg sync.WaitGroup
	for i := range 8 {
		name := "n" + strconv.Itoa(i%4)
		wg.Go(func() {
			for range 50 {
				assert.NoError(t, r.Configure("locmem://#"+name))
				r.SetConnection("set"+name, connTo(t, newRecorder(nil)))
			}
		})
		wg.Go(func() {
			for range 50 {
				c, err := r.Connection("")
				if assert.NoError(t, err) {
					assert.NoError(t, c.Ping(t.Context()))
				}
				if c, err := r.Connection(name); err == nil {
					_ = c.Ping(t.Context()) // it may have been closed by now
				}
				_ = r.Names()
				_ = r.String()
			}
		})
	}
	wg.Wait()
	assert.Len(t, r.Names(), 9)
}

func TestRegister(t *testing.T) {
	registerTestScheme()
	opener := func(*caches.DSN) (driver.Store, error) { return newRecorder(nil), nil }
	for name, want := range map[string]string{
		"":              `caches: Register: "" is not the name of a scheme`,
		"My":            `caches: Register: "My" is not the name of a scheme`,
		"a b":           `caches: Register: "a b" is not the name of a scheme`,
		"1a":            `caches: Register: "1a" is not the name of a scheme`,
		"redis":         `caches: Register: there is a scheme "redis" already`,
		"locmem":        `caches: Register: there is a scheme "locmem" already`,
		"redis+cluster": `caches: Register: there is a scheme "redis+cluster" already`,
		"test":          `caches: Register: there is a scheme "test" already`,
	} {
		assert.PanicsWithValue(t, want, func() { caches.Register(name, opener) })
	}
	assert.PanicsWithValue(t, `caches: Register: the opener of "nil-opener" is nil`, func() { caches.Register("nil-opener", nil) })

	c := open(t, "test://u:p@a,b:1?token=t&ttl=1h&router=ketama#n")
	assert.Equal(t, []string{"a", "b:1"}, c.Shards())
	assert.Equal(t, "n", c.Name())
	require.NoError(t, c.Ping(t.Context()))
	assert.Equal(t, []string{"test"}, open(t, "test://").Shards())

	_, err := caches.Open("test://a,b?fail=1")
	require.ErrorIs(t, err, errTestScheme)
	require.EqualError(t, err, "caches: open test://a: the test store does not open")
	_, err = caches.Open("test://?nil=1")
	require.EqualError(t, err, "caches: open test://: the opener of test returned no store")
	_, err = caches.ParseDSN("nonsense://")
	require.ErrorContains(t, err, "the schemes are dummy, locmem, redis, redis+cluster, redis+sentinel, redis+unix, rediss, rediss+cluster, rediss+sentinel, test")
}

// Nothing that prints a connection, a registry or options shows a password.
func TestConnectionsHideSecrets(t *testing.T) {
	r := fromEnv(t,
		"CACHES_DSN=redis://app:"+canary+"@127.0.0.1:1?timeout=50ms",
		"CACHES_DSN_B=redis://app:"+canary+"@h:x",
		"CACHES_DSN_C=rediss://"+canary+"@127.0.0.1:1?timeout=50ms",
		"CACHES_DSN_D=redis+unix://:"+canary+"@/nowhere/redis.sock?timeout=50ms",
		"CACHES_TTL=1h",
	)
	assertNoCanary(t, shown(t, r))
	for _, name := range r.Names() {
		c, err := r.Connection(name)
		if err != nil {
			assertNoCanary(t, shown(t, err))
			continue
		}
		assertNoCanary(t, shown(t, c))
		assertNoCanary(t, shown(t, *c)) //nolint:govet // a copy is what a careless log would make
		assertNoCanary(t, shown(t, c.Ping(t.Context())))
		_, err = c.Do(t.Context(), "GET", "k")
		require.Error(t, err)
		assertNoCanary(t, shown(t, err))
	}
	_, err := fromEnv(t, "CACHES_DSN=locmem://", "CACHES_TTL="+canary, "CACHES_CONNS="+canary).Connection("")
	require.ErrorContains(t, err, "CACHES_TTL is neither a duration")
	assertNoCanary(t, shown(t, err))
	assertNoCanary(t, shown(t, caches.ConnOptions{Credentials: func(context.Context) (caches.Credentials, error) {
		return caches.Credentials{Username: "u", Password: canary}, nil
	}}))
	assertNoCanary(t, shown(t, &caches.ConnOptions{Credentials: func(context.Context) (caches.Credentials, error) {
		return caches.Credentials{Username: "u", Password: canary}, nil
	}}))
}

// Importing the package reads no environment and starts no goroutine. A process
// of its own shows it, in which nothing has run before.
func TestImportIsQuiet(t *testing.T) {
	if os.Getenv("CACHES_TEST_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestImportIsQuiet$")
		cmd.Env = append(os.Environ(), "CACHES_TEST_CHILD=1", "CACHES_DSN=nonsense", "CACHES_DSN_GONE=locmem://", "CACHES_TTL=1h")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), 2, "main and this test")
	require.NoError(t, errors.Join(os.Setenv("CACHES_DSN", "locmem://"), os.Unsetenv("CACHES_DSN_GONE"), os.Setenv("CACHES_TTL", "")))
	assert.Equal(t, []string{""}, caches.Default().Names())
	require.NoError(t, caches.Ping(t.Context()))
	require.NoError(t, caches.Close())
}
