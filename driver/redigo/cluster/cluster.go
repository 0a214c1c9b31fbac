// Package cluster stores the data of package caches in a Redis Cluster: servers
// that divide the keys among themselves by 16,384 slots.
//
//	store, err := cluster.Open(cluster.Config{Seeds: []string{"cache01:6379", "cache02:6379"}})
//
// A Store uses one [redigo.Store] per server, so calls share connections as
// they do with a single server, and the guarantees of package redigo hold.
// Besides:
//
//   - A Pipeline whose keys all live on one server is sent there unchanged. Any
//     other is split into one Pipeline per server, and all servers work at
//     once. MGET, DEL, UNLINK, EXISTS and TOUCH are split by slot. Replies are
//     in the order of the commands.
//   - Commands that a server redirects (MOVED, ASK) are sent to the other
//     server. Commands that a server refuses temporarily (TRYAGAIN,
//     CLUSTERDOWN, LOADING, …) are sent again after a pause, until the call
//     times out. Neither kind has run yet, and it may run after later
//     commands of the Pipeline. Use [driver.Atomic] to keep the order.
//   - A server that redirects to its own address has been replaced behind its
//     name. The name is dialed again, at most once per 75 ms, and the commands are
//     sent there. Calls in progress on the former connections come to their end.
//   - Commands that may have run are sent again only if the Pipeline is
//     [driver.ReadOnly] or [driver.Repeatable], as in package redigo.
//   - The first call asks the servers for the slots of each one (CLUSTER
//     SHARDS, or CLUSTER SLOTS if that is refused or not understood). They are
//     asked again when the answer proves outdated, when a connection is lost or
//     made again, and 10 to 20 s after the last time. This happens at most once per
//     100 ms for all calls together. Calls with a known slot do not wait for the
//     answer.
//   - A call that cannot reach a server waits for a new answer, and continues
//     if another server now has the slot. Otherwise it fails. Until the slot has
//     a reachable server again, later calls fail at once.
//
// The library mna/redisc does much of this for redigo, but binds each call to a
// pooled connection to one server. Using it would give up the shared
// connections, which carry the commands of all callers, and with them the
// record of which commands have run. It would contribute only a CRC and a
// parser for one reply.
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
// is required. A printed Config shows only the seeds.
type Config struct {
	// Seeds are some servers of the cluster, as host:port. One that answers is
	// enough, since it names the others. Seeds are asked again, all at once, if a
	// known server does not answer or names no server for some slots.
	Seeds []string

	// Node is the configuration of each server. Network, Address, DB, Resolve,
	// Role and ReadOnly must be zero, and Refusals is ignored. DialAddress is
	// called with each seed and with each address that a server names. Conns and
	// OwnConns apply to each server separately. Timeout limits a whole call,
	// including redirects and retries, however many servers it involves.
	Node redigo.Config

	// ReadReplicas lets replicas, in turn, answer [driver.ReadOnly] Pipelines that
	// are not [driver.Master] or [driver.Own]. If a replica fails, the master
	// answers. A replica lags behind its master, usually by milliseconds: it may
	// lack recent writes and still have recently deleted keys.
	ReadReplicas bool
}

// A Store is a [driver.Store] over Redis Cluster. It is safe for concurrent use.
type Store struct {
	seeds    []string
	open     opener
	timeout  time.Duration
	tls      bool
	replicas bool

	table   atomic.Pointer[table] // nil until a server has answered
	turn    atomic.Uint32         // next server for a command without a key, and next replica
	retries atomic.Int64
	calls   sync.Pool // of *call, for reuse

	refresher refresher

	mu       sync.Mutex
	nodes    map[string]*node // by address
	hints    map[int]hint     // by slot: redirects that may be newer than the table
	trackers map[*tracker]struct{}
	closing  map[*node]bool // nodes being closed
	retired  driver.Stats   // counts of the nodes already closed
	closed   bool

	ctx     context.Context // canceled by Close
	cancel  context.CancelFunc
	running sync.WaitGroup // all goroutines; started only under mu and before closed is set
}

var (
	_ driver.Starter = (*Store)(nil)
	_ driver.Cluster = (*Store)(nil)
	_ driver.Meter   = (*Store)(nil)
	_ driver.Tracker = (*Store)(nil)
)

