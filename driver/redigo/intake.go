package redigo

import (
	"fmt"
	"io"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	readSize = 64 << 10 // room for one read of a shared connection
	// handOver is the size from which replies are not copied out of the read buffer:
	// the call gets the buffer, and the connection a new one.
	handOver = 32 << 10
	// loneReads is how many reads in a row must answer at most one call each before
	// the reader goroutine gives up its role to lone callers.
	loneReads = 16
)

// An intake is the reading side of a mux. It is used only with the reader's role.
type intake struct {
	buf    []byte
	start  int // of the bytes not delivered
	filled int
	at     int  // index in mux.taken of the call whose replies come next
	begun  bool // framer has begun with them
	framer framer
	ends   []replyEnd // of whole replies not delivered
}

type replyEnd struct {
	at   int
	errs bool // one of the replies is an error
}

func (in *intake) init(l Limits) {
	in.buf = make([]byte, readSize)
	in.framer.limits = l
}

// run is the reader goroutine. It has the reader's role from a wake until giveUp.
func (m *mux) run() {
	for {
		select {
		case <-m.wake:
			if !m.readOn() {
				return
			}
		case <-m.gone:
			return
		}
	}
}

// readOn reads until it can give up the role. It returns false on a dead
// connection.
func (m *mux) readOn() bool {
	for few := 0; ; {
		n, err := m.read()
		if err != nil {
			m.mu.Lock()
			if !m.resume(err) {
				m.fail(err, m.culprit(err))
				return false
			}
			m.mu.Unlock()
			continue
		}
		if few++; n > 1 {
			few = 0
		}
		if few >= loneReads && m.giveUp() {
			return true
		}
	}
}

func (m *mux) giveUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != idle || m.flight() > 0 || m.dead != nil {
		return false
	}
	m.reading = false
	return true
}

// read reads once and answers every call whose replies are whole. It returns the
// number of calls answered.
func (m *mux) read() (delivered int, err error) {
	in := &m.in
	in.makeRoom()
	n, err := m.conn.nc.Read(in.buf[in.filled:])
	if n > 0 {
		in.filled += n
		m.heard.Store(int64(time.Since(base)))
		m.s.stats.in.Add(int64(n))
	}
	for in.start < in.filled {
		whole, failure := m.frame()
		// replied counts the calls before they are answered, so that the caller of the
		// last one finds none in progress. answering keeps drain from closing the
		// connection in between.
		m.answering.Store(true)
		m.replied.Add(int64(whole))
		if err := in.deliver(m.taken, whole); err != nil {
			failure = err
		}
		m.answering.Store(false)
		delivered += whole
		if failure != nil {
			return delivered, failure
		}
		if in.framer.left > 0 {
			break
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return delivered, err
}

// frame finds the calls, from in.at on, whose replies are whole, and records the
// ends of the replies. It stops after replies that are to be handed over, because
// that replaces the buffer, and at the end of taken, because head replaces taken.
func (m *mux) frame() (whole int, err error) {
	in := &m.in
	in.ends = in.ends[:0]
	for at := in.start; at < in.filled; whole++ {
		if !in.begun {
			n, ok := m.head(whole)
			if !ok && whole > 0 {
				return whole, nil
			}
			if !ok {
				return 0, fmt.Errorf("%w: unsolicited bytes", driver.ErrProtocol)
			}
			if n == 1 {
				if size := in.framer.usual(in.buf[at:in.filled]); 0 < size && size < handOver {
					at += size
					in.ends = append(in.ends, replyEnd{at, false})
					continue
				}
			}
			in.framer.begin(n)
			in.begun = true
		}
		if err := in.framer.advance(in.buf[at:in.filled]); err != nil {
			return whole, err
		}
		if in.framer.left > 0 {
			return whole, nil
		}
		in.begun = false
		size := in.framer.pos
		at += size
		in.ends = append(in.ends, replyEnd{at, in.framer.errs})
		if size >= handOver {
			return whole + 1, nil
		}
	}
	return whole, nil
}

// makeRoom makes room for a read. For a reply that does not fit, the buffer
// doubles, or grows by the announced rest of the reply if that is more; it then
// grows by at most maxAhead.
func (in *intake) makeRoom() {
	if in.start == in.filled {
		in.start, in.filled = 0, 0
	}
	if len(in.buf)-in.filled >= minRead {
		return
	}
	to, pending := in.buf, in.buf[in.start:in.filled]
	if len(pending) > len(in.buf)/2 {
		more := len(in.buf)
		if need := in.framer.need; need > more {
			more = min(need+minRead, max(more, maxAhead))
		}
		to = make([]byte, len(in.buf)+more)
	}
	in.filled = copy(to, pending)
	in.buf, in.start = to, 0
}

// head returns the number of replies to the call at in.at+ahead. Once every call in
// taken is answered, it refills taken from queue, so that mu is locked once per
// batch of replies. Calls not yet written stay in queue: bytes that come before
// their write are not for them.
func (m *mux) head(ahead int) (replies int, ok bool) {
	in := &m.in
	if in.at+ahead < len(m.taken) {
		return int(m.taken[in.at+ahead].n), true
	}
	if ahead > 0 {
		return 0, false
	}
	m.mu.Lock()
	m.take()
	in.at = 0
	if over := m.peak - m.flight(); over > 0 {
		m.peak -= (over + 15) / 16 // follows a falling load slowly
	}
	m.mu.Unlock()
	if len(m.taken) == 0 {
		return 0, false
	}
	return int(m.taken[0].n), true
}

// take replaces taken, all of whose calls are answered, with the calls in queue
// that were written. It is called with mu held and the reader's role.
func (m *mux) take() {
	clear(m.taken) // releases the slots
	if m.unsent == 0 {
		m.taken, m.queue = m.queue, m.taken[:0]
		return
	}
	sent := len(m.queue) - m.unsent
	m.taken = append(m.taken[:0], m.queue[:sent]...)
	left := copy(m.queue, m.queue[sent:])
	clear(m.queue[left:])
	m.queue = m.queue[:left]
}

// culprit returns the call whose reply was being read when err occurred, or nil if
// err is not about a reply. It is called with the reader's role.
func (m *mux) culprit(err error) *entry {
	if !isFinal(err) || m.in.at == len(m.taken) {
		return nil
	}
	e := m.taken[m.in.at]
	return &e
}

func (in *intake) deliver(taken []entry, whole int) error {
	for _, next := range in.ends[:whole] {
		e, raw := &taken[in.at], in.buf[in.start:next.at]
		if e.beat {
			if err := e.verify(raw); err != nil {
				return err
			}
		}
		in.at++
		in.start = next.at
		// Writing to the slot is safe even if the caller has gone: a slot is not reused
		// until answer has settled it.
		if len(raw) < handOver {
			e.slot.buf = append(e.slot.buf[:0], raw...)
		} else {
			e.slot.buf = raw
			in.renew()
		}
		e.slot.errs = next.errs
		e.answer()
	}
	return nil
}

// renew gives the intake a new buffer and copies the undelivered bytes. The old
// buffer belongs to the call whose replies it holds.
func (in *intake) renew() {
	rest := in.buf[in.start:in.filled]
	in.buf = make([]byte, max(readSize, len(rest)+minRead))
	in.start, in.filled = 0, copy(in.buf, rest)
}
