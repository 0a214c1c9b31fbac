package redigo_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTLS(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLS: true})
	both := testutil.Redis(t, &testutil.RedisOptions{TLSAuthClients: true})
	stranger := testutil.Redis(t, &testutil.RedisOptions{TLS: true}) // has a certificate of another authority
	plain := testutil.Redis(t, nil)
	_, port, err := net.SplitHostPort(r.Addr())
	require.NoError(t, err)

	with := func(r *testutil.RedisServer, change func(*tls.Config)) *tls.Config {
		c := r.TLSConfig()
		c.ServerName, c.Certificates = "", nil
		if change != nil {
			change(c)
		}
		return c
	}
	for _, c := range []struct {
		name    string
		address string
		tls     *tls.Config
		want    string // part of the error; "" for none
	}{
		{"name from the address", r.Addr(), with(r, nil), ""},
		{"localhost", "localhost:" + port, with(r, nil), ""},
		{"TLS 1.2", r.Addr(), with(r, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), ""},
		{"TLS 1.3 only", r.Addr(), with(r, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), ""},
		{"other server name that fits", r.Addr(), with(r, func(c *tls.Config) { c.ServerName = "localhost" }), ""},
		{"server name that does not fit", r.Addr(), with(r, func(c *tls.Config) { c.ServerName = "cache.example" }), "certificate"},
		{"wrong authority", r.Addr(), with(stranger, nil), "unknown authority"},
		{"authorities of the system", r.Addr(), &tls.Config{}, "unknown authority"},
		{"not verified", r.Addr(), &tls.Config{InsecureSkipVerify: true}, ""},
		{"TLS 1.1 at most", r.Addr(), with(r, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), "tls:"},
		{"client certificate", both.Addr(), both.TLSConfig(), ""},
		{"no client certificate", both.Addr(), with(both, nil), ""},
		{"client certificate of another", both.Addr(), with(both, func(c *tls.Config) { c.Certificates = stranger.TLSConfig().Certificates }), ""},
		{"no TLS at the server", plain.Addr(), with(r, nil), "TLS with 127.0.0.1:"},
		{"no TLS at the client", r.Addr(), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := redigo.Config{Address: c.address, TLS: c.tls}
			if c.address == plain.Addr() {
				config.ConnectTimeout = 100 * time.Millisecond // Redis waits for the end of a line
			}
			s := open(t, config)
			got, err := run(s, 0, "SET", "k", "v")
			switch c.name {
			case "no TLS at the client", "client certificate of another", "no client certificate":
				// The server closes the connection: its error message may be lost.
				require.ErrorIs(t, err, driver.ErrUnavailable)
				return
			}
			if c.want == "" {
				require.NoError(t, err)
				assert.Equal(t, "+OK\r\n", got)
				return
			}
			require.ErrorIs(t, err, driver.ErrUnavailable)
			assert.ErrorContains(t, err, c.want)
			assert.Zero(t, s.Stats().Dials)
			assert.Zero(t, s.Stats().Retries, "trying again does not help")
		})
	}
}

// TestTLSConfigIsCopied changes a configuration after Open.
func TestTLSConfigIsCopied(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLS: true})
	c := r.TLSConfig()
	s := open(t, redigo.Config{Address: r.Addr(), TLS: c})
	c.RootCAs, c.ServerName = nil, "cache.example"
	must(t, s, "PING")
}

func TestPasswords(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{
		Password: "secret",
		ACL: []string{
			"user app on >apppw ~app.* +@all",
			"user open on nopass ~* +@all",
			"user quiet on >quietpw ~* +get +set",
		},
	})
	free := testutil.Redis(t, &testutil.RedisOptions{ACL: []string{"user app on >apppw ~app.* +@all"}})
	for _, c := range []struct {
		name       string
		addr       string
		user, pass string
		code       string // of the refusal; "" for none
	}{
		{"default user", r.Addr(), "", "secret", ""},
		{"user", r.Addr(), "app", "apppw", ""},
		{"user without a password", r.Addr(), "open", "", ""},
		{"user without PING", r.Addr(), "quiet", "quietpw", ""},
		{"no password", r.Addr(), "", "", "NOAUTH"},
		{"wrong password", r.Addr(), "", "wrong", "WRONGPASS"},
		{"wrong password of a user", r.Addr(), "app", "wrong", "WRONGPASS"},
		{"forgotten password of a user", r.Addr(), "app", "", "WRONGPASS"},
		{"no such user", r.Addr(), "nobody", "x", "WRONGPASS"},
		{"password that is not needed", free.Addr(), "", "secret", "ERR"},
		{"empty password, default user without one", free.Addr(), "app", "", "WRONGPASS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, redigo.Config{Address: c.addr, Username: c.user, Password: c.pass})
			_, err := run(s, 0, "SET", "app.k", "v")
			if c.code == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, driver.ErrUnavailable)
			var refusal *driver.ServerError
			require.ErrorAs(t, err, &refusal)
			assert.Equal(t, c.code, refusal.Code)
			assert.Zero(t, s.Stats().Retries, "trying again does not help")
		})
	}
}

