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
	"github.com/gocaches/caches/internal/tally"
)

// Hooks are callbacks that observe operations, loads, faults, invalidations and
// connection states. A nil hook costs nothing. Hooks run on the goroutine of
// the call, which waits for them, so they should be quick. They must be safe
// for concurrent use. A hook that panics does not affect the call: the first
// panic is passed to Error, as a [HookPanic] in CallInfo.Swallowed, or to
// [slog.Default] if Error is nil or has panicked itself.
//
// A hook may read its CallInfo until it returns, and must not modify it. A
// CallInfo contains keys and tags unchanged, but never values.
//
// A connection may have Hooks ([ConnOptions]), and so may a cached function
// ([CachedOptions]). Events that concern both are passed to both, to the
// connection's hooks first. A hook that uses a connection with the same hook
// observes its own operations, and must avoid endless recursion.
type Hooks struct {
	// Call is called after every operation of an object, and after every call
	// of a cached function.
	Call func(ctx context.Context, c *CallInfo)

	// Load is called after every run of a cached function's own function. In c,
	// Lookup and Reason say why it ran, Err is its error, and Dropped reports
	// whether its result was not kept. The ctx has the values of the first
	// caller's, but not its cancellation. Perhaps no caller waits any more.
	Load func(ctx context.Context, c *CallInfo)

	// Error is called for every fault. The fault is c.Err if the caller got it,
	// or c.Swallowed if the caller got a result nevertheless. A miss is not a
	// fault, nor is an error of a cached function's own function.
	Error func(ctx context.Context, c *CallInfo)

	// Invalidate is called after this process has invalidated a key, a set of
	// tags or a namespace. If c.Err is not nil, part of it may still be valid.
	Invalidate func(ctx context.Context, c *CallInfo)

	// State is called for each new state of a shared connection, independently
	// of calls. Calls that need the connection wait for State, so it must not use
	// that connection. The states of one server come one at a time, in order.
	State func(s StateInfo)
}

// A CallInfo describes one call. Fields that do not apply are zero.
type CallInfo struct {
	Op       string   // the method: "Value.Get", "Cached.Get", "InvalidateTags"
	Conn     string   // the connection's name
	Shard    string   // the shard's name; empty for several shards
	Type     string   // the type's prefix, as in [Stats]
	Function string   // the cached function's name
	Key      string   // the full key; empty for calls on many keys
	Tags     []string // of the object or the argument, or the invalidated ones

	Lookup Lookup     // of a look-up; LookupNone for other calls
	Reason MissReason // of LookupMiss or LookupStale
	Tag    string     // the invalidated tag, if Reason is MissTag
	Hits   int        // number of keys with a value, in a call on many keys
	Misses int        // number of keys without one

	Elapsed time.Duration // of the whole call
	Ran     time.Duration // of the cached function's own function
	Waited  time.Duration // for a lease held by another process

	BytesOut int // of commands of an operation on one key
	BytesIn  int // of their replies

	Dropped   bool  // the result was not kept, because its key was invalidated meanwhile
	Err       error // the error that the caller got, including ErrMiss
	Swallowed error // a fault despite which the caller got a result
}

// A StateInfo is a new state of a shared connection to a server.
type StateInfo struct {
	Conn  string       // the connection's name
	Shard string       // the shard's name
	State driver.State // Connected, Disconnected, Resting, TrackingOn or TrackingOff
	Err   error        // the reason, nil if the connection was closed on purpose
}

// A Lookup is the result of a look-up.
type Lookup uint8

const (
	LookupNone  Lookup = iota // the call was not a look-up, or it failed
	LookupHit                 // a value was in the store
	LookupNear                // a value was in this process's near cache
	LookupStale               // an expired value was served; see CachedOptions.Stale
	LookupMiss                // there was no valid value; see the Reason
)

// String returns "hit", "near hit", "stale hit", "miss" or, for LookupNone, "".
func (l Lookup) String() string { return wordOf(l, "", "hit", "near hit", "stale hit", "miss") }

// counter returns the counter of the operations with this result.
func (l Lookup) counter() tally.Counter {
	switch l {
	case LookupHit:
		return tally.Hit
	case LookupNear:
		return tally.NearHit
	case LookupStale:
		return tally.StaleHit
	case LookupMiss:
		return tally.Miss
	}
	return tally.Other
}

// A MissReason says why a look-up found no valid value.
type MissReason uint8

const (
	MissNone    MissReason = iota
	MissAbsent             // nothing is stored
	MissExpired            // past its soft expiry
	MissEarly              // not expired, but computed early; see CachedOptions.Early
	MissTag                // a tag was invalidated; see CallInfo.Tag
	MissVersion            // the namespace was invalidated, or the entry has another format
	MissCorrupt            // the stored value does not decode
	MissFault              // the server was unavailable
)

// String returns "absent", "expired", "early", "tag", "version", "undecodable",
// "error" or, for MissNone, "".
func (r MissReason) String() string {
	return wordOf(r, "", "absent", "expired", "early", "tag", "version", "undecodable", "error")
}

func wordOf[N ~uint8](i N, words ...string) string {
	if int(i) < len(words) {
		return words[i]
	}
	return fmt.Sprintf("%T(%d)", i, uint8(i))
}

// An observer has the Hooks of one connection or cached function. A nil
// observer has none.
type observer struct {
	hooks Hooks
	fell  atomic.Bool // a panic was reported; later ones are not
}

func newObserver(h *Hooks) *observer {
	if h == nil {
		return nil
	}
	return &observer{hooks: *h}
}

// tell calls a hook unless it is nil.
func (o *observer) tell(ctx context.Context, hook func(context.Context, *CallInfo), c *CallInfo) {
	if hook != nil {
		defer o.contain(ctx, c.Op)
		hook(ctx, c)
	}
}

// contain recovers from a panic of a hook. It must be deferred.
func (o *observer) contain(ctx context.Context, op string) {
	value := recover()
	if value == nil || o.fell.Swap(true) {
		return
	}
	fell := &HookPanic{op, value}
	defer func() {
		if recover() != nil { // Error is nil, or panicked in turn
			slog.Default().ErrorContext(ctx, fell.Error(), "op", op)
		}
	}()
	if o.hooks.Error == nil {
		panic(fell) // recovered above, and logged
	}
	o.hooks.Error(ctx, &CallInfo{Op: op, Swallowed: fell})
}

// called reports a completed call, and its fault if it has one.
func (o *observer) called(ctx context.Context, c *CallInfo) {
	if o != nil {
		o.tell(ctx, o.hooks.Call, c)
		o.failed(ctx, c)
	}
}

// failed reports the fault of a call, if it has one.
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

// isOpFault reports whether err is the error of an operation, but not a miss.
// Any other error is that of a cached function's own function.
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

// LogHooks returns Hooks that write to l. Faults and connection states with an
// error have level Warn, other connection states Info, and calls, loads and
// invalidations Debug. A call costs no formatting unless l is enabled for its
// level. Keys and tags are written, but never values.
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

// LogValue implements [slog.LogValuer]. It returns the fields that are not
// zero.
func (c *CallInfo) LogValue() slog.Value {
	all := []slog.Attr{
		slog.String("op", c.Op), slog.String("conn", c.Conn), slog.String("shard", c.Shard), slog.String("type", c.Type),
		slog.String("function", c.Function), slog.String("key", c.Key), slog.Any("tags", c.Tags),
		slog.String("result", c.Lookup.String()), slog.String("reason", c.Reason.String()), slog.String("tag", c.Tag),
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
