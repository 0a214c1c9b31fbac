package caches

import "context"

// A target is the place of an operation in progress: the resolved connection, the
// key and the expiry of its type.
type target struct {
	op    string
	conn  *Conn
	front string // the connection's prefix and version
	key   string // empty for an operation on a type
	shard int    // of the key
	ms    int64  // the TTL in milliseconds, 0 for none
	slide bool   // reads restart it
	fixed bool   // writes keep it (FromCreation)
}

// aimAt makes t the place of the operation op on a type, or on the key that is set
// already. It leaves out the shard and the expiry.
func (t *target) aimAt(ctx context.Context, o *Options, op string) (err error) {
	if t.op = op; o.err != nil {
		return t.fail(o.err)
	}
	if t.conn, err = resolve(ctx, o.conn, o.Connection); err != nil {
		return t.fail(err)
	}
	t.front = t.conn.front(o.Version)
	return nil
}

// expiry sets the expiry of a type.
func (t *target) expiry(o *Options) (err error) {
	if t.ms, err = o.ttl(t.conn); err != nil {
		return t.fail(err)
	}
	t.slide = o.TTLPolicy == SlideOnRead && t.ms > 0
	t.fixed = o.TTLPolicy == FromCreation
	return nil
}

// fail wraps err in an OpError with the operation and the key.
func (t *target) fail(err error) error {
	e := &OpError{Op: t.op, Err: classify(err)}
	if t.key != "" {
		e.Key = t.front + t.key
	}
	return e
}
