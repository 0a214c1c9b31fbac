package near_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gocaches/caches/internal/near"
)

// A reporter is a store that reports as the test says.
type reporter struct {
	driver.Store
	refuses bool // cannot track

	mu      sync.Mutex
	watches []*watch
}

// A watch is one call of Track.
type watch struct {
	topics  []string
	tell    func(driver.Event)
	stopped bool
}

func (r *reporter) Track(topics []string, tell func(driver.Event)) func() {
	if r.refuses {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &watch{topics: topics, tell: tell}
	r.watches = append(r.watches, w)
	return func() { w.stopped = true }
}

func (w *watch) tracking()          { w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()}) }
func (w *watch) synced()            { w.tell(driver.Event{Kind: driver.Synced, At: time.Now()}) }
func (w *watch) lost(err error)     { w.tell(driver.Event{Kind: driver.Lost, Err: err}) }
func (w *watch) flushed()           { w.tell(driver.Event{Kind: driver.Flushed}) }
func (w *watch) changed(key string) { w.tell(driver.Event{Kind: driver.Changed, Key: []byte(key)}) }

// A world is a Cache over reporters, in a bubble of synctest.
type world struct {
	*testing.T
	cache  *near.Cache
	stores []*reporter
	states []string
}

// bubble runs f over a number of shards.
func bubble(t *testing.T, shards int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		config := near.Config{State: func(shard int, state driver.State, err error) {
			w.states = append(w.states, fmt.Sprint(shard, " ", state, " ", err))
		}}
		for range shards {
			r := &reporter{}
			w.stores, config.Stores = append(w.stores, r), append(config.Stores, r)
		}
		w.cache = near.New(config)
		f(w)
	})
}

// space adds the space of a prefix, under the front "v1.".
func (w *world) space(prefix string) *near.Space {
	return w.cache.Add(near.Type{Prefix: prefix}, "v1.", func() {})
}

// told is space, of which the first shard reports.
func (w *world) told(prefix string) (*near.Space, *watch) {
	s := w.space(prefix)
	watches := w.stores[0].watches
	last := watches[len(watches)-1]
	last.tracking()
	return s, last
}

// keep keeps a value, of a key of the first shard, for an hour.
func keep(s *near.Space, key string, v int) {
	f := s.Fill(0, key)
	put(&f, time.Hour, v)
}

// put keeps v if the Fill keeps anything.
func put(f *near.Fill, left time.Duration, v int) {
	if f.Keeps() {
		near.Keep(f, left, v)
	}
}

// has checks that a value is kept, or none.
func (w *world) has(s *near.Space, key string, want bool, what string) {
	w.Helper()
	_, ok := near.Get[int](s, key)
	require.Equal(w, want, ok, what)
}

// depend makes f depend on stamps of the first shard, each "topic.name".
func depend(f *near.Fill, stamps ...string) {
	f.DependOn(len(stamps), func(i int) (topic, key string, shard int) {
		topic, _, _ = strings.Cut(stamps[i], ".")
		return topic + ".", stamps[i], 0
	})
}

// Values are kept by type, under the key of their space.
func TestKeeps(t *testing.T) {
	bubble(t, 1, func(w *world) {
		hits := 0
		kind := near.Type{Prefix: "p"}
		s, room := w.cache.Space(kind)
		require.Nil(w, s)
		require.True(w, room)
		s = w.cache.Add(kind, "v1.", func() { hits++ })
		require.Same(w, s, w.cache.Add(kind, "v1.", nil))
		found, _ := w.cache.Space(kind)
		require.Same(w, s, found)
		require.Equal(w, "v1.", s.Front())
		require.Equal(w, []string{"v1.p"}, w.stores[0].watches[0].topics)
		w.stores[0].watches[0].tracking()

		keep(s, "p.1", 7)
		v, ok := near.Get[int](s, "p.1")
		require.True(w, ok)
		require.Equal(w, 7, v)
		_, ok = near.Get[string](s, "p.1")
		require.False(w, ok, "of another type")
		_, ok = near.Get[int](s, "p.2")
		require.False(w, ok)
		s.Hit()
		require.Equal(w, 1, hits)
		w.has(w.space("other"), "p.1", false, "of another space")
	})
}

// Invariant 1: what is served ends with its time, its epoch and the lease.
func TestGround(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s, first := w.told("p")
		keep(s, "p.1", 1)
		time.Sleep(3*time.Second - 1)
		w.has(s, "p.1", true, "within the lease")
		time.Sleep(time.Nanosecond)
		w.has(s, "p.1", false, "the lease is over")
		first.synced()
		w.has(s, "p.1", true, "everything has been reported by now")

		f := s.Fill(0, "p.2")
		put(&f, time.Second, 2)
		time.Sleep(time.Second - 1)
		w.has(s, "p.2", true, "in time")
		time.Sleep(time.Nanosecond)
		w.has(s, "p.2", false, "its time is up")

		first.flushed()
		w.has(s, "p.1", false, "of a former epoch")
		keep(s, "p.1", 1)
		w.has(s, "p.1", true, "of the new epoch")
		first.lost(nil)
		w.has(s, "p.1", false, "nothing is reported")
		first.tracking()
		w.has(s, "p.1", false, "something was not reported")
		keep(s, "p.1", 1)
		w.cache.Flush()
		w.has(s, "p.1", false, "this process has changed all keys")
	})
}

// Invariant 1: a value ends with the shard of any of its stamps.
func TestGroundOfStamps(t *testing.T) {
	bubble(t, 2, func(w *world) {
		s, _ := w.told("p")
		w.stores[1].watches[0].tracking()
		far := func() {
			f := s.Fill(0, "p.1")
			f.DependOn(1, func(int) (topic, key string, shard int) { return "v1.p.tag.", "v1.p.tag.x", 1 })
			require.True(w, f.Keeps())
			put(&f, time.Hour, 1)
		}
		last := func(shard int) *watch { return w.stores[shard].watches[len(w.stores[shard].watches)-1] }
		f := s.Fill(0, "p.1")
		f.DependOn(1, func(int) (topic, key string, shard int) { return "v1.p.tag.", "v1.p.tag.x", 1 })
		require.False(w, f.Keeps(), "the topic of the stamp is not reported yet")
		last(0).tracking()
		last(1).tracking()
		far()
		w.has(s, "p.1", true, "")
		last(1).flushed()
		w.has(s, "p.1", false, "the other shard's keys have changed")
		far()
		w.has(s, "p.1", true, "")
		w.cache.Changed(0, "v1.p.tag.x")
		w.has(s, "p.1", true, "the key of the same name of the first shard is none of its stamps")
		w.cache.Changed(1, "v1.p.tag.x")
		w.has(s, "p.1", false, "the stamp has changed")
	})
}

// Invariant 2: reads that began before the reports are not kept, nor are those of a
// store that does not report.
func TestFillNeedsReports(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s := w.space("p")
		f := s.Fill(0, "p.1")
		require.False(w, f.Keeps())
		w.stores[0].watches[0].tracking()
		f.DependOn(1, func(int) (topic, key string, shard int) {
			w.Error("a fill that keeps nothing has no stamps")
			return "", "", 0
		})
		p := driver.NewPipeline(driver.ReadOnly)
		defer p.Free()
		f.Ask(p)
		require.Zero(w, p.Len())
		_, ok := f.Left(driver.Reply{})
		require.False(w, ok)

		f = s.Fill(0, "p.1")
		depend(&f, "new.x")
		require.False(w, f.Keeps(), "the stamp's topic is not reported yet")
		require.Equal(w, []string{"new.", "v1.p"}, w.stores[0].watches[1].topics)
	})
	bubble(t, 1, func(w *world) {
		w.stores[0].refuses = true
		s := w.space("p")
		f := s.Fill(0, "p.1")
		require.False(w, f.Keeps())
	})
}

