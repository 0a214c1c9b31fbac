package redigo

import (
	"context"
	"errors"
	"fmt"
)

// An era is the time from one Drop to the next. Every connection ends with the era
// in which its dial began, even if that dial is still in progress: no call gets a
// connection to an address that was resolved before the Drop.
type era struct {
	ctx context.Context // its cause is the reason for the end of the era
	end context.CancelCauseFunc
}

func newEra() *era {
	e := new(era)
	e.ctx, e.end = context.WithCancelCause(context.Background())
	return e
}

func (e *era) ended() bool { return e.ctx.Err() != nil }

var errDropped = errors.New("the connection was closed")

// Drop closes all connections at once, including the ones in use. It is meant for a
// caller that knows the server to be the wrong one, such as a master that was
// replaced. Calls in progress end as if the connection was lost, with reason in
// their errors, and are sent again if that is allowed; dials in progress start
// again. Drop closes an open circuit breaker. It does nothing to a Store made by
// [FromPool].
func (s *Store) Drop(reason error) {
	if s.fromPool {
		return
	}
	// Text only: errors that reason wraps say nothing about these calls.
	reason = fmt.Errorf("%w: %v", errDropped, reason)
	// The era ends first, so that an emptied lane gets a connection of the next one.
	s.era.Swap(newEra()).end(reason)
	for i := range s.lanes {
		s.lanes[i].drop(reason)
	}
}

// drop closes the lane's connection and resets its count of failures.
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

// connect dials in the current era, and again if that era ends during the dial. ctx
// limits all dials together.
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

// attach ties the connection to e: it is closed when e ends. A lane's connection is
// not attached; the lane closes it, because it must also fail the calls on it.
func (c *conn) attach(e *era) {
	c.era = e
	c.detach = context.AfterFunc(e.ctx, func() { _ = c.sock.Close() })
}

// Close closes the connection and detaches it from its era.
func (c *conn) Close() error {
	if c.detach != nil {
		c.detach()
	}
	return c.Conn.Close()
}

// because returns the reason if the connection's era has ended, and otherwise err.
func (c *conn) because(err error) error {
	if c.era != nil && c.era.ended() {
		return context.Cause(c.era.ctx)
	}
	return err
}
