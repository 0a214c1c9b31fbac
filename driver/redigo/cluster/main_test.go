package cluster_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// TestMain runs more tests at once than there are processors, because the
// parallel ones mostly wait.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}

// patience is a timeout that no healthy call reaches, even on a loaded machine
// under the race detector.
const patience = 20 * time.Second

// open opens a store that is closed when the test ends.
func open(t testing.TB, c cluster.Config) *cluster.Store {
	t.Helper()
	if c.Node.Timeout == 0 {
		c.Node.Timeout = patience
	}
	if c.Node.ConnectTimeout == 0 {
		c.Node.ConnectTimeout = patience
	}
	s, err := cluster.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// run runs one command, whose first argument is its key, and returns the raw
// reply.
func run(s driver.Store, mode driver.Mode, args ...string) (string, error) {
	return runAll(context.Background(), s, mode, args)
}

func runAll(ctx context.Context, s driver.Store, mode driver.Mode, cmds ...[]string) (string, error) {
	p := driver.NewPipeline(mode)
	defer p.Free()
	for _, cmd := range cmds {
		add(p, cmd...)
	}
	err := s.Do(ctx, p)
	return string(p.Replies().Raw()), err
}

func add(p *driver.Pipeline, args ...string) {
	p.Cmd(args[0])
	for i, arg := range args[1:] {
		if i == 0 {
			p.Key(arg)
		} else {
			p.String(arg)
		}
	}
}

// must runs one command and requires it to succeed.
func must(t testing.TB, s driver.Store, args ...string) string {
	t.Helper()
	raw, err := run(s, 0, args...)
	require.NoError(t, err)
	return raw
}

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

func array(elems ...string) string {
	return "*" + strconv.Itoa(len(elems)) + "\r\n" + strings.Join(elems, "")
}

// A fake is a set of servers that answer as the test says and name one another
// as masters, each with an equal share of the slots.
type fake struct {
	t     testing.TB
	nodes []*fakeNode

	mu     sync.Mutex
	owners []int // by slot
	shards func(f *fake, asked int) string
	asked  int // number of CLUSTER SHARDS so far
}

// A fakeNode is one server of a fake.
type fakeNode struct {
	f    *fake
	at   int // in fake.nodes
	addr string
	l    net.Listener

	mu    sync.Mutex
	reply reply
	seen  [][]string // commands other than PING and CLUSTER
	conns []net.Conn
}

// A reply returns the raw answer of a node to a command, or "" for the node's
// default answer. hangUp closes the connection.
type reply func(n *fakeNode, conn int, cmd []string) string

const (
	hangUp  = "\x00"
	silence = "\x01" // for the rest of the connection
)

// fakes starts a cluster of n nodes.
func fakes(t testing.TB, n int, answer reply) *fake {
	t.Helper()
	f := &fake{t: t, owners: make([]int, 16384)}
	for slot := range f.owners {
		f.owners[slot] = slot * n / 16384
	}
	var running sync.WaitGroup
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		node := &fakeNode{f: f, at: i, addr: l.Addr().String(), l: l, reply: answer}
		f.nodes = append(f.nodes, node)
	}
	for _, node := range f.nodes {
		running.Go(func() { node.serve(&running) })
	}
	t.Cleanup(func() {
		for _, n := range f.nodes {
			n.kill()
		}
		running.Wait()
	})
	return f
}

func (f *fake) open(c cluster.Config) *cluster.Store {
	f.t.Helper()
	c.Seeds = []string{f.nodes[0].addr}
	return open(f.t, c)
}

// give makes node to the owner of slots.
func (f *fake) give(to int, slots ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, slot := range slots {
		f.owners[slot] = to
	}
}

// refreshes returns the number of CLUSTER SHARDS so far.
func (f *fake) refreshes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// moved returns the redirect to the owner of slot.
func (f *fake) moved(slot int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("-MOVED %d %s\r\n", slot, f.nodes[f.owners[slot]].addr)
}

