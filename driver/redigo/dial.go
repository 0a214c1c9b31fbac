package redigo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
)

// A dialer makes connections that are ready for commands. Its secrets are inside
// functions: printing it shows addresses of code only.
type dialer struct {
	network    string
	resolve    func(ctx context.Context) (address string, err error)
	role       Role
	clientName string
	db         int
	readOnly   bool
	timeout    time.Duration // of a whole dial

	credentials func(ctx context.Context) (Credentials, error)
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

// secureWith returns a function that puts TLS on a connection, or nil. redigo's own
// TLS ignores the context in its handshake, and would leave the Store the
// connection below TLS.
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
			config.ServerName, _, _ = net.SplitHostPort(address) // it was dialed, so it splits
		}
		secured := tls.Client(nc, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("TLS with %s: %w", nc.RemoteAddr(), err)
		}
		return secured, nil
	}
}

// dial connects, authenticates and selects the database. It returns a connection
// only if the server accepts all of that: one that is full, loading or in another
// role is noticed before the first command.
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
				c.raw, _ = sc.SyscallConn() // without raw, idle connections are not checked
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
	// redigo may replace a deadline, but cannot undo a close.
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	err = d.handshake(ctx, c)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("handshake with %s: %w", address, err)
	}
	return c, nil
}

// A tap is redigo's view of the connection. redigo reads and writes only during the
// handshake, and closes it for the Pool.
type tap struct {
	net.Conn
	sock net.Conn
	read int // bytes that redigo has read
}

// Close closes the socket below TLS. A [tls.Conn] would first send a close-notify
// alert, and wait up to 5 seconds if the server does not read.
func (t *tap) Close() error { return t.sock.Close() }

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.read += n
	return n, err
}

// handshake sends all of hello at once, which costs one round trip, and reads the
// replies. It returns the first error: if there are more, they follow from it.
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
	// redigo's buffer must be empty from here on: it is bypassed.
	if c.tap.read != answered {
		return fmt.Errorf("%w: unsolicited bytes after the handshake", driver.ErrProtocol)
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

// A greeting is a command of the handshake. Without check, it expects a status.
type greeting struct {
	name  string
	args  []any
	check func(reply any) error // of a reply that is not an error
}

// hello returns the commands of the handshake. There is at least one, because its
// reply proves that the server accepts commands.
func (d *dialer) hello(ctx context.Context) ([]greeting, error) {
	login, err := protect("Credentials", func() (Credentials, error) { return d.credentials(ctx) })
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var hello []greeting
	switch {
	case login.Username != "": // even with an empty password: never as the default user
		hello = append(hello, greeting{name: "AUTH", args: []any{login.Username, login.Password}})
	case login.Password != "":
		hello = append(hello, greeting{name: "AUTH", args: []any{login.Password}})
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
		return len("-") + len(refusal) + len("\r\n"), nil // an ACL without PING, but a reply
	case errors.As(err, &refusal):
		return 0, fmt.Errorf("%s: %w", g.name, driver.NewServerError(string(refusal)))
	case err != nil:
		return 0, err
	case g.check != nil:
		return wireSize(reply), g.check(reply)
	}
	status, ok := reply.(string)
	if !ok {
		return 0, fmt.Errorf("%w: the reply to %s is not a status", driver.ErrProtocol, g.name)
	}
	return len("+") + len(status) + len("\r\n"), nil
}

// resolverOf returns the function that finds the address of each dial. Functions of
// the configuration run on goroutines of the Store, where a panic would end the
// process.
func resolverOf(c *Config) func(context.Context) (string, error) {
	resolve, dialed := c.Resolve, c.DialAddress
	if c.Network == "unix" {
		dialed = nil
	}
	if resolve == nil {
		address := c.Address
		resolve = func(context.Context) (string, error) { return address, nil }
	}
	return func(ctx context.Context) (string, error) {
		address, err := protect("Resolve", func() (string, error) { return resolve(ctx) })
		if err != nil || dialed == nil {
			return address, err
		}
		to, err := protect("DialAddress", func() (string, error) { return dialed(ctx, address) })
		if err != nil {
			return "", fmt.Errorf("DialAddress of %s: %w", address, err)
		}
		return to, nil
	}
}

// protect calls f, a function that the user supplied as name, and returns a panic as
// an error. Its text is shown only if it comes from the runtime: the others may hold
// a secret.
func protect[T any](name string, f func() (T, error)) (v T, err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("%s panicked: %w", name, cause)
		default:
			err = fmt.Errorf("%s panicked with a %T", name, cause)
		}
	}()
	return f()
}
