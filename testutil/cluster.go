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
	nodeTimeout  = 5 * time.Second // less mistakes a busy machine for a dead node

	setTimeout = time.Minute           // for several servers to agree
	setPoll    = 40 * time.Millisecond // between checks of their state
	remindTime = 100 * time.Millisecond
)

// ClusterOptions configure the nodes that [ClusterWith] starts. The zero value
// and a nil pointer mean free TCP ports of 127.0.0.1 and no password.
type ClusterOptions struct {
	TLS      bool   // use TLS, for clients and between nodes
	Password string // of the default user of every node (requirepass)

	// ACL are lines for every node, as in RedisOptions.ACL. If a line disables the
	// default user, the first user with a password is used by the nodes and by the
	// methods here: it needs +@all.
	ACL []string
	// Hostname, if not "", replaces the nodes' address in replies to clients
	// (cluster-announce-hostname). Clients cannot resolve it, which simulates NAT.
	// Nodes use addresses among themselves.
	Hostname string
	// NodeTimeout is the silence after which a node counts as failed
	// (cluster-node-timeout); zero means 5 s. With less, nodes on a busy machine
	// lose contact with one another.
	NodeTimeout time.Duration
	// Config are further lines of redis.conf for every node.
	Config []string
}

// ClusterServers are the redis-server processes of a Redis Cluster that belongs
// to one test. The methods must be called by one goroutine at a time, while
// clients run in others. They fail the test if the cluster does not comply.
//
// Nodes are identified by their addresses, which never change. A restarted node
// knows its cluster but has lost its keys, and gets them back only as a
// replica. So restart a master only after its replica has taken over. To make
// nodes keep their keys, put "appendonly yes" in Config.
type ClusterServers struct {
	t       testing.TB
	options ClusterOptions
	nodes   []*clusterNode // masters first, ordered by their first slots

	// The observations of note, by node ID: each node's master ("" if it is a
	// master itself), when it last became a master, and when it was last replaced.
	masters           map[string]string
	elected, replaced map[string]time.Time
}

// A clusterNode is one process with its permanent identity in the cluster.
type clusterNode struct {
	*RedisServer
	id, bus string // node ID, and port of the cluster bus
}

// Cluster starts a Redis Cluster with the given number of masters, which share
// the slots evenly, and replicas for each master. It returns once all nodes
// agree that the cluster is complete, after two to three seconds, and stops it
// when the test ends. A replica takes over from a killed master only if there
// are at least three masters.
//
// If redis-server is not installed, the test is skipped, or fails if the
// environment has CACHES_TEST_REDIS=require.
func Cluster(t testing.TB, masters, replicas int) *ClusterServers {
	t.Helper()
	return ClusterWith(t, masters, replicas, nil)
}

