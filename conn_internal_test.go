package caches

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What objects stand on is not exported, so that its tests are inside.

// A storeFunc is a store that is its Do.
type storeFunc func(ctx context.Context, p *driver.Pipeline) error

func (f storeFunc) Do(ctx context.Context, p *driver.Pipeline) error { return f(ctx, p) }
func (storeFunc) Close() error                                       { return nil }

// connOver returns a connection over shards "0", "1", … with one Do.
func connOver(t testing.TB, n int, o ConnOptions, do func(shard int, p *driver.Pipeline) error) *Conn {
	t.Helper()
	stores := make(map[string]driver.Store, n)
	for i := range n {
		stores[strconv.Itoa(i)] = storeFunc(func(_ context.Context, p *driver.Pipeline) error { return do(i, p) })
	}
	c, err := o.OpenStores(stores)
	require.NoError(t, err)
	return c
}

func idle(int, *driver.Pipeline) error { return nil }

func TestFront(t *testing.T) {
	for _, tt := range []struct{ prefix, version, own, other string }{
		{"", "", "", "v9."},
		{"app", "", "app.", "app.v9."},
		{"", "v1", "v1.", "v9."},
		{"app", "v1", "app.v1.", "app.v9."},
	} {
		c := connOver(t, 1, ConnOptions{Prefix: tt.prefix, Version: tt.version}, idle)
		assert.Equal(t, tt.own, c.front(""))
		assert.Equal(t, tt.other, c.front("v9"))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _ = c.front("") }))
	}
}

func TestDefaultTTL(t *testing.T) {
	assert.Zero(t, connOver(t, 1, ConnOptions{}, idle).defaultTTL())
	assert.Zero(t, connOver(t, 1, ConnOptions{TTL: Forever}, idle).defaultTTL())
	assert.Equal(t, time.Hour, connOver(t, 1, ConnOptions{TTL: time.Hour}, idle).defaultTTL())
	c, err := ConnOptions{TTL: Forever}.Open("locmem://?ttl=1h")
	require.NoError(t, err)
	defer c.Close()
	assert.Zero(t, c.defaultTTL(), "code wins")
}

// A key is routed the same in one piece and in two, wherever it is cut.
func TestShardOfPieces(t *testing.T) {
	for _, router := range []Router{CRC32, Ketama} {
		c := connOver(t, 7, ConnOptions{Router: router}, idle)
		for _, key := range []string{"app.v1.profile.42", "a{user}b", "a.{}.{x}", "{open", "close}", strings.Repeat("long", 100)} {
			for i := range len(key) {
				require.Equal(t, c.shardOf("", key), c.shardOf(key[:i], key[i:]), "%T: %q + %q", router, key[:i], key[i:])
			}
		}
		assert.Zero(t, testing.AllocsPerRun(100, func() { c.shardOf("app.v1.", "profile.42.settings") }), "%T", router)
		assert.Zero(t, testing.AllocsPerRun(100, func() { c.shardOf("app.v1.", "{user}.settings") }), "%T", router)
	}
	assert.Zero(t, connOver(t, 1, ConnOptions{}, idle).shardOf("a", "b"))
}

func TestGroup(t *testing.T) {
	c := connOver(t, 4, ConnOptions{}, idle)
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "key." + strconv.Itoa(i)
	}
	groups, seen := c.group("app.", keys), 0
	require.Len(t, groups, len(c.shards))
	for shard, indices := range groups {
		assert.True(t, slices.IsSorted(indices), "in their order")
		for _, i := range indices {
			assert.Equal(t, shard, c.shardOf("app.", keys[i]))
			seen++
		}
	}
	assert.Equal(t, len(keys), seen)
	assert.Equal(t, [][]int{{0, 1}}, connOver(t, 1, ConnOptions{}, idle).group("", keys[:2]))
	assert.Equal(t, [][]int{nil, nil}, connOver(t, 2, ConnOptions{}, idle).group("", nil))
}

