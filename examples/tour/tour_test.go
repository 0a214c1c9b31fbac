//go:build unix

package main_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gocaches/caches/testutil"
)

// binary is the tour, built once for all tests of this file.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tour")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "tour")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// objects are what a tour shows of each package.
var objects = []string{"Cache", "SetCache", "SortedSetCache", "DictCache", "Cached", "ListCache", "CounterCache"}

// A machine is where tours of one test run: an environment whose go writes down
// what it is asked for, and which can be made to wait.
type machine struct {
	t    *testing.T
	dir  string
	env  []string
	open string // while this file is not there, go list waits; "" for never
}

// newMachine returns one whose tours use dsn; "" is none.
func newMachine(t *testing.T, dsn string) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	real, err := exec.LookPath("go")
	require.NoError(t, err)
	script := fmt.Sprintf(`#!/bin/sh
echo "$1" >>'%s/asked'
if [ "$1" = list ] && [ -n "$TOUR_TEST_OPEN" ]; then
	while [ ! -e "$TOUR_TEST_OPEN" ]; do sleep 0.02; done
fi
exec '%s' "$@"
`, m.dir, real)
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "go"), []byte(script), 0o755))
	m.env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CACHES_") })
	m.env = append(m.env, "PATH="+m.dir+":"+os.Getenv("PATH"))
	if dsn != "" {
		m.env = append(m.env, "CACHES_DSN="+dsn)
	}
	return m
}

// asked returns how often go was asked for a subcommand.
func (m *machine) asked(subcommand string) int {
	log, err := os.ReadFile(filepath.Join(m.dir, "asked"))
	if !os.IsNotExist(err) {
		require.NoError(m.t, err)
	}
	n := 0
	for _, word := range strings.Fields(string(log)) {
		if word == subcommand {
			n++
		}
	}
	return n
}

// A run is one process of the tour.
type run struct {
	t           *testing.T
	cmd         *exec.Cmd
	out, stderr output
}

// An output is what a process has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (m *machine) start(args ...string) *run {
	m.t.Helper()
	r := &run{t: m.t, cmd: exec.Command(binary, args...)}
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = append(m.env, "TOUR_TEST_OPEN="+m.open), &r.out, &r.stderr
	require.NoError(m.t, r.cmd.Start())
	m.t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // fails where it has ended, as it should
	return r
}

// wait waits for the end of a run and returns its exit code.
func (r *run) wait() int {
	_ = r.cmd.Wait() // says no more than the exit code
	return r.cmd.ProcessState.ExitCode()
}

// run runs a tour that is to succeed, and returns what it printed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	r := m.start(args...)
	require.Zero(m.t, r.wait(), r.stderr.String())
	require.Empty(m.t, r.stderr.String())
	return r.out.String()
}

// fail runs a tour that is to fail, and returns its one line of error.
func (m *machine) fail(args ...string) (line, out string) {
	m.t.Helper()
	r := m.start(args...)
	require.Equal(m.t, 1, r.wait())
	line = r.stderr.String()
	require.Equal(m.t, 1, strings.Count(line, "\n"), "one line: %q", line)
	require.True(m.t, strings.HasPrefix(line, "tour: ") && strings.HasSuffix(line, "\n"), "%q", line)
	return line, r.out.String()
}

