// Package redigo is the store of caches that keeps its data in a Redis server,
// over github.com/gomodule/redigo.
//
// redigo dials and pools connections. The commands, which package driver has
// encoded already, are written to the socket as they are, and the replies are
// framed and checked in place, within [Limits]. Calls share one connection,
// where the commands of all travel together; some have one for themselves:
// those of [driver.Own] Pipelines, of more than 1 MiB, and all for half a
// second after this process was found to be short of processors.
//
//	store, err := redigo.Open(redigo.Config{Address: "localhost:6379"})
//
// What the package promises about failures:
//
//   - Every call ends by its context's deadline, or by Config.Timeout; one with
//     [driver.Own] by its context's alone, where that has one.
//   - An error wraps [driver.ErrUnavailable] where nothing was written, and
//     [driver.ErrUnknownOutcome] where something was and no whole reply came.
//   - Commands are sent again only where that cannot run them twice to another
//     effect: where nothing was written, where the server said that it did not
//     run them, and where the Pipeline is [driver.ReadOnly] or
//     [driver.Repeatable].
//   - A call that ends early leaves its place in the order of replies behind,
//     and the reply that comes for it is dropped. A connection that has shown
//     anything but the right number of whole replies is closed. So no reply is
//     ever taken for another's.
//   - A server that moves is asked for at each dial (Config.Resolve), and can be
//     checked to be what it should be (Config.Role). [Store.Drop] closes what is
//     open to where it was.
//   - 4,096 calls at most are under way on a shared connection; one more fails
//     at once. So does a call while a server that failed repeatedly is left in
//     peace, for less than half a second at a time.
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

// Config says where a server is and how to talk to it. Only Address is
// required. Printing a Config shows the address and no more; but in an
// unexported field of another struct fmt passes its methods by, and shows
// Password: keep Credentials there instead.
type Config struct {
	// Network is "tcp", which is the default, or "unix".
	Network string
	// Address is host:port, or the path of a socket.
	Address string
	// Resolve, if it is not nil, is asked at each dial where the server is, as
	// host:port, of one that moves. Address is then no more than what errors and
	// String call it, and may be empty. ctx ends with the dial; the time counts
	// as the dial's.
	Resolve func(ctx context.Context) (address string, err error)
	// Role is what the server must be; a connection to another is closed before
	// a command is at stake (ROLE). See [Role] for what else follows from it.
	Role Role

	// Username and Password are sent with AUTH. Without a Username, Password
	// is that of the default user; without either, AUTH is not sent. A Username
	// without a Password is sent with an empty one, and is never taken for the
	// default user.
	Username, Password string
	// Credentials, if it is not nil, is asked at each dial in place of Username
	// and Password, which must then be empty. ctx ends with the dial. Its error
	// is shown in that of the call, so it must not repeat a secret.
	Credentials func(ctx context.Context) (username, password string, err error)
	// DB is the number of the database (SELECT).
	DB int

	// TLS turns on TLS. Its ServerName defaults to the host of Address and its
	// MinVersion is at least 1.2. Nil means no TLS.
	TLS *tls.Config
	// ClientName is shown by CLIENT LIST: printable ASCII, without spaces.
	ClientName string

	// Conns is the number of connections that calls share, dialled when they
	// are needed; zero means one. One is the fastest where the server is what
	// limits: more of them make the portions smaller that commands travel in.
	Conns int
	// OwnConns is the most connections at once that calls have for themselves:
	// those of [driver.Own] Pipelines and of more than 1 MiB. Zero means 64. A
	// call beyond it waits until its deadline for one to come back.
	OwnConns int
	// Timeout of one call, retries and waiting included, where its context has
	// no nearer deadline; zero means one second.
	Timeout time.Duration
	// ConnectTimeout of one dial, with TLS and AUTH; zero means one second. The
	// deadline of the call that dials bounds it as well.
	ConnectTimeout time.Duration
	// Limits of replies.
	Limits Limits

	// ReadOnly has each connection say READONLY: a replica of Redis Cluster then
	// answers what only reads, instead of naming its master.
	ReadOnly bool
	// Refusals gives callers the replies of a server that runs nothing for now
	// (LOADING, TRYAGAIN, CLUSTERDOWN, MASTERDOWN, too many clients) at once. Else
	// their commands are sent again until the call's time is up. It is for Stores
	// that know another server to ask.
	Refusals bool

	// OnState, if it is not nil, is told what becomes of the connections that
	// calls share, with the reason where there is one: of one state after the
	// other, in the order in which they came. It is called by the Store's
	// goroutines and by callers, who wait for it: it must not panic, nor call the
	// Store. Of more than 1,024 that come while it runs it misses the first.
	OnState func(state driver.State, reason error)
}

// A Store is a Redis server as a [driver.Store]. It is safe for concurrent use.
type Store struct {
	pool         *redis.Pool
	fromPool     bool   // the pool is its user's
	showRefusals bool   // Config.Refusals
	address      string // for errors
	timeout      time.Duration
	limits       Limits

	dialer *dialer // nil for a foreign pool
	era    atomic.Pointer[era]
	lanes  []lane          // to the connections that calls share; none for a foreign pool
	turn   atomic.Uint32   // of the lanes
	ctx    context.Context // of dials for them; ends with Close
	cancel context.CancelFunc

	starvedYield time.Duration // the constant of that name, but in tests
	poolUntil    atomic.Int64  // nanoseconds after base: until then calls go through the pool

	permits chan struct{} // one per connection in use, OwnConns at most; nil for a foreign pool
	done    chan struct{} // closed by Close
	close   sync.Once     // closes done
	stats   counters

	states states // of the lanes' connections

	loaded scripts // of the server, as far as we know
	server version // of the server, once there was a reason to ask
}

var _ driver.Starter = (*Store)(nil)

// Open returns the Store of c. It checks c and never dials: a server that is
// not there is found out by the first call. The errors name a field of Config.
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
	switch {
	case c.Network != "" && c.Network != "tcp" && c.Network != "unix":
		return errors.New(`the Network is neither "tcp" nor "unix"`)
	case c.Address == "" && c.Resolve == nil:
		return errors.New("the Address is missing")
	case c.Resolve != nil && c.Network == "unix":
		return errors.New("what Resolve returns is host:port, and never a unix socket")
	case !c.addressFits():
		return errors.New("the Address is not host:port") // it may be a DSN with a password: do not repeat it
	case c.Role > Replica:
		return errors.New("the Role is none of those that there are")
	case c.Credentials != nil && c.Username+c.Password != "":
		return errors.New("the Credentials take the place of Username and Password: set one or the other")
	case c.DB < 0, c.Conns < 0, c.OwnConns < 0, c.Timeout < 0, c.ConnectTimeout < 0:
		return errors.New("the DB, Conns, OwnConns, Timeout and ConnectTimeout must not be negative")
	case strings.ContainsFunc(c.ClientName, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the ClientName must be printable ASCII without spaces")
	case c.TLS != nil && c.Network == "unix" && c.TLS.ServerName == "" && !c.TLS.InsecureSkipVerify:
		return errors.New("TLS over a unix socket needs a ServerName to verify")
	}
	return c.Limits.check()
}

func (c *Config) addressFits() bool {
	if c.Network == "unix" {
		return true
	}
	_, _, err := net.SplitHostPort(c.Address)
	return (err == nil || c.Resolve != nil) && !strings.ContainsAny(c.Address, "@/?#")
}

// String returns the address and the number of the database.
func (c Config) String() string {
	if !c.addressFits() {
		return "redigo.Config(invalid address)"
	}
	return fmt.Sprintf("redigo.Config(%s %s/%d)", orDefault(c.Network, "tcp"), c.Address, c.DB)
}

// GoString returns what String does.
func (c Config) GoString() string { return c.String() }

// Format writes what String returns, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns what String does.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns what String does; it is also what encoding/json shows.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Do runs the commands of p as [driver.Store] says. They travel together with
// those of other calls, in one round trip; a [driver.Script] that the server
// has forgotten takes a second one.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	c := s.newCall(ctx, p)
	if c.quick() {
		return nil
	}
	return c.Finish()
}

// Start is Do as [driver.Starter] says: the commands are on their way when it
// returns, and no goroutine waits for them, unless there is no connection yet
// or p needs one for itself.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	c := s.newCall(ctx, p)
	c.start()
	return c
}

// Ask is Do at a server of Redis Cluster that is about to take over the slot of
// p's keys: it says ASKING in front of each command, or once for an
// [driver.Atomic] p. Nobody else's command comes between the two.
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

// Close turns later calls away, waits up to 5 seconds for those under way on
// shared connections, and closes these; what is then left ends with
// [driver.ErrUnknownOutcome]. In the same time Config.OnState is told the rest.
// Connections that calls have for themselves are closed as their calls end, which
// Close does not wait for. Calls that wait for one and later calls fail with
// [driver.ErrUnavailable]. A second Close does nothing. A user's own pool stays
// open.
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

// lane returns the lane whose turn it is.
func (s *Store) lane() *lane {
	if len(s.lanes) == 1 {
		return &s.lanes[0]
	}
	return &s.lanes[s.turn.Add(1)%uint32(len(s.lanes))]
}

// String returns where the server is.
func (s *Store) String() string { return "redis " + s.address }

// Format writes what String returns, whatever the verb: a Store is at work
// while it is printed, and nothing in it is for others to see.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }
