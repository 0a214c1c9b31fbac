package driver

import (
	"context"
	"time"
)

// A Store runs commands. Any implementation can back all objects of package
// caches. A Store must be safe for concurrent use.
type Store interface {
	// Do runs the commands of p in order and adds one reply for each to
	// p.Replies. An error reply of the server is a reply, not an error of Do.
	//
	// A non-nil error means that replies are missing. It wraps [ErrUnavailable]
	// if no command was run, and [ErrUnknownOutcome] if some commands may have
	// run. If ctx ended the call, it also wraps the error of ctx.
	//
	// If the commands go to several servers and only some of these fail, Do
	// returns nil and the replies of the other servers are valid. In place of
	// each missing reply is one whose Err is the error of the failed server.
	//
	// After Do has returned, even with an error, the Store holds no reference
	// to p: the caller may read the replies, reuse p or free it.
	Do(ctx context.Context, p *Pipeline) error

	// Close releases the resources of the Store. Calls in progress end with a
	// definite outcome. Later calls fail with [ErrUnavailable]. Closing a Store
	// again does nothing.
	Close() error
}

// A Starter is a [Store] that can send commands without waiting for the replies,
// so that one goroutine can use several Stores at the same time. It is optional.
type Starter interface {
	Store
	// Start begins the call that Do would make. p belongs to the Store until
	// Finish has returned.
	Start(ctx context.Context, p *Pipeline) Pending
}

// A Pending is a call in progress; see [Starter].
type Pending interface {
	// Finish waits for the end of the call and returns the error that Do would
	// return. It must be called exactly once, even if ctx is done: then it
	// returns without waiting.
	Finish() error
}

// A Cluster is a [Store] over several servers that divide the keys by slots, such
// as Redis Cluster. Do sends each command to the server of its keys.
//
//   - Each argument of MGET, DEL, UNLINK, EXISTS and TOUCH is a key, and the keys
//     may be in different slots. Such a command is not atomic. If some servers
//     fail, the reply to MGET has their errors in the places of their keys.
//   - All keys of any other command, of a [Script], and of an [Atomic] or [Own]
//     Pipeline must be in one slot. Otherwise the server replies with a CROSSSLOT
//     error, or Do fails with [ErrCrossSlot] before anything is sent.
//   - A command without keys runs on any one of the servers that have slots.
type Cluster interface {
	Store
	// Slot returns the slot of the key front+key, from 0 to 16383. All keys of a
	// slot are on the same server.
	Slot(front, key string) int
	// Masters returns one Store for each server that has slots or may soon have
	// some. Each sends commands without keys to that server, and all others to
	// the server of their keys. These Stores need not be closed. They do not
	// include servers that join later, and fail once their server has left.
	//
	// Masters contacts a server only if the servers of the cluster are not known
	// yet. It fails as Do does.
	Masters(ctx context.Context) ([]Store, error)
}

// A Tracker is a [Store] that reports changes of keys, including changes by other
// clients. It is optional.
type Tracker interface {
	Store
	// Track calls tell for events on keys that begin with one of prefixes, from
	// now until stop is called or the Store is closed. It reports a lost
	// connection as an event and replaces it. No prefix may begin with another.
	// Track does not wait for the server. It returns nil if the Store cannot
	// track.
	//
	// Calls of tell do not overlap: the next event waits until tell has returned.
	// Stop does not wait: tell may still be called for events in progress.
	Track(prefixes []string, tell func(Event)) (stop func())
}

// An Event is a report of a [Tracker].
type Event struct {
	Kind EventKind
	Key  []byte    // set for Changed; valid until tell returns
	At   time.Time // set for Tracking and Synced; on the clock of this process
	Err  error     // set for Lost
}

// An EventKind is the type of an [Event]. Changes are not reported before the
// first Tracking, nor between a Lost and the next Tracking.
type EventKind uint8

const (
	// Tracking means that from now on every change is reported.
	Tracking EventKind = iota + 1
	// Changed means that Key was written, deleted or evicted, or has expired.
	Changed
	// Flushed means that all keys may have been deleted.
	Flushed
	// Synced means that the server responds and that every change before At has
	// been reported. It is sent about once a second.
	Synced
	// Lost means that changes may go unreported until the next Tracking. Err is
	// the reason. Lost is also sent for each failed attempt to resume.
	Lost
)

// A Mode is a set of flags that say how a [Store] may or must run the commands of
// a [Pipeline]. The zero Mode has none: each command is sent once, in order.
type Mode uint8

const (
	// ReadOnly marks commands that change nothing. They may be sent again if
	// the reply was lost, and a replica may answer them; see Master.
	ReadOnly Mode = 1 << iota
	// Repeatable marks writes whose second run has no further effect. They may
	// be sent again if the reply was lost.
	Repeatable
	// Atomic marks commands that run together or not at all, with no other
	// command in between. Redis runs them in MULTI and EXEC; the replies are
	// still those of the commands. All their keys must be on one server.
	Atomic
	// Keep marks commands whose keys must not be evicted before they expire, if
	// the Store bounds its own size. A Redis server follows its
	// maxmemory-policy instead.
	Keep
	// Own marks commands that need a connection of their own: blocking commands,
	// subscriptions, WATCH, and others that affect later commands on the same
	// connection. If the context has a deadline, no other timeout applies, since
	// a command may be meant to block for longer. A Store without connections
	// ignores Own.
	Own
	// Master marks commands that only a master may answer, even if they are
	// ReadOnly and the Store reads from replicas. It is for reads that decide
	// whether other data is valid: a replica may lag behind the last write.
	Master
)

// A Script runs as one atomic step: as Lua on a Redis server, as Go in a store
// in this process. Both forms must make the same changes and return
// the same reply.
type Script struct {
	sha string
	lua string
	fn  func(tx Tx, keys, args [][]byte, reply *Replies)
}

// A Tx runs commands on behalf of the Go form of a [Script].
type Tx interface {
	// Call runs one command and returns its reply, which is valid until the next
	// Call.
	Call(name string, args ...[]byte) Reply
}

// NewScript returns a Script with the given Lua and Go forms. If fn is nil, stores
// that cannot run Lua reply with an error.
func NewScript(lua string, fn func(tx Tx, keys, args [][]byte, reply *Replies)) *Script {
	return &Script{sha: sha1Hex(lua), lua: lua, fn: fn}
}

// SHA returns the SHA-1 digest of the Lua source in hexadecimal, by which a Redis
// server knows the script (EVALSHA).
func (s *Script) SHA() string { return s.sha }

// Lua returns the source of the Lua form.
func (s *Script) Lua() string { return s.lua }

// Run runs the Go form, which issues commands through tx and adds one reply to
// reply. It reports whether the Script has a Go form.
func (s *Script) Run(tx Tx, keys, args [][]byte, reply *Replies) bool {
	if s.fn == nil {
		return false
	}
	s.fn(tx, keys, args, reply)
	return true
}
