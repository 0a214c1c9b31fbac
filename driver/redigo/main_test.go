package redigo_test

import (
	"bufio"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
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

// scale returns n, or full with CACHES_TEST_FULL=1, for the long form of tests.
func scale(n, full int) int {
	if os.Getenv("CACHES_TEST_FULL") == "1" {
		return full
	}
	return n
}

// patience is a timeout that no healthy call reaches, even on a loaded machine
// under the race detector.
const patience = 20 * time.Second

// open opens a store and closes it when the test ends. Without a Timeout, the
// Config gets patience.
func open(t testing.TB, c redigo.Config) *redigo.Store {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = patience
	}
	s, err := redigo.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// run runs one command in a Pipeline of the given mode and returns the reply as
// it came over the wire.
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
	for _, arg := range args[1:] {
		p.String(arg)
	}
}

// ping ensures that there is a connection. It tries again if a connection was
// just being lost, and waits for an open breaker.
func ping(t testing.TB, s driver.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := run(s, driver.ReadOnly, "PING")
		return err == nil
	}, patience, time.Millisecond)
}

// must runs one command that cannot fail.
func must(t testing.TB, s driver.Store, args ...string) string {
	t.Helper()
	raw, err := run(s, 0, args...)
	require.NoError(t, err)
	return raw
}

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

// A scripted server replies to commands as its test specifies.
type scripted struct {
	addr string

	mu   sync.Mutex
	seen [][]string // every command but PING, in order
}

// An answer returns the reply to a command on the wire. "" closes the
// connection; text that ends in hangUp is sent before the connection closes.
type answer func(conn int, cmd []string) string

const (
	hangUp  = "\x00hang up"
	silence = "\x00silence"
)

// serve starts a scripted server. It replies to the PING of the handshake by
// itself.
func serve(t testing.TB, reply answer) *scripted {
	t.Helper()
	return serveAll(t, func(conn int, cmd []string) string {
		switch {
		case cmd[0] == "PING" && len(cmd) == 2: // a heartbeat
			return bulk(cmd[1])
		case cmd[0] == "PING":
			return "+PONG\r\n"
		}
		return reply(conn, cmd)
	})
}

// serveAll is serve for a server that replies to each PING as its test
// specifies. Its buffers are small, so that a client that does not read while
// it writes is soon stuck.
func serveAll(t testing.TB, reply answer) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &scripted{addr: l.Addr().String()}
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
			_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10)
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			running.Go(func() { s.talk(c, n, reply) })
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
	return s
}

func (s *scripted) talk(c net.Conn, n int, reply answer) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		cmd, err := readCommand(r)
		if err != nil {
			return
		}
		if cmd[0] != "PING" {
			s.mu.Lock()
			s.seen = append(s.seen, cmd)
			s.mu.Unlock()
		}
		text := reply(n, cmd)
		if text == silence {
			continue
		}
		last, end := strings.CutSuffix(text, hangUp)
		if _, err := io.WriteString(c, last); err != nil || end || text == "" {
			return
		}
	}
}

// commands returns the commands so far, each in one line.
func (s *scripted) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := make([]string, len(s.seen))
	for i, cmd := range s.seen {
		lines[i] = strings.Join(cmd, " ")
	}
	return lines
}

// count returns how often a command came.
func (s *scripted) count(line string) int {
	n := 0
	for _, l := range s.commands() {
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
	return slices.Clip(cmd), nil
}

func readNumber(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