// row returns the rows of an object in the block of a package.
func row(t *testing.T, out, block, object string) string {
	t.Helper()
	_, rest, found := strings.Cut(out, "\n"+block+" ")
	require.True(t, found, "a block %q in\n%s", block, out)
	rest, _, _ = strings.Cut(rest, "\n\n")
	for line := range strings.Lines(rest) {
		if fields := strings.Fields(line); fields[0] == object {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("no %s in the block %q of\n%s", object, block, out)
	return ""
}

func TestInThisProcess(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	out := m.run()
	assert.Contains(t, out, "locmem://")
	assert.Contains(t, out, "no CACHES_DSN is set")
	assert.Contains(t, row(t, out, "the index", "SentinelCache"), "this tour went in")
	for _, path := range []string{"net/http", "encoding/json", "sync"} {
		for _, object := range objects {
			assert.Regexp(t, `[µm]?s$`, row(t, out, path, object))
		}
	}
	assert.Contains(t, row(t, out, "net/http", "DictCache"), "provides HTTP client and server")
	assert.Contains(t, row(t, out, "net/http", "SetCache"), "imports: bufio, bytes, ")
	assert.Equal(t, 1, m.asked("list"))
	assert.Equal(t, 3, m.asked("doc"))
	for line := range strings.Lines(out) {
		assert.LessOrEqual(t, utf8.RuneCountInString(line), 81, "80 columns and a newline: %q", line)
	}
	assert.NotContains(t, out, "\x1b", "colours in a pipe")
}

func TestAnArgumentNamesThePackage(t *testing.T) {
	t.Parallel()
	out := newMachine(t, "").run("unsafe", "strings")
	assert.Contains(t, row(t, out, "unsafe", "SetCache"), "0 imports")
	assert.Contains(t, row(t, out, "strings", "Cache"), "files")
	assert.NotContains(t, out, "net/http ")
}

func TestAnUnknownPackageIsNamedAndTheOthersShown(t *testing.T) {
	t.Parallel()
	line, out := newMachine(t, "").fail("nosuch/package", "sync")
	assert.Contains(t, line, "nosuch/package")
	assert.Contains(t, row(t, out, "sync", "CounterCache"), "asked 1 time today")
}

// The second run finds out nothing by itself, whatever the first one left, and
// all of that has an end.
func TestSecondRunIsServed(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	m := newMachine(t, server.DSN())
	first := m.run("net/http", "sync")
	assert.Contains(t, first, "store: "+server.Addr())
	assert.Contains(t, row(t, first, "the index", "SentinelCache"), "this tour went in")
	assert.Equal(t, 1, m.asked("list"))
	assert.Equal(t, 2, m.asked("doc"))

	second := m.run("net/http", "sync")
	assert.Contains(t, row(t, second, "the index", "SentinelCache"), "shut: a tour indexed")
	assert.Contains(t, row(t, second, "sync", "Cached"), "ago)")
	assert.Contains(t, row(t, second, "sync", "CounterCache"), "asked 2 times today")
	assert.Equal(t, 1, m.asked("list"), "go list on the second run")
	assert.Equal(t, 2, m.asked("doc"), "go doc on the second run")
	for _, object := range objects[:4] { // the others tell of the run, too
		assert.Equal(t, answer(row(t, first, "sync", object)), answer(row(t, second, "sync", object)))
	}
	requireExpiries(t, server)

	fresh := m.run("-fresh", "sync")
	assert.Contains(t, row(t, fresh, "the index", "SentinelCache"), "this tour went in")
	assert.Contains(t, row(t, fresh, "sync", "CounterCache"), "asked 1 time today")
	assert.Equal(t, 2, m.asked("list"))
}

// answer returns a row without its times.
func answer(row string) string { return string([]rune(row)[:14+2+44]) }

func requireExpiries(t *testing.T, server *testutil.RedisServer) {
	t.Helper()
	keys, err := server.Do("KEYS", "*")
	require.NoError(t, err)
	require.Greater(t, len(keys.([]any)), 500)
	for _, key := range keys.([]any) {
		ms, err := server.Do("PTTL", key)
		require.NoError(t, err)
		require.Positive(t, ms, "%s lives for ever", key)
	}
}

func TestOfTwoTogetherOneIndexes(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testutil.Redis(t, nil).DSN())
	m.open = filepath.Join(m.dir, "open")
	one := m.start("sync")
	m.until("the first tour is inside", func() bool { return m.asked("list") == 1 })
	two := m.start("sync")
	m.until("the second one waits", func() bool { return strings.Contains(two.out.String(), "waiting") })
	require.NoError(t, os.WriteFile(m.open, nil, 0o600))
	require.Zero(t, one.wait(), one.stderr.String())
	require.Zero(t, two.wait(), two.stderr.String())
	assert.Contains(t, one.out.String(), "this tour went in")
	assert.Contains(t, two.out.String(), "shut: a tour indexed")
	assert.Equal(t, 1, m.asked("list"))
}

// A tour that is interrupted inside the gate leaves it open for the one that
// waits, without a lease to sit out.
func TestAnInterruptedTourOpensTheGate(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testutil.Redis(t, nil).DSN())
	m.open = filepath.Join(m.dir, "open")
	one := m.start("sync")
	m.until("the first tour is inside", func() bool { return m.asked("list") == 1 })
	two := m.start("sync")
	m.until("the second one waits", func() bool { return strings.Contains(two.out.String(), "waiting") })
	require.NoError(t, one.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 1, one.wait())
	assert.Regexp(t, `^tour: .*go list: .*\n$`, one.stderr.String())
	m.until("the second one is inside", func() bool { return m.asked("list") == 2 })
	require.NoError(t, os.WriteFile(m.open, nil, 0o600))
	require.Zero(t, two.wait(), two.stderr.String())
	assert.Contains(t, two.out.String(), "this tour went in")
}

// until waits for something that another process does.
func (m *machine) until(what string, true func() bool) {
	m.t.Helper()
	require.Eventually(m.t, true, time.Minute, 5*time.Millisecond, what)
}

const secret = "Kanarienvogel"

func TestFailuresAreOneLineWithoutSecrets(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, &testutil.RedisOptions{Password: "right"})
	nobody := closedPort(t)
	for name, c := range map[string]struct{ dsn, says string }{
		"scheme":         {"http://user:" + secret + "@localhost", "unknown scheme"},
		"port":           {"redis://user:" + secret + "@localhost:port/0", "port"},
		"not a URL":      {"redis://user:" + secret + "%zz@localhost", "CACHES_DSN"},
		"option":         {"redis://localhost/0?password=" + secret, "option"},
		"no server":      {"redis://user:" + secret + "@" + nobody + "/0", nobody},
		"two servers":    {"redis://user:" + secret + "@" + nobody + ",localhost:1/0", nobody},
		"no socket":      {"redis+unix://user:" + secret + "@/nonexistent/redis.sock", "/nonexistent/redis.sock"},
		"wrong password": {"redis://:" + secret + "@" + server.Addr() + "/0", "WRONGPASS"},
		"no password":    {"redis://" + server.Addr() + "/0", "NOAUTH"},
		"dummy":          {"dummy://", "Sentinel.Do"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line, out := newMachine(t, c.dsn).fail()
			assert.Contains(t, line, c.says)
			assert.NotContains(t, line+out, secret)
		})
	}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestAnUnnamedConnectionIsAskedFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.env = append(m.env, "CACHES_DSN_OTHER=locmem://")
	line, _ := m.fail()
	assert.Contains(t, line, "set CACHES_DSN")
}

func TestWithoutGo(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.env = append(m.env, "PATH="+t.TempDir())
	line, _ := m.fail()
	assert.Contains(t, line, "go list")
	assert.Contains(t, line, "executable file not found")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	for _, flag := range []string{"-h", "--help"} {
		out := m.run(flag)
		assert.True(t, strings.HasPrefix(out, "usage: go run ./examples/tour"), out)
		assert.Contains(t, out, "CACHES_DSN")
		assert.Contains(t, out, "-fresh")
	}
	line, _ := m.fail("-nosuch")
	assert.Contains(t, line, "-h explains")
	assert.Zero(t, m.asked("list"))
}
