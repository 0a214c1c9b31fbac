package testutil

import (
	"errors"
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
	clusterSlots = 16384
	nodeTimeout  = 5 * time.Second // less takes a busy machine for a dead node

	setTimeout = time.Minute           // for several servers to agree
	setPoll    = 15 * time.Millisecond // between looks at them
	remindTime = 100 * time.Millisecond
)

// ClusterOptions say what nodes [ClusterWith] starts. The zero value, and a
// nil pointer, mean nodes on free TCP ports of 127.0.0.1, without a password.
type ClusterOptions struct {
	TLS      bool   // speak TLS, to clients and among one another
	Password string // of the default user of every node (requirepass)

	// ACL has lines of Redis's own form for every node, as RedisOptions.ACL.
	// Where one switches the default user off, the first user with a password
	// is whom the nodes and the methods here speak as: it needs +@all.
	ACL []string
	// Hostname, if not "", is the name that nodes tell clients in the place of
	// their address (cluster-announce-hostname). That no client can resolve it
	// is how an address behind NAT looks. Among themselves nodes use addresses.
	Hostname string
	// NodeTimeout is after how long of silence a node counts as failed
	// (cluster-node-timeout); zero means 5 s. With less, nodes of a busy
	// machine lose one another.
	NodeTimeout time.Duration
	// Config has further lines of redis.conf for every node.
	Config []string
}

// ClusterServers are the redis-server processes of a Redis Cluster of one test.
// Its methods are for one goroutine at a time, while clients go on in others;
// they end the test where the cluster does not do as told.
//
// Nodes are known by their addresses, which stay the same through everything.
// A node that restarts knows its cluster but has lost its keys, and gets them
// back only as a replica: a master is to be restarted after its replica has
// taken over. Where the nodes are to keep what they have, Config takes
// "appendonly yes".
type ClusterServers struct {
	t       testing.TB
	options ClusterOptions
	nodes   []*clusterNode // masters first, in the order of their first slots

	// What note saw, by the names of nodes: whose replica each was, "" for a
	// master; when it last became a master; and when it was last replaced.
	masters           map[string]string
	elected, replaced map[string]time.Time
}

// A clusterNode is one process and what names it in the cluster, for good.
type clusterNode struct {
	*RedisServer
	id, bus string // its name, and the port on which it speaks with others
}

// Cluster starts a Redis Cluster of masters, which share the slots evenly, and
// that number of replicas for each. It returns once all nodes agree that it is
// complete, after two to three seconds, and stops it when the test ends. A
// replica takes over from a killed master only where there are at least three
// masters.
//
// Where redis-server is not installed the test is skipped, or fails if the
// environment has CACHES_TEST_REDIS=require.
func Cluster(t testing.TB, masters, replicas int) *ClusterServers {
	t.Helper()
	return ClusterWith(t, masters, replicas, nil)
}

// ClusterWith is [Cluster] with options.
func ClusterWith(t testing.TB, masters, replicas int, o *ClusterOptions) *ClusterServers {
	t.Helper()
	if masters < 1 || replicas < 0 {
		t.Fatalf("testutil: no cluster has %d masters with %d replicas each", masters, replicas)
	}
	needRedis(t)
	c := &ClusterServers{
		t:       t,
		masters: make(map[string]string), elected: make(map[string]time.Time), replaced: make(map[string]time.Time),
	}
	if o != nil {
		c.options = *o
	}
	if c.options.NodeTimeout == 0 {
		c.options.NodeTimeout = nodeTimeout
	}
	c.start(masters * (1 + replicas))
	c.join(masters)
	return c
}

// start starts the nodes, each a cluster of its own.
func (c *ClusterServers) start(n int) {
	c.t.Helper()
	o := RedisOptions{TLS: c.options.TLS, Password: c.options.Password, ACL: c.options.ACL, Config: c.options.Config}
	var certs *certificates
	if o.TLS {
		certs = newCertificates(c.t, c.t.TempDir())
	}
	for range n {
		s := startPart(c.t, o, certs, part{lines: c.lines})
		n := &clusterNode{RedisServer: s}
		n.id = string(c.must(n, "CLUSTER", "MYID").([]byte))
		n.bus = string(c.must(n, "CONFIG", "GET", "cluster-port").([]any)[1].([]byte))
		c.nodes = append(c.nodes, n)
	}
}

// lines returns what a node's redis.conf has beyond a server's own.
func (c *ClusterServers) lines() []string {
	lines := []string{
		"cluster-enabled yes", "cluster-config-file nodes.conf",
		"cluster-port " + strconv.Itoa(freePort(c.t)), // not 10000 above: that may be taken
		"cluster-node-timeout " + strconv.FormatInt(c.options.NodeTimeout.Milliseconds(), 10),
	}
	if c.options.TLS {
		lines = append(lines, "tls-cluster yes")
	}
	if c.options.Hostname != "" {
		lines = append(lines, "cluster-announce-hostname "+c.options.Hostname,
			"cluster-preferred-endpoint-type hostname")
	}
	return append(lines, replicationLines(c.options.TLS, c.options.ACL, c.options.Password)...)
}

// replicationLines let a server be a replica of its like.
func replicationLines(tls bool, acl []string, password string) []string {
	lines := []string{
		// By way of a file: a replica that is fed from a socket may get what
		// is written after its copy as much as a second late.
		"repl-diskless-sync no",
		"rdb-del-sync-files yes", // nothing on disk that a restart would find
	}
	if tls {
		lines = append(lines, "tls-replication yes")
	}
	s := RedisServer{options: RedisOptions{ACL: acl, Password: password}}
	user, password := s.login()
	if user != "" {
		lines = append(lines, "masteruser "+user)
	}
	if password != "" {
		lines = append(lines, "masterauth "+password)
	}
	return lines
}

// join makes one cluster of the nodes: the first are its masters, the others
// replicas of those in turn.
//
// Slots and epochs come before the nodes know one another, so that the first
// they hear is final: two masters of one epoch would have to settle that, and a
// master that finds too few others two seconds after its start waits another
// NodeTimeout.
func (c *ClusterServers) join(masters int) {
	c.t.Helper()
	for i, n := range c.nodes {
		c.must(n, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			c.must(n, "CLUSTER", "ADDSLOTSRANGE", i*clusterSlots/masters, (i+1)*clusterSlots/masters-1)
		}
	}
	// Everyone meets everyone: to hear of others from others takes seconds.
	for i, n := range c.nodes {
		for _, other := range c.nodes[i+1:] {
			if err := n.meet(other); err != nil {
				c.t.Fatalf("%s does not meet %s: %v\n%s", n.addr, other.addr, err, n.log())
			}
		}
	}
	c.await("the nodes do not know one another", c.introduced)
	for i, n := range c.nodes[masters:] {
		c.must(n, "CLUSTER", "REPLICATE", c.nodes[i%masters].id)
	}
	c.Wait()
}

// meet has the node send its state to another, which it may know already.
func (n *clusterNode) meet(other *clusterNode) error {
	host, port := split(other.addr)
	_, err := n.Do("CLUSTER", "MEET", host, port, other.bus)
	return err
}

func (c *ClusterServers) must(n *clusterNode, cmd string, args ...any) any {
	c.t.Helper()
	reply, err := n.Do(cmd, args...)
	if err != nil {
		c.t.Fatalf("%s %v at %s: %v\n%s", cmd, args, n.addr, err, n.log())
	}
	return reply
}

// DSN returns the addresses of all nodes as caches takes them:
// redis+cluster://, or rediss+cluster:// with tls_ca. It holds Password, or
// the first user of ACL that has one.
func (c *ClusterServers) DSN() string {
	return setDSN("cluster", c.nodes[0].RedisServer, c.Addrs(), "/", nil)
}

