// Package corrupt has the errors of stored values that do not decode. They go to
// logs, and do not show the values.
package corrupt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gocaches/caches/driver"
)

// Errors to test for with [errors.Is].
var (
	Err          = errors.New("caches: corrupt value")
	ErrNotNumber = errors.New("caches: not a number")
	ErrOverflow  = errors.New("caches: number out of range")
)

// Value returns the error of a value that does not decode: an [Err] with the cause
// err, or err itself if the value is beyond a limit.
func Value(err error) error {
	if errors.Is(err, driver.ErrTooLarge) {
		return err
	}
	return &corruption{err}
}

// A corruption is Err with the decoder's error. Decoders may repeat the
// value that they cannot read, and errors go to logs, where values must not be.
// So Error shows only errors known not to contain it. [errors.As] finds all of
// them.
type corruption struct{ cause error }

func (e *corruption) Error() string {
	return Err.Error() + ": " + discreet(e.cause)
}

func (e *corruption) Unwrap() []error { return []error{Err, e.cause} }

// A Reason is an error text of this module that does not contain the value.
type Reason string

// Error returns the text.
func (r Reason) Error() string { return string(r) }

// discreet returns the text of a decoder's error, or another if that may
// contain the value.
func discreet(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return mistyped(wrong)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Error() // shows at most one character
	}
	if ours, ok := errors.AsType[Reason](err); ok {
		return ours.Error()
	}
	for _, known := range []error{ErrNotNumber, ErrOverflow, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return err.Error()
		}
	}
	return fmt.Sprintf("the decoder's error, a %T, may repeat it and is not shown", err)
}

// mistyped returns the text of e without the number in it.
func mistyped(e *json.UnmarshalTypeError) string {
	kind, _, _ := strings.Cut(e.Value, " ") // of "number 4711"
	text := fmt.Sprintf("json: a %s where a Go %v is wanted", kind, e.Type)
	if e.Field != "" {
		text += ", at " + e.Field
	}
	return text
}
