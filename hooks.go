package caches

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
