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
)

// title names a connection in a message.
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

// shardOf returns the index of the shard on which the key front+key lives.
func (c *Conn) shardOf(front, key string) int {
	if len(c.shards) == 1 {
		return 0
	}
	return c.route(front, key)
}

// group returns, for each shard, the indices of those keys that live on it, in
// their order. A shard without any has nil.
func (c *Conn) group(front string, keys []string) [][]int {
	groups := make([][]int, len(c.shards))
	for i, key := range keys {
		shard := c.shardOf(front, key)
		groups[shard] = append(groups[shard], i)
	}
	return groups
}

// do runs p on one shard.
func (c *Conn) do(ctx context.Context, shard int, p *driver.Pipeline) error {
	if c.previous != nil {
		if err := c.previous.Bring(ctx, shard, p); err != nil {
			return err
		}
	}
	return c.shards[shard].store.Do(ctx, p)
}

// doEach runs ps[i] on shard i, all at once, and returns when all are done.
// Nil entries are skipped. The result has the error of each, and is nil where
// there was none. Each Pipeline is again the caller's alone.
func (c *Conn) doEach(ctx context.Context, ps []*driver.Pipeline) []error {
	if c.previous == nil {
		return doEach(ctx, c.shards, ps)
	}
	failed := c.previous.BringAll(ctx, ps)
	if failed == nil {
		return doEach(ctx, c.shards, ps)
	}
	left := slices.Clone(ps)
	for i, err := range failed {
		if err != nil {
			left[i] = nil
		}
	}
	for i, err := range doEach(ctx, c.shards, left) {
		failed[i] = cmp.Or(failed[i], err)
	}
	return failed
}

// everyShard calls f for all shards at once and joins their errors, each with
// the name of its shard, in the order of the shards.
func (c *Conn) everyShard(f func(shard int) error) error { return everyOf(c.shards, f) }

// everyServer calls f for all servers at once, those included that keys were
// divided among before, and joins their errors as everyShard does.
func (c *Conn) everyServer(ctx context.Context, f func(s shard) error) error {
	servers, err := c.servers(ctx)
	return errors.Join(err, everyOf(servers, func(i int) error { return f(servers[i]) }))
}

// servers returns all shards, those included that keys were divided among
// before, and in place of a cluster its masters. One that cannot say who they are
// is an error, and left out.
func (c *Conn) servers(ctx context.Context) (all []shard, err error) {
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

// A Conn is a connection: one or more shards, and what their keys have in
// common. It is made by [Open] and its like, by a [Registry] from DSNs, or over
// stores of your own by [NewConn]. It is safe for concurrent use, and an object
// finds its Conn by itself:
//
//   - the one that it was pinned to,
//   - else that of the context, see [WithConn],
//   - else the one that its options name in the default registry.
type Conn struct {
	name   string
	shards []shard // in the byte order of their names
	route  func(front, key string) int

	prefix string // with its dot, or empty
	own    string // prefix, and the version with its dot
	ttl    time.Duration

	observer *observer // nil where nobody hears of anything
	tallies  *tallies
	near     *nearConn
	previous *previousRing   // nil if keys were never divided in another way
	waiters  chan struct{}   // one for each call that waits for a lease on a connection of its own
	open     context.Context // ends with Close, as those waits then do
	shut     context.CancelFunc
}

// shardNamed returns the index of a shard, -1 for none.
func (c *Conn) shardNamed(name string) int {
	return slices.IndexFunc(c.shards, func(s shard) bool { return s.name == name })
}

// newConn makes a Conn of shards whose names are still unchecked.
func newConn(shards []shard, o ConnOptions) (*Conn, error) {
	if len(shards) == 0 {
		return nil, errors.New("caches: a connection needs at least one shard")
	}
	if err := errors.Join(o.check(), sortShards(shards)); err != nil {
		return nil, err
	}
	c := &Conn{name: o.Name, shards: shards, prefix: dotted(o.Prefix), ttl: o.TTL, observer: o.observer, tallies: new(tallies), near: new(nearConn)}
	c.open, c.shut = context.WithCancel(context.Background())
	// Each that waits has a connection of its own: half of them is for the others.
	c.waiters = make(chan struct{}, min(cmp.Or(o.own, defaultOwn)/2, maxWaiters))
	if c.observer == nil {
		c.observer = newObserver(o.Hooks)
	}
	c.own = c.prefix + dotted(o.Version)
	if c.ttl == Forever {
		c.ttl = 0
	}
	if len(shards) > 1 {
		c.route = newRoute(o.Router, shards)
	}
	return c, nil
}

// dotted ends what stands before a key, like every part, with a dot.
func dotted(s string) string {
	if s == "" {
		return ""
	}
	return s + "."
}

// front returns what stands before every key of a version: the connection's
// prefix and the version, each with a dot. An empty version is the connection's
// own, and then nothing is allocated.
func (c *Conn) front(version string) string {
	if version == "" {
		return c.own
	}
	return c.prefix + version + "."
}

// defaultTTL returns the time to live of objects that do not say, 0 for none.
func (c *Conn) defaultTTL() time.Duration { return c.ttl }

// Name returns the connection's name, empty for the default one.
func (c *Conn) Name() string { return c.name }

// Shards returns the names of the shards in byte order, in which a [Router]
// counts them. It makes a new slice.
func (c *Conn) Shards() []string {
	names := make([]string, len(c.shards))
	for i, s := range c.shards {
		names[i] = s.name
	}
	return names
}

// ShardOf returns the name of the shard on which a key lives. Key is the full
// key, as the String method of an object on this connection returns it.
func (c *Conn) ShardOf(key string) string { return c.shards[c.shardOf("", key)].name }

// String returns the connection's name and the names of its shards.
func (c *Conn) String() string {
	return "caches.Conn(" + title(c.name) + ": " + strings.Join(c.Shards(), ", ") + ")"
}

// GoString returns String.
func (c *Conn) GoString() string { return c.String() }

// LogValue returns name and shards to package log/slog.
func (c *Conn) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", c.name), slog.Any("shards", c.Shards()))
}

// Close closes the stores of all shards. Calls under way end with a definite
// outcome, later ones fail with [ErrUnavailable]. A second Close does nothing.
func (c *Conn) Close() error {
	c.near.close()
	c.shut()
	servers := slices.Concat(c.shards, c.previous.others())
	return everyOf(servers, func(i int) error { return servers[i].store.Close() })
}

// Ping asks all shards for an answer at once (PING), of a Redis Cluster every
// master, and the shards of before where there are any. Its error joins those of
// the servers that gave none, each with the shard's name.
func (c *Conn) Ping(ctx context.Context) error {
	return c.everyServer(ctx, func(s shard) error { return simple(ctx, s, driver.ReadOnly, "PING") })
}

// UnsafeFlush removes all keys of the databases that the shards live in, those
// of other programs as well (FLUSHDB). The connection's prefix does not narrow
// it. Its error joins those of the shards where it failed; the others are empty
// then.
func (c *Conn) UnsafeFlush(ctx context.Context) error {
	defer c.near.flush()
	return c.everyServer(ctx, func(s shard) error { return simple(ctx, s, 0, "FLUSHDB") })
}

// simple runs a command whose reply says no more than that it ran.
func simple(ctx context.Context, s shard, mode driver.Mode, name string) error {
	p := driver.NewPipeline(mode)
	defer p.Free()
	p.Cmd(name)
	if err := s.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().OK()
}

// Stats returns what the connection has counted so far. The counts are read one
// after the other, so that a call under way may show in some of them only. To
// count costs an operation some 10 ns and allocates nothing.
func (c *Conn) Stats() Stats {
	s := Stats{Types: make(map[string]TypeStats), Shards: make(map[string]driver.Stats)}
	for name, t := range c.tallies.all() {
		s.Types[name] = t.sum()
	}
	for _, shard := range c.shards {
		if m, ok := shard.store.(driver.Meter); ok {
			s.Shards[shard.name] = m.Stats()
		}
	}
	return s
}

// maxWaiters bounds the connections of their own on which calls wait for leases:
// others need some, too.
const maxWaiters = 32

// eachShard writes one pipeline for each shard with a group of keys, sends them
// all at once, and reads the replies, one shard after the other on the caller's
// goroutine. It returns the error of each shard, by its index. An error of
// write, which is bad input, is that of all: nothing is sent to any.
func eachShard(ctx context.Context, conn *Conn, mode driver.Mode, groups [][]int, write, read func(p *driver.Pipeline, group []int) error) []error {
	ps := make([]*driver.Pipeline, len(groups))
	errs := make([]error, len(groups))
	defer func() {
		for _, p := range ps {
			if p != nil {
				p.Free()
			}
		}
	}()
	for shard, group := range groups {
		if len(group) == 0 {
			continue
		}
		ps[shard] = driver.NewPipeline(mode)
		if err := write(ps[shard], group); err != nil {
			return everyShard(groups, err)
		}
	}
	failed := conn.doEach(ctx, ps)
	for shard, p := range ps {
		switch {
		case p == nil:
		case failed != nil && failed[shard] != nil:
			errs[shard] = failed[shard]
		default:
			errs[shard] = read(p, groups[shard])
		}
	}
	return errs
}

func everyShard(groups [][]int, err error) []error {
	errs := make([]error, len(groups))
	for shard, group := range groups {
		if len(group) > 0 {
			errs[shard] = err
		}
	}
	return errs
}
