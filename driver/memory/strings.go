package memory

// This file has the commands on strings. They follow two rules. A command that
// replaces the value (SET, GETSET, MSET) clears the deadline, unless an option says
// otherwise; a command that modifies it (APPEND, INCR and so on) keeps the deadline.
// Only a command that returns or modifies the old value checks its type: SET without
// GET and MSET overwrite any type.
//
// Values change in place, under a lock held exclusively. So a command copies a value
// into the reply before it changes the value, and no slice of a value leaves this
// package.

import (
	"math"
	"math/big"
	"strconv"
)

// get is GET key.
func (t *turn) get() {
	if e, ok := t.lookupString(t.args[1]); ok {
		t.outString(e)
	}
}

// outString replies with the string of e, or nil if e is nil.
func (t *turn) outString(e *entry) {
	if e == nil {
		t.out.Nil()
		return
	}
	t.out.Bytes(e.str)
}

// setString replaces the value of e, of any type, by a copy of b.
func (e *entry) setString(b []byte) {
	e.object = nil
	e.str = overwrite(e.str, b)
}

// overwrite returns a copy of b, in the buffer of old unless that is much too large.
// Most new values have the size of the old one, but a small value must not keep a
// large buffer in memory.
func overwrite(old, b []byte) []byte {
	if cap(old) > 64+4*len(b) {
		old = nil
	}
	return append(old[:0], b...)
}

// setOptions are the options of SET. A deadline of 0 means none, so the zero value,
// SET without options, clears the deadline.
type setOptions struct {
	nx, xx, get, keepTTL bool
	deadline             int64
}

// set is SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]. It replaces
// a value of any type, or with GET only a string, and the deadline unless KEEPTTL is
// given. NX and GET may be combined, as in Redis since 7.0.
func (t *turn) set() {
	o, ok := t.setOptions()
	if !ok {
		return
	}
	e := t.lookup(t.args[1])
	// With GET the reply is the old value, replaced or not. Without GET it is OK if
	// the value was set, else nil.
	if o.get {
		if e != nil && e.object != nil {
			t.fail(wrongType)
			return
		}
		t.outString(e) // before put overwrites it
	}
	if o.nx && e != nil || o.xx && e == nil {
		if !o.get {
			t.out.Nil()
		}
		return
	}
	t.put(e, t.args[1], t.args[2], o)
	if !o.get {
		t.out.Status("OK")
	}
}

// put sets key to value. e is the entry of key, nil if the key does not exist.
func (t *turn) put(e *entry, key, value []byte, o setOptions) {
	if e == nil {
		e = t.create(key)
	}
	e.setString(value)
	if !o.keepTTL {
		t.space.setDeadline(e, o.deadline)
	}
}

// setOptions reads the options of SET in any order.
func (t *turn) setOptions() (o setOptions, ok bool) {
	var expiry timing
	for opts := t.args[3:]; len(opts) > 0; opts = opts[1:] {
		timed := timeOption(opts)
		switch {
		// An option that contradicts an earlier one is a syntax error.
		case is(opts[0], "NX") && !o.xx:
			o.nx = true
		case is(opts[0], "XX") && !o.nx:
			o.xx = true
		case is(opts[0], "GET"):
			o.get = true
		case is(opts[0], "KEEPTTL") && !expiry.given:
			o.keepTTL = true
		case timed.given && !expiry.given && !o.keepTTL:
			expiry, opts = timed, opts[1:]
		default:
			return o, t.fail(syntaxError)
		}
	}
	if expiry.given {
		o.deadline, ok = t.deadline(expiry, "set")
		return o, ok
	}
	return o, true
}

// setNX is SETNX key value.
func (t *turn) setNX() {
	if t.lookup(t.args[1]) != nil {
		t.out.Int(0)
		return
	}
	t.put(nil, t.args[1], t.args[2], setOptions{})
	t.out.Int(1)
}

// getSet is GETSET key value. Like SET it clears the deadline.
func (t *turn) getSet() {
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	t.outString(e)
	t.put(e, t.args[1], t.args[2], setOptions{})
}

// getDel is GETDEL key. It adds the reply before drop, which may release the value.
func (t *turn) getDel() {
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	t.outString(e)
	if e != nil {
		t.space.drop(e)
	}
}

// getEx is GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]. For a missing key it does not
// check the time. A time in the past deletes the key, after the reply is added.
func (t *turn) getEx() {
	expiry, persist, ok := t.getExOptions()
	if !ok {
		return
	}
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	if e == nil {
		t.out.Nil()
		return
	}
	deadline := e.deadline
	switch {
	case persist:
		deadline = 0
	case expiry.given:
		if deadline, ok = t.deadline(expiry, "getex"); !ok {
			return
		}
	}
	t.outString(e)
	if expiry.given && deadline <= t.now() {
		t.space.drop(e)
		return
	}
	t.space.setDeadline(e, deadline)
}

