package near

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// lease is how long values are served after the last sign of life of the server: a
// broken network may lose reports.
const lease = 3 * time.Second

// follow starts reports for all keys under topic, and returns the index of topic.
func (n *Cache) follow(topic string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addTopic(topic)
}

// addTopic is follow with mu held.
func (n *Cache) addTopic(topic string) int {
	if i := slices.Index(n.topics, topic); i >= 0 {
		return i
	}
	n.topics = append(n.topics, topic)
	for i := range n.shards {
		if t, ok := n.config.Stores[i].(driver.Tracker); ok && !n.closed {
			n.shards[i].replace(t, n.topics)
		}
	}
	return len(n.topics) - 1
}

// prefixFree returns topics without the ones that another topic covers.
func prefixFree(topics []string) []string {
	sorted := slices.Sorted(slices.Values(topics))
	free := sorted[:0]
	for _, topic := range sorted { // a prefix sorts before the topics it covers
		if len(free) == 0 || !strings.HasPrefix(topic, free[len(free)-1]) {
			free = append(free, topic)
		}
	}
	return free
}

// A shard says whether the values kept for one shard are valid.
type shard struct {
	cache *Cache
	index int

	// epoch is odd while changes are reported; a value read in another epoch may be
	// invalid. It goes up when the reports begin, when they end, and when all keys
	// change at once.
	epoch  atomic.Uint64
	until  atomic.Int64 // when the last sign of life is too old, as Cache.now
	covers atomic.Int64 // the number of topics reported: invariant 4

	mu sync.Mutex // guards the fields below, and is held to set the fields above
	// now is the watch in use, next the one that will replace it, with more topics.
	now, next *watch
}

// A watch is one tracking by the store.
type watch struct {
	shard  *shard
	topics int // the number of topics watched, from the first
	stop   func()

	// Guarded by shard.mu:
	up     bool      // it reports changes
	failed bool      // it does not, and Config.State has been told
	since  time.Time // when up became true
	synced time.Time // all changes before this time have been reported
}

// in reports whether a value read in an epoch is still valid.
func (s *shard) in(epoch uint64, now int64) bool {
	return s.epoch.Load() == epoch && now < s.until.Load()
}

// covered returns the epoch, and whether changes of topic are reported in it.
func (s *shard) covered(topic int) (epoch uint64, ok bool) {
	epoch = s.epoch.Load()
	return epoch, epoch%2 == 1 && int64(topic) < s.covers.Load()
}

// replace begins to track topics, in place of a watch that tracks fewer.
func (s *shard) replace(t driver.Tracker, topics []string) {
	w := &watch{shard: s, topics: len(topics)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.stop = t.Track(prefixFree(topics), w.tell); w.stop == nil {
		return
	}
	unused := s.next
	if s.next = w; unused != nil {
		unused.stop()
		s.settle(unused.up) // changes that only unused watched are no longer reported
	}
}

// tell handles an event of the store. A change counts from any watch, other events
// only from the two in use.
func (w *watch) tell(e driver.Event) {
	if e.Kind == driver.Changed {
		w.shard.cache.changed(w.shard, e.Key)
		return
	}
	if !w.note(e) {
		return
	}
	state := driver.TrackingOn
	if e.Kind == driver.Lost {
		state = driver.TrackingOff
	}
	w.shard.cache.config.State(w.shard.index, state, e.Err)
}

// note handles an event, and reports whether the state of the reports is new.
func (w *watch) note(e driver.Event) (news bool) {
	s := w.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if w != s.now && w != s.next {
		return false
	}
	flush := e.Kind == driver.Flushed || e.Kind == driver.Lost && w.up
	switch e.Kind {
	case driver.Tracking:
		w.up, w.since, w.synced = true, time.Now(), e.At
		news, w.failed = true, false
	case driver.Synced:
		w.synced = e.At
	case driver.Lost: // or could not be started; told once
		news, w.up, w.failed = !w.failed, false, true
	}
	s.settle(flush)
	return news
}

// settle sets the state of the shard from its two watches; see the table in the
// package comment. If flush is set, the values kept so far are invalid. It is called
// with mu held.
func (s *shard) settle(flush bool) {
	if s.next != nil && s.next.up && (s.now == nil || !s.now.up || s.now.synced.After(s.next.since)) {
		if s.now != nil {
			s.now.stop()
		}
		s.now, s.next = s.next, nil
	}
	live := s.now != nil && s.now.up
	if live {
		told := s.now
		synced := told.synced
		if s.next != nil && s.next.up {
			if told = s.next; told.synced.Before(synced) {
				synced = told.synced
			}
		}
		s.covers.Store(int64(told.topics))
		s.until.Store(int64(synced.Add(lease).Sub(s.cache.base)))
	}
	switch was := s.epoch.Load()%2 == 1; {
	case live != was:
		s.epoch.Add(1)
	case live && flush:
		s.epoch.Add(2)
	}
}

// flush invalidates all values.
func (s *shard) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(true)
}

// close ends both watches.
func (s *shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range []*watch{s.now, s.next} {
		if w != nil {
			w.stop()
		}
	}
	s.now, s.next = nil, nil
	s.settle(true)
}
