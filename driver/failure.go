package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A failure is an error reply that no server has sent: a [Store] over several
// servers leaves it in the place of a reply that one of them owes. Its code is
// one that Redis cannot have, failureMark and then a letter for each error of
// failures that it is.
const failureMark = '\x00'

// failures are the errors that are recognised again, by their letters.
var failures = []struct {
	letter byte
	err    error
}{
	{'u', ErrUnavailable},
	{'b', ErrBusy},
	{'o', ErrUnknownOutcome},
	{'l', ErrTooLarge},
	{'p', ErrProtocol},
	{'v', ErrOldServer},
	{'d', context.DeadlineExceeded},
	{'c', context.Canceled},
}

// A partError is a failure as it is read: the text of the error that it was
// made of, and those of failures that this one was.
type partError struct {
	text string
	is   []error
}

func (e *partError) Error() string   { return e.text }
func (e *partError) Unwrap() []error { return e.is }

// AppendFailure appends a reply that stands for err: the Err of such a [Reply]
// has the text of err and wraps [ErrUnavailable], [ErrBusy], [ErrUnknownOutcome],
// [ErrTooLarge], [ErrProtocol], [ErrOldServer], [context.DeadlineExceeded] and
// [context.Canceled] where err does. It is for Stores that ask several servers,
// some of which have answered.
func AppendFailure(dst []byte, err error) []byte {
	dst = append(dst, byte(KindError), failureMark)
	for _, f := range failures {
		if errors.Is(err, f.err) {
			dst = append(dst, f.letter)
		}
	}
	// An error reply is one line: a text of several would be several replies.
	text := strings.NewReplacer("\r", " ", "\n", " ").Replace(err.Error())
	return fmt.Appendf(dst, " %s\r\n", text)
}

// errorOf returns the error of an error reply's text.
func errorOf(text []byte) error {
	if len(text) == 0 || text[0] != failureMark {
		return NewServerError(string(text))
	}
	letters, rest, _ := strings.Cut(string(text[1:]), " ")
	e := &partError{text: rest}
	for _, f := range failures {
		if strings.IndexByte(letters, f.letter) >= 0 {
			e.is = append(e.is, f.err)
		}
	}
	return e
}
