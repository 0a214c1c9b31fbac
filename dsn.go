package caches

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A DSN is a data source name, which configures a connection:
//
//	scheme://[user[:password]@]host[:port][,host[:port]…][/db][?options][#name]
//
// The built-in schemes are
//
//	redis://localhost:6379/0            a Redis server, 7.0 or newer
//	rediss://cache.example.com/0        the same over TLS, with the certificate verified
//	redis+unix:///run/redis.sock?db=0   the same over a Unix socket
//	redis+cluster://cache01,cache02/    a Redis Cluster; the hosts are some of its servers
//	redis+sentinel://s1,s2,s3/mymaster/0  the master with that name, found by these Sentinels
//	rediss+cluster, rediss+sentinel     the same two over TLS
//	locmem://                           memory of this process, not shared
//	locmem://name                       the same, shared by all connections in the process that use the name
//	dummy://                            stores nothing, replies as an empty server
//
// and [Register] adds others. The default host is localhost, the default port
// 6379 (26379 for Sentinels), the default database 0. Several hosts of redis
// and rediss are shards of one connection, as are several DSNs with the same
// name.
//
// User, password, socket path, name and option values are percent-decoded: "/",
// "?", "#" and "@" in a password are written %2F, %3F, %23 and %40. Without a
// ":", the text before the "@" is the password, for servers that have no users.
// An empty password is an error, since it usually comes from an unset variable;
// with allow_no_auth=1 it means no password.
//
// Each option may occur once. Durations are Go's ("90s", "1h") or whole seconds
// ("3600"). Switches are 1, 0, true or false.
//
//	ttl              default time to live of objects; without it they do not expire
//	prefix           precedes every key, followed by a dot; also key_prefix
//	version          follows the prefix in every key, followed by a dot
//	router           crc32 (the default) or ketama: see [CRC32], [Ketama]
//	node             the name of the shard for the router; "host:port/db" by default
//	previous         redis, rediss: the shards before a change, by name or host, separated by
//	                 commas; keys still on them are found and moved, see [ConnOptions]
//	previous_router  the router of the previous shards; router by default
//	conns            number of shared connections to one server; 1 by default
//	maxsize          Redis: maximum number of dedicated connections, for the few calls that need
//	                 one, 64 by default, see [ConnOptions]; locmem: maximum number of entries
//	minsize          at most maxsize; has no other effect, since idle connections are kept
//	timeout          limit of one call whose context has no earlier deadline; 1s by default
//	connect_timeout  limit of dialing, with TLS and AUTH, and twice that of a Sentinel's
//	                 answer; 1s by default
//	client_name      the name that CLIENT LIST shows
//	db               redis+unix: the database
//	allow_no_auth    see above
//	replicas         redis+cluster, redis+sentinel: 1 sends commands that only read to replicas, which
//	                 may lag behind the last write; never reads that restart a time to live or validate a result
//	sentinel_user, sentinel_password  for the Sentinels; user and password before the hosts are for the servers
//	tls_ca           schemes with TLS: PEM file of the trusted authorities, instead of the system's
//	tls_cert         schemes with TLS: PEM file of the client's certificate
//	tls_key          schemes with TLS: PEM file of its key
//	tls_server_name  schemes with TLS: the name in the server's certificate; the host by default
//	tls_insecure     schemes with TLS: 1 accepts any certificate, even that of an attacker
//
// A DSN does not show its password: not in String, in fmt output, in JSON or in
// logs. Its fields are read-only.
type DSN struct {
	// Scheme is the text before "://", in lower case.
	Scheme string
	// Hosts lists the servers as "host:port". For locmem it has the name of the
	// store, if there is one. For redis+unix it is empty.
	Hosts []string
	// DB is the number of the database on a Redis server, from 0.
	DB int
	// Name is the name of the connection, empty for the default one.
	Name string
	// Username is the user to authenticate as, empty for none.
	Username string

	of       scheme // named by Scheme
	path     secret // the path of a registered scheme may be a token
	master   string // of redis+sentinel
	password secret
	raw      rawOptions
	options  options
}

// options are the parsed values of the query. A zero field is not set.
type options struct {
	ttl                      time.Duration
	prefix, version          string
	router, node             string
	previous, previousRouter string
	conns, minsize, maxsize  int
	timeout, connectTimeout  time.Duration
	clientName               string
	allowNoAuth, tlsInsecure bool
	tlsCA, tlsCert, tlsKey   string
	tlsServerName            string
	replicas                 bool
	sentinelUser             string
	sentinelPassword         secret
}

