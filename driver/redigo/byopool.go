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

// PoolOptions are the options of [FromPool]. The zero value is usable.
type PoolOptions struct {
	// Timeout limits one call unless its context has an earlier deadline; zero means
	// one second.
	Timeout time.Duration
	// Address names the server in errors and in String, since a pool does not tell its
	// address. Empty shows as "(a pool)".
	Address string
}

// FromPool returns a Store over the caller's pool, whose dial function must set up
// TLS, AUTH and SELECT. The pool's connections must be redigo's own, or wrap them
// and pass redigo's timeouts and contexts on.
//
// A Store made by FromPool differs from one made by [Open]. redigo reads the
// replies, without [Limits]. A write may take as long as redis.DialWriteTimeout
// allows, which is forever if it is not set. An idle connection that the server has
// closed fails one call, unless the pool has a TestOnBorrow. Set the pool's
// MaxIdle: zero closes each connection after one call.
//
// Close ends the Store only; the pool and its connections stay open. FromPool
// panics if p is nil or Timeout is negative.
func FromPool(p *redis.Pool, o PoolOptions) *Store {
	if p == nil || o.Timeout < 0 {
		panic("caches: redigo.FromPool needs a pool and a non-negative Timeout")
	}
	s := newStore(o.Timeout, Limits{})
	s.pool, s.fromPool = p, true
	s.address = orDefault(o.Address, "(a pool)")
	return s
}

// borrow makes an attempt on a connection of the caller's pool.
func (c *call) borrow() error {
	ctx, cancel := context.WithDeadline(c.Context, base.Add(c.deadline))
	defer cancel()
	pc, err := c.s.pool.GetContext(ctx)
	if err != nil {
		return unavailable(c.because(err))
	}
	// On Close redigo closes a connection that has failed, and otherwise reads the
	// replies still outstanding: nothing is left for the next user.
	defer func() { _ = pc.Close() }()
	if err := pc.Err(); err != nil {
		return unavailable(c.because(err))
	}
	return c.serve(&borrowed{Conn: pc, ctx: ctx})
}

// A borrowed is a connection of the caller's pool as a link.
type borrowed struct {
	redis.Conn
	ctx context.Context // the call's, with its deadline
}

// reuse does nothing: redigo has its own buffers.
func (b *borrowed) reuse([]byte) {}

// exchange sends the commands in portions of about writeAhead bytes and reads the
// replies to each before it sends the next: nothing reads during a write, so a
// larger one could block on a server that waits for its replies to be read.
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

// send sends commands from the start of frames. It returns the remaining frames and
// the number of commands sent.
func (b *borrowed) send(c *call, frames []byte) (rest []byte, sent int, err error) {
	c.wrote = true // redigo may write at any time from here on
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

// receive reads one reply. A context that can be canceled costs a goroutine of
// redigo's; for others a timeout is enough.
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

// encode writes a reply that redigo has decoded as it came over the wire.
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

// arguments reads the first command of frames, which this package has encoded.
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

// header reads "*3\r\n" or "$5\r\n" and returns the number and the rest of b.
func header(b []byte) (n int, rest []byte) {
	end := 1
	for b[end] != '\r' {
		end++
	}
	n, _ = strconv.Atoi(string(b[1:end]))
	return n, b[end+len("\r\n"):]
}
