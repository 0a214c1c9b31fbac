package cluster_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// replicated starts a master with all slots and two replicas.
func replicated(t *testing.T, health string) *fake {
	f := fakes(t, 3, func(n *fakeNode, conn int, cmd []string) string {
		if cmd[0] == "READONLY" {
			return "+OK\r\n"
		}
		return echo(n, conn, cmd)
	})
	f.shards = func(f *fake, _ int) string {
		return array(shardReply([]string{":0\r\n", ":16383\r\n"}, f.nodes[0].addr, "master", "online",
			f.nodes[1].addr, "replica", health, f.nodes[2].addr, "slave", health))
	}
	return f
}

// Replicas answer reads in turn, over connections that have sent READONLY. The
// master answers everything else.
func TestReadReplicas(t *testing.T) {
	f := replicated(t, "online")
	s := f.open(cluster.Config{ReadReplicas: true})
	for range 10 {
		raw, err := run(s, driver.ReadOnly, "GET", "r")
		require.NoError(t, err)
		assert.Equal(t, bulk("r"), raw)
	}
	assert.Equal(t, 5, f.nodes[1].count("GET r"))
	assert.Equal(t, 5, f.nodes[2].count("GET r"))
	assert.Equal(t, []string{"READONLY", "GET r"}, f.nodes[1].commands()[:2])
	for _, mode := range []driver.Mode{0, driver.Repeatable, driver.ReadOnly | driver.Master, driver.ReadOnly | driver.Own} {
		_, err := run(s, mode, "GET", "m")
		require.NoError(t, err)
	}
	assert.Equal(t, slices.Repeat([]string{"GET m"}, 4), f.nodes[0].commands())

	raw, err := runAll(t.Context(), s, driver.ReadOnly, []string{"GET", "r1"}, []string{"MGET", "r2", "r3"})
	require.NoError(t, err)
	assert.Equal(t, bulk("r1"), raw[:len(bulk("r1"))])
	assert.Equal(t, slices.Repeat([]string{"GET m"}, 4), f.nodes[0].commands(), "divided commands too")
}

// If a replica fails in any way, the master answers.
func TestMasterAnswersWhereReplicasDoNot(t *testing.T) {
	for name, answer := range map[string]reply{
		"loading":   redirecting("-LOADING Redis is loading the dataset in memory\r\n", "r"),
		"no master": redirecting("-MASTERDOWN Link with MASTER is down\r\n", "r"),
		"closing":   lose("GET"),
		"no longer": redirecting("-MOVED %d %s\r\n", "r"),
		"no READONLY": func(n *fakeNode, conn int, cmd []string) string {
			if cmd[0] == "READONLY" {
				return "-ERR This instance has cluster support disabled\r\n"
			}
			return echo(n, conn, cmd)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := replicated(t, "online")
			s := f.open(cluster.Config{ReadReplicas: true})
			if name == "no longer" {
				answer = redirecting(fmt.Sprintf("-MOVED %d %s\r\n", s.Slot("", "r"), f.nodes[0].addr), "r")
			}
			f.nodes[1].set(answer)
			f.nodes[2].set(answer)
			raw, err := run(s, driver.ReadOnly, "GET", "r")
			require.NoError(t, err)
			assert.Equal(t, bulk("r"), raw)
			assert.Equal(t, 1, f.nodes[0].count("GET r"))
			raw, err = runAll(t.Context(), s, driver.ReadOnly, []string{"GET", "r"}, []string{"GET", "s"})
			require.NoError(t, err)
			assert.Equal(t, bulk("r")+bulk("s"), raw)
		})
	}
	f := replicated(t, "online")
	s := f.open(cluster.Config{ReadReplicas: true})
	must(t, s, "GET", "r")
	f.nodes[1].kill()
	f.nodes[2].kill()
	_, err := run(s, driver.ReadOnly, "GET", "r")
	assert.NoError(t, err)

	f = replicated(t, "loading")
	s = f.open(cluster.Config{ReadReplicas: true})
	_, err = run(s, driver.ReadOnly, "GET", "r")
	assert.NoError(t, err)
	assert.Empty(t, slices.Concat(f.nodes[1].commands(), f.nodes[2].commands()), "an unhealthy replica is not asked")
}
