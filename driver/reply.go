package driver

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// A Kind is what a [Reply] holds.
type Kind byte

// The kinds of replies, by their first byte on the wire.
const (
	KindStatus Kind = '+'
	KindError  Kind = '-'
	KindInt    Kind = ':'
	KindBulk   Kind = '$'
	KindArray  Kind = '*'
	KindNil    Kind = '_' // an absent bulk or array: "$-1" and "*-1" on the wire
)

// A Reply is one reply, a view of the buffer of its [Pipeline].
//
// Its methods fail with a *[ServerError] where the reply is the server's error,
// with a Store's own error where it stands for one (see [AppendFailure]), and
// with [ErrProtocol] where it is of another kind than asked for.
//
// It is four words, the most that Go keeps in registers: with a fifth every
// reply went through memory, twice.
type Reply struct {
	kind Kind
	data []byte // of an array: its length, the line's end and its elements; else the payload
}

// Kind returns what the reply holds, zero for a reply that is not there.
func (r Reply) Kind() Kind { return r.kind }

// Err returns the server's error, if the reply is one.
func (r Reply) Err() error {
	switch r.kind {
	case KindError:
		return errorOf(r.data)
	case 0:
		return fmt.Errorf("%w: a reply is missing", ErrProtocol)
	}
	return nil
}

func (r Reply) mismatch(want string) error {
	if err := r.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: a reply of kind %q where %s was expected", ErrProtocol, rune(r.kind), want)
}

// Bytes returns a string's bytes, in place. A nil reply is not ok, and no error.
func (r Reply) Bytes() (b []byte, ok bool, err error) {
	switch r.kind {
	case KindBulk, KindStatus:
		return r.data, true, nil
	case KindNil:
		return nil, false, nil
	}
	return nil, false, r.mismatch("a string")
}

// Int returns an integer.
func (r Reply) Int() (int64, error) {
	if r.kind != KindInt {
		return 0, r.mismatch("an integer")
	}
	n, err := strconv.ParseInt(string(r.data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: an integer reply that is none", ErrProtocol)
	}
	return n, nil
}

// Float returns a number that came as a string. A nil reply is not ok, and no
// error.
func (r Reply) Float() (f float64, ok bool, err error) {
	b, ok, err := r.Bytes()
	if err != nil || !ok {
		return 0, false, err
	}
	f, err = strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) {
		return 0, false, fmt.Errorf("%w: a number reply that is none", ErrProtocol)
	}
	return f, true, nil
}

// OK returns nil for a status reply ("+OK").
func (r Reply) OK() error {
	if r.kind != KindStatus {
		return r.mismatch("a status")
	}
	return nil
}

// Elems returns the elements of an array; nil gives none.
func (r Reply) Elems() (Elems, error) {
	switch r.kind {
	case KindArray:
		n, at := number(r.data)
		return Elems{n, r.data[at:]}, nil
	case KindNil:
		return Elems{}, nil
	}
	return Elems{}, r.mismatch("an array")
}

// Elems are the elements of an array reply, read one after the other.
type Elems struct {
	n    int
	data []byte
}

// Len returns how many elements are left.
func (e *Elems) Len() int { return e.n }

// Next returns the next element. Past the last one it returns a Reply whose
// every method fails.
func (e *Elems) Next() Reply {
	if e.n == 0 {
		return Reply{}
	}
	e.n--
	r, size := parseReply(e.data, false)
	e.data = e.data[size:]
	return r
}

// parseReply reads the reply at the start of buf, which holds whole replies
// only, and returns its size too. Where it is the last one, an array's elements
// are all that is left, and their end need not be looked for.
func parseReply(buf []byte, last bool) (r Reply, size int) {
	if len(buf) < 3 {
		return Reply{}, len(buf)
	}
	switch kind := Kind(buf[0]); kind {
	case KindStatus, KindError, KindInt:
		line := bytes.IndexByte(buf, '\r')
		if line < 0 || line+2 > len(buf) {
			return Reply{}, len(buf)
		}
		return Reply{kind, buf[1:line]}, line + 2
	case KindBulk:
		n, at := number(buf[1:])
		start, end := 1+at, 1+at+n
		switch {
		case n < 0:
			return Reply{kind: KindNil}, start
		case end+2 > len(buf):
			return Reply{}, len(buf)
		}
		return Reply{KindBulk, buf[start:end:end]}, end + 2
	case KindArray:
		n, at := number(buf[1:])
		end := 1 + at
		switch {
		case n < 0:
			return Reply{kind: KindNil}, end
		case last:
			return Reply{KindArray, buf[1:]}, len(buf)
		}
		for range n {
			_, size := parseReply(buf[end:], false)
			end += size
		}
		return Reply{KindArray, buf[1:end]}, end
	}
	return Reply{}, len(buf)
}

