package memory

import (
	"github.com/gocaches/caches/driver"
)

// Error replies of more than one command, as Redis 7.0 words them.
const (
	wrongType      = "WRONGTYPE Operation against a key holding the wrong kind of value"
	notInteger     = "ERR value is not an integer or out of range"
	notFloat       = "ERR value is not a valid float"
	syntaxError    = "ERR syntax error"
	overflow       = "ERR increment or decrement would overflow"
	notANumber     = "ERR increment would produce NaN or Infinity"
	outOfRange     = "ERR value is out of range"
	mustBePositive = "ERR value is out of range, must be positive"
	aborted        = "EXECABORT Transaction discarded because of previous errors."
)

// A turn is one pipeline's use of a space: the lock it holds, the time it
// began, the command it is at. Turns are pooled by their space, as a turn is
// handed to functions found in a table and so lives on the heap.
//
// Every command is a method of turn: it reads args and leaves exactly one reply
// in out. It checks everything that can be wrong before it changes anything,
// because nothing is ever undone.
type turn struct {
	space *space
	out   *driver.Replies
	args  [][]byte // of the command under way, its name first
	keep  bool     // what writing commands touch is kept

	reading   bool             // holds space.mu as a reader …
	writing   bool             // … or alone
	isWrite   bool             // the command under way may change data
	micro     int64            // the time in microseconds; 0 until somebody asks
	inner     *driver.Pipeline // the replies of a script's own commands
	innerArgs [][]byte         // and their arguments, so that a Call need not make a slice
}

// reset makes t ready for the next pipeline.
func (t *turn) reset() {
	if t.inner != nil {
		t.inner.Free()
		t.inner = nil
	}
	clear(t.innerArgs)
	*t = turn{space: t.space, innerArgs: t.innerArgs[:0]}
}

// micros returns the time of the turn in microseconds of Unix time. It is read
// once, when the first command asks: a turn has one present, and commands that
// meet no key with a deadline do not pay for the clock.
func (t *turn) micros() int64 {
	if t.micro == 0 {
		t.micro = t.space.now().UnixMicro()
	}
	return t.micro
}

// now returns the time of the turn in milliseconds.
func (t *turn) now() int64 { return t.micros() / 1000 }

// lock takes the lock that a command needs, unless the turn has it: the lock of a
// writer is good for readers too. A reader
// that must write lets go first: others may come between two commands of a
// pipeline that is not Atomic. It fails where the space was closed before the
// turn had any lock; a turn that began comes to its end.
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

// unlock gives the lock back, if the turn has one. A writer leaves no victims
// behind, so that the bound holds whenever nobody writes.
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

// run runs the commands of p. Where p is not Atomic they are one step each, but
// for the sake of speed the lock is not given back between two of them; those
// that p lets in between are invited by its first writing command, once.
func (t *turn) run(p *driver.Pipeline) error {
	defer t.unlock() // deferred, because a script is foreign code and may panic
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
			t.space.reap() // or a pipeline of a million SETs would hold a million keys
		}
	}
	return nil
}

// runAtomic is MULTI, the commands, EXEC: where one of them would not be
// queued, none is run. The commands are looked at twice, first for what they
// need, so that a transaction of reads goes beside other readers.
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

// exec runs one command, which leaves one reply. The keys that have expired are
// reclaimed first: a key in their place is then a new one, and does not push a
// live one out of the bound.
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

// runScript runs the Go form of a script, which has the space alone from its
// first command to its last. A script that fails in the middle leaves what it
// has done, as Lua does; one that leaves no reply would shift those of all
// commands after it, and gets one.
func (t *turn) runScript(c driver.Command) {
	before := t.out.Len()
	if !c.Script.Run((*tx)(t), c.Keys, c.Argv, t.out) {
		t.out.Error("ERR this script has no Go form")
	} else if t.out.Len() == before {
		t.out.Error("ERR this script left no reply")
	}
}

// A tx is the turn as a script sees it.
type tx turn

// Call implements [driver.Tx]. The command's reply goes to a Pipeline of its
// own, not among those of the script; the arguments stay the caller's, since
// every command copies what it keeps.
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

// fail leaves an error reply. It returns false, for callers that report
// whether they may go on.
func (t *turn) fail(text string) bool {
	t.out.Error(text)
	return false
}

// outBool leaves 1 or 0.
func (t *turn) outBool(b bool) {
	if b {
		t.out.Int(1)
	} else {
		t.out.Int(0)
	}
}

// lookup returns the entry of a key, nil where there is none. A writing
// command finds the place of an expired entry free, and keeps what it finds
// where the pipeline says so. A reader must leave an expired entry where it is:
// it shares the lock.
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

// create makes a key that lookup has not found. The caller gives it a value in
// the same command: between commands every key has one.
func (t *turn) create(key []byte) *entry { return t.space.add(key, t.keep) }

// lookupString returns the entry of a string, nil where there is none. It is
// not ok, and has left the error, where the key holds something else.
func (t *turn) lookupString(key []byte) (e *entry, ok bool) {
	e = t.lookup(key)
	if e != nil && e.object != nil {
		return nil, t.fail(wrongType)
	}
	return e, true
}

// lookupObject returns the entry of a collection and the collection, both nil
// where there is none. It is not ok, and has left the error, where the key
// holds something else.
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

// obtainObject is lookupObject for commands that make what is not there. They
// must put something into it: an empty collection is not a key.
func obtainObject[C collection](t *turn, key []byte, empty func() C) (object C, ok bool) {
	e, object, ok := lookupObject[C](t, key)
	if !ok || e != nil {
		return object, ok
	}
	object = empty()
	t.create(key).object = object
	return object, true
}

// removeFrom is what the commands have in common that take elements out of a
// collection and answer how many: nothing there is 0, and with the last element
// goes the key, and its deadline. A collection made later under the same key has
// none.
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
