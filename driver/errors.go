package driver

import (
	"errors"
	"strconv"
	"strings"

	"github.com/gocaches/caches/internal/resp"
)

var (
	// ErrUnavailable reports that no command was run: the server could not be
	// reached, the store was closed, or the context was already done. Any call
	// may be retried.
	ErrUnavailable = resp.ErrUnavailable // "caches: unavailable"

	// ErrBusy accompanies ErrUnavailable if the client refused the call: too many
	// calls are in progress on the connection.
	ErrBusy = resp.ErrBusy // "caches: busy"

	// ErrUnknownOutcome reports that commands were sent but no reply was
	// received: they may or may not have run.
	ErrUnknownOutcome = resp.ErrUnknownOutcome // "caches: unknown outcome"

	// ErrTooLarge reports a reply or a value larger than a configured limit.
	ErrTooLarge = resp.ErrTooLarge // "caches: too large"

	// ErrProtocol reports a malformed reply, or a reply of an unexpected kind.
	ErrProtocol = resp.ErrProtocol // "caches: protocol error"

	// ErrOldServer reports a Redis server older than 7.0, which lacks commands
	// that package caches needs.
	ErrOldServer = resp.ErrOldServer // "caches: server too old"

	// ErrCrossSlot reports keys in several slots of a [Cluster] in a command or
	// Pipeline that is restricted to one slot. No command was run.
	ErrCrossSlot = errors.New("caches: keys of different slots")
)

// A ServerError is an error reply of the server. The command did not run; a
// script or a transaction may have run in part.
type ServerError struct {
	// Code is the reply's first word: "ERR", "WRONGTYPE", "OOM", "NOAUTH", …
	Code string
	// message is the rest of the reply. It may repeat arguments of the command,
	// so Error shows it only if it is known to be fixed text.
	message string
}

// NewServerError returns the ServerError for the text of an error reply, given
// without the leading "-".
func NewServerError(text string) *ServerError {
	code, message, _ := strings.Cut(text, " ")
	return &ServerError{Code: code, message: message}
}

// Error returns the code, followed by the message if that is fixed text. Other
// messages may contain keys or values: Redis repeats the arguments of an unknown
// command, and the error of a script may contain anything.
func (e *ServerError) Error() string {
	if e.message != "" && fixedText(e) {
		return "caches: server says " + e.Code + " " + e.message
	}
	return "caches: server says " + e.Code
}

// GoString implements [fmt.GoStringer], so that %#v does not show the message
// either.
func (e *ServerError) GoString() string {
	return "driver.ServerError(" + strconv.Quote(e.Error()) + ")"
}

// Message returns the text after the code, as the server sent it. It may contain
// keys and values of the command and should not be logged.
func (e *ServerError) Message() string { return e.message }

func fixedText(e *ServerError) bool {
	if e.Code != "ERR" {
		// The messages of these codes are fixed sentences in Redis's source. NOPERM
		// is not among them, as it names the key and the user, nor are MOVED and
		// ASK, which name a host.
		switch e.Code {
		case "WRONGTYPE", "OOM", "LOADING", "BUSY", "NOAUTH", "MISCONF", "READONLY", "NOREPLICAS",
			"MASTERDOWN", "EXECABORT", "CROSSSLOT", "TRYAGAIN", "CLUSTERDOWN", "NOSCRIPT", "BUSYKEY":
			return true
		}
		return false
	}
	for _, s := range []string{
		"value is not an integer or out of range", "value is not a valid float", "syntax error",
		"increment or decrement would overflow", "increment would produce NaN or Infinity",
		"hash value is not an integer", "hash value is not a float", "value is out of range",
		"resulting score is not a number", "max number of clients reached", "no such key",
		"invalid expire time", "string exceeds maximum allowed size", "DB index is out of range",
		"min or max is not a float", "wrong number of arguments",
	} {
		if strings.HasPrefix(e.message, s) {
			return true
		}
	}
	return false
}
