package memory

import (
	"github.com/gocaches/caches/driver"
)

// Error replies of several commands, as in Redis 7.0.
const (
	wrongType      = "WRONGTYPE Operation against a key holding the wrong kind of value"
	notInteger     = "ERR value is not an integer or out of range"
	notFloat       = "ERR value is not a valid float"
	syntaxError    = "ERR syntax error"
	overflow       = "ERR increment or decrement would overflow"
	notANumber     = "ERR increment would produce NaN or Infinity"
	outOfRange     = "ERR value is out of range"
	notNegatable   = outOfRange + ", value must between -9223372036854775807 and 9223372036854775807"
	mustBePositive = "ERR value is out of range, must be positive"
	aborted        = "EXECABORT Transaction discarded because of previous errors."
)

// A turn is the state of one pipeline that runs in a space: the lock, the time and
// the current command. Turns are pooled by their space: they are passed to
// functions in a table, so they would escape to the heap.
//
// Every command is a method of turn. It reads args and adds exactly one reply to
// out. It makes all checks before the first change, because nothing is undone.
type turn struct {
	space *space
	out   *driver.Replies
	args  [][]byte // of the current command, including its name
	keep  bool     // writing commands exempt their keys from eviction

	reading   bool             // holds space.mu as a reader
	writing   bool             // holds space.mu exclusively
	isWrite   bool             // the current command may change data
	micro     int64            // the time in microseconds, 0 until it is needed
	inner     *driver.Pipeline // the replies to the commands of a script
	innerArgs [][]byte         // their arguments, reused by each Call
}

// reset prepares t for the next pipeline.
func (t *turn) reset() {
	if t.inner != nil {
		t.inner.Free()
		t.inner = nil
	}
	clear(t.innerArgs)
	*t = turn{space: t.space, innerArgs: t.innerArgs[:0]}
}

// micros returns the time of the turn in microseconds of Unix time. It reads the
// clock on the first call, so that all commands of a turn have the same time, and
// commands on keys without a deadline need none.
func (t *turn) micros() int64 {
	if t.micro == 0 {
		t.micro = t.space.now().UnixMicro()
	}
	return t.micro
}

// now returns the time of the turn in milliseconds.
func (t *turn) now() int64 { return t.micros() / 1000 }

// lock takes the lock that a command needs, unless the turn holds it or the writer's
// lock. A reader that must write unlocks first, as other pipelines may run between
// two commands of a pipeline that is not Atomic. lock fails only if the space was
// closed before the first lock of the turn.
func (t *turn) lock(write bool) error {
	s := t.space
	first := !t.reading && !t.writing
	switch {
	case t.writing, t.reading && !write:
		return nil
	case !write:
		s.mu.RLock()
		t.reading = true
	default:
		t.unlock()
		s.mu.Lock()
		t.writing = true
		s.reap()
	}
	if first && s.closed {
		return errClosed
	}
	return nil
}

// unlock releases the lock, if the turn holds one. A writer removes all victims
// first, so that the bound holds whenever there is no writer.
func (t *turn) unlock() {
	s := t.space
	switch {
	case t.writing:
		s.reap()
		t.writing = false
		s.mu.Unlock()
	case t.reading:
		t.reading = false
		s.mu.RUnlock()
	}
}

// run runs the commands of p. If p is not Atomic each command is a step of its own,
// but for speed the lock is held across commands. It is released only before the
// first writing command of a pipeline that began with reads.
func (t *turn) run(p *driver.Pipeline) error {
	defer t.unlock() // deferred, because a script may panic
	if t.space.forget {
		if err := t.lock(true); err != nil {
			return err
		}
		defer t.space.flush()
	}
	if p.Mode()&driver.Atomic != 0 {
		return t.runAtomic(p)
	}
	for i := range p.Len() {
		c := p.Command(i)
		spec, known := find(c)
		if err := t.lock(spec.write); err != nil {
			return err
		}
		if text := refusal(spec, known, c.Args); text != "" {
			t.out.Error(text)
			continue
		}
		t.exec(spec, c)
		if t.writing && len(t.space.victims) >= reclaim {
			t.space.reap() // else a pipeline of a million SETs would keep a million keys
		}
	}
	return nil
}

// runAtomic is MULTI, the commands and EXEC: if a command would not be queued, none
// runs. A first pass finds out which lock is needed, so that a transaction that
// only reads runs concurrently with other readers.
func (t *turn) runAtomic(p *driver.Pipeline) error {
	write, refused := false, false
	for i := range p.Len() {
		c := p.Command(i)
		spec, known := find(c)
		write = write || spec.write
		refused = refused || refusal(spec, known, c.Args) != ""
	}
	if err := t.lock(write); err != nil {
		return err
	}
	for i := range p.Len() {
		c := p.Command(i)
		spec, known := find(c)
		switch text := refusal(spec, known, c.Args); {
		case text != "":
			t.out.Error(text)
		case refused:
			t.out.Error(aborted)
		default:
			t.exec(spec, c)
		}
	}
	return nil
}

