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
	// idleBeats is the number of heartbeats after the last call.
	idleBeats = 3
)

// beat sends a heartbeat if one is due: a PING with a unique word, in the order of
// the calls. A reply with another word shows that replies and calls are out of
// step, which might otherwise go unnoticed, and the connection is closed. On an
// idle connection the reply is also a sign of life, see silence.
//
// beat is called with mu held. It reports whether it has released it.
func (w *watchdog) beat(now time.Duration) (unlocked bool) {
	m := w.m
	// A closed Store only waits for its calls, and needs no heartbeat.
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
	w.idleLooks = idled // a heartbeat does not count as use
	m.ensureReader()
	if m.phase != idle {
		return false // the writer takes it along
	}
	m.flush(nil)
	return true
}

// pingSize bounds the size of a heartbeat.
const pingSize = 64

// verify checks the reply to a heartbeat. An error reply is accepted: the user may
// lack the right to PING, and a loading or busy server refuses every command.
func (e *entry) verify(raw []byte) error {
	if raw[0] == '-' || bytes.Equal(raw, e.slot.buf) {
		return nil
	}
	return fmt.Errorf("%w: a heartbeat got the reply to another command", driver.ErrProtocol)
}

// over reports whether c, if not nil, has no time left.
func (c *call) over(now time.Duration) bool {
	return c != nil && (c.Context.Err() != nil || c.deadline < now)
}
