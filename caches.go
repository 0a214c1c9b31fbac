package caches

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/kelseyhightower/envconfig"
)

// A Registry is a set of connections by name. The zero Registry is empty and
// ready to use. It is safe for concurrent use; objects look their connection up
// at every operation, in some 20 ns and without a lock.
type Registry struct {
	mu sync.Mutex // held by writers
	// entries is replaced whole, never changed: readers take no lock.
	entries atomic.Pointer[map[string]entry]
}

// An entry is what a name stands for: a connection, or why there is none.
type entry struct {
	conn *Conn
	err  error
}

// The default registry. It is not made at import: the environment is read when
// the first object asks for its connection.
var (
	standard   atomic.Pointer[Registry]
	standardMu sync.Mutex // held while standard is made, so that it is made once
)

// Default returns the registry of objects that are not pinned to a connection:
// the one given to [SetDefault], else FromEnv(nil), read once, now if need be.
func Default() *Registry {
	if r := standard.Load(); r != nil {
		return r
	}
	standardMu.Lock()
	defer standardMu.Unlock()
	if r := standard.Load(); r != nil {
		return r
	}
	r := FromEnv(nil)
	standard.Store(r)
	return r
}

// SetDefault makes r the default registry. Nil has the environment read anew
// when the default is next asked for. The registry that r replaces stays open.
func SetDefault(r *Registry) {
	standardMu.Lock()
	defer standardMu.Unlock()
	standard.Store(r)
}

// FromEnv returns a registry of the connections in environ, "NAME=value" each,
// as [os.Environ] has them. Nil means the environment of this process.
//
// CACHES_DSN and every CACHES_DSN_<suffix> is a [DSN]. Its connection is named
// by the DSN's fragment, else by the suffix in lower case (CACHES_DSN_SESSIONS
// is "sessions") unless that is a number (CACHES_DSN_2), else it is the default
// one, "". DSNs of one name are the shards of one connection. An empty value is
// none; of a name that is there twice the last counts.
//
// CACHES_TTL, CACHES_PREFIX, CACHES_VERSION, CACHES_TIMEOUT,
// CACHES_CONNECT_TIMEOUT and CACHES_CONNS stand in for the options of the same
// names where a connection's DSNs leave them out.
//
// FromEnv dials nothing and does not fail: a connection whose DSN is wrong has
// the error for whoever asks for it, and the others work. A program that wants
// to know at its start calls [Registry.Ping].
func FromEnv(environ []string) *Registry {
	if environ == nil {
		return fromVariables(variables(os.Environ()), processSettings())
	}
	vars := variables(environ)
	return fromVariables(vars, environSettings(vars))
}

// fromVariables opens what there is now, rather than at the first use of a name:
// opening dials nothing, and a wrong DSN is then in Ping's report at the start.
func fromVariables(vars map[string]string, defaults settings) *Registry {
	entries := make(map[string]entry)
	for name, g := range groupSources(envSources(vars)) {
		conn, err := g.open(ConnOptions{Name: name}, defaults)
		entries[name] = entry{conn, err}
	}
	r := &Registry{}
	r.entries.Store(&entries)
	return r
}

// NewRegistry returns a registry of the connections that dsns describe: DSNs of
// one name are the shards of one connection. It dials nothing and reads no
// environment. Its error joins those of all DSNs that are wrong.
func NewRegistry(dsns ...string) (*Registry, error) {
	r := &Registry{}
	if err := r.Configure(dsns...); err != nil {
		return nil, err
	}
	return r, nil
}

// Configure configures the connections that dsns describe, in place of those
// that had the same names, which it closes. Connections of other names stay. On
// an error nothing has changed.
func (r *Registry) Configure(dsns ...string) error {
	opened := make(map[string]entry)
	var errs []error
	for name, g := range groupSources(codeSources(dsns)) {
		conn, err := g.open(ConnOptions{Name: name}, settings{})
		opened[name] = entry{conn: conn}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		closeAll(opened)
		return err
	}
	closeAll(r.replace(opened))
	return nil
}

// replace puts entries in place of those of the same names and returns those
// that are then in use no more. A connection may have several names.
func (r *Registry) replace(entries map[string]entry) (unused map[string]entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all()
	next := maps.Clone(all)
	if next == nil {
		next = make(map[string]entry)
	}
	maps.Copy(next, entries)
	r.entries.Store(&next)
	used := slices.Collect(maps.Values(next))
	unused = maps.Clone(all)
	maps.DeleteFunc(unused, func(_ string, e entry) bool {
		return slices.ContainsFunc(used, func(u entry) bool { return u.conn == e.conn })
	})
	return unused
}

// all returns the entries of this moment, which nobody changes; nil while there
// is none.
func (r *Registry) all() map[string]entry {
	if p := r.entries.Load(); p != nil {
		return *p
	}
	return nil
}

// closeAll closes connections that nobody will use. Closing gives nothing back
// that could be lost, so that its errors are of no use to the caller.
func closeAll(entries map[string]entry) {
	for _, e := range entries {
		if e.conn != nil {
			_ = e.conn.Close()
		}
	}
}

// Connection returns the connection of a name; "" is the default one. Its error
// says what is wrong with the connection's DSN, or is [ErrNoConnection], which
// names the variable to set.
func (r *Registry) Connection(name string) (*Conn, error) {
	e, ok := r.all()[name]
	if !ok {
		return nil, r.missing(name)
	}
	return e.conn, e.err
}

// SetConnection makes c the connection of a name. Nil takes the name away. The
// connection that had the name stays open, so that a test can put it back.
func (r *Registry) SetConnection(name string, c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.all())
	if next == nil {
		next = make(map[string]entry)
	}
	if next[name] = (entry{conn: c}); c == nil {
		delete(next, name)
	}
	r.entries.Store(&next)
}

// missing says what to do about a name that nothing configures. The variable is
// spelled out, since that is where most look first.
func (r *Registry) missing(name string) error {
	var set, others string
	switch {
	case name == "":
		set = "CACHES_DSN"
	case allIn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") && !allIn(name, digits):
		set = "CACHES_DSN_" + strings.ToUpper(name)
	default: // no variable can be called that
		set = "CACHES_DSN_1, or any other number, to a DSN that ends in #" + name + ","
	}
	if names := r.Names(); len(names) > 0 {
		others = "; there are: " + quoteAll(names)
	}
	return fmt.Errorf("%w %s: set %s or call Configure%s", ErrNoConnection, title(name), set, others)
}

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

// Names returns the names of all connections in order, also of those whose DSN
// is wrong.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.all())) }

// Ping asks every shard of every connection for an answer (PING), all at once.
// Its error joins those of all that gave none, each with the name of its
// connection and shard, and those of DSNs that are wrong.
func (r *Registry) Ping(ctx context.Context) error {
	return r.each(func(e entry) error {
		if e.err != nil {
			return e.err
		}
		return e.conn.Ping(ctx)
	})
}

// Close closes all connections, also those that were set. They keep their
// names, and operations on them fail with [ErrUnavailable].
func (r *Registry) Close() error {
	return r.each(func(e entry) error {
		if e.conn == nil {
			return nil
		}
		return e.conn.Close()
	})
}