// answerShards returns the reply to CLUSTER SHARDS.
func (f *fake) answerShards(asked int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.shards != nil {
		return f.shards(f, asked)
	}
	return f.describe()
}

// describe returns the true state, in ranges of one owner. The caller holds mu.
func (f *fake) describe() string {
	spans := make([][]string, len(f.nodes))
	for first := 0; first < len(f.owners); {
		end := first
		for end < len(f.owners) && f.owners[end] == f.owners[first] {
			end++
		}
		owner := f.owners[first]
		spans[owner] = append(spans[owner], fmt.Sprintf(":%d\r\n", first), fmt.Sprintf(":%d\r\n", end-1))
		first = end
	}
	var shards []string
	for i, n := range f.nodes {
		shards = append(shards, shardReply(spans[i], n.addr, "master", "online"))
	}
	return array(shards...)
}

// shardReply returns one shard of CLUSTER SHARDS from pairs of slots, and the
// address, role and health of each node.
func shardReply(spans []string, nodes ...string) string {
	var all []string
	for node := range slices.Chunk(nodes, 3) {
		host, port, _ := net.SplitHostPort(node[0])
		all = append(all, array(bulk("id"), bulk("0"), bulk("port"), ":"+port+"\r\n", bulk("ip"), bulk(host),
			bulk("endpoint"), bulk(host), bulk("role"), bulk(node[1]), bulk("replication-offset"), ":1\r\n",
			bulk("health"), bulk(node[2])))
	}
	return array(bulk("slots"), array(spans...), bulk("nodes"), array(all...))
}

// set changes the answers of a node.
func (n *fakeNode) set(answer reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reply = answer
}

func (n *fakeNode) serve(running *sync.WaitGroup) {
	for conn := 0; ; conn++ {
		c, err := n.l.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		n.conns = append(n.conns, c)
		n.mu.Unlock()
		running.Go(func() { n.talk(c, conn) })
	}
}

// kill closes the node for good.
func (n *fakeNode) kill() {
	_ = n.l.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
}

func (n *fakeNode) talk(c net.Conn, conn int) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		cmd, err := readCommand(r)
		if err != nil {
			return
		}
		switch text := n.answer(conn, cmd); text {
		case silence: // forever: the next reply would be taken for this one
			_, _ = io.Copy(io.Discard, r)
			return
		case hangUp:
			return
		default:
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// answer returns the node's reply: the test's, or else the default.
func (n *fakeNode) answer(conn int, cmd []string) string {
	n.mu.Lock()
	if cmd[0] != "PING" && cmd[0] != "CLUSTER" {
		n.seen = append(n.seen, cmd)
	}
	reply := n.reply
	n.mu.Unlock()
	if reply != nil {
		if text := reply(n, conn, cmd); text != "" {
			return text
		}
	}
	switch {
	case cmd[0] == "PING" && len(cmd) == 2: // a heartbeat
		return bulk(cmd[1])
	case cmd[0] == "PING":
		return "+PONG\r\n"
	case cmd[0] == "CLUSTER" && cmd[1] == "SHARDS":
		return n.f.answerShards(n.at)
	}
	return "+OK\r\n"
}

// commands returns the commands received so far, one per line.
func (n *fakeNode) commands() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lines := make([]string, len(n.seen))
	for i, cmd := range n.seen {
		lines[i] = strings.Join(cmd, " ")
	}
	return lines
}

// count returns the number of times a command was received.
func (n *fakeNode) count(line string) int {
	c := 0
	for _, l := range n.commands() {
		if l == line {
			c++
		}
	}
	return c
}

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r)
	if err != nil {
		return nil, err
	}
	cmd := make([]string, n)
	for i := range cmd {
		size, err := readNumber(r)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		cmd[i] = string(b[:size])
	}
	return cmd, nil
}

func readNumber(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// shortly returns a Config with short timeouts, for tests that wait for them.
func shortly(d time.Duration) redigo.Config { return redigo.Config{Timeout: d, ConnectTimeout: d} }
