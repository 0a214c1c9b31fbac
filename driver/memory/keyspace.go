package memory

import (
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/maypok86/otter/v2"
)

// A space holds the keys of a Store and their values.
//
// mu guards all fields below it. The policy is called only by holders of mu, and
// runs its maintenance in the caller, as its executor is synchronous. So it
// evicts while a writer holds mu exclusively, or at worst under a reader, which
// leaves the victim in victims for the next writer.
//
// The map of keys is separate from the otter cache, at the cost of a look-up and
// a second map, because the cache evicts at any time, even during a transaction,
// and cannot hold keys that must stay. It is used as a policy only: it is told
// when a key is added, read or deleted, but not when a value changes in place.
type space struct {
	max    int
	forget bool
	clock  func() time.Time // nil: time.Now
	turns  sync.Pool        // of *turn

	// The length limit of APPEND: 512 MiB as in Redis (proto-max-bulk-len), less
	// in a test.
	maxString int

	mu       sync.RWMutex
	keys     map[string]*entry
	order    []*entry // all entries, in the order of SCAN; entry.at is the index
	expiring deadlines
	policy   *otter.Cache[string, *entry] // the entries that may be evicted
	bounded  int                          // entries in policy, victims included
	warm     bool                         // policy is told of reads; see touch
	closed   bool

	// victims has its own lock, because policy may evict under a reader's lock. No
	// other lock is taken under it. A writer may read victims without it, as no
	// other goroutine calls policy then.
	victimsMu sync.Mutex
	victims   []*entry
}

// An entry is one key. Its fields change under space.mu held alone.
type entry struct {
	// The fields that a read needs come first: they share a cache line.
	deadline int64      // in milliseconds of Unix time, 0 for none; present while now <= deadline
	str      []byte     // the value if object is nil
	object   collection // the value, nil for a string; never empty between commands

	key  string
	at   int  // index in space.order
	slot int  // index in space.expiring, -1 without a deadline
	kept bool // not in policy, because a Keep pipeline has written it
}

// A collection is a value that is not a string. COPY and TYPE use only these
// methods, so they cannot miss a type.
type collection interface {
	typeName() string  // as TYPE returns it
	clone() collection // shares nothing with the original
	len() int          // 0 only within a command: an empty collection is not a key
}

// newSpace returns an empty space. o must be valid.
func newSpace(o Options) (*space, error) {
	s := &space{max: o.max(), forget: o.Forget, clock: o.Clock, maxString: 512 << 20, keys: make(map[string]*entry)}
	s.turns.New = func() any { return &turn{space: s} }
	policy, err := otter.New(&otter.Options[string, *entry]{
		MaximumSize:      s.max,
		Executor:         func(f func()) { f() },
		OnAtomicDeletion: s.onDeletion,
	})
	if err != nil {
		return nil, err
	}
	s.policy = policy
	return s, nil
}

// onDeletion is called by policy under its locks and must not call policy.
func (s *space) onDeletion(e otter.DeletionEvent[string, *entry]) {
	if !e.WasEvicted() {
		return
	}
	s.victimsMu.Lock()
	s.victims = append(s.victims, e.Value)
	s.victimsMu.Unlock()
}

// reap removes the entries that policy has evicted. It runs at both ends of a
// writer's turn, so that no key disappears between two look-ups of a command or
// two commands of a transaction. In between, an evicted entry is in keys but not
// in policy:
//
//	SET a   adds a; policy admits a and evicts b
//	GET b   still returns the value of b
//	INCR b  still increments b
//	unlock  reap removes b, as if it had been evicted just after the INCR
func (s *space) reap() {
	s.victimsMu.Lock()
	defer s.victimsMu.Unlock()
	for _, e := range s.victims {
		s.bounded--
		// Since the eviction, the key may have been deleted, added again as
		// another entry, or kept. Only the same entry is removed.
		if s.keys[e.key] == e && !e.kept {
			s.forgetEntry(e)
		}
	}
	clear(s.victims)
	s.victims = s.victims[:0]
}

