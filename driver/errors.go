package driver

import (
	"errors"
	"strconv"
	"strings"

	"github.com/gocaches/caches/internal/resp"
)

var (
	// ErrUnavailable reports that nothing was run: the server could not be
	// reached, the store was closed, or the context had ended before. Any
	// call may be tried again.
	ErrUnavailable = resp.ErrUnavailable // "caches: unavailable"

	// ErrBusy comes with ErrUnavailable where that was not the server's doing: as
	// many calls are under way on its connection as may be.
	ErrBusy = resp.ErrBusy // "caches: busy"

	// ErrUnknownOutcome reports that commands were sent and no reply came:
	// they may have run or not.
	ErrUnknownOutcome = resp.ErrUnknownOutcome // "caches: unknown outcome"

	// ErrTooLarge reports a reply or a value beyond a configured limit.
	ErrTooLarge = resp.ErrTooLarge // "caches: too large"

	// ErrProtocol reports bytes that are not the reply that was asked for.
	ErrProtocol = resp.ErrProtocol // "caches: protocol error"

	// ErrOldServer reports a Redis server older than 7.0, which lacks commands
	// that the objects need.
	ErrOldServer = resp.ErrOldServer // "caches: server too old"

	// ErrCrossSlot reports keys of several slots of a [Cluster] where there must
	// be one slot only. Nothing was run.
	ErrCrossSlot = errors.New("caches: keys of different slots")
)

// A ServerError is an error reply of the server. The command did not run, or,
// for scripts and transactions, may have run in part.
type ServerError struct {
	// Code is the reply's first word: "ERR", "WRONGTYPE", "OOM", "NOAUTH", …
	Code string
	// message is what follows. It may repeat arguments of the command, which
	// is why Error shows only those messages that are known to be fixed text.
	message string
}

// NewServerError makes a ServerError of the text of an error reply, without
// its leading "-".
func NewServerError(text string) *ServerError {
	code, message, _ := strings.Cut(text, " ")
	return &ServerError{Code: code, message: message}
}

// Error returns the code, and the message where it cannot hold what a caller
// sent: Redis repeats the arguments of a command that it does not know, and a
// script's error may hold anything.
func (e *ServerError) Error() string {
	if e.message != "" && fixedText(e) {
		return "caches: server says " + e.Code + " " + e.message
	}
	return "caches: server says " + e.Code
}

// GoString returns what Error does, for %#v, which would show the fields.
func (e *ServerError) GoString() string {
	return "driver.ServerError(" + strconv.Quote(e.Error()) + ")"
}

// Message returns the text after the code as the server sent it. It may hold
// keys and values of the command: keep it out of logs.
func (e *ServerError) Message() string { return e.message }

func fixedText(e *ServerError) bool {
	if e.Code != "ERR" {
		// NOPERM names the key and user, MOVED and ASK name a host: those say
		// only their code. The others are fixed sentences in Redis's source.
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
