package caches

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/maypok86/otter/v2"
)

// Near keeps the values read by this process in its memory, decoded, so that the
// next read does not ask the server. The zero value is usable:
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", Near: &caches.Near{}}
//
// It serves Get of a [Value], [GetMany], [Cached] functions, and Copy of a [Dict]
// and a [Set]. The Fresh method of a type, object or cached function bypasses it.
//
// Near values are kept up to date: over a separate connection to each shard, the
// server reports every change that any client makes, and a changed value is read
// again. While that connection is down, no value of the shard is kept or served. A
// value may be stale while the report of a change travels, mostly less than a
// millisecond; in a network that silently loses all data, for at most 3 seconds. A
// write of this process is seen by its own next read, if both go through types with
// the same Near. [Hooks].State is called when the reports begin and end.
//
// All callers are given the same value: if T holds references (pointers, slices,
// maps), treat it as read-only. Copy makes a new map for each caller; its values
// are shared.
//
// Values are not kept near for types with [SlideOnRead], whose reads must reach the
// server; for objects of [Bind], each with a prefix of its own; or on connections
// whose store cannot report changes, such as your own pools. locmem cannot either,
// and need not. The user of the connection needs the rights listed in
// [redigo.Store.Track].
type Near struct {
	// MaxEntries is the maximum number of values kept, for each prefix on each
	// connection; the least read are dropped first. Zero means 10,000.
	MaxEntries int

	// MaxAge is how long an unchanged value is served before it is read again. Zero
	// means a minute. A value that expires earlier on the server also expires here.
	MaxAge time.Duration
}

// check rejects negative limits.
func (n *Near) check() error {
	if n != nil && (n.MaxEntries < 0 || n.MaxAge < 0) {
		return errors.New("caches: the MaxEntries and MaxAge of a Near must not be negative")
	}
	return nil
}

const (
	nearEntries = 10_000
	nearAge     = time.Minute
	// nearLease is how long values are served after the last sign of life of the
	// server: a broken network may lose reports.
	nearLease = 3 * time.Second
	// nearSpaces is the maximum number of prefixes kept near on one connection.
	// Reads of further prefixes go to the server.
	nearSpaces = 256
	// nearStripes is the number of stripes of the keys of a space: fills of one
	// stripe take turns, and a change of one key drops all its fills in progress.
	nearStripes = 256
	// nearStamps is the maximum number of stamps followed.
	nearStamps = 1 << 16
)

// A nearSpace is the values of one prefix on one connection.
type nearSpace struct {
	conn    *Conn
	near    Near // from the Options of its types, as are version and prefix
	version string
	prefix  string
	front   string // the connection's part before the prefix
	topic   int    // the index of front + prefix in nearConn.topics
	age     time.Duration
	tally   *tally
	values  *otter.Cache[string, nearValue] // by key, without front
	stripes [nearStripes]nearStripe
}

// A nearStripe orders fills and changes of its keys.
type nearStripe struct {
	mu  sync.Mutex
	gen uint64 // changes so far, guarded by mu
}

// A nearValue is a *nearEntry.
type nearValue interface{ valid(now int64) bool }

// A nearEntry is a value with its validity condition. It is immutable.
type nearEntry[T any] struct {
	nearGround
	value T
}

// A nearGround is the validity condition of a value: its deadline, the epoch of its
// shard, and the stamps it depends on.
type nearGround struct {
	shard  *nearShard
	epoch  uint64
	until  int64 // in the time of nearConn.now
	stamps []*nearStamp
}

func (g *nearGround) valid(now int64) bool {
	if now >= g.until || !g.shard.stands(g.epoch, now) {
		return false
	}
	for _, s := range g.stamps {
		if s.dead.Load() || !s.shard.stands(s.epoch, now) {
			return false
		}
	}
	return true
}

// A nearStamp is the stamp of a tag or a namespace. It is dead once the stamp has
// changed, and so are the values that depend on it.
type nearStamp struct {
	shard *nearShard
	epoch uint64
	dead  atomic.Bool
}

// nearValueOf returns the value of a key, if it is still valid.
func nearValueOf[T any](s *nearSpace, key string) (v T, ok bool) {
	found, ok := s.values.GetIfPresent(key)
	if !ok {
		return v, false
	}
	e, ok := found.(*nearEntry[T])
	if !ok || !e.valid(s.conn.near.now()) {
		return v, false
	}
	return e.value, true
}

