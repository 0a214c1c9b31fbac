package redigo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
)

// A dialer makes connections that are ready for commands. It holds what is
// secret only inside its functions: printing a dialer, or what holds one,
// shows addresses of code.
type dialer struct {
	network    string
	resolve    func(ctx context.Context) (address string, err error)
	role       Role
	clientName string
	db         int
	readOnly   bool
	timeout    time.Duration // of all that dial does

	credentials func(ctx context.Context) (username, password string, err error)
	secure      func(ctx context.Context, nc net.Conn, address string) (net.Conn, error) // nil: no TLS
}

func newDialer(c *Config) *dialer {
	return &dialer{
		network:     orDefault(c.Network, "tcp"),
		resolve:     resolverOf(c),
		role:        c.Role,
		clientName:  c.ClientName,
		db:          c.DB,
		readOnly:    c.ReadOnly,
		timeout:     orDefault(c.ConnectTimeout, time.Second),
		credentials: credentialsOf(c),
		secure:      secureWith(c),
	}
}

func credentialsOf(c *Config) func(context.Context) (string, string, error) {
	if c.Credentials != nil {
		return c.Credentials
	}
	username, password := c.Username, c.Password // in a closure, where no printing finds them
	return func(context.Context) (string, string, error) { return username, password, nil }
}

// secureWith returns what puts TLS above a connection. This is done here and
// not by redigo, whose handshake does not listen to a context and which would
// put TLS above the connection that the store reads from.
func secureWith(c *Config) func(context.Context, net.Conn, string) (net.Conn, error) {
	if c.TLS == nil {
		return nil
	}
	config := c.TLS.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	unix := c.Network == "unix"
	return func(ctx context.Context, nc net.Conn, address string) (net.Conn, error) {
		config := config
		if config.ServerName == "" && !unix {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(address) // it was dialled, so it splits
		}
		secured := tls.Client(nc, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("TLS with %s: %w", nc.RemoteAddr(), err)
		}
		return secured, nil
	}
}

// dial connects, proves who it is, and chooses the database. A connection is
// returned only after the server has said yes to all of it: a server that is
// full, loading or of another mind is found out before a command is at stake.
func (d *dialer) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	address, err := d.resolve(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{secure: d.secure != nil}
	rc, err := redis.DialContext(ctx, d.network, address, redis.DialContextFunc(
		func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			if c.sock, err = new(net.Dialer).DialContext(ctx, network, address); err != nil {
				return nil, err
			}
			if sc, ok := c.sock.(syscall.Conn); ok {
				c.raw, _ = sc.SyscallConn() // without it, idle connections are not looked at
			}
			c.nc = c.sock
			if d.secure != nil {
				c.nc, err = d.secure(ctx, c.sock, address)
			}
			c.tap = tap{Conn: c.nc, sock: c.sock}
			return &c.tap, err
		}))
	if err != nil {
		return nil, err
	}
	c.Conn = rc
	// Closing is the one thing that redigo's own deadlines cannot undo.
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	err = d.handshake(ctx, c)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("greeting %s: %w", address, err)
	}
	return c, nil
}

// A tap is the connection as redigo sees it: its own only during the handshake,
// and when redigo's Pool closes it.
type tap struct {
	net.Conn
	sock net.Conn
	read int // bytes that redigo has taken
}

// Close closes the socket below TLS. A [tls.Conn] would first send the server
// its farewell, and wait up to 5 seconds for one that takes nothing.
func (t *tap) Close() error { return t.sock.Close() }

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.read += n
	return n, err
}

// handshake sends all of hello at once, which costs one round trip, and reads
// the answers. Where the first is an error, so are the ones after it: the first
// says why.
func (d *dialer) handshake(ctx context.Context, c *conn) error {
	hello, err := d.hello(ctx)
	if err != nil {
		return err
	}
	if err := sendAll(c.Conn, hello); err != nil {
		return err
	}
	answered := 0 // bytes
	for _, cmd := range hello {
		n, err := cmd.answer(ctx, c.Conn)
		if err != nil {
			return err
		}
		answered += n
	}
	// From here on redigo must have nothing in its buffer: we read past it.
	if c.tap.read != answered {
		return fmt.Errorf("%w: bytes that nobody asked for after the handshake", driver.ErrProtocol)
	}
	return nil
}

func sendAll(c redis.Conn, hello []greeting) error {
	for _, cmd := range hello {
		if err := c.Send(cmd.name, cmd.args...); err != nil {
			return err
		}
	}
	return c.Flush()
}

// A greeting is a command of the handshake. Each is answered by a status, unless
// it has a check of its own.
type greeting struct {
	name  string
	args  []any
	check func(reply any) error // of an answer that is no error
}

// hello returns the commands that make a fresh connection ours. There is always
// one: its answer is the proof that the server takes commands from us.
func (d *dialer) hello(ctx context.Context) ([]greeting, error) {
	username, password, err := d.credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var hello []greeting
	switch {
	case username != "": // also with an empty password: never as somebody else
		hello = append(hello, greeting{name: "AUTH", args: []any{username, password}})
	case password != "":
		hello = append(hello, greeting{name: "AUTH", args: []any{password}})
	}
	if d.clientName != "" {
		hello = append(hello, greeting{name: "CLIENT", args: []any{"SETNAME", d.clientName}})
	}
	if d.db != 0 {
		hello = append(hello, greeting{name: "SELECT", args: []any{d.db}})
	}
	if d.role != AnyRole {
		hello = append(hello, greeting{name: "ROLE", check: d.role.check})
	}
	if d.readOnly {
		hello = append(hello, greeting{name: "READONLY"})
	}
	if hello == nil {
		hello = []greeting{{name: "PING"}}
	}
	return hello, nil
}

// answer reads the reply to g and returns its length on the wire.
func (g greeting) answer(ctx context.Context, c redis.Conn) (int, error) {
	timeout := time.Duration(1) // zero would mean none
	if end, ok := ctx.Deadline(); ok {
		timeout = max(timeout, time.Until(end))
	}
	reply, err := redis.ReceiveWithTimeout(c, timeout)
	var refusal redis.Error
	switch {
	case errors.As(err, &refusal) && g.name == "PING" && isCode(string(refusal), "NOPERM"):
		return len("-") + len(refusal) + len("\r\n"), nil // an ACL without PING: still an answer
	case errors.As(err, &refusal):
		return 0, fmt.Errorf("%s: %w", g.name, driver.NewServerError(string(refusal)))
	case err != nil:
		return 0, err
	case g.check != nil:
		return wireSize(reply), g.check(reply)
	}
	status, ok := reply.(string)
	if !ok {
		return 0, fmt.Errorf("%w: %s was answered by something else than a status", driver.ErrProtocol, g.name)
	}
	return len("+") + len(status) + len("\r\n"), nil
}

func resolverOf(c *Config) func(context.Context) (string, error) {
	if c.Resolve != nil {
		return c.Resolve
	}
	address := c.Address
	return func(context.Context) (string, error) { return address, nil }
}
