package redigo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
)

const (
	idleTimeout = 5 * time.Minute // a connection is closed after as long without a call

	// writeAhead is what is written before the first reply is read. More than
	// that is written beside the reading: a server that stops taking commands
	// because nobody takes its replies would wait for us as we wait for it.
	writeAhead = 64 << 10

	keepBuffer = 64 << 10 // the largest read buffer that an idle connection keeps
	minRead    = 4 << 10  // room for one read
	maxAhead   = 1 << 20  // room made at once for a string whose length was announced
)

// longAgo as a deadline ends what waits on a socket.
var longAgo = time.Unix(1, 0)

// A conn is one connection to the server. redigo dials it, greets the server
// through it, and keeps it in its Pool; the commands between are written and
// read by exchange on the net.Conn itself, as bytes, past redigo's buffers,
// which are empty since the handshake.
//
// One goroutine uses a conn at a time: who has borrowed it from the Pool.
type conn struct {
	redis.Conn
	nc   net.Conn        // above TLS
	sock net.Conn        // below TLS: what is closed, see tap
	raw  syscall.RawConn // of sock; nil where there is none to be had
	tap  tap

	secure bool // TLS

	era    *era        // that it ends with; nil on a lane, which sees to that itself
	detach func() bool // takes that back

	stats  *counters
	framer framer
	buf    []byte // of the replies being read
	used   bool   // an exchange has gone well here
	broken error  // why no other may follow
	quiet  bool   // what listen heard last

	// The methods of the same names as values, made once: a method value made
	// at each call is an allocation at each call.
	interruptFunc func()
	listenFunc    func(fd uintptr)
}

// ready makes a conn that has been dialled into one of the store's.
func (c *conn) ready(s *Store) {
	c.stats, c.framer.limits = &s.stats, s.limits
	c.interruptFunc, c.listenFunc = c.interrupt, c.listen
}

// Do is the way of a call through redigo's Pool, which hands out connections
// in a wrapper that shows nothing but redis.Conn: the Pool's wrapper passes a
// *call as an argument on to this Do. It also calls Do("") when a connection
// comes back; there is never anything pending.
func (c *conn) Do(_ string, args ...any) (any, error) {
	for _, arg := range args {
		if call, ok := arg.(*call); ok {
			err := call.serve(c)
			if err == nil && call.need == disposable {
				c.broken = errSpent
			}
			if err == nil && call.demoted() {
				c.broken = errDemoted
			}
			if err != nil && c.broken == nil {
				c.broken = err
			}
			return nil, err
		}
	}
	return nil, nil
}

// Err tells the Pool whether to close the connection when it comes back.
func (c *conn) Err() error { return c.broken }

var errSpent = errors.New("redigo: the connection is no longer what others expect")

var errStale = errors.New("redigo: the server closed an idle connection")

// check is asked by the Pool before an idle connection is used again. One that
// the server has closed meanwhile must not take a write: nobody could say
// afterwards whether it arrived.
func (c *conn) check() error {
	if err := c.because(nil); err != nil || c.raw == nil {
		return err
	}
	if err := c.raw.Control(c.listenFunc); err != nil {
		return err
	}
	if !c.quiet {
		return errStale
	}
	return nil
}

func (c *conn) listen(fd uintptr) { c.quiet = quiet(fd) }

// exchange writes frames and returns the n replies to them, in a buffer that
// stays the connection's until reuse.
//
// A call that ends before its replies are whole costs the connection: the
// replies still come, and the next call must not take them for its own.
func (c *conn) exchange(call *call, frames []byte, n int) ([]byte, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	call.reused = c.used
	err := c.nc.SetDeadline(base.Add(call.deadline))
	stop := call.afterEnd(c.interruptFunc)
	if err == nil {
		err = c.transfer(call, frames, n)
	}
	if !stop() {
		// interrupt has run or is about to. It may set its deadline at any
		// later time, even in the middle of the next call, so there is none.
		c.broken = call.Err()
	}
	// Also where the replies are there: its end may have come before them.
	if err = c.because(err); err != nil {
		c.broken = err
		return nil, err
	}
	c.used = true
	call.errs = call.errs || c.framer.errs
	return c.buf, nil
}

// interrupt ends what the connection waits for.
func (c *conn) interrupt() { _ = c.nc.SetDeadline(longAgo) }

// reuse gives the connection a buffer for its next replies.
func (c *conn) reuse(buf []byte) {
	if cap(buf) > keepBuffer {
		buf = nil
	}
	c.buf = buf
}

func (c *conn) transfer(call *call, frames []byte, n int) error {
	if len(frames) > writeAhead {
		return c.transferLarge(call, frames, n)
	}
	if err := c.write(call, frames); err != nil {
		return err
	}
	return c.read(n)
}

// transferLarge writes and reads at once. Whichever fails ends the other, and
// the error is that of the first; both have ended when it returns, for frames
// are the caller's again then.
func (c *conn) transferLarge(call *call, frames []byte, n int) error {
	written := make(chan error, 1)
	go func() {
		err := c.write(call, frames)
		if err != nil {
			_ = c.sock.Close()
		}
		written <- err
	}()
	err := c.read(n)
	if err != nil {
		c.interrupt()
	}
	if writeErr := <-written; err == nil || errors.Is(err, net.ErrClosed) {
		return writeErr
	}
	return err
}

func (c *conn) write(call *call, frames []byte) error {
	n, err := c.nc.Write(frames)
	call.wrote = call.wrote || n > 0
	c.stats.out.Add(int64(n))
	return err
}

// read reads n replies into c.buf, and nothing after them.
func (c *conn) read(n int) error {
	f := &c.framer
	f.begin(n)
	c.buf = c.buf[:0]
	for f.left > 0 {
		c.buf = slices.Grow(c.buf, c.room())
		n, err := c.nc.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		c.stats.in.Add(int64(n))
		if err := f.advance(c.buf); err != nil {
			return err
		}
		if err != nil && f.left > 0 {
			return noEOF(err)
		}
	}
	if f.pos < len(c.buf) {
		return fmt.Errorf("%w: bytes after the last reply", driver.ErrProtocol)
	}
	return nil
}

// room returns how many bytes to make room for before a read: as many as are
// known to come, but never more than have come already and a bit.
func (c *conn) room() int {
	if len(c.buf) < cap(c.buf) && c.framer.need == 0 {
		return 1
	}
	return max(minRead-len(c.buf), min(c.framer.need, maxAhead), 1)
}

// noEOF gives the end of a connection in the middle of things its proper name.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