// Open returns a Store for c. It validates c but does not dial: an unreachable
// cluster is reported by the first call. Errors name the invalid field of
// Config.
func Open(c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("caches: cluster.Config: %w", err)
	}
	s := &Store{
		seeds:    slices.Clone(c.Seeds),
		open:     openerOf(c.Node),
		timeout:  min(c.Node.Timeout, math.MaxInt64/4), // bounded because it is doubled and added to times
		tls:      c.Node.TLS != nil,
		replicas: c.ReadReplicas,
		nodes:    make(map[string]*node),
		hints:    make(map[int]hint),
		trackers: make(map[*tracker]struct{}),
		closing:  make(map[*node]bool),
	}
	if s.timeout == 0 {
		s.timeout = time.Second
	}
	s.refresher.s, s.refresher.calm = s, calmFor
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// An opener opens the store of one server, whose states go to noted too. It holds
// the credentials.
type opener func(address string, readOnly bool, noted func(driver.State, error)) *redigo.Store

func openerOf(template redigo.Config) opener {
	return func(address string, readOnly bool, noted func(driver.State, error)) *redigo.Store {
		c := template
		c.Address, c.ReadOnly, c.Refusals = address, readOnly, true
		if c.OnState = noted; template.OnState != nil {
			c.OnState = func(state driver.State, reason error) {
				noted(state, reason)
				template.OnState(state, reason)
			}
		}
		s, err := redigo.Open(c)
		if err != nil {
			panic(err) // unreachable: check opened this configuration and wellFormed accepted the address
		}
		return s
	}
}

func (c *Config) check() error {
	if len(c.Seeds) == 0 {
		return errors.New("there are no Seeds")
	}
	for _, seed := range c.Seeds {
		if !wellFormed(seed) {
			return errors.New("one of the Seeds is not host:port") // do not repeat the seed: it may be a DSN with a password
		}
	}
	n := c.Node
	switch {
	case n.Network != "" || n.Address != "":
		return errors.New("Node.Network and Node.Address must be empty: the cluster names its servers")
	case n.DB != 0:
		return errors.New("Node.DB must be 0: Redis Cluster has no other database")
	case n.Resolve != nil || n.Role != 0 || n.ReadOnly:
		return errors.New("Node.Resolve, Node.Role and Node.ReadOnly must be zero: the cluster sets them")
	}
	n.Address = c.Seeds[0]
	s, err := redigo.Open(n)
	if err != nil {
		return err
	}
	return s.Close()
}

// wellFormed reports whether address has a form that can be dialled.
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

// GoString returns the result of String.
func (c Config) GoString() string { return c.String() }

// Format writes the result of String for every verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns the result of String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns the result of String. Package encoding/json uses it too.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String returns the seeds of the cluster.
func (s *Store) String() string { return "redis cluster " + strings.Join(s.seeds, " ") }

// Format writes the result of String for every verb. Printing the fields would
// race with running calls and could show credentials.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

var errClosed = errors.New("the store is closed")

// Close makes later calls fail and closes the stores of all servers at once,
// each as [redigo.Store.Close] does: it waits up to 5 seconds for calls in
// progress. Calling Close again does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	nodes := s.nodes
	again := s.closed
	s.nodes, s.closed = nil, true
	for _, n := range nodes {
		s.closing[n] = true
	}
	s.mu.Unlock()
	if again {
		return nil
	}
	s.cancel()
	s.refresher.stop()
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() { s.retire(n) })
	}
	all.Wait()
	s.running.Wait()
	return nil
}

// spawn runs f in a goroutine that Close waits for. It reports false, and does
// not run f, if the Store is closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spawnLocked(f)
}

func (s *Store) spawnLocked(f func()) bool {
	if s.closed {
		return false
	}
	s.running.Go(f)
	return true
}

// Stats returns the sums of the counts of all servers, including servers that
// have left the cluster. Calls and Errors count per server: a Pipeline split
// over three servers counts as three calls. Retries also counts the rounds in
// which commands were sent again, to another server or later to the same one.
func (s *Store) Stats() driver.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.retired
	for _, n := range s.nodes {
		sum = sum.Plus(n.stats())
	}
	for n := range s.closing {
		sum = sum.Plus(n.stats())
	}
	sum.Retries += s.retries.Load()
	return sum
}