// A secret keeps text in a closure. Code that prints by reflection, even
// without calling our methods, shows only an address.
type secret func() string

func (s secret) reveal() string {
	if s == nil {
		return ""
	}
	return s()
}

// A rawOptions returns the text of an option and whether it is set. It is a
// closure for the same reason: an option of a registered scheme may be a token.
type rawOptions func(name string) (value string, ok bool)

// ParseDSN parses a DSN. It opens nothing. Its errors name the invalid part but
// never repeat the text, which may be a misplaced secret.
func ParseDSN(s string) (*DSN, error) {
	d, err := parseDSN(s)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// parseDSN is like ParseDSN but returns a DSN even with an error. Unless the
// fragment is invalid it has the Name, under which a Registry keeps the error.
func parseDSN(s string) (*DSN, error) {
	d := &DSN{}
	if err := d.parse(s); err != nil {
		return d, fmt.Errorf("caches: dsn: %w", err)
	}
	return d, nil
}

// parse cuts s from the outside in. The name comes first, so that any other
// error is kept under the right name. Nothing behind the scheme is parsed, let
// alone shown, before a stray "@", which could make it part of a password, is
// ruled out.
func (d *DSN) parse(s string) error {
	rest, fragment, _ := strings.Cut(s, "#")
	if err := d.parseName(fragment); err != nil {
		return err
	}
	scheme, rest, ok := strings.Cut(rest, "://")
	if !ok {
		return fmt.Errorf("it has no scheme: begin with one of %s and \"://\"", knownSchemes())
	}
	d.Scheme = strings.ToLower(scheme)
	var err error
	if d.of, err = schemeOf(d.Scheme); err != nil {
		return err
	}
	rest, options, _ := strings.Cut(rest, "?")
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if strings.ContainsRune(path+options, '@') {
		return errStrayAt
	}
	return d.parseParts(authority, path, options)
}

// errStrayAt reports an "@" behind the host. The text before it may be the
// second half of a password, which must not be shown as a path, an option or a
// name.
var errStrayAt = errors.New(`there is an "@" after the host: inside a user or password write "/" as %2F, "?" as %3F and "#" as %23; anywhere else write "@" as %40`)

// parseParts parses the parts between scheme and name. The options come before
// the user, since allow_no_auth says what an empty password means. The last "@"
// ends the password, so an unescaped "@" does not cut it short.
func (d *DSN) parseParts(authority, path, options string) error {
	info, hosts, hasInfo := cutLast(authority, "@")
	if hasInfo && !d.of.auth {
		return fmt.Errorf("%s takes no user and no password", d.Scheme)
	}
	if err := d.parseQuery(options); err != nil {
		return err
	}
	if hasInfo {
		if err := d.parseUserinfo(info); err != nil {
			return err
		}
	}
	if err := d.of.place(d, hosts, path); err != nil {
		return err
	}
	return d.check()
}

// cutLast is like strings.Cut, but cuts around the last sep. Without one, all
// of s is after it.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// parseName parses the fragment. Names are shown everywhere and become part of
// the names of variables, so few characters are allowed.
func (d *DSN) parseName(fragment string) error {
	if strings.ContainsRune(fragment, '@') {
		return errStrayAt
	}
	name, err := unescape("name behind #", fragment)
	if err != nil {
		return err
	}
	if !allIn(name, nameBytes) {
		return errors.New("the name after # may contain only letters, digits, dot, _ and -")
	}
	d.Name = name
	return nil
}

// parseUserinfo parses user and password. Without a password AUTH is not sent
// and the server sees the default user, so Username must not say otherwise: the
// user is dropped.
func (d *DSN) parseUserinfo(info string) error {
	user, password, ok := strings.Cut(info, ":")
	if !ok { // redis://password@host, as Heroku writes it and redis-cli reads it
		user, password = "", info
	}
	user, err := unescape("user", user)
	if err != nil {
		return err
	}
	if password, err = unescape("password", password); err != nil {
		return err
	}
	switch {
	case password != "":
		d.Username, d.password = user, func() string { return password }
	case !d.options.allowNoAuth:
		return errors.New("the password is empty, as an unset variable leaves it: leave out all before the @, or add allow_no_auth=1 to connect without AUTH")
	}
	return nil
}

// check reports options that contradict each other.
func (d *DSN) check() error {
	o := &d.options
	switch {
	case o.maxsize != 0 && o.minsize > o.maxsize:
		return errors.New("the option minsize is greater than maxsize")
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return errors.New("the options tls_cert and tls_key must be set together")
	case (o.sentinelUser != "") && o.sentinelPassword.reveal() == "":
		return errors.New("the option sentinel_user needs sentinel_password")
	case o.node != "" && len(d.Hosts) > 1 && !d.of.one:
		return errors.New("the option node names one shard, but there are several hosts: write one DSN for each")
	}
	return nil
}

// Password returns the password in plain text, or "", for the opener of a
// registered scheme.
func (d DSN) Password() string { return d.password.reveal() }

// Path returns the socket of redis+unix. For a registered scheme it returns the
// path behind the hosts, percent-decoded and without the leading slash. For
// other schemes it is empty.
func (d DSN) Path() string { return d.path.reveal() }

// Option returns the percent-decoded text of an option, or "" if it is not set.
// It is for the opener of a registered scheme, which must validate its own
// options.
func (d DSN) Option(name string) string {
	value, _ := d.option(name)
	return value
}

func (d DSN) option(name string) (string, bool) {
	if d.raw == nil {
		return "", false
	}
	return d.raw(name)
}

// String returns the scheme, hosts, database and name of the DSN. It omits the
// user, the password, all other options, and the path of a registered scheme.
func (d DSN) String() string {
	var b strings.Builder
	b.WriteString(d.Scheme + "://")
	for i, host := range d.Hosts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(escape(host))
	}
	switch d.Scheme {
	case "redis", "rediss":
		fmt.Fprintf(&b, "/%d", d.DB)
	case "redis+sentinel", "rediss+sentinel":
		fmt.Fprintf(&b, "/%s/%d", d.master, d.DB)
	case "redis+unix":
		b.WriteString(escape(d.Path()))
		if d.DB != 0 {
			fmt.Fprintf(&b, "?db=%d", d.DB)
		}
	}
	if d.Name != "" {
		b.WriteString("#" + d.Name)
	}
	return b.String()
}