// add adds a key that does not exist. The caller sets the value of the entry. The
// policy may evict an entry, even the new one; like any victim, it is removed at
// the end of the turn.
func (s *space) add(key []byte, kept bool) *entry {
	e := &entry{key: string(key), at: len(s.order), slot: -1, kept: kept}
	s.keys[e.key] = e
	s.order = append(s.order, e)
	if !kept {
		s.policy.Set(e.key, e)
		s.bounded++
		s.warm = s.warm || s.bounded >= s.max/2
	}
	return e
}

// keep exempts e from eviction.
func (s *space) keep(e *entry) {
	if !e.kept {
		e.kept = true
		s.withdraw(e)
	}
}

// drop deletes the key of e.
func (s *space) drop(e *entry) {
	if !e.kept {
		s.withdraw(e)
	}
	s.forgetEntry(e)
}

// withdraw removes e from policy. If policy has evicted e in this turn, reap
// decrements bounded.
func (s *space) withdraw(e *entry) {
	if _, ok := s.policy.Invalidate(e.key); ok {
		s.bounded--
	}
}

// forgetEntry removes e from all fields except policy. It clears the deadline of e
// but not its value.
func (s *space) forgetEntry(e *entry) {
	s.setDeadline(e, 0)
	delete(s.keys, e.key)
	last := len(s.order) - 1
	s.order[e.at] = s.order[last]
	s.order[e.at].at = e.at
	s.order[last] = nil
	s.order = s.order[:last]
}

// touch tells policy that e was used. Until policy is half full it records no
// frequencies and would ignore the call. Skipping the call until then makes reads
// cheaper and has no other effect.
func (s *space) touch(e *entry) {
	if s.warm && !e.kept {
		s.policy.GetIfPresent(e.key)
	}
}

// flush deletes all keys. A few keys, as a Store with Forget has after a pipeline,
// are deleted one by one: clearing policy costs as much as thousands of deletions.
func (s *space) flush() {
	if len(s.order) < 64 {
		for len(s.order) > 0 {
			s.drop(s.order[len(s.order)-1])
		}
		return
	}
	s.policy.InvalidateAll()
	s.reap() // decrements bounded for the victims of this turn, before it is reset
	s.bounded = 0
	s.keys, s.order, s.expiring = make(map[string]*entry), nil, nil
}

// close deletes all keys and makes later turns fail. It waits for turns in
// progress, as they hold the lock.
func (s *space) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.flush()
}

// len returns the number of keys that have not expired.
func (s *space) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.order) - s.expiring.passed(s.now().UnixMilli())
}

// now returns the time of the clock.
func (s *space) now() time.Time {
	if s.clock == nil {
		return time.Now()
	}
	return s.clock()
}

// do runs p: under one lock if it is Atomic, else with a reader's lock until the
// first command that writes.
func (s *space) do(p *driver.Pipeline) error {
	if p.Len() == 1 && p.Name(0) == "GET" && p.Args(0) == 2 && !s.forget {
		if key := p.FirstKey(0); key != nil {
			return s.get(key, p.Replies())
		}
	}
	t := s.turns.Get().(*turn)
	t.out, t.keep = p.Replies(), p.Mode()&driver.Keep != 0
	err := t.run(p)
	t.reset()
	s.turns.Put(t)
	return err
}

// get runs a pipeline of one GET, by far the most frequent one. Without a turn and
// the table of commands it takes half the time. It must do the same as turn.get.
func (s *space) get(key []byte, out *driver.Replies) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	e := s.keys[string(key)]
	switch {
	case e == nil, e.deadline != 0 && s.now().UnixMilli() > e.deadline:
		out.Nil()
	case e.object != nil:
		out.Error(wrongType)
	default:
		s.touch(e)
		out.Bytes(e.str)
	}
	return nil
}
