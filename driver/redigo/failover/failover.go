// Package failover stores the data of package caches in a Redis master that
// Redis Sentinel monitors and replaces
// (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/).
//
//	store, err := failover.Open(failover.Config{
//		Sentinels: []string{"s1:26379", "s2:26379", "s3:26379"},
//		Master:    "mymaster",
//	})
//
// A Store is a [redigo.Store] whose server can move, with all guarantees of
// package redigo. Each dial asks for the address of the master. It asks all
// Sentinels at once, including Sentinels named by the configured ones. The
// first answer decides, unless an answer with a higher configuration epoch
// follows within 25 ms. So an outdated Sentinel does not lead back to the
// previous master. A new connection is used only if the server confirms that it
// is a master (ROLE).
//
// From the first dial until Close, two goroutines watch the Sentinels. One
// subscribes to +switch-master at one Sentinel, and moves on to the next if the
// subscription is lost. The other asks all Sentinels every second. When the
// master has moved, all connections to the previous master are closed at once.
// Calls on them end as on any lost connection: they are sent again if that
// cannot run them twice, otherwise the outcome is unknown. Replies that the
// previous master sends later, such as an acknowledged write, therefore never
// reach a caller. A write that it refuses because it has become a replica is
// sent to the new master; see [redigo.Role].
//
// No client can prevent two kinds of loss. A master that is cut off
// acknowledges writes of clients cut off with it until the Sentinels replace
// it. To limit this, set min-replicas-to-write and min-replicas-max-lag on the
// servers: a master without replicas then refuses writes. And a master that
// dies loses writes that it has acknowledged but not yet replicated.
package failover

import (
	"context"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A Store is a [driver.Store] over a master monitored by Redis Sentinel. It is
// safe for concurrent use.
type Store struct {
	name     string
	timeout  time.Duration // of one call
	node     *redigo.Store // the current master
	watch    *watch
	replicas *replicas // nil if the master answers everything
}

var (
	_ driver.Starter = (*Store)(nil)
	_ driver.Meter   = (*Store)(nil)
	_ driver.Tracker = (*Store)(nil)
)

// Open returns a Store for c. It validates c but does not dial: unreachable
// Sentinels are reported by the first call. Errors name the invalid field of
// Config.
func Open(c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("caches: failover.Config: %w", err)
	}
	s := &Store{name: c.Master, timeout: c.Node.Timeout}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	s.watch = newWatch(&c)
	node := c.Node
	node.Address, node.Resolve, node.Role = c.Master, s.watch.resolve, redigo.Master
	var err error
	if s.node, err = redigo.Open(node); err != nil {
		return nil, err
	}
	s.watch.switched = s.node.Drop
	if c.ReadReplicas {
		s.replicas = newReplicas(&c, s.timeout)
		s.watch.follow = s.replicas.set
	}
	if err := s.watch.open(c.Sentinels); err != nil {
		return nil, err
	}
	return s, nil
}

// defaultTimeout is the default of [redigo.Config] for Timeout and
// ConnectTimeout.
const defaultTimeout = time.Second

// Do runs the commands of p on the master, as [driver.Store] specifies.
//
// With ReadReplicas, a [driver.ReadOnly] Pipeline is sent to a replica that is
// up and linked to the master according to the Sentinels. If the replica fails
// or replies with an error, the Pipeline is sent to the master. The master
// alone runs Pipelines that are also [driver.Master] or [driver.Own], that
// contain a command without a key, or that scan: a cursor is meaningless to
// other servers.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	if r := s.replicaFor(p); r != nil {
		return s.read(ctx, r, p).Finish()
	}
	return s.node.Do(ctx, p)
}

// Start begins the call that Do makes, as [driver.Starter] specifies.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	if r := s.replicaFor(p); r != nil {
		return s.read(ctx, r, p)
	}
	return s.node.Start(ctx, p)
}

// Track implements [driver.Tracker] on the master, as [redigo.Store.Track]
// does. When the master moves, tell gets Lost and, soon after, Tracking.
func (s *Store) Track(prefixes []string, tell func(driver.Event)) (stop func()) {
	return s.node.Track(prefixes, tell)
}

// Stats returns the sum of the counts of the master and of all replicas.
func (s *Store) Stats() driver.Stats {
	stats := s.node.Stats()
	if s.replicas != nil {
		stats = stats.Plus(s.replicas.stats())
	}
	return stats
}

// Close stops watching the Sentinels and ends calls in progress as
// [redigo.Store.Close] does. Calling Close again does nothing.
func (s *Store) Close() error {
	err := s.node.Close()
	s.watch.close()
	if s.replicas != nil {
		s.replicas.close()
	}
	return err
}

// String returns the name of the master.
func (s *Store) String() string { return "redis " + s.name + " (failover)" }

// Format writes the result of String for every verb. Printing the fields would
// race with running calls and could show credentials.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }
