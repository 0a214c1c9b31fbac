package memory

// This file has the commands on hashes. Fields have no deadlines of their own, as in
// Redis before 7.4.
//
// A command computes the value before it creates the hash. So a command that fails
// neither creates an empty hash nor changes a field.

import (
	"bytes"
	"strconv"
)

// A hash maps fields to values. A command takes O(1) time for each field in its
// arguments, and O(n) if it returns all fields.
type hash struct{ table[[]byte] }

// newHash returns an empty hash.
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

// hash looks up a hash for reading. It returns nil, an empty table, if there is none.
func (t *turn) hash(key []byte) (*table[[]byte], bool) {
	_, h, ok := lookupObject[*hash](t, key)
	if h == nil {
		return nil, ok
	}
	return &h.table, ok
}

// outValue replies with the value of field, or nil if there is none.
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

// hmget is HMGET key field …, with nil for missing fields.
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

// hset is HSET key field value …, O(1) for each. It returns the number of new fields.
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

// hsetNX is HSETNX key field value. A hash that it creates never stays empty, as the
// field does not exist in it.
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

// outHash replies with all fields, all values, or both alternately: in RESP2 a map is
// an array of twice the length.
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

// hincrBy is HINCRBY key field increment. A missing field counts as 0.
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
	if overflows(n, by) {
		t.fail(overflow)
		return
	}
	t.hput(h, strconv.AppendInt(nil, n+by, 10))
	t.out.Int(n + by)
}

// field is like get, but h may be nil.
func (h *hash) field(name []byte) *[]byte {
	if h == nil {
		return nil
	}
	return h.get(name)
}

// hput stores the result of an increment. It creates the hash if h is nil.
func (t *turn) hput(h *hash, value []byte) {
	if h == nil {
		h = newHash()
		t.create(t.args[1]).object = h
	}
	h.set(t.args[2], value)
}

// hincrByFloat is HINCRBYFLOAT key field increment. It computes like INCRBYFLOAT, but
// has a separate error for an infinite increment.
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
