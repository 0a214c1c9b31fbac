package memory

import (
	"container/heap"
	"math"
)

// reclaim is the maximum number of expired keys that a writing command removes: more
// than most commands add, so that unread keys do not accumulate, and few enough
// that no single command takes long.
const reclaim = 16

// deadlines is a heap of the entries that expire, the earliest first. Each entry has
// its index (slot), so a deadline changes in O(log n).
//
// Redis samples random keys several times a second to find expired ones. The heap
// finds them without visiting others, and without a timer that Close must stop.
type deadlines []*entry

// Len, Less, Swap, Push and Pop implement heap.Interface.

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].deadline < d[j].deadline }

func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].slot, d[j].slot = i, j
}

// Push appends x, an entry that is not in the heap.
func (d *deadlines) Push(x any) {
	e := x.(*entry)
	e.slot = len(*d)
	*d = append(*d, e)
}

// Pop removes the last entry, which package heap has moved there.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	e.slot = -1
	return e
}

// passed returns the number of entries whose deadline has passed. It takes O(n) time
// for n such entries: no descendant of an entry that has not expired has expired.
func (d deadlines) passed(now int64) int { return d.passedFrom(0, now) }

func (d deadlines) passedFrom(i int, now int64) int {
	if i >= len(d) || now <= d[i].deadline {
		return 0
	}
	return 1 + d.passedFrom(2*i+1, now) + d.passedFrom(2*i+2, now)
}

// setDeadline makes e expire after the millisecond at, or never if at is 0.
func (s *space) setDeadline(e *entry, at int64) {
	e.deadline = at
	switch {
	case at == 0 && e.slot >= 0:
		heap.Remove(&s.expiring, e.slot)
	case at != 0 && e.slot >= 0:
		heap.Fix(&s.expiring, e.slot)
	case at != 0:
		heap.Push(&s.expiring, e)
	}
}

// expireSome removes a few expired keys. If no key has a deadline, it does not read
// the clock.
func (t *turn) expireSome() {
	s := t.space
	for n := 0; n < reclaim && len(s.expiring) > 0 && t.passed(s.expiring[0].deadline); n++ {
		s.drop(s.expiring[0])
	}
}

// passed reports whether a key with that deadline has expired. As in Redis, it exists
// during the millisecond of the deadline (keyIsExpired in db.c of 7.0).
func (t *turn) passed(deadline int64) bool { return t.now() > deadline }

// A unit is the meaning of a time argument.
type unit struct {
	seconds  bool
	absolute bool // Unix time, not from now
}

// A timing is an option of SET or GETEX with a time. The zero timing means that no
// such option is given.
type timing struct {
	unit
	arg   []byte
	given bool
}

// timeOption returns the timing at the beginning of opts, or the zero timing.
func timeOption(opts [][]byte) timing {
	if len(opts) < 2 {
		return timing{}
	}
	switch option, arg := opts[0], opts[1]; {
	case is(option, "PX"):
		return timing{unit{}, arg, true}
	case is(option, "EX"):
		return timing{unit{seconds: true}, arg, true}
	case is(option, "PXAT"):
		return timing{unit{absolute: true}, arg, true}
	case is(option, "EXAT"):
		return timing{unit{seconds: true, absolute: true}, arg, true}
	}
	return timing{}
}

// deadline returns the deadline that o sets. As in Redis the time must be positive,
// unlike the time of EXPIRE.
func (t *turn) deadline(o timing, command string) (at int64, ok bool) {
	n, ok := parseInt(o.arg)
	if !ok {
		return 0, t.fail(notInteger)
	}
	at, ok = t.milliseconds(o.unit, n)
	if n <= 0 || !ok {
		return 0, t.fail("ERR invalid expire time in '" + command + "' command")
	}
	return at, true
}

// milliseconds converts n to Unix time in milliseconds. ok is false on overflow.
func (t *turn) milliseconds(u unit, n int64) (at int64, ok bool) {
	if u.seconds {
		if n > math.MaxInt64/1000 || n < math.MinInt64/1000 {
			return 0, false
		}
		n *= 1000
	}
	if u.absolute {
		return n, true
	}
	now := t.now()
	if n > math.MaxInt64-now {
		return 0, false
	}
	return n + now, true
}

