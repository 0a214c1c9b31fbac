// Package cluster is the store of caches that keeps its data in a Redis
// Cluster: servers that divide the keys among themselves by 16,384 slots.
//
//	store, err := cluster.Open(cluster.Config{Seeds: []string{"cache01:6379", "cache02:6379"}})
//
// It composes one [redigo.Store] for each server, so calls share connections
// and travel together there as they do with one server; see package redigo for
// what that promises. What is done here:
//
//   - A Pipeline whose keys all live on one server goes there as it is. Others
//     are divided, one Pipeline for each server, which all work at once; MGET,
//     DEL, UNLINK, EXISTS and TOUCH are divided by slots. The replies come back
//     in the order of the commands.
//   - Commands that a server sends elsewhere (MOVED, ASK) follow, those alone:
//     they have not run. So do those that it refuses for now (TRYAGAIN,
//     CLUSTERDOWN, LOADING, …), after a pause, until the call's time is up. One
//     that follows runs after those that stood behind it in its Pipeline; who
//     minds makes the Pipeline [driver.Atomic].
//   - What may have run is sent again only where the Pipeline is
//     [driver.ReadOnly] or [driver.Repeatable], as in package redigo.
//   - The servers are asked who has which slot (CLUSTER SHARDS, else CLUSTER
//     SLOTS) when the first call needs to know, and then when something shows that
//     the answer is old, at most once in 100 ms however many calls notice. A call
//     whose slot is known does not wait for it.
//   - A call that meets a server which is not there waits for such an answer, and
//     goes on where another server has the slot by now. Else it fails at once,
//     and so do those after it, until one has.
//
// The library mna/redisc does much of this for redigo. It hands out a pooled
// connection for each call, bound to one server: here that would give up the
// shared connections, on which the commands of all callers travel together, and
// the accounts of what has run that come with them. What would be left of it is
// a CRC and the reading of one reply.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// Config says where the cluster is and how to talk to its servers. Only Seeds
// are required. Printing a Config shows them and no more.
type Config struct {
	// Seeds are servers of the cluster, as host:port. One that answers is enough:
	// it names the others. They are asked again whenever the servers known do not
	// answer, or do not know who has all the slots.
	Seeds []string

	// Node says how to talk to each server: all of it but the Network, Address
	// and DB, which must be zero, and ReadOnly and Refusals, which are set as
	// they are needed. Conns and OwnConns are for each server. Timeout is that of
	// a call with all it takes, at any number of servers.
	Node redigo.Config

	// ReadReplicas lets replicas answer [driver.ReadOnly] Pipelines that are not
	// [driver.Master], in turn; the master answers where none can. A replica is
	// behind its master, as a rule by milliseconds: what was just written may be
	// missing, and what was just deleted may be there.
	ReadReplicas bool

	// Map, if it is not nil, gives the address to dial for one that a server has
	// named, both host:port: behind NAT, servers know themselves by other
	// addresses than their callers do. It is not asked for the Seeds. It is called
	// by many goroutines at once.
	Map func(address string) string
}

// A Store is a Redis Cluster as a [driver.Store]. It is safe for concurrent use.
type Store struct {
	seeds    []string
	open     func(address string, readOnly bool) *redigo.Store // holds what is secret
	address  func(address string) string                       // Config.Map
	timeout  time.Duration
	tls      bool
	replicas bool

	table   atomic.Pointer[table] // nil until a server has answered
	turn    atomic.Uint32         // of the servers for commands without a key, and of the replicas
	retries atomic.Int64
	calls   sync.Pool // of *call

	refresher refresher

	mu       sync.Mutex
	nodes    map[string]*node // by address
	hints    map[int]hint     // that the table may be too old to know, by slot
	trackers map[*tracker]struct{}
	leaving  map[*node]bool // that are being closed
	retired  driver.Stats   // of those that are closed
	ended    bool

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // goroutines; one begins under mu, and not after ended
}

var (
	_ driver.Starter = (*Store)(nil)
	_ driver.Cluster = (*Store)(nil)
	_ driver.Meter   = (*Store)(nil)
	_ driver.Tracker = (*Store)(nil)
)

// Open returns the Store of c. It checks c and never dials: a cluster that is
// not there is found out by the first call. The errors name a field of Config.
func Open(c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("caches: cluster.Config: %w", err)
	}
	s := &Store{
		seeds:    slices.Clone(c.Seeds),
		open:     opener(c.Node),
		address:  c.Map,
		timeout:  min(c.Node.Timeout, math.MaxInt64/4), // it is added to times, and doubled
		tls:      c.Node.TLS != nil,
		replicas: c.ReadReplicas,
		nodes:    make(map[string]*node),
		hints:    make(map[int]hint),
		trackers: make(map[*tracker]struct{}),
		leaving:  make(map[*node]bool),
	}
	if s.timeout == 0 {
		s.timeout = time.Second
	}
	s.refresher.s = s
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// opener returns what opens the store of one server.
func opener(template redigo.Config) func(address string, readOnly bool) *redigo.Store {
	return func(address string, readOnly bool) *redigo.Store {
		c := template
		c.Address, c.ReadOnly, c.Refusals = address, readOnly, true
		s, err := redigo.Open(c)
		if err != nil {
			panic(err) // check has opened one like it, and wellFormed seen the address
		}
		return s
	}
}

func (c *Config) check() error {
	if len(c.Seeds) == 0 {
		return errors.New("the Seeds are missing")
	}
	for _, seed := range c.Seeds {
		if !wellFormed(seed) {
			return errors.New("one of the Seeds is not host:port") // it may be a DSN with a password: do not repeat it
		}
	}
	n := c.Node
	switch {
	case n.Network != "" || n.Address != "":
		return errors.New("the Node's Network and Address are the cluster's affair: leave them empty")
	case n.DB != 0:
		return errors.New("the Node's DB must be 0: a cluster has no other")
	case n.Resolve != nil || n.Role != 0 || n.ReadOnly:
		return errors.New("the Node's Resolve, Role and ReadOnly are the cluster's affair: leave them empty")
	}
	n.Address = c.Seeds[0]
	s, err := redigo.Open(n)
	if err != nil {
		return err
	}
	return s.Close()
}

// wellFormed reports whether an address can be dialled, whatever is there.
func wellFormed(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err == nil && host != "" && port != "" && !strings.ContainsAny(address, "@/?#")
}

// String returns the seeds.
func (c Config) String() string {
	if !slices.ContainsFunc(c.Seeds, func(seed string) bool { return !wellFormed(seed) }) {
		return fmt.Sprintf("cluster.Config(%s)", strings.Join(c.Seeds, " "))
	}
	return "cluster.Config(invalid seeds)"
}

// GoString returns what String does.
func (c Config) GoString() string { return c.String() }

// Format writes what String returns, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns what String does.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns what String does; it is also what encoding/json shows.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String returns where the cluster is.
func (s *Store) String() string { return "redis cluster " + strings.Join(s.seeds, " ") }

// Format writes what String returns, whatever the verb: a Store is at work
// while it is printed, and nothing in it is for others to see.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

var errClosed = errors.New("the store is closed")

// Close turns later calls away, and closes the stores of all servers at once,
// as [redigo.Store.Close] does: it waits up to 5 seconds for the calls under
// way. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	nodes := s.nodes
	again := s.ended
	s.nodes, s.ended = nil, true
	for _, n := range nodes {
		s.leaving[n] = true
	}
	s.mu.Unlock()
	if again {
		return nil
	}
	s.cancel()
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() { s.retire(n) })
	}
	all.Wait()
	s.running.Wait()
	return nil
}

// spawn runs f in a goroutine that Close waits for, unless the Store is closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spawnLocked(f)
}

func (s *Store) spawnLocked(f func()) bool {
	if s.ended {
		return false
	}
	s.running.Go(f)
	return true
}

// Stats returns the sums of what the stores of all servers count, also of those
// that have left. Calls and Errors are of one server each: a Pipeline that is
// divided counts as many calls. Retries has those that another server took, or
// the same one later, besides.
func (s *Store) Stats() driver.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.retired
	for _, n := range s.nodes {
		sum = sum.Plus(n.stats())
	}
	for n := range s.leaving {
		sum = sum.Plus(n.stats())
	}
	sum.Retries += s.retries.Load()
	return sum
}