// TestUserWithoutPing dials as a user whose ACL does not allow PING.
func TestUserWithoutPing(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{ACL: []string{
		"user admin on >x ~* +@all", "user default on nopass ~* -@all +get +set",
	}})
	s := open(t, redigo.Config{Address: r.Addr()})
	assert.Equal(t, "+OK\r\n", must(t, s, "SET", "k", "v"))
	raw := must(t, s, "DEL", "k")
	assert.True(t, strings.HasPrefix(raw, "-NOPERM"), "%q", raw)
}

// TestCredentials changes the password between dials: each dial asks again.
func TestCredentials(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{Password: "first"})
	proxy := testutil.NewProxy(t, r.Addr())
	loseConnections := func() {
		proxy.KillAll()
		require.Eventually(t, func() bool { return proxy.Conns() == 0 }, patience, time.Millisecond)
	}
	asked, password := 0, "first"
	fault := errors.New("the vault is sealed")
	var broken error
	s := open(t, redigo.Config{Address: proxy.Addr(), Conns: 1, Credentials: func(ctx context.Context) (redigo.Credentials, error) {
		_, bounded := ctx.Deadline()
		assert.True(t, bounded)
		asked++
		return redigo.Credentials{Password: password}, broken
	}})
	must(t, s, "PING")
	must(t, s, "CONFIG", "SET", "requirepass", "second")
	must(t, s, "PING")
	assert.Equal(t, 1, asked, "an open connection needs none")
	loseConnections()
	_, err := run(s, 0, "PING")
	require.ErrorContains(t, err, "WRONGPASS")
	password = "second"
	must(t, s, "PING")
	assert.Equal(t, 3, asked)

	loseConnections()
	broken = fault
	_, err = run(s, 0, "PING")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, fault)
}

// TestDialAddress asks DialAddress for each dial. It may refuse.
func TestDialAddress(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	var asked []string
	refused := errors.New("not ours")
	to, fault := proxy.Addr(), error(nil)
	s := open(t, redigo.Config{Address: "cache.invalid:6379", Conns: 1, DialAddress: func(ctx context.Context, address string) (string, error) {
		_, bounded := ctx.Deadline()
		assert.True(t, bounded)
		asked = append(asked, address)
		return to, fault
	}})
	must(t, s, "PING")
	must(t, s, "PING")
	assert.Equal(t, []string{"cache.invalid:6379"}, asked)

	proxy.KillAll()
	require.Eventually(t, func() bool { return proxy.Conns() == 0 }, patience, time.Millisecond)
	fault = refused
	_, err := run(s, 0, "PING")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, refused)
	assert.ErrorContains(t, err, "DialAddress of cache.invalid:6379")

	after := open(t, redigo.Config{
		Resolve: func(context.Context) (string, error) { return "resolved.invalid:1", nil },
		DialAddress: func(_ context.Context, address string) (string, error) {
			assert.Equal(t, "resolved.invalid:1", address)
			return r.Addr(), nil
		},
	})
	must(t, after, "PING")
	unix := testutil.Redis(t, &testutil.RedisOptions{Unix: true})
	must(t, open(t, redigo.Config{Network: "unix", Address: unix.Addr(), DialAddress: func(context.Context, string) (string, error) {
		return "", refused
	}}), "PING")
}

// TestTLSNameOfTheDialedAddress verifies the host returned by DialAddress, unless TLS
// has a name.
func TestTLSNameOfTheDialedAddress(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLS: true})
	_, port, err := net.SplitHostPort(r.Addr())
	require.NoError(t, err)
	for _, c := range []struct{ address, dialed, name, want string }{
		{"cache.invalid:" + port, r.Addr(), "", ""},
		{"cache.invalid:" + port, r.Addr(), "localhost", ""},
		{"cache.invalid:" + port, r.Addr(), "cache.invalid", "cache.invalid"},
		{r.Addr(), "0.0.0.0:" + port, "", "0.0.0.0"}, // a way to this machine that the certificate lacks
	} {
		config := r.TLSConfig()
		config.ServerName = c.name
		s := open(t, redigo.Config{Address: c.address, TLS: config, DialAddress: func(context.Context, string) (string, error) {
			return c.dialed, nil
		}})
		_, err := run(s, 0, "PING")
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, driver.ErrUnavailable)
		require.ErrorContains(t, err, "certificate")
		require.ErrorContains(t, err, c.want)
	}
}

// TestPanics has functions of the configuration panic while a connection is dialed:
// the calls get errors, without a secret, and the next dial asks again.
func TestPanics(t *testing.T) {
	r := testutil.Redis(t, nil)
	const secret = "hunter2"
	for name, set := range map[string]func(c *redigo.Config, cause func()){
		"Credentials": func(c *redigo.Config, cause func()) {
			c.Credentials = func(context.Context) (redigo.Credentials, error) { cause(); return redigo.Credentials{}, nil }
		},
		"DialAddress": func(c *redigo.Config, cause func()) {
			c.DialAddress = func(_ context.Context, address string) (string, error) { cause(); return address, nil }
		},
		"Resolve": func(c *redigo.Config, cause func()) {
			c.Resolve = func(context.Context) (string, error) { cause(); return r.Addr(), nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			causes := []func(){
				func() { panic(secret) },
				func() { _ = []int(nil)[len(secret)] },
				func() { panic(nil) },
			}
			c := redigo.Config{Address: r.Addr(), Conns: 1, Timeout: patience}
			next := 0
			set(&c, func() {
				if next++; next <= len(causes) {
					causes[next-1]()
				}
			})
			s := open(t, c)
			for _, want := range []string{"panicked with a string", "index out of range", "panicked"} {
				_, err := run(s, 0, "PING")
				require.ErrorIs(t, err, driver.ErrUnavailable)
				assert.ErrorContains(t, err, name+" panicked")
				assert.ErrorContains(t, err, want)
				assert.NotContains(t, err.Error(), secret)
			}
			require.Eventually(t, func() bool {
				_, err := run(s, 0, "PING")
				return err == nil
			}, patience, 20*time.Millisecond, "the server rests for a moment after three failures")
		})
	}
}

// TestCredentialsDoNotPrint prints Credentials in every way.
func TestCredentialsDoNotPrint(t *testing.T) {
	c := redigo.Credentials{Username: "hunter2", Password: "hunter2"}
	assert.NotContains(t, everyForm(c), "hunter2")
	assert.NotContains(t, everyForm(&c), "hunter2")
	assert.Contains(t, everyForm(c), "redigo.Credentials(hidden)")
}

// TestConnectTimeout dials a server that accepts and never replies.
func TestConnectTimeout(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, but nothing reads
	require.NoError(t, err)
	defer func() { _ = mute.Close() }()
	addr := mute.Addr().String()
	for _, c := range []redigo.Config{
		{Address: addr, ConnectTimeout: 30 * time.Millisecond},
		{Address: addr, Timeout: 30 * time.Millisecond},
		{Address: addr, ConnectTimeout: 30 * time.Millisecond, TLS: &tls.Config{InsecureSkipVerify: true}},
	} {
		s := open(t, c)
		_, err := run(s, driver.ReadOnly, "GET", "k")
		require.ErrorIs(t, err, driver.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, addr)
	}
	s := open(t, redigo.Config{Address: addr})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = runCtx(ctx, s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
}

// TestDialOfAnother joins a dial whose time is nearly over: the call uses its
// own time for another dial.
func TestDialOfAnother(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 16)
	server := serveAll(t, func(conn int, cmd []string) string {
		switch {
		case conn == 0:
			asked <- struct{}{}
			return silence
		case cmd[0] == "PING":
			return "+PONG\r\n"
		}
		return ":1\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr, ConnectTimeout: 500 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := runCtx(ctx, s, 0, "INCR", "n")
		ended <- err
	}()
	<-asked
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	assert.Equal(t, ":1\r\n", must(t, s, "INCR", "n"))
}

// TestGreetingGoneWrong replies to the handshake with nonsense: no command must
// follow.
func TestGreetingGoneWrong(t *testing.T) {
	for name, c := range map[string]struct {
		reply string
		want  error
	}{
		"no status":         {":1\r\n", driver.ErrProtocol},
		"too much":          {"+PONG\r\n+PONG\r\n", driver.ErrProtocol},
		"not Redis":         {"HTTP/1.1 400 Bad Request\r\n", driver.ErrUnavailable},
		"gone":              {"", driver.ErrUnavailable},
		"protected mode":    {"-DENIED Redis is running in protected mode\r\n" + hangUp, driver.ErrUnavailable},
		"gone in mid reply": {"+PO" + hangUp, driver.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := serveAll(t, func(int, []string) string { return c.reply })
			s := open(t, redigo.Config{Address: server.addr})
			_, err := run(s, driver.ReadOnly, "GET", "k")
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, driver.ErrUnavailable)
			assert.Empty(t, server.commands())
		})
	}
}
