package failover_test

import (
	"bufio"
	"context"
	"flag"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
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

// open opens a store of the master "mymaster" that is closed when the test
// ends. Timeouts default to patience.
func open(t testing.TB, c failover.Config) *failover.Store {
	t.Helper()
	if c.Master == "" {
		c.Master = "mymaster"
	}
	if c.Node.Timeout == 0 {
		c.Node.Timeout = patience
	}
	if c.Node.ConnectTimeout == 0 {
		c.Node.ConnectTimeout = patience
	}
	s, err := failover.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// run runs one command whose first argument is its key, and returns the raw
// reply.
func run(s driver.Store, mode driver.Mode, args ...string) (string, error) {
	return runCtx(context.Background(), s, mode, args...)
}

func runCtx(ctx context.Context, s driver.Store, mode driver.Mode, args ...string) (string, error) {
	p := driver.NewPipeline(mode)
	defer p.Free()
	add(p, args...)
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

func array(elements ...string) string {
	return "*" + strconv.Itoa(len(elements)) + "\r\n" + strings.Join(elements, "")
}

func bulks(words ...string) string {
	elements := make([]string, len(words))
	for i, word := range words {
		elements[i] = bulk(word)
	}
	return array(elements...)
}

// A fake is a server that speaks RESP and answers as the test says.
type fake struct {
	t    testing.TB
	addr string

	mu     sync.Mutex
	answer func(cmd []string) string // "" closes the connection
	muted  bool                      // no answers at all, not even to PING
	seen   []string                  // commands received, in lower case
	subs   map[net.Conn]bool         // subscribed connections
}

const silence = "\x00"

// serve starts a fake, which answers PING and SUBSCRIBE by itself.
func serve(t testing.TB, answer func(cmd []string) string) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{t: t, addr: l.Addr().String(), answer: answer, subs: make(map[net.Conn]bool)}
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			running.Go(func() { f.talk(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return f
}

func (f *fake) talk(c net.Conn) {
	defer func() {
		f.mu.Lock()
		delete(f.subs, c)
		f.mu.Unlock()
		_ = c.Close()
	}()
	r := bufio.NewReader(c)
	for {
		cmd, err := readCommand(r)
		if err != nil {
			return
		}
		text := f.reply(c, cmd)
		if text == silence {
			continue
		}
		if _, err := io.WriteString(c, text); err != nil || text == "" {
			return
		}
	}
}

func (f *fake) reply(c net.Conn, cmd []string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, strings.ToLower(strings.Join(cmd, " ")))
	switch {
	case f.muted:
		return silence
	case cmd[0] == "PING" && f.subs[c]:
		return bulks("pong", "")
	case cmd[0] == "PING" && len(cmd) == 2: // a heartbeat
		return bulk(cmd[1])
	case cmd[0] == "PING":
		return "+PONG\r\n"
	case cmd[0] == "SUBSCRIBE":
		f.subs[c] = true
		return array(bulk("subscribe"), bulk(cmd[1]), ":1\r\n")
	}
	return f.answer(cmd)
}

// say changes the answers of f.
func (f *fake) say(answer func(cmd []string) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// mute stops all answers of f.
func (f *fake) mute() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.muted = true
}

// publish sends a message to all subscribers.
func (f *fake) publish(channel, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.subs {
		_, _ = io.WriteString(c, bulks("message", channel, message))
	}
}

// hangUp closes the connections of all subscribers.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.subs {
		_ = c.Close()
	}
}

// subscribers returns the number of subscribed connections.
func (f *fake) subscribers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

// count returns the number of times a command was received.
func (f *fake) count(line string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, l := range f.seen {
		if l == line {
			n++
		}
	}
	return n
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

// A says is the state that a fake Sentinel reports.
type says struct {
	master   string // host:port
	epoch    int    // -1 means not reported
	id       string
	peers    []string // encoded fields
	replicas []string
}

func (a says) answer(cmd []string) string {
	if cmd[0] != "SENTINEL" {
		return "-ERR unknown command\r\n"
	}
	host, port, _ := net.SplitHostPort(a.master)
	switch cmd[1] {
	case "GET-MASTER-ADDR-BY-NAME":
		if cmd[2] != "mymaster" {
			return "*-1\r\n"
		}
		return bulks(host, port)
	case "MASTER":
		if a.epoch < 0 {
			return bulks("name", "mymaster")
		}
		return bulks("name", "mymaster", "config-epoch", strconv.Itoa(a.epoch))
	case "SENTINELS":
		return array(a.peers...)
	case "REPLICAS":
		return array(a.replicas...)
	}
	return bulk(a.id)
}

// entry is an element of the list of Sentinels or replicas.
func entry(addr, flags string, more ...string) string {
	host, port, _ := net.SplitHostPort(addr)
	return bulks(append([]string{"ip", host, "port", port, "flags", flags}, more...)...)
}

// sentinel starts a fake Sentinel.
func sentinel(t testing.TB, a says) *fake {
	t.Helper()
	return serve(t, a.answer)
}

// master starts a fake master that answers GET with its own address.
func master(t testing.TB) *fake {
	t.Helper()
	var f *fake
	f = serve(t, func(cmd []string) string {
		if cmd[0] == "ROLE" {
			return array(bulk("master"), ":0\r\n", "*0\r\n")
		}
		return bulk(f.addr)
	})
	return f
}
