package memory

import (
	"bytes"
	"math"
	"strconv"
)

// A hash maps fields to values.
type hash struct{ table[[]byte] }

func newHash() *hash { return &hash{newTable[[]byte]()} }

func (h *hash) clone() *hash {
	c := newHash()
	for _, it := range h.items {
		c.add(it.name, bytes.Clone(it.value))
	}
	return c
}

// set stores a copy of value and reports whether field is new.
func (h *hash) set(field, value []byte) (added bool) {
	if v := h.get(field); v != nil {
		*v = append((*v)[:0], value...)
		return false
	}
	h.add(string(field), bytes.Clone(value))
	return true
}

// hash looks a hash up, nil where there is none.
func (t *turn) hash(key []byte) (*hash, bool) {
	_, h, ok := lookupObject[hash](t, key)
	return h, ok
}

// outValue leaves the value of field, nil where there is none. h may be nil.
func (t *turn) outValue(h *hash, field []byte) {
	if h != nil {
		if v := h.get(field); v != nil {
			t.out.Bytes(*v)
			return
		}
	}
	t.out.Nil()
}

// hget is HGET key field.
func (t *turn) hget() {
	if h, ok := t.hash(t.args[1]); ok {
		t.outValue(h, t.args[2])
	}
}

// hmget is HMGET key field …
func (t *turn) hmget() {
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	t.out.Array(len(t.args) - 2)
	for _, field := range t.args[2:] {
		t.outValue(h, field)
	}
}

// hset is HSET key field value …, O(1) for each; it answers how many fields are
// new.
func (t *turn) hset() {
	if len(t.args)%2 != 0 {
		t.out.Error(wrongArity(t.args))
		return
	}
	h, ok := obtainObject(t, t.args[1], newHash)
	if !ok {
		return
	}
	added := 0
	for pairs := t.args[2:]; len(pairs) > 0; pairs = pairs[2:] {
		if h.set(pairs[0], pairs[1]) {
			added++
		}
	}
	t.out.Int(int64(added))
}

// hsetNX is HSETNX key field value. A hash that is made for it is never left
// empty: in an empty one no field is taken.
func (t *turn) hsetNX() {
	h, ok := obtainObject(t, t.args[1], newHash)
	switch {
	case !ok:
	case h.get(t.args[2]) != nil:
		t.out.Int(0)
	default:
		h.set(t.args[2], t.args[3])
		t.out.Int(1)
	}
}

// hdel is HDEL key field …
func (t *turn) hdel() {
	e, h, ok := lookupObject[hash](t, t.args[1])
	if !ok {
		return
	}
	if h == nil {
		t.out.Int(0)
		return
	}
	t.out.Int(removeAll(&h.table, t.args[2:]))
	if h.len() == 0 {
		t.space.drop(e)
	}
}

// removeAll removes names and counts those that were there.
func removeAll[V any](tb *table[V], names [][]byte) (n int64) {
	for _, name := range names {
		if _, ok := tb.remove(name); ok {
			n++
		}
	}
	return n
}

// hexists is HEXISTS key field.
func (t *turn) hexists() {
	if h, ok := t.hash(t.args[1]); ok {
		t.outBool(h != nil && h.get(t.args[2]) != nil)
	}
}

// outBool leaves 1 or 0.
func (t *turn) outBool(b bool) {
	if b {
		t.out.Int(1)
	} else {
		t.out.Int(0)
	}
}

// hlen is HLEN key.
func (t *turn) hlen() {
	if h, ok := t.hash(t.args[1]); ok {
		t.outLen(h != nil, func() int { return h.len() })
	}
}

// outLen leaves a length, 0 for what does not exist.
func (t *turn) outLen(exists bool, length func() int) {
	if exists {
		t.out.Int(int64(length()))
	} else {
		t.out.Int(0)
	}
}

// hstrlen is HSTRLEN key field.
func (t *turn) hstrlen() {
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	var v *[]byte
	if h != nil {
		v = h.get(t.args[2])
	}
	t.outLen(v != nil, func() int { return len(*v) })
}

// hkeys is HKEYS key.
func (t *turn) hkeys() { t.outHash(true, false) }

// hvals is HVALS key.
func (t *turn) hvals() { t.outHash(false, true) }

// hgetAll is HGETALL key.
func (t *turn) hgetAll() { t.outHash(true, true) }

