// Package move finds keys at their previous places after a change of shards, and
// moves each to its current place when a command names it. A change of shards
// then loses nothing and costs each key one move.
//
// # One move
//
// A key has a previous place and a current one, on different shards. Several
// processes may move it at once, while others read and write it. Each step is one
// round trip for all keys of a call:
//
//	step      place     commands              meanwhile
//	look      previous  EXISTS                absent: the steps up to remove are left out
//	announce  current   SET token NX GET      another move may leave the token first: both use it
//	read      previous  DUMP, PTTL            another move may have removed the key: nothing is stored
//	store     current   script: token? RESTORE  a write, or another move, may have removed the token: nothing is stored
//	remove    previous  UNLINK key            others may read the key before: they then find no token
//	forbid    current   UNLINK token          only before a write; a later token finds the previous place empty
//
// Then the commands themselves run at the current place.
//
// # Invariants
//
//  1. A value is stored only if a token that was set before the value was read is
//     still there. The same script removes the token, so at most one of several
//     moves stores.
//  2. A move never replaces a key at the current place.
//  3. The previous place is emptied only after the store: a reader that finds it
//     empty finds the value at the current place. A value is lost only if its move
//     takes longer than the life of the token, or if the server of the current
//     place cannot read the dump.
//  4. A write runs only after the previous place is empty and then the token
//     removed. A value that the write replaces or deletes never comes back.
//  5. If a step fails, the commands for that shard are not sent, and the key is
//     looked for again by the next call. Steps may be repeated at any time.
//  6. A key that was found moved is not looked for again: by reads after the
//     previous place was empty, by writes also after the token was removed.
//     Forgetting that is safe.
//  7. An entry of a namespace is valid under a stamp that each shard has of its
//     own. It is stored with the stamp of the current shard, which is read or set
//     before the entry is read, and only if its stamp at the previous place was
//     valid when it was read. The invalidation of a namespace removes the stamps
//     of the previous shards before those of the current ones; so it invalidates
//     entries that move meanwhile, too.
//
// Keys whose shard is the same, stamps of namespaces and side keys do not move. A
// process that still uses the previous shards alone does not take part: keys that
// it writes after they have moved are not found.
package move

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/gocaches/caches/driver"
)

// A Config describes a change of shards. All fields but Route are required.
type Config struct {
	// Previous and Current run ps[i] on shard i, all at once, and return when all
	// are done. Nil entries are skipped. The result has the error of each shard,
	// and is nil if there is none.
	Previous, Current func(ctx context.Context, ps []*driver.Pipeline) []error

	// Shards is the number of current shards.
	Shards int
	// Same has one entry for each previous shard: its index among the current
	// shards, -1 if it is none of them.
	Same []int
	// Route returns the index of the previous shard on which a key was. Nil means
	// that there is one previous shard.
	Route func(key string) int

	Layout Layout
	// Unanswered reports whether err says that a reply was lost, and there is time
	// to send the commands again.
	Unanswered func(ctx context.Context, err error) bool
}

// A Layout knows the names of keys and the format of entries. Keys include the
// prefix of the connection.
type Layout interface {
	// Kind returns the kind of a key.
	Kind(key []byte) Kind
	// TokenKey returns the name of the token beside a key. It is in the key's slot
	// of a cluster, and its kind is Side.
	TokenKey(key string) string
	// NewStamp returns a new stamp of a namespace.
	NewStamp() []byte
	// Restamp returns data, an entry under the namespace's stamp previous, as an
	// entry under the stamp current. It may change data. It returns nil if data is
	// not an entry, or not one under that stamp.
	Restamp(data, previous, current []byte) []byte
}

// A Kind says whether a key moves.
type Kind uint8

const (
	// Plain keys move.
	Plain Kind = iota
	// Namespace keys hold the stamp of a namespace. Each shard has its own. One that
	// is in a Pipeline is that of all entries in it.
	Namespace
	// Side keys last only as long as a computation or a move. They do not move.
	Side
)

// maxKnown bounds the keys known to have moved. Above it all are forgotten, and
// looked for again.
const maxKnown = 1 << 17

// A Mover moves keys before the commands that name them run. It is safe for
// concurrent use.
type Mover struct {
	config Config

	mu    sync.Mutex
	known map[string]knowledge // of keys whose place has changed; guarded by mu
}

// A knowledge says which commands need not look for a key at its previous place.
type knowledge uint8

const (
	forNone knowledge = iota
	forReaders
	forWriters // and readers: no move can store the previous value any more
)

// New returns a Mover for the change that c describes.
func New(c Config) *Mover { return &Mover{config: c, known: make(map[string]knowledge)} }

// Bring moves the keys of p, whose commands are about to run on a current shard.
// After an error they must not run. It sends nothing if all keys are known to have
// moved, and looks in vain at most once for a key that was not at its previous
// place. Each step takes one round trip.
func (m *Mover) Bring(ctx context.Context, shard int, p *driver.Pipeline) error {
	moves := m.moves(nil, shard, p)
	if moves == nil {
		return nil
	}
	m.run(ctx, moves, p.Mode()&driver.ReadOnly == 0)
	for _, k := range moves {
		if k.err != nil {
			return k.err
		}
	}
	return nil
}

// BringAll is Bring for a Pipeline of each current shard; nil entries are skipped.
// It returns the error of each, and nil if there is none.
func (m *Mover) BringAll(ctx context.Context, ps []*driver.Pipeline) []error {
	var moves []*move
	writes := false
	for shard, p := range ps {
		if p != nil {
			moves = m.moves(moves, shard, p)
			writes = writes || p.Mode()&driver.ReadOnly == 0
		}
	}
	if moves == nil {
		return nil
	}
	m.run(ctx, moves, writes)
	errs := make([]error, len(ps))
	for _, k := range moves {
		errs[k.to] = cmp.Or(errs[k.to], k.err)
	}
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return nil
	}
	return errs
}

// moved returns the move of a key that is now on a shard, nil if none is needed.
func (m *Mover) moved(key string, shard int, least knowledge) *move {
	from := 0
	if m.config.Route != nil {
		from = m.config.Route(key)
	}
	if m.config.Same[from] == shard {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[key] >= least {
		return nil
	}
	return &move{key: key, from: from, to: shard}
}

// note remembers the keys that were moved, or were not at their previous places.
func (m *Mover) note(moves []*move) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known)+len(moves) > maxKnown {
		clear(m.known)
	}
	for _, k := range moves {
		if k.err == nil {
			m.known[k.key] = max(m.known[k.key], k.knownAfter)
		}
	}
}
