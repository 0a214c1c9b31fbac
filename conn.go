package caches

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/near"
	"github.com/gocaches/caches/internal/tally"
	"github.com/gocaches/caches/internal/trip"
)

// title returns a connection's name for use in messages.
func title(name string) string {
	if name == "" {
		return "(the default one)"
	}
	return strconv.Quote(name)
}

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	return strings.Join(quoted, ", ")
}

// shardOf returns the index of the shard of the key front+key.
func (c *Conn) shardOf(front, key string) int {
	if len(c.shards) == 1 {
		return 0
	}
	return c.route(front, key)
}

// group returns, for each shard, the indices of its keys in keys, in ascending
// order, nil if there are none.
func (c *Conn) group(front string, keys []string) [][]int {
	groups := make([][]int, len(c.shards))
	for i, key := range keys {
		shard := c.shardOf(front, key)
		groups[shard] = append(groups[shard], i)
	}
	return groups
}

// do runs p on one shard. Keys still on their previous shards are moved first.
func (c *Conn) do(ctx context.Context, shard int, p *driver.Pipeline) error {
	if c.previous != nil {
		if err := c.previous.Bring(ctx, shard, p); err != nil {
			return err
		}
	}
	return c.shards[shard].store.Do(ctx, p)
}

// doEach runs ps[i] on shard i, all at once, and returns when all are done, so
// the caller may then free or reuse the pipelines. It skips nil entries. It
// returns the error of each, or nil if there is none.
func (c *Conn) doEach(ctx context.Context, ps []*driver.Pipeline) []error {
	if len(ps) == 1 && ps[0] != nil {
		if err := c.do(ctx, 0, ps[0]); err != nil {
			return []error{err}
		}
		return nil
	}
	if c.previous == nil {
		return c.shards.do(ctx, ps)
	}
	failed := c.previous.BringAll(ctx, ps)
	if failed == nil {
		return c.shards.do(ctx, ps)
	}
	left := slices.Clone(ps)
	for i, err := range failed {
		if err != nil {
			left[i] = nil
		}
	}
	for i, err := range c.shards.do(ctx, left) {
		failed[i] = cmp.Or(failed[i], err)
	}
	return failed
}

// everyServer calls f for all servers at once, including previous shards, and
// joins the errors as shards.every does.
func (c *Conn) everyServer(ctx context.Context, f func(s shard) error) error {
	servers, err := c.servers(ctx)
	return errors.Join(err, servers.every(func(i int) error { return f(servers[i]) }))
}

// servers returns all shards, including previous ones, with a cluster replaced
// by its masters. A cluster whose masters cannot be determined is left out, and
// its error is part of err.
func (c *Conn) servers(ctx context.Context) (all shards, err error) {
	for _, s := range slices.Concat(c.shards, c.previous.others()) {
		divided, ok := s.store.(driver.Cluster)
		if !ok {
			all = append(all, s)
			continue
		}
		masters, e := divided.Masters(ctx)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("shard %s: %w", s.name, e))
		}
		for _, m := range masters {
			all = append(all, shard{s.name, m})
		}
	}
	return all, err
}

// A Conn is a connection to one or more shards, with the prefix, version and
// default time to live of their keys. [Open] and a [Registry] make one from DSNs,
// [ConnOptions.OpenPools] from redigo pools, and [ConnOptions.OpenStores] from any
// stores. A Conn is safe for
// concurrent use. The Conn of an object is the first of these:
//
//   - the Conn passed to On,
//   - the Conn of the context; see [WithConn],
//   - the Conn in the default registry with the name in Options.Connection.
type Conn struct {
	name   string
	shards shards
	route  func(front, key string) int

	prefix string // with its dot, or empty
	own    string // prefix followed by the version and its dot
	ttl    time.Duration

	observer *observer // nil without hooks
	tallies  *tally.Set
	near     *near.Cache
	previous *previousRing   // nil without previous shards
	waiters  chan struct{}   // one element per call that waits for a lease on its own connection
	open     context.Context // canceled by Close, which ends these waits
	shut     context.CancelFunc
}

// newConn returns a Conn with the given shards. It checks their names.
func newConn(all shards, o ConnOptions) (*Conn, error) {
	if len(all) == 0 {
		return nil, errors.New("caches: a connection needs at least one shard")
	}
	if err := errors.Join(o.check(), all.sort()); err != nil {
		return nil, err
	}
	c := &Conn{name: o.Name, shards: all, prefix: dotted(o.Prefix), ttl: o.TTL, observer: o.observer, tallies: new(tally.Set)}
	c.near = c.newNear()
	c.open, c.shut = context.WithCancel(context.Background())
	// A waiting call occupies a connection: half of them stay free for other
	// calls.
	c.waiters = make(chan struct{}, min(cmp.Or(o.own, defaultOwn)/2, maxWaiters))
	if c.observer == nil {
		c.observer = newObserver(o.Hooks)
	}
	c.own = c.prefix + dotted(o.Version)
	if c.ttl == Forever {
		c.ttl = 0
	}
	if len(all) > 1 {
		c.route = all.route(o.Router)
	}
	return c, nil
}

