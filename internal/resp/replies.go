// Package resp holds replies in RESP2, Redis's wire format, for package driver
// and the stores of this module.
//
// [driver.Replies] is defined as [Replies], so a store of this module converts
// the one to the other at no cost:
//
//	(*resp.Replies)(p.Replies()).Swap(buf, p.Len())
//
// It then places the bytes of a connection as replies, unchecked. The authors of
// other stores cannot: the methods of driver.Replies only add well-formed
// replies.
//
// [driver.Replies]: https://pkg.go.dev/github.com/gocaches/caches/driver#Replies
package resp

// Replies are the replies of a Pipeline. The methods trust the caller to pass
// whole, well-formed replies: nothing behind them checks lengths again.
type Replies struct {
	buf  []byte
	n    int   // whole replies
	open []int // elements still missing of each open array, outermost first
	kept any   // see Kept
}

// Len returns the number of whole replies.
func (r *Replies) Len() int { return r.n }

// Raw returns the replies as they came over the wire.
func (r *Replies) Raw() []byte { return r.buf }

// Kept returns the place for a value that a store keeps from one call of a Pipeline
// to the next. Reset and Trim leave it alone, so the pool of Pipelines is also
// the pool of these values. Another store may have left a value of its own.
func (r *Replies) Kept() *any { return &r.kept }

// Reset removes the replies.
func (r *Replies) Reset() { r.buf, r.n, r.open = r.buf[:0], 0, r.open[:0] }

// Trim drops the buffer if it is larger than limit, without a Reset.
func (r *Replies) Trim(limit int) {
	if cap(r.buf) > limit {
		r.buf = nil
	}
}

// Swap replaces the replies by the n replies in buf, which then belongs to the
// Pipeline. It returns the previous buffer, empty, for reuse.
func (r *Replies) Swap(buf []byte, n int) (old []byte) {
	old = r.buf[:0]
	r.buf, r.n, r.open = buf, n, r.open[:0]
	return old
}

// Take returns the buffer of the replies, empty. The caller fills it and returns
// it by Swap.
func (r *Replies) Take() []byte {
	buf := r.buf[:0]
	r.buf = nil
	return buf
}

// Append appends a copy of the n replies in buf.
func (r *Replies) Append(buf []byte, n int) {
	r.buf = append(r.buf, buf...)
	r.n += n
}

// Open begins an array of n > 0 elements; buf is Raw and the array's header.
func (r *Replies) Open(buf []byte, n int) {
	r.buf = buf
	r.open = append(r.open, n)
}

// Add completes a reply, or an element of an open array; buf is Raw and its
// bytes. An array ends with its last element.
func (r *Replies) Add(buf []byte) {
	r.buf = buf
	for i := len(r.open) - 1; i >= 0; i-- {
		if r.open[i]--; r.open[i] > 0 {
			return
		}
		r.open = r.open[:i]
	}
	r.n++
}

// Failed reports whether one of the replies is an error. It does not look at the
// elements of arrays.
func (r *Replies) Failed() bool {
	buf := r.buf
	for left := r.n; left > 0; left-- {
		if buf[0] == Error {
			return true
		}
		if left > 1 { // the end of the last reply is not needed
			_, buf = Cut(buf)
		}
	}
	return false
}
