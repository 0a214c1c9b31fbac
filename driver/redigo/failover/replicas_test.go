package failover_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// replica starts a fake replica that answers with its own address.
func replica(t testing.TB, link string) *fake {
	t.Helper()
	var f *fake
	f = serve(t, func(cmd []string) string {
		if cmd[0] == "ROLE" {
			return array(bulk("slave"), bulk("127.0.0.1"), ":1\r\n", bulk(link), ":0\r\n")
		}
		return bulk(f.addr)
	})
	return f
}

func up(r *fake) string { return entry(r.addr, "slave", "master-link-status", "ok") }

// reads opens a store that reads from replicas, and waits until it does.
func reads(t *testing.T, m *fake, timeout time.Duration, replicas ...string) (*failover.Store, *fake) {
	t.Helper()
	one := sentinel(t, says{master: m.addr, epoch: 1, replicas: replicas})
	s := open(t, failover.Config{Sentinels: []string{one.addr}, ReadReplicas: true, Node: redigo.Config{Timeout: timeout}})
	require.Eventually(t, func() bool {
		reply, err := run(s, driver.ReadOnly, "GET", "k")
		return err == nil && reply != bulk(m.addr)
	}, patience, time.Millisecond)
	return s, one
}

// TestReadReplicas reads from the usable replicas in turn, and from no other
// server in the Sentinels' list. Anything but a read of a key goes to the
// master.
func TestReadReplicas(t *testing.T) {
	m, r1, r2 := master(t), replica(t, "connected"), replica(t, "connected")
	others := []*fake{replica(t, "connected"), replica(t, "connected"), replica(t, "connected"), replica(t, "connected"), replica(t, "connected")}
	s, _ := reads(t, m, 0, up(r1), up(r2), up(m),
		entry(others[0].addr, "s_down,slave", "master-link-status", "ok"),
		entry(others[1].addr, "slave,disconnected", "master-link-status", "ok"),
		entry(others[2].addr, "slave", "master-link-status", "err"),
		entry(others[3].addr, "slave", "master-link-status", "ok", "replica-announced", "0"),
		entry(others[4].addr, "slave", "master-link-status", "ok", "role-reported", "master"),
		":1\r\n")
	seen := map[string]int{}
	for range 100 {
		p := driver.NewPipeline(driver.ReadOnly)
		add(p, "GET", "k")
		require.NoError(t, s.Start(t.Context(), p).Finish())
		seen[string(p.Replies().Raw())]++
		p.Free()
	}
	assert.Equal(t, map[string]int{bulk(r1.addr): 50, bulk(r2.addr): 50}, seen)

	for name, mode := range map[string]driver.Mode{"GETEX": driver.Repeatable, "SET": 0, "XREAD": driver.ReadOnly | driver.Own, "HSCAN": driver.ReadOnly, "MGET": driver.ReadOnly | driver.Master} {
		reply, err := run(s, mode, name, "k", "0")
		require.NoError(t, err)
		assert.Equal(t, bulk(m.addr), reply, name)
	}
	for _, name := range []string{"DBSIZE", "SCAN"} {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd(name)
		if name == "SCAN" {
			p.String("0")
		}
		require.NoError(t, s.Do(t.Context(), p))
		assert.Equal(t, bulk(m.addr), string(p.Replies().Raw()), name)
		p.Free()
	}
	assert.Greater(t, s.Stats().Calls, int64(100), "calls at replicas count")
}

// TestReplicaFails checks that the master answers in time if the replica does
// not.
func TestReplicaFails(t *testing.T) {
	for name, fail := range map[string]func(r *fake){
		"error": func(r *fake) {
			r.say(func([]string) string { return "-MASTERDOWN Link with MASTER is down\r\n" })
		},
		"loading":  func(r *fake) { r.say(func([]string) string { return "-LOADING Redis is loading\r\n" }) },
		"hangs up": func(r *fake) { r.say(func([]string) string { return "" }) },
		"silent":   func(r *fake) { r.mute() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, r := master(t), replica(t, "connected")
			s, _ := reads(t, m, 4*time.Second, up(r))
			fail(r)
			reply, err := run(s, driver.ReadOnly, "GET", "k")
			require.NoError(t, err)
			assert.Equal(t, bulk(m.addr), reply)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // an earlier deadline than the store's
			defer cancel()
			reply, err = runCtx(ctx, s, driver.ReadOnly, "GET", "k")
			require.NoError(t, err)
			assert.Equal(t, bulk(m.addr), reply)
		})
	}
}

// TestReplicaWithoutMaster is not read from, whatever the Sentinels report.
func TestReplicaWithoutMaster(t *testing.T) {
	m, apart := master(t), replica(t, "connect")
	one := sentinel(t, says{master: m.addr, epoch: 1, replicas: []string{up(apart)}})
	s := open(t, failover.Config{Sentinels: []string{one.addr}, ReadReplicas: true, Node: redigo.Config{Timeout: 4 * time.Second}})
	must(t, s, "SET", "k", "v")
	for apart.count("role") == 0 && !t.Failed() {
		assert.True(t, isRead(t, s, m))
	}
	assert.True(t, isRead(t, s, m))
	assert.Zero(t, apart.count("get k"))
}

func isRead(t *testing.T, s driver.Store, from *fake) bool {
	reply, err := run(s, driver.ReadOnly, "GET", "k")
	return assert.NoError(t, err) && reply == bulk(from.addr)
}

// TestReplicasChange follows the Sentinels' list.
func TestReplicasChange(t *testing.T) {
	t.Parallel()
	m, r1, r2 := master(t), replica(t, "connected"), replica(t, "connected")
	s, one := reads(t, m, 0, up(r1))
	one.say(says{master: m.addr, epoch: 1, replicas: []string{up(r2)}}.answer)
	require.Eventually(t, func() bool { return isRead(t, s, r2) }, patience, time.Millisecond)
	one.say(says{master: m.addr, epoch: 1}.answer)
	require.Eventually(t, func() bool { return isRead(t, s, m) }, patience, time.Millisecond)
}

// TestReadRealReplica reads from a real replica.
func TestReadRealReplica(t *testing.T) {
	t.Parallel()
	f := testutil.Failover(t, 1, 1)
	s := openSet(t, f, failover.Config{ReadReplicas: true})
	must(t, s, "SET", "k", "v")
	at := f.Node(f.Replicas()[0])
	before := gets(t, at)
	require.Eventually(t, func() bool {
		reply, err := run(s, driver.ReadOnly, "GET", "k")
		return err == nil && reply == bulk("v") && gets(t, at) > before
	}, patience, time.Millisecond)
	at.Kill()
	for range 10 {
		reply, err := run(s, driver.ReadOnly, "GET", "k")
		require.NoError(t, err)
		require.Equal(t, bulk("v"), reply)
	}
}

// gets returns the number of GETs that a server has run.
func gets(t *testing.T, at *testutil.RedisServer) int {
	info, err := redis.String(at.Do("INFO", "commandstats"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(info, "cmdstat_get:calls=")
	number, _, _ := strings.Cut(rest, ",")
	n, _ := strconv.Atoi(number) // zero if there were none
	return n
}
