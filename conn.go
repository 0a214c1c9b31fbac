package caches

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gomodule/redigo/redis"
)

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
	former   *former         // nil where keys were always divided as they are now
	waiters  chan struct{}   // one for each call that waits for a lease on a connection of its own
	open     context.Context // ends with Close, as those waits then do
	shut     context.CancelFunc
}

// ConnOptions are what code says about a connection. It wins over the DSN. The
// zero value, like nil, says nothing.
type ConnOptions struct {
	// Name is what the connection is called. Empty means the DSN's name.
	Name string

	// Prefix and Version stand before every key, with a dot behind each: the
	// options "prefix" and "version". Empty means the DSN's.
	Prefix, Version string

	// Previous are the shards among which keys were divided before the shards
	// of this connection were added or removed, and PreviousRouter by what: nil
	// means Router. Each is the name of a shard, or "host:port" of a server that
	// is none any more and is reached as the others are: the option "previous".
	// What is still where it was is found, and moved, with what is left of its
	// time to live, when somebody asks for it: a read of a key whose place has
	// changed first asks the old one, once in each process. Deletes and
	// invalidations concern both. All processes should change at about the same
	// time: one that does not know the new shards goes on writing to the old ones.
	// Drop the option when what was stored before has expired, or been moved: while
	// it is there, keys that may be at a server that does not answer fail. It needs
	// Redis, and the rights +dump and +restore. None means that nothing has changed.
	Previous       []string
	PreviousRouter Router

	// TTL is the time to live of objects that do not say their own. Zero means
	// the DSN's, [Forever] none. Less than zero is an error.
	TTL time.Duration

	// Router divides the keys among several shards. Nil means the DSN's, else
	// [CRC32].
	Router Router

	// Credentials is asked for user and password at each dial, so that they
	// can change while the program runs. The DSN's own are then not used. Nil
	// means the DSN's.
	Credentials func(ctx context.Context) (username, password string, err error) `json:"-"`

	// TLS is for rediss instead of the options tls_*. It is an error with
	// redis, which would go without; other schemes have no use for it.
	TLS *tls.Config `json:"-"`

	// Timeout is of one call whose context has no nearer deadline,
	// ConnectTimeout of dialling. Zero means the DSN's, else 1 s. Less than
	// zero is an error.
	Timeout, ConnectTimeout time.Duration

	// Conns is the number of connections to one server that calls share. Zero
	// means the DSN's ("conns"), else 1, which is the fastest where the server
	// is what limits. Less than zero is an error.
	Conns int

	// OwnConns is the most connections to one server that calls have for
	// themselves: those that send more than 1 MiB, or block, and all of them
	// for half a second after this process was found to be short of
	// processors. Zero means the DSN's ("maxsize"), else 64. Less than zero is
	// an error.
	OwnConns int

	// ClientName is what CLIENT LIST shows of the connections. Empty means the
	// DSN's.
	ClientName string

	// Replicas has replicas answer what only reads: the option "replicas" of
	// Redis Cluster and Redis Sentinel. They may be behind the last write. What
	// slides a time to live and what vouches for a result is asked of masters.
	Replicas bool

	// Map, if it is not nil, gives the address to dial for one that a server of
	// a Redis Cluster or a Sentinel has named, both host:port: behind NAT, servers
	// know themselves by other addresses. Many goroutines call it at once.
	Map func(address string) string `json:"-"`

	// Hooks hear of what goes on. Nil means none; [LogHooks] makes some that
	// write to a log.
	Hooks *Hooks `json:"-"`

	observer *observer // of Hooks, made before the stores that tell it their state
	own      int       // most connections of their own that calls get, zero for the default
}

const defaultOwn = 64

// Open returns the connection that dsns describe: each DSN, and each of its
// hosts, is a shard. It reads what the DSNs name (TLS files) and dials nothing:
// a server that is not there is found by the first operation, or [Conn.Ping].
func Open(dsns ...string) (*Conn, error) { return OpenWith(nil, dsns...) }

// OpenWith is [Open] with options in code, which win over those of the DSNs.
// Nil is none.
func OpenWith(o *ConnOptions, dsns ...string) (*Conn, error) {
	g := &group{}
	for _, s := range codeSources(dsns) {
		g.add(parseSource(s))
	}
	return g.open(deref(o), settings{})
}

// OpenPool returns a connection over a pool of yours, whose Dial says where and
// how; [redigo.FromPool] says what to set on it. Closing the connection does
// not close the pool. Of the options only Name, Prefix, Version, TTL, Hooks, Timeout
// and Router apply.
func OpenPool(pool *redis.Pool, o *ConnOptions) (*Conn, error) {
	return OpenPools(map[string]*redis.Pool{"pool": pool}, o)
}

// OpenPools is [OpenPool] over several pools, the shards of the connection. The
// keys of the map are their names for the router.
func OpenPools(pools map[string]*redis.Pool, o *ConnOptions) (*Conn, error) {
	opts := deref(o)
	if err := opts.check(); err != nil {
		return nil, err
	}
	stores := make(map[string]driver.Store, len(pools))
	for name, pool := range pools {
		if pool == nil {
			return nil, fmt.Errorf("caches: pool %q is nil", name)
		}
		stores[name] = redigo.FromPool(pool, redigo.PoolOptions{Timeout: opts.Timeout, Address: "(pool " + name + ")"})
	}
	for _, pool := range pools {
		if pool.MaxActive > 0 {
			opts.own = min(cmp.Or(opts.own, defaultOwn), pool.MaxActive)
		}
	}
	return NewConn(stores, &opts)
}

// NewConn returns a connection over any stores, its shards, which it closes
// when it is closed. The keys of the map are their names for the router. Of the
// options only Name, Prefix, Version, TTL, Hooks, Router, Previous (names of
// shards) and PreviousRouter apply.
func NewConn(shards map[string]driver.Store, o *ConnOptions) (*Conn, error) {
	all := make([]shard, 0, len(shards))
	for name, store := range shards {
		if store == nil {
			return nil, fmt.Errorf("caches: the store of shard %q is nil", name)
		}
		all = append(all, shard{name, store})
	}
	c, err := newConn(all, deref(o))
	if err != nil {
		return nil, err
	}
	var former []formerShard
	for _, name := range deref(o).Previous {
		i := c.shardNamed(name)
		if i < 0 {
			return nil, fmt.Errorf("caches: previous: there is no shard %q: a connection over stores of your own was divided among some of them", name)
		}
		former = append(former, formerShard{c.shards[i], i})
	}
	return c, c.setFormer(former, deref(o))
}

func deref(o *ConnOptions) ConnOptions {
	if o == nil {
		return ConnOptions{}
	}
	return *o
}

// check refuses what no DSN could say either.
func (o *ConnOptions) check() error {
	switch {
	case o.TTL < 0:
		return errors.New("caches: ConnOptions.TTL is negative: use caches.Forever for none")
	case o.Timeout < 0, o.ConnectTimeout < 0:
		return errors.New("caches: a timeout in ConnOptions is negative")
	case o.Conns < 0:
		return errors.New("caches: ConnOptions.Conns is negative")
	case o.OwnConns < 0:
		return errors.New("caches: ConnOptions.OwnConns is negative")
	case strings.ContainsFunc(o.Prefix+o.Version, control):
		return errors.New("caches: Prefix or Version in ConnOptions has a control character")
	}
	return nil
}

// A group is the DSNs of one connection, and the errors of those that do not
// parse.
type group struct {
	dsns []*DSN
	errs []error
}

// add takes a DSN or the error in its place. A connection with a shard missing
// would divide the keys among the rest, so that one error spoils the group.
func (g *group) add(d *DSN, err error) {
	if err != nil {
		g.errs = append(g.errs, err)
		return
	}
	g.dsns = append(g.dsns, d)
}

// codeSources are DSNs given in code, named by their number in errors.
func codeSources(dsns []string) []source {
	all := make([]source, len(dsns))
	for i, text := range dsns {
		if all[i].text = text; len(dsns) > 1 {
			all[i].from = "DSN " + strconv.Itoa(i+1)
		}
	}
	return all
}

// parseSource parses a DSN; with an error, too, it returns one, see parseDSN.
func parseSource(s source) (*DSN, error) {
	d, err := parseDSN(s.text)
	if err != nil && s.from != "" {
		err = fmt.Errorf("%s: %w", s.from, err)
	}
	return d, err
}

// groupSources parses all sources and puts those of one name together.
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

// open opens the connection of a group. o wins over the DSNs, and they over
// defaults.
func (g *group) open(o ConnOptions, defaults settings) (*Conn, error) {
	if err := errors.Join(g.errs...); err != nil {
		return nil, err
	}
	if len(g.dsns) == 0 {
		return nil, errors.New("caches: there is no DSN to open")
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

// connect opens the shards. If one fails, those opened before are closed: a
// named store of this process would otherwise stay, with nobody to close it.
func (g *group) connect(o ConnOptions) (*Conn, error) {
	var shards []shard
	o.observer, o.own = newObserver(o.Hooks), o.OwnConns
	for _, all := range g.dsns {
		if o.OwnConns == 0 && all.options.maxsize > 0 && all.of.scope&inServers != 0 {
			o.own = min(cmp.Or(o.own, defaultOwn), all.options.maxsize)
		}
		for _, d := range all.shards() {
			store, err := openStore(d, &o)
			if err != nil {
				closeShards(shards)
				return nil, err
			}
			shards = append(shards, shard{d.node(), store})
		}
	}
	conn, err := newConn(shards, o)
	if err == nil {
		err = g.remember(conn, o)
	}
	if err != nil {
		closeShards(shards)
		return nil, err
	}
	return conn, nil
}

// remember opens the shards of before that are not among those of now. They are
// reached as the first DSN says.
func (g *group) remember(c *Conn, o ConnOptions) error {
	var all []formerShard
	var opened []shard
	for _, name := range o.Previous {
		s, err := g.formerShard(c, name, o)
		if err != nil {
			closeShards(opened)
			return fmt.Errorf("caches: previous: %w", err)
		}
		if s.own < 0 {
			opened = append(opened, s.shard)
		}
		all = append(all, s)
	}
	if err := c.setFormer(all, o); err != nil {
		closeShards(opened)
		return err
	}
	return nil
}

// formerShard finds or opens one shard of before.
func (g *group) formerShard(c *Conn, name string, o ConnOptions) (formerShard, error) {
	if i := c.shardNamed(name); i >= 0 {
		return formerShard{c.shards[i], i}, nil
	}
	d := *g.dsns[0]
	if d.Scheme != "redis" && d.Scheme != "rediss" {
		return formerShard{}, fmt.Errorf("there is no shard %q, and a %s has no other hosts", name, d.Scheme)
	}
	host, err := parseHost(name, "6379")
	if err != nil {
		return formerShard{}, err
	}
	d.Hosts, d.options.node = []string{host}, ""
	for _, all := range g.dsns {
		for _, own := range all.shards() { // it may have a name of its own now
			if len(own.Hosts) == 1 && own.Hosts[0] == host && own.DB == d.DB {
				i := c.shardNamed(own.node())
				return formerShard{shard{d.node(), c.shards[i].store}, i}, nil
			}
		}
	}
	store, err := openStore(&d, &o)
	return formerShard{shard{d.node(), store}, -1}, err
}

func closeShards(shards []shard) {
	for _, s := range shards {
		_ = s.store.Close() // nothing was written yet
	}
}

// setFormer has the connection find what was divided among shards before.
func (c *Conn) setFormer(all []formerShard, o ConnOptions) error {
	names := make(map[string]bool)
	for _, s := range all {
		if names[s.name] {
			return fmt.Errorf("caches: previous: %q is named twice", s.name)
		}
		names[s.name] = true
	}
	if len(all) > 0 {
		if o.PreviousRouter == nil {
			o.PreviousRouter = o.Router
		}
		c.former = newFormer(c, all, o.PreviousRouter)
	}
	return nil
}

// shardNamed returns the index of a shard, -1 for none.
func (c *Conn) shardNamed(name string) int {
	return slices.IndexFunc(c.shards, func(s shard) bool { return s.name == name })
}

// merge takes over what the DSNs of one connection say of it together.
func (o *ConnOptions) merge(dsns []*DSN) error {
	var router, former, formerRouter string
	err := errors.Join(
		agree(dsns, "ttl", &o.TTL, func(d *DSN) time.Duration { return d.options.ttl }),
		agree(dsns, "version", &o.Version, func(d *DSN) string { return d.options.version }),
		agree(dsns, "prefix", &o.Prefix, func(d *DSN) string { return d.options.prefix }),
		agree(dsns, "router", &router, func(d *DSN) string { return d.options.router }),
		agree(dsns, "previous", &former, func(d *DSN) string { return d.options.previous }),
		agree(dsns, "previous_router", &formerRouter, func(d *DSN) string { return d.options.previousRouter }),
		agree(dsns, "#name", &o.Name, func(d *DSN) string { return d.Name }),
	)
	if o.Router == nil {
		o.Router = routers[router]
	}
	if o.Previous == nil && former != "" {
		o.Previous = strings.Split(former, ",")
	}
	if o.PreviousRouter == nil {
		o.PreviousRouter = routers[formerRouter]
	}
	return err
}

// agree finds the one value that DSNs give an option; a DSN that leaves it out
// agrees with all. The value goes to dst, unless code has set that.
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

// connKey is the key of a Conn in a context.
type connKey struct{}

// WithConn returns a context under which operations go to c, whatever
// connection their objects name, unless they are pinned to one. Nil takes an
// outer c back.
func WithConn(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// resolve finds the connection of an operation: pinned, else the context's,
// else the default registry's of that name.
func resolve(ctx context.Context, pinned *Conn, name string) (*Conn, error) {
	if pinned != nil {
		return pinned, nil
	}
	if c, _ := ctx.Value(connKey{}).(*Conn); c != nil {
		return c, nil
	}
	return Default().Connection(name)
}

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
	servers := slices.Concat(c.shards, c.former.gone())
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

// UnsafeClear removes the keys that match a pattern on all shards at once (SCAN
// with MATCH, then UNLINK, page by page) and returns how many it removed. The
// pattern is matched against full keys: the connection's prefix and version
// are part of it where there are any. It is a glob: * ? [a-z], and \ before a
// character that stands for itself; "*" is every key, also of other programs.
//
// It looks at every key of the database, O(n), a page of a thousand at a time,
// and each page may take the connection's timeout. Keys that are written
// meanwhile may be missed. With an error, the count is of those removed before.
func (c *Conn) UnsafeClear(ctx context.Context, pattern string) (removed int64, err error) {
	if pattern == "" {
		return 0, errors.New(`caches: UnsafeClear: the pattern is empty: write "*" for every key`)
	}
	defer c.near.flush()
	var count atomic.Int64
	err = c.everyServer(ctx, func(s shard) error {
		n, err := clearShard(ctx, s, pattern)
		count.Add(n)
		return err
	})
	return count.Load(), err
}

// clearShard is UnsafeClear on one shard. Each trip unlinks one page and asks
// for the next.
func clearShard(ctx context.Context, s shard, pattern string) (removed int64, err error) {
	p, next := driver.NewPipeline(driver.ReadOnly), driver.NewPipeline(0)
	defer func() { p.Free(); next.Free() }()
	scanKeys(p, []byte{'0'}, pattern)
	for p.Len() > 0 {
		if err := s.store.Do(ctx, p); err != nil {
			return removed, err
		}
		n, err := turnPage(p, next, pattern)
		removed += n
		if err != nil {
			return removed, err
		}
		p, next = next, p // what next says was read from p, which may go now
	}
	return removed, nil
}

func scanKeys(p *driver.Pipeline, cursor []byte, pattern string) {
	p.Cmd("SCAN").Bytes(cursor).String("MATCH").String(pattern).String("COUNT").Int(1000)
}

// turnPage reads the replies of one trip, how many keys it unlinked and which
// are on the page that it fetched, and writes the next trip, nothing after the
// last.
func turnPage(p, next *driver.Pipeline, pattern string) (removed int64, err error) {
	next.Reset(0)
	if string(p.Command(0).Args[0]) == "UNLINK" {
		if removed, err = p.Next().Int(); err != nil || p.Len() == 1 {
			return removed, err
		}
	}
	page, err := p.Next().Elems()
	if err != nil {
		return removed, err
	}
	cursor, _, err := page.Next().Bytes()
	if err != nil {
		return removed, err
	}
	keys, err := page.Next().Elems()
	if err != nil {
		return removed, err
	}
	if keys.Len() > 0 {
		next.Cmd("UNLINK")
	}
	for keys.Len() > 0 {
		key, _, err := keys.Next().Bytes()
		if err != nil {
			return removed, err
		}
		next.Bytes(key)
	}
	if string(cursor) != "0" {
		scanKeys(next, cursor, pattern)
	}
	return removed, nil
}

// Do runs any command that the objects do not have, and returns its reply: an
// int64 for an integer, []byte for a string, a string for a status such as
// "OK", []any of those for an array, and nil for nothing. An error of the
// server is a *[ServerError], inside an array as one of its elements.
//
// Arguments are strings, []byte, integers, floats and bools (as 1 and 0). Keys
// are full keys: nothing is put in front of them. The command goes to the shard
// of its first key. With several servers, keys elsewhere are not found (a Redis
// Cluster says CROSSSLOT), and a command without a key, such as DBSIZE, is an
// error; with one, all goes there.
//
// Other callers share the connections, so commands that would change one for
// all (SELECT, MULTI, SUBSCRIBE, CLIENT REPLY, …) or block it (BLPOP, …) are
// refused. A lost reply is never asked for again: [ErrUnknownOutcome].
func (c *Conn) Do(ctx context.Context, cmd string, args ...any) (any, error) {
	p := driver.NewPipeline(0)
	defer p.Free()
	cmd = strings.ToUpper(cmd)
	words, err := writeCommand(p, cmd, args)
	if err != nil {
		return nil, fmt.Errorf("caches: Do: %w", err)
	}
	key, shard := firstKey(cmd, words), 0
	if _, divided := c.shards[0].store.(driver.Cluster); key < 0 && (divided || len(c.shards) > 1) {
		return nil, fmt.Errorf("caches: Do: %q names no key, and the connection has several servers", cmd)
	}
	if key >= 0 {
		shard = c.shardOf("", words[key])
	}
	if err := c.do(ctx, shard, p); err != nil {
		return nil, err
	}
	return boxed(p.Next())
}

// writeCommand writes a command that may share a connection, and returns its
// arguments as text. The first key is marked for stores that route by it.
func writeCommand(p *driver.Pipeline, cmd string, args []any) (words []string, err error) {
	words = make([]string, len(args))
	for i, arg := range args {
		if words[i], err = word(arg); err != nil {
			return nil, fmt.Errorf("argument %d of the command: %w", i+1, err)
		}
	}
	if cmd == "" || strings.ContainsFunc(cmd, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the name of the command is not one word: its arguments follow one by one")
	}
	if refused(cmd, words) {
		return nil, fmt.Errorf("%s would change or block a connection that others share", cmd)
	}
	p.Cmd(cmd)
	key := firstKey(cmd, words)
	for i, w := range words {
		if i == key {
			p.Key(w)
		} else {
			p.String(w)
		}
	}
	return words, nil
}

// word is the text of an argument of [Conn.Do]. Types that it does not know it
// refuses: a duration, say, would be sent as nanoseconds to commands that count
// in seconds.
func word(arg any) (string, error) {
	switch v := arg.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case bool:
		if v {
			return "1", nil
		}
		return "0", nil
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(v), nil
	case float32:
		return shortest(float64(v), 32), nil
	case float64:
		return shortest(v, 64), nil
	}
	return "", fmt.Errorf("a %T is not a string, bytes, integer, float or bool", arg)
}

// shortest is [driver.AppendFloat], for both sizes of float.
func shortest(f float64, bits int) string {
	if math.IsInf(f, 0) || f == 0 {
		return string(driver.AppendFloat(nil, f))
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}

// refused reports whether a command must not run on a connection that others
// share: what it leaves behind would befall their commands, or they would wait
// for it.
func refused(cmd string, words []string) bool {
	switch cmd {
	case "AUTH", "HELLO", "SELECT", "QUIT", "RESET", "ASKING", "READONLY", "READWRITE",
		"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH",
		"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
		"MONITOR", "SYNC", "PSYNC", "REPLCONF",
		"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF":
		return true
	case "SCRIPT":
		return len(words) > 0 && strings.EqualFold(words[0], "DEBUG")
	case "CLIENT":
		return len(words) > 0 && slices.Contains(clientState, strings.ToUpper(words[0]))
	case "XREAD", "XREADGROUP":
		return slices.ContainsFunc(words[:max(0, keyAfter("STREAMS", words))], func(w string) bool {
			return strings.EqualFold(w, "BLOCK")
		})
	}
	return false
}

// clientState are the subcommands of CLIENT that change the connection.
var clientState = []string{"REPLY", "TRACKING", "CACHING", "SETNAME", "SETINFO", "NO-EVICT", "NO-TOUCH"}

// firstKey returns which argument is the first key of a command, -1 for none.
// For most commands it is the first. The exceptions are from the key
// specifications of Redis 7 (https://redis.io/docs/latest/develop/reference/key-specs/).
func firstKey(cmd string, words []string) int {
	key := 0
	switch cmd {
	case "PING", "ECHO", "INFO", "TIME", "DBSIZE", "FLUSHDB", "FLUSHALL", "SCAN", "KEYS", "RANDOMKEY", "WAIT",
		"CONFIG", "CLIENT", "COMMAND", "CLUSTER", "SCRIPT", "FUNCTION", "ACL", "LATENCY", "SLOWLOG", "MODULE",
		"ROLE", "LASTSAVE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "REPLICAOF", "SLAVEOF", "FAILOVER",
		"SWAPDB", "LOLWUT", "PUBLISH", "PUBSUB":
		return -1
	case "EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO":
		if key = 2; len(words) > 1 && words[1] == "0" {
			return -1
		}
	case "XREAD", "XREADGROUP":
		if key = keyAfter("STREAMS", words); key < 0 {
			return -1
		}
	case "OBJECT", "XGROUP", "XINFO", "BITOP", "MEMORY", "DEBUG",
		"SINTERCARD", "ZDIFF", "ZINTER", "ZUNION", "ZINTERCARD", "ZMPOP", "LMPOP":
		key = 1
	case "MIGRATE":
		key = 2
	}
	if key >= len(words) {
		return -1
	}
	return key
}

// keyAfter returns the index of what follows a word, -1 where it is not there.
func keyAfter(keyword string, words []string) int {
	i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, keyword) })
	if i < 0 {
		return -1
	}
	return i + 1
}

// boxed turns a reply into what Do returns. Nothing of it is a view.
func boxed(r driver.Reply) (any, error) {
	switch r.Kind() {
	case driver.KindNil:
		return nil, nil
	case driver.KindInt:
		return r.Int()
	case driver.KindStatus:
		text, _, err := r.Bytes()
		return string(text), err
	case driver.KindBulk:
		data, _, err := r.Bytes()
		return append([]byte{}, data...), err
	case driver.KindArray:
		return boxedAll(r)
	}
	return nil, r.Err()
}

func boxedAll(r driver.Reply) (any, error) {
	elems, err := r.Elems()
	all := make([]any, 0, elems.Len())
	for err == nil && elems.Len() > 0 {
		var v any
		if v, err = boxed(elems.Next()); err == nil {
			all = append(all, v)
		} else if refusal, ok := errors.AsType[*ServerError](err); ok {
			all, err = append(all, refusal), nil // one element's, not the reply's
		}
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}
