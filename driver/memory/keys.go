package memory

// This file has the commands on the server and on keys of any type. Some replies of
// Redis depend on its background work: DBSIZE counts expired keys that are still
// in memory. Here the replies are as if that work were done.

import (
	"bytes"
	"strconv"
)

// ping is PING [message].
func (t *turn) ping() {
	switch len(t.args) {
	case 1:
		t.out.Status("PONG")
	case 2:
		t.out.Bytes(t.args[1])
	default:
		t.out.Error(wrongArity(t.args))
	}
}

// echo is ECHO message.
func (t *turn) echo() { t.out.Bytes(t.args[1]) }

// time is TIME: the seconds and microseconds of the turn, which are the same for a
// whole pipeline.
func (t *turn) time() {
	now := t.micros()
	t.out.Array(2)
	t.out.String(strconv.FormatInt(now/1e6, 10))
	t.out.String(strconv.FormatInt(now%1e6, 10))
}

// flush is FLUSHDB and FLUSHALL, which are the same as there is one database. It is
// complete before the reply, even with ASYNC.
func (t *turn) flush() {
	if len(t.args) > 2 || len(t.args) == 2 && !is(t.args[1], "ASYNC") && !is(t.args[1], "SYNC") {
		t.fail(syntaxError)
		return
	}
	t.space.flush()
	t.out.Status("OK")
}

// dbSize is DBSIZE, without the expired keys that Redis counts until it removes
// them.
func (t *turn) dbSize() {
	s := t.space
	t.out.Int(int64(len(s.order) - s.expiring.passed(t.now())))
}

// del is DEL and UNLINK key …, O(1) for each key of any type: the garbage collector
// frees the value.
func (t *turn) del() {
	n := 0
	for _, key := range t.args[1:] {
		if e := t.lookup(key); e != nil {
			t.space.drop(e)
			n++
		}
	}
	t.out.Int(int64(n))
}

// exists is EXISTS and TOUCH key …, as any look-up counts as a use. A key given
// twice counts twice.
func (t *turn) exists() {
	n := 0
	for _, key := range t.args[1:] {
		if t.lookup(key) != nil {
			n++
		}
	}
	t.out.Int(int64(n))
}

// typeOf is TYPE key.
func (t *turn) typeOf() {
	if e := t.lookup(t.args[1]); e != nil {
		t.out.Status(e.typeName())
	} else {
		t.out.Status("none")
	}
}

// typeName returns the name of the type of e, as TYPE does.
func (e *entry) typeName() string {
	if e.object == nil {
		return "string"
	}
	return e.object.typeName()
}

// rename is RENAME key newkey, O(1). The value and the deadline move to newkey, in
// place of its own.
func (t *turn) rename() {
	from := t.lookup(t.args[1])
	if from == nil {
		t.fail("ERR no such key")
		return
	}
	if !bytes.Equal(t.args[1], t.args[2]) {
		moved := *from // drop clears the deadline
		t.space.drop(from)
		t.replace(t.args[2], &moved)
	}
	t.out.Status("OK")
}

// replace gives key the value and the deadline of from, an entry that belongs to no
// key. If from was kept from eviction, key is as well.
func (t *turn) replace(key []byte, from *entry) {
	if old := t.lookup(key); old != nil {
		t.space.drop(old)
	}
	e := t.space.add(key, t.keep || from.kept)
	e.str, e.object = from.str, from.object
	t.space.setDeadline(e, from.deadline)
}

// copy is COPY source destination [DB 0] [REPLACE], O(n) for n elements. The two
// share no memory.
func (t *turn) copy() {
	replace, ok := t.copyOptions()
	if !ok {
		return
	}
	if bytes.Equal(t.args[1], t.args[2]) {
		t.fail("ERR source and destination objects are the same")
		return
	}
	from, to := t.lookup(t.args[1]), t.lookup(t.args[2])
	if from == nil || to != nil && !replace {
		t.out.Int(0)
		return
	}
	t.replace(t.args[2], from.clone())
	t.out.Int(1)
}

// copyOptions reads the options of COPY. The only valid DB is 0.
func (t *turn) copyOptions() (replace, ok bool) {
	for opts := t.args[3:]; len(opts) > 0; opts = opts[1:] {
		switch {
		case is(opts[0], "REPLACE"):
			replace = true
		case is(opts[0], "DB") && len(opts) > 1:
			n, ok := parseInt(opts[1])
			switch {
			case !ok:
				return false, t.fail(notInteger)
			case n != 0:
				return false, t.fail("ERR DB index is out of range")
			}
			opts = opts[1:]
		default:
			return false, t.fail(syntaxError)
		}
	}
	return replace, true
}

// clone returns an entry that belongs to no key, with the deadline of e and a deep
// copy of its value, as values change in place.
func (e *entry) clone() *entry {
	c := &entry{deadline: e.deadline, kept: e.kept, str: bytes.Clone(e.str)}
	if e.object != nil {
		c.object = e.object.clone()
	}
	return c
}
