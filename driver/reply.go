package driver

import (
	"fmt"
	"math"
	"strconv"

	"github.com/gocaches/caches/internal/resp"
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
// with an error of the Store if it could not get the reply (see [Store.Do]), and
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
		if err := resp.Failure(r.data); err != nil {
			return err
		}
		return NewServerError(string(r.data))
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
		n, at := resp.Number(r.data)
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
	kind, data, size := resp.Parse(e.data, false)
	e.data = e.data[size:]
	return Reply{Kind(kind), data}
}
