package caches

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

const (
	defaultLease = 30 * time.Second
	minLease     = 10 * time.Millisecond
	// settleTimeout is the limit for closing or opening the gate after the work of
	// Do, and for concluding a lease. The caller's context may have ended by then.
	settleTimeout = 5 * time.Second
)

// The first byte of a token is the state it stands for.
const (
	tokenDone    = 'd' // done, or set by Once
	tokenRunning = 'c' // the work of Do, or a computation, is running
)

// newToken returns kind, a colon and 128 random bits in hexadecimal. The time would
// not do: two processes could read the same.
func newToken(kind byte) string {
	var random [16]byte
	rand.Read(random[:]) // never fails: it ends the process instead
	return string(kind) + ":" + hex.EncodeToString(random[:])
}