// setDSN returns a DSN of many hosts with the credentials and files of one.
func setDSN(kind string, s *RedisServer, addrs []string, path string, options url.Values) string {
	scheme, query := "redis+", options.Encode()
	if s.options.TLS {
		scheme = "rediss+"
		query = strings.TrimSuffix(s.tlsQuery()+"&"+query, "&")
	}
	if query != "" {
		path += "?" + query
	}
	return scheme + kind + "://" + s.userinfo() + strings.Join(addrs, ",") + path
}

// Addrs returns host:port of all nodes, killed ones too: first those that began
// as masters, in the order of their slots, then those that began as replicas.
// With M masters, node M+i is a replica of node i modulo M.
func (c *ClusterServers) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.addr
	}
	return addrs
}

// Node returns the server at an address that Addrs has, to be killed, paused,
// restarted, or asked.
func (c *ClusterServers) Node(addr string) *RedisServer {
	c.t.Helper()
	return c.node(addr).RedisServer
}

func (c *ClusterServers) node(addr string) *clusterNode {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.addr == addr {
			return n
		}
	}
	c.t.Fatalf("no node of the cluster is at %s", addr)
	return nil
}

// up returns the nodes that can answer.
func (c *ClusterServers) up() []*clusterNode {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *clusterNode) bool { return !n.RedisServer.up() })
}

// Masters returns the addresses of the nodes that hold slots and can answer, as
// these say themselves, in the order of their lowest slots. A node that was
// paused and does not know yet that another took over does not count.
func (c *ClusterServers) Masters() []string {
	c.t.Helper()
	held := c.look().owners()
	var addrs []string
	for _, n := range held {
		if n != nil && !slices.Contains(addrs, n.addr) {
			addrs = append(addrs, n.addr)
		}
	}
	return addrs
}

// Replicas returns the addresses of the replicas of the master at addr that can
// answer, as these say themselves, in the order of Addrs.
func (c *ClusterServers) Replicas(master string) []string {
	c.t.Helper()
	var addrs []string
	for n, v := range c.look().ordered(c.nodes) {
		if v[n.id].master == c.node(master).id {
			addrs = append(addrs, n.addr)
		}
	}
	return addrs
}

// Owner returns the address of the master that holds a slot, or "" while none
// that can answer does.
func (c *ClusterServers) Owner(slot int) string {
	c.t.Helper()
	if n := c.look().owners()[slot]; n != nil {
		return n.addr
	}
	return ""
}

// Slot returns the slot of a key (CLUSTER KEYSLOT).
func (c *ClusterServers) Slot(key string) int {
	c.t.Helper()
	up := c.up()
	if len(up) == 0 {
		c.t.Fatal("no node of the cluster can answer")
	}
	slot, err := redis.Int(up[0].Do("CLUSTER", "KEYSLOT", key))
	if err != nil {
		c.t.Fatalf("the slot of a key: %v", err)
	}
	return slot
}

// Slots returns the slots that the master at addr holds, ascending.
func (c *ClusterServers) Slots(addr string) []int {
	c.t.Helper()
	node := c.node(addr)
	var slots []int
	for slot, n := range c.look().owners() {
		if n == node {
			slots = append(slots, slot)
		}
	}
	return slots
}

