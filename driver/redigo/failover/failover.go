// Package failover is the store of caches that keeps its data in a Redis master
// which Redis Sentinel watches and replaces
// (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/).
//
//	store, err := failover.Open(failover.Config{
//		Sentinels: []string{"s1:26379", "s2:26379", "s3:26379"},
//		Master:    "mymaster",
//	})
//
// It is one [redigo.Store], with all that package redigo promises, whose server
// moves. Where it is, is asked for at each dial: of all Sentinels at once,
// those that the configured ones know of included. The first answer decides,
// unless a newer one (by the Sentinels' configuration epoch) comes within a
// moment; a Sentinel that is behind the others does not lead back to a former
// master. A connection is used once the server at its other end has said that it
// is a master (ROLE).
//
// Once there was a dial, two goroutines watch the Sentinels until Close: one
// subscribes to +switch-master at one of them, and at the next where that is
// lost; the other asks all of them every second. When the master is another, all
// connections to the former one are closed at once. The calls on them end as on
// any lost connection: they are sent again where that cannot run them twice, and
// otherwise the caller is told that the outcome is unknown. So nothing that a
// former master says after the Sentinels have replaced it is ever passed on, a
// write acknowledged least of all. A write that it refuses, because it has been
// told that it is a replica, is sent to the new master; see [redigo.Role].
//
// What no client can see to is what a master acknowledges after it was cut off
// and before the Sentinels replace it, for those who are cut off with it, and
// what it has acknowledged but not passed on to a replica when it dies. For the
// former, set min-replicas-to-write and min-replicas-max-lag at the servers: a
// master that has lost its replicas then refuses to write.
package failover

import (
	"context"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

// A Store is a master that Sentinels watch, as a [driver.Store]. It is safe for
// concurrent use.
type Store struct {
	name     string
	timeout  time.Duration // of a call
	node     *redigo.Store // the master, wherever it is
	watch    *watch
	replicas *replicas // nil where the master answers everything
}

var (
	_ driver.Starter = (*Store)(nil)
	_ driver.Meter   = (*Store)(nil)
	_ driver.Tracker = (*Store)(nil)
)

// Open returns the Store of c. It checks c and never dials: Sentinels that are
// not there are found out by the first call. The errors name a field of Config.
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

// defaultTimeout is that of [redigo.Config] for a call and for a dial.
const defaultTimeout = time.Second

// Do runs the commands of p as [driver.Store] says, at the master.
//
// With ReadReplicas, a Pipeline that is [driver.ReadOnly] goes to a replica that
// the Sentinels call up and in touch with the master, and then to the master
// where the replica fails or answers with an error. It goes to the master alone
// where it is [driver.Master] or [driver.Own] too, where a command has no key,
// and where one is a page of a scan, for its cursor means nothing to other
// servers.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error {
	if r := s.replicaFor(p); r != nil {
		return s.read(ctx, r, p).Finish()
	}
	return s.node.Do(ctx, p)
}

// Start is Do as [driver.Starter] says.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	if r := s.replicaFor(p); r != nil {
		return s.read(ctx, r, p)
	}
	return s.node.Start(ctx, p)
}

// Track does what [driver.Tracker] says, at the master, as [redigo.Store.Track]
// does: each change of the master is a Lost and, soon after, a Tracking.
func (s *Store) Track(prefixes []string, tell func(driver.Event)) (stop func()) {
	return s.node.Track(prefixes, tell)
}

// Stats returns the counts of the master's connections and of the replicas'.
func (s *Store) Stats() driver.Stats {
	stats := s.node.Stats()
	if s.replicas != nil {
		stats = stats.Plus(s.replicas.stats())
	}
	return stats
}

// Close ends the calls under way as [redigo.Store.Close] does, and the watch over
// the Sentinels. A second Close does nothing.
func (s *Store) Close() error {
	err := s.node.Close()
	s.watch.close()
	if s.replicas != nil {
		s.replicas.close()
	}
	return err
}

// String returns which master it is.
func (s *Store) String() string { return "redis " + s.name + " (failover)" }

// Format writes what String returns, whatever the verb: a Store is at work
// while it is printed, and nothing in it is for others to see.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }
