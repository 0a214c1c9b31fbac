package caches_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
)

// A tracker is a store of this process of which the test says what the server
// tells, and when.
type tracker struct {
	driver.Store

	mu      sync.Mutex
	watches []*watch
	gets    int           // pipelines that read
	held    chan struct{} // not nil: reads have their replies and wait for its end to return
}

// A watch is one call of Track.
type watch struct {
	prefixes []string
	tell     func(driver.Event)
	stopped  bool
}

func (s *tracker) Track(prefixes []string, tell func(driver.Event)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watch{prefixes: prefixes, tell: tell}
	s.watches = append(s.watches, w)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.stopped = true
	}
}

func (s *tracker) Do(ctx context.Context, p *driver.Pipeline) error {
	err := s.Store.Do(ctx, p)
	if p.Mode()&driver.ReadOnly == 0 {
		return err
	}
	s.mu.Lock()
	s.gets++
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	return err
}

// asked returns how many reads reached the store.
func (s *tracker) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets
}

// watch returns the watch of an index, and whether it was stopped.
func (s *tracker) watch(i int) (w *watch, stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[i], s.watches[i].stopped
}

// newTracker returns a store that tells nothing yet, and a connection to it that
// ends with the test.
func newTracker(t *testing.T) (*tracker, *caches.Conn) {
	return newTrackerWith(t, caches.ConnOptions{})
}

func newTrackerWith(t *testing.T, o caches.ConnOptions) (*tracker, *caches.Conn) {
	t.Helper()
	store, err := memory.Open(memory.Options{})
	require.NoError(t, err)
	s := &tracker{Store: store}
	conn, err := o.OpenStores(map[string]driver.Store{"one": s})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return s, conn
}

// requireNear checks that a read asks the store, or does not.
func requireNear(t *testing.T, s *tracker, near bool, read func()) {
	t.Helper()
	before := s.asked()
	read()
	if near {
		require.Equal(t, before, s.asked(), "the store was asked")
		return
	}
	require.Equal(t, before+1, s.asked(), "the store was not asked")
}

// Nothing is kept or served before the telling begins, nor from its end until it
// begins again, and nothing from before is served then.
func TestNearOnlyWhileChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		c := caches.Cache[int](nearly("p")).On(conn).Key(1)
		require.NoError(t, c.Set(t.Context(), 1))
		read := gets(t, c, 1)
		requireNear(t, s, false, read)
		requireNear(t, s, false, read)
		w, _ := s.watch(0)
		assert.Equal(t, []string{"p"}, w.prefixes)

		w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		requireNear(t, s, false, read)
		requireNear(t, s, true, read)
		for range 2 {
			w.tell(driver.Event{Kind: driver.Lost, Err: errors.New("gone")})
			requireNear(t, s, false, read)
			requireNear(t, s, false, read)
		}
		w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		requireNear(t, s, false, read)
		requireNear(t, s, true, read)
		w.tell(driver.Event{Kind: driver.Flushed})
		requireNear(t, s, false, read)
		requireNear(t, s, true, read)
		w.tell(driver.Event{Kind: driver.Changed, Key: []byte("p.2")})
		requireNear(t, s, true, read)
		w.tell(driver.Event{Kind: driver.Changed, Key: []byte("p.1")})
		requireNear(t, s, false, read)
		requireNear(t, s, true, read)

		require.NoError(t, conn.Close())
		_, err := c.Get(t.Context())
		require.ErrorIs(t, err, caches.ErrUnavailable)
		_, stopped := s.watch(0)
		assert.True(t, stopped)
	})
}

// What was read before a change and arrives after it is not kept: whether the
// key changed, all of them, or the telling was interrupted.
func TestNearDropsFillsThatChangesOvertake(t *testing.T) {
	lost := func(w *watch) {
		w.tell(driver.Event{Kind: driver.Lost})
		w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
	}
	for name, event := range map[string]func(w *watch){
		"change": func(w *watch) { w.tell(driver.Event{Kind: driver.Changed, Key: []byte("p.1")}) },
		"flush":  func(w *watch) { w.tell(driver.Event{Kind: driver.Flushed}) },
		"loss":   lost,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, conn := newTracker(t)
				c := caches.Cache[int](nearly("p")).On(conn).Key(1)
				require.NoError(t, c.Set(t.Context(), 1))
				w, _ := s.watch(0)
				w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})

				s.mu.Lock()
				s.held = make(chan struct{})
				s.mu.Unlock()
				go gets(t, c, 1)()
				synctest.Wait() // the read has its answer, and not returned
				event(w)
				s.mu.Lock()
				close(s.held)
				s.held = nil
				s.mu.Unlock()
				synctest.Wait()
				requireNear(t, s, false, gets(t, c, 1))
				requireNear(t, s, true, gets(t, c, 1))
			})
		})
	}
}

// A server of which nothing is heard is not trusted for longer than a lease, and
// a value not for longer than its age or its time to live.
func TestNearEndsWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		ctx := t.Context()
		c := caches.Cache[int]{
			Prefix: "p", TTL: 20 * time.Second, Near: &caches.NearOptions{MaxAge: 10 * time.Second},
		}.On(conn).Key(1)
		require.NoError(t, c.Set(ctx, 1))
		read := gets(t, c, 1)
		w, _ := s.watch(0)
		tell := func(kind driver.EventKind) { w.tell(driver.Event{Kind: kind, At: time.Now()}) }

		tell(driver.Tracking)
		requireNear(t, s, false, read)
		time.Sleep(3*time.Second - 1)
		requireNear(t, s, true, read)
		time.Sleep(time.Nanosecond)
		requireNear(t, s, false, read) // and what it found is of no use either
		requireNear(t, s, false, read)
		tell(driver.Synced)
		requireNear(t, s, true, read) // everything that changed has been told by now

		for range 6 { // ten seconds after the last read of the server
			time.Sleep(time.Second)
			tell(driver.Synced)
			requireNear(t, s, true, read)
		}
		time.Sleep(2 * time.Second)
		tell(driver.Synced)
		requireNear(t, s, true, read)
		time.Sleep(2*time.Second - 1)
		requireNear(t, s, true, read)
		time.Sleep(time.Nanosecond)
		tell(driver.Synced)
		requireNear(t, s, false, read)

		for range 7 { // of the twenty seconds to live, thirteen are over
			time.Sleep(time.Second)
			tell(driver.Synced)
		}
		time.Sleep(time.Millisecond) // Redis counts the last one in
		before := s.asked()
		_, err := c.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
		require.Equal(t, before+1, s.asked())
	})
}

// A prefix that comes into use later is told of by a tracking that takes the
// place of the first. What the first knows of stays, and is told by the first
// until all is told that the second cannot know.
func TestNearPrefixesComeIntoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		ctx := t.Context()
		one := caches.Cache[int](nearly("p")).On(conn).Key(1)
		two := caches.Cache[int](nearly("q")).On(conn).Key(1)
		require.NoError(t, one.Set(ctx, 1))
		first, _ := s.watch(0)
		first.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		requireNear(t, s, false, gets(t, one, 1))

		require.NoError(t, two.Set(ctx, 2))
		second, _ := s.watch(1)
		assert.Equal(t, []string{"p", "q"}, second.prefixes)
		requireNear(t, s, false, gets(t, two, 2))
		requireNear(t, s, false, gets(t, two, 2))
		requireNear(t, s, true, gets(t, one, 1))

		time.Sleep(time.Millisecond)
		second.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		requireNear(t, s, false, gets(t, two, 2))
		requireNear(t, s, true, gets(t, two, 2))
		requireNear(t, s, true, gets(t, one, 1))
		_, stopped := s.watch(0)
		require.False(t, stopped, "what changed before the second began is still on its way")
		first.tell(driver.Event{Kind: driver.Changed, Key: []byte("p.1")})
		requireNear(t, s, false, gets(t, one, 1))

		time.Sleep(time.Second)
		first.tell(driver.Event{Kind: driver.Synced, At: time.Now()})
		_, stopped = s.watch(0)
		require.True(t, stopped)
		first.tell(driver.Event{Kind: driver.Lost}) // of no concern now
		requireNear(t, s, true, gets(t, one, 1))
		requireNear(t, s, true, gets(t, two, 2))
		second.tell(driver.Event{Kind: driver.Lost})
		requireNear(t, s, false, gets(t, one, 1))
		requireNear(t, s, false, gets(t, two, 2))
	})
}

