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

// A DSN is a data source name, the text that configures a connection:
//
//	scheme://[user[:password]@]host[:port][,host[:port]…][/db][?options][#name]
//
// The built-in schemes are
//
//	redis://localhost:6379/0            a Redis server, 7.0 or newer
//	rediss://cache.example.com/0        the same over TLS, verified
//	redis+unix:///run/redis.sock?db=0   the same over a socket of this machine
//	redis+cluster://cache01,cache02/    a Redis Cluster; the hosts are some of its servers
//	redis+sentinel://s1,s2,s3/mymaster/0  the master of that name, wherever these Sentinels say it is
//	rediss+cluster, rediss+sentinel     both over TLS
//	locmem://                           this process's memory, nobody else's
//	locmem://name                       the same, shared by all in the process who use the name
//	dummy://                            stores nothing, answers as an empty server
//
// and [Register] adds others. The host defaults to localhost, the port to
// 6379, of Sentinels to 26379, the database to 0. Several hosts of redis and
// rediss are shards of one connection, as are several DSNs of one name.
//
// User, password, socket path, name and the values of options are
// percent-decoded: a "/", "?", "#" or "@" in a password is written %2F, %3F,
// %23 or %40. A user without ":" is a password, for servers that have no users.
// An empty password is an error, for it is what an unset variable leaves
// behind; allow_no_auth=1 takes it as none.
//
// The options, each at most once. Durations are Go's ("90s", "1h") or whole
// seconds ("3600"); switches are 1, 0, true or false.
//
//	ttl              how long objects live that do not say; left out, for ever
//	prefix           stands before every key, with a dot; also key_prefix
//	version          stands before every key, behind prefix
//	router           crc32 (the default) or ketama: see [CRC32], [Ketama]
//	node             the shard's name for the router; "host:port/db" by default
//	previous         the shards of before a change of them, by name or host and with commas:
//	                 what is still there is found and moved, see [ConnOptions]
//	previous_router  what divided keys among those; router by default
//	conns            connections to one server that all calls share; 1 by default
//	maxsize          redis: most connections for the few calls that need their own, 64 by
//	                 default, see [ConnOptions]; locmem: most entries
//	minsize          at most maxsize; connections are kept when idle, so it asks for nothing more
//	timeout          of one call whose context has no nearer deadline; 1s by default
//	connect_timeout  of dialling, with TLS and AUTH; 1s by default
//	client_name      what CLIENT LIST shows
//	db               redis+unix: the database
//	allow_no_auth    see above
//	replicas         redis+cluster, redis+sentinel: 1 has replicas answer what only reads, and
//	                 may be behind the last write; never what slides a time to live, nor a stamp
//	sentinel_user, sentinel_password  for the Sentinels; those in front of the hosts are for the servers
//	tls_ca           rediss and other schemes with TLS: PEM file of the authorities to trust, instead of the system's
//	tls_cert         rediss: PEM file of the client's certificate, …
//	tls_key          … and of its key
//	tls_server_name  rediss: the name in the server's certificate; the host by default
//	tls_insecure     rediss: 1 accepts any certificate, and so anybody in between
//
// A DSN never shows its password: not by String, not by a verb of fmt, not in
// JSON, not in a log. Its fields are for reading.
type DSN struct {
	// Scheme is what stands before "://", in lower case.
	Scheme string
	// Hosts are the servers, "host:port" each; of locmem the name of the
	// store, if there is one; of redis+unix none.
	Hosts []string
	// DB is the number of the database on a Redis server, from 0.
	DB int
	// Name is the name of the connection, empty for the default one.
	Name string
	// Username is the user to authenticate as, empty where there is none.
	Username string

	of       scheme // what Scheme names
	path     secret // of a registered scheme, whose path may be a token
	master   string // of redis+sentinel
	password secret
	raw      rawOptions
	options  options
}

// options are the typed values of the query. Zero is an option that is not set.
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

// A secret keeps text inside a closure. Whatever prints by reflection, with or
// without our methods in its way, finds an address there.
type secret func() string

func (s secret) reveal() string {
	if s == nil {
		return ""
	}
	return s()
}

// A rawOptions gives the text of an option and whether it is set. It is a
// closure for the same reason: an option of a registered scheme may be a token.
type rawOptions func(name string) (value string, ok bool)

