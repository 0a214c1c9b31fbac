package layout

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// The first byte of a token is the state of the lease or the gate that holds it.
const (
	TokenDone    = 'd' // the work is done, or the gate was shut at once
	TokenRunning = 'c' // the work, or a computation, is running
)

// tokenSize is the length of a token. A plus sign after it marks a lease that
// callers wait for.
const tokenSize = len("c:") + 32

// pausePrefix begins the value that takes a lease's place for the pause after a
// failed computation ahead of time: no other such computation begins then, but a
// caller that misses the entry does not wait.
const pausePrefix = "p:"

// NewToken returns kind, a colon and 128 random bits in hexadecimal. The time would
// not do: two processes could read the same.
func NewToken(kind byte) string {
	var random [16]byte
	rand.Read(random[:]) // never fails: it ends the process instead
	return string(kind) + ":" + hex.EncodeToString(random[:])
}

// TokenOf returns the token in the value of a lease.
func TokenOf(lease []byte) string { return string(lease[:min(len(lease), tokenSize)]) }

// Pause returns the value that takes the place of the lease of token for a pause.
func Pause(token []byte) []byte {
	return append([]byte(pausePrefix), token[len(pausePrefix):]...)
}

// IsPause reports whether token is of a pause.
func IsPause(token string) bool { return strings.HasPrefix(token, pausePrefix) }