// A Cache over stores that cannot report has no spaces, and a nil Space keeps
// nothing.
func TestNotTracked(t *testing.T) {
	store, err := memory.Open(memory.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	cache := near.New(near.Config{Stores: []driver.Store{store}})
	_, room := cache.Space(near.Type{})
	require.False(t, room)
	s := cache.Add(near.Type{}, "", nil)
	require.Nil(t, s)
	s.Drop("p.1")
	f := s.Fill(0, "p.1")
	require.False(t, f.Keeps())
	cache.Changed(0, "p.1")
}

// Invariant 3: a change, by any client, drops the fills of its key.
func TestChangeDropsFills(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s, first := w.told("p")
		for what, change := range map[string]func(){
			"reported": func() { first.changed("v1.p.1") },
			"own":      func() { s.Drop("p.1") },
			"by name":  func() { w.cache.Changed(0, "v1.p.1") },
		} {
			f := s.Fill(0, "p.1")
			change()
			put(&f, time.Hour, 1)
			w.has(s, "p.1", false, what)
			keep(s, "p.1", 1)
			w.has(s, "p.1", true, what)
			first.changed("v2.p.1")
			first.changed("v1.q.1")
			w.has(s, "p.1", true, "another key")
			change()
			w.has(s, "p.1", false, what)
		}
	})
}

// Invariant 4: a value that is read before the watch of its topic is in use is not
// kept, whichever of the epoch and the topics it sees first.
func TestCoversBeforeEpoch(t *testing.T) {
	bubble(t, 1, func(w *world) {
		one, first := w.told("p")
		two := w.space("q")
		f := two.Fill(0, "q.1")
		require.False(w, f.Keeps(), "the epoch does not cover q")
		second := w.stores[0].watches[1]
		f = one.Fill(0, "p.1")
		second.tracking()
		put(&f, time.Hour, 1)
		w.has(one, "p.1", true, "p was covered all the time")
		second.lost(nil) // and first goes on
		f = two.Fill(0, "q.1")
		require.False(w, f.Keeps(), "the epoch covers p only")
		require.False(w, first.stopped)
	})
}

// Invariant 5, and the table of the package comment.
func TestWatches(t *testing.T) {
	bubble(t, 1, func(w *world) {
		one, first := w.told("p")
		keep(one, "p.1", 1)
		two := w.space("q")
		second := w.stores[0].watches[1]
		require.Equal(w, []string{"v1.p", "v1.q"}, second.topics)
		w.has(one, "p.1", true, "up, down")
		time.Sleep(time.Millisecond)
		second.tracking()
		w.has(one, "p.1", true, "up, up")
		keep(two, "q.1", 2)
		w.has(two, "q.1", true, "up, up: topics of next")
		first.changed("v1.p.1")
		w.has(one, "p.1", false, "changes count from both")
		keep(one, "p.1", 1)

		time.Sleep(2 * time.Second)
		second.synced()
		w.has(one, "p.1", true, "within the lease of the earlier sign of life")
		time.Sleep(time.Second)
		w.has(one, "p.1", false, "for the lease after the earlier synced")
		require.False(w, first.stopped, "changes from before are still on their way")
		first.synced()
		require.True(w, first.stopped, "next becomes now")
		w.has(one, "p.1", true, "no epoch has ended")
		first.lost(nil)
		first.synced()
		w.has(one, "p.1", true, "an earlier watch tells only of changes")

		three := w.space("r")
		third := w.stores[0].watches[2]
		second.lost(nil)
		w.has(one, "p.1", false, "down, down")
		third.tracking()
		require.True(w, second.stopped, "down, up: next becomes now")
		keep(three, "r.1", 3)
		w.has(three, "r.1", true, "")
	})
}

