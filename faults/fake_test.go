package faults

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fake is a server that answers as its test says, and counts what comes. It
// greets and answers heartbeats by itself, uncounted.
type fake struct {
	addr   string
	answer func(cmd []string) string // what goes over the wire; called under mu

	mu    sync.Mutex
	conns int
	seen  map[string]int // how often each command came, in one line
	names map[string]int // the same by the command's name
}

// newFake starts a fake that ends with the test.
func newFake(t testing.TB, answer func(cmd []string) string) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{addr: l.Addr().String(), answer: answer, seen: map[string]int{}, names: map[string]int{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { f.talk(c) })
		}
	})
	// Cleanups run last first: the store that a test opens after its fake has
	// closed its connections by then, so every talk ends.
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return f
}

func (f *fake) talk(c net.Conn) {
	defer func() { _ = c.Close() }()
	f.mu.Lock()
	f.conns++
	f.mu.Unlock()
	r := bufio.NewReader(c)
	for {
		cmd, err := readWire(r)
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, f.reply(cmd)); err != nil {
			return
		}
	}
}

func (f *fake) reply(cmd []string) string {
	if cmd[0] == "PING" && len(cmd) == 2 {
		return bulk(cmd[1])
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[strings.Join(cmd, " ")]++
	f.names[cmd[0]]++
	return f.answer(cmd)
}

// count returns how often commands of these names came.
func (f *fake) count(names ...string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, name := range names {
		n += f.names[name]
	}
	return n
}

// most returns the command that came most often, and how often that was.
func (f *fake) most() (line string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, times := range f.seen {
		if l != "PING" && times > n {
			line, n = l, times
		}
	}
	return line, n
}

func (f *fake) accepted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns
}

// readWire reads one command.
func readWire(r *bufio.Reader) ([]string, error) {
	n, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	cmd := make([]string, n)
	for i := range cmd {
		size, err := readHeader(r)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		cmd[i] = string(b[:size])
	}
	return cmd, nil
}

// readHeader reads "*3\r\n" and its like.
func readHeader(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