// exec runs one command, which adds one reply. A writing command removes expired keys
// first, so that a new key does not evict a live one while expired ones remain.
func (t *turn) exec(spec spec, c driver.Command) {
	t.isWrite = spec.write
	if spec.write {
		t.expireSome()
	}
	if c.Script != nil {
		t.runScript(c)
		return
	}
	t.args = c.Args
	spec.run(t)
}

// runScript runs the Go form of a script. The turn holds the space exclusively. A
// script that fails does not undo its changes, as in Lua. A script that adds no
// reply gets one, because later replies would otherwise belong to the wrong
// commands.
func (t *turn) runScript(c driver.Command) {
	before := t.out.Len()
	if !c.Script.Run((*tx)(t), c.Keys, c.Argv, t.out) {
		t.out.Error("ERR this script has no Go form")
	} else if t.out.Len() == before {
		t.out.Error("ERR this script returned no reply")
	}
}

// A tx is a turn that implements [driver.Tx] for a script.
type tx turn

// Call implements [driver.Tx]. The reply goes to a separate Pipeline, as the script
// has one reply of its own. The arguments are not copied here: commands copy the
// data that they keep.
func (x *tx) Call(name string, args ...[]byte) driver.Reply {
	t := (*turn)(x)
	if t.inner == nil {
		t.inner = driver.NewPipeline(0)
	}
	t.inner.ResetReplies()
	outer := t.out
	t.out = t.inner.Replies()
	t.innerArgs = append(append(t.innerArgs[:0], []byte(name)), args...)
	c := driver.Command{Args: t.innerArgs}
	spec, known := find(c)
	if text := refusal(spec, known, c.Args); text != "" {
		t.out.Error(text)
	} else {
		t.exec(spec, c)
	}
	t.out = outer
	return t.inner.Next()
}

// fail adds an error reply. It returns false, for callers that return ok.
func (t *turn) fail(text string) bool {
	t.out.Error(text)
	return false
}

// outBool replies with 1 or 0.
func (t *turn) outBool(b bool) {
	if b {
		t.out.Int(1)
	} else {
		t.out.Int(0)
	}
}

// lookup returns the entry of a key, or nil if the key does not exist. A writing
// command removes an expired entry, and exempts the entry from eviction if the
// pipeline has mode Keep. A reader shares the lock, so it leaves an expired entry
// in place.
func (t *turn) lookup(key []byte) *entry {
	e := t.space.keys[string(key)]
	if e == nil {
		return nil
	}
	if e.deadline != 0 && t.passed(e.deadline) {
		if t.isWrite {
			t.space.drop(e)
		}
		return nil
	}
	if t.isWrite && t.keep {
		t.space.keep(e)
	}
	t.space.touch(e)
	return e
}

// create adds a key that lookup has not found. The caller sets its value in the same
// command.
func (t *turn) create(key []byte) *entry { return t.space.add(key, t.keep) }

// lookupString returns the entry of a string, or nil if the key does not exist. If
// the key holds another type, ok is false and the error reply is added.
func (t *turn) lookupString(key []byte) (e *entry, ok bool) {
	e = t.lookup(key)
	if e != nil && e.object != nil {
		return nil, t.fail(wrongType)
	}
	return e, true
}

// lookupObject returns the entry of a collection and the collection, or nil for both
// if the key does not exist. If the key holds another type, ok is false and the
// error reply is added.
func lookupObject[C collection](t *turn, key []byte) (e *entry, object C, ok bool) {
	e = t.lookup(key)
	if e == nil {
		return nil, object, true
	}
	object, ok = e.object.(C)
	if !ok {
		return nil, object, t.fail(wrongType)
	}
	return e, object, true
}

// obtainObject is like lookupObject, but creates a missing collection. The caller
// must add an element to it: no key holds an empty collection.
func obtainObject[C collection](t *turn, key []byte, empty func() C) (object C, ok bool) {
	e, object, ok := lookupObject[C](t, key)
	if !ok || e != nil {
		return object, ok
	}
	object = empty()
	t.create(key).object = object
	return object, true
}

// removeFrom implements the commands that remove elements from a collection and
// reply with their number, which is 0 for a missing key. The key and its deadline
// are deleted with the last element.
func removeFrom[C collection](t *turn, remove func(C) int64) {
	e, object, ok := lookupObject[C](t, t.args[1])
	if !ok {
		return
	}
	if e == nil {
		t.out.Int(0)
		return
	}
	t.out.Int(remove(object))
	if object.len() == 0 {
		t.space.drop(e)
	}
}
