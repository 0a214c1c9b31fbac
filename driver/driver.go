package driver

import (
	"context"
	"time"
)

// A Store runs commands. What answers these two methods can back every object
// of package caches. A Store is safe for concurrent use.
type Store interface {
	// Do runs the commands of p in order and leaves one reply for each in
	// p.Replies. An error reply of the server is a reply, not an error of Do.
	//
	// Do's own error says that the replies are not all there. It wraps
	// [ErrUnavailable] when nothing was run, and [ErrUnknownOutcome] when it
	// cannot be known whether all was. Where ctx ended the call, it wraps
	// ctx's error as well.
	//
	// If the commands go to several servers and some of these fail, Do's error is
	// nil and the replies of the other servers are valid. The Err of each missing
	// reply is the error of its server.
	//
	// Once Do has returned, the Store holds no reference to p: the caller may
	// read the replies, reuse p or free it, also after an error.
	Do(ctx context.Context, p *Pipeline) error

	// Close lets go of all that the Store holds. Calls under way end with a
	// definite outcome; later ones fail with [ErrUnavailable]. A second Close
	// does nothing.
	Close() error
}

// A Starter is a Store that can send the commands of a [Pipeline] and let its
// caller go on before the replies are there, so that one goroutine has several
// Stores at work. Stores need not be one.
type Starter interface {
	Store
	// Start begins what Do does. p is the Store's until Finish has returned.
	Start(ctx context.Context, p *Pipeline) Pending
}

// A Pending is a call that was started.
type Pending interface {
	// Finish waits for the end of the call and returns what Do would have. It
	// must be called once, also when ctx has ended: then it does not wait.
	Finish() error
}

// A Cluster is a Store over servers that divide the keys among themselves, by
// slots: Redis Cluster. Do sends each command where its keys live.
//
//   - MGET, DEL, UNLINK, EXISTS and TOUCH take keys of any slots: each argument
//     is one. They are not one step then. Where some servers fail, MGET has their
//     errors in the places of their keys.
//   - All keys of another command, of a [Script] and of an [Atomic] or [Own]
//     Pipeline share a slot: else the server says so by a CROSSSLOT error, or the
//     Store, before anything is sent, by [ErrCrossSlot].
//   - A command without a key runs on one of the servers that have keys.
type Cluster interface {
	Store
	// Slot returns the slot of the key front+key, from 0 to 16383. Keys of one
	// slot live on one server, whichever that is.
	Slot(front, key string) int
	// Masters returns one Store for each server that has keys, or may soon have
	// some: commands without a key run on that server, the others where their
	// keys live. They need not be closed. A server that comes later is not among
	// them; one that leaves answers no more.
	//
	// It asks no server, unless none has said yet who they are: its error is as
	// that of Do.
	Masters(ctx context.Context) ([]Store, error)
}

// A Tracker is a Store that can tell which keys change, whoever changes them.
// Stores need not be one.
type Tracker interface {
	Store
	// Track has tell called for what happens to keys that begin with one of
	// prefixes, from now until stop is called or the Store is closed; it mends
	// what breaks meanwhile, and tells when it was broken. None of prefixes may
	// begin with another. It does not wait for the server, and returns nil where
	// this Store cannot track.
	//
	// Tell is called by one goroutine at a time, which waits for it. Stop does
	// not wait: tell may still be called for what was under way.
	Track(prefixes []string, tell func(Event)) (stop func())
}

// An Event is what a [Tracker] tells.
type Event struct {
	Kind EventKind
	Key  []byte    // of Changed; it is valid until tell returns
	At   time.Time // of Tracking and Synced, on this process's clock
	Err  error     // of Lost
}

// An EventKind is what has happened. Before the first Tracking, and from a Lost
// to the next Tracking, nobody says what changes.
type EventKind uint8

const (
	// Tracking begins the time in which every change is told.
	Tracking EventKind = iota + 1
	// Changed says that Key was written, removed, evicted or has expired.
	Changed
	// Flushed says that all keys are gone, or may be.
	Flushed
	// Synced says that the server is there, and that every change before At
	// has been told. It comes every second or so.
	Synced
	// Lost ends the time that Tracking began: changes may go untold. Err says
	// why. It also comes for each attempt to begin again that failed.
	Lost
)

// A Mode says what may be done with the commands of a [Pipeline] besides
// sending them once, one after the other. The zero Mode promises nothing.
type Mode uint8

const (
	// ReadOnly marks commands that change nothing: they may be sent again
	// after a lost reply, and a replica may answer them; see Master.
	ReadOnly Mode = 1 << iota
	// Repeatable marks commands that write, but whose second run leaves what
	// the first one left: they may be sent again after a lost reply.
	Repeatable
	// Atomic marks commands that run together or not at all, nothing of
	// anybody else's between them (MULTI and EXEC around them on Redis). All
	// their keys live on one server. The replies are those of the commands.
	Atomic
	// Keep marks commands whose keys a Store with a bound of its own must not
	// evict before they expire. A Redis server has its maxmemory-policy.
	Keep
	// Own marks commands that need a connection of their own: blocking ones,
	// subscriptions, WATCH, and others that change what later commands on the
	// same connection do. A Store that has no connections does not mind. Where
	// their context has a deadline it is the only one: to block takes as long as
	// it is meant to.
	Own
	// Master marks commands that only a master may answer, also where they are
	// ReadOnly and a Store reads from replicas: what decides over other data, such
	// as a stamp, must not be behind the last write.
	Master
)

// A Script runs on the server as one atomic step: as Lua where there is a
// Redis, as Go in stores that live in this process. Both forms must leave the
// same data and give the same reply.
type Script struct {
	sha string
	lua string
	fn  func(tx Tx, keys, args [][]byte, reply *Replies)
}

// A Tx runs commands inside the step of a [Script] in a store of this process.
type Tx interface {
	// Call runs one command and returns its reply, valid until the next Call.
	Call(name string, args ...[]byte) Reply
}

// NewScript makes a Script of its two forms. A nil fn is allowed: stores that
// cannot run Lua then answer with an error.
func NewScript(lua string, fn func(tx Tx, keys, args [][]byte, reply *Replies)) *Script {
	return &Script{sha: sha1Hex(lua), lua: lua, fn: fn}
}

// SHA returns the SHA-1 digest of the Lua source in hexadecimal, its name on a
// Redis server (EVALSHA).
func (s *Script) SHA() string { return s.sha }

// Lua returns the Lua source.
func (s *Script) Lua() string { return s.lua }

// Run runs the Go form against tx and leaves its one reply in reply. It
// reports whether there is a Go form.
func (s *Script) Run(tx Tx, keys, args [][]byte, reply *Replies) bool {
	if s.fn == nil {
		return false
	}
	s.fn(tx, keys, args, reply)
	return true
}