// getExOptions reads the option of GETEX, at most one.
func (t *turn) getExOptions() (expiry timing, persist, ok bool) {
	opts := t.args[2:]
	timed := timeOption(opts)
	switch {
	case len(opts) == 0, len(opts) == 2 && timed.given:
		return timed, false, true
	case len(opts) == 1 && is(opts[0], "PERSIST"):
		return timing{}, true, true
	}
	return timing{}, false, t.fail(syntaxError)
}

// mget is MGET key …. For a key of another type it returns nil, unlike other commands,
// which return WRONGTYPE.
func (t *turn) mget() {
	t.out.Array(len(t.args) - 1)
	for _, key := range t.args[1:] {
		e := t.lookup(key)
		if e != nil && e.object != nil {
			e = nil
		}
		t.outString(e)
	}
}

// mset is MSET key value …. It clears the deadlines.
func (t *turn) mset() {
	if len(t.args)%2 == 0 {
		t.out.Error(wrongArity(t.args))
		return
	}
	for pairs := t.args[1:]; len(pairs) > 0; pairs = pairs[2:] {
		t.put(t.lookup(pairs[0]), pairs[0], pairs[1], setOptions{})
	}
	t.out.Status("OK")
}

// strlen is STRLEN key.
func (t *turn) strlen() {
	e, ok := t.lookupString(t.args[1])
	switch {
	case !ok:
	case e == nil:
		t.out.Int(0)
	default:
		t.out.Int(int64(len(e.str)))
	}
}

// append is APPEND key value, which keeps the deadline. Amortized O(1) for each byte.
func (t *turn) append() {
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	if e != nil && len(e.str)+len(t.args[2]) > t.space.maxString {
		t.fail("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
		return
	}
	if e == nil {
		e = t.create(t.args[1])
	}
	e.str = append(e.str, t.args[2]...)
	t.out.Int(int64(len(e.str)))
}

// incr is INCR key.
func (t *turn) incr() { t.add(1) }

// decr is DECR key.
func (t *turn) decr() { t.add(-1) }

// incrBy is INCRBY key increment.
func (t *turn) incrBy() {
	if n, ok := parseInt(t.args[2]); ok {
		t.add(n)
	} else {
		t.fail(notInteger)
	}
}

// decrBy is DECRBY key decrement.
func (t *turn) decrBy() {
	n, ok := parseInt(t.args[2])
	switch {
	case !ok:
		t.fail(notInteger)
	case n == math.MinInt64: // cannot be negated
		t.fail("ERR decrement would overflow")
	default:
		t.add(-n)
	}
}

// add adds by to the integer at the key of the command, and keeps its deadline. A
// missing key counts as 0 without a deadline.
func (t *turn) add(by int64) {
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	var n int64
	if e != nil {
		if n, ok = parseInt(e.str); !ok {
			t.fail(notInteger)
			return
		}
	}
	if overflows(n, by) {
		t.fail(overflow)
		return
	}
	if e == nil {
		e = t.create(t.args[1])
	}
	e.str = strconv.AppendInt(e.str[:0], n+by, 10)
	t.out.Int(n + by)
}

// overflows reports whether a+b overflows.
func overflows(a, b int64) bool {
	return b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b
}

// incrByFloat is INCRBYFLOAT key increment. It computes with long doubles, as Redis on
// x86-64 does, so that 0.1 and 0.2 are 0.3. The reply is the text that it stores.
func (t *turn) incrByFloat() {
	e, ok := t.lookupString(t.args[1])
	if !ok {
		return
	}
	by, ok := parseLongDouble(t.args[2])
	if !ok {
		t.fail(notFloat)
		return
	}
	old := zero
	if e != nil {
		old = e.str
	}
	text, ok := t.sum(old, by, notFloat)
	if !ok {
		return
	}
	if e == nil {
		e = t.create(t.args[1])
	}
	e.str = text
	t.out.Bytes(text)
}

// zero is the value of a missing key or field for INCRBYFLOAT and HINCRBYFLOAT. An
// empty string, in contrast, is not a number.
var zero = []byte{'0'}

// sum returns the text of old+by. If old is not a number, or the sum is not finite, it
// adds an error reply, noNumber in the first case, and ok is false.
func (t *turn) sum(old []byte, by *big.Float, noNumber string) (text []byte, ok bool) {
	value, ok := parseLongDouble(old)
	if !ok {
		return nil, t.fail(noNumber)
	}
	total, ok := addLongDouble(value, by)
	if !ok {
		return nil, t.fail(notANumber)
	}
	return appendLongDouble(nil, total), true
}
