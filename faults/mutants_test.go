//go:build unix

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Tests that pass say something only if they fail where they should. A mutant is
// the transport with one defect in it, of the kinds that such transports have
// had; the tests of the transport, or the short forms of those here, must fail
// on each.

// A mutant is one replacement of text in a file of driver/redigo. Nothing is
// written there: the compiler is given another file in its place.
type mutant struct {
	name     string
	file     string
	old, new string
	// The tests that are tried first, those that are for this: of the transport,
	// or of these here.
	first, ours string
}

var mutants = []mutant{
	{
		name: "a reply is delivered twice", file: "intake.go",
		old:   "\t\tin.start = next.at\n",
		new:   "\t\tif e.gen%64 != 0 {\n\t\t\tin.start = next.at\n\t\t}\n",
		first: "TestMuxOrder",
	},
	{
		name: "two replies are swapped", file: "intake.go",
		old: "\t\tm.taken, m.queue = m.queue, m.taken[:0]\n",
		new: "\t\tm.taken, m.queue = m.queue, m.taken[:0]\n" +
			"\t\tif len(m.taken) > 1 {\n\t\t\tm.taken[0], m.taken[1] = m.taken[1], m.taken[0]\n\t\t}\n",
		first: "TestMuxOrder",
	},
	{
		name: "an answer is dropped", file: "intake.go",
		old:   "\t\te.answer()\n",
		new:   "\t\tif e.gen%64 != 0 {\n\t\t\te.answer()\n\t\t}\n",
		first: "TestMuxOrder",
	},
	{
		name: "commands are written in another order than that of the slots", file: "mux.go",
		old: "\tm.queue = append(m.queue, *e)\n",
		new: "\tm.queue = append(m.queue, *e)\n" +
			"\tif n := len(m.queue); m.unsent > 0 {\n\t\tm.queue[n-1], m.queue[n-2] = m.queue[n-2], m.queue[n-1]\n\t}\n",
		first: "TestMuxOrder",
	},
	{
		name: "the place of a caller that went away is given up", file: "intake.go",
		old: "\t\tm.taken, m.queue = m.queue, m.taken[:0]\n",
		new: "\t\tm.taken, m.queue = m.queue, m.taken[:0]\n" +
			"\t\tkept := m.taken[:0]\n\t\tfor _, e := range m.taken {\n\t\t\tif e.waits() {\n\t\t\t\tkept = append(kept, e)\n\t\t\t}\n\t\t}\n\t\tm.taken = kept\n",
		first: "TestMuxCancelStorm|TestCancelInFlight",
	},
	{
		name: "the slot of a caller that went away is used again", file: "mux.go",
		old:   "\t\t\tm.s.stats.abandoned.Add(1)\n\t\t\tc.ticket.slot = nil\n",
		new:   "\t\t\tm.s.stats.abandoned.Add(1)\n",
		first: "TestMuxCancelStorm|TestMuxSizes",
	},
	{
		name: "the generation of a slot is ignored", file: "slot.go",
		old:   "\treturn t.slot.state.CompareAndSwap(t.gen<<2|waiting, t.gen<<2|how)\n",
		new:   "\told := t.slot.state.Load()\n\treturn old&3 == waiting && t.slot.state.CompareAndSwap(old, old|how)\n",
		first: "TestSlot",
	},
	{
		name: "the reader is not woken", file: "lone.go",
		old:   "\tcase m.flight() > 0:\n\t\tm.wake <- struct{}{}",
		new:   "\tcase m.flight() > 0:\n\t\t",
		first: "TestMuxOrder|TestMuxLoneCancel",
	},
	{
		name: "the end of a call's time is not seen", file: "watchdog.go",
		old:   "\texpired := w.expire(now)\n\tw.interrupt(now)\n",
		new:   "\texpired := false\n",
		first: "TestMuxLoneCancel|TestMuxServerStops|TestMuxWriteStuck",
	},
	{
		name: "a write that was interrupted is not resumed", file: "flush.go",
		old:  "\tgo m.relieve(rest)\n",
		new:  "\tgo m.relieve(nil)\n",
		ours: "TestStuckWrite",
	},
	{
		name: "calls that were sent are told that they were not", file: "mux.go",
		old:   "\t\tif i < sent {\n",
		new:   "\t\tif i < min(sent, 0) {\n",
		first: "TestMuxAtMostOnce|TestLostReply",
	},
	{
		name: "calls that were not sent are told that they may have been", file: "mux.go",
		old:   "\t\tif i < sent {\n",
		new:   "\t\tif i < max(sent, len(all)) {\n",
		first: "TestUnsentIsKnown",
	},
}