// ParseDSN reads a DSN. It opens nothing. Its errors name the part that is
// wrong and never repeat the text, which may be a secret out of place.
func ParseDSN(s string) (*DSN, error) {
	d, err := parseDSN(s)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// parseDSN is ParseDSN that returns a DSN with an error as well: where the
// fragment could be read it has the Name, so that the error can be kept for
// whoever asks for it.
func parseDSN(s string) (*DSN, error) {
	d := &DSN{}
	if err := d.parse(s); err != nil {
		return d, fmt.Errorf("caches: dsn: %w", err)
	}
	return d, nil
}

// parse cuts s from the outside in. The name comes first, so that an error of
// anything else is kept under the right one; and nothing is looked at, let
// alone shown, before it is sure that no stray "@" makes it part of a password.
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

// errStrayAt is the error of an "@" behind the host. What stands before it may
// be the second half of a password, which must not be taken for a path, an
// option or a name, and be shown as one.
var errStrayAt = errors.New(`there is an "@" behind the host: inside a user or password write "/" as %2F, "?" as %3F and "#" as %23; anywhere else write "@" as %40`)

// parseParts reads what is between scheme and name. The options come before the
// user, since allow_no_auth says what an empty password means. The last "@"
// ends the password, so that one with a bare "@" is not cut short.
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

// cutLast is strings.Cut around the last sep, with all of s behind it where
// there is none.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// parseName reads the fragment. Names are shown everywhere and make the names of
// variables, so that few characters are allowed.
func (d *DSN) parseName(fragment string) error {
	if strings.ContainsRune(fragment, '@') {
		return errStrayAt
	}
	name, err := unescape("name behind #", fragment)
	if err != nil {
		return err
	}
	if !allIn(name, nameBytes) {
		return errors.New("the name behind # has other characters than letters, digits, dot, _ and -")
	}
	d.Name = name
	return nil
}

// parseUserinfo reads what stands before the host. Without a password no AUTH
// is sent, and so the user is dropped with it: a server would be asked as the
// default user, and String of a DSN should not say otherwise.
func (d *DSN) parseUserinfo(info string) error {
	user, password, ok := strings.Cut(info, ":")
	if !ok { // redis://password@host, as Heroku has it and redis-cli reads it
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

// check is what concerns several parts at once.
func (d *DSN) check() error {
	o := &d.options
	switch {
	case o.maxsize != 0 && o.minsize > o.maxsize:
		return errors.New("the option minsize is greater than maxsize")
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return errors.New("of the options tls_cert and tls_key there is one without the other")
	case (o.sentinelUser != "") && o.sentinelPassword.reveal() == "":
		return errors.New("the option sentinel_user is there without sentinel_password")
	case o.node != "" && len(d.Hosts) > 1 && !d.of.one:
		return errors.New("the option node names one shard, and there are several hosts: write one DSN for each")
	}
	return nil
}

// Password returns the password in the clear, for the opener of a registered
// scheme. It is empty where there is none.
func (d DSN) Password() string { return d.password.reveal() }

// Path returns the socket of redis+unix. Of a registered scheme it is what
// follows the hosts, percent-decoded, without the slash. Others have none.
func (d DSN) Path() string { return d.path.reveal() }

// Option returns the value of an option as text, percent-decoded, empty where
// it is not set. It is for the opener of a registered scheme, whose own options
// are not looked at before.
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

// String returns the DSN's scheme, hosts, database and name. It leaves out user
// and password, all other options, and the path of a registered scheme.
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

// GoString returns String, quoted as Go would.
func (d DSN) GoString() string { return "caches.DSN(" + strconv.Quote(d.String()) + ")" }

// Format writes String for every verb of package fmt, also for those that
// would show the fields.
func (d DSN) Format(f fmt.State, verb rune) { formatSafe(f, verb, d) }

// LogValue returns String to package log/slog.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText returns String. Encoders of package encoding/json and of most
// others use it.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// MarshalJSON returns String as a JSON string.
func (d DSN) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// formatSafe writes v's String, or its GoString for %#v, quoted for %q.
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

// node returns the name of a DSN of one shard. What several hosts are asked for
// is called by the first of them, or what it is.
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

// shards returns d once for each of its hosts, or as it is without any, or where
// they are all asked for one.
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

// A dsnOption is an option of the query: where it belongs and how it is read.
type dsnOption struct {
	name string
	in   scope
	set  func(o *options, value string) error
}

// dsnOptions are all options but db, in the order in which errors list them.
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

// optionNamed returns the option of a name, or nil.
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

// parseQuery reads the options. An option that is there twice is an error, not
// a matter of which one counts: clients differ in that.
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
			return fmt.Errorf("the option %s is there twice", name)
		}
		given[name] = value
		if err := d.setOption(name, value); err != nil {
			return err
		}
	}
	d.raw = func(name string) (string, bool) { value, ok := given[name]; return value, ok }
	return nil
}

