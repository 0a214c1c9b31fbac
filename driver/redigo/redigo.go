// Package redigo is a [driver.Store] that keeps its data in a Redis server, over
// github.com/gomodule/redigo.
//
// redigo dials and pools the connections. Package driver encodes the commands,
// which are written to the socket unchanged; replies are framed and checked in
// place, within [Limits]. Most calls share one connection, on which the commands of
// many calls travel together. A call gets a dedicated connection from a pool if its
// Pipeline is [driver.Own] or larger than 1 MiB. All calls use the pool for half a
// second after this process was found to be short of processors.
//
//	store, err := redigo.Open(redigo.Config{Address: "localhost:6379"})
//
// The package makes these promises about failures:
//
//   - Every call ends by its context's deadline or after Config.Timeout, whichever
//     is sooner. A [driver.Own] call whose context has a deadline ends by that
//     deadline alone.
//   - An error wraps [driver.ErrUnavailable] if nothing was written, and
//     [driver.ErrUnknownOutcome] if something was written and the replies did not
//     arrive in full.
//   - Commands are sent again only if a second run does no harm: nothing was
//     written, the server said that it did not run them, or the Pipeline is
//     [driver.ReadOnly] or [driver.Repeatable].
//   - No call gets the reply to another. A call that ends early keeps its place in
//     the order of replies, and its reply is dropped on arrival. A connection that
//     delivers anything but the expected number of whole replies is closed.
//   - Config.Resolve supplies the address for each dial, so a server may move;
//     Config.Role checks its role on each new connection. [Store.Drop] closes all
//     connections to the previous server.
//   - At most 4,096 calls are in progress on a shared connection; one more fails at
//     once. After repeated failures of the server, calls fail at once until the
//     next attempt to reach it, less than half a second later.
package redigo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
)

// Config describes a server and the connections to it. Only Address is required. A
// Config prints as its network, address and database only. In an unexported field
// of another struct, however, fmt does not call its methods and shows the Password:
// use Credentials there.
type Config struct {
	// Network is "tcp" or "unix"; empty means "tcp".
	Network string
	// Address is host:port, or the path of a socket.
	Address string
	// Resolve, if not nil, returns the host:port for each dial, for a server that may
	// move. Address may then be empty; it only names the server in errors and in
	// String. ctx is canceled when the dial ends. The time Resolve takes counts toward
	// ConnectTimeout.
	Resolve func(ctx context.Context) (address string, err error)
	// DialAddress, if not nil, returns the host:port to dial for the host:port of a
	// server, which is Address or the result of Resolve. It is called for each dial,
	// possibly by several goroutines at once, but not for a unix socket. ctx is
	// canceled when the dial ends. An error refuses the dial and becomes part of the
	// call's error. A panic does too.
	//
	// Behind NAT or in tunnels, DialAddress leads to servers that know themselves, and
	// each other, by addresses that cannot be dialed. Refusing unknown addresses bounds
	// where the servers of a cluster, or Sentinels, can lead connections, and with them
	// the password.
	DialAddress func(ctx context.Context, address string) (string, error)
	// Role is the role that the server must have. It is checked with ROLE before the
	// first command; a connection to a server with another role is closed. [Role]
	// describes the other effects.
	Role Role

	// Username and Password are sent with AUTH. Password alone authenticates the
	// default user. If both are empty, AUTH is not sent. A Username without a Password
	// is sent with an empty one, and never replaced by the default user.
	Username, Password string
	// Credentials, if not nil, supplies the username and password for each dial;
	// Username and Password must then be empty. ctx is canceled when the dial ends.
	// Its error becomes part of the call's error, so it must not contain a secret. A
	// panic is an error of the dial too.
	Credentials func(ctx context.Context) (Credentials, error)
	// DB is the number of the database (SELECT).
	DB int

	// TLS turns on TLS; nil means no TLS. An empty ServerName defaults to the host
	// that is dialed, which DialAddress may have returned. MinVersion is raised to TLS
	// 1.2 if it is lower.
	TLS *tls.Config
	// ClientName is the name that CLIENT LIST shows (CLIENT SETNAME). It must be
	// printable ASCII without spaces.
	ClientName string

	// Conns is the number of shared connections, which are dialed on demand; zero
	// means one. If the server is the bottleneck, one is the fastest: with more, fewer
	// commands travel together.
	Conns int
	// OwnConns is the maximum number of dedicated connections, for [driver.Own]
	// Pipelines and for Pipelines of more than 1 MiB; zero means 64. A call that finds
	// all of them in use waits for one until its deadline.
	OwnConns int
	// Timeout limits one call, with all retries and waiting, unless its context has an
	// earlier deadline; zero means one second.
	Timeout time.Duration
	// ConnectTimeout limits one dial, with TLS and AUTH; zero means one second. The
	// deadline of a call that dials for itself also applies.
	ConnectTimeout time.Duration
	// Limits bound the replies.
	Limits Limits

	// ReadOnly makes each connection send READONLY: a replica in a Redis Cluster then
	// answers commands that only read, instead of redirecting to its master.
	ReadOnly bool
	// Refusals makes the Store return temporary refusals of the server (LOADING,
	// TRYAGAIN, CLUSTERDOWN, MASTERDOWN, too many clients) at once. Otherwise refused
	// commands are sent again until the call's deadline. It is meant for callers that
	// can ask another server.
	Refusals bool

	// OnState, if not nil, is called with each new state of the shared connections and
	// its reason, if there is one: one state at a time, in the order of the changes.
	// The Store's goroutines and callers call it and wait for it, so it must not panic
	// or call the Store. At most 1,024 states wait for it; the oldest are dropped.
	OnState func(state driver.State, reason error)
}

