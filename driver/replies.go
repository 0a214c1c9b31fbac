package driver

import "github.com/gocaches/caches/internal/resp"

// Replies takes the replies of a [Store], in the order of the commands: one
// call per reply, and for an array, Array and then one call per element.
type Replies resp.Replies

func (r *Replies) raw() *resp.Replies { return (*resp.Replies)(r) }

// Len returns the number of whole replies.
func (r *Replies) Len() int { return r.raw().Len() }

// Size returns the number of bytes of all replies, as they come over the wire.
func (r *Replies) Size() int { return len(r.Raw()) }

// Raw returns the replies as they go over the wire.
func (r *Replies) Raw() []byte { return r.raw().Raw() }

// Status leaves a status, such as "OK".
func (r *Replies) Status(s string) { r.line(resp.Status, s) }

// Error leaves an error; its first word is the code: "ERR no such thing".
func (r *Replies) Error(s string) { r.line(resp.Error, s) }

func (r *Replies) line(kind byte, s string) {
	r.raw().Add(append(append(append(r.Raw(), kind), s...), '\r', '\n'))
}

// Int leaves an integer.
func (r *Replies) Int(n int64) {
	r.raw().Add(appendHeader(r.Raw(), resp.Int, n))
}

// Bytes leaves a string.
func (r *Replies) Bytes(b []byte) {
	buf := appendHeader(r.Raw(), resp.Bulk, int64(len(b)))
	r.raw().Add(append(append(buf, b...), '\r', '\n'))
}

// String leaves a string.
func (r *Replies) String(s string) {
	buf := appendHeader(r.Raw(), resp.Bulk, int64(len(s)))
	r.raw().Add(append(append(buf, s...), '\r', '\n'))
}

// Nil leaves the absence of a string.
func (r *Replies) Nil() { r.raw().Add(append(r.Raw(), "$-1\r\n"...)) }

// Array begins an array of n elements.
func (r *Replies) Array(n int) {
	buf := appendHeader(r.Raw(), resp.Array, int64(n))
	if n == 0 {
		r.raw().Add(buf)
	} else {
		r.raw().Open(buf, n)
	}
}
