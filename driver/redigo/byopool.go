package redigo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gomodule/redigo/redis"
)

// PoolOptions say how [FromPool] uses a pool. The zero value is usable.
type PoolOptions struct {
	// Timeout of one call where its context has no nearer deadline; zero means
	// one second.
	Timeout time.Duration
	// Address names the server in errors and in String. A pool does not tell
	// where it dials; empty shows as "(a pool)".
	Address string
}

// FromPool returns a Store over a pool of the caller's, whose dial function has
// put TLS, AUTH and SELECT in place. The pool's connections must be redigo's
// own, or pass redigo's timeouts and contexts on to such ones.
//
// What is different from [Open]: replies are read by redigo, which has no
// [Limits]; a write waits as long as redis.DialWriteTimeout says, and for ever
// without it; and an idle connection that the server has closed fails one call,
// unless the pool has a TestOnBorrow. Set the pool's MaxIdle: its zero closes
// each connection after one call.
//
// The Store closes nothing of the caller's: Close only ends the Store, and
// leaves the pool and its connections as they are. FromPool panics where p is
// nil or Timeout is negative.
func FromPool(p *redis.Pool, o PoolOptions) *Store {
	if p == nil || o.Timeout < 0 {
		panic("caches: redigo.FromPool needs a pool, and a timeout that is not negative")
	}
	s := newStore(o.Timeout, Limits{})
	s.pool, s.fromPool = p, true
	s.address = orDefault(o.Address, "(a pool)")
	return s
}

// borrow serves the call by a connection of the foreign pool.
func (c *call) borrow() error {
	ctx, cancel := context.WithDeadline(c.Context, base.Add(c.deadline))
	defer cancel()
	pc, err := c.s.pool.GetContext(ctx)
	if err != nil {
		return unavailable(c.because(err))
	}
	// redigo closes a connection that has failed, and reads replies that are
	// still outstanding, when it comes back: nothing is left for the next user.
	defer func() { _ = pc.Close() }()
	if err := pc.Err(); err != nil {
		return unavailable(c.because(err))
	}
	return c.serve(&borrowed{Conn: pc, ctx: ctx})
}

// A borrowed is a foreign pool's connection as a link.
type borrowed struct {
	redis.Conn
	ctx context.Context // of the call, ends by its deadline
}

// reuse does nothing: redigo has its own buffers.
func (b *borrowed) reuse([]byte) {}

// exchange sends the commands in portions of about writeAhead bytes, each
// followed by reading its replies: what redigo sends, nobody reads beside it.
func (b *borrowed) exchange(c *call, frames []byte, n int) ([]byte, error) {
	var replies driver.Replies
	for len(frames) > 0 {
		rest, sent, err := b.send(c, frames)
		if err != nil {
			return nil, err
		}
		frames = rest
		for range sent {
			if err := b.receive(c, &replies); err != nil {
				return nil, err
			}
		}
	}
	if replies.Len() != n {
		return nil, fmt.Errorf("%w: %d replies to %d commands", driver.ErrProtocol, replies.Len(), n)
	}
	c.s.stats.in.Add(int64(len(replies.Raw())))
	return replies.Raw(), nil
}

// send sends commands from the start of frames and returns what is left of
// them, and how many went.
func (b *borrowed) send(c *call, frames []byte) (rest []byte, sent int, err error) {
	c.wrote = true // redigo may write what it is given at any time
	for rest = frames; len(rest) > 0 && len(frames)-len(rest) < writeAhead; sent++ {
		var args []any
		args, rest = arguments(rest)
		if err := b.Send(string(args[0].([]byte)), args[1:]...); err != nil {
			return nil, 0, err
		}
	}
	c.s.stats.out.Add(int64(len(frames) - len(rest)))
	return rest, sent, b.Flush()
}

// receive reads one reply. A context that can end before its deadline costs a
// goroutine of redigo's; others do with a timeout.
func (b *borrowed) receive(c *call, replies *driver.Replies) error {
	var reply any
	var err error
	if c.Done() != nil {
		reply, err = redis.ReceiveContext(b.Conn, b.ctx)
	} else {
		reply, err = redis.ReceiveWithTimeout(b.Conn, max(c.left(), 1))
	}
	var refusal redis.Error
	if errors.As(err, &refusal) {
		reply, err, c.errs = refusal, nil, true
	}
	if err != nil {
		return err
	}
	return encode(replies, reply)
}

// encode writes a reply of redigo's the way it came over the wire.
func encode(to *driver.Replies, reply any) error {
	switch reply := reply.(type) {
	case nil:
		to.Nil()
	case int64:
		to.Int(reply)
	case []byte:
		to.Bytes(reply)
	case string:
		to.Status(reply)
	case redis.Error:
		to.Error(string(reply))
	case []any:
		to.Array(len(reply))
		for _, element := range reply {
			if err := encode(to, element); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%w: a reply of Go type %T", driver.ErrProtocol, reply)
	}
	return nil
}

// arguments reads the first command of frames, which are of our own making.
func arguments(frames []byte) (args []any, rest []byte) {
	n, rest := header(frames)
	args = make([]any, n)
	for i := range args {
		size, text := header(rest)
		args[i] = text[:size:size]
		rest = text[size+len("\r\n"):]
	}
	return args, rest
}

// header reads "*3\r\n" or "$5\r\n" and returns what follows.
func header(b []byte) (n int, rest []byte) {
	end := 1
	for b[end] != '\r' {
		end++
	}
	n, _ = strconv.Atoi(string(b[1:end]))
	return n, b[end+len("\r\n"):]
}