// A nearFill is a read in progress whose result may be kept. The zero nearFill
// keeps nothing.
type nearFill struct {
	space *nearSpace
	key   string
	gen   uint64
	begun int64
	nearGround
}

// fill begins a nearFill for a key on a shard.
func (s *nearSpace) fill(shard int, key string) nearFill {
	if s == nil {
		return nearFill{}
	}
	f := nearFill{space: s, key: key, begun: s.conn.near.now()}
	f.shard = &s.conn.near.shards[shard]
	var ok bool
	if f.epoch, ok = f.shard.covered(s.topic); !ok {
		return nearFill{}
	}
	stripe := s.stripe(key)
	stripe.mu.Lock()
	f.gen = stripe.gen
	stripe.mu.Unlock()
	return f
}

// stand makes the result of f depend on the stamps of its namespace and of tags. It
// is called before they are read.
func (f *nearFill) stand(tags []string) {
	s := f.space
	if s == nil {
		return
	}
	f.stamps = make([]*nearStamp, 0, 1+len(tags))
	f.standOn(s.front+namespaceFront, s.front+namespaceFront+s.prefix, f.shard)
	for _, tag := range tags {
		key := s.conn.prefix + tagKey(tag)
		f.standOn(s.conn.prefix+tagFront, key, &s.conn.near.shards[s.conn.shardOf("", key)])
	}
}

// standOn adds a stamp whose key is among the keys of topic. If changes of the
// topic are not reported yet, f keeps nothing.
func (f *nearFill) standOn(topic, key string, shard *nearShard) {
	if f.space == nil {
		return
	}
	n := f.space.conn.near
	epoch, ok := shard.covered(n.follow(f.space.conn, topic))
	if !ok {
		*f = nearFill{}
		return
	}
	f.stamps = append(f.stamps, n.stamp(nearStampKey{shard, key}, epoch))
}

// ask appends a PTTL of the key: an expired key is reported only when it is
// removed.
func (f *nearFill) ask(p *driver.Pipeline) {
	if f.space != nil {
		p.CmdKey("PTTL", f.space.front, f.key)
	}
}

// left returns how long a value may be kept, by the reply to ask. ok is false if it
// may not be kept.
func (f *nearFill) left(ttl driver.Reply) (left time.Duration, ok bool) {
	if f.space == nil {
		return 0, false
	}
	ms, err := ttl.Int()
	if err != nil || ms == -2 { // gone since the read
		return 0, false
	}
	if ms == -1 || ms >= f.space.age.Milliseconds() {
		return f.space.age, true
	}
	return time.Duration(ms) * time.Millisecond, true
}

// nearKeep keeps v for left at most, counted from the beginning of the fill.
func nearKeep[T any](f *nearFill, left time.Duration, v T) {
	s := f.space
	f.until = f.begun + int64(min(left, s.age, Forever/2))
	stripe := s.stripe(f.key)
	stripe.mu.Lock()
	defer stripe.mu.Unlock()
	if stripe.gen == f.gen {
		s.values.Set(f.key, &nearEntry[T]{f.nearGround, v})
	}
}

// drop removes the value of key, and drops the fills of its stripe: they keep
// nothing.
func (s *nearSpace) drop(key string) {
	if s == nil {
		return
	}
	stripe := s.stripe(key)
	stripe.mu.Lock()
	defer stripe.mu.Unlock()
	stripe.gen++
	s.values.Invalidate(key)
}

// stripe returns the stripe of a key, by FNV-1a.
func (s *nearSpace) stripe(key string) *nearStripe {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return &s.stripes[h%nearStripes]
}

// nearConn is the near cache of one connection. The zero value is empty.
type nearConn struct {
	spaces atomic.Pointer[[]*nearSpace] // replaced whole, never changed

	mu     sync.Mutex // held while a topic is added, and by close
	closed bool
	topics []string // the prefixes of full keys whose changes are reported
	shards []nearShard
	base   time.Time

	stampMu sync.Mutex
	stamps  map[nearStampKey]*nearStamp // guarded by stampMu
}

// all returns the current spaces, which are never changed.
func (n *nearConn) all() []*nearSpace {
	if p := n.spaces.Load(); p != nil {
		return *p
	}
	return nil
}

// now returns the time since the connection's first use of a near cache. It costs
// half as much as the time of day.
func (n *nearConn) now() int64 { return int64(time.Since(n.base)) }

func (s *nearSpace) is(o *Options) bool {
	return s.prefix == o.Prefix && s.version == o.Version && s.near == *o.Near
}

// addNearSpace makes the space of a type on its first use, and starts reports for
// its keys.
func (c *Conn) addNearSpace(o *Options) *nearSpace {
	n := c.near
	n.mu.Lock()
	defer n.mu.Unlock()
	spaces := n.all()
	if i := slices.IndexFunc(spaces, func(s *nearSpace) bool { return s.is(o) }); i >= 0 {
		return spaces[i]
	}
	if n.closed || len(spaces) >= nearSpaces || o.Near.check() != nil {
		return nil
	}
	s := newNearSpace(c, o)
	s.topic = n.addTopic(c, s.front+o.Prefix)
	spaces = append(slices.Clone(spaces), s)
	n.spaces.Store(&spaces)
	return s
}

func newNearSpace(c *Conn, o *Options) *nearSpace {
	s := &nearSpace{
		conn: c, near: *o.Near, version: o.Version, front: c.front(o.Version), prefix: o.Prefix,
		age: cmp.Or(o.Near.MaxAge, nearAge), tally: c.tallies.of(o.typeName()),
	}
	s.values = otter.Must(&otter.Options[string, nearValue]{
		MaximumSize: cmp.Or(o.Near.MaxEntries, nearEntries),
		Executor:    func(f func()) { f() }, // no goroutines of its own
	})
	return s
}

// tracks reports whether the store of any shard can report changes.
func (c *Conn) tracks() bool {
	return slices.ContainsFunc(c.shards, func(s shard) bool {
		_, ok := s.store.(driver.Tracker)
		return ok
	})
}

// follow starts reports for all keys under topic, and returns the index of topic.
func (n *nearConn) follow(c *Conn, topic string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addTopic(c, topic)
}

// addTopic is follow with mu held.
func (n *nearConn) addTopic(c *Conn, topic string) int {
	if i := slices.Index(n.topics, topic); i >= 0 {
		return i
	}
	if n.shards == nil {
		n.shards, n.base = make([]nearShard, len(c.shards)), time.Now()
	}
	n.topics = append(n.topics, topic)
	for i := range n.shards {
		if t, ok := c.shards[i].store.(driver.Tracker); ok {
			n.shards[i].replace(c, i, t)
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

// changed drops all values that the change of a key makes invalid.
func (n *nearConn) changed(shard *nearShard, key []byte) {
	n.stampMu.Lock()
	if s := n.stamps[nearStampKey{shard, string(key)}]; s != nil {
		s.dead.Store(true)
		delete(n.stamps, nearStampKey{shard, string(key)})
	}
	n.stampMu.Unlock()
	for _, s := range n.all() {
		if own, ok := bytes.CutPrefix(key, []byte(s.front)); ok && bytes.HasPrefix(own, []byte(s.prefix)) {
			s.drop(string(own))
		}
	}
}

// A nearStampKey is the place of a stamp. A namespace has its stamp on every shard.
type nearStampKey struct {
	shard *nearShard
	key   string // in full
}

// stamp returns the nearStamp for values that will depend on the stamp of a key.
func (n *nearConn) stamp(key nearStampKey, epoch uint64) *nearStamp {
	n.stampMu.Lock()
	defer n.stampMu.Unlock()
	switch s := n.stamps[key]; {
	case s == nil || s.epoch < epoch: // its epoch has ended, so all values on it are invalid
	case s.epoch == epoch:
		return s
	default: // the epoch of the caller has ended meanwhile, the epoch of s has not
		late := &nearStamp{shard: key.shard, epoch: epoch}
		late.dead.Store(true)
		return late
	}
	if n.stamps == nil || len(n.stamps) >= nearStamps {
		for _, s := range n.stamps { // their changes are no longer noticed
			s.dead.Store(true)
		}
		n.stamps = make(map[nearStampKey]*nearStamp)
	}
	s := &nearStamp{shard: key.shard, epoch: epoch}
	n.stamps[key] = s
	return s
}

// invalidated is changed for a key that this process has changed itself: it does
// not wait for the report.
func (n *nearConn) invalidated(shard int, key string) {
	if n.all() != nil {
		n.changed(&n.shards[shard], []byte(key))
	}
}

// A nearShard says whether the values kept for one shard are valid.
type nearShard struct {
	// epoch is odd while changes are reported; a value read in another epoch may be
	// invalid. It goes up when the reports begin, when they end, and when all keys
	// change at once.
	epoch atomic.Uint64
	until atomic.Int64 // when the last sign of life is too old, as nearConn.now
	// covers is the number of topics reported. It is set before epoch goes up and
	// read after it: a reader of an epoch sees no more topics than it covers.
	covers atomic.Int64

	mu sync.Mutex // guards the fields below, and is held to set the fields above
	// now is the watch in use, next the one that will replace it, with more topics.
	// While both are up, both report. now stops once it has reported all changes
	// from before next was up.
	now, next *nearWatch
}

// A nearWatch is one tracking by the store.
type nearWatch struct {
	conn   *Conn
	index  int // of the shard
	shard  *nearShard
	topics int // the number of topics watched, from the first
	stop   func()

	// Guarded by shard.mu:
	up     bool      // it reports changes
	failed bool      // it does not, and hooks have been told
	since  time.Time // when up became true
	synced time.Time // all changes before this time have been reported
}

// stands reports whether a value read in an epoch is still valid.
func (s *nearShard) stands(epoch uint64, now int64) bool {
	return s.epoch.Load() == epoch && now < s.until.Load()
}

// covered returns the epoch, and whether changes of topic are reported in it.
func (s *nearShard) covered(topic int) (epoch uint64, ok bool) {
	epoch = s.epoch.Load()
	return epoch, epoch%2 == 1 && int64(topic) < s.covers.Load()
}

// replace begins to track all topics, in place of a watch that tracks fewer.
func (s *nearShard) replace(c *Conn, index int, t driver.Tracker) {
	w := &nearWatch{conn: c, index: index, shard: s, topics: len(c.near.topics)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.stop = t.Track(prefixFree(c.near.topics), w.tell); w.stop == nil {
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
func (w *nearWatch) tell(e driver.Event) {
	if e.Kind == driver.Changed {
		w.conn.near.changed(w.shard, e.Key)
		return
	}
	if w.note(e) {
		w.report(e)
	}
}

// note handles an event, and reports whether hooks are to be told of it.
func (w *nearWatch) note(e driver.Event) (news bool) {
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
	case driver.Lost: // or could not be started; hooks are told once
		news, w.up, w.failed = !w.failed, false, true
	}
	s.settle(flush)
	return news
}

// report tells hooks whether changes are reported.
func (w *nearWatch) report(e driver.Event) {
	state := driver.TrackingOn
	if e.Kind == driver.Lost {
		state = driver.TrackingOff
	}
	w.conn.observer.state(StateInfo{Conn: w.conn.name, Shard: w.conn.shards[w.index].name, State: state, Err: e.Err})
}

// settle sets the state of the shard from its two watches. "Down" means absent or
// not reporting. It is called with mu held.
//
//	now   next  kept values
//	down  down  none: the epoch is even
//	up    down  topics of now, for nearLease after now.synced
//	up    up    topics of next, for nearLease after the earlier synced,
//	            until now.synced is after next.since: then next becomes now
//	down  up    next becomes now at once
//
// If flush is set, the values kept so far are invalid.
func (s *nearShard) settle(flush bool) {
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
		s.until.Store(int64(synced.Add(nearLease).Sub(told.conn.near.base)))
	}
	switch was := s.epoch.Load()%2 == 1; {
	case live != was:
		s.epoch.Add(1)
	case live && flush:
		s.epoch.Add(2)
	}
}

// flush invalidates all values: this process has changed them itself, and does not
// wait for the report.
func (n *nearConn) flush() {
	if n.all() == nil {
		return // and perhaps no shards either
	}
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.Lock()
		s.settle(true)
		s.mu.Unlock()
	}
}

// close ends all tracking. Nothing is kept from then on.
func (n *nearConn) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.spaces.Store(nil)
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.Lock()
		for _, w := range []*nearWatch{s.now, s.next} {
			if w != nil {
				w.stop()
			}
		}
		s.now, s.next = nil, nil
		s.settle(true)
		s.mu.Unlock()
	}
}
