package testutil

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	masterName      = "mymaster"
	downAfter       = time.Second
	downAfterReal   = 3 * time.Second
	failoverTimeout = 2 * time.Second // a failed failover is retried after twice this time
)

// FailoverOptions configure the servers that [FailoverWith] starts. The zero
// value and a nil pointer mean servers and Sentinels on free TCP ports of
// 127.0.0.1, without passwords.
type FailoverOptions struct {
	TLS      bool   // use TLS everywhere, for Sentinels too
	Password string // of the default user of master and replicas (requirepass)

	// SentinelPassword is required from clients of the Sentinels and between
	// Sentinels. With SentinelUser it is the password of that user, and the
	// default user is disabled.
	SentinelUser, SentinelPassword string
	// DownAfter is the silence after which a Sentinel considers a server down
	// (down-after-milliseconds); zero means 1 s, or 3 s with RealPeriods. With
	// less than twice the ping period, Sentinels fail over again and again.
	DownAfter time.Duration
	// RealPeriods keeps the periods that Sentinels have in production: they ping
	// every second, publish their state every 2 s, and query the role of replicas
	// every 10 s. The start then takes two seconds, and a previous master that
	// comes back accepts writes for eight seconds or more, until the Sentinels
	// reconfigure it. Without RealPeriods, SENTINEL DEBUG reduces the periods to
	// 300 ms for pings, 500 ms for publishing and 200 ms for queries, and a
	// previous master is reconfigured after two seconds.
	RealPeriods bool
	// Config are further lines of redis.conf for master and replicas.
	Config []string
}

// FailoverServers are the redis-server processes of one test whose master is
// chosen by Sentinels: a master, its replicas, and the Sentinels. The methods
// must be called by one goroutine at a time, while clients run in others. They
// fail the test if the servers do not comply.
//
// Servers are identified by their addresses, which never change. A restarted
// server has lost its keys, and gets them back only as a replica. So restart a
// master only after a replica has taken over. A server restarts in its previous
// role: a master accepts writes until the Sentinels reconfigure it. A restarted
// Sentinel keeps its state.
type FailoverServers struct {
	t         testing.TB
	options   FailoverOptions
	nodes     []*RedisServer // the first one is the original master
	sentinels []*RedisServer
}

// Failover starts a master, its replicas, and Sentinels that monitor them under
// the name mymaster, with a majority as the quorum. It returns once the
// Sentinels know one another and all replicas, after about a second, and stops
// the servers when the test ends. Sentinels choose a new master only if a
// majority of them can answer: at least three are needed to tolerate the loss
// of one.
//
// If redis-server is not installed, the test is skipped, or fails if the
// environment has CACHES_TEST_REDIS=require.
func Failover(t testing.TB, sentinels, replicas int) *FailoverServers {
	t.Helper()
	return FailoverWith(t, sentinels, replicas, nil)
}

// FailoverWith is [Failover] with options.
func FailoverWith(t testing.TB, sentinels, replicas int, o *FailoverOptions) *FailoverServers {
	t.Helper()
	if sentinels < 1 || replicas < 0 {
		t.Fatalf("testutil: invalid set of %d Sentinels and %d replicas", sentinels, replicas)
	}
	needRedis(t)
	f := &FailoverServers{t: t}
	if o != nil {
		f.options = *o
	}
	var certs *certificates
	if f.options.TLS {
		certs = newCertificates(t, t.TempDir())
	}
	f.startNodes(certs, 1+replicas)
	f.startSentinels(certs, sentinels)
	f.Wait()
	return f
}

func (f *FailoverServers) startNodes(certs *certificates, n int) {
	f.t.Helper()
	o := RedisOptions{TLS: f.options.TLS, Password: f.options.Password, Config: f.options.Config}
	for range n {
		f.nodes = append(f.nodes, startPart(f.t, o, certs, part{lines: f.nodeLines}))
	}
	// Sentinels learn of replicas from the master, and ask again only after
	// seconds.
	f.await("the replicas have no link", func() error {
		for _, n := range f.nodes[1:] {
			if err := replicaOf(n, f.nodes[0].addr); err != nil {
				return err
			}
		}
		return nil
	})
}

// nodeLines returns the additional lines of redis.conf for the next server.
func (f *FailoverServers) nodeLines() []string {
	lines := replicationLines(f.options.TLS, nil, f.options.Password)
	if len(f.nodes) > 0 {
		host, port := split(f.nodes[0].addr)
		lines = append(lines, "replicaof "+host+" "+port)
	}
	return lines
}

func (f *FailoverServers) startSentinels(certs *certificates, n int) {
	f.t.Helper()
	o := RedisOptions{TLS: f.options.TLS, Password: f.options.SentinelPassword}
	if user := f.options.SentinelUser; user != "" {
		o.Password = ""
		o.ACL = []string{"user default off", "user " + user + " on >" + f.options.SentinelPassword + " ~* &* +@all"}
	}
	lines := f.sentinelLines(n)
	p := part{args: []string{"--sentinel"}, lines: func() []string { return lines }, ready: f.hasten}
	for range n {
		f.sentinels = append(f.sentinels, startPart(f.t, o, certs, p))
	}
}

