package redigo_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	redigolib "github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
)

// told records the events of a tracking as lines.
type told struct {
	mu     sync.Mutex
	lines  []string
	lost   []error
	lostAt time.Time // the last time
	synced time.Time // when the last PING with a reply was sent
}

func (o *told) tell(e driver.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e.Kind {
	case driver.Tracking:
		o.lines = append(o.lines, "tracking")
	case driver.Changed:
		o.lines = append(o.lines, "changed "+string(e.Key))
	case driver.Flushed:
		o.lines = append(o.lines, "flushed")
	case driver.Synced:
		o.lines = append(o.lines, "synced")
		o.synced = e.At
	case driver.Lost:
		o.lines = append(o.lines, "lost")
		o.lost = append(o.lost, e.Err)
		o.lostAt = time.Now()
	}
}

// count returns how often a line was told.
func (o *told) count(line string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lines {
		if l == line {
			n++
		}
	}
	return n
}

// await waits until a line was told n times.
func (o *told) await(t testing.TB, line string, n int) {
	t.Helper()
	if !assert.Eventually(t, func() bool { return o.count(line) >= n }, patience, time.Millisecond, line) {
		o.mu.Lock()
		defer o.mu.Unlock()
		t.Fatalf("told until now: %q, %v", o.lines, o.lost)
	}
}

// track tracks until the test ends, and returns once it does.
func track(t testing.TB, s *redigo.Store, prefixes ...string) *told {
	t.Helper()
	o := new(told)
	t.Cleanup(s.Track(prefixes, o.tell))
	o.await(t, "tracking", 1)
	return o
}

// All changes of keys with the prefix are told, whichever client makes them, and
// no changes of other keys.
func TestTrackTellsWhatChanges(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: server.Addr()})
	o := track(t, s, "a.", "b.")
	do := func(cmd string, args ...any) {
		_, err := server.Do(cmd, args...)
		require.NoError(t, err)
	}
	do("SET", "a.set", 1)
	do("SET", "c.other", 1)
	do("MSET", "a.m1", 1, "b.m2", 1)
	do("HSET", "b.hash", "f", 1)
	do("SET", "a.soon", 1, "PX", 5)
	do("DEL", "a.m1")
	must(t, s, "SET", "a.own", "1")
	for _, key := range []string{"a.set", "b.m2", "b.hash", "a.own"} {
		o.await(t, "changed "+key, 1)
	}
	o.await(t, "changed a.m1", 2)
	o.await(t, "changed a.soon", 2) // stored and expired
	do("FLUSHALL")
	o.await(t, "flushed", 1)
	o.await(t, "synced", 2)
	assert.Zero(t, o.count("changed c.other"))
	assert.Zero(t, o.count("lost"))
}

// A lost connection is told, and replaced; so is a lost server.
func TestTrackComesBack(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: server.Addr()})
	o := track(t, s, "a.")
	for n := range 5 {
		killed, err := redigolib.Int(server.Do("CLIENT", "KILL", "TYPE", "pubsub"))
		require.NoError(t, err)
		require.Equal(t, 1, killed)
		o.await(t, "lost", n+1)
		o.await(t, "tracking", n+2)
		_, err = server.Do("SET", fmt.Sprint("a.", n), 1)
		require.NoError(t, err)
		o.await(t, fmt.Sprint("changed a.", n), 1)
	}
	server.Kill()
	o.await(t, "lost", 7) // and once for an attempt that failed
	before := o.count("tracking")
	server.Restart()
	o.await(t, "tracking", before+1)
}

// A PING without a reply reveals a network that drops everything.
func TestTrackFindsASilentNetwork(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	s := open(t, redigo.Config{Address: proxy.Addr()})
	o := track(t, s, "a.")
	o.await(t, "synced", 1)
	lost, tracking := o.count("lost"), o.count("tracking") // a slow start counts as a loss
	proxy.DropReplies(true)
	o.await(t, "lost", lost+1)
	o.mu.Lock()
	assert.GreaterOrEqual(t, o.lostAt.Sub(o.synced), 3*time.Second, "a second until the PING, and two without its reply")
	o.mu.Unlock()
	proxy.Heal()
	o.await(t, "tracking", tracking+1)
}