// GoString returns the same as String, quoted, in caches.DSN(…).
func (d DSN) GoString() string { return "caches.DSN(" + strconv.Quote(d.String()) + ")" }

// Format implements [fmt.Formatter]. It writes String for every verb, including
// verbs that would show the fields.
func (d DSN) Format(f fmt.State, verb rune) { formatSafe(f, verb, d) }

// LogValue implements [slog.LogValuer]. It returns the same as String.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText implements [encoding.TextMarshaler], which most encoders use. It
// returns the same as String.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// MarshalJSON returns the same as String, as a JSON string.
func (d DSN) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// formatSafe writes the String of v, quoted for %q, or its GoString for %#v.
func formatSafe(f fmt.State, verb rune, v interface {
	fmt.Stringer
	fmt.GoStringer
}) {
	switch {
	case verb == 'v' && f.Flag('#'):
		_, _ = f.Write([]byte(v.GoString()))
	case verb == 'q':
		_, _ = f.Write(strconv.AppendQuote(nil, v.String()))
	default:
		_, _ = f.Write([]byte(v.String()))
	}
}

// node returns the name of the shard of d: the option node, or else a name made
// of the master, the socket or the first host, and the database.
func (d *DSN) node() string {
	host := d.Scheme
	if len(d.Hosts) > 0 {
		host = d.Hosts[0]
	}
	switch {
	case d.options.node == "" && d.master != "":
		return d.master + "/" + strconv.Itoa(d.DB)
	case d.options.node != "":
		return d.options.node
	case d.Scheme == "redis+unix":
		host = d.Path()
	case d.Scheme != "redis" && d.Scheme != "rediss":
		return host
	}
	return host + "/" + strconv.Itoa(d.DB)
}

// shards returns a copy of d for each host, or d itself if it is one shard.
func (d *DSN) shards() []*DSN {
	if len(d.Hosts) < 2 || d.of.one {
		return []*DSN{d}
	}
	all := make([]*DSN, len(d.Hosts))
	for i := range all {
		one := *d
		one.Hosts = d.Hosts[i : i+1]
		all[i] = &one
	}
	return all
}

// A dsnOption is an option of the query, with the schemes that have it.
type dsnOption struct {
	name string
	in   scope
	set  func(o *options, value string) error
}