// sentinelLines returns the additional configuration lines of n Sentinels.
func (f *FailoverServers) sentinelLines(n int) []string {
	host, port := split(f.nodes[0].addr)
	down := f.options.DownAfter
	switch {
	case down != 0:
	case f.options.RealPeriods:
		down = downAfterReal
	default:
		down = downAfter
	}
	lines := []string{
		fmt.Sprintf("sentinel monitor %s %s %s %d", masterName, host, port, n/2+1),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", masterName, down.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s %d", masterName, failoverTimeout.Milliseconds()),
	}
	if f.options.TLS {
		lines = append(lines, "tls-replication yes") // to servers and between Sentinels
	}
	if password := f.options.Password; password != "" {
		lines = append(lines, "sentinel auth-pass "+masterName+" "+password)
	}
	if user := f.options.SentinelUser; user != "" {
		lines = append(lines, "sentinel sentinel-user "+user)
	}
	if password := f.options.SentinelPassword; password != "" {
		lines = append(lines, "sentinel sentinel-pass "+password)
	}
	return lines
}

// hasten shortens a Sentinel's periods, which no configuration file can. During
// a failover, Sentinels query replicas once a second, whatever INFO-PERIOD is.
// Five pings must take longer than that: a Sentinel promotes no replica that it
// has not heard from for five ping periods. So must four publishing periods:
// after that time the other Sentinels would revert a promotion that they have
// not heard of.
func (f *FailoverServers) hasten(c redis.Conn) error {
	if f.options.RealPeriods {
		return nil
	}
	_, err := c.Do("SENTINEL", "DEBUG", "PING-PERIOD", 300, "PUBLISH-PERIOD", 500, "INFO-PERIOD", 200)
	return err
}

// DSN returns the addresses of all Sentinels and the master's name in the form
// that caches accepts: redis+sentinel://, or rediss+sentinel:// with tls_ca. It
// includes Password, and SentinelUser and SentinelPassword as options.
func (f *FailoverServers) DSN() string {
	var options url.Values
	if f.options.SentinelPassword != "" {
		options = url.Values{"sentinel_password": {f.options.SentinelPassword}}
	}
	if f.options.SentinelUser != "" {
		options.Set("sentinel_user", f.options.SentinelUser)
	}
	return setDSN("sentinel", f.nodes[0], f.SentinelAddrs(), "/"+masterName+"/0", options)
}

// MasterName returns the name of the master in the Sentinels' configuration.
func (f *FailoverServers) MasterName() string { return masterName }

// SentinelAddrs returns host:port of all Sentinels, killed ones too.
func (f *FailoverServers) SentinelAddrs() []string { return addrsOf(f.sentinels) }

// Addrs returns host:port of the master and replicas, killed ones too. The
// first one is the original master.
func (f *FailoverServers) Addrs() []string { return addrsOf(f.nodes) }

func addrsOf(servers []*RedisServer) []string {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.addr
	}
	return addrs
}

// Node returns the server or Sentinel at addr, to kill, pause, restart or query
// it.
func (f *FailoverServers) Node(addr string) *RedisServer {
	f.t.Helper()
	for _, s := range slices.Concat(f.nodes, f.sentinels) {
		if s.addr == addr {
			return s
		}
	}
	f.t.Fatalf("no server of the set is at %s", addr)
	return nil
}

// Master returns the master's address according to the Sentinel with the latest
// failover, among Sentinels that can answer.
func (f *FailoverServers) Master() string {
	f.t.Helper()
	addr, latest := "", -1
	for _, s := range upOf(f.sentinels) {
		at, epoch, err := askMaster(s)
		if err == nil && epoch > latest {
			addr, latest = at, epoch
		}
	}
	if latest < 0 {
		f.t.Fatal("no Sentinel can answer")
	}
	return addr
}

// Replicas returns the addresses of the servers that can answer and are not the
// master, in the order of Addrs.
func (f *FailoverServers) Replicas() []string {
	f.t.Helper()
	master := f.Master()
	return addrsOf(slices.DeleteFunc(upOf(f.nodes), func(s *RedisServer) bool { return s.addr == master }))
}

func upOf(servers []*RedisServer) []*RedisServer {
	return slices.DeleteFunc(slices.Clone(servers), func(s *RedisServer) bool { return !s.up() })
}

// Failover makes the Sentinels promote a replica (SENTINEL FAILOVER), and
// returns its address once all of them name it. The previous master may still
// accept writes then, which are lost; see Wait.
func (f *FailoverServers) Failover() string {
	f.t.Helper()
	from, up := f.Master(), upOf(f.sentinels)
	f.await("the Sentinels do not begin a failover", func() error {
		_, err := up[0].Do("SENTINEL", "FAILOVER", masterName)
		return err // INPROG or NOGOODSLAVE, for a moment after another failover
	})
	return f.WaitSwitch(from)
}

