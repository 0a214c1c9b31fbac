package cluster_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// told records the events of a tracker as text.
type told struct {
	mu     sync.Mutex
	lines  []string
	synced []time.Time
	inside bool
}

func (o *told) tell(e driver.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inside {
		panic("two at a time")
	}
	o.inside = true
	defer func() { o.inside = false }()
	switch e.Kind {
	case driver.Tracking:
		o.lines = append(o.lines, "tracking")
	case driver.Changed:
		o.lines = append(o.lines, "changed "+string(e.Key))
	case driver.Flushed:
		o.lines = append(o.lines, "flushed")
	case driver.Synced:
		o.synced = append(o.synced, e.At)
	case driver.Lost:
		o.lines = append(o.lines, "lost")
	}
}

func (o *told) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines)
}

// count returns how often line was told.
func (o *told) count(line string) (n int) {
	for _, l := range o.all() {
		if l == line {
			n++
		}
	}
	return n
}

// up reports whether tracking is up now.
func (o *told) up() bool {
	states := slices.DeleteFunc(o.all(), func(l string) bool { return l != "tracking" && l != "lost" })
	return len(states) > 0 && states[len(states)-1] == "tracking"
}

// track tracks until the test ends. It returns once tracking is up.
func track(t testing.TB, s *cluster.Store, prefixes ...string) *told {
	t.Helper()
	o := new(told)
	t.Cleanup(s.Track(prefixes, o.tell))
	eventually(t, o.up, "tracking")
	return o
}

// Changes of keys on all servers are told, even while slots move.
func TestTrack(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 1)
	s := open(t, cluster.Config{Seeds: c.Addrs()[:1]})
	o := track(t, s, "a.", "b.")
	other := open(t, cluster.Config{Seeds: c.Addrs()})
	n := 0
	heard := func(when string) {
		t.Helper()
		n++
		for i := range 30 {
			must(t, other, "SET", fmt.Sprintf("a.%d.%d", n, i), "v")
		}
		must(t, other, "SET", "c.other", "v")
		for i := range 30 {
			eventually(t, func() bool { return o.count(fmt.Sprintf("changed a.%d.%d", n, i)) > 0 }, when)
		}
	}
	heard("at first")
	assert.Equal(t, 1, o.count("tracking"))
	assert.Zero(t, o.count("lost"), "several masters look like one")

	before := time.Now()
	eventually(t, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.synced) > 0 && o.synced[len(o.synced)-1].After(before)
	}, "all servers have told all up to a time")

	// Moving a key is told, because it deletes the key on the old server.
	masters := c.Masters()
	moved := "a.{moves}"
	must(t, other, "SET", moved, "v")
	c.MoveSlots(masters[(slices.Index(masters, c.Owner(s.Slot("", moved)))+1)%3], s.Slot("", moved))
	eventually(t, func() bool { return o.count("changed "+moved) >= 2 }, "it was written, and it moved")
	must(t, s, "GET", moved)
	heard("after a move")
	assert.Zero(t, o.count("lost"), "the master is not new")

	// A replica that becomes a master was not tracked before.
	c.Failover(masters[0])
	for i := range 30 {
		must(t, s, "GET", fmt.Sprintf("a.1.%d", i)) // notices the new master
	}
	eventually(t, func() bool { return o.count("lost") > 0 && o.up() }, "another master")
	heard("after a failover")

	_, err := c.Node(masters[1]).Do("FLUSHALL")
	require.NoError(t, err)
	eventually(t, func() bool { return o.count("flushed") > 0 }, "one server is empty")

	lost := o.count("lost")
	killed, err := redis.Int(c.Node(masters[1]).Do("CLIENT", "KILL", "TYPE", "pubsub"))
	require.NoError(t, err)
	assert.Equal(t, 1, killed)
	eventually(t, func() bool { return o.count("lost") > lost && o.up() }, "a lost connection is replaced")
	heard("after a loss")
	assert.Zero(t, o.count("changed c.other"))
}

// Lost is told before any call returns a reply of a master not tracked yet.
func TestTrackIsLostBeforeTheAnswer(t *testing.T) {
	for _, code := range []string{"MOVED", "ASK"} {
		t.Run(code, func(t *testing.T) {
			f := fakes(t, 2, echo)
			for _, n := range f.nodes {
				n.set(tracked)
			}
			f.shards = func(f *fake, _ int) string {
				return array(shardReply([]string{":0\r\n", ":16383\r\n"}, f.nodes[0].addr, "master", "online"),
					shardReply(nil, f.nodes[1].addr, "master", "online"))
			}
			s := f.open(cluster.Config{})
			o := track(t, s, "a.")
			assert.Empty(t, f.nodes[1].commands(), "a master without slots has no keys")
			f.nodes[0].set(func(n *fakeNode, conn int, cmd []string) string {
				if cmd[0] == "GET" {
					return fmt.Sprintf("-%s %d %s\r\n", code, s.Slot("", cmd[1]), f.nodes[1].addr)
				}
				return tracked(n, conn, cmd)
			})
			assert.Equal(t, bulk("a.1"), must(t, s, "GET", "a.1"))
			assert.Equal(t, []string{"tracking", "lost"}, o.all()[:2])
			eventually(t, o.up, "both are tracked")
			eventually(t, func() bool { return slices.ContainsFunc(f.nodes[1].commands(), isTracking) }, "by the second too")
		})
	}
}

func isTracking(line string) bool { return strings.HasPrefix(line, "CLIENT TRACKING ON") }

// tracked answers a connection that tracks.
func tracked(n *fakeNode, conn int, cmd []string) string {
	switch strings.Join(cmd[:min(2, len(cmd))], " ") {
	case "CLIENT ID":
		return ":7\r\n"
	case "CLIENT TRACKING":
		return "+OK\r\n"
	case "SUBSCRIBE __redis__:invalidate":
		return array(bulk("subscribe"), bulk(cmd[1]), ":1\r\n")
	}
	return echo(n, conn, cmd)
}

// A tracker started before any server is reachable tells Lost, and then
// Tracking once one is.
func TestTrackBeforeAnybodyIsThere(t *testing.T) {
	f := fakes(t, 1, func(*fakeNode, int, []string) string { return hangUp })
	s := f.open(cluster.Config{})
	o := new(told)
	stop := s.Track([]string{"a."}, o.tell)
	eventually(t, func() bool { return o.count("lost") > 1 }, "no server twice")
	f.nodes[0].set(tracked)
	eventually(t, o.up, "tracking")
	stop()
	stop()
}