// A suite is one of the two packages whose tests are run.
type suite struct {
	dir  string
	skip string
}

var (
	transport = suite{dir: filepath.Join("..", "driver", "redigo")}
	ourselves = suite{dir: ".", skip: "TestMutants"}
)

// How long the tests that are tried first, and a whole suite, may take: three
// times and more of what they do without a mutant, on a machine with other work.
// What hangs is caught.
const (
	firstTime = 20 * time.Second
	suiteTime = 3 * time.Minute
)

// overlay writes the mutated file and what tells the compiler of it.
func (m *mutant) overlay(t *testing.T) (file string) {
	t.Helper()
	original, err := filepath.Abs(filepath.Join(transport.dir, m.file))
	require.NoError(t, err)
	text, err := os.ReadFile(original)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), m.old),
		"the mutant %q is out of date: %s does not have its text exactly once:\n%s", m.name, m.file, m.old)
	dir := t.TempDir()
	mutated := filepath.Join(dir, m.file)
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutated}})
	require.NoError(t, err)
	file = filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	return file
}

// build compiles the tests of a suite. A mutant that does not compile is none.
func (s suite) build(t *testing.T, overlay string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "suite.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay="+overlay, "-o", program, ".")
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// run runs the tests of a suite that match, and reports whether they pass. What
// it started ends with it: the servers of tests that hang, too.
func (s suite) run(t *testing.T, program, match string, limit time.Duration) (passes bool, failed string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.run="+match, "-test.skip="+s.skip, "-test.failfast", "-test.timeout=1h")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CACHES_FAULTS=", "CACHES_FAULTS_OUT=", "CACHES_TEST_REDIS=require")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // there may be nobody left
	}
	if ctx.Err() != nil {
		return false, fmt.Sprintf("%s, which hangs for %v", match, limit)
	}
	if err == nil {
		require.NotContains(t, string(out), "no tests to run", match)
	}
	return err == nil, firstFailure(string(out))
}

var failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+)|^(panic: .*|fatal error: .*)$`)

// firstFailure returns the test that failed, or what ended the process.
func firstFailure(out string) string {
	for _, found := range failure.FindAllStringSubmatch(out, -1) {
		return found[1] + found[2]
	}
	return strings.TrimSpace(out[max(len(out)-200, 0):])
}

// firstTests returns the tests that are tried first for a mutant.
func (m *mutant) firstTests() (s suite, match string) {
	if m.ours != "" {
		return ourselves, "^(" + m.ours + ")"
	}
	return transport, "^(" + m.first + ")"
}

// catch returns what caught a mutant, "" where nothing did.
func (m *mutant) catch(t *testing.T) string {
	t.Helper()
	overlay := m.overlay(t)
	first, match := m.firstTests()
	if passes, by := first.run(t, first.build(t, overlay), match, firstTime); !passes {
		return by
	}
	for _, s := range []suite{transport, ourselves} {
		if passes, by := s.run(t, s.build(t, overlay), ".", suiteTime); !passes {
			return by
		}
	}
	return ""
}

// control runs the tests that the mutants are tried by on the transport as it
// is; in the full run, all tests. A test that fails there catches nothing.
func control(t *testing.T, tried []mutant) {
	t.Helper()
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(overlay, []byte(`{"Replace":{}}`), 0o600))
	programs, done := make(map[suite]string), make(map[string]bool)
	run := func(s suite, match string, limit time.Duration) {
		if done[s.dir+match] {
			return
		}
		done[s.dir+match] = true
		if programs[s] == "" {
			programs[s] = s.build(t, overlay)
		}
		passes, failed := s.run(t, programs[s], match, limit)
		require.True(t, passes, "without a mutant: %s", failed)
	}
	for i := range tried {
		s, match := tried[i].firstTests()
		run(s, match, firstTime)
	}
	if full {
		run(transport, ".", suiteTime)
		run(ourselves, ".", suiteTime)
	}
}

// TestMutants lets the suites loose on every mutant; in short, on two.
func TestMutants(t *testing.T) {
	tried := mutants[:count(2, len(mutants))]
	for i := range mutants {
		mutants[i].overlay(t) // all of them must be up to date
	}
	control(t, tried)
	caught := 0
	for i := range tried {
		m := &tried[i]
		t.Run(m.name, func(t *testing.T) {
			by := m.catch(t)
			if assert.NotEmpty(t, by, "nothing catches: %s", m.name) {
				t.Log("caught by ", by)
				caught++
			}
		})
	}
	require.Equal(t, len(tried), caught)
	report(t, fmt.Sprintf("%d seeded defects of the transport", len(tried)), "%d caught by the tests of the transport and these", caught)
}
