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
	failoverTimeout = 2 * time.Second // after a failover that came to nothing, the next try takes twice this
)

// FailoverOptions say what servers [FailoverWith] starts. The zero value, and a
// nil pointer, mean servers and Sentinels on free TCP ports of 127.0.0.1,
// without passwords.
type FailoverOptions struct {
	TLS      bool   // speak TLS everywhere, Sentinels too
	Password string // of the default user of master and replicas (requirepass)

	// SentinelPassword is what the Sentinels ask of clients and of one another;
	// with SentinelUser it is that user's and the default user is off.
	SentinelUser, SentinelPassword string
	// DownAfter is after how long of silence a Sentinel takes a server for down
	// (down-after-milliseconds); zero means 1 s, or 3 s with RealPeriods. Less
	// than twice the period of their pings has them fail over again and again.
	DownAfter time.Duration
	// RealPeriods leaves Sentinels the periods that they have outside of tests:
	// they ping every second, publish every 2 s what they know, and ask
	// replicas every 10 s what they are. The start then takes two seconds, and
	// a former master that comes back takes writes for eight seconds and more
	// until they tell it. Without it they ping every 300 ms, publish every
	// 500 ms and ask every 200 ms, by SENTINEL DEBUG; the former master hears
	// from them after two seconds.
	RealPeriods bool
	// Config has further lines of redis.conf for master and replicas.
	Config []string
}

// FailoverServers are the redis-server processes of one test of which Sentinels
// choose the master: one master, its replicas, and the Sentinels. Its methods
// are for one goroutine at a time, while clients go on in others; they end the
// test where the servers do not do as told.
//
// Servers are known by their addresses, which stay the same through everything.
// A server that restarts has lost its keys, and gets them back as a replica: a
// master is to be restarted after a replica has taken over. It comes back as
// what it was, and takes writes until the Sentinels tell it otherwise. A
// Sentinel that restarts remembers what it knew.
type FailoverServers struct {
	t         testing.TB
	options   FailoverOptions
	nodes     []*RedisServer // the first was the first master
	sentinels []*RedisServer
}

// Failover starts a master, its replicas, and Sentinels that watch over them by
// the name of mymaster, with a majority of them as the quorum. It returns once
// they know one another and all replicas, after a second or so, and stops them
// when the test ends. Sentinels choose a new master only while a majority of
// them can answer: three are the fewest that stand the loss of one.
//
// Where redis-server is not installed the test is skipped, or fails if the
// environment has CACHES_TEST_REDIS=require.
func Failover(t testing.TB, sentinels, replicas int) *FailoverServers {
	t.Helper()
	return FailoverWith(t, sentinels, replicas, nil)
}

// FailoverWith is [Failover] with options.
func FailoverWith(t testing.TB, sentinels, replicas int, o *FailoverOptions) *FailoverServers {
	t.Helper()
	if sentinels < 1 || replicas < 0 {
		t.Fatalf("testutil: no set has %d Sentinels and %d replicas", sentinels, replicas)
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
	// Sentinels hear of replicas from the master, and look again after seconds.
	f.await("the replicas have no link", func() error {
		for _, n := range f.nodes[1:] {
			if err := replicaOf(n, f.nodes[0].addr); err != nil {
				return err
			}
		}
		return nil
	})
}

// nodeLines returns what redis.conf of the next server has beyond its own.
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

// sentinelLines returns what a Sentinel's configuration has beyond a server's.
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
		lines = append(lines, "tls-replication yes") // to the servers and to one another
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

// hasten shortens a Sentinel's periods, which no configuration file can. In a
// failover it asks replicas once a second, whatever INFO-PERIOD says. Five pings
// must last longer than that: it promotes none that it has not heard of for that
// long. So must four times what it takes to publish: that is when the others
// would take back a promotion that they have not heard of.
func (f *FailoverServers) hasten(c redis.Conn) error {
	if f.options.RealPeriods {
		return nil
	}
	_, err := c.Do("SENTINEL", "DEBUG", "PING-PERIOD", 300, "PUBLISH-PERIOD", 500, "INFO-PERIOD", 200)
	return err
}

// DSN returns the addresses of all Sentinels and the master's name as caches
// takes them: redis+sentinel://, or rediss+sentinel:// with tls_ca. It holds
// Password, and as options SentinelUser and SentinelPassword.
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

// MasterName returns the name by which the Sentinels know the master.
func (f *FailoverServers) MasterName() string { return masterName }

// SentinelAddrs returns host:port of all Sentinels, killed ones too.
func (f *FailoverServers) SentinelAddrs() []string { return addrsOf(f.sentinels) }

// Addrs returns host:port of the servers that are no Sentinels, killed ones
// too. The first one began as the master.
func (f *FailoverServers) Addrs() []string { return addrsOf(f.nodes) }

func addrsOf(servers []*RedisServer) []string {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.addr
	}
	return addrs
}

// Node returns the server or Sentinel at an address, to be killed, paused,
// restarted, or asked.
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

// Master returns the address of the master, as says the Sentinel that can
// answer and knows of the latest failover.
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

// Failover has the Sentinels make a replica the master (SENTINEL FAILOVER), and
// returns its address once all of them name it. What it replaces may still
// take writes then, which are lost; see Wait.
func (f *FailoverServers) Failover() string {
	f.t.Helper()
	from, up := f.Master(), upOf(f.sentinels)
	f.await("the Sentinels do not begin a failover", func() error {
		_, err := up[0].Do("SENTINEL", "FAILOVER", masterName)
		return err // INPROG or NOGOODSLAVE, for a moment after the last one
	})
	return f.WaitSwitch(from)
}

// WaitSwitch returns the master's address once all Sentinels that can answer
// name the same one, other than from: after from was killed.
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

// named returns the master that all Sentinels that can answer name.
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

// askMaster asks a Sentinel for the master and for the epoch of its choice.
func askMaster(s *RedisServer) (addr string, epoch int, err error) {
	state, err := redis.StringMap(s.Do("SENTINEL", "MASTER", masterName))
	if err != nil {
		return "", 0, err
	}
	// Not the ip of that state: this one is new as soon as the choice is.
	at, err := redis.Strings(s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName))
	if err != nil || len(at) != 2 {
		return "", 0, fmt.Errorf("%s names no master: %w", s.addr, err)
	}
	epoch, err = strconv.Atoi(state["config-epoch"])
	return at[0] + ":" + at[1], epoch, err
}

// Wait returns once the set is whole again: all Sentinels that can answer know
// one another and name the same master, all servers that can answer are its
// replicas and linked to it, and the Sentinels know that.
func (f *FailoverServers) Wait() {
	f.t.Helper()
	f.await("the set is not whole", f.whole)
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

// knows is nil if Sentinel s sees the master, these replicas and all other
// Sentinels that can answer, each in order.
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

// listed is nil if Sentinel s has all of addrs in one of its lists, reachable
// and, where they are replicas, linked to the master.
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
		// Not the flag master_down: it tells for five seconds what was.
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
		err = fmt.Errorf("%s is no master", s.addr)
	}
	return err
}

// replicaOf is nil if s follows master.
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
