package faults

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestKillAndRestart kills the server under load (SIGKILL) and starts it again.
//
// The server writes each command to its log before it answers, and the log to
// the disk ("appendfsync always"): so it loses nothing that it acknowledged, and
// a value older than that would be our fault.
func TestKillAndRestart(t *testing.T) {
	const timeout = time.Second
	rounds := count(3, 20)
	clean := leaks(t)
	r := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"appendonly yes", "appendfsync always"}})
	s := open(t, redigo.Config{Address: r.Addr(), Timeout: timeout})
	awaitGood(t, s)
	b := besiege(t, s, siegeWorkers, 100, timeout)
	var recoveries []time.Duration
	outage := random(t.Name(), siegeWorkers)
	for range rounds {
		b.await(&b.good, 500, "calls that succeed before the server is killed")
		r.Kill()
		b.await(&b.unavailable, 1+outage.Int64N(50*siegeWorkers), "calls that find no server")
		open := whenOpen(r.Addr())
		r.Restart()
		recoveries = append(recoveries, b.awaitAfter(<-open))
	}
	b.await(&b.good, 500, "calls that succeed after the last restart")
	worst := b.verdict()
	require.NoError(t, s.Close())
	r.Kill() // what waits for its end is this test's own
	clean()
	half, last := percentile(recoveries, 0.5), percentile(recoveries, 1)
	t.Logf("recoveries: %v", recoveries)
	assert.Less(t, last, time.Second, "the slowest recovery")
	if full { // of three, on a machine with much else to do, the half says nothing
		assert.LessOrEqual(t, half, 250*time.Millisecond)
	}
	report(t, fmt.Sprintf("kill −9 and restart under %d goroutines, %d times, %s", siegeWorkers, rounds, b.calls()),
		"0 wrong of %d answers; every call back at most %s; first success %v (median), %v (worst) after the port is back; 0 goroutines and descriptors leaked",
		b.checked.Load(), worst, half.Round(time.Millisecond), last.Round(time.Millisecond))
}

// whenOpen tells when a server that is not there takes connections again.
func whenOpen(addr string) <-chan time.Time {
	open := make(chan time.Time, 1)
	go func() {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if c, err := net.Dial("tcp", addr); err == nil {
				_ = c.Close()
				break
			}
		}
		open <- time.Now()
	}()
	return open
}
