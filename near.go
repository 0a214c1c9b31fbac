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

// Near keeps values that were read in this process, decoded, so that reading
// one again asks nobody. The zero value is usable:
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", Near: &caches.Near{}}
//
// It serves Cache.Get, GetMany, cached functions, and the Copy of a [DictCache]
// and a [SetCache]; the Fresh method of an object, or a cached function, reads through. What it serves
// is true: the server tells of every change that any client makes, over one
// connection of its own to each shard, and what was changed is read again. While
// such a connection is away nothing is kept or served of that shard. So a value
// may be stale for as long as the news of a change travels, less than a
// millisecond mostly; by a network that loses all and says nothing, for 3
// seconds at most. A write of this process through a type of the same Near is seen
// by its own next read. [Hooks].State hears when the telling begins and ends.
//
// All callers are given the same value: where T holds references (pointers,
// slices, maps), treat it as read-only. Copy makes a new map for each caller; its
// values are shared.
//
// Types with [SlideOnRead] do not keep values near: their reads must reach the
// server. Nor do objects of [Bind], each of which has a prefix of its own, nor
// does a connection whose store cannot tell what changes: locmem has
// no need to, and pools of your own cannot. The user of the connection needs the
// rights that [redigo.Store.Track] names.
type Near struct {
	// MaxEntries bounds how many values are kept, of each prefix on each
	// connection; those that are read least go first. Zero means 10,000.
	MaxEntries int

	// MaxAge is for how long a value is served before it is read again, though
	// nothing has changed it. Zero means a minute. What expires earlier on the
	// server, expires here as well.
	MaxAge time.Duration
}

// check refuses what is no bound.
func (n *Near) check() error {
	if n != nil && (n.MaxEntries < 0 || n.MaxAge < 0) {
		return errors.New("caches: the MaxEntries and MaxAge of a Near must not be negative")
	}
	return nil
}

const (
	nearEntries = 10_000
	nearAge     = time.Minute
	// nearLease is for how long values are served after the last sign that the
	// server is there: news of changes may be lost with a network.
	nearLease = 3 * time.Second
	// nearSpaces bounds how many prefixes of one connection are kept near.
	// Those beyond it read through.
	nearSpaces = 256
	// nearStripes divide the keys of a space: fills of keys of one stripe take
	// turns, and a change of one drops the fills under way of all.
	nearStripes = 256
	// nearStamps bounds how many tags are followed.
	nearStamps = 1 << 16
)

// A nearSpace is the values of one prefix on one connection.
type nearSpace struct {
	conn    *Conn
	near    Near   // as the Options of its types say; so are
	version string // this
	prefix  string // and this
	front   string // what the connection puts before the prefix
	topic   int    // the index in nearConn.topics of what front and prefix make
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

// A nearEntry is a value and what it stands on. It never changes.
type nearEntry[T any] struct {
	nearGround
	value T
}

// nearGround says for how long something is true: until its time is up, its
// shard's epoch has ended, or one of its stamps has.
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

// A nearStamp is the stamp of a tag on which values stand. It dies when the
// stamp changes, and all that stands on it with it.
type nearStamp struct {
	shard *nearShard
	epoch uint64
	dead  atomic.Bool
}

// nearValueOf returns the value of a key, if it is still true.
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

// A nearFill is a read under way whose result may be kept. The zero nearFill
// keeps nothing.
type nearFill struct {
	space *nearSpace
	key   string
	gen   uint64
	begun int64
	nearGround
}

// fill is nearFill for a key on a shard.
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

// stand says that what f reads counts under the stamps of its namespace and of
// tags, and only as long as they do. It is called before they are read.
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

// standOn adds a stamp, whose key is among those of a topic. Where nobody tells
// of them yet, f keeps nothing.
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

// ask appends the question for how long the value will be there. One that the
// server has expired in all but deed is not told to have changed.
func (f *nearFill) ask(p *driver.Pipeline) {
	if f.space != nil {
		p.CmdKey("PTTL", f.space.front, f.key)
	}
}

// left returns for how long a value may be kept by the reply to what ask asked;
// not ok, where it may not.
func (f *nearFill) left(ttl driver.Reply) (left time.Duration, ok bool) {
	if f.space == nil {
		return 0, false
	}
	ms, err := ttl.Int()
	if err != nil || ms == -2 { // gone since it was read
		return 0, false
	}
	if ms == -1 || ms >= f.space.age.Milliseconds() {
		return f.space.age, true
	}
	return time.Duration(ms) * time.Millisecond, true
}

// nearKeep keeps v for left at most, counted from when the fill began.
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

// drop forgets the value of key, and drops the fills under way.
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

// nearConn is what one connection keeps near. The zero value keeps nothing yet.
type nearConn struct {
	spaces atomic.Pointer[[]*nearSpace] // replaced whole, never changed

	mu     sync.Mutex // held by who adds a topic, and by close
	closed bool
	topics []string // the prefixes of full keys whose changes are to be told
	shards []nearShard
	base   time.Time

	stampMu sync.Mutex
	stamps  map[nearStampKey]*nearStamp // guarded by stampMu
}

// all returns the spaces of this moment, which nobody changes.
func (n *nearConn) all() []*nearSpace {
	if p := n.spaces.Load(); p != nil {
		return *p
	}
	return nil
}

// now is the time since the connection's first use of a near cache, which costs
// half of what asking for the time of day does.
func (n *nearConn) now() int64 { return int64(time.Since(n.base)) }

func (s *nearSpace) is(o *Options) bool {
	return s.prefix == o.Prefix && s.version == o.Version && s.near == *o.Near
}

// addNearSpace makes the space of a type that is used for the first time, and
// has the changes of its keys told.
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

// tracks reports whether the store of a shard can tell what changes.
func (c *Conn) tracks() bool {
	return slices.ContainsFunc(c.shards, func(s shard) bool {
		_, ok := s.store.(driver.Tracker)
		return ok
	})
}

// follow has the changes of all keys told that begin with topic, and returns
// its index.
func (n *nearConn) follow(c *Conn, topic string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addTopic(c, topic)
}

// addTopic is follow for who holds mu.
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

// prefixFree returns what is left of topics without those that another covers.
func prefixFree(topics []string) []string {
	sorted := slices.Sorted(slices.Values(topics))
	free := sorted[:0]
	for _, topic := range sorted { // what covers it stands before it
		if len(free) == 0 || !strings.HasPrefix(topic, free[len(free)-1]) {
			free = append(free, topic)
		}
	}
	return free
}

// changed forgets what a key's change has made untrue.
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

// A nearStampKey is where a stamp is: that of a namespace is on every shard.
type nearStampKey struct {
	shard *nearShard
	key   string // in full
}

// stamp returns what stands on the stamp of a key from now on.
func (n *nearConn) stamp(key nearStampKey, epoch uint64) *nearStamp {
	n.stampMu.Lock()
	defer n.stampMu.Unlock()
	switch s := n.stamps[key]; {
	case s == nil || s.epoch < epoch: // what stands on it is of an epoch that has ended
	case s.epoch == epoch:
		return s
	default: // the caller was put off meanwhile: its epoch has ended, that of s has not
		late := &nearStamp{shard: key.shard, epoch: epoch}
		late.dead.Store(true)
		return late
	}
	if n.stamps == nil || len(n.stamps) >= nearStamps {
		for _, s := range n.stamps { // of whose changes nobody will hear
			s.dead.Store(true)
		}
		n.stamps = make(map[nearStampKey]*nearStamp)
	}
	s := &nearStamp{shard: key.shard, epoch: epoch}
	n.stamps[key] = s
	return s
}

// invalidated is changed for a key whose change this process has brought about
// itself, and need not wait to be told.
func (n *nearConn) invalidated(shard int, key string) {
	if n.all() != nil {
		n.changed(&n.shards[shard], []byte(key))
	}
}

// A nearShard says whether what is kept of one shard is true, and since when.
type nearShard struct {
	// epoch is odd while changes are told; whatever was read in another epoch
	// may be untrue. It goes up when the telling begins, when it ends, and when
	// all keys change at once.
	epoch atomic.Uint64
	until atomic.Int64 // when the last sign of the server is too old, as nearConn.now
	// covers is how many topics are told of. It is set before epoch goes up and
	// read after it: who finds an epoch finds no more than it covers.
	covers atomic.Int64

	mu sync.Mutex // guards what follows, and is held by who sets the above
	// now is what is told by, next what will take its place, with more topics:
	// it is told by both until all that only now knows of has been told.
	now, next *nearWatch
}

// A nearWatch is a tracking by the store.
type nearWatch struct {
	conn   *Conn
	index  int // of the shard
	shard  *nearShard
	topics int // the first so many
	stop   func()

	// Guarded by shard.mu:
	up     bool      // it tells
	failed bool      // it does not, and hooks have heard of it
	since  time.Time // of up
	synced time.Time // all that changed before has been told
}

// stands reports whether what was read in an epoch is still true.
func (s *nearShard) stands(epoch uint64, now int64) bool {
	return s.epoch.Load() == epoch && now < s.until.Load()
}

// covered returns the epoch, if changes of a topic are told in it.
func (s *nearShard) covered(topic int) (epoch uint64, ok bool) {
	epoch = s.epoch.Load()
	return epoch, epoch%2 == 1 && int64(topic) < s.covers.Load()
}

// replace begins to track all topics, in place of what tracks fewer.
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
		s.settle(unused.up) // what only that one told of is told of no more
	}
}

// tell takes what the store says. Only watches in use count, but a change is one
// whoever tells it.
func (w *nearWatch) tell(e driver.Event) {
	if e.Kind == driver.Changed {
		w.conn.near.changed(w.shard, e.Key)
		return
	}
	if w.note(e) {
		w.report(e)
	}
}

// note takes an event, and reports whether it is news to those who want to know
// whether changes are told.
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
	case driver.Lost: // or tried in vain, of which the first time is enough
		news, w.up, w.failed = !w.failed, false, true
	}
	s.settle(flush)
	return news
}

// report tells the hooks whether changes are told.
func (w *nearWatch) report(e driver.Event) {
	state := driver.TrackingOn
	if e.Kind == driver.Lost {
		state = driver.TrackingOff
	}
	w.conn.observer.state(StateInfo{Conn: w.conn.name, Shard: w.conn.shards[w.index].name, State: state, Err: e.Err})
}

// settle says by the state of the two watches what may be kept. It is called
// with mu held.
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

// flush makes all that is kept untrue: this process has changed it, and need not
// wait to be told.
func (n *nearConn) flush() {
	if n.all() == nil {
		return // and so perhaps no shards
	}
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.Lock()
		s.settle(true)
		s.mu.Unlock()
	}
}

// close ends all tracking and keeps nothing from then on.
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
