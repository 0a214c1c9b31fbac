package caches

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/driver/redigo/failover"
)

// A scheme is one kind of DSN: how it is parsed and opened.
type scheme struct {
	scope scope
	auth  bool                                   // may have user and password
	one   bool                                   // all hosts together are one store
	place func(d *DSN, hosts, path string) error // parses hosts and path
	open  func(d *DSN, o *ConnOptions) (driver.Store, error)
}

// builtins are the built-in schemes.
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

// registered are the schemes added by [Register].
var registered struct {
	sync.RWMutex
	byName map[string]scheme
}

// Register adds a scheme for all DSNs of this process. Call it when the program
// starts, before the first object is used. A name consists of at most 40
// lower-case letters, digits and + - . and begins with a letter. Register
// panics if the name is invalid or already in use, or if open is nil.
//
// Open is called once for each host of a DSN, with a DSN that has only this
// host, or once if there are no hosts. Its errors are returned to users of the
// connection and should not show the result of [DSN.Password]. The options ttl,
// prefix, version, router and node have their usual meaning. All others belong
// to open; see [DSN.Option].
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

// schemeName reports whether s can be the name of a scheme (RFC 3986, section
// 3.1, in lower case).
func schemeName(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && len(s) <= 40 && allIn(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.")
}

// schemeOf returns the scheme with the given lower-case name.
func schemeOf(name string) (scheme, error) {
	if s, ok := builtins[name]; ok {
		return s, nil
	}
	registered.RLock()
	defer registered.RUnlock()
	if s, ok := registered.byName[name]; ok {
		return s, nil
	}
	if !schemeName(name) { // perhaps not a scheme, but a secret
		name = ""
	}
	return scheme{}, fmt.Errorf("unknown scheme %q; the schemes are %s", name, knownNames())
}

// knownSchemes lists all schemes.
func knownSchemes() string {
	registered.RLock()
	defer registered.RUnlock()
	return knownNames()
}

// knownNames is knownSchemes for callers that hold the lock.
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

// openMemory opens a store in this process. Without a name it is not shared.
// With a name it exists until the last connection to it is closed.
func openMemory(d *DSN, _ *ConnOptions) (driver.Store, error) {
	o := memory.Options{MaxEntries: d.options.maxsize}
	if len(d.Hosts) == 0 {
		return memory.Open(o)
	}
	return memory.Shared(d.Hosts[0], o)
}

// openDummy opens a store that executes each command, with errors for wrong
// types and arguments, but keeps nothing.
func openDummy(*DSN, *ConnOptions) (driver.Store, error) {
	return memory.Open(memory.Options{Forget: true})
}

// openRedis opens a Redis server.
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
	return cluster.Open(cluster.Config{Seeds: d.Hosts, Node: c, ReadReplicas: o.ReadReplicas || d.options.replicas})
}

// openSentinel opens the master that Sentinels name.
func openSentinel(d *DSN, o *ConnOptions) (driver.Store, error) {
	c, err := d.config(o)
	if err != nil {
		return nil, err
	}
	c.DB = d.DB
	return failover.Open(failover.Config{
		Sentinels: d.Hosts, Master: d.master, Node: c, ReadReplicas: o.ReadReplicas || d.options.replicas,
		SentinelUsername: d.options.sentinelUser, SentinelPassword: d.options.sentinelPassword.reveal(),
	})
}

