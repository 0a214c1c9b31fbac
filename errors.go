package caches

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/flight"
)

// errEnded is what an operation comes to that ends its goroutine.
var errEnded = errors.New("caches: the operation ended its goroutine (runtime.Goexit)")

// isFault reports whether err is of the kind that comes and goes: a server that
// is not there, or answers an error. What is left is wrong in the program: no
// such connection, a value that no serializer takes.
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

const sendAgain = 3

// unanswered reports whether a call's reply was lost while there was time left.
func unanswered(ctx context.Context, err error) bool {
	return errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, context.DeadlineExceeded) && !flight.Ended(ctx)
}

// What callers branch on, with errors.Is. Every error of an object's operation
// is an *[OpError] around one of these, or around a *[ServerError].
var (
	// ErrMiss reports that the cache holds no value. It is an answer, not a
	// fault: no metric counts it as a failure and no caller need log it.
	ErrMiss = errors.New("caches: miss")

	// ErrUnavailable reports that nothing was run: the server could not be
	// reached, the connection was closed, or the context had ended before.
	// Any call may be tried again.
	ErrUnavailable = driver.ErrUnavailable

	// ErrUnknownOutcome reports that a command was sent and no reply came: it
	// may have run or not. Reads were sent again already, writes never are. After
	// a claim of a [SentinelCache] the gate may be shut with nobody inside.
	ErrUnknownOutcome = driver.ErrUnknownOutcome

	// ErrBusy comes with ErrUnavailable where as many calls are under way on a
	// connection as may be.
	ErrBusy = driver.ErrBusy

	// ErrCrossSlot reports keys of several slots of a Redis Cluster where there
	// must be one: see [HashTag].
	ErrCrossSlot = driver.ErrCrossSlot

	// ErrTooLarge reports a reply or a value beyond a configured limit.
	ErrTooLarge = driver.ErrTooLarge

	// ErrProtocol reports bytes from a server that are not the reply that was
	// asked for. The connection is given up.
	ErrProtocol = driver.ErrProtocol

	// ErrOldServer reports a server older than Redis 7.0, which lacks what the
	// operation needs.
	ErrOldServer = driver.ErrOldServer

	// ErrCorrupt reports a stored value that does not decode into the type
	// asked for.
	ErrCorrupt = errors.New("caches: corrupt value")

	// ErrWrongType reports a key that holds another Redis data type than the
	// object's.
	ErrWrongType = errors.New("caches: key holds another data type")

	// ErrNotNumber reports arithmetic on a value that is not a number.
	ErrNotNumber = errors.New("caches: not a number")

	// ErrOverflow reports a number that the type or the server cannot hold.
	ErrOverflow = errors.New("caches: number out of range")

	// ErrNoKey reports an operation on an object whose Key was never called. A
	// forgotten key must not become one entry that all callers share.
	ErrNoKey = errors.New("caches: no key: call Key before the operation")

	// ErrNoConnection reports a connection name that nothing configures.
	ErrNoConnection = errors.New("caches: no connection")

	// ErrLeaseLost is the cause ([context.Cause]) with which the context of a
	// function under [SentinelCache.Do] ends when somebody else may hold the
	// gate: the server could not be asked for a whole lease, or the claim was
	// deleted.
	ErrLeaseLost = errors.New("caches: lease lost")

	// ErrPending reports that the value of a [Promise] was asked for before its
	// operation could have ended: run the [Batch] first.
	ErrPending = errors.New("caches: the operation has not run")

	// ErrAbandoned reports an operation of a [Batch] that will never begin:
	// the batch was given up, or the context of its Run had ended.
	ErrAbandoned = errors.New("caches: the batch was abandoned")
)

// A ServerError is an error reply of the server; see [driver.ServerError].
type ServerError = driver.ServerError

// An OpError says what was being done, and to which key, when something failed.
type OpError struct {
	Op  string // the method: "Cache.Get"
	Key string // the full key, empty where none was made
	Err error  // why: one of the errors above, a *ServerError, or bad input
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

// A KeysError says which keys of an operation on many failed, and why. The
// other keys' results are valid: the operation returns them beside the error.
// Causes that differ are joined ([errors.Join]).
type KeysError struct {
	Op   string   // the function: "GetMany"
	Keys []string // the full keys, in no particular order
	Err  error    // why
}

// Error returns the operation, the first few keys and the cause.
func (e *KeysError) Error() string {
	const most = 5 // a message is for reading; Keys has them all
	shown, more := e.Keys, ""
	if len(shown) > most {
		shown, more = shown[:most], fmt.Sprintf(" and %d more", len(e.Keys)-most)
	}
	return fmt.Sprintf("%s %q%s: %v", e.Op, strings.Join(shown, " "), more, e.Err)
}

// Unwrap returns the cause.
func (e *KeysError) Unwrap() error { return e.Err }

// A BatchError is the errors of the operations of a batch that failed.
type BatchError struct {
	// Errs has one error for each operation that failed, at least one; the
	// calls of one cached function have theirs joined.
	Errs []error
}

// Error returns the first few of the errors.
func (e *BatchError) Error() string {
	const most = 3 // a message is for reading; Errs has them all
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

// A HookPanic is the panic of a hook, as the Error hook or the log is told.
type HookPanic struct {
	Op    string // the call that the hook heard of; empty for State
	Value any    // what the hook panicked with
}

// Error returns what the hook panicked with.
func (p *HookPanic) Error() string { return fmt.Sprintf("caches: a hook panicked: %v", p.Value) }

// Unwrap returns what the hook panicked with, where that is an error.
func (p *HookPanic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// known pairs an error of the server with the sentinel that callers test for.
type known struct {
	sentinel error
	server   *ServerError
}

func (e *known) Error() string { return e.sentinel.Error() }

func (e *known) Unwrap() []error { return []error{e.sentinel, e.server} }

// classify gives those server errors that speak of the caller's data their
// sentinel. All others stay as they are.
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

// begins reports whether a message begins with one of texts. Further on it may
// repeat what a caller sent.
func begins(message string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(message, text) })
}

func corrupt(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	return &corruption{err}
}

// A corruption is ErrCorrupt with the decoder's error. Decoders repeat what they
// cannot read, and errors are logged where values must not be: so Error shows
// those only that are known not to. All can be had by errors.As.
type corruption struct{ cause error }

func (e *corruption) Error() string {
	return ErrCorrupt.Error() + ": " + discreet(e.cause)
}

func (e *corruption) Unwrap() []error { return []error{ErrCorrupt, e.cause} }

// A reason is an error of our own that repeats nothing of a value.
type reason string

func (r reason) Error() string { return string(r) }

// discreet returns what can be told of a decoder's error.
func discreet(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return mistyped(wrong)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Error() // it shows one character at most
	}
	if ours, ok := errors.AsType[reason](err); ok {
		return ours.Error()
	}
	for _, known := range []error{ErrNotNumber, ErrOverflow, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return err.Error()
		}
	}
	return fmt.Sprintf("the decoder's error, a %T, may repeat it and is not shown", err)
}

// mistyped is the text of e without the number that it shows.
func mistyped(e *json.UnmarshalTypeError) string {
	kind, _, _ := strings.Cut(e.Value, " ") // of "number 4711"
	text := fmt.Sprintf("json: a %s where a Go %v is wanted", kind, e.Type)
	if e.Field != "" {
		text += ", at " + e.Field
	}
	return text
}
