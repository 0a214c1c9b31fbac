package faults

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stormOwn is how many connections calls may have for themselves in a storm.
const stormOwn = 8

// TestCancelStorm ends calls early at all points of their way, among calls that
// must not notice.
func TestCancelStorm(t *testing.T) {
	s := newStorm(t, count(32, 128), 100)
	n := count(15_000, 1_000_000)
	s.blow(n)
	s.calm()
	assert.NotZero(t, s.store.Stats().Abandoned, "calls ended while they waited for a reply on the shared connection")
	if full {
		assert.Greater(t, s.shared(), 50.0, "commands in a hundred on the shared connection")
	}
	report(t, fmt.Sprintf("cancel storm: %d calls that ended by their cancellation or deadline, among %d checked ones, %d goroutines", s.ended.Load(), s.whole.Load(), len(s.registers)),
		"0 wrong of %d answers, 0 in flight afterwards, the shared connection unchanged; %.0f %% of the commands on it", s.checked.Load(), s.shared())
}

// largeFound is what the child of TestCancelStormLarge has found out.
type largeFound struct {
	Ended, Whole, Checked int64
	Peak                  uint64 // bytes
	Shared                float64
}

// TestCancelStormLarge is the storm with values of 100 KiB in a process that
// may hold 64 MiB: what was cancelled must not stay in memory.
func TestCancelStormLarge(t *testing.T) {
	var found largeFound
	if !isChild(t) {
		inChild(t, &found, "GOMEMLIMIT=64MiB")
		report(t, fmt.Sprintf("the same with values of 100 KiB and GOMEMLIMIT=64MiB: %d ended early, %d checked", found.Ended, found.Whole),
			"0 wrong of %d answers, 0 in flight afterwards, the shared connection unchanged; %.0f %% of the commands on it; at most %d MiB in memory", found.Checked, found.Shared, found.Peak>>20)
		return
	}
	s := newStorm(t, count(8, 16), 100<<10)
	stop := watchMemory()
	s.blow(count(300, 100_000))
	found.Peak = stop()
	s.calm()
	if full { // the short form may have gone past it all, on a machine with much else to do
		assert.NotZero(t, s.store.Stats().Abandoned)
	}
	// The limit is a soft one, for the runtime; this is what must hold.
	assert.Less(t, found.Peak, uint64(128<<20), "bytes in memory")
	found.Ended, found.Whole, found.Checked, found.Shared = s.ended.Load(), s.whole.Load(), s.checked.Load(), s.shared()
	answer(t, found)
}

// A storm is a load half of whose calls end early.
type storm struct {
	*load
	t      *testing.T
	server *testutil.RedisServer
	before map[string]string // the connections before it

	ended, whole atomic.Int64 // calls that ended early, and those that must not
	took         atomic.Int64 // nanoseconds of a call, lately
	early        sync.WaitGroup
}

func newStorm(t *testing.T, workers, size int) *storm {
	s := &storm{t: t, server: testutil.Redis(t, nil)}
	store := open(t, redigo.Config{Address: s.server.Addr(), ClientName: "storm", OwnConns: stormOwn})
	s.load = newLoad(t, store, workers, size)
	awaitGood(t, store)
	s.before = s.connections()
	require.Len(t, s.before, 1)
	return s
}

// connections returns the store's connections as the server knows them, by
// their numbers, which are never used twice.
func (s *storm) connections() map[string]string {
	list, err := redis.String(s.server.Do("CLIENT", "LIST"))
	require.NoError(s.t, err)
	all := make(map[string]string)
	for line := range strings.Lines(list) {
		if id, rest, _ := strings.Cut(line, " "); strings.Contains(rest, " name=storm ") {
			all[id] = rest
		}
	}
	return all
}

// blow makes n calls that end early, and as many that do not.
func (s *storm) blow(n int) {
	var tickets atomic.Int64
	together(len(s.registers), func(i int) {
		w := s.worker(i)
		for tickets.Add(1) <= int64(n) && !s.t.Failed() {
			for !s.endEarly(w) && !s.t.Failed() {
			}
			s.mustNotNotice(w)
			// A caller that does nothing else keeps the processors from the others,
			// and the store takes the process for one that is short of them.
			time.Sleep(time.Duration(w.random.IntN(2000)) * time.Microsecond)
		}
	})
	s.early.Wait()
}

// mustNotNotice makes a call with all the time that it needs.
func (s *storm) mustNotNotice(w *worker) {
	start := time.Now()
	err := w.step(context.Background())
	s.took.Store((s.took.Load()*15 + int64(time.Since(start))) / 16)
	s.whole.Add(1)
	assert.NoError(s.t, err)
}

// endEarly makes a call whose context ends at some moment. It is false where
// the call was faster: then it is not counted.
func (s *storm) endEarly(w *worker) bool {
	ctx, cancel, e := s.someEnd(w)
	err := w.step(ctx)
	cancel()
	if err == nil {
		assert.False(s.t, e.before, "an answer to a call whose context had ended before")
		return false
	}
	s.ended.Add(1)
	if e.before {
		assert.ErrorIs(s.t, err, driver.ErrUnavailable, "nothing is sent for a context that has ended")
	}
	assert.True(s.t, isOutcome(err), "%v", err)
	assert.ErrorIs(s.t, err, e.cause)
	return true
}

// An ending is how a call's context ends: by what, and whether before the call.
type ending struct {
	cause  error
	before bool
}

// someEnd returns a context that ends in one of five ways, most of them between
// now and the time that two calls take.
func (s *storm) someEnd(w *worker) (context.Context, context.CancelFunc, ending) {
	moment := time.Duration(w.random.Int64N(2*s.took.Load() + 1))
	ctx, cancel := context.WithCancel(context.Background())
	switch k := w.random.IntN(20); {
	case k < 8:
		time.AfterFunc(moment, cancel)
	case k < 12:
		s.early.Go(cancel) // when the scheduler thinks fit
	case k < 13:
		cancel()
		return ctx, cancel, ending{context.Canceled, true}
	case k < 14:
		moment = -moment
		fallthrough
	default:
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), moment)
		return ctx, cancel, ending{context.DeadlineExceeded, moment <= 0}
	}
	return ctx, cancel, ending{context.Canceled, false}
}

// calm is what must be so after the storm.
func (s *storm) calm() {
	t := s.t
	s.allRight(t)
	settled(t, s.store)
	stats := s.store.Stats()
	t.Logf("%d ended early, %d did not, %d answers checked, %.1f %% shared, %+v", s.ended.Load(), s.whole.Load(), s.checked.Load(), s.shared(), stats)
	assert.Zero(t, stats.Desyncs)
	after := s.connections()
	for id := range s.before {
		assert.Contains(t, after, id, "the connection that all share")
	}
	// A process short of processors lets calls have connections for themselves,
	// and those do not survive a cancellation.
	maps.DeleteFunc(after, func(id, _ string) bool { return s.before[id] != "" })
	assert.LessOrEqual(t, len(after), stormOwn)
	if stats.Dials == 1 {
		assert.Empty(t, after)
	}
}

// shared returns how many in a hundred of the commands that could reach the
// server went over the shared connection.
func (s *storm) shared() float64 {
	return 100 * float64(s.store.Stats().Commands) / float64(s.commands.Load())
}
