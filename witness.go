package caches

import (
	"context"

	"github.com/gocaches/caches/internal/tally"
)

// A witness counts the calls on one type of objects on one connection, and
// reports them to the hooks of the connection and of the cached function. It is
// for calls of several steps; a query reports for itself.
type witness struct {
	*tally.Tally
	conn     *Conn
	fn       *observer // nil unless a cached function has hooks
	typeName string
}

// witness returns the witness of a type on c.
func (c *Conn) witness(o *Options, fn *observer) witness {
	return witness{c.tallies.Of(o.typeName()), c, fn, o.typeName()}
}

// call counts a completed operation.
func (w witness) call(r Lookup, err error) { w.Call(r.counter(), isOpFault(err)) }

// heard reports whether there are hooks. A CallInfo is made only if there are.
func (w witness) heard() bool { return w.conn.observer != nil || w.fn != nil }

// called, failed, loaded and invalidated report a call, the fault of a call, a
// run of a cached function's own function, and an invalidation. They count
// nothing. They set the fields Conn and Type of c.
func (w witness) called(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).called) }

func (w witness) failed(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).failed) }

func (w witness) loaded(ctx context.Context, c *CallInfo) { w.tell(ctx, c, (*observer).loaded) }

func (w witness) invalidated(ctx context.Context, c *CallInfo) {
	w.tell(ctx, c, (*observer).invalidated)
}

func (w witness) tell(ctx context.Context, c *CallInfo, what func(*observer, context.Context, *CallInfo)) {
	c.Conn, c.Type = w.conn.name, w.typeName
	what(w.conn.observer, ctx, c)
	what(w.fn, ctx, c)
}

// hitIf returns LookupHit if a look-up found a value, or else LookupMiss.
func hitIf(found bool) Lookup {
	if found {
		return LookupHit
	}
	return LookupMiss
}

// invalidation counts an invalidation and reports it.
func (w witness) invalidation(ctx context.Context, c *CallInfo) {
	w.Add(tally.Invalidation, 1)
	if c.Err != nil {
		w.Add(tally.Error, 1)
	}
	if w.heard() {
		w.invalidated(ctx, c)
	}
}
