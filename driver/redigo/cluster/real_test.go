package cluster_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// fullOr returns all in a long run for a release (make soak), and few
// otherwise.
func fullOr[N int | time.Duration](all, few N) N {
	if os.Getenv("CACHES_TEST_FULL") == "1" {
		return all
	}
	return few
}

// refreshes returns the number of questions for the slots.
func refreshes(t testing.TB, c *testutil.ClusterServers) (n int) {
	t.Helper()
	for _, addr := range c.Addrs() {
		stats, err := redis.String(c.Node(addr).Do("INFO", "commandstats"))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(stats, "cmdstat_cluster|shards:calls=")
		count, _, _ := strings.Cut(rest, ",")
		calls, _ := strconv.Atoi(count)
		n += calls
	}
	return n
}

// Slots that move under traffic cause no error and no wrong value.
func TestReshardUnderLoad(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 0)
	s := open(t, cluster.Config{Seeds: c.Addrs()[:1]})
	l := startLoad(t, s, fullOr(64, 16))
	before, begun := refreshes(t, c), time.Now()
	masters := c.Masters()
	slots := c.Slots(masters[0])[:fullOr(1000, 300)]
	for range fullOr(3, 1) {
		for _, to := range []string{masters[1], masters[0]} {
			c.MoveSlots(to, slots...)
		}
	}
	took := time.Since(begun)
	asked := refreshes(t, c) - before
	assert.Empty(t, l.end())
	l.settle(false)
	t.Logf("%d refreshes in %v, stats %+v", asked, took, s.Stats())
	assert.LessOrEqual(t, asked, int(took/(100*time.Millisecond))+2)
}

// Masters and replicas that change roles under traffic lose no value.
func TestFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 1)
	s := open(t, cluster.Config{Seeds: c.Addrs()[:1]})
	l := startLoad(t, s, 16)
	for n := range fullOr(20, 3) {
		c.Failover(c.Addrs()[n%3]) // whichever node of the pair is the replica now
	}
	errs := l.end()
	l.settle(false)
	assert.Empty(t, errs)
}

// A killed master causes only errors that say whether the commands have run,
// until its replica has taken over. Calls find the replica soon.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 1)
	s := open(t, cluster.Config{Seeds: c.Addrs()[:1], Node: redigo.Config{Timeout: time.Second}})
	l := startLoad(t, s, 8)
	for n := range fullOr(3, 1) {
		killMaster(t, c, s, n)
	}
	for kind := range l.end() { // each says whether the command has run
		if !strings.Contains(kind, "CLUSTERDOWN") {
			assert.Contains(t, []string{"unavailable", "unknown outcome"}, kind)
		}
	}
	l.settle(true)
}

// killMaster kills a master and, once its replica has taken over, starts it
// again as a replica.
func killMaster(t *testing.T, c *testutil.ClusterServers, s *cluster.Store, n int) {
	victim := c.Masters()[n%3]
	slot := c.Slots(victim)[0]
	key := "{" + tagOf(s, slot) + "}"
	must(t, s, "SET", key, "v")
	c.Node(victim).Kill()

	served := make(chan time.Time, 1)
	go func() {
		for {
			begun := time.Now()
			_, err := run(s, 0, "SET", key, "v")
			switch {
			case err == nil:
				served <- time.Now()
				return
			case time.Since(begun) > 5*time.Second: // five times the deadline: the machine may be busy
				assert.Fail(t, "a call did not end by its deadline")
			}
		}
	}()
	var over time.Time
	eventually(t, func() bool { over = time.Now(); return c.Owner(slot) != "" }, "the replica has taken over")
	at := <-served
	t.Logf("first success %v after the replica was seen to have taken over", at.Sub(over))
	assert.Less(t, at.Sub(over), 5*time.Second)
	c.Node(victim).Restart()
	c.Wait()
	for n := range 100 { // no call fails any more
		_, err := run(s, 0, "SET", key+strconv.Itoa(n), "v")
		assert.NoError(t, err)
	}
}

// tagOf returns a string whose slot is slot.
func tagOf(s *cluster.Store, slot int) string {
	for n := 0; ; n++ {
		if tag := strconv.Itoa(n); s.Slot("", tag) == slot {
			return tag
		}
	}
}