// WaitSwitch returns the new master's address once all Sentinels that can
// answer name the same master, other than from. Call it after killing or
// pausing from.
func (f *FailoverServers) WaitSwitch(from string) string {
	f.t.Helper()
	var to string
	f.await("the Sentinels do not choose another master than "+from, func() (err error) {
		if to, err = f.named(); err == nil && to == from {
			err = fmt.Errorf("they name %s", to)
		}
		return err
	})
	return to
}

// named returns the master named by all Sentinels that can answer.
func (f *FailoverServers) named() (string, error) {
	addr := ""
	for _, s := range upOf(f.sentinels) {
		at, _, err := askMaster(s)
		if err != nil {
			return "", err
		}
		if addr != "" && addr != at {
			return "", fmt.Errorf("one names %s, another %s", addr, at)
		}
		addr = at
	}
	return addr, nil
}

// askMaster asks a Sentinel for the master and the epoch of its election.
func askMaster(s *RedisServer) (addr string, epoch int, err error) {
	state, err := redis.StringMap(s.Do("SENTINEL", "MASTER", masterName))
	if err != nil {
		return "", 0, err
	}
	// Not the ip in state: it names the previous master while replicas are being
	// reconfigured.
	at, err := redis.Strings(s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName))
	if err != nil || len(at) != 2 {
		return "", 0, fmt.Errorf("%s does not name a master: %w", s.addr, err)
	}
	epoch, err = strconv.Atoi(state["config-epoch"])
	return at[0] + ":" + at[1], epoch, err
}

// Wait returns once the set is complete: all Sentinels that can answer know one
// another and name the same master, all servers that can answer are replicas
// linked to it, and the Sentinels know that.
func (f *FailoverServers) Wait() {
	f.t.Helper()
	f.await("the set is not complete", f.whole)
}

func (f *FailoverServers) whole() error {
	master, err := f.named()
	if err != nil {
		return err
	}
	replicas := slices.DeleteFunc(upOf(f.nodes), func(n *RedisServer) bool { return n.addr == master })
	if err := isMaster(f.Node(master)); err != nil {
		return err
	}
	for _, n := range replicas {
		if err := replicaOf(n, master); err != nil {
			return err
		}
	}
	for _, s := range upOf(f.sentinels) {
		if err := f.knows(s, addrsOf(replicas)); err != nil {
			return fmt.Errorf("by Sentinel %s: %w", s.addr, err)
		}
	}
	return nil
}

// knows returns nil if Sentinel s sees the master, the given replicas and all
// other Sentinels that can answer, and none of them as down.
func (f *FailoverServers) knows(s *RedisServer, replicas []string) error {
	state, err := redis.StringMap(s.Do("SENTINEL", "MASTER", masterName))
	if err != nil {
		return err
	}
	if state["flags"] != "master" {
		return fmt.Errorf("the master is %s", state["flags"])
	}
	if err := listed(s, "REPLICAS", replicas); err != nil {
		return err
	}
	var others []string
	for _, o := range upOf(f.sentinels) {
		if o != s {
			others = append(others, o.addr)
		}
	}
	return listed(s, "SENTINELS", others)
}

// listed returns nil if a list of Sentinel s contains all of addrs as reachable
// and, if they are replicas, as linked to the master.
func listed(s *RedisServer, list string, addrs []string) error {
	replies, err := redis.Values(s.Do("SENTINEL", list, masterName))
	if err != nil {
		return err
	}
	good := make(map[string]bool)
	for _, r := range replies {
		m, err := redis.StringMap(r, nil)
		if err != nil {
			return err
		}
		// Ignore the flag master_down: it is up to five seconds old.
		down := strings.Contains(m["flags"], "s_down") || strings.Contains(m["flags"], "disconnected")
		link := m["master-link-status"]
		good[m["ip"]+":"+m["port"]] = !down && (link == "" || link == "ok")
	}
	for _, addr := range addrs {
		if !good[addr] {
			return fmt.Errorf("%s is not among its good %s", addr, strings.ToLower(list))
		}
	}
	return nil
}

func isMaster(s *RedisServer) error {
	if !s.up() {
		return fmt.Errorf("%s cannot answer", s.addr)
	}
	role, err := redis.Values(s.Do("ROLE"))
	if err == nil && string(role[0].([]byte)) != "master" {
		err = fmt.Errorf("%s is not a master", s.addr)
	}
	return err
}

// replicaOf returns nil if s follows master.
func replicaOf(s *RedisServer, master string) error {
	info, err := redis.String(s.Do("INFO", "replication"))
	if err != nil {
		return err
	}
	at := infoField(info, "master_host") + ":" + infoField(info, "master_port")
	if at != master || infoField(info, "master_link_status") != "up" {
		return fmt.Errorf("%s does not follow %s", s.addr, master)
	}
	return nil
}

func (f *FailoverServers) await(what string, ready func() error) {
	f.t.Helper()
	awaitSet(f.t, what, slices.Concat(f.nodes, f.sentinels), ready)
}