// config returns the configuration of connections to a server of d. Options in
// o override those of the DSN; zero means the default of [redigo.Config].
func (d *DSN) config(o *ConnOptions) (c redigo.Config, err error) {
	c = redigo.Config{
		Username:       d.Username,
		Password:       d.Password(),
		Credentials:    o.Credentials,
		DialAddress:    o.DialAddress,
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
	if o.Credentials != nil { // a Config cannot have both
		c.Username, c.Password = "", ""
	}
	c.TLS, err = tlsConfig(d, o.TLS)
	return c, err
}

// tlsConfig returns the TLS configuration of d, nil for a scheme without TLS.
// Code is ConnOptions.TLS.
func tlsConfig(d *DSN, code *tls.Config) (*tls.Config, error) {
	switch secured := d.of.scope&inTLS != 0; {
	case secured && code != nil:
		return code, nil
	case secured:
		return d.tls()
	case code != nil && d.Scheme != "redis+unix":
		return nil, fmt.Errorf("ConnOptions.TLS is set, but %s does not use TLS: write rediss", d.Scheme)
	}
	return nil, nil
}

// tls returns the configuration of the options tls_*, whose files it reads.
func (d *DSN) tls() (*tls.Config, error) {
	o := &d.options
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         o.tlsServerName,
		InsecureSkipVerify: o.tlsInsecure, // only by an explicit option of this DSN
	}
	if o.tlsCA != "" {
		pem, err := os.ReadFile(o.tlsCA)
		if err != nil {
			return nil, fmt.Errorf("tls_ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls_ca: the file contains no certificate")
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

// The parts of the grammar that differ by scheme.

// placeRedis parses hosts and database.
func placeRedis(d *DSN, hosts, path string) error {
	return placeHosts(d, hosts, strings.TrimPrefix(path, "/"), "6379")
}

func placeHosts(d *DSN, hosts, db, port string) (err error) {
	for i, host := range strings.Split(hosts, ",") {
		if hosts != "" && host == "" {
			return fmt.Errorf("host %d is empty", i+1)
		}
		address, err := parseHost(host, port)
		if err != nil {
			return fmt.Errorf("host %d: %w", i+1, err)
		}
		d.Hosts = append(d.Hosts, address)
	}
	if db == "" {
		return nil
	}
	if d.DB, err = parseCount(db, 0); err != nil {
		return errors.New("the database after the host is not a whole number of at least 0")
	}
	return nil
}

// placeCluster parses servers of a cluster, which has only database 0.
func placeCluster(d *DSN, hosts, path string) error {
	if err := placeRedis(d, hosts, path); err != nil {
		return err
	}
	if d.DB != 0 {
		return errors.New("a Redis Cluster has only database 0: give each use its own prefix")
	}
	return nil
}

// placeSentinel parses Sentinels, the name of their master and the database.
func placeSentinel(d *DSN, hosts, path string) error {
	name, db, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	name, err := unescape("name of the master", name)
	switch {
	case err != nil:
		return err
	case name == "":
		return fmt.Errorf("the name of the master is missing: %s://s1,s2,s3/mymaster/0", d.Scheme)
	case !allIn(name, nameBytes):
		return errors.New("the name of the master may contain only letters, digits, dot, _ and -")
	}
	d.master = name
	return placeHosts(d, hosts, db, "26379")
}

// placeUnix parses the path of a socket.
func placeUnix(d *DSN, hosts, path string) (err error) {
	if hosts != "" {
		return errors.New("redis+unix has no host: write three slashes, redis+unix:///run/redis.sock")
	}
	if path, err = unescape("path", path); err != nil {
		return err
	}
	switch {
	case len(path) < 2:
		return errors.New("the path of the socket is missing: redis+unix:///run/redis.sock")
	case strings.ContainsFunc(path, control):
		return errors.New("the path of the socket has a control character")
	}
	d.path = func() string { return path }
	return nil
}

// placeNames parses the names of stores in this process.
func placeNames(d *DSN, hosts, path string) error {
	if path != "" && path != "/" {
		return errors.New("locmem has no databases: give each its own name, locmem://name")
	}
	if hosts == "" {
		return nil
	}
	d.Hosts = strings.Split(hosts, ",")
	for i, name := range d.Hosts {
		if name == "" || !allIn(name, nameBytes) {
			return fmt.Errorf("the store's name (host %d) may contain only letters, digits, dot, _ and -", i+1)
		}
	}
	return nil
}

// placeNothing is for dummy, which has neither hosts nor path.
func placeNothing(d *DSN, hosts, path string) error {
	if hosts != "" || (path != "" && path != "/") {
		return fmt.Errorf("%s has neither host nor path", d.Scheme)
	}
	return nil
}

// placeCustom leaves most to the opener. It restricts the characters of hosts,
// since String shows them.
func placeCustom(d *DSN, hosts, path string) (err error) {
	if hosts != "" {
		d.Hosts = strings.Split(hosts, ",")
	}
	for i, host := range d.Hosts {
		if host == "" || !allIn(host, hostBytes+":[]") {
			return fmt.Errorf("host %d is not a name or an address", i+1)
		}
	}
	path, err = unescape("path", strings.TrimPrefix(path, "/"))
	d.path = func() string { return path }
	return err
}

const (
	nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	hostBytes = nameBytes
	nodeBytes = nameBytes + ":/[]"
)

// parseHost returns "host:port", with defaults for missing parts.
func parseHost(s, defaultPort string) (string, error) {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		inside, after, ok := strings.Cut(s[1:], "]")
		if !ok || (after != "" && after[0] != ':') {
			return "", errors.New("the brackets of an IPv6 address do not match")
		}
		address, err := parseIPv6(inside)
		if err != nil {
			return "", err
		}
		host, port = address, after
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	switch {
	case strings.Count(port, ":") > 1:
		return "", errors.New("there are several colons: write an IPv6 address in brackets, [::1]:6379")
	case host == "":
		host = "localhost"
	case !strings.Contains(host, ":") && !allIn(host, hostBytes):
		return "", errors.New("it is not a host name")
	}
	if port = strings.TrimPrefix(port, ":"); port == "" {
		return net.JoinHostPort(host, defaultPort), nil
	}
	n, err := parseCount(port, 1)
	if err != nil || n > math.MaxUint16 {
		return "", errors.New("the port is not a number from 1 to 65535")
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// parseIPv6 parses the address in brackets. The zone of a link-local address
// begins with a percent sign, which is escaped as usual: [fe80::1%25eth0].
func parseIPv6(s string) (string, error) {
	s, err := unescape("IPv6 address", s)
	if err != nil {
		return "", err
	}
	address, err := netip.ParseAddr(s)
	if err != nil || !address.Is6() || !allIn(address.Zone(), hostBytes) {
		return "", errors.New("the text in brackets is not an IPv6 address")
	}
	return address.String(), nil
}

// A scope is a set of schemes.
type scope uint16

const (
	inRedis scope = 1 << iota
	inRediss
	inUnix
	inLocmem
	inDummy
	inCustom
	inCluster
	inClusters // with TLS
	inSentinel
	inSentinels // with TLS

	inTLS      = inRediss | inClusters | inSentinels
	inReplicas = inCluster | inClusters | inSentinel | inSentinels
	inServers  = inRedis | inRediss | inUnix | inReplicas
	inAll      = inServers | inLocmem | inDummy | inCustom
)