// each calls f for all entries at once and joins the errors in the order of
// the names.
func (r *Registry) each(f func(entry) error) error {
	entries := r.all() // once: a name that came since has no entry here
	names := slices.Sorted(maps.Keys(entries))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if err := f(entries[name]); err != nil {
				errs[i] = fmt.Errorf("connection %s: %w", title(name), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// String returns the names of the connections.
func (r *Registry) String() string { return "caches.Registry(" + quoteAll(r.Names()) + ")" }

// GoString returns String.
func (r *Registry) GoString() string { return r.String() }

// LogValue returns the names to package log/slog.
func (r *Registry) LogValue() slog.Value { return slog.AnyValue(r.Names()) }

// Configure is [Registry.Configure] on the default registry.
func Configure(dsns ...string) error { return Default().Configure(dsns...) }

// Connection is [Registry.Connection] on the default registry.
func Connection(name string) (*Conn, error) { return Default().Connection(name) }

// SetConnection is [Registry.SetConnection] on the default registry.
func SetConnection(name string, c *Conn) { Default().SetConnection(name, c) }

// Names is [Registry.Names] on the default registry.
func Names() []string { return Default().Names() }

// Ping is [Registry.Ping] on the default registry.
func Ping(ctx context.Context) error { return Default().Ping(ctx) }

// Close is [Registry.Close] on the default registry.
func Close() error { return Default().Close() }

// The environment. CACHES_DSN and CACHES_DSN_<suffix> are connections; a few
// scalar variables are their defaults.

// A source is one DSN and where it came from, for errors.
type source struct {
	from   string // "CACHES_DSN_2", or "DSN 2" of those given in code
	suffix string // of the variable
	text   string
}

// name returns the connection that a DSN of s belongs to.
func (s source) name(d *DSN) string {
	if d.Name != "" || allIn(s.suffix, digits) {
		return d.Name
	}
	return strings.ToLower(s.suffix)
}

// variables reads an environment. As for a command that is run with it, the
// last value of a name counts, and an empty one is none.
func variables(environ []string) map[string]string {
	vars := make(map[string]string)
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "CACHES_") {
			continue
		}
		if value = strings.TrimSpace(value); value == "" {
			delete(vars, name)
			continue
		}
		vars[name] = value
	}
	return vars
}

// envSources returns the DSNs among vars: CACHES_DSN, then the numbered ones by
// number, gaps or not, then the named ones.
func envSources(vars map[string]string) []source {
	var all []source
	for name, value := range vars {
		if name == "CACHES_DSN" {
			all = append(all, source{from: name, text: value})
		} else if suffix, ok := strings.CutPrefix(name, "CACHES_DSN_"); ok {
			all = append(all, source{name, suffix, value})
		}
	}
	slices.SortFunc(all, func(a, b source) int {
		return cmp.Or(cmp.Compare(number(a.suffix), number(b.suffix)), strings.Compare(a.from, b.from))
	})
	return all
}

// number is where a suffix stands: none, then numbers, then names.
func number(suffix string) uint64 {
	n, err := strconv.ParseUint(suffix, 10, 64)
	switch {
	case suffix == "":
		return 0
	case err != nil || n == math.MaxUint64:
		return math.MaxUint64
	}
	return n + 1
}

// settings are the scalar variables, as text: each is an option of a DSN and is
// read by the option's own rules. (A typed field would also have envconfig
// repeat the value in its error.)
type settings struct {
	TTL            string
	Prefix         string
	Version        string
	Timeout        string
	ConnectTimeout string `split_words:"true"`
	Conns          string
}

// processSettings reads the scalars of this process's environment. It panics
// only if a field of settings is of a type that envconfig cannot set.
func processSettings() (s settings) {
	envconfig.MustProcess("caches", &s)
	return s
}

// environSettings reads the scalars of an environment that was handed in, which
// envconfig cannot: it asks the process.
func environSettings(vars map[string]string) settings {
	return settings{
		TTL:            vars["CACHES_TTL"],
		Prefix:         vars["CACHES_PREFIX"],
		Version:        vars["CACHES_VERSION"],
		Timeout:        vars["CACHES_TIMEOUT"],
		ConnectTimeout: vars["CACHES_CONNECT_TIMEOUT"],
		Conns:          vars["CACHES_CONNS"],
	}
}

// fill sets in the DSNs of one connection what they leave out. What is said of
// the connection on one shard counts for all; timeouts and the like are each
// shard's own.
func (s settings) fill(dsns []*DSN) error {
	for _, v := range []struct {
		option, value string
		shared        bool
	}{
		{"ttl", s.TTL, true}, {"prefix", s.Prefix, true}, {"version", s.Version, true},
		{"timeout", s.Timeout, false}, {"connect_timeout", s.ConnectTimeout, false}, {"conns", s.Conns, false},
	} {
		given := func(d *DSN) bool { _, ok := d.option(v.option); return ok }
		if v.value = strings.TrimSpace(v.value); v.value == "" || v.shared && slices.ContainsFunc(dsns, given) {
			continue
		}
		for _, d := range dsns {
			if given(d) {
				continue
			}
			if err := d.fill(v.option, v.value); err != nil {
				return fmt.Errorf("caches: CACHES_%s %w", strings.ToUpper(v.option), err)
			}
		}
	}
	return nil
}

// fill sets an option where the scheme has it.
func (d *DSN) fill(option, value string) error {
	o := optionNamed(option)
	if o.in&d.of.scope == 0 {
		return nil
	}
	return o.set(&d.options, value)
}

// A scheme is what a DSN can begin with.
type scheme struct {
	scope scope
	auth  bool                                   // has user and password
	one   bool                                   // its hosts are asked for one store
	place func(d *DSN, hosts, path string) error // parses where it is
	open  func(d *DSN, o *ConnOptions) (driver.Store, error)
}

// builtins are the schemes of this package.
var builtins = map[string]scheme{
	"redis":           {inRedis, true, false, placeRedis, openRedis},
	"rediss":          {inRediss, true, false, placeRedis, openRedis},
	"redis+unix":      {inUnix, true, false, placeUnix, openRedis},
	"redis+cluster":   {inCluster, true, true, placeCluster, openCluster},
	"rediss+cluster":  {inClusters, true, true, placeCluster, openCluster},
	"redis+sentinel":  {inSentinel, true, true, placeSentinel, openSentinel},
	"rediss+sentinel": {inSentinels, true, true, placeSentinel, openSentinel},
	"locmem":          {inLocmem, false, false, placeNames, openMemory},
	"dummy":           {inDummy, false, false, placeNothing, openDummy},
}

// registered are the schemes of [Register].
var registered struct {
	sync.RWMutex
	byName map[string]scheme
}

// Register adds a scheme for all DSNs of this process. A program calls it at
// its start, before the first object is used. It panics if name is not in lower
// case letters, digits and + - . or is known already, or if open is nil.
//
// Open is called once for each host of a DSN, with a DSN that has this host
// alone, or none if there is none. Errors of it reach whoever asks for the
// connection; they should not show what [DSN.Password] returns. The options
// ttl, prefix, version, router and node mean what they always do; all others
// are open's own, see [DSN.Option].
func Register(name string, open func(*DSN) (driver.Store, error)) {
	registered.Lock()
	defer registered.Unlock()
	_, builtin := builtins[name]
	_, twice := registered.byName[name]
	switch {
	case !schemeName(name):
		panic(fmt.Sprintf("caches: Register: %q is not the name of a scheme", name))
	case builtin, twice:
		panic(fmt.Sprintf("caches: Register: there is a scheme %q already", name))
	case open == nil:
		panic(fmt.Sprintf("caches: Register: the opener of %q is nil", name))
	}
	if registered.byName == nil {
		registered.byName = make(map[string]scheme)
	}
	registered.byName[name] = scheme{inCustom, true, false, placeCustom, func(d *DSN, _ *ConnOptions) (driver.Store, error) {
		return open(d)
	}}
}

// schemeName reports whether s may name a scheme (RFC 3986, section 3.1, in
// lower case).
func schemeName(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && len(s) <= 40 && allIn(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.")
}

// schemeOf returns the scheme of a name in lower case.
func schemeOf(name string) (scheme, error) {
	if s, ok := builtins[name]; ok {
		return s, nil
	}
	registered.RLock()
	defer registered.RUnlock()
	if s, ok := registered.byName[name]; ok {
		return s, nil
	}
	if !schemeName(name) { // and so perhaps no scheme at all, but something to hide
		name = ""
	}
	return scheme{}, fmt.Errorf("there is no scheme %q; there are %s", name, knownNames())
}

// knownSchemes lists the schemes that can be opened.
func knownSchemes() string {
	registered.RLock()
	defer registered.RUnlock()
	return knownNames()
}

// knownNames is knownSchemes for who holds the lock.
func knownNames() string {
	names := slices.Collect(maps.Keys(builtins))
	names = slices.AppendSeq(names, maps.Keys(registered.byName))
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// schemesIn lists the built-in schemes of a scope.
func schemesIn(in scope) string {
	var names []string
	for name, s := range builtins {
		if s.scope&in != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// openStore opens the store of a DSN with at most one host.
func openStore(d *DSN, o *ConnOptions) (driver.Store, error) {
	store, err := d.of.open(d, o)
	switch {
	case err != nil:
		return nil, fmt.Errorf("caches: open %v: %w", d, err)
	case store == nil:
		return nil, fmt.Errorf("caches: open %v: the opener of %s returned no store", d, d.Scheme)
	}
	return store, nil
}

// openMemory opens a store of this process. Without a name nobody else can find
// it; one with a name lives until the last connection to it is closed.
func openMemory(d *DSN, _ *ConnOptions) (driver.Store, error) {
	o := memory.Options{MaxEntries: d.options.maxsize}
	if len(d.Hosts) == 0 {
		return memory.Open(o)
	}
	return memory.Shared(d.Hosts[0], o)
}

// openDummy opens a store that has each command's semantics, errors of types and
// arguments included, and forgets.
func openDummy(*DSN, *ConnOptions) (driver.Store, error) {
	return memory.Open(memory.Options{Forget: true})
}

// openRedis opens a server.
func openRedis(d *DSN, o *ConnOptions) (driver.Store, error) {
	c, err := d.config(o)
	if err != nil {
		return nil, err
	}
	if c.DB = d.DB; d.Scheme == "redis+unix" {
		c.Network, c.Address = "unix", d.Path()
	} else {
		c.Address = d.Hosts[0]
	}
	return redigo.Open(c)
}

// openCluster opens a Redis Cluster.
func openCluster(d *DSN, o *ConnOptions) (driver.Store, error) {
	c, err := d.config(o)
	if err != nil {
		return nil, err
	}
	return cluster.Open(cluster.Config{Seeds: d.Hosts, Node: c, ReadReplicas: o.Replicas || d.options.replicas, Map: o.Map})
}

// openSentinel opens the master that Sentinels name.
func openSentinel(d *DSN, o *ConnOptions) (driver.Store, error) {
	c, err := d.config(o)
	if err != nil {
		return nil, err
	}
	c.DB = d.DB
	return failover.Open(failover.Config{
		Sentinels: d.Hosts, Master: d.master, Node: c, ReadReplicas: o.Replicas || d.options.replicas, Map: o.Map,
		SentinelUsername: d.options.sentinelUser, SentinelPassword: d.options.sentinelPassword.reveal(),
	})
}

// config is how servers are talked to, wherever they are. What code says goes
// before what the DSN says, and zero leaves it to the driver, whose defaults are
// documented there.
func (d *DSN) config(o *ConnOptions) (c redigo.Config, err error) {
	c = redigo.Config{
		Username:       d.Username,
		Password:       d.Password(),
		Credentials:    o.Credentials,
		ClientName:     cmp.Or(o.ClientName, d.options.clientName),
		Conns:          cmp.Or(o.Conns, d.options.conns),
		OwnConns:       cmp.Or(o.OwnConns, d.options.maxsize),
		Timeout:        cmp.Or(o.Timeout, d.options.timeout),
		ConnectTimeout: cmp.Or(o.ConnectTimeout, d.options.connectTimeout),
	}
	if watch := o.observer; watch != nil {
		c.OnState = func(state driver.State, reason error) {
			watch.state(StateInfo{Conn: o.Name, Shard: d.node(), State: state, Err: reason})
		}
	}
	if o.Credentials != nil { // the Config takes one of the two
		c.Username, c.Password = "", ""
	}
	c.TLS, err = tlsConfig(d, o.TLS)
	return c, err
}

// tlsConfig returns nil for a scheme without TLS.
func tlsConfig(d *DSN, code *tls.Config) (*tls.Config, error) {
	switch secured := d.of.scope&inTLS != 0; {
	case secured && code != nil:
		return code, nil
	case secured:
		return d.tls()
	case code != nil && d.Scheme != "redis+unix":
		return nil, fmt.Errorf("ConnOptions.TLS is set and %s goes without TLS: write rediss", d.Scheme)
	}
	return nil, nil
}

// tls reads the files that the options tls_* name.
func (d *DSN) tls() (*tls.Config, error) {
	o := &d.options
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         o.tlsServerName,
		InsecureSkipVerify: o.tlsInsecure, // the operator's word for this one DSN
	}
	if o.tlsCA != "" {
		pem, err := os.ReadFile(o.tlsCA)
		if err != nil {
			return nil, fmt.Errorf("tls_ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls_ca: there is no certificate in the file")
		}
	}
	if o.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return nil, fmt.Errorf("tls_cert and tls_key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