// expire is EXPIRE key seconds [NX|XX|GT|LT].
func (t *turn) expire() { t.expireKey(unit{seconds: true}, "expire") }

// pexpire is PEXPIRE key milliseconds [NX|XX|GT|LT].
func (t *turn) pexpire() { t.expireKey(unit{}, "pexpire") }

// expireAt is EXPIREAT key seconds [NX|XX|GT|LT].
func (t *turn) expireAt() { t.expireKey(unit{seconds: true, absolute: true}, "expireat") }

// pexpireAt is PEXPIREAT key milliseconds [NX|XX|GT|LT].
func (t *turn) pexpireAt() { t.expireKey(unit{absolute: true}, "pexpireat") }

// conditions are the options of EXPIRE and its variants.
type conditions struct{ nx, xx, gt, lt bool }

// expireKey implements the four commands above. A time that is not in the future
// deletes the key, and the reply is 1. O(log n) for n keys that expire.
func (t *turn) expireKey(u unit, command string) {
	c, ok := t.conditions()
	if !ok {
		return
	}
	n, ok := parseInt(t.args[2])
	if !ok {
		t.fail(notInteger)
		return
	}
	at, ok := t.milliseconds(u, n)
	if !ok {
		t.fail("ERR invalid expire time in '" + command + "' command")
		return
	}
	e := t.lookup(t.args[1])
	if e == nil || !c.allow(e.deadline, at) {
		t.out.Int(0)
		return
	}
	if at <= t.now() {
		t.space.drop(e)
	} else {
		t.space.setDeadline(e, at)
	}
	t.out.Int(1)
}

// conditions reads the options that follow the time.
func (t *turn) conditions() (c conditions, ok bool) {
	for _, arg := range t.args[3:] {
		switch {
		case is(arg, "NX"):
			c.nx = true
		case is(arg, "XX"):
			c.xx = true
		case is(arg, "GT"):
			c.gt = true
		case is(arg, "LT"):
			c.lt = true
		default:
			return c, t.fail("ERR Unsupported option " + printable(arg))
		}
	}
	if c.nx && (c.xx || c.gt || c.lt) {
		return c, t.fail("ERR NX and XX, GT or LT options at the same time are not compatible")
	}
	if c.gt && c.lt {
		return c, t.fail("ERR GT and LT options at the same time are not compatible")
	}
	return c, true
}

// allow reports whether the deadline of a key may change. No deadline counts as the
// latest: for a key without one, GT never sets one and LT always does.
func (c conditions) allow(from, to int64) bool {
	switch {
	case c.nx && from != 0, c.xx && from == 0:
		return false
	case c.gt && (from == 0 || to <= from):
		return false
	case c.lt && from != 0 && to >= from:
		return false
	}
	return true
}

// ttl is TTL key.
func (t *turn) ttl() { t.remaining(false, true) }

// pttl is PTTL key.
func (t *turn) pttl() { t.remaining(false, false) }

// expireTime is EXPIRETIME key.
func (t *turn) expireTime() { t.remaining(true, true) }

// pexpireTime is PEXPIRETIME key.
func (t *turn) pexpireTime() { t.remaining(true, false) }

// remaining replies with the deadline of a key: -2 for no key, -1 for no deadline.
// Seconds are rounded to the nearest, as in Redis.
func (t *turn) remaining(absolute, seconds bool) {
	e := t.lookup(t.args[1])
	switch {
	case e == nil:
		t.out.Int(-2)
		return
	case e.deadline == 0:
		t.out.Int(-1)
		return
	}
	ms := e.deadline
	if !absolute {
		ms = max(ms-t.now(), 0)
	}
	if seconds {
		ms = (ms + 500) / 1000
	}
	t.out.Int(ms)
}

// persist is PERSIST key. O(log n) for n keys that expire.
func (t *turn) persist() {
	e := t.lookup(t.args[1])
	if e == nil || e.deadline == 0 {
		t.out.Int(0)
		return
	}
	t.space.setDeadline(e, 0)
	t.out.Int(1)
}
