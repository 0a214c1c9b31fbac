package caches

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/corrupt"
	"github.com/gocaches/caches/internal/flight"
)

// errEnded is the error of an operation that ended its goroutine.
var errEnded = errors.New("caches: the operation ended its goroutine (runtime.Goexit)")

// isFault reports whether err may be temporary, such as an unavailable server
// or an error reply. All other errors are mistakes in the program, such as an
// unknown connection or a value that cannot be serialized.
func isFault(err error) bool {
	if _, ok := errors.AsType[*ServerError](err); ok {
		return true
	}
	for _, fault := range []error{
		ErrUnavailable, ErrUnknownOutcome, ErrTooLarge, ErrProtocol, ErrCorrupt, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

const sendAgain = 3 // most repetitions after an unanswered call

// unanswered reports whether the reply was lost before the deadline of the
// call.
func unanswered(ctx context.Context, err error) bool {
	return errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, context.DeadlineExceeded) && !flight.Ended(ctx)
}

// Errors to test for with [errors.Is]. Every error of an object's operation is
// an *[OpError] that wraps one of these, a *[ServerError], or a description of
// bad input.
var (
	// ErrMiss reports that there is no value. It is not a fault: statistics do not
	// count it as an error, and it need not be logged.
	ErrMiss = errors.New("caches: miss")

	// ErrUnavailable reports that no command was run: the server could not be
	// reached, the connection was closed, or the context was already done. Any
	// call may be retried.
	ErrUnavailable = driver.ErrUnavailable

	// ErrUnknownOutcome reports that a command was sent but no reply was received:
	// it may or may not have run. Reads have already been retried; writes never
	// are. After [Sentinel.Once] or [Sentinel.Do], the gate may be shut although
	// no caller got in.
	ErrUnknownOutcome = driver.ErrUnknownOutcome

	// ErrBusy accompanies ErrUnavailable if too many calls are in progress on the
	// connection.
	ErrBusy = driver.ErrBusy

	// ErrCrossSlot reports keys in several slots of a Redis Cluster in an
	// operation that is restricted to one slot; see [HashTag].
	ErrCrossSlot = driver.ErrCrossSlot

	// ErrTooLarge reports a reply or a value larger than a configured limit.
	ErrTooLarge = driver.ErrTooLarge

	// ErrProtocol reports a malformed or unexpected reply. The connection is
	// closed.
	ErrProtocol = driver.ErrProtocol

	// ErrOldServer reports a server older than Redis 7.0, which lacks commands
	// that the operation needs.
	ErrOldServer = driver.ErrOldServer

	// ErrCorrupt reports a stored value that does not decode into the requested
	// type.
	ErrCorrupt = corrupt.Err

	// ErrWrongType reports a key that holds a different Redis data type than the
	// object needs.
	ErrWrongType = errors.New("caches: key holds another data type")

	// ErrNotNumber reports arithmetic on a value that is not a number.
	ErrNotNumber = corrupt.ErrNotNumber

	// ErrOverflow reports a number that the type or the server cannot hold.
	ErrOverflow = corrupt.ErrOverflow

	// ErrNoKey reports an operation on an object that was not returned by a Key
	// method. A forgotten key must not become an entry that all callers share.
	ErrNoKey = errors.New("caches: no key: call Key before the operation")

	// ErrNoConnection reports a connection name that is not configured.
	ErrNoConnection = errors.New("caches: no connection")

	// ErrLeaseLost is the cause ([context.Cause]) with which [Sentinel.Do] cancels
	// the context of its function if another caller may hold the gate: the server
	// was unavailable for a whole lease, or the claim was deleted.
	ErrLeaseLost = errors.New("caches: lease lost")

	// ErrPending reports that the value of a [Promise] was requested before its
	// operation could complete: run the [Batch] first.
	ErrPending = errors.New("caches: the operation has not run")

	// ErrAbandoned reports an operation of a [Batch] that will never begin: the
	// batch was abandoned, or the context of its Run was done.
	ErrAbandoned = errors.New("caches: the batch was abandoned")
)

// A ServerError is an error reply of a server; see [driver.ServerError].
type ServerError = driver.ServerError

// An OpError is the error of an operation on an object.
type OpError struct {
	Op  string // the method: "Value.Get"
	Key string // the full key, empty if there is none
	Err error  // the cause: one of the errors above, a *ServerError, or bad input
}

// Error returns the operation, the key and the cause.
func (e *OpError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Op, e.Key, e.Err)
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// A KeysError is the error of an operation on many keys, some of which failed.
// The results of the other keys are valid and are returned with the error.
type KeysError struct {
	Op   string   // the function: "GetMany"
	Keys []string // the full keys that failed, in no particular order
	Err  error    // the cause; different causes are joined by errors.Join
}

// Error returns the operation, the first few keys and the cause.
func (e *KeysError) Error() string {
	const most = 5 // keeps the message readable; Keys has all
	shown, more := e.Keys, ""
	if len(shown) > most {
		shown, more = shown[:most], fmt.Sprintf(" and %d more", len(e.Keys)-most)
	}
	return fmt.Sprintf("%s %q%s: %v", e.Op, strings.Join(shown, " "), more, e.Err)
}

// Unwrap returns the cause.
func (e *KeysError) Unwrap() error { return e.Err }

// A BatchError holds the errors of the failed operations of a batch.
type BatchError struct {
	// Errs has one error for each failed operation. It is not empty. The errors
	// of calls of one cached function are joined into one.
	Errs []error
}

// Error returns the first few errors.
func (e *BatchError) Error() string {
	const most = 3 // keeps the message readable; Errs has all
	texts := make([]string, 0, most)
	for _, err := range e.Errs[:min(most, len(e.Errs))] {
		texts = append(texts, err.Error())
	}
	more := ""
	if len(e.Errs) > most {
		more = fmt.Sprintf("; and %d more", len(e.Errs)-most)
	}
	return "caches: batch: " + strings.Join(texts, "; ") + more
}

// Unwrap returns the errors.
func (e *BatchError) Unwrap() []error { return e.Errs }

// A HookPanic reports a panic of a hook to the Error hook or the log.
type HookPanic struct {
	Op    string // the operation that the hook observed; empty for State
	Value any    // the value of the panic
}

// Error returns a message with the value of the panic.
func (p *HookPanic) Error() string { return fmt.Sprintf("caches: a hook panicked: %v", p.Value) }

// Unwrap returns the value of the panic if it is an error, or else nil.
func (p *HookPanic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// known pairs an error of the server with the error that callers test for.
type known struct {
	sentinel error
	server   *ServerError
}

func (e *known) Error() string { return e.sentinel.Error() }

func (e *known) Unwrap() []error { return []error{e.sentinel, e.server} }

// classify pairs server errors about the caller's data with ErrWrongType,
// ErrOverflow or ErrNotNumber. It returns all other errors unchanged.
func classify(err error) error {
	server, ok := errors.AsType[*ServerError](err)
	if !ok {
		return err
	}
	message := server.Message()
	switch {
	case server.Code == "WRONGTYPE":
		return &known{ErrWrongType, server}
	case server.Code != "ERR":
		return err
	case begins(message, "increment or decrement would overflow", "increment would produce NaN", "resulting score"):
		return &known{ErrOverflow, server}
	case begins(message, "value is not an integer", "value is not a valid float", "hash value is not", "min or max is not a float"):
		return &known{ErrNotNumber, server}
	}
	return err
}

// begins reports whether a message begins with one of texts. The rest of it may
// repeat arguments of the command.
func begins(message string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(message, text) })
}

// errNil reports a nil reply to a command that always has a value. It is not a
// miss, which only a look-up returns.
var errNil = fmt.Errorf("%w: a nil reply where a value was expected", ErrProtocol)

// present returns the bytes of a reply in place. A nil reply is an error.
func present(r driver.Reply) ([]byte, error) {
	data, ok, err := r.Bytes()
	if err == nil && !ok {
		err = errNil
	}
	return data, err
}