// Messages arrive in portions of any size, and many at once.
func TestTrackReadsPortions(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, server.Addr())
	proxy.Slice(true)
	s := open(t, redigo.Config{Address: proxy.Addr()})
	o := track(t, s, "a.")
	args := []any{}
	key := func(i int) string { return fmt.Sprintf("a.%d.%s", i, strings.Repeat("x", i)) }
	for i := range 200 {
		args = append(args, key(i), i)
	}
	_, err := server.Do("MSET", args...)
	require.NoError(t, err)
	for i := range 200 {
		o.await(t, "changed "+key(i), 1)
	}
	assert.Zero(t, o.count("lost"))
}

// Tracking works over TLS and as a user with only the rights it needs; its error
// names a missing right.
func TestTrackAsAUserOfFewRights(t *testing.T) {
	t.Parallel()
	const rights = "user app on >secret ~* -@all +client|id +client|tracking +subscribe +ping"
	server := testutil.Redis(t, &testutil.RedisOptions{TLS: true, ACL: []string{rights + " &__redis__:invalidate"}})
	s := open(t, redigo.Config{Address: server.Addr(), TLS: server.TLSConfig(), Username: "app", Password: "secret"})
	o := track(t, s, "a.")
	o.await(t, "synced", 1)

	poor := testutil.Redis(t, &testutil.RedisOptions{ACL: []string{rights + " resetchannels"}})
	s = open(t, redigo.Config{Address: poor.Addr(), Username: "app", Password: "secret"})
	o = new(told)
	t.Cleanup(s.Track([]string{"a."}, o.tell))
	o.await(t, "lost", 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	assert.ErrorContains(t, o.lost[0], "NOPERM")
	assert.NotContains(t, o.lost[0].Error(), "secret")
}

// Tracking ends when it is stopped and with its store; a Store made by FromPool
// has none.
func TestTrackEnds(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	subscribers := func() int {
		n, err := redigolib.Ints(server.Do("EVAL", `return {redis.call('PUBSUB', 'NUMSUB', '__redis__:invalidate')[2]}`, 0))
		require.NoError(t, err)
		return n[0]
	}
	s := open(t, redigo.Config{Address: server.Addr()})
	o := new(told)
	stop := s.Track([]string{"a."}, o.tell)
	o.await(t, "tracking", 1)
	track(t, s, "b.")
	require.Equal(t, 2, subscribers())
	stop()
	require.Eventually(t, func() bool { return subscribers() == 1 }, patience, time.Millisecond)
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool { return subscribers() == 0 }, patience, time.Millisecond)

	foreign := redigo.FromPool(&redigolib.Pool{Dial: func() (redigolib.Conn, error) {
		return redigolib.Dial("tcp", server.Addr())
	}}, redigo.PoolOptions{})
	assert.Nil(t, foreign.Track([]string{"a."}, o.tell))
}

// Malformed replies end the connection, not the process.
func TestTrackMistrustsTheServer(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{
		"no id":          "+OK\r\n",
		"refused":        "-ERR no such command\r\n",
		"nonsense":       "!\r\n",
		"endless array":  "*1000000000000\r\n",
		"another reply":  ":1\r\n:2\r\n:3\r\n",
		"other message":  ":1\r\n+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*1\r\n$5\r\nhello\r\n",
		"message cut":    ":1\r\n+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*1\r\n$7\r\nmessage\r\n",
		"keys are no ar": ":1\r\n+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:7\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(_ int, cmd []string) string {
				if cmd[0] == "CLIENT" && cmd[1] == "ID" {
					return reply
				}
				return silence
			})
			s := open(t, redigo.Config{Address: server.addr})
			o := new(told)
			t.Cleanup(s.Track([]string{"a."}, o.tell))
			o.await(t, "lost", 1)
			assert.Zero(t, o.count("flushed"))
		})
	}
}