// splitOption reads "name=value". It is strict about the name, since errors
// show it: only what looks like the name of an option is taken for one.
func splitOption(item string) (name, value string, err error) {
	name, value, ok := strings.Cut(item, "=")
	if !ok || name == "" || len(name) > 40 || !allIn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") {
		return "", "", errors.New("behind the ? there is something other than options, name=value, joined by &")
	}
	if value, err = unescape("option "+name, value); err != nil {
		return "", "", err
	}
	if name == "key_prefix" {
		name = "prefix"
	}
	return name, value, nil
}

// setOption reads one option. A mistyped one must not be passed over in
// silence, as most clients do: a cache would live without the limit that its
// operator wrote down.
func (d *DSN) setOption(name, value string) error {
	o := optionNamed(name)
	switch {
	case name == "db":
		return d.setDB(value)
	case o == nil && d.of.scope == inCustom:
		return nil // the opener's own
	case o == nil:
		return fmt.Errorf("there is no option %s; %s has %s", name, d.Scheme, knownOptions(d.of.scope))
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

// setDB reads the option that stands for "/db" where the path is a socket.
func (d *DSN) setDB(value string) (err error) {
	switch d.of.scope {
	case inCustom:
		return nil
	case inRedis, inRediss, inSentinel, inSentinels:
		return fmt.Errorf("the option db belongs to redis+unix; in %s the database stands behind the host, /1", d.Scheme)
	case inUnix:
		if d.DB, err = parseCount(value, 0); err != nil {
			return fmt.Errorf("the option db %w", err)
		}
		return nil
	}
	return fmt.Errorf("the option db belongs to redis+unix; %s has %s", d.Scheme, knownOptions(d.of.scope))
}

// The setters say what is wrong with a value and do not show it. An empty value
// is wrong everywhere: it is what an unset variable leaves behind.

var errEmpty = errors.New("has no value")

func setText(dst *string, v string) error {
	if v == "" {
		return errEmpty
	}
	*dst = v
	return nil
}

// setPrefix refuses control characters: keys never have them unescaped.
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

// setPrevious takes names of shards and hosts, which nothing can tell apart.
func setPrevious(o *options, v string) error {
	if !allIn(v, nodeBytes+",") {
		return errors.New("has other characters than letters, digits and _ - . : / [ ], and commas between the shards")
	}
	return setText(&o.previous, v)
}

// routers are those that a DSN can name.
var routers = map[string]Router{"crc32": CRC32{}, "ketama": Ketama{}}

// setNode allows what the default has, "host:port/db", so that a server that
// moves can keep the name that its keys were divided by.
func setNode(o *options, v string) error {
	if !allIn(v, nodeBytes) {
		return errors.New("has other characters than letters, digits and _ - . : / [ ]")
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

// setClientName allows what CLIENT SETNAME does.
func setClientName(o *options, v string) error {
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("has other characters than printable ASCII, or a space")
	}
	return setText(&o.clientName, v)
}

func setCount(dst *int, v string, least int) (err error) {
	*dst, err = parseCount(v, least)
	return err
}

// setSwitch takes no words such as "yes" or "on": another client's idea of them
// would turn TLS checks off or leave them on.
func setSwitch(dst *bool, v string) error {
	switch v {
	case "1", "true":
		*dst = true
	case "0", "false":
		*dst = false
	default:
		return errors.New("is neither 1, 0, true nor false")
	}
	return nil
}

// setSpan reads a duration. Zero is refused with what to do instead: some
// clients take it for "never", others for "at once".
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

// parseSpan reads whole seconds, as other languages' clients write them, or what
// Go does.
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
	if err != nil { // it repeats the text
		return 0, errors.New("is neither a duration as in Go (90s, 1h30m) nor whole seconds (3600)")
	}
	return span, nil
}

// parseCount reads digits and nothing else, so no sign.
func parseCount(v string, least int) (int, error) {
	if v == "" {
		return 0, errEmpty
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || !allIn(v, digits) {
		return 0, fmt.Errorf("is not a whole number from %d on", least)
	}
	return n, nil
}