// ClusterWith is [Cluster] with options.
func ClusterWith(t testing.TB, masters, replicas int, o *ClusterOptions) *ClusterServers {
	t.Helper()
	if masters < 1 || replicas < 0 {
		t.Fatalf("testutil: invalid cluster of %d masters with %d replicas each", masters, replicas)
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

// start starts n nodes, each a cluster of its own.
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

// lines returns the lines of redis.conf that a node has and a single server has
// not.
func (c *ClusterServers) lines() []string {
	lines := []string{
		"cluster-enabled yes", "cluster-config-file nodes.conf",
		"cluster-port " + strconv.Itoa(freePort(c.t)), // the default, 10000 above port, may be taken
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

// replicationLines let a server be a replica of another one with the same
// options.
func replicationLines(tls bool, acl []string, password string) []string {
	lines := []string{
		// Via a file: a replica fed from a socket may get the writes after its copy
		// up to a second late.
		"repl-diskless-sync no",
		"rdb-del-sync-files yes", // leave nothing on disk for a restart to load
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

// join forms one cluster of the nodes. The first ones become masters, the
// others their replicas in turn.
//
// Slots and epochs are set before the nodes meet, so that they are final when
// announced. Otherwise two masters with the same epoch would have to resolve
// the conflict. And a master that finds too few others two seconds after its
// start waits another NodeTimeout.
func (c *ClusterServers) join(masters int) {
	c.t.Helper()
	for i, n := range c.nodes {
		c.must(n, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			c.must(n, "CLUSTER", "ADDSLOTSRANGE", i*clusterSlots/masters, (i+1)*clusterSlots/masters-1)
		}
	}
	// Every node meets every other: gossip would take seconds.
	for i, n := range c.nodes {
		for _, other := range c.nodes[i+1:] {
			if err := n.meet(other); err != nil {
				c.t.Fatalf("%s cannot meet %s: %v\n%s", n.addr, other.addr, err, n.log())
			}
		}
	}
	c.await("the nodes do not know one another", c.introduced)
	for i, n := range c.nodes[masters:] {
		c.must(n, "CLUSTER", "REPLICATE", c.nodes[i%masters].id)
	}
	c.Wait()
}

// meet makes n send its state to other, which it may already know.
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

// DSN returns the addresses of all nodes in the form that caches accepts:
// redis+cluster://, or rediss+cluster:// with tls_ca. It includes Password, or
// the first user of ACL with a password.
func (c *ClusterServers) DSN() string {
	return setDSN("cluster", c.nodes[0].RedisServer, c.Addrs(), "/", nil)
}

// setDSN returns a DSN with several hosts and the credentials and files of s.
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

// Addrs returns host:port of all nodes, killed ones too: first the original
// masters, in the order of their slots, then the original replicas. With M
// masters, node M+i is a replica of node i modulo M.
func (c *ClusterServers) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		addrs[i] = n.addr
	}
	return addrs
}

// Node returns the server at addr, one of Addrs, to kill, pause, restart or
// query it.
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

// Masters returns the addresses of the nodes that can answer and own slots
// according to themselves, in the order of their lowest slots. A node that was
// paused and replaced, but does not know it yet, is left out.
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

// Replicas returns the addresses of the nodes that can answer and are replicas
// of master according to themselves, in the order of Addrs.
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

// Owner returns the address of the master that owns slot, or "" while no node
// that can answer owns it.
func (c *ClusterServers) Owner(slot int) string {
	c.t.Helper()
	if n := c.look().owners()[slot]; n != nil {
		return n.addr
	}
	return ""
}

// Slot returns the slot of key (CLUSTER KEYSLOT).
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

// Slots returns the slots owned by the master at addr, in ascending order.
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

// Failover swaps the roles of a replica and its master without losing a write
// (CLUSTER FAILOVER), and returns the new master's address. addr is a replica,
// or a master: then the replica that may take over soonest does. Failover
// returns once all nodes agree.
//
// Masters vote again on replacing the same master only after twice NodeTimeout.
// And a replica that stands for election again within four times NodeTimeout
// counts its previous votes: for a moment it accepts writes as a second master,
// which are lost (Redis 7.0). Failover waits until neither can happen. Failing
// over and back with each of three masters needs no waiting; the seventh
// failover does.
func (c *ClusterServers) Failover(addr string) string {
	c.t.Helper()
	n := c.candidate(addr)
	c.await(n.addr+" may not take over yet", func() error {
		if left := c.barred(n); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	// The request expires silently if the masters do not vote within 5 s.
	var asked time.Time
	c.await(n.addr+" does not take over", func() error {
		if time.Since(asked) > 6*time.Second {
			if _, err := n.Do("CLUSTER", "FAILOVER"); err != nil {
				return err
			}
			asked = time.Now()
		}
		if c.look()[n][n.id].master != "" {
			return errors.New("it is still a replica")
		}
		return nil
	})
	c.Wait()
	return n.addr
}

// candidate returns the replica at addr, or if addr is a master, its replica
// that may take over soonest.
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

// barred returns the time for which replica n must not stand for election.
func (c *ClusterServers) barred(n *clusterNode) time.Duration {
	timeout := c.options.NodeTimeout
	stand := time.Until(c.elected[n.id].Add(max(4*timeout, 4*time.Second)))
	vote := time.Until(c.replaced[c.masters[n.id]].Add(2 * timeout))
	return max(stand, vote)
}

// note records which nodes became masters since the last look, and which they
// replaced. Noticing late makes waits longer than necessary, never too short.
func (c *ClusterServers) note(seen views) {
	for n, v := range seen {
		was, is := c.masters[n.id], v[n.id].master
		if was != "" && is == "" {
			c.elected[n.id], c.replaced[was] = time.Now(), time.Now()
		}
		c.masters[n.id] = is
	}
}

// Wait returns once the cluster is complete: every slot has an owner that can
// answer, all nodes that can answer agree on owners and replicas, and every
// replica is linked to its master. After a master was killed or paused this
// takes NodeTimeout and two to four seconds. If the master has no replica, Wait
// fails the test after a minute.
func (c *ClusterServers) Wait() {
	c.t.Helper()
	reminded := time.Now()
	c.await("the cluster is not complete", func() error {
		seen := c.look()
		if err := seen.whole(); err != nil {
			return err
		}
		if pairs := seen.disagree(); len(pairs) > 0 {
			if time.Since(reminded) > remindTime {
				reminded = time.Now()
				remind(pairs)
			}
			return fmt.Errorf("%s has an outdated view of %s", pairs[0].x.addr, pairs[0].y.addr)
		}
		for n := range seen {
			if err := n.linked(); err != nil {
				return err
			}
		}
		return nil
	})
}

// remind makes the second node of each pair announce its state to the first at
// once. By itself it would within half of NodeTimeout. If a node has ended
// meanwhile, the next look finds out.
func remind(pairs []pair) {
	for _, p := range pairs {
		_ = p.y.meet(p.x)
	}
}

// await polls until ready returns nil. After setTimeout it fails the test with
// the last error.
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