// CutReply returns the first of the whole, well-formed replies in raw, as it
// came over the wire, and the others. The elements of an array are such replies
// behind its first line. O(n) in the reply's elements.
func CutReply(raw []byte) (reply, rest []byte) {
	_, size := parseReply(raw, false)
	return raw[:size:size], raw[size:]
}

// Replies takes the replies of a [Store], in the order of the commands: one
// call per reply, and for an array, Array and then one call per element.
type Replies struct {
	buf  []byte
	n    int   // whole replies
	open []int // elements still missing of each open array, outermost first
}

func (r *Replies) reset() { r.buf, r.n, r.open = r.buf[:0], 0, r.open[:0] }

// Len returns the number of whole replies.
func (r *Replies) Len() int { return r.n }

// Failed reports whether one of the replies is an error of the server. It looks
// at whole replies, and not at the elements of arrays.
func (r *Replies) Failed() bool {
	buf := r.buf
	for left := r.n; left > 0; left-- {
		if buf[0] == byte(KindError) {
			return true
		}
		if left > 1 { // where the last one ends need not be looked for
			_, size := parseReply(buf, false)
			buf = buf[size:]
		}
	}
	return false
}

// Size returns the number of bytes of all replies, as they come over the wire.
func (r *Replies) Size() int { return len(r.buf) }

// Status leaves a status, such as "OK".
func (r *Replies) Status(s string) { r.line('+', s) }

// Error leaves an error; its first word is the code: "ERR no such thing".
func (r *Replies) Error(s string) { r.line('-', s) }

func (r *Replies) line(kind byte, s string) {
	r.buf = append(append(append(r.buf, kind), s...), '\r', '\n')
	r.done()
}

// Int leaves an integer.
func (r *Replies) Int(n int64) {
	r.buf = appendHeader(r.buf, ':', n)
	r.done()
}

// Bytes leaves a string.
func (r *Replies) Bytes(b []byte) {
	r.buf = appendHeader(r.buf, '$', int64(len(b)))
	r.buf = append(append(r.buf, b...), '\r', '\n')
	r.done()
}

// String leaves a string.
func (r *Replies) String(s string) {
	r.buf = appendHeader(r.buf, '$', int64(len(s)))
	r.buf = append(append(r.buf, s...), '\r', '\n')
	r.done()
}

// Nil leaves the absence of a string.
func (r *Replies) Nil() {
	r.buf = append(r.buf, "$-1\r\n"...)
	r.done()
}

// Array begins an array of n elements.
func (r *Replies) Array(n int) {
	r.buf = appendHeader(r.buf, '*', int64(n))
	if n == 0 {
		r.done()
		return
	}
	r.open = append(r.open, n)
}

// done closes what the reply just written completes.
func (r *Replies) done() {
	for i := len(r.open) - 1; i >= 0; i-- {
		if r.open[i]--; r.open[i] > 0 {
			return
		}
		r.open = r.open[:i]
	}
	r.n++
}

// Swap leaves n whole replies as they came from the wire, in buf, which then
// belongs to the Pipeline; it returns the buffer that buf replaces, empty, for
// the Store to use again. The Store has checked that buf holds n well-formed
// replies and nothing else.
func (r *Replies) Swap(buf []byte, n int) (old []byte) {
	old = r.buf[:0]
	r.buf, r.n, r.open = buf, n, r.open[:0]
	return old
}

// Take returns the buffer of the replies, empty, for a Store to leave replies
// in that it gives back by Swap.
func (r *Replies) Take() []byte {
	buf := r.buf[:0]
	r.buf = nil
	return buf
}

// Append leaves n whole replies as they came from the wire, copied from buf,
// under the condition of Swap.
func (r *Replies) Append(buf []byte, n int) {
	r.buf = append(r.buf, buf...)
	r.n += n
}

// Raw returns the replies as they go over the wire.
func (r *Replies) Raw() []byte { return r.buf }