// The sign of life that counts is the earlier one, of whichever watch.
func TestEarlierSignOfLife(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s, first := w.told("p")
		w.space("q")
		time.Sleep(time.Second)
		second := w.stores[0].watches[1]
		second.tell(driver.Event{Kind: driver.Tracking, At: time.Now().Add(-time.Second / 2)})
		first.synced() // no later than second began
		keep(s, "p.1", 1)
		time.Sleep(5*time.Second/2 - 1)
		w.has(s, "p.1", true, "")
		time.Sleep(time.Nanosecond)
		w.has(s, "p.1", false, "second was told of half a second before")
		require.False(w, first.stopped)
	})
}

// A watch that is replaced before it is used stops. Values of topics that only it
// reported end.
func TestUnusedWatchStops(t *testing.T) {
	bubble(t, 1, func(w *world) {
		one, _ := w.told("p")
		two, second := w.told("q")
		keep(one, "p.1", 1)
		keep(two, "q.1", 2)
		w.has(two, "q.1", true, "")
		w.space("r")
		require.True(w, second.stopped)
		w.has(two, "q.1", false, "only the watch that stopped reported it")
		w.has(one, "p.1", false, "the epoch is another")
		keep(one, "p.1", 1)
		w.has(one, "p.1", true, "and the first watch goes on")
		w.space("s")
		w.has(one, "p.1", true, "the watch that stopped now was not up")
	})
}

// Invariants 6 and 7: see also TestLateFillTakesNoStamp.
func TestStamps(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s, first := w.told("v")
		f := s.Fill(0, "v.0")
		depend(&f, "tag.x") // begins the reports of tags
		w.stores[0].watches[1].tracking()
		first.synced()
		for i := range 4 {
			f := s.Fill(0, fmt.Sprint("v.", i))
			depend(&f, "tag.x", fmt.Sprint("tag.", i))
			put(&f, time.Hour, i)
		}
		w.stores[0].watches[1].changed("tag.2")
		for i := range 4 {
			w.has(s, fmt.Sprint("v.", i), i != 2, "one stamp has changed")
		}
		w.cache.Changed(0, "tag.x")
		for i := range 4 {
			w.has(s, fmt.Sprint("v.", i), false, "a stamp of all has changed")
		}
	})
}

// Invariants 7 and 8: too many stamps end the values of all.
func TestStampsAreBounded(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s, first := w.told("")
		stamped := func(i int) {
			f := s.Fill(0, "v")
			depend(&f, fmt.Sprint("v1..", i))
			put(&f, time.Hour, i)
		}
		stamped(0)
		w.stores[0].watches[0].synced()
		kept := s.Fill(0, "first")
		depend(&kept, "v1..0")
		put(&kept, time.Hour, 1)
		w.has(s, "first", true, "")
		for i := range 1 << 16 {
			stamped(i)
		}
		w.has(s, "first", true, "as many as there may be")
		stamped(1 << 16)
		w.has(s, "first", false, "a stamp that is forgotten may have changed")
		w.has(s, "v", true, "the last one is followed")
		first.changed(fmt.Sprint("v1..", 1<<16))
		w.has(s, "v", false, "")
	})
}

// Invariant 8: the values of a space, and the spaces.
func TestIsBounded(t *testing.T) {
	bubble(t, 1, func(w *world) {
		s := w.cache.Add(near.Type{Prefix: "p", MaxEntries: 100}, "v1.", nil)
		w.stores[0].watches[0].tracking()
		kept := 0
		for i := range 1000 {
			keep(s, fmt.Sprint("p.", i), i)
		}
		for i := range 1000 {
			if _, ok := near.Get[int](s, fmt.Sprint("p.", i)); ok {
				kept++
			}
		}
		require.LessOrEqual(w, kept, 100)
		require.Positive(w, kept)
		for i := range 255 {
			require.NotNil(w, w.space(fmt.Sprint("p", i)))
		}
		require.Nil(w, w.space("one more"))
		_, room := w.cache.Space(near.Type{Prefix: "one more"})
		require.False(w, room)
		found, room := w.cache.Space(near.Type{Prefix: "p7"})
		require.NotNil(w, found)
		require.True(w, room)
	})
}

