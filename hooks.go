package caches

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// Hooks are functions that hear of what goes on. Each is nil by default, and one
// that is nil costs nothing. They run in the goroutine of the call, which waits
// for them, so they should be quick; many goroutines call them at once. A panic
// of a hook does not reach the call: the first is reported to Error, as the
// Swallowed of its CallInfo and a [HookPanic], or to [slog.Default] where Error
// is nil or is what panicked.
//
// A hook reads the CallInfo until it returns, and changes nothing in it. Keys
// and tags are in it as they are; values never are.
//
// A connection has Hooks ([ConnOptions]) and so may a cached function
// ([CachedOptions]); what concerns both is told to both, to the connection's
// first. Operations of a hook on a connection with that hook are heard of, too:
// that it does not call itself for ever is its own to see to.
type Hooks struct {
	// Call hears of every operation of an object, and of every call of a
	// cached function, once it has ended.
	Call func(ctx context.Context, c *CallInfo)

	// Load hears of every run of a cached function's own function, once it has
	// ended: Result and Reason say why it ran, Err how it ended, Dropped
	// whether its result was not kept. It may have run for nobody: ctx has the
	// values of the first caller's, and not its end.
	Load func(ctx context.Context, c *CallInfo)

	// Error hears of every fault: those in an Err that a caller got, and those
	// in Swallowed, in spite of which the caller was served. A miss is none,
	// and neither is an error of a cached function's own function.
	Error func(ctx context.Context, c *CallInfo)

	// Invalidate hears of every key, set of tags or namespace that this process
	// invalidated. Where there is an Err, some may not have been.
	Invalidate func(ctx context.Context, c *CallInfo)

	// State hears of the shared connections to servers; there is no call that
	// it belongs to. Whoever waits for a connection waits for it, so it must not
	// use that connection. One server's come one at a time, in their order.
	State func(s StateInfo)
}

// A CallInfo is what there is to know of one call. What does not apply is zero.
type CallInfo struct {
	Op       string   // the method: "Cache.Get", "Cached.Get", "InvalidateTags"
	Conn     string   // the connection's name
	Shard    string   // the shard's name; empty where several were asked
	Type     string   // the type's prefix, under which [Stats] counts
	Function string   // the cached function's name
	Key      string   // the full key; empty for calls on many
	Tags     []string // of the object or the argument, or those invalidated

	Result Result // what a look-up came to; NoLookup for other calls
	Reason Reason // of a Miss, or of a StaleHit
	Tag    string // the tag that was invalidated, where Reason is MissTag
	Hits   int    // keys of a call on many that had a value
	Misses int    // keys of a call on many that had none

	Elapsed time.Duration // of the whole call
	Ran     time.Duration // of the cached function's own function
	Waited  time.Duration // for the lease that another process held

	BytesOut int // of commands of an operation on one key
	BytesIn  int // of their replies

	Dropped   bool  // the result was not kept: it was invalidated meanwhile, by its key
	Err       error // what the caller got; a miss is one
	Swallowed error // a fault in spite of which the caller was served
}

// A StateInfo is what became of a shared connection to a server.
type StateInfo struct {
	Conn  string       // the connection's name
	Shard string       // the shard's name
	State driver.State // Connected, Disconnected, Resting, TrackingOn or TrackingOff
	Err   error        // why, where it was not closed on purpose
}

// A Result is what a look-up came to.
type Result uint8

const (
	NoLookup Result = iota // the call was not a look-up, or it failed
	Hit                    // a value was stored
	NearHit                // a value was in this process's near cache
	StaleHit               // an expired value served, see CachedOptions.Stale
	Miss                   // there was none that counts; the Reason says why
)

// String returns the result in words: "hit", "near hit", "stale hit", "miss".
func (r Result) String() string { return wordOf(r, "", "hit", "near hit", "stale hit", "miss") }

// A Reason is why a look-up found nothing that counts.
type Reason uint8

const (
	NoReason    Reason = iota
	MissAbsent         // nothing is stored
	MissExpired        // past its soft expiry
	MissEarly          // not expired, but computed early, see CachedOptions.Early
	MissTag            // a tag was invalidated, see CallInfo.Tag
	MissVersion        // the namespace was invalidated, or the entry has another format
	MissCorrupt        // what is stored does not decode
	MissFault          // the server could not be asked
)

// String returns the reason in words: "absent", "expired", "early", "tag",
// "version", "undecodable", "error".
func (r Reason) String() string {
	return wordOf(r, "", "absent", "expired", "early", "tag", "version", "undecodable", "error")
}

func wordOf[N ~uint8](i N, words ...string) string {
	if int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("%T(%d)", i, uint8(i))
}

// An observer is the Hooks of one connection or cached function. A nil observer
// hears of nothing.
type observer struct {
	hooks Hooks
	fell  atomic.Bool // a panic was reported; the others are not
}

func newObserver(h *Hooks) *observer {
	if h == nil {
		return nil
	}
	return &observer{hooks: *h}
}

// tell calls one hook, if there is one.
func (o *observer) tell(ctx context.Context, hook func(context.Context, *CallInfo), c *CallInfo) {
	if hook != nil {
		defer o.contain(ctx, c.Op)
		hook(ctx, c)
	}
}

// contain ends a panic of a hook. It is deferred.
func (o *observer) contain(ctx context.Context, op string) {
	value := recover()
	if value == nil || o.fell.Swap(true) {
		return
	}
	fell := &HookPanic{op, value}
	defer func() {
		if recover() != nil { // Error panics, if only at what others do
			slog.Default().ErrorContext(ctx, fell.Error(), "op", op)
		}
	}()
	if o.hooks.Error == nil {
		panic(fell) // to the log
	}
	o.hooks.Error(ctx, &CallInfo{Op: op, Swallowed: fell})
}

// called tells of a call that has ended, and of the fault in it.
func (o *observer) called(ctx context.Context, c *CallInfo) {
	if o != nil {
		o.tell(ctx, o.hooks.Call, c)
		o.failed(ctx, c)
	}
}

// failed tells of the fault of a call, if it has one.
func (o *observer) failed(ctx context.Context, c *CallInfo) {
	if o != nil && (c.Swallowed != nil || isOpFault(c.Err)) {
		o.tell(ctx, o.hooks.Error, c)
	}
}

func (o *observer) loaded(ctx context.Context, c *CallInfo) {
	if o != nil {
		o.tell(ctx, o.hooks.Load, c)
	}
}

func (o *observer) invalidated(ctx context.Context, c *CallInfo) {
	if o != nil {
		o.tell(ctx, o.hooks.Invalidate, c)
		o.failed(ctx, c)
	}
}

func (o *observer) state(s StateInfo) {
	if o != nil && o.hooks.State != nil {
		defer o.contain(context.Background(), "")
		o.hooks.State(s)
	}
}

// isOpFault reports whether err is an operation's own, and no miss. A cached
// function's function may return any other.
func isOpFault(err error) bool {
	if err == nil || errors.Is(err, ErrMiss) {
		return false
	}
	if _, ok := errors.AsType[*OpError](err); ok {
		return true
	}
	_, ok := errors.AsType[*KeysError](err)
	return ok
}

// A witness counts what befalls one type on one connection, and tells those who
// want to hear of it: the connection's hooks and the cached function's. It is
// for calls of several steps; a query is its own.
type witness struct {
	*tally
	conn     *Conn
	fn       *observer // nil unless a cached function has hooks
	typeName string
}

// witness returns who sees what happens to a type on c.
func (c *Conn) witness(o *Options, fn *observer) witness {
	return witness{c.tallies.of(o.typeName()), c, fn, o.typeName()}
}

// heard reports whether anybody wants to know: a CallInfo is made for them only.
func (w witness) heard() bool { return w.conn.observer != nil || w.fn != nil }

// called, failed, loaded and invalidated tell of a call, the fault in a call, a
// run of a cached function's function, and an invalidation. They count nothing,
// and fill in what the witness knows.
func (w witness) called(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).called) }
func (w witness) failed(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).failed) }
func (w witness) loaded(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).loaded) }
func (w witness) invalidated(ctx context.Context, c *CallInfo) {
	w.tell(ctx, c, (*observer).invalidated)
}

func (w witness) tell(ctx context.Context, c *CallInfo, what func(*observer, context.Context, *CallInfo)) {
	c.Conn, c.Type = w.conn.name, w.typeName
	what(w.conn.observer, ctx, c)
	what(w.fn, ctx, c)
}

// A sighting is an operation under way on a connection that has hooks.
type sighting struct {
	ctx   context.Context
	begun time.Time
	info  CallInfo
}

// sight notes the beginning of an operation that hooks will hear of.
func (q *query) sight(ctx context.Context, o *Object) {
	q.seen = &sighting{ctx: ctx, begun: time.Now(), info: CallInfo{
		Op: q.op, Conn: q.conn.name, Shard: q.conn.shards[q.shard].name, Type: o.opts.typeName(), Key: q.front + q.key,
	}}
}

// hitIf is the result of a look-up that found a value or not.
func hitIf(found bool) Result {
	if found {
		return Hit
	}
	return Miss
}

// outcome is what the operation came to as a look-up, where it is one.
func (q *query) outcome() Result {
	switch {
	case q.result != NoLookup || !q.looks:
		return q.result
	case q.err == nil:
		return Hit
	case errors.Is(q.err, ErrMiss):
		return Miss
	}
	return NoLookup
}

// witness counts the operation, which has ended, and tells the hooks.
func (q *query) witness() {
	result := q.outcome()
	if q.tally != nil {
		q.tally.call(result, q.err)
	}
	if q.seen == nil {
		return
	}
	c := &q.seen.info
	if c.Result, c.Err, c.Reason = result, q.err, q.reason; result == Miss && c.Reason == NoReason {
		c.Reason = MissAbsent
	}
	c.Elapsed = time.Since(q.seen.begun)
	c.BytesOut, c.BytesIn = len(q.p.Frames()), q.p.Replies().Size()
	q.conn.observer.called(q.seen.ctx, c)
}

// begun returns the time, where anybody wants to know it.
func (m *many) begun() (now time.Time) {
	if m.conn.observer != nil {
		now = time.Now()
	}
	return now
}

// witness counts an operation on many keys, which has ended, and tells the
// hooks, unless its caller does (quiet).
func (m *many) witness(ctx context.Context, begun time.Time, err error) {
	w := m.conn.witness(&m.opts, nil)
	if m.near == 0 || m.hits+m.misses > 0 || err != nil {
		w.many(m.hits, m.misses, err)
	}
	w.add(countNearHit, int64(m.near))
	if m.quiet || !w.heard() {
		return
	}
	w.called(ctx, &CallInfo{Op: m.op, Hits: m.hits + m.near, Misses: m.misses, Elapsed: time.Since(begun), Err: err})
}

// LogHooks returns Hooks that write to l: faults and lost connections as
// warnings, connections made as information, and calls, loads and invalidations
// for debugging; a call without a fault is only put into words where l is
// enabled for that. Keys and tags are written, values never.
func LogHooks(l *slog.Logger) *Hooks {
	write := func(level slog.Level, message string) func(context.Context, *CallInfo) {
		return func(ctx context.Context, c *CallInfo) {
			if l.Enabled(ctx, level) {
				l.LogAttrs(ctx, level, message, slog.Any("call", c))
			}
		}
	}
	return &Hooks{
		Call:       write(slog.LevelDebug, "caches: call"),
		Load:       write(slog.LevelDebug, "caches: load"),
		Error:      write(slog.LevelWarn, "caches: fault"),
		Invalidate: write(slog.LevelDebug, "caches: invalidate"),
		State: func(s StateInfo) {
			level := slog.LevelInfo
			if s.Err != nil {
				level = slog.LevelWarn
			}
			l.LogAttrs(context.Background(), level, "caches: "+s.State.String(),
				slog.String("conn", s.Conn), slog.String("shard", s.Shard), slog.Any("err", s.Err))
		},
	}
}

// LogValue returns what is not zero to package log/slog.
func (c *CallInfo) LogValue() slog.Value {
	all := []slog.Attr{
		slog.String("op", c.Op), slog.String("conn", c.Conn), slog.String("shard", c.Shard), slog.String("type", c.Type),
		slog.String("function", c.Function), slog.String("key", c.Key), slog.Any("tags", c.Tags),
		slog.String("result", c.Result.String()), slog.String("reason", c.Reason.String()), slog.String("tag", c.Tag),
		slog.Int("hits", c.Hits), slog.Int("misses", c.Misses),
		slog.Duration("elapsed", c.Elapsed), slog.Duration("ran", c.Ran), slog.Duration("waited", c.Waited),
		slog.Int("bytes_out", c.BytesOut), slog.Int("bytes_in", c.BytesIn), slog.Bool("dropped", c.Dropped),
		slog.Any("err", c.Err), slog.Any("swallowed", c.Swallowed),
	}
	return slog.GroupValue(slices.DeleteFunc(all, func(a slog.Attr) bool {
		switch v := a.Value.Any().(type) {
		case nil:
			return true
		case []string:
			return len(v) == 0
		case bool:
			return !v
		case string:
			return v == ""
		case int64:
			return v == 0
		case time.Duration:
			return v == 0
		}
		return false
	})...)
}

// Stats is what a connection has counted since it was opened; see [Conn.Stats].
type Stats struct {
	// Types has the counts of each type of object, by its Options.Prefix; the
	// objects of a struct that [Bind] fills count by prefix and field,
	// "prefix.name". There are 1,000 at most: what comes later counts under
	// "(others)".
	Types map[string]TypeStats

	// Shards has the counts of the stores that keep any, by the shard's name:
	// what travelled between this process and the servers.
	Shards map[string]driver.Stats
}

// TypeStats counts what was done with the objects of one type. Operations of
// which a look-up is a step count as one; of operations on many keys every key
// that is looked up counts.
type TypeStats struct {
	Hits      int64 // look-ups that found a value in the store
	NearHits  int64 // … in this process's near cache
	StaleHits int64 // … an expired one that was served, see CachedOptions.Stale
	Misses    int64 // … none that counts
	Others    int64 // operations that look nothing up, and did not fail
	Errors    int64 // operations that failed; a miss is no failure

	Loads         int64         // runs of a cached function's own function
	LoadErrors    int64         // … that failed
	LoadTime      time.Duration // … that they took, together
	Dropped       int64         // … whose result was not kept, as it was invalidated by its key meanwhile
	Swallowed     int64         // faults in spite of which a caller was served
	Invalidations int64         // of keys, tags and namespaces
}

// Lookups returns how many look-ups ended without a fault.
func (s TypeStats) Lookups() int64 { return s.Hits + s.NearHits + s.StaleHits + s.Misses }

// HitRatio returns which part of the look-ups found a value, from 0 to 1; 0
// where there were none.
func (s TypeStats) HitRatio() float64 {
	if n := s.Lookups(); n > 0 {
		return 1 - float64(s.Misses)/float64(n)
	}
	return 0
}

// Stats returns what the connection has counted so far. The counts are read one
// after the other, so that a call under way may show in some of them only. To
// count costs an operation some 10 ns and allocates nothing.
func (c *Conn) Stats() Stats {
	s := Stats{Types: make(map[string]TypeStats), Shards: make(map[string]driver.Stats)}
	for name, t := range c.tallies.all() {
		s.Types[name] = t.sum()
	}
	for _, shard := range c.shards {
		if m, ok := shard.store.(driver.Meter); ok {
			s.Shards[shard.name] = m.Stats()
		}
	}
	return s
}

// The counters of a tally. Those of results come in the order of [Result].
const (
	countOther = iota
	countHit
	countNearHit
	countStaleHit
	countMiss
	countError
	countLoad
	countLoadError
	countLoadTime // nanoseconds
	countDropped
	countSwallowed
	countInvalidation
	counters
)

// A tally counts for one type on one connection. Its counters stand in several
// cells, of which each count takes one by chance: on one alone all processors
// would wait for each other.
type tally struct {
	cells [tallyCells]struct {
		n [counters]atomic.Int64
		_ [128 - 8*counters]byte // two lines of a processor's cache each
	}
}

const tallyCells = 8 // a power of two

func (t *tally) add(counter int, n int64) {
	t.cells[rand.Uint32()%tallyCells].n[counter].Add(n)
}

// call counts an operation that has ended.
func (t *tally) call(result Result, err error) {
	switch {
	case result != NoLookup:
		t.add(int(result), 1)
	case err != nil && isOpFault(err):
		t.add(countError, 1)
	default:
		t.add(countOther, 1)
	}
}

// many counts an operation on many keys that has ended.
func (t *tally) many(hits, misses int, err error) {
	if hits+misses == 0 {
		t.call(NoLookup, err)
		return
	}
	t.add(countHit, int64(hits))
	t.add(countMiss, int64(misses))
	if err != nil {
		t.add(countError, 1)
	}
}

// load counts a run of a cached function's own function.
func (t *tally) load(took time.Duration, err error, dropped bool) {
	t.add(countLoad, 1)
	t.add(countLoadTime, int64(took))
	if err != nil {
		t.add(countLoadError, 1)
	}
	if dropped {
		t.add(countDropped, 1)
	}
}

func (t *tally) sum() TypeStats {
	var n [counters]int64
	for i := range t.cells {
		for j := range n {
			n[j] += t.cells[i].n[j].Load()
		}
	}
	return TypeStats{
		Hits: n[countHit], NearHits: n[countNearHit], StaleHits: n[countStaleHit], Misses: n[countMiss],
		Others: n[countOther], Errors: n[countError],
		Loads: n[countLoad], LoadErrors: n[countLoadError], LoadTime: time.Duration(n[countLoadTime]),
		Dropped: n[countDropped], Swallowed: n[countSwallowed], Invalidations: n[countInvalidation],
	}
}

// maxTypes bounds the types that are counted apart: prefixes made at run time
// must not fill the memory.
const maxTypes = 1000

// otherTypes is the name of those beyond.
const otherTypes = "(others)"

// Tallies are the tallies of a connection, by type. The zero value is ready.
type tallies struct {
	mu sync.Mutex // held by writers
	// byType is replaced whole, never changed: readers take no lock.
	byType atomic.Pointer[map[string]*tally]
}

// of returns the tally of a type, which it makes the first time.
func (t *tallies) of(typeName string) *tally {
	if found := t.all()[typeName]; found != nil {
		return found
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all()
	if len(all) >= maxTypes && all[typeName] == nil {
		typeName = otherTypes
	}
	if found := all[typeName]; found != nil {
		return found
	}
	next := maps.Clone(all)
	if next == nil {
		next = make(map[string]*tally)
	}
	next[typeName] = new(tally)
	t.byType.Store(&next)
	return next[typeName]
}

func (t *tallies) all() map[string]*tally {
	if p := t.byType.Load(); p != nil {
		return *p
	}
	return nil
}
