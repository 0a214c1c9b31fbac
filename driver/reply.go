package driver

import (
	"fmt"
	"math"
	"strconv"

	"github.com/gocaches/caches/internal/resp"
)

// A Kind is the type of a [Reply].
type Kind byte

// The kinds of replies, with their first byte in wire format.
const (
	KindStatus Kind = '+'
	KindError  Kind = '-'
	KindInt    Kind = ':'
	KindBulk   Kind = '$'
	KindArray  Kind = '*'
	KindNil    Kind = '_' // an absent bulk or array, "$-1" or "*-1" in wire format
)

// A Reply is one reply to a command, or an element of one: a view of the buffer
// of its [Pipeline].
//
// Its methods return a *[ServerError] for an error reply, and the error of the
// Store for a reply that the Store could not get (see [Store.Do]). They fail with
// [ErrProtocol] if the reply is missing or of another kind.
type Reply struct {
	// The fields are four words, the most that Go keeps in registers. With a
	// fifth, each reply went through memory twice.
	kind Kind
	data []byte // the payload; of an array, its length, the line end and the elements
}

// Kind returns the kind of the reply, or 0 if the reply is missing.
func (r Reply) Kind() Kind { return r.kind }

// Err returns the error of an error reply, [ErrProtocol] for a missing reply, and
// nil for any other.
func (r Reply) Err() error {
	switch r.kind {
	case KindError:
		if err := resp.Failure(r.data); err != nil {
			return err
		}
		return NewServerError(string(r.data))
	case 0:
		return fmt.Errorf("%w: missing reply", ErrProtocol)
	}
	return nil
}

func (r Reply) mismatch(want string) error {
	if err := r.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: got a reply of kind %q, want %s", ErrProtocol, rune(r.kind), want)
}

// Bytes returns the bytes of a string reply, without copying them. For a nil
// reply, ok is false and err is nil.
func (r Reply) Bytes() (b []byte, ok bool, err error) {
	switch r.kind {
	case KindBulk, KindStatus:
		return r.data, true, nil
	case KindNil:
		return nil, false, nil
	}
	return nil, false, r.mismatch("a string")
}

// Int returns the value of an integer reply.
func (r Reply) Int() (int64, error) {
	if r.kind != KindInt {
		return 0, r.mismatch("an integer")
	}
	n, err := strconv.ParseInt(string(r.data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: malformed integer", ErrProtocol)
	}
	return n, nil
}

// Float returns the number in a string reply. For a nil reply, ok is false and err
// is nil.
func (r Reply) Float() (f float64, ok bool, err error) {
	b, ok, err := r.Bytes()
	if err != nil || !ok {
		return 0, false, err
	}
	f, err = strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) {
		return 0, false, fmt.Errorf("%w: malformed number", ErrProtocol)
	}
	return f, true, nil
}

// OK returns nil for a status reply, such as "+OK".
func (r Reply) OK() error {
	if r.kind != KindStatus {
		return r.mismatch("a status")
	}
	return nil
}

// Elems returns the elements of an array reply. A nil reply has none.
func (r Reply) Elems() (Elems, error) {
	switch r.kind {
	case KindArray:
		n, at := resp.Number(r.data)
		return Elems{n, r.data[at:]}, nil
	case KindNil:
		return Elems{}, nil
	}
	return Elems{}, r.mismatch("an array")
}

// Elems iterates over the elements of an array reply.
type Elems struct {
	n    int
	data []byte
}

// Len returns the number of remaining elements.
func (e *Elems) Len() int { return e.n }

// Next returns the next element. After the last one it returns the zero Reply,
// whose methods fail with [ErrProtocol].
func (e *Elems) Next() Reply {
	if e.n == 0 {
		return Reply{}
	}
	e.n--
	kind, data, size := resp.Parse(e.data, false)
	e.data = e.data[size:]
	return Reply{Kind(kind), data}
}
