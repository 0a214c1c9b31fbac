package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// childVariable names, in a child's environment, the test that it is for, and
// answerVariable the file for what it has found out.
const (
	childVariable  = "CACHES_FAULTS_CHILD"
	answerVariable = "CACHES_FAULTS_ANSWER"
)

// isChild reports whether this process was started for this test by inChild.
func isChild(t testing.TB) bool { return os.Getenv(childVariable) == t.Name() }

// inChild runs the test that calls it once more, in a process of its own, and
// reads the child's answer into found. What ends that process, a fatal error
// of the runtime too, fails the test and nothing else.
func inChild(t *testing.T, found any, env ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "answer")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name(), answerVariable+"="+file,
		fmt.Sprintf("CACHES_TEST_SEED=%d", seed), "CACHES_FAULTS_OUT=")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "the child process says:\n%s", out)
	b, err := os.ReadFile(file)
	require.NoError(t, err, "the child process says:\n%s", out)
	require.NoError(t, json.Unmarshal(b, found))
}

// answer is how a child tells what it has found out.
func answer(t *testing.T, found any) {
	t.Helper()
	b, err := json.Marshal(found)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(os.Getenv(answerVariable), b, 0o600))
}

// watchMemory looks every millisecond at how much memory the Go runtime holds,
// as GOMEMLIMIT counts it. stop ends that and returns the most, in bytes.
func watchMemory() (stop func() (peak uint64)) {
	var watching sync.WaitGroup
	done, peak := make(chan struct{}), uint64(0)
	watching.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for {
			peak = max(peak, memory())
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
	})
	return func() uint64 {
		close(done)
		watching.Wait()
		return peak
	}
}

// memory returns the bytes that the Go runtime holds; see the documentation of
// GOMEMLIMIT in package runtime.
func memory() uint64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
