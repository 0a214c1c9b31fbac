package cluster_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// A replica that joins while all goes well gets reads: the servers are asked
// again after some time, without a call that fails.
func TestReplicaThatJoins(t *testing.T) {
	f := replicated(t, "online")
	joined := f.shards
	f.shards = func(f *fake, _ int) string {
		return array(shardReply([]string{":0\r\n", ":16383\r\n"}, f.nodes[0].addr, "master", "online"))
	}
	s := f.open(cluster.Config{ReadReplicas: true})
	s.SetCalm(50 * time.Millisecond)
	for range 10 {
		_, err := run(s, driver.ReadOnly, "GET", "r")
		require.NoError(t, err)
	}
	assert.Equal(t, 10, f.nodes[0].count("GET r"))
	f.mu.Lock()
	f.shards = joined
	f.mu.Unlock()
	before := f.refreshes()
	eventually(t, func() bool { return f.refreshes() > before }, "no call is needed for the question")
	eventually(t, func() bool {
		_, err := run(s, driver.ReadOnly, "GET", "r")
		require.NoError(t, err)
		return f.nodes[1].count("GET r") > 0 && f.nodes[2].count("GET r") > 0
	}, "the replicas answer")
}

// The servers are asked again when a connection is lost, and when it is made
// again, without a call that fails. The states still reach the user's function.
func TestRefreshOnLostConnection(t *testing.T) {
	t.Parallel()
	f := fakes(t, 2, echo)
	var mu sync.Mutex
	var states []driver.State
	s := f.open(cluster.Config{Node: redigo.Config{OnState: func(state driver.State, _ error) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, state)
	}}})
	b := on(s, 1, 2, 0)
	must(t, s, "GET", b)
	require.Equal(t, 1, f.refreshes(), "the first connections say nothing")
	f.nodes[1].mu.Lock()
	_ = f.nodes[1].conns[0].Close()
	f.nodes[1].mu.Unlock()
	eventually(t, func() bool { return f.refreshes() == 2 }, "lost")
	must(t, s, "GET", b)
	eventually(t, func() bool { return f.refreshes() == 3 }, "made again")
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []driver.State{driver.Connected, driver.Connected, driver.Disconnected, driver.Connected}, states)
}