func TestDoEach(t *testing.T) {
	failed := errors.New("shard 2 failed")
	var mu sync.Mutex
	var ran []int
	c := connOver(t, 4, ConnOptions{}, func(shard int, p *driver.Pipeline) error {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, shard)
		if shard == 2 {
			return failed
		}
		return nil
	})
	pipelines := func(shards ...int) []*driver.Pipeline {
		ran = nil
		ps := make([]*driver.Pipeline, 4)
		for _, i := range shards {
			ps[i] = driver.NewPipeline(0)
		}
		return ps
	}
	assert.Nil(t, c.doEach(t.Context(), pipelines()))
	assert.Empty(t, ran)
	assert.Nil(t, c.doEach(t.Context(), pipelines(1)))
	assert.Equal(t, []int{1}, ran)
	assert.Nil(t, c.doEach(t.Context(), pipelines(0, 1, 3)))
	assert.ElementsMatch(t, []int{0, 1, 3}, ran)
	assert.Equal(t, []error{nil, nil, failed, nil}, c.doEach(t.Context(), pipelines(1, 2)))
	assert.ElementsMatch(t, []int{1, 2}, ran)

	one := connOver(t, 1, ConnOptions{}, func(int, *driver.Pipeline) error { return failed })
	assert.Nil(t, one.doEach(t.Context(), make([]*driver.Pipeline, 1)))
	assert.Equal(t, []error{failed}, one.doEach(t.Context(), pipelines(0)[:1]))
}

// All shards of a call are under way at once: each waits for the others.
func TestDoEachIsParallel(t *testing.T) {
	const shards = 4
	var met sync.WaitGroup
	met.Add(shards)
	c := connOver(t, shards, ConnOptions{}, func(int, *driver.Pipeline) error { met.Done(); met.Wait(); return nil })
	ps := make([]*driver.Pipeline, shards)
	for i := range ps {
		ps[i] = driver.NewPipeline(0)
	}
	assert.Nil(t, c.doEach(t.Context(), ps))
}

func TestResolve(t *testing.T) {
	pinned, inContext, named := connOver(t, 1, ConnOptions{}, idle), connOver(t, 1, ConnOptions{}, idle), connOver(t, 1, ConnOptions{}, idle)
	r := &Registry{}
	r.SetConnection("n", named)
	old := Default()
	SetDefault(r)
	defer SetDefault(old)
	ctx := WithConn(t.Context(), inContext)
	for _, tt := range []struct {
		ctx    context.Context
		pinned *Conn
		want   *Conn
	}{
		{ctx, pinned, pinned},
		{ctx, nil, inContext},
		{WithConn(ctx, nil), nil, named},
		{t.Context(), nil, named},
	} {
		got, err := resolve(tt.ctx, tt.pinned, "n")
		require.NoError(t, err)
		assert.Same(t, tt.want, got)
	}
	_, err := resolve(t.Context(), nil, "other")
	require.ErrorIs(t, err, ErrNoConnection)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = resolve(ctx, nil, "n") }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = resolve(context.Background(), nil, "n") }))
}

func BenchmarkResolve(b *testing.B) {
	c := connOver(b, 1, ConnOptions{}, idle)
	r := &Registry{}
	for i := range 8 {
		r.SetConnection("connection"+strconv.Itoa(i), c)
	}
	r.SetConnection("", c)
	old := Default()
	SetDefault(r)
	defer SetDefault(old)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = resolve(ctx, nil, "")
	}
}

// What the options of a DSN mean, as the drivers are told.
func TestDSNOptions(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  options
	}{
		{"", options{}},
		{"ttl=90s", options{ttl: 90 * time.Second}},
		{"ttl=3600", options{ttl: time.Hour}},
		{"ttl=1h30m", options{ttl: 90 * time.Minute}},
		{"timeout=250ms&connect_timeout=2", options{timeout: 250 * time.Millisecond, connectTimeout: 2 * time.Second}},
		{"prefix=a%20b&version=v1", options{prefix: "a b", version: "v1"}},
		{"key_prefix=a", options{prefix: "a"}},
		{"router=ketama&node=x", options{router: "ketama", node: "x"}},
		{"conns=3", options{conns: 3}},
		{"minsize=2&maxsize=3", options{minsize: 2, maxsize: 3}},
		{"client_name=web", options{clientName: "web"}},
		{"allow_no_auth=1&tls_insecure=true", options{allowNoAuth: true, tlsInsecure: true}},
		{"allow_no_auth=false&tls_insecure=0", options{}},
		{"tls_ca=a&tls_cert=b&tls_key=c&tls_server_name=d", options{tlsCA: "a", tlsCert: "b", tlsKey: "c", tlsServerName: "d"}},
	} {
		d, err := ParseDSN("rediss://h?" + tt.query)
		require.NoError(t, err, tt.query)
		assert.Equal(t, tt.want, d.options, tt.query)
	}
	d, err := ParseDSN("locmem://?maxsize=3")
	require.NoError(t, err)
	assert.Equal(t, options{maxsize: 3}, d.options, "entries, not connections")
}

// The scalar variables stand in where the DSNs of a connection are silent.
func TestEnvironmentDefaults(t *testing.T) {
	s := settings{TTL: "1h", Prefix: "p", Version: "v", Timeout: "2", ConnectTimeout: "3s", Conns: "5"}
	parse := func(all ...string) (dsns []*DSN) {
		for _, text := range all {
			d, err := ParseDSN(text)
			require.NoError(t, err)
			dsns = append(dsns, d)
		}
		return dsns
	}
	all := parse("redis://a", "redis://b?ttl=1m&timeout=9&conns=7", "locmem://c")
	require.NoError(t, s.fill(all))
	assert.Equal(t, options{prefix: "p", version: "v", timeout: 2 * time.Second, connectTimeout: 3 * time.Second, conns: 5}, all[0].options,
		"the ttl is that of the connection's other shard")
	assert.Equal(t, options{ttl: time.Minute, prefix: "p", version: "v", timeout: 9 * time.Second, connectTimeout: 3 * time.Second, conns: 7}, all[1].options)
	assert.Equal(t, options{prefix: "p", version: "v"}, all[2].options, "locmem has no timeouts")

	assert.EqualError(t, settings{TTL: "0"}.fill(parse("redis://a")), "caches: CACHES_TTL is 0: leave it out to never expire")
}

func TestProcessSettings(t *testing.T) {
	t.Setenv("CACHES_TTL", "1h")
	t.Setenv("CACHES_PREFIX", "p")
	t.Setenv("CACHES_VERSION", "v")
	t.Setenv("CACHES_TIMEOUT", "2")
	t.Setenv("CACHES_CONNECT_TIMEOUT", "3s")
	t.Setenv("CACHES_CONNS", "5")
	t.Setenv("TTL", "never looked at")
	want := settings{TTL: "1h", Prefix: "p", Version: "v", Timeout: "2", ConnectTimeout: "3s", Conns: "5"}
	assert.Equal(t, want, processSettings())
	assert.Equal(t, want, environSettings(variables([]string{
		"CACHES_TTL=1h", "CACHES_PREFIX=p", "CACHES_VERSION=v", "CACHES_TIMEOUT=2", "CACHES_CONNECT_TIMEOUT=3s", "CACHES_CONNS=5",
	})), "an environment that is handed in means the same")
}

func TestEnvironmentOrder(t *testing.T) {
	vars := variables([]string{
		"CACHES_DSN_10=j", "CACHES_DSN_2=b", "CACHES_DSN_SESSIONS=s", "CACHES_DSN=a", "CACHES_DSN_02=bb", "CACHES_DSN_x=x",
		"CACHES_DSN_3=  ", "CACHES_DSN_4=old", "CACHES_DSN_4=", "CACHES_DSN_99999999999999999999=big", "XCACHES_DSN_5=no", "CACHES_DSNX=no", "no",
		"CACHES_DSN_7=old", "CACHES_DSN_7= new=1\n",
	})
	var order []string
	for _, s := range envSources(vars) {
		order = append(order, s.from+"="+s.text)
	}
	assert.Equal(t, []string{
		"CACHES_DSN=a", "CACHES_DSN_02=bb", "CACHES_DSN_2=b", "CACHES_DSN_7=new=1", "CACHES_DSN_10=j",
		"CACHES_DSN_99999999999999999999=big", "CACHES_DSN_SESSIONS=s", "CACHES_DSN_x=x",
	}, order)
}