// dsnOptions lists all options except db, in the order of error messages.
var dsnOptions = []dsnOption{
	{"ttl", inAll, func(o *options, v string) error { return setSpan(&o.ttl, v, "to never expire") }},
	{"version", inAll, func(o *options, v string) error { return setPrefix(&o.version, v) }},
	{"prefix", inAll, func(o *options, v string) error { return setPrefix(&o.prefix, v) }},
	{"router", inAll, func(o *options, v string) error { return setRouter(&o.router, v) }},
	{"node", inAll, setNode},
	{"previous", inRedis | inRediss, setPrevious},
	{"previous_router", inRedis | inRediss, func(o *options, v string) error { return setRouter(&o.previousRouter, v) }},
	{"conns", inServers, func(o *options, v string) error { return setCount(&o.conns, v, 1) }},
	{"minsize", inServers, func(o *options, v string) error { return setCount(&o.minsize, v, 0) }},
	{"maxsize", inServers | inLocmem, func(o *options, v string) error { return setCount(&o.maxsize, v, 1) }},
	{"timeout", inServers, func(o *options, v string) error { return setSpan(&o.timeout, v, "for the default") }},
	{"connect_timeout", inServers, func(o *options, v string) error { return setSpan(&o.connectTimeout, v, "for the default") }},
	{"client_name", inServers, setClientName},
	{"allow_no_auth", inServers, func(o *options, v string) error { return setSwitch(&o.allowNoAuth, v) }},
	{"replicas", inReplicas, func(o *options, v string) error { return setSwitch(&o.replicas, v) }},
	{"sentinel_user", inSentinel | inSentinels, func(o *options, v string) error { return setText(&o.sentinelUser, v) }},
	{"sentinel_password", inSentinel | inSentinels, setSentinelPassword},
	{"tls_ca", inTLS, func(o *options, v string) error { return setText(&o.tlsCA, v) }},
	{"tls_cert", inTLS, func(o *options, v string) error { return setText(&o.tlsCert, v) }},
	{"tls_key", inTLS, func(o *options, v string) error { return setText(&o.tlsKey, v) }},
	{"tls_server_name", inTLS, func(o *options, v string) error { return setText(&o.tlsServerName, v) }},
	{"tls_insecure", inTLS, func(o *options, v string) error { return setSwitch(&o.tlsInsecure, v) }},
}

// optionNamed returns the option with the given name, or nil.
func optionNamed(name string) *dsnOption {
	i := slices.IndexFunc(dsnOptions, func(o dsnOption) bool { return o.name == name })
	if i < 0 {
		return nil
	}
	return &dsnOptions[i]
}

// knownOptions lists the options of a scheme.
func knownOptions(of scope) string {
	var names []string
	for _, o := range dsnOptions {
		if o.in&of != 0 {
			names = append(names, o.name)
		}
	}
	if of == inUnix {
		names = append(names, "db")
	}
	return strings.Join(names, ", ")
}

// parseQuery parses the options. An option that occurs twice is an error, since
// clients differ in which one they use.
func (d *DSN) parseQuery(s string) error {
	given := make(map[string]string)
	for item := range strings.SplitSeq(s, "&") {
		if item == "" {
			continue
		}
		name, value, err := splitOption(item)
		if err != nil {
			return err
		}
		if _, twice := given[name]; twice {
			return fmt.Errorf("the option %s is given twice", name)
		}
		given[name] = value
		if err := d.setOption(name, value); err != nil {
			return err
		}
	}
	d.raw = func(name string) (string, bool) { value, ok := given[name]; return value, ok }
	return nil
}

// splitOption parses "name=value". It accepts only text that looks like the
// name of an option, since errors show the name.
func splitOption(item string) (name, value string, err error) {
	name, value, ok := strings.Cut(item, "=")
	if !ok || name == "" || len(name) > 40 || !allIn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") {
		return "", "", errors.New("only options may follow the ?: name=value, joined by &")
	}
	if value, err = unescape("option "+name, value); err != nil {
		return "", "", err
	}
	if name == "key_prefix" {
		name = "prefix"
	}
	return name, value, nil
}

// setOption sets one option. A mistyped one must not be silently ignored, as
// most clients do: the cache would run without the limit that its operator set.
func (d *DSN) setOption(name, value string) error {
	o := optionNamed(name)
	switch {
	case name == "db":
		return d.setDB(value)
	case o == nil && d.of.scope == inCustom:
		return nil // an option of the opener
	case o == nil:
		return fmt.Errorf("unknown option %s; %s has %s", name, d.Scheme, knownOptions(d.of.scope))
	case o.in&d.of.scope == 0 && d.of.scope == inCustom:
		return nil
	case o.in&d.of.scope == 0:
		return fmt.Errorf("the option %s belongs to %s; %s has %s", name, schemesIn(o.in), d.Scheme, knownOptions(d.of.scope))
	}
	if err := o.set(&d.options, value); err != nil {
		return fmt.Errorf("the option %s %w", name, err)
	}
	return nil
}

