package caches

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

const (
	defaultLease = 30 * time.Second
	minLease     = 10 * time.Millisecond
	// settleTimeout bounds how long Do waits to shut or open the gate after
	// its work has ended, when the caller's context has ended as well.
	settleTimeout = 5 * time.Second
)

// The first byte of a token says what it stands for, to whoever looks.
const (
	tokenDone    = 'd' // done, or Once
	tokenRunning = 'c' // claimed by a Do whose work runs
)

// newToken returns 128 random bits in hexadecimal. A clock could give two
// processes the same one.
func newToken(kind byte) string {
	var random [16]byte
	rand.Read(random[:]) // never fails: it ends the process instead
	return string(kind) + ":" + hex.EncodeToString(random[:])
}