// Invariant 9.
func TestLifeOfKey(t *testing.T) {
	store, err := memory.Open(memory.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	// life asks for the rest of a key's life that is set to ms, 0 for none.
	life := func(t *testing.T, f *near.Fill, ms int64) (time.Duration, bool) {
		p := driver.NewPipeline(0)
		defer p.Free()
		if p.Cmd("SET").Key("v1.p.1").String("v"); ms > 0 {
			p.String("PX").Int(ms)
		}
		if ms < 0 {
			p.Cmd("UNLINK").Key("v1.p.1")
		}
		if ms == 0 {
			p.Cmd("HSET").Key("v1.p.1").String("f").String("v") // of another type: an error
		}
		f.Ask(p)
		require.NoError(t, store.Do(context.Background(), p))
		for range p.Len() - 1 {
			_ = p.Next()
		}
		return f.Left(p.Next())
	}
	bubble(t, 1, func(w *world) {
		s := w.cache.Add(near.Type{Prefix: "p", MaxAge: time.Minute}, "v1.", nil)
		w.stores[0].watches[0].tracking()
		f := s.Fill(0, "p.1")
		for _, tt := range []struct {
			ms   int64
			want time.Duration
			ok   bool
		}{{0, time.Minute, true}, {90_000, time.Minute, true}, {-1, 0, false}} {
			left, ok := life(w.T, &f, tt.ms)
			require.Equal(w, tt.ok, ok, tt.ms)
			require.Equal(w, tt.want, left, tt.ms)
		}
		left, ok := life(w.T, &f, 20_000)
		require.True(w, ok)
		require.InDelta(w, 20*time.Second, left, float64(time.Second))
		_, ok = f.Left(driver.Reply{})
		require.False(w, ok, "an error")

		f = s.Fill(0, "p.2")
		time.Sleep(time.Second) // the read takes this long
		w.stores[0].watches[0].synced()
		put(&f, 2*time.Second, 1)
		time.Sleep(time.Second - 1)
		w.has(s, "p.2", true, "")
		time.Sleep(time.Nanosecond)
		w.has(s, "p.2", false, "from the beginning of the fill")
	})
}

// Invariant 10.
func TestClose(t *testing.T) {
	bubble(t, 2, func(w *world) {
		s, first := w.told("p")
		keep(s, "p.1", 1)
		w.space("q")
		kept := s.Fill(0, "p.1")
		w.cache.Close()
		for _, store := range w.stores {
			for i, watch := range store.watches {
				require.True(w, watch.stopped, i)
			}
		}
		w.has(s, "p.1", false, "")
		first.tracking()
		put(&kept, time.Hour, 1)
		w.has(s, "p.1", false, "a fill in progress")
		require.Nil(w, w.space("r"))
		found, _ := w.cache.Space(near.Type{Prefix: "p"})
		require.Nil(w, found)
		kept = s.Fill(0, "p.1")
		require.False(w, kept.Keeps())
		depend(&kept, "tag.x")
		require.Len(w, w.stores[0].watches, 2, "no watch is begun")
		w.cache.Close()
		w.cache.Changed(0, "v1.p.1")
		w.cache.Flush()
	})
}

// The state of each shard is told once for each change.
func TestStatesAreTold(t *testing.T) {
	bubble(t, 2, func(w *world) {
		w.space("p")
		first := w.stores[1].watches[0]
		refused := errors.New("no right to")
		first.lost(refused)
		first.lost(refused)
		first.tracking()
		first.synced()
		first.changed("v1.p.1")
		first.flushed()
		first.lost(refused)
		require.Equal(w, []string{
			"1 tracking off no right to", "1 tracking on <nil>", "1 tracking off no right to",
		}, slices.Clone(w.states))
	})
}