// Failover makes a replica the master and its master a replica, without losing
// a write (CLUSTER FAILOVER), and returns the new master's address. Addr is the
// replica's, or the master's: then the replica takes over that may soonest. It
// returns once all nodes agree.
//
// Masters vote in the place of the same master only after twice NodeTimeout,
// and a replica that stands again within four times NodeTimeout counts the votes
// of before: it takes writes as a second master for a moment, and loses them
// (Redis 7.0). Failover waits until neither can happen. There and back again
// with each of three masters takes no waiting, the seventh failover does.
func (c *ClusterServers) Failover(addr string) string {
	c.t.Helper()
	n := c.candidate(addr)
	c.await(n.addr+" may not take over yet", func() error {
		if left := c.barred(n); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	// The request ends without a word if the masters do not vote within 5 s.
	var asked time.Time
	c.await(n.addr+" does not take over", func() error {
		if time.Since(asked) > 6*time.Second {
			if _, err := n.Do("CLUSTER", "FAILOVER"); err != nil {
				return err
			}
			asked = time.Now()
		}
		if c.look()[n][n.id].master != "" {
			return errors.New("it is a replica")
		}
		return nil
	})
	c.Wait()
	return n.addr
}

// candidate returns the replica at addr, or that of the master at addr which
// may take over soonest.
func (c *ClusterServers) candidate(addr string) *clusterNode {
	c.t.Helper()
	seen, n := c.look(), c.node(addr)
	if seen[n][n.id].master != "" {
		return n
	}
	var best *clusterNode
	for r, v := range seen.ordered(c.nodes) {
		if v[r.id].master == n.id && (best == nil || c.barred(r) < c.barred(best)) {
			best = r
		}
	}
	if best == nil {
		c.t.Fatalf("%s has no replica that could take over", addr)
	}
	return best
}

// barred returns for how long replica n must not stand for election.
func (c *ClusterServers) barred(n *clusterNode) time.Duration {
	timeout := c.options.NodeTimeout
	stand := time.Until(c.elected[n.id].Add(max(4*timeout, 4*time.Second)))
	vote := time.Until(c.replaced[c.masters[n.id]].Add(2 * timeout))
	return max(stand, vote)
}

// note notes who was elected in whose place since the last look. To be late
// with that makes waits longer than they need to be, never shorter.
func (c *ClusterServers) note(seen views) {
	for n, v := range seen {
		was, is := c.masters[n.id], v[n.id].master
		if was != "" && is == "" {
			c.elected[n.id], c.replaced[was] = time.Now(), time.Now()
		}
		c.masters[n.id] = is
	}
}

// Wait returns once the cluster is whole again: every slot is held by a master
// that can answer, all nodes that can answer agree on that and on who is whose
// replica, and every replica is linked to its master. After a master was killed
// or paused that takes NodeTimeout and two to four seconds; without a replica of
// it, Wait ends the test after a minute.
func (c *ClusterServers) Wait() {
	c.t.Helper()
	reminded := time.Now()
	c.await("the cluster is not whole", func() error {
		seen := c.look()
		if err := seen.whole(); err != nil {
			return err
		}
		if pairs := seen.disagree(); len(pairs) > 0 {
			if time.Since(reminded) > remindTime {
				reminded = time.Now()
				remind(pairs)
			}
			return fmt.Errorf("%s knows another state of %s than that itself", pairs[0].x.addr, pairs[0].y.addr)
		}
		for n := range seen {
			if err := n.linked(); err != nil {
				return err
			}
		}
		return nil
	})
}

// remind has each node meet those again that do not know its state, which tells
// them at once. By itself it reaches all others within half of NodeTimeout. One
// that has ended meanwhile is the next look's concern.
func remind(pairs []pair) {
	for _, p := range pairs {
		_ = p.y.meet(p.x)
	}
}

// await polls until ready returns nil, and ends the test where that takes too
// long, with the last reason.
func (c *ClusterServers) await(what string, ready func() error) {
	c.t.Helper()
	servers := make([]*RedisServer, len(c.nodes))
	for i, n := range c.nodes {
		servers[i] = n.RedisServer
	}
	awaitSet(c.t, what, servers, ready)
}

func awaitSet(t testing.TB, what string, servers []*RedisServer, ready func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(setTimeout); time.Now().Before(end); time.Sleep(setPoll) {
		if err = ready(); err == nil {
			return
		}
	}
	var logs strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&logs, "\n%s:\n%s", s.addr, s.log())
	}
	t.Fatalf("%s: %v%s", what, err, &logs)
}