// setDB sets the option that replaces "/db" if the path is a socket.
func (d *DSN) setDB(value string) (err error) {
	switch d.of.scope {
	case inCustom:
		return nil
	case inRedis, inRediss, inSentinel, inSentinels:
		return fmt.Errorf("the option db belongs to redis+unix; in %s the database follows the host, /1", d.Scheme)
	case inUnix:
		if d.DB, err = parseCount(value, 0); err != nil {
			return fmt.Errorf("the option db %w", err)
		}
		return nil
	}
	return fmt.Errorf("the option db belongs to redis+unix; %s has %s", d.Scheme, knownOptions(d.of.scope))
}

// The setters say why a value is invalid but do not show it. An empty value is
// always invalid: it usually comes from an unset variable.

var errEmpty = errors.New("has no value")

func setText(dst *string, v string) error {
	if v == "" {
		return errEmpty
	}
	*dst = v
	return nil
}

// setPrefix refuses control characters: keys never contain them unescaped.
func setPrefix(dst *string, v string) error {
	if strings.ContainsFunc(v, control) {
		return errors.New("has a control character")
	}
	return setText(dst, v)
}

func setRouter(dst *string, v string) error {
	if _, ok := routers[v]; !ok {
		return errors.New("is neither crc32 nor ketama")
	}
	*dst = v
	return nil
}

// setPrevious accepts names of shards and hosts, which cannot be told apart.
func setPrevious(o *options, v string) error {
	if !allIn(v, nodeBytes+",") {
		return errors.New("may contain only letters, digits and _ - . : / [ ], with commas between the shards")
	}
	return setText(&o.previous, v)
}

// routers are the routers that a DSN can name.
var routers = map[string]Router{"crc32": CRC32, "ketama": Ketama}

// setNode allows the characters of the default, "host:port/db", so that a
// server that moves can keep the name by which its keys are routed.
func setNode(o *options, v string) error {
	if !allIn(v, nodeBytes) {
		return errors.New("may contain only letters, digits and _ - . : / [ ]")
	}
	return setText(&o.node, v)
}

func setSentinelPassword(o *options, v string) error {
	if v == "" {
		return errEmpty
	}
	o.sentinelPassword = func() string { return v }
	return nil
}

// setClientName allows the characters that CLIENT SETNAME allows.
func setClientName(o *options, v string) error {
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("may contain only printable ASCII, and no space")
	}
	return setText(&o.clientName, v)
}

func setCount(dst *int, v string, least int) (err error) {
	*dst, err = parseCount(v, least)
	return err
}

// setSwitch refuses words such as "yes" and "on": clients disagree about them,
// and a misunderstanding would turn TLS checks off, or leave them on.
func setSwitch(dst *bool, v string) error {
	switch v {
	case "1", "true":
		*dst = true
	case "0", "false":
		*dst = false
	default:
		return errors.New("is not 1, 0, true or false")
	}
	return nil
}

// setSpan sets a duration. It refuses zero, which some clients take for "never"
// and others for "immediately". The error says what omitting the option means.
func setSpan(dst *time.Duration, v, leaveOut string) error {
	span, err := parseSpan(v)
	switch {
	case err != nil:
		return err
	case span == 0:
		return fmt.Errorf("is 0: leave it out %s", leaveOut)
	}
	*dst = span
	return nil
}

// parseSpan parses whole seconds, as clients in other languages use, or a Go
// duration.
func parseSpan(v string) (time.Duration, error) {
	if v == "" {
		return 0, errEmpty
	}
	if allIn(v, digits) {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil || seconds > math.MaxInt64/int64(time.Second) {
			return 0, errors.New("is too large")
		}
		return time.Duration(seconds) * time.Second, nil
	}
	if v[0] == '-' {
		return 0, errors.New("is negative")
	}
	span, err := time.ParseDuration(v)
	if err != nil { // err repeats the text
		return 0, errors.New("is neither a duration as in Go (90s, 1h30m) nor whole seconds (3600)")
	}
	return span, nil
}

// parseCount parses digits only, without a sign.
func parseCount(v string, least int) (int, error) {
	if v == "" {
		return 0, errEmpty
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || !allIn(v, digits) {
		return 0, fmt.Errorf("is not a whole number of at least %d", least)
	}
	return n, nil
}
