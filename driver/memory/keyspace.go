package memory

import (
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/maypok86/otter/v2"
)

// A space is the keys of a Store and their values.
//
// mu guards everything below it. The policy is called only by holders of mu,
// and runs its maintenance in the caller (its executor is synchronous): what
// it evicts, it evicts while a writer has mu alone, or, at worst, under a
// reader, which leaves the victim in victims for the next writer.
//
// Why the map of keys is not the otter cache itself, which would save a look-up
// and a map: the cache evicts when it likes, in the middle of a transaction as
// well, and cannot hold keys that must stay. So it is the policy only, and it
// is told of a key when the key is made, read, or deleted. An entry's value
// changes in place, which the policy need not know.
type space struct {
	max    int
	forget bool
	clock  func() time.Time // nil: time.Now
	turns  sync.Pool        // of *turn

	// The longest string that APPEND makes, 512 MiB as in Redis
	// (proto-max-bulk-len) but in a test.
	maxString int

	mu       sync.RWMutex
	keys     map[string]*entry
	order    []*entry // all of keys, in the order that SCAN walks; entry.at is the place
	expiring deadlines
	policy   *otter.Cache[string, *entry] // the entries that may be evicted
	bounded  int                          // entries in policy, victims included
	warm     bool                         // reads are worth showing to policy; see touch
	closed   bool

	// Its own lock, because policy may name victims under a reader's lock. No
	// other lock is taken under it.
	//
	// A writer may look at victims without it: nobody else calls policy then.
	victimsMu sync.Mutex
	victims   []*entry
}

// An entry is one key. Its fields change under space.mu held alone.
type entry struct {
	// What a read looks at stands together: it is one line of the processor's
	// cache.
	deadline int64      // in milliseconds of Unix time, 0 for none; present while now <= deadline
	str      []byte     // the value if object is nil
	object   collection // the value, nil for a string; never empty between commands

	key  string
	at   int  // index in space.order
	slot int  // index in space.expiring, -1 where there is no deadline
	kept bool // not in policy: written by a Keep pipeline at some time
}

// A collection is a value that is not a string. COPY and TYPE know it by its
// methods alone, so that no type can be left out of them.
type collection interface {
	typeName() string  // as TYPE returns it
	clone() collection // shares nothing with the original
	len() int          // 0 only within a command: an empty collection is not a key
}

// newSpace makes an empty space of valid options.
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

// onDeletion is called by policy, under locks of its own: it must not call back.
func (s *space) onDeletion(e otter.DeletionEvent[string, *entry]) {
	if !e.WasEvicted() {
		return
	}
	s.victimsMu.Lock()
	s.victims = append(s.victims, e.Value)
	s.victimsMu.Unlock()
}

// reap removes what policy has evicted. It runs at both ends of a writer's
// turn, so no command sees a key vanish between two of its own look-ups, and
// no transaction between two of its commands. In between, an evicted entry is
// in keys but not in policy:
//
//	SET a   makes a; policy takes it in and names b the victim
//	GET b   still answers b's value
//	INCR b  still counts on; b is as good as any other
//	unlock  reap removes b: an eviction just after the INCR, never half of one
func (s *space) reap() {
	s.victimsMu.Lock()
	defer s.victimsMu.Unlock()
	for _, e := range s.victims {
		s.bounded--
		// The key may have been deleted, made anew as another entry, or been
		// kept since it was evicted: only what is still the same entry goes.
		if s.keys[e.key] == e && !e.kept {
			s.forgetEntry(e)
		}
	}
	clear(s.victims)
	s.victims = s.victims[:0]
}

// add makes a key that is not there, with the value that the caller puts into
// the entry afterwards. The policy may answer by naming a victim, even the new
// entry: that one lives to the end of the turn like every other.
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

// keep takes e out of the reach of eviction.
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

// withdraw takes e out of policy. Where policy has evicted e in this very
// turn, reap does the counting.
func (s *space) withdraw(e *entry) {
	if _, ok := s.policy.Invalidate(e.key); ok {
		s.bounded--
	}
}

// forgetEntry removes e from everything but policy. The entry itself stays as
// it is but for its deadline, so RENAME can move what it held.
func (s *space) forgetEntry(e *entry) {
	s.setDeadline(e, 0)
	delete(s.keys, e.key)
	last := len(s.order) - 1
	s.order[e.at] = s.order[last]
	s.order[e.at].at = e.at
	s.order[last] = nil
	s.order = s.order[:last]
}

// touch tells policy that e was used. Until it is half full, policy keeps no
// frequencies and would ignore the news; so it is not called before, which
// makes reads of a store far from its bound cheaper, and changes nothing else.
func (s *space) touch(e *entry) {
	if s.warm && !e.kept {
		s.policy.GetIfPresent(e.key)
	}
}

// flush deletes every key. A store that forgets does so after each pipeline,
// which leaves few: those go one by one, as setting policy back costs as much as
// thousands.
func (s *space) flush() {
	if len(s.order) < 64 {
		for len(s.order) > 0 {
			s.drop(s.order[len(s.order)-1])
		}
		return
	}
	s.policy.InvalidateAll()
	s.reap() // victims of this turn are not counted by what follows
	s.bounded = 0
	s.keys, s.order, s.expiring = make(map[string]*entry), nil, nil
}

// close empties s and refuses every turn that begins later. Turns under way hold
// the lock, so it waits for them.
func (s *space) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.flush()
}

// len counts the keys that have not expired.
func (s *space) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.order) - s.expiring.passed(s.now().UnixMilli())
}

// now tells the time.
func (s *space) now() time.Time {
	if s.clock == nil {
		return time.Now()
	}
	return s.clock()
}

// do runs p: all of it under one lock where it is Atomic, else with the lock
// of a reader up to the first command that writes.
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

// get is a pipeline that is one GET, by far the most frequent one, without a
// turn and the table of commands: half the time. It must do what turn.get does.
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