// A Store is a [driver.Store] on one Redis server. It is safe for concurrent use.
type Store struct {
	pool         *redis.Pool
	fromPool     bool   // the pool was passed to FromPool
	showRefusals bool   // Config.Refusals
	address      string // for errors
	timeout      time.Duration
	limits       Limits

	dialer *dialer // nil if fromPool
	era    atomic.Pointer[era]
	lanes  []lane          // one per shared connection; none if fromPool
	turn   atomic.Uint32   // counts calls, to take the lanes in turn
	ctx    context.Context // for the dials of lanes; canceled by Close
	cancel context.CancelFunc

	starvedYield time.Duration // the constant of that name, except in tests
	poolUntil    atomic.Int64  // calls use the pool until then; nanoseconds after base

	permits chan struct{} // one per dedicated connection in use, at most OwnConns; nil if fromPool
	done    chan struct{} // closed by Close
	close   sync.Once     // closes done
	stats   counters

	states states // of the shared connections

	loaded scripts // the scripts that the server is believed to know
	server version // asked for when a reply suggests that the server is too old
}

var _ driver.Starter = (*Store)(nil)

// Open returns a Store for c. It checks c but does not dial, so an unreachable
// server is reported by the first call. Errors name the field of Config.
func Open(c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("caches: redigo.Config: %w", err)
	}
	conns := orDefault(c.OwnConns, 64)
	s := newStore(c.Timeout, c.Limits)
	s.address, s.states.on = orDefault(c.Address, "(resolved)"), c.OnState
	s.showRefusals = c.Refusals
	s.era.Store(newEra())
	s.permits = make(chan struct{}, conns)
	s.dialer = newDialer(&c)
	s.lanes = make([]lane, orDefault(c.Conns, 1))
	for i := range s.lanes {
		s.lanes[i].s = s
	}
	s.pool = &redis.Pool{
		DialContext:  func(ctx context.Context) (redis.Conn, error) { return s.dial(ctx) },
		TestOnBorrow: func(c redis.Conn, _ time.Time) error { return c.(*conn).check() },
		MaxIdle:      conns,
		IdleTimeout:  idleTimeout,
	}
	return s, nil
}

