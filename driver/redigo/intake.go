package redigo

import (
	"fmt"
	"io"

	"github.com/gocaches/caches/driver"
)

const (
	readSize = 64 << 10 // room for one read of a shared connection
	// handOver is the size from which replies are not copied out of the read
	// buffer: the call gets the buffer, and the connection a new one.
	handOver = 32 << 10
	// loneBatches is how many reads in a row answered no more than one call
	// before the reader goroutine lets a lone caller read for itself.
	loneBatches = 16
)

// An intake is the reading side of a mux. Only who has the reader's role
// touches it.
type intake struct {
	buf    []byte
	start  int // of what is not delivered
	filled int
	at     int  // the entry of mux.taken whose replies come next
	begun  bool // the framer is at them
	framer framer
}

func (in *intake) init(l Limits) {
	in.buf = make([]byte, readSize)
	in.framer.limits = l
}

// run is the reader goroutine: it has the role from a wake to the give-up.
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

// readOn reads until there is nothing more to read for now; it is false when
// the connection is dead.
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
		if few >= loneBatches && m.giveUp() {
			return true
		}
	}
}

// giveUp lets go of the reader's role where nothing is under way.
func (m *mux) giveUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != idle || m.flight.Load() > 0 || m.dead != nil {
		return false
	}
	m.reading = false
	return true
}

// read reads once, and answers every call whose replies are whole; it returns
// how many that were.
func (m *mux) read() (delivered int, err error) {
	in := &m.in
	in.makeRoom()
	n, err := m.conn.nc.Read(in.buf[in.filled:])
	if n > 0 {
		in.filled += n
		m.progress.Add(int64(n))
		m.s.stats.in.Add(int64(n))
	}
	for in.start < in.filled {
		e, ok := m.head()
		if !ok {
			return delivered, fmt.Errorf("%w: bytes that nobody asked for", driver.ErrProtocol)
		}
		if !in.begun {
			in.framer.begin(e.slot.n)
			in.begun = true
		}
		if err := in.framer.advance(in.buf[in.start:in.filled]); err != nil {
			return delivered, err
		}
		if in.framer.left > 0 {
			break
		}
		m.flight.Add(-1) // before the answer: who is answered may be the last
		if err := in.deliver(e); err != nil {
			return delivered, err
		}
		delivered++
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return delivered, err
}

// makeRoom makes room for a read. A reply that does not fit gets a larger
// buffer, by what is known to come and never by much more than has come.
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

// head returns the call whose replies come next. It takes all that are queued
// and sent at once: one hold of mu for a batch of replies. Those that no write
// has taken stay: what comes before they are sent is not for them.
func (m *mux) head() (entry, bool) {
	in := &m.in
	if in.at == len(m.taken) {
		m.mu.Lock()
		m.take()
		in.at = 0
		if over := m.peak - int(m.flight.Load()); over > 0 {
			m.peak -= (over + 15) / 16 // follows the load down, slowly
		}
		m.mu.Unlock()
	}
	if in.at == len(m.taken) {
		return entry{}, false
	}
	return m.taken[in.at], true
}

// take replaces taken, which the reader is through with, by the calls of queue
// that were sent. It is called with mu held, by who has the reader's role.
func (m *mux) take() {
	clear(m.taken) // lets go of the slots
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

// culprit returns the call whose reply was being read when err came up, where
// err is about that reply. It is called by who has the reader's role.
func (m *mux) culprit(err error) *entry {
	if !isFinal(err) || m.in.at == len(m.taken) {
		return nil
	}
	e := m.taken[m.in.at]
	return &e
}

// deliver answers a call whose replies are whole at in.start.
func (in *intake) deliver(e entry) error {
	end := in.start + in.framer.pos
	raw := in.buf[in.start:end]
	if err := e.slot.verify(raw); err != nil {
		return err
	}
	in.at++
	in.begun = false
	in.start = end
	if len(raw) < handOver {
		// The slot is ours to write until it is settled, and only an answered
		// one is used again: its caller may have gone, but nobody has come.
		e.slot.buf = append(e.slot.buf[:0], raw...)
	} else {
		rest := in.buf[end:in.filled]
		in.buf = make([]byte, max(readSize, len(rest)+minRead))
		in.start, in.filled = 0, copy(in.buf, rest)
		e.slot.buf = raw
	}
	e.slot.errs = in.framer.errs
	e.answer()
	return nil
}
