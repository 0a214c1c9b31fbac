package resp

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// The errors of package driver that a failure preserves. Package driver exports
// and documents them.
var (
	ErrUnavailable    = errors.New("caches: unavailable")
	ErrBusy           = errors.New("caches: busy")
	ErrUnknownOutcome = errors.New("caches: unknown outcome")
	ErrTooLarge       = errors.New("caches: too large")
	ErrProtocol       = errors.New("caches: protocol error")
	ErrOldServer      = errors.New("caches: server too old")
)

// failureMark begins a failure: an error reply that no server sent. A store over
// several servers puts it in the place of a reply that one of them owes. The
// first word of its text, a code that Redis cannot send, is the mark and one
// letter of failures for each error that the failure wraps.
const failureMark = '\x00'

// failures are the errors that a failure preserves, and their letters.
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

// A failure is the error of a failure reply: the text of the original error, and
// the errors of failures that the original wrapped.
type failure struct {
	text string
	is   []error
}

func (e *failure) Error() string   { return e.text }
func (e *failure) Unwrap() []error { return e.is }

// AppendFailure appends an error reply that stands for err. Its error, as read
// through package driver, has the text of err and wraps ErrUnavailable, ErrBusy,
// ErrUnknownOutcome, ErrTooLarge, ErrProtocol, ErrOldServer,
// [context.DeadlineExceeded] and [context.Canceled] if err does.
func AppendFailure(dst []byte, err error) []byte {
	dst = append(dst, Error, failureMark)
	for _, f := range failures {
		if errors.Is(err, f.err) {
			dst = append(dst, f.letter)
		}
	}
	// An error reply is one line: a text of several would be several replies.
	text := strings.NewReplacer("\r", " ", "\n", " ").Replace(err.Error())
	return fmt.Appendf(dst, " %s\r\n", text)
}

// Failure returns the error that AppendFailure wrote, given the text of an error
// reply, or nil if the text is a server's.
func Failure(text []byte) error {
	if len(text) == 0 || text[0] != failureMark {
		return nil
	}
	letters, rest, _ := strings.Cut(string(text[1:]), " ")
	e := &failure{text: rest}
	for _, f := range failures {
		if strings.IndexByte(letters, f.letter) >= 0 {
			e.is = append(e.is, f.err)
		}
	}
	return e
}
