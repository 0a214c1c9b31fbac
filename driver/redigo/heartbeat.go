package redigo

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	// beatEvery is the time between two heartbeats of a connection in use.
	beatEvery = time.Second
	// idleBeats is how many a connection gets after its last call.
	idleBeats = 3
)

// beat sends a heartbeat where one is due: a PING with a word that was never
// used before, in the order of the calls. An answer with another word shows
// that replies and calls have got out of step, which nothing else need show:
// then the connection is given up. A heartbeat is also a sign of life of a
// connection that has nothing else to say, see silence.
//
// beat is called with mu held. It reports whether it has let go of it.
func (w *watchdog) beat(now time.Duration) (unlocked bool) {
	m := w.m
	// A closed store waits for its calls, and needs no sign of life meanwhile.
	if !w.armed || now-w.lastBeat < beatEvery || m.s.closed() || m.mayQueue(pingSize) != nil {
		return false
	}
	w.lastBeat = now
	w.beats++
	word := strconv.FormatUint(rand.Uint64(), 36) + "." + strconv.FormatUint(w.beats, 10)
	e := entry{newSlot().ticket(), now, now + m.s.timeout, 1, true}
	e.slot.buf = appendBulk(nil, word)
	idled := w.idleLooks
	m.enqueue(&e, appendBulk(appendBulk([]byte("*2\r\n"), "PING"), word))
	w.idleLooks = idled // a heartbeat is no use of the connection
	m.ensureReader()
	if m.phase != idle {
		return false // who yields or writes takes it along
	}
	m.flush(nil)
	return true
}

// pingSize is at least what a heartbeat takes.
const pingSize = 64

// verify checks the reply to a heartbeat. An error is taken for an answer: a
// user may have no right to PING, and a server that loads or that runs a script
// refuses everything.
func (e *entry) verify(raw []byte) error {
	if raw[0] == '-' || bytes.Equal(raw, e.slot.buf) {
		return nil
	}
	return fmt.Errorf("%w: a heartbeat got the reply to something else", driver.ErrProtocol)
}

// over reports whether the call, if there is one, has no more time.
func (c *call) over(now time.Duration) bool {
	return c != nil && (c.Context.Err() != nil || c.deadline < now)
}
