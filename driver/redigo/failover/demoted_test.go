package failover_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var countUp = driver.NewScript(`redis.call('GET', KEYS[1]); return redis.call('INCR', KEYS[1])`, nil)

// TestDemoted makes the master a replica without telling the Sentinels. Writes
// that it refuses run once on the new master, in every mode.
func TestDemoted(t *testing.T) {
	for _, c := range []struct {
		name  string
		mode  driver.Mode
		build func(p *driver.Pipeline)
		want  string
	}{
		{"command", 0, func(p *driver.Pipeline) { add(p, "INCR", "n") }, ":1\r\n"},
		{"pipeline", 0, func(p *driver.Pipeline) { add(p, "INCR", "n"); add(p, "INCR", "n") }, ":1\r\n:2\r\n"},
		{"in part", 0, func(p *driver.Pipeline) {
			add(p, "GET", "k")
			add(p, "INCR", "n")
			add(p, "GET", "k")
			add(p, "INCR", "n")
		},
			bulk("v") + ":1\r\n" + bulk("v") + ":2\r\n"},
		{"scripts in part", 0, func(p *driver.Pipeline) { add(p, "GET", "k"); p.Script(countUp, 1).Key("n") }, bulk("v") + ":1\r\n"},
		{"transaction", driver.Atomic, func(p *driver.Pipeline) { add(p, "INCR", "n"); add(p, "INCR", "n") }, ":1\r\n:2\r\n"},
		{"transaction that reads", driver.Atomic, func(p *driver.Pipeline) { add(p, "GET", "k"); add(p, "INCR", "n") }, bulk("v") + ":1\r\n"},
		{"script", 0, func(p *driver.Pipeline) { p.Script(countUp, 1).Key("n") }, ":1\r\n"},
		{"script in a transaction", driver.Atomic, func(p *driver.Pipeline) { add(p, "GET", "k"); p.Script(countUp, 1).Key("n") }, bulk("v") + ":1\r\n"},
		{"own", driver.Own, func(p *driver.Pipeline) { add(p, "INCR", "n"); add(p, "GET", "k") }, ":1\r\n" + bulk("v")},
	} {
		for _, start := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := driver.NewPipeline(c.mode)
				defer p.Free()
				c.build(p)
				err := doDemoted(t, p, start)
				for tries := 0; tries < 5 && closedMeanwhile(err); tries++ {
					err = doDemoted(t, p, start)
				}
				require.NoError(t, err)
				assert.Equal(t, c.want, string(p.Replies().Raw()))
			})
		}
	}
}

// doDemoted runs p on a new set whose master was demoted.
func doDemoted(t *testing.T, p *driver.Pipeline, start bool) error {
	t.Helper()
	s := demote(t, p.Mode())
	if start {
		return s.Start(t.Context(), p).Finish()
	}
	return s.Do(t.Context(), p)
}

// closedMeanwhile reports whether the store learned of the new master, by its
// poll, while the call was in progress: then the call never had its refusal.
func closedMeanwhile(err error) bool {
	return errors.Is(err, driver.ErrUnknownOutcome) && strings.Contains(err.Error(), "moved from")
}

// demote returns a store connected to the previous master.
func demote(t *testing.T, mode driver.Mode) *failover.Store {
	t.Helper()
	o := &testutil.RedisOptions{Config: []string{"repl-diskless-sync-delay 0"}}
	a, b := testutil.Redis(t, o), testutil.Redis(t, o)
	one := sentinel(t, says{master: a.Addr(), epoch: 1})
	s := open(t, failover.Config{Sentinels: []string{one.addr}})
	_, err := run(s, mode, "SET", "k", "v")
	require.NoError(t, err)
	_, err = b.Do("SET", "k", "v")
	require.NoError(t, err)
	host, port, _ := net.SplitHostPort(b.Addr())
	_, err = a.Do("REPLICAOF", host, port)
	require.NoError(t, err)
	// Until it is in sync, a replica answers with its old data, or not at all.
	require.Eventually(t, func() bool {
		size, err := b.Do("WAIT", 1, 100)
		return err == nil && size == int64(1)
	}, patience, time.Millisecond)
	one.say(says{master: b.Addr(), epoch: 2}.answer)
	return s
}

// TestDemotedAndNoOther has no new master. The caller gets the replica's
// refusal, or ErrUnavailable, in time.
func TestDemotedAndNoOther(t *testing.T) {
	a := testutil.Redis(t, nil)
	one := sentinel(t, says{master: a.Addr(), epoch: 1})
	c := failover.Config{Sentinels: []string{one.addr}}
	c.Node.Timeout = 200 * time.Millisecond
	s := open(t, c)
	must(t, s, "SET", "k", "v")
	_, err := a.Do("REPLICAOF", "127.0.0.1", "1")
	require.NoError(t, err)
	start := time.Now()
	_, err = run(s, 0, "INCR", "n")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "not a master")
	assert.Less(t, time.Since(start), 10*time.Second)
}