func newStore(timeout time.Duration, limits Limits) *Store {
	s := &Store{
		timeout:      min(orDefault(timeout, time.Second), never/2), // it is added to times
		limits:       limits.orDefaults(),
		done:         make(chan struct{}),
		starvedYield: starvedYield,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (c *Config) check() error {
	if err := c.checkAddress(); err != nil {
		return err
	}
	switch {
	case c.Role > Replica:
		return errors.New("the Role is unknown")
	case c.Credentials != nil && c.Username+c.Password != "":
		return errors.New("the Credentials replace Username and Password: set only one of the two")
	case c.DB < 0, c.Conns < 0, c.OwnConns < 0, c.Timeout < 0, c.ConnectTimeout < 0:
		return errors.New("DB, Conns, OwnConns, Timeout and ConnectTimeout must not be negative")
	case strings.ContainsFunc(c.ClientName, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the ClientName must be printable ASCII without spaces")
	}
	return c.Limits.check()
}

func (c *Config) checkAddress() error {
	unix := c.Network == "unix"
	switch {
	case c.Network != "" && c.Network != "tcp" && !unix:
		return errors.New(`the Network is neither "tcp" nor "unix"`)
	case c.Address == "" && c.Resolve == nil:
		return errors.New("the Address is missing")
	case c.Resolve != nil && unix:
		return errors.New(`the Resolve function returns host:port, so the Network must not be "unix"`)
	case !c.addressFits():
		return errors.New("the Address is not host:port") // it may be a DSN with a password: do not repeat it
	case c.TLS != nil && unix && c.TLS.ServerName == "" && !c.TLS.InsecureSkipVerify:
		return errors.New("TLS over a unix socket needs a ServerName to verify")
	}
	return nil
}

func (c *Config) addressFits() bool {
	if c.Network == "unix" {
		return true
	}
	_, _, err := net.SplitHostPort(c.Address)
	return (err == nil || c.Resolve != nil) && !strings.ContainsAny(c.Address, "@/?#")
}

// String returns the network, the address and the number of the database.
func (c Config) String() string {
	if !c.addressFits() {
		return "redigo.Config(invalid address)"
	}
	return fmt.Sprintf("redigo.Config(%s %s/%d)", orDefault(c.Network, "tcp"), c.Address, c.DB)
}

// GoString returns the same as String.
func (c Config) GoString() string { return c.String() }

// Format writes the result of String for every verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns the result of String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns the result of String, which encoding/json then shows too.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Do runs the commands of p; see [driver.Store]. They travel together with the
// commands of other calls, in one round trip. A [driver.Script] that the server
// does not have in its cache takes a second one.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	c := s.newCall(ctx, p)
	if c.quick() {
		return nil
	}
	return c.Finish()
}

// Start is Do in two steps; see [driver.Starter]. The commands are on their way
// when it returns, and no goroutine waits for them, unless no connection is open
// yet or p needs a dedicated one.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	c := s.newCall(ctx, p)
	c.start()
	return c
}

// Ask is Do on a Redis Cluster server that is importing the slot of p's keys. It
// sends ASKING before each command, or once if p is [driver.Atomic]. No command of
// another call comes between ASKING and its command.
func (s *Store) Ask(ctx context.Context, p *driver.Pipeline) error {
	c := s.newCall(ctx, p)
	c.asking = true
	return c.Finish()
}

var errClosed = errors.New("the store is closed")

func (s *Store) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Close makes later calls, and calls that wait for a dedicated connection, fail
// with [driver.ErrUnavailable]. It waits up to 5 seconds for calls in progress on
// shared connections and then closes these; a call still in progress fails with
// [driver.ErrUnknownOutcome]. Within the same 5 seconds it delivers the remaining
// states to Config.OnState. A dedicated connection is closed when its call ends;
// Close does not wait for that. A pool passed to [FromPool] stays open. A second
// Close does nothing.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		close(s.done)
		s.cancel()
		end := time.Now().Add(drainTime)
		for i := range s.lanes {
			s.lanes[i].close(end)
		}
		s.states.wait(end)
		if !s.fromPool {
			err = s.pool.Close()
		}
	})
	return err
}

// lane returns the next lane in turn.
func (s *Store) lane() *lane {
	if len(s.lanes) == 1 {
		return &s.lanes[0]
	}
	return &s.lanes[s.turn.Add(1)%uint32(len(s.lanes))]
}

// String returns the address of the server.
func (s *Store) String() string { return "redis " + s.address }

// Format writes the result of String for every verb: the fields of a Store are
// private, and change while they are printed.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }
