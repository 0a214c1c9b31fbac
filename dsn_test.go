package caches_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// canary is a password that nothing may show. It is part of no other text.
const canary = "hunter2-canary"

func TestParseDSN(t *testing.T) {
	registerTestScheme()
	for _, tt := range []struct{ dsn, want string }{
		// hosts and ports
		{"redis://", "redis://localhost:6379/0"},
		{"redis:///", "redis://localhost:6379/0"},
		{"redis://h", "redis://h:6379/0"},
		{"REDIS://h", "redis://h:6379/0"},
		{"redis://h:", "redis://h:6379/0"},
		{"redis://:6380", "redis://localhost:6380/0"},
		{"redis://h:1", "redis://h:1/0"},
		{"redis://h:65535", "redis://h:65535/0"},
		{"redis://10.0.0.1:6379", "redis://10.0.0.1:6379/0"},
		{"redis://my_host-1.example.com", "redis://my_host-1.example.com:6379/0"},
		{"redis://[::1]", "redis://[::1]:6379/0"},
		{"redis://[::1]:6380/2", "redis://[::1]:6380/2"},
		{"redis://[fe80::1%25eth0]:1", "redis://[fe80::1%25eth0]:1/0"},
		{"redis://a,b:2,[::1]:3", "redis://a:6379,b:2,[::1]:3/0"},
		{"redis://a,:2", "redis://a:6379,localhost:2/0"},
		{"rediss://h", "rediss://h:6379/0"},
		// databases and names
		{"redis://h/0", "redis://h:6379/0"},
		{"redis://h/15", "redis://h:6379/15"},
		{"redis://h/007", "redis://h:6379/7"},
		{"redis://h#sessions", "redis://h:6379/0#sessions"},
		{"redis://h/1?ttl=5#Leader-Boards_2.eu", "redis://h:6379/1#Leader-Boards_2.eu"},
		{"redis://h#", "redis://h:6379/0"},
		// users and passwords
		{"redis://app:" + canary + "@h", "redis://h:6379/0"},
		{"redis://:" + canary + "@h", "redis://h:6379/0"},
		{"redis://" + canary + "@h", "redis://h:6379/0"},
		{"redis://app:" + canary + "@", "redis://localhost:6379/0"},
		{"redis://app:%40%3A%2F%23%3F%25%20" + canary + "@a,b/1", "redis://a:6379,b:6379/1"},
		{"redis://app:p@ss:w@h", "redis://h:6379/0"},
		{"redis://app:@h?allow_no_auth=1", "redis://h:6379/0"},
		{"redis://:@h?allow_no_auth=true", "redis://h:6379/0"},
		// sockets
		{"redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"},
		{"redis+unix:///run/redis.sock?db=1", "redis+unix:///run/redis.sock?db=1"},
		{"redis+unix://app:" + canary + "@/run/redis.sock?db=0#s", "redis+unix:///run/redis.sock#s"},
		{"redis+unix:///run/a%20b%23%3F%25%40", "redis+unix:///run/a b%23%3F%25%40"},
		// clusters and Sentinels
		{"redis+cluster://", "redis+cluster://localhost:6379"},
		{"redis+cluster://a,b:2/0?replicas=1#x", "redis+cluster://a:6379,b:2#x"},
		{"rediss+cluster://app:" + canary + "@a?tls_ca=x", "rediss+cluster://a:6379"},
		{"redis+sentinel://s1,s2:1/mymaster", "redis+sentinel://s1:26379,s2:1/mymaster/0"},
		{"redis+sentinel:///m-1/3#x", "redis+sentinel://localhost:26379/m-1/3#x"},
		{"rediss+sentinel://app:" + canary + "@s/m/0?sentinel_user=u&sentinel_password=" + canary + "&tls_insecure=1", "rediss+sentinel://s:26379/m/0"},
		// stores in this process
		{"locmem://", "locmem://"},
		{"locmem:///", "locmem://"},
		{"locmem://sessions", "locmem://sessions"},
		{"locmem://a,b#x", "locmem://a,b#x"},
		{"locmem://a?maxsize=10", "locmem://a"},
		{"dummy://", "dummy://"},
		{"dummy://?ttl=1h#x", "dummy://#x"},
		// options
		{"redis://h?ttl=90s", "redis://h:6379/0"},
		{"redis://h?ttl=3600", "redis://h:6379/0"},
		{"redis://h?ttl=1h30m", "redis://h:6379/0"},
		{"redis://h?", "redis://h:6379/0"},
		{"redis://h?&ttl=1&&", "redis://h:6379/0"},
		{"redis://h?prefix=app&version=v2", "redis://h:6379/0"},
		{"redis://h?key_prefix=app", "redis://h:6379/0"},
		{"redis://h?router=crc32", "redis://h:6379/0"},
		{"redis://h?router=ketama&node=cache01", "redis://h:6379/0"},
		{"redis://h?node=other:6379/0", "redis://h:6379/0"},
		{"redis://h?conns=8&timeout=500ms&connect_timeout=2", "redis://h:6379/0"},
		{"redis://h?minsize=0&maxsize=8", "redis://h:6379/0"},
		{"redis://h?conns=8&maxsize=8", "redis://h:6379/0"},
		{"redis://h?client_name=web-1", "redis://h:6379/0"},
		{"rediss://h?tls_ca=%2Fca.pem&tls_cert=c&tls_key=k&tls_server_name=n&tls_insecure=0", "rediss://h:6379/0"},
		// a registered scheme: hosts as they are, and its own options
		{"test://", "test://"},
		{"test://u:" + canary + "@a:1,[::1]:2/secret/path?token=t&tls_ca=x&db=x&conns=many&ttl=1#n", "test://a:1,[::1]:2#n"},
	} {
		d, err := caches.ParseDSN(tt.dsn)
		if assert.NoError(t, err, tt.dsn) {
			assert.Equal(t, tt.want, d.String(), tt.dsn)
		}
	}
}

func TestParseDSNErrors(t *testing.T) {
	registerTestScheme()
	for _, tt := range []struct{ dsn, want string }{
		// schemes
		{"", "it has no scheme"},
		{"localhost:6379", "it has no scheme: begin with one of dummy, locmem, redis, redis+cluster, redis+sentinel, redis+unix, rediss, rediss+cluster, rediss+sentinel"},
		{"http://h", `unknown scheme "http"; the schemes are dummy, locmem, redis, redis+cluster, redis+sentinel, redis+unix, rediss, rediss+cluster, rediss+sentinel`},
		{"://h", `unknown scheme ""`},
		{"a b://h", `unknown scheme ""`},
		{"redis+cluster://h/1", "a Redis Cluster has only database 0"},
		{"redis+cluster://h?db=0", "the option db belongs to redis+unix"},
		{"redis+cluster://h?previous=a", "the option previous belongs to redis, rediss"},
		{"redis+cluster://h?sentinel_password=x", "the option sentinel_password belongs to redis+sentinel, rediss+sentinel"},
		{"redis+cluster://a,b:x", "host 2: the port is not a number"},
		{"redis+sentinel://h", "the name of the master is missing: redis+sentinel://s1,s2,s3/mymaster/0"},
		{"rediss+sentinel://h//0", "the name of the master is missing: rediss+sentinel://"},
		{"redis+sentinel://h/my%20master", "the name of the master may contain only"},
		{"redis+sentinel://h/%zz/0", "the name of the master has a % that begins no escape"},
		{"redis+sentinel://h/m/x", "the database after the host is not a whole number"},
		{"redis+sentinel://h/m/0?db=1", "in redis+sentinel the database follows the host"},
		{"redis+sentinel://h/m?sentinel_user=x", "the option sentinel_user needs sentinel_password"},
		{"redis+sentinel://h/m?sentinel_password=", "the option sentinel_password has no value"},
		{"redis+sentinel://h/m?tls_ca=x", "the option tls_ca belongs to rediss"},
		{"redis://h?replicas=1", "the option replicas belongs to redis+cluster, redis+sentinel"},
		// hosts
		{"redis://a,,b", "host 2 is empty"},
		{"redis://a,", "host 2 is empty"},
		{"redis://h:x", "host 1: the port is not a number from 1 to 65535"},
		{"redis://a,h:0", "host 2: the port is not a number from 1 to 65535"},
		{"redis://h:65536", "the port is not a number"},
		{"redis://h:+1", "the port is not a number"},
		{"redis://::1", "write an IPv6 address in brackets"},
		{"redis://[::1", "the brackets of an IPv6 address do not match"},
		{"redis://[::1]6379", "the brackets of an IPv6 address do not match"},
		{"redis://[127.0.0.1]", "not an IPv6 address"},
		{"redis://[::1%25a%20b]", "not an IPv6 address"},
		{"redis://[%zz]", "a % that begins no escape"},
		{"redis://a b", "host 1: it is not a host name"},
		{"redis://a%20b", "host 1: it is not a host name"},
		{"redis://h\n", "it is not a host name"},
		// databases and names
		{"redis://h/x", "the database after the host is not a whole number"},
		{"redis://h/-1", "the database after the host is not a whole number"},
		{"redis://h/+1", "the database after the host is not a whole number"},
		{"redis://h/1/2", "the database after the host is not a whole number"},
		{"redis://h/99999999999999999999", "the database after the host is not a whole number"},
		{"redis://h?db=1", "the option db belongs to redis+unix; in redis the database follows the host"},
		{"redis://h#a b", "the name after # may contain only"},
		{"redis://h#%zz", "the name behind # has a % that begins no escape"},
		// users and passwords
		{"redis://app:@h", "the password is empty"},
		{"redis://:@h", "the password is empty"},
		{"redis://@h", "the password is empty"},
		{"redis://app:@h?allow_no_auth=0", "the password is empty"},
		{"redis://app:%zz@h", "the password has a % that begins no escape"},
		{"redis://%:x@h", "the user has a % that begins no escape"},
		{"redis://app:a/b@h", `there is an "@" after the host`},
		{"redis://app:a?b@h", `there is an "@" after the host`},
		{"redis://app:a#b@h", `there is an "@" after the host`},
		{"locmem://u:p@a", "locmem takes no user and no password"},
		{"dummy://u:p@", "dummy takes no user and no password"},
		// sockets and stores in this process
		{"redis+unix://", "the path of the socket is missing"},
		{"redis+unix:///", "the path of the socket is missing"},
		{"redis+unix://h/run/x", "redis+unix has no host"},
		{"redis+unix:///run/%zz", "the path has a % that begins no escape"},
		{"redis+unix:///run/%00", "a control character"},
		{"redis+unix:///run/x?db=x", "the option db is not a whole number of at least 0"},
		{"redis+unix:///run/x?tls_ca=x", "the option tls_ca belongs to rediss, rediss+cluster, rediss+sentinel; redis+unix has ttl, "},
		{"locmem://a/1", "locmem has no databases"},
		{"locmem://a:1", "the store's name (host 1)"},
		{"locmem://a,", "the store's name (host 2)"},
		{"dummy://x", "dummy has neither host nor path"},
		{"locmem://?db=1", "the option db belongs to redis+unix"},
		{"test://a,/x", "host 2 is not a name or an address"},
		{"test://a/%zz", "the path has a % that begins no escape"},
		// options
		{"redis://h?nonsense=1", "unknown option nonsense; redis has ttl, version, prefix, router, node, previous, previous_router, conns, minsize, maxsize, timeout, connect_timeout, client_name, allow_no_auth"},
		{"redis://h?tls_insecure=1", "the option tls_insecure belongs to rediss, rediss+cluster, rediss+sentinel; redis has"},
		{"locmem://?timeout=1", "the option timeout belongs to redis, redis+cluster, redis+sentinel, redis+unix, rediss, rediss+cluster, rediss+sentinel; locmem has ttl, version, prefix, router, node, maxsize"},
		{"dummy://?maxsize=1", "the option maxsize belongs to locmem, redis, redis+cluster, redis+sentinel, redis+unix, rediss, rediss+cluster, rediss+sentinel; dummy has ttl, version, prefix, router, node"},
		{"redis://h?ttl", "only options may follow the ?"},
		{"redis://h?=1", "only options may follow the ?"},
		{"redis://h?Ttl=1", "only options may follow the ?"},
		{"redis://h?ttl=1&ttl=1", "the option ttl is given twice"},
		{"redis://h?prefix=a&key_prefix=a", "the option prefix is given twice"},
		{"redis://h?ttl=%zz", "the option ttl has a % that begins no escape"},
		{"redis://h?ttl=", "the option ttl has no value"},
		{"redis://h?ttl=0", "the option ttl is 0: leave it out to never expire"},
		{"redis://h?ttl=0s", "the option ttl is 0: leave it out to never expire"},
		{"redis://h?ttl=-1", "the option ttl is negative"},
		{"redis://h?ttl=-1h", "the option ttl is negative"},
		{"redis://h?ttl=soon", "the option ttl is neither a duration"},
		{"redis://h?ttl=1.5", "the option ttl is neither a duration"},
		{"redis://h?ttl=9223372037", "the option ttl is too large"},
		{"redis://h?ttl=99999999999999999999", "the option ttl is too large"},
		{"redis://h?timeout=0", "the option timeout is 0: leave it out for the default"},
		{"redis://h?connect_timeout=x", "the option connect_timeout is neither a duration"},
		{"redis://h?prefix=", "the option prefix has no value"},
		{"redis://h?version=a%0Ab", "the option version has a control character"},
		{"redis://h?router=md5", "the option router is neither crc32 nor ketama"},
		{"redis://h?node=", "the option node has no value"},
		{"redis://h?node=a%20b", "the option node may contain only"},
		{"redis://a,b?node=x", "the option node names one shard, but there are several hosts"},
		{"redis://h?conns=0", "the option conns is not a whole number of at least 1"},
		{"redis://h?conns=x", "the option conns is not a whole number of at least 1"},
		{"redis://h?conns=", "the option conns has no value"},
		{"redis://h?minsize=-1", "the option minsize is not a whole number of at least 0"},
		{"redis://h?minsize=9&maxsize=8", "the option minsize is greater than maxsize"},
		{"redis://h?client_name=a%20b", "the option client_name may contain only"},
		{"redis://h?client_name=", "the option client_name has no value"},
		{"redis://h?allow_no_auth=yes", "the option allow_no_auth is not 1, 0, true or false"},
		{"rediss://h?tls_cert=x", "the options tls_cert and tls_key must be set together"},
		{"rediss://h?tls_ca=", "the option tls_ca has no value"},
	} {
		d, err := caches.ParseDSN(tt.dsn)
		if assert.ErrorContains(t, err, tt.want, tt.dsn) {
			assert.True(t, strings.HasPrefix(err.Error(), "caches: dsn: "), err)
			assert.Nil(t, d, tt.dsn)
		}
	}
}

func TestDSNFields(t *testing.T) {
	registerTestScheme()
	d, err := caches.ParseDSN("redis://app%20:p%40%2F%23%3Fx@a:1,b/3?ttl=1h&prefix=p%2Bq+r#n")
	require.NoError(t, err)
	assert.Equal(t, "redis", d.Scheme)
	assert.Equal(t, []string{"a:1", "b:6379"}, d.Hosts)
	assert.Equal(t, 3, d.DB)
	assert.Equal(t, "n", d.Name)
	assert.Equal(t, "app ", d.Username)
	assert.Equal(t, "p@/#?x", d.Password())
	assert.Equal(t, "1h", d.Option("ttl"))
	assert.Equal(t, "p+q+r", d.Option("prefix"), "a plus is a plus")
	assert.Empty(t, d.Option("version"))

	d, err = caches.ParseDSN("redis://secret@h")
	require.NoError(t, err)
	assert.Empty(t, d.Username, "a user without a colon is the password")
	assert.Equal(t, "secret", d.Password())

	d, err = caches.ParseDSN("redis://app:@h?allow_no_auth=1")
	require.NoError(t, err)
	assert.Empty(t, d.Username, "no AUTH is sent, so there is no user")
	assert.Empty(t, d.Password())

	d, err = caches.ParseDSN("test://u:p@h/a%2Fb?token=x%20y")
	require.NoError(t, err)
	assert.Equal(t, "a/b", d.Path())
	assert.Equal(t, "x y", d.Option("token"))

	assert.Empty(t, caches.DSN{}.Password())
	assert.Empty(t, caches.DSN{}.Option("ttl"))
}

// Whatever is in a password comes back as it was, from the place of a password.
func TestPasswordRoundTrip(t *testing.T) {
	for b := range 256 {
		password := "x" + string([]byte{byte(b)}) + "y"
		d, err := caches.ParseDSN("redis://app:" + percent(password) + "@h")
		require.NoError(t, err, "byte %#x", b)
		assert.Equal(t, password, d.Password(), "byte %#x", b)
		assert.Equal(t, "redis://h:6379/0", d.String(), "byte %#x", b)
	}
}

func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// shown is v in all the ways in which it could get into a log.
func shown(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %t %c %e %U %T") {
		fmt.Fprintf(&b, verb+"\n", v)
		fmt.Fprintf(&b, verb+"\n", struct{ hidden any }{v}) // no methods through unexported fields
		fmt.Fprintf(&b, verb+"\n", []any{v, map[string]any{"k": v}})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Error("m", "v", v, slog.Group("g", "v", v))
	}
	if text, err := json.Marshal(v); err == nil {
		b.Write(text)
	}
	b.WriteString(paniced(v))
	b.WriteString(fmt.Errorf("wrapped: %v", v).Error())
	return b.String()
}

func paniced(v any) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	panic(v)
}

func assertNoCanary(t *testing.T, text string) {
	t.Helper()
	assert.NotContains(t, text, canary)
	assert.NotContains(t, strings.ToLower(text), fmt.Sprintf("%x", canary), "in hexadecimal")
}

func TestDSNHidesSecrets(t *testing.T) {
	registerTestScheme()
	for _, dsn := range []string{
		"redis://app:" + canary + "@h/1?ttl=1h#n",
		"redis://" + canary + "@h",
		"redis+unix://:" + canary + "@/run/redis.sock",
		"redis+cluster://app:" + canary + "@h",
		"redis+sentinel://app:" + canary + "@h/m/0?sentinel_user=app&sentinel_password=" + canary,
		"test://u:" + canary + "@h/" + canary + "?token=" + canary,
	} {
		d, err := caches.ParseDSN(dsn)
		require.NoError(t, err)
		assertNoCanary(t, shown(t, d))
		assertNoCanary(t, shown(t, *d))
		assertNoCanary(t, shown(t, struct{ d caches.DSN }{*d}))
		assert.Contains(t, dsn, canary, "the test would find it")
	}
	for _, dsn := range []string{
		"redis://app:" + canary + "@h:x",
		"redis://app:" + canary + "%zz@h",
		"redis://app:x/" + canary + "@h",
		"redis://app:x?" + canary + "@h",
		"redis://app:x?prefix=" + canary + "@h",
		"redis://app:x#" + canary + "@h",
		"redis://app:x%23" + canary + "@h/y",
		"redis://:" + canary,
		"redis://h/" + canary,
		"redis://h?" + canary,
		"redis://h?ttl=" + canary,
		"redis://h?router=" + canary,
		"redis://h?allow_no_auth=" + canary,
		"app:" + canary + "@h",
		"app:" + canary + "@h://x",
		"ftp://app:" + canary + "@h",
		"redis+cluster://app:" + canary + "@h/1",
		"redis+sentinel://app:" + canary + "@h",
		"redis+sentinel://h/m?sentinel_passwor=" + canary,
		"locmem://app:" + canary + "@h",
	} {
		_, err := caches.ParseDSN(dsn)
		require.Error(t, err, dsn)
		assertNoCanary(t, shown(t, err))
		_, err = caches.Open(dsn, "redis://other")
		assertNoCanary(t, shown(t, err))
		_, err = caches.FromEnv([]string{"CACHES_DSN=" + dsn}).Connection("")
		assertNoCanary(t, shown(t, err))
	}
}

func TestDSNText(t *testing.T) {
	d, err := caches.ParseDSN("redis://app:" + canary + "@h/1#n")
	require.NoError(t, err)
	const want = "redis://h:6379/1#n"
	assert.Equal(t, want, fmt.Sprint(d))
	assert.Equal(t, want, fmt.Sprintf("%+v", *d))
	assert.Equal(t, `"`+want+`"`, fmt.Sprintf("%q", d))
	assert.Equal(t, `caches.DSN("`+want+`")`, fmt.Sprintf("%#v", d))
	assert.Equal(t, want, fmt.Sprintf("%d", d))
	text, err := json.Marshal(map[string]any{"dsn": d, "value": *d})
	require.NoError(t, err)
	assert.JSONEq(t, `{"dsn":"`+want+`","value":"`+want+`"}`, string(text))
	text, err = d.MarshalText()
	require.NoError(t, err)
	assert.Equal(t, want, string(text))
	assert.Equal(t, want, d.LogValue().String())
}

// A path that is not UTF-8 still gives valid JSON.
func TestDSNJSONOfAnyPath(t *testing.T) {
	d, err := caches.ParseDSN("redis+unix:///run/%FF")
	require.NoError(t, err)
	text, err := json.Marshal(d)
	require.NoError(t, err)
	assert.True(t, json.Valid(text), "%s", text)
}

func FuzzParseDSN(f *testing.F) {
	registerTestScheme()
	for _, dsn := range []string{
		"redis://", "redis://u:p@a:1,[::1]:2/3?ttl=90s&router=ketama#n", "rediss://h?tls_ca=x&tls_insecure=1",
		"redis+unix://u:p@/run/a%20b?db=1", "locmem://a,b?maxsize=1", "dummy://#x", "test://h/p?q=r",
		"redis://[fe80::1%25eth0]", "redis://u:a/b@h", "redis://h?minsize=1&maxsize=2&conns=2",
	} {
		f.Add(dsn)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkRoundTrip(t, s)
		checkCanary(t, "redis://u:"+canary+"@"+s)
		checkCanary(t, "redis://"+canary+"@"+s)
		checkCanary(t, "redis://u:"+canary+s+"@h")
		checkCanary(t, "redis://u:"+s+canary+"@h")
	})
}

// checkRoundTrip checks that what String shows is a DSN that says the same.
func checkRoundTrip(t *testing.T, s string) {
	d, err := caches.ParseDSN(s)
	if err != nil {
		return
	}
	again, err := caches.ParseDSN(d.String())
	require.NoError(t, err, "%q gave %q", s, d)
	assert.Equal(t, d.String(), again.String())
	assert.Equal(t, d.Scheme, again.Scheme)
	assert.Equal(t, d.Hosts, again.Hosts)
	assert.Equal(t, d.DB, again.DB)
	assert.Equal(t, d.Name, again.Name)
	if d.Scheme == "redis+unix" {
		assert.Equal(t, d.Path(), again.Path())
	}
}

// checkCanary checks that neither the DSN nor its error shows the password.
func checkCanary(t *testing.T, s string) {
	d, err := caches.ParseDSN(s)
	if err != nil {
		assert.NotContains(t, err.Error(), canary)
		return
	}
	if strings.Count(s, canary) == 1 {
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", d, *d, d), canary)
	}
}

var errTestScheme = errors.New("the test store does not open")

// registerTestScheme registers the scheme of these tests, once in the process.
var registerTestScheme = sync.OnceFunc(func() {
	caches.Register("test", func(d *caches.DSN) (driver.Store, error) {
		if d.Option("fail") != "" {
			return nil, errTestScheme
		}
		if d.Option("nil") != "" {
			return nil, nil
		}
		return newRecorder(d), nil
	})
})