// The second tracking may be lost while the first still tells: then the prefixes
// that only the second knew are not served.
func TestNearLosesTheNewPrefixAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		one := caches.Cache[int](nearly("p")).On(conn).Key(1)
		two := caches.Cache[int](nearly("q")).On(conn).Key(1)
		require.NoError(t, one.Set(t.Context(), 1))
		require.NoError(t, two.Set(t.Context(), 2))
		first, stopped := s.watch(0)
		require.True(t, stopped, "it had not begun")
		first.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		requireNear(t, s, false, gets(t, one, 1))
		requireNear(t, s, false, gets(t, one, 1))

		second, _ := s.watch(1)
		second.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		three := caches.Cache[int](nearly("r")).On(conn).Key(1)
		require.NoError(t, three.Set(t.Context(), 3))
		third, _ := s.watch(2)
		third.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		for _, near := range []bool{false, true} {
			requireNear(t, s, near, gets(t, two, 2))
			requireNear(t, s, near, gets(t, three, 3))
		}
		third.tell(driver.Event{Kind: driver.Lost})
		for _, near := range []bool{false, true} {
			requireNear(t, s, near, gets(t, two, 2))
			requireNear(t, s, false, gets(t, three, 3))
		}
	})
}

// A type whose reads slide its time to live asks the server every time, and so
// does one on a store that cannot tell.
func TestNearIsNotForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		o := nearly("p")
		o.TTL, o.TTLPolicy = time.Hour, caches.SlideOnRead
		c := caches.Cache[int](o).On(conn).Key(1)
		require.NoError(t, c.Set(t.Context(), 1))
		gets(t, c, 1)()
		assert.Empty(t, s.watches)

		local := caches.Cache[int](nearly("p")).On(open(t, "locmem://")).Key(1)
		require.NoError(t, local.Set(t.Context(), 1))
		gets(t, local, 1)()

		o = nearly("p")
		o.Near = &caches.NearOptions{MaxAge: -1}
		_, err := caches.Cache[int](o).On(conn).Key(1).Get(t.Context())
		require.ErrorContains(t, err, "must not be negative")
	})
}

// No more values are kept than a type may have.
func TestNearIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn := newTracker(t)
		o := nearly("p")
		o.Near.MaxEntries = 100
		c := caches.Cache[int](o).On(conn)
		require.NoError(t, c.Key(0).Set(t.Context(), 0))
		w, _ := s.watch(0)
		w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		for i := range 1000 {
			require.NoError(t, c.Key(i).Set(t.Context(), i))
			gets(t, c.Key(i), i)()
		}
		before := s.asked()
		for i := range 1000 {
			gets(t, c.Key(i), i)()
		}
		assert.GreaterOrEqual(t, s.asked()-before, 900)
	})
}

// Hooks hear of near hits, and of when the telling begins and ends.
func TestNearIsHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []caches.CallInfo
		var states []caches.StateInfo
		s, conn := newTrackerWith(t, caches.ConnOptions{Name: "main", Hooks: &caches.Hooks{
			Call:  func(_ context.Context, c *caches.CallInfo) { calls = append(calls, *c) },
			State: func(s caches.StateInfo) { states = append(states, s) },
		}})
		c := caches.Cache[int](nearly("p")).On(conn).Key(1)
		require.NoError(t, c.Set(t.Context(), 1))
		w, _ := s.watch(0)
		refused := errors.New("no right to")
		for range 3 {
			w.tell(driver.Event{Kind: driver.Lost, Err: refused})
		}
		w.tell(driver.Event{Kind: driver.Tracking, At: time.Now()})
		gets(t, c, 1)()
		calls = nil
		gets(t, c, 1)()
		w.tell(driver.Event{Kind: driver.Lost, Err: refused})

		assert.Equal(t, []caches.CallInfo{{Op: "Value.Get", Conn: "main", Type: "p", Key: "p.1", Lookup: caches.LookupNear}}, calls)
		assert.Equal(t, []caches.StateInfo{
			{Conn: "main", Shard: "one", State: driver.TrackingOff, Err: refused},
			{Conn: "main", Shard: "one", State: driver.TrackingOn},
			{Conn: "main", Shard: "one", State: driver.TrackingOff, Err: refused},
		}, states)
		assert.Equal(t, int64(1), nearHits(conn, "p"))
	})
}
