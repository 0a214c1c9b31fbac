package driver

import "github.com/gocaches/caches/internal/resp"

// Replies collects the replies of a [Store], in the order of the commands. Each
// call of Status, Error, Int, Bytes, String or Nil adds one reply. An array is
// added by Array, followed by one call for each element.
type Replies resp.Replies

// raw returns r with the unchecked methods, which only the stores of this module
// can reach.
func (r *Replies) raw() *resp.Replies { return (*resp.Replies)(r) }

// Len returns the number of complete replies.
func (r *Replies) Len() int { return r.raw().Len() }

// Size returns the size of all replies in wire format, in bytes.
func (r *Replies) Size() int { return len(r.Raw()) }

// Raw returns all replies in wire format.
func (r *Replies) Raw() []byte { return r.raw().Raw() }

// Status adds a status, such as "OK".
func (r *Replies) Status(s string) { r.line(resp.Status, s) }

// Error adds an error, such as "ERR no such key". Its first word is the code.
func (r *Replies) Error(s string) { r.line(resp.Error, s) }

func (r *Replies) line(kind byte, s string) {
	r.raw().Add(append(append(append(r.Raw(), kind), s...), '\r', '\n'))
}

// Int adds an integer.
func (r *Replies) Int(n int64) {
	r.raw().Add(appendHeader(r.Raw(), resp.Int, n))
}

// Bytes adds a string, copied from b.
func (r *Replies) Bytes(b []byte) {
	buf := appendHeader(r.Raw(), resp.Bulk, int64(len(b)))
	r.raw().Add(append(append(buf, b...), '\r', '\n'))
}

// String adds a string.
func (r *Replies) String(s string) {
	buf := appendHeader(r.Raw(), resp.Bulk, int64(len(s)))
	r.raw().Add(append(append(buf, s...), '\r', '\n'))
}

// Nil adds a nil reply, which stands for an absent string or array.
func (r *Replies) Nil() { r.raw().Add(append(r.Raw(), "$-1\r\n"...)) }

// Array begins an array of n elements, which the next calls add. An element may be
// an array.
func (r *Replies) Array(n int) {
	buf := appendHeader(r.Raw(), resp.Array, int64(n))
	if n == 0 {
		r.raw().Add(buf)
	} else {
		r.raw().Open(buf, n)
	}
}
