package redigo

import (
	"context"
	"errors"
	"fmt"
)

// An era is the time from one Drop to the next. What is dialled in an era ends
// with it, wherever it has come to: so no call can still get a connection that
// was made by what was known before.
type era struct {
	ctx context.Context // its cause is why the era has ended
	end context.CancelCauseFunc
}

func newEra() *era {
	e := new(era)
	e.ctx, e.end = context.WithCancelCause(context.Background())
	return e
}

func (e *era) ended() bool { return e.ctx.Err() != nil }

var errDropped = errors.New("the connection was closed")

// Drop closes all connections at once, those in use as well, for the given
// reason, which their calls show: it is for who knows that the server is not the
// right one any more, such as a master that was replaced. Calls under way end as
// they do when a connection is lost, and are sent again where that is allowed;
// so do dials, which begin anew. A breaker that was open is closed. Drop does
// nothing to a foreign pool.
func (s *Store) Drop(reason error) {
	if s.fromPool {
		return
	}
	// Only the text: what the reason wraps says nothing about these calls.
	reason = fmt.Errorf("%w: %v", errDropped, reason)
	// First the era: what a lane gets after it was emptied is of the next one.
	s.era.Swap(newEra()).end(reason)
	for i := range s.lanes {
		s.lanes[i].drop(reason)
	}
}

// drop closes the lane's connection and forgets the server's failures.
func (l *lane) drop(reason error) {
	l.mu.Lock()
	m := l.cur.Load()
	l.failures = 0
	l.mu.Unlock()
	if m != nil {
		m.mu.Lock()
		m.fail(reason, nil)
	}
}

// connect makes a connection in the present era, and begins anew where that
// ends meanwhile. ctx ends all of it.
func (s *Store) connect(ctx context.Context) (*conn, *era, error) {
	for {
		era := s.era.Load()
		c, err := era.dial(ctx, s.dialer)
		if !era.ended() || ctx.Err() != nil {
			return c, era, err
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

func (e *era) dial(ctx context.Context, d *dialer) (*conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(e.ctx, cancel)
	defer stop()
	return d.dial(ctx)
}

// endWith has the connection end with its era. Those of lanes are ended by the
// lane, for the sake of the calls on them.
func (c *conn) attach(e *era) {
	c.era = e
	c.detach = context.AfterFunc(e.ctx, func() { _ = c.sock.Close() })
}

// Close closes the connection, which then is nothing to its era.
func (c *conn) Close() error {
	if c.detach != nil {
		c.detach()
	}
	return c.Conn.Close()
}

// because returns err, or why the connection was closed under its user.
func (c *conn) because(err error) error {
	if c.era != nil && c.era.ended() {
		return context.Cause(c.era.ctx)
	}
	return err
}