// outHash leaves all fields, all values, or both by turns.
func (t *turn) outHash(fields, values bool) {
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	if h == nil {
		t.out.Array(0)
		return
	}
	if fields && values {
		t.out.Array(2 * h.len())
	} else {
		t.out.Array(h.len())
	}
	for i := range h.items {
		if fields {
			t.out.String(h.items[i].name)
		}
		if values {
			t.out.Bytes(h.items[i].value)
		}
	}
}

// hincrBy is HINCRBY key field increment.
func (t *turn) hincrBy() {
	by, ok := parseInt(t.args[3])
	if !ok {
		t.fail(notInteger)
		return
	}
	_, h, ok := lookupObject[hash](t, t.args[1])
	if !ok {
		return
	}
	var n int64
	if old := h.value(t.args[2]); old != nil {
		if n, ok = parseInt(*old); !ok {
			t.fail("ERR hash value is not an integer")
			return
		}
	}
	if overflows(n, by) {
		t.fail(overflow)
		return
	}
	t.hput(h, strconv.AppendInt(nil, n+by, 10))
	t.out.Int(n + by)
}

// value is get for a hash that may be nil.
func (h *hash) value(field []byte) *[]byte {
	if h == nil {
		return nil
	}
	return h.get(field)
}

// hput stores the result of an increment, which was computed before anything
// is created: a command that fails leaves no empty hash behind.
func (t *turn) hput(h *hash, value []byte) {
	if h == nil {
		h = newHash()
		t.create(t.args[1]).object = h
	}
	h.set(t.args[2], value)
}

// hincrByFloat is HINCRBYFLOAT key field increment, in the arithmetic of
// INCRBYFLOAT.
func (t *turn) hincrByFloat() {
	by, ok := parseLongDouble(t.args[3])
	if !ok {
		t.fail(notFloat)
		return
	}
	if by.IsInf() {
		t.fail("ERR value is NaN or Infinity")
		return
	}
	_, h, ok := lookupObject[hash](t, t.args[1])
	if !ok {
		return
	}
	old := []byte{'0'}
	if v := h.value(t.args[2]); v != nil {
		old = *v
	}
	value, ok := parseLongDouble(old)
	if !ok {
		t.fail("ERR hash value is not a float")
		return
	}
	sum, ok := addLongDouble(value, by)
	if !ok {
		t.fail(notANumber)
		return
	}
	text := appendLongDouble(nil, sum)
	t.hput(h, text)
	t.out.Bytes(text)
}

// hrandField is HRANDFIELD key [count [WITHVALUES]].
func (t *turn) hrandField() {
	r, ok := t.randomOptions("WITHVALUES")
	if !ok {
		return
	}
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	n := 0
	if h != nil {
		n = h.len()
	}
	t.outRandom(r, n, func(i int) {
		t.out.String(h.items[i].name)
		if r.with {
			t.out.Bytes(h.items[i].value)
		}
	})
}

// randomOptions are those of the RAND commands: [count [WITH…]].
type randomOptions struct {
	counted bool
	count   int64
	with    bool // the value of each as well
}

// randomOptions reads them. A command without values passes "".
func (t *turn) randomOptions(with string) (r randomOptions, ok bool) {
	opts := t.args[2:]
	if len(opts) == 0 {
		return r, true
	}
	if len(opts) > 1 && with == "" { // before the count is read, as in Redis
		return r, t.fail(syntaxError)
	}
	r.counted = true
	if r.count, ok = parseInt(opts[0]); !ok {
		return r, t.fail(notInteger)
	}
	if r.count == math.MinInt64 {
		return r, t.fail(outOfRange)
	}
	if len(opts) == 1 {
		return r, true
	}
	r.with = is(opts[1], with)
	if len(opts) > 2 || !r.with {
		return r, t.fail(syntaxError)
	}
	if r.count < -math.MaxInt64/2 || r.count > math.MaxInt64/2 {
		return r, t.fail(outOfRange)
	}
	return r, true
}

// outRandom leaves what was asked for of n members, each by out.
func (t *turn) outRandom(r randomOptions, n int, out func(i int)) {
	switch {
	case n == 0 && r.counted, r.counted && r.count == 0:
		t.out.Array(0)
	case n == 0:
		t.out.Nil()
	case !r.counted:
		sample(n, 1, func(int) {}, out)
	default:
		width := 1
		if r.with {
			width = 2
		}
		sample(n, r.count, func(drawn int) { t.out.Array(width * drawn) }, out)
	}
}
