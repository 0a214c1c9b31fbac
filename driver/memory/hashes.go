package memory

// This file has the commands on hashes. A hash has no deadlines of its own for
// its fields, as Redis had none before 7.4.
//
// A value is computed before the hash that is to hold it is made, so a command
// that fails leaves neither an empty hash nor a changed field behind.

import (
	"bytes"
	"strconv"
)

// A hash maps fields to values. Every command on it costs O(1) for each field
// that it names, and O(n) where it answers all of them.
type hash struct{ table[[]byte] }

// newHash makes an empty hash.
func newHash() *hash { return &hash{newTable[[]byte]()} }

func (h *hash) typeName() string { return "hash" }

func (h *hash) clone() collection { return &hash{h.table.clone(bytes.Clone)} }

// set stores a copy of value and reports whether field is new.
func (h *hash) set(field, value []byte) (added bool) {
	if v := h.get(field); v != nil {
		*v = overwrite(*v, value)
		return false
	}
	h.add(string(field), bytes.Clone(value))
	return true
}

// hash looks a hash up to read it: nil, an empty table, where there is none.
func (t *turn) hash(key []byte) (*table[[]byte], bool) {
	_, h, ok := lookupObject[*hash](t, key)
	if h == nil {
		return nil, ok
	}
	return &h.table, ok
}

// outValue leaves the value of field, nil where there is none.
func (t *turn) outValue(h *table[[]byte], field []byte) {
	if v := h.get(field); v != nil {
		t.out.Bytes(*v)
	} else {
		t.out.Nil()
	}
}

// hget is HGET key field.
func (t *turn) hget() {
	if h, ok := t.hash(t.args[1]); ok {
		t.outValue(h, t.args[2])
	}
}

// hmget is HMGET key field …, with nil for fields that are not there.
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
	removeFrom(t, func(h *hash) int64 { return h.removeAll(t.args[2:]) })
}

// hexists is HEXISTS key field.
func (t *turn) hexists() {
	if h, ok := t.hash(t.args[1]); ok {
		t.outBool(h.get(t.args[2]) != nil)
	}
}

// hlen is HLEN key.
func (t *turn) hlen() {
	if h, ok := t.hash(t.args[1]); ok {
		t.out.Int(int64(h.len()))
	}
}

// hstrlen is HSTRLEN key field.
func (t *turn) hstrlen() {
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	if v := h.get(t.args[2]); v != nil {
		t.out.Int(int64(len(*v)))
	} else {
		t.out.Int(0)
	}
}

// hkeys is HKEYS key.
func (t *turn) hkeys() { t.outHash(true, false) }

// hvals is HVALS key.
func (t *turn) hvals() { t.outHash(false, true) }

// hgetAll is HGETALL key.
func (t *turn) hgetAll() { t.outHash(true, true) }

// outHash leaves all fields, all values, or both by turns: in RESP2 a map is an
// array of twice the length.
func (t *turn) outHash(fields, values bool) {
	h, ok := t.hash(t.args[1])
	if !ok {
		return
	}
	n := h.len()
	if fields && values {
		t.out.Array(2 * n)
	} else {
		t.out.Array(n)
	}
	for i := range n {
		if fields {
			t.out.String(h.items[i].name)
		}
		if values {
			t.out.Bytes(h.items[i].value)
		}
	}
}

// hincrBy is HINCRBY key field increment. A field that is not there counts as 0.
func (t *turn) hincrBy() {
	by, ok := parseInt(t.args[3])
	if !ok {
		t.fail(notInteger)
		return
	}
	_, h, ok := lookupObject[*hash](t, t.args[1])
	if !ok {
		return
	}
	var n int64
	if old := h.field(t.args[2]); old != nil {
		if n, ok = parseInt(*old); !ok {
			t.fail("ERR hash value is not an integer")
			return
		}
	}
	if overflows(n, by) { // the field stays as it was
		t.fail(overflow)
		return
	}
	t.hput(h, strconv.AppendInt(nil, n+by, 10))
	t.out.Int(n + by)
}

// field is get for a hash that may be nil.
func (h *hash) field(name []byte) *[]byte {
	if h == nil {
		return nil
	}
	return h.get(name)
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
// INCRBYFLOAT. Here, unlike there, an infinite increment has an error of its own.
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
	_, h, ok := lookupObject[*hash](t, t.args[1])
	if !ok {
		return
	}
	old := zero
	if v := h.field(t.args[2]); v != nil {
		old = *v
	}
	if text, ok := t.sum(old, by, "ERR hash value is not a float"); ok {
		t.hput(h, text)
		t.out.Bytes(text)
	}
}

// hrandField is HRANDFIELD key [count [WITHVALUES]].
func (t *turn) hrandField() {
	outRandom(t, "WITHVALUES", t.hash, func(it *item[[]byte], with bool) {
		t.out.String(it.name)
		if with {
			t.out.Bytes(it.value)
		}
	})
}
