package caches

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gomodule/redigo/redis"
)

// Open returns the connection that dsns describe. Each host of a DSN is a
// shard, but the hosts of a Redis Cluster, or several Sentinels, are together
// one shard. Open reads the TLS files that the DSNs name but does not dial: the
// first operation, or [Conn.Ping], reports a server that cannot be reached.
func Open(dsns ...string) (*Conn, error) { return ConnOptions{}.Open(dsns...) }

// Open is like [Open], with options that override those of the DSNs.
func (o ConnOptions) Open(dsns ...string) (*Conn, error) {
	g := &group{}
	for _, s := range codeSources(dsns) {
		g.add(parseSource(s))
	}
	return g.open(o, settings{})
}

// OpenPools returns a connection over pools of the caller, one for each shard,
// which must be set up as [redigo.FromPool] describes. The keys of the map are the
// names of the shards. Closing the connection does not close the pools. Only the
// options Name, Prefix, Version, TTL, Hooks, Timeout and Router apply.
func (o ConnOptions) OpenPools(pools map[string]*redis.Pool) (*Conn, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	stores := make(map[string]driver.Store, len(pools))
	for name, pool := range pools {
		if pool == nil {
			return nil, fmt.Errorf("caches: pool %q is nil", name)
		}
		stores[name] = redigo.FromPool(pool, redigo.PoolOptions{Timeout: o.Timeout, Address: "(pool " + name + ")"})
	}
	for _, pool := range pools {
		if pool.MaxActive > 0 {
			o.own = min(cmp.Or(o.own, defaultOwn), pool.MaxActive)
		}
	}
	return o.OpenStores(stores)
}

// OpenStores returns a connection whose shards are the given stores. Closing the
// connection closes them. The keys of the map are the names of the shards. Only
// the options Name, Prefix, Version, TTL, Hooks, Router, Previous (names of
// shards) and PreviousRouter apply.
func (o ConnOptions) OpenStores(stores map[string]driver.Store) (*Conn, error) {
	all := make(shards, 0, len(stores))
	for name, store := range stores {
		if store == nil {
			return nil, fmt.Errorf("caches: the store of shard %q is nil", name)
		}
		all = append(all, shard{name, store})
	}
	c, err := newConn(all, o)
	if err != nil {
		return nil, err
	}
	var previous []previousShard
	for _, name := range o.Previous {
		i := c.shards.named(name)
		if i < 0 {
			return nil, fmt.Errorf("caches: previous: there is no shard %q: a connection over your own stores can only name some of them", name)
		}
		previous = append(previous, previousShard{c.shards[i], i})
	}
	c.previous, err = newPreviousRing(previous, c.shards, c.prefix, o)
	return c, err
}

// A group is the DSNs of one connection, and the errors of its invalid DSNs.
type group struct {
	dsns []*DSN
	errs []error
}

// add adds a DSN, or the error in its place. One error makes the whole
// connection fail: with a shard missing, keys would be routed to the wrong
// shards.
func (g *group) add(d *DSN, err error) {
	if err != nil {
		g.errs = append(g.errs, err)
		return
	}
	g.dsns = append(g.dsns, d)
}

// codeSources returns the sources of DSNs given in code, numbered if several.
func codeSources(dsns []string) []source {
	all := make([]source, len(dsns))
	for i, text := range dsns {
		if all[i].text = text; len(dsns) > 1 {
			all[i].from = "DSN " + strconv.Itoa(i+1)
		}
	}
	return all
}

// parseSource parses a DSN. Like parseDSN, it returns a DSN even with an error.
func parseSource(s source) (*DSN, error) {
	d, err := parseDSN(s.text)
	if err != nil && s.from != "" {
		err = fmt.Errorf("%s: %w", s.from, err)
	}
	return d, err
}

// groupSources parses all sources and groups them by connection name.
func groupSources(all []source) map[string]*group {
	groups := make(map[string]*group)
	for _, s := range all {
		d, err := parseSource(s)
		name := s.name(d)
		if groups[name] == nil {
			groups[name] = &group{}
		}
		groups[name].add(d, err)
	}
	return groups
}

// open opens the connection of a group. o overrides the DSNs, which override
// defaults.
func (g *group) open(o ConnOptions, defaults settings) (*Conn, error) {
	if err := errors.Join(g.errs...); err != nil {
		return nil, err
	}
	if len(g.dsns) == 0 {
		return nil, errors.New("caches: no DSN to open")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := defaults.fill(g.dsns); err != nil {
		return nil, err
	}
	if err := o.merge(g.dsns); err != nil {
		return nil, err
	}
	return g.connect(o)
}

// connect opens the shards. If one fails, it closes the shards already opened:
// a named store in this process would otherwise never be closed.
func (g *group) connect(o ConnOptions) (*Conn, error) {
	var all shards
	o.observer, o.own = newObserver(o.Hooks), o.OwnConns
	for _, one := range g.dsns {
		if o.OwnConns == 0 && one.options.maxsize > 0 && one.of.scope&inServers != 0 {
			o.own = min(cmp.Or(o.own, defaultOwn), one.options.maxsize)
		}
		for _, d := range one.shards() {
			store, err := openStore(d, &o)
			if err != nil {
				all.close()
				return nil, err
			}
			all = append(all, shard{d.node(), store})
		}
	}
	conn, err := newConn(all, o)
	if err == nil {
		err = g.remember(conn, o)
	}
	if err != nil {
		all.close()
		return nil, err
	}
	return conn, nil
}

// remember sets the previous shards of c, and opens any that is not a current
// shard, with the options of the first DSN.
func (g *group) remember(c *Conn, o ConnOptions) error {
	var all []previousShard
	var opened shards
	for _, name := range o.Previous {
		s, err := g.previousShard(c, name, o)
		if err != nil {
			opened.close()
			return fmt.Errorf("caches: previous: %w", err)
		}
		if s.same < 0 {
			opened = append(opened, s.shard)
		}
		all = append(all, s)
	}
	var err error
	if c.previous, err = newPreviousRing(all, c.shards, c.prefix, o); err != nil {
		opened.close()
	}
	return err
}

// previousShard finds the previous shard of a name among the current shards, or
// opens it.
func (g *group) previousShard(c *Conn, name string, o ConnOptions) (previousShard, error) {
	if i := c.shards.named(name); i >= 0 {
		return previousShard{c.shards[i], i}, nil
	}
	d := *g.dsns[0]
	if d.Scheme != "redis" && d.Scheme != "rediss" {
		return previousShard{}, fmt.Errorf("there is no shard %q, and a %s has no other hosts", name, d.Scheme)
	}
	host, err := parseHost(name, "6379")
	if err != nil {
		return previousShard{}, err
	}
	d.Hosts, d.options.node = []string{host}, ""
	for _, all := range g.dsns {
		for _, own := range all.shards() { // it may be a current shard with another name
			if len(own.Hosts) == 1 && own.Hosts[0] == host && own.DB == d.DB {
				i := c.shards.named(own.node())
				return previousShard{shard{d.node(), c.shards[i].store}, i}, nil
			}
		}
	}
	store, err := openStore(&d, &o)
	return previousShard{shard{d.node(), store}, -1}, err
}

// merge sets options that o leaves unset from the DSNs of one connection.
func (o *ConnOptions) merge(dsns []*DSN) error {
	var router, previous, previousRouter string
	err := errors.Join(
		agree(dsns, "ttl", &o.TTL, func(d *DSN) time.Duration { return d.options.ttl }),
		agree(dsns, "version", &o.Version, func(d *DSN) string { return d.options.version }),
		agree(dsns, "prefix", &o.Prefix, func(d *DSN) string { return d.options.prefix }),
		agree(dsns, "router", &router, func(d *DSN) string { return d.options.router }),
		agree(dsns, "previous", &previous, func(d *DSN) string { return d.options.previous }),
		agree(dsns, "previous_router", &previousRouter, func(d *DSN) string { return d.options.previousRouter }),
		agree(dsns, "#name", &o.Name, func(d *DSN) string { return d.Name }),
	)
	if o.Router == nil {
		o.Router = routers[router]
	}
	if o.Previous == nil && previous != "" {
		o.Previous = strings.Split(previous, ",")
	}
	if o.PreviousRouter == nil {
		o.PreviousRouter = routers[previousRouter]
	}
	return err
}

// agree sets *dst, unless it is set, to the value of an option in dsns. DSNs
// may omit the option, but not give it different values.
func agree[T comparable](dsns []*DSN, option string, dst *T, of func(*DSN) T) error {
	var none, agreed T
	for _, d := range dsns {
		switch v := of(d); {
		case v == none:
		case agreed != none && agreed != v:
			return fmt.Errorf("caches: the shards of one connection disagree on %s", option)
		default:
			agreed = v
		}
	}
	if *dst == none {
		*dst = agreed
	}
	return nil
}
