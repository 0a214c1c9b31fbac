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
	idleTimeout = 5 * time.Minute // how long an idle connection is kept

	// writeAhead is the most bytes written before the first reply is read. Larger
	// commands are written and read at the same time: a server that stops reading
	// until its replies are read would otherwise wait for us as we wait for it.
	writeAhead = 64 << 10

	keepBuffer = 64 << 10 // largest read buffer that an idle connection keeps
	minRead    = 4 << 10  // room for one read
	maxAhead   = 1 << 20  // most room made at once for a string of announced length
)

// longAgo as a deadline interrupts a blocked read or write.
var longAgo = time.Unix(1, 0)

// A conn is one connection to the server. redigo dials it, performs the handshake
// over it and keeps it in a Pool. Later commands and replies bypass redigo's
// buffers, which are empty by then: exchange uses the net.Conn itself.
//
// Only the goroutine that has borrowed a conn from the Pool uses it.
type conn struct {
	redis.Conn
	nc   net.Conn        // above TLS
	sock net.Conn        // below TLS; the one to close, see tap
	raw  syscall.RawConn // of sock; nil if it has none
	tap  tap

	secure bool // TLS

	era    *era        // it is closed when this ends; nil on a lane, which closes it itself
	detach func() bool // undoes attach

	stats  *counters
	framer framer
	buf    []byte // replies being read
	used   bool   // an exchange has succeeded
	broken error  // why no exchange may follow
	quiet  bool   // result of the last listen

	// The methods of these names as values. Evaluating a method value at each call
	// would allocate each time.
	interruptFunc func()
	listenFunc    func(fd uintptr)
}

// ready prepares a dialed conn for use by s.
func (c *conn) ready(s *Store) {
	c.stats, c.framer.limits = &s.stats, s.limits
	c.interruptFunc, c.listenFunc = c.interrupt, c.listen
}

// Do serves a call that comes through redigo's Pool. The Pool wraps its connections
// and hides all methods but redis.Conn's; a *call among the arguments gets through
// to here. The Pool also calls Do("") when a connection comes back, to read pending
// replies; there are none.
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

var errSpent = errors.New("redigo: the call left the connection unfit for others")

var errStale = errors.New("redigo: the server closed an idle connection")

// check returns why an idle connection must not be used again, or nil; the Pool
// calls it. A write to a connection that the server has closed has an unknown
// outcome.
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

// exchange writes frames and returns the n replies, in a buffer that belongs to the
// connection until reuse.
//
// A call that ends before its replies are whole breaks the connection: the replies
// still come, and the next call must not take them for its own.
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
		// interrupt runs or is about to. It may set its deadline at any later time, even
		// during the next call, so the connection is not used again.
		c.broken = call.Err()
	}
	// Even if all replies are there: the era may have ended before they came.
	if err = c.because(err); err != nil {
		c.broken = err
		return nil, err
	}
	c.used = true
	call.errs = call.errs || c.framer.errs
	return c.buf, nil
}

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

// transferLarge writes and reads at the same time. If one fails it stops the other,
// and its error is returned. Both have ended on return: frames is the caller's
// again then.
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

// read reads exactly n replies into c.buf. Further bytes are an error.
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

// room returns how much free space the next read needs: any, if no length is known
// and there is some; otherwise the announced rest of the reply up to maxAhead, and
// minRead in all.
func (c *conn) room() int {
	if len(c.buf) < cap(c.buf) && c.framer.need == 0 {
		return 1
	}
	return max(minRead-len(c.buf), min(c.framer.need, maxAhead), 1)
}

// noEOF turns an io.EOF in the middle of a reply into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