// newNear returns an empty near cache for c.
func (c *Conn) newNear() *near.Cache {
	stores := make([]driver.Store, len(c.shards))
	for i, s := range c.shards {
		stores[i] = s.store
	}
	return near.New(near.Config{Stores: stores, State: func(shard int, state driver.State, err error) {
		c.observer.state(StateInfo{Conn: c.name, Shard: c.shards[shard].name, State: state, Err: err})
	}})
}

// dotted returns s with a dot, unless it is empty.
func dotted(s string) string {
	if s == "" {
		return ""
	}
	return s + "."
}

// front returns the beginning of all keys of a version: the connection's prefix
// and the version, each with a dot. An empty version means the connection's
// own; front then allocates nothing.
func (c *Conn) front(version string) string {
	if version == "" {
		return c.own
	}
	return c.prefix + version + "."
}

// defaultTTL returns the default time to live of objects, or 0 for none.
func (c *Conn) defaultTTL() time.Duration { return c.ttl }

// Name returns the connection's name, which is empty for the default
// connection.
func (c *Conn) Name() string { return c.name }

// Shards returns a new slice of the names of the shards in byte order, the
// order in which a [Router] counts them.
func (c *Conn) Shards() []string { return c.shards.names() }

// ShardOf returns the name of the shard of a key. The key must be complete, as
// returned by the String method of an object on this connection.
func (c *Conn) ShardOf(key string) string { return c.shards[c.shardOf("", key)].name }

// String returns the connection's name and the names of its shards.
func (c *Conn) String() string {
	return "caches.Conn(" + title(c.name) + ": " + strings.Join(c.Shards(), ", ") + ")"
}

// GoString returns the same as String.
func (c *Conn) GoString() string { return c.String() }

// LogValue implements [slog.LogValuer]. It returns the name and
// the shards.
func (c *Conn) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", c.name), slog.Any("shards", c.Shards()))
}

// Close closes the stores of all shards. Calls in progress end with a definite
// outcome. Later calls fail with [ErrUnavailable]. Closing a Conn again does
// nothing.
func (c *Conn) Close() error {
	c.near.Close()
	c.shut()
	servers := slices.Concat(c.shards, c.previous.others())
	return servers.every(func(i int) error { return servers[i].store.Close() })
}

// Ping sends PING to all shards at once, including previous shards, and to
// every master of a Redis Cluster. Its error joins the errors of the servers
// that failed, each with the name of its shard.
func (c *Conn) Ping(ctx context.Context) error {
	return c.everyServer(ctx, func(s shard) error { return s.simple(ctx, driver.ReadOnly, "PING") })
}

// UnsafeFlush removes all keys in the databases of all shards (FLUSHDB),
// including keys of other programs and keys without the connection's prefix.
// Its error joins the errors of the shards that failed; the other shards are
// then empty.
func (c *Conn) UnsafeFlush(ctx context.Context) error {
	defer c.near.Flush()
	return c.everyServer(ctx, func(s shard) error { return s.simple(ctx, 0, "FLUSHDB") })
}

// Stats returns the current counts of the connection. They are read one after
// another, so a call in progress may be included in only some of them. Counting
// costs an operation some 10 ns and no allocation.
func (c *Conn) Stats() Stats {
	s := Stats{Types: make(map[string]TypeStats), Shards: make(map[string]driver.Stats)}
	for name, t := range c.tallies.All() {
		s.Types[name] = typeStats(t.Counts())
	}
	for _, shard := range c.shards {
		if m, ok := shard.store.(driver.Meter); ok {
			s.Shards[shard.name] = m.Stats()
		}
	}
	return s
}

// maxWaiters limits the dedicated connections on which calls wait for leases:
// other calls need some, too.
const maxWaiters = 32

// eachShard calls write for each shard with a group of keys, sends the
// pipelines all at once, and calls read for one shard after another. Both run
// on the caller's goroutine. It returns the error of each shard by its index.
// An error of write means bad input: then nothing is sent, and each shard has
// the error.
func eachShard(ctx context.Context, conn *Conn, mode driver.Mode, groups [][]int, write, read func(p *driver.Pipeline, group []int) error) []error {
	t, errs := trip.New(len(groups), mode), make([]error, len(groups))
	defer t.Free()
	for shard, group := range groups {
		if len(group) == 0 {
			continue
		}
		if err := write(t.On(shard), group); err != nil {
			for i := range groups {
				if len(groups[i]) > 0 {
					errs[i] = err
				}
			}
			return errs
		}
	}
	_ = t.Run(ctx, conn.doEach) // by shard in Err
	for shard, group := range groups {
		if errs[shard] = t.Err(shard); errs[shard] == nil && t.Asks(shard) {
			errs[shard] = read(t.On(shard), group)
		}
	}
	return errs
}
