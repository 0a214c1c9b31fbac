package caches

import "context"

// A witness counts what befalls one type on one connection, and tells those who
// want to hear of it: the connection's hooks and the cached function's. It is
// for calls of several steps; a query is its own.
type witness struct {
	*tally
	conn     *Conn
	fn       *observer // nil unless a cached function has hooks
	typeName string
}

// witness returns who sees what happens to a type on c.
func (c *Conn) witness(o *Options, fn *observer) witness {
	return witness{c.tallies.of(o.typeName()), c, fn, o.typeName()}
}

// heard reports whether anybody wants to know: a CallInfo is made for them only.
func (w witness) heard() bool { return w.conn.observer != nil || w.fn != nil }

// called, failed, loaded and invalidated tell of a call, the fault in a call, a
// run of a cached function's function, and an invalidation. They count nothing,
// and fill in what the witness knows.
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

// hitIf is the result of a look-up that found a value or not.
func hitIf(found bool) Result {
	if found {
		return Hit
	}
	return Miss
}

// invalidation counts an invalidation and tells of it.
func (w witness) invalidation(ctx context.Context, c *CallInfo) {
	w.add(countInvalidation, 1)
	if c.Err != nil {
		w.add(countError, 1)
	}
	if w.heard() {
		w.invalidated(ctx, c)
	}
}
