package caches

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/near"
	"github.com/gocaches/caches/internal/tally"
)

// removeMembers implements Remove for all collections.
func removeMembers[T any](ctx context.Context, o Object, op, cmd string, members []T) (int, error) {
	if len(members) == 0 {
		return 0, nil
	}
	var q query
	if err := q.begin(ctx, &o, op, 0); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeMembers(q.cmd(cmd), members); err != nil {
		return 0, q.fail(err)
	}
	n, err := q.int(ctx)
	return int(n), err
}

// readAll runs a command whose reply is an array, and decodes it.
func readAll[T any](ctx context.Context, o Object, op, cmd string, read func(driver.Reply) (T, error)) ([]T, error) {
	var q query
	if err := q.beginRead(ctx, &o, op); err != nil {
		return nil, err
	}
	defer q.end()
	q.read(cmd)
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	all, err := readSlice(q.p.Next(), read)
	if err != nil {
		return nil, q.fail(err)
	}
	return all, nil
}

// A sighting is an operation in progress on a connection that has hooks.
type sighting struct {
	ctx   context.Context
	begun time.Time
	info  CallInfo
}

// sight records the beginning of an operation for the hooks.
func (q *query) sight(ctx context.Context, o *Object) {
	q.seen = &sighting{ctx: ctx, begun: time.Now(), info: CallInfo{
		Op: q.op, Conn: q.conn.name, Shard: q.conn.shards[q.shard].name, Type: o.opts.typeName(), Key: q.front + q.key,
	}}
}

// outcome returns the result of the operation as a look-up, or LookupNone.
func (q *query) outcome() Lookup {
	switch {
	case q.result != LookupNone || !q.looks:
		return q.result
	case q.err == nil:
		return LookupHit
	case errors.Is(q.err, ErrMiss):
		return LookupMiss
	}
	return LookupNone
}

// witness counts the finished operation and tells the hooks.
func (q *query) witness() {
	result := q.outcome()
	if q.tally != nil {
		q.tally.Call(result.counter(), isOpFault(q.err))
	}
	if q.seen == nil {
		return
	}
	c := &q.seen.info
	if c.Lookup, c.Err, c.Reason = result, q.err, q.reason; result == LookupMiss && c.Reason == MissNone {
		c.Reason = MissAbsent
	}
	c.Elapsed = time.Since(q.seen.begun)
	c.BytesOut, c.BytesIn = len(q.p.Frames()), q.p.Replies().Size()
	q.conn.observer.called(q.seen.ctx, c)
}

// An Object is a key on a connection, the common part of all cache objects.
// Each of them embeds it and has its methods. An Object is immutable, cheap to
// copy and safe for concurrent use, and holds none of the stored data.
type Object struct {
	opts Options // of the type whose Key was called
	key  string  // with Prefix, without the connection's prefix and version
	err  error   // why there is no key
}

// object returns the object whose key is the prefix followed by parts.
func (o *Options) object(parts []any) Object {
	if o.err != nil {
		return Object{opts: *o, err: o.err}
	}
	key, err := makeKey(o.Prefix, parts)
	return Object{opts: *o, key: key, err: err}
}

// below returns the object whose key is the key of o followed by parts.
func (o Object) below(parts []any) Object {
	switch {
	case o.err != nil:
	case o.key == "":
		o.err = ErrNoKey
	default:
		o.key, o.err = makeKey(o.key, parts)
	}
	return o
}

// on returns o pinned to conn.
func (o Object) on(conn *Conn) Object {
	o.opts.conn = conn
	return o
}

// afresh returns o with reads that bypass the near cache.
func (o Object) afresh() Object {
	o.opts.fresh = true
	return o
}

func (o Object) withTTL(ttl time.Duration) Object {
	o.opts.TTL = ttl
	return o
}

// String returns the full key. If the connection is configured, this includes
// its prefix and version. For an object without a key, String returns the text
// of its error.
func (o Object) String() string {
	switch {
	case o.err != nil:
		return o.err.Error()
	case o.key == "":
		return ErrNoKey.Error()
	}
	conn, err := resolve(context.Background(), o.opts.conn, o.opts.Connection)
	if err != nil {
		return o.key
	}
	return conn.front(o.opts.Version) + o.key
}

// Exists reports whether anything is stored at the key. An empty collection
// does not exist. O(1), EXISTS.
func (o Object) Exists(ctx context.Context) (bool, error) {
	var q query
	if err := q.begin(ctx, &o, "Exists", driver.ReadOnly); err != nil {
		return false, err
	}
	defer q.end()
	q.cmd("EXISTS")
	n, err := q.int(ctx)
	return n > 0, err
}

// Delete removes the whole object, and reports whether there was one. O(1)
// for the caller at any size, UNLINK.
func (o Object) Delete(ctx context.Context) (deleted bool, err error) {
	var q query
	if err := q.begin(ctx, &o, "Delete", 0); err != nil {
		return false, err
	}
	defer q.end()
	q.cmd("UNLINK")
	n, err := q.int(ctx)
	return n > 0, err
}

// ExpiresIn returns the remaining TTL, [Forever] if the object does not expire,
// or [ErrMiss] if there is no object. O(1), PTTL.
func (o Object) ExpiresIn(ctx context.Context) (time.Duration, error) {
	var q query
	if err := q.begin(ctx, &o, "ExpiresIn", driver.ReadOnly); err != nil {
		return 0, err
	}
	defer q.end()
	q.cmd("PTTL")
	ms, err := q.int(ctx)
	switch {
	case err != nil:
		return 0, err
	case ms == -2:
		return 0, q.fail(ErrMiss)
	case ms == -1:
		return Forever, nil
	}
	if ms >= Forever.Milliseconds() { // beyond the range of a Duration
		return Forever - time.Millisecond, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// Touch restarts the TTL with ttl. Zero means the object's own TTL; if it has
// none, Touch changes nothing. [Forever] removes the expiry. A negative ttl is
// an error: Touch never deletes. If there is no object, it returns [ErrMiss].
// O(1), PEXPIRE or PERSIST.
func (o Object) Touch(ctx context.Context, ttl time.Duration) error {
	if ttl == Forever {
		return o.persist(ctx, "Touch")
	}
	var q query
	err := q.begin(ctx, &o, "Touch", 0)
	if err != nil {
		return err
	}
	defer q.end()
	ms := q.ms
	if ttl != 0 {
		if ms, err = milliseconds(ttl); err != nil {
			return q.fail(err)
		}
	}
	if ms == 0 {
		q.cmd("EXISTS")
	} else {
		q.cmd("PEXPIRE").Int(ms)
	}
	n, err := q.int(ctx)
	if err == nil && n == 0 {
		err = q.fail(ErrMiss)
	}
	return err
}

// Persist removes the expiry. If there is no object, it returns [ErrMiss].
// O(1), PERSIST.
func (o Object) Persist(ctx context.Context) error { return o.persist(ctx, "Persist") }

func (o Object) persist(ctx context.Context, op string) error {
	var q query
	if err := q.begin(ctx, &o, op, 0); err != nil {
		return err
	}
	defer q.end()
	q.cmd("PERSIST") // replies 0 for an object without an expiry, too: EXISTS decides
	q.cmd("EXISTS")
	if err := q.run(ctx); err != nil {
		return err
	}
	if err := q.p.Next().Err(); err != nil {
		return q.fail(err)
	}
	n, err := q.p.Next().Int()
	switch {
	case err != nil:
		return q.fail(err)
	case n == 0:
		return q.fail(ErrMiss)
	}
	return nil
}

// length implements Len for all collections.
func (o Object) length(ctx context.Context, op, cmd string) (int, error) {
	var q query
	if err := q.begin(ctx, &o, op, driver.ReadOnly); err != nil {
		return 0, err
	}
	defer q.end()
	q.cmd(cmd)
	n, err := q.int(ctx)
	return int(n), err
}

// A query is one operation of an object in progress: its target, the commands
// and the replies. It lives on the stack of the
// operation, which must end it.
type query struct {
	target
	p     *driver.Pipeline
	large dataType    // of a command whose expiry run appends; empty for others
	near  *near.Space // must drop the key, which is written; nil if not kept near

	// For the counters and hooks at the end.
	tally  *tally.Tally
	seen   *sighting // nil unless the connection has hooks
	err    error     // of the operation, including a miss
	looks  bool      // a value is looked up: err says whether it was found
	result Lookup    // … unless the operation sets result
	reason MissReason
}

// begin makes q the operation op on o. After success, the caller must end q.
//
// It fills q in place: returning a query would copy it, at a cost that is
// noticeable beside a read of locmem.
func (q *query) begin(ctx context.Context, o *Object, op string, mode driver.Mode) error {
	if err := q.aim(ctx, o, op); err != nil {
		return err
	}
	if o.opts.Near != nil { // a replica's old value could be kept after the notice of its change
		mode |= driver.Master
		if mode&driver.ReadOnly == 0 {
			q.near = q.conn.nearSpace(&o.opts)
		}
	}
	q.p = driver.NewPipeline(mode)
	q.tally = q.conn.tallies.Of(o.opts.typeName())
	if q.conn.observer != nil {
		q.sight(ctx, o)
	}
	return nil
}

// aim makes t the place of the operation op on o.
func (t *target) aim(ctx context.Context, o *Object, op string) error {
	switch {
	case o.err != nil:
		return &OpError{Op: op, Err: o.err}
	case o.key == "":
		return &OpError{Op: op, Err: ErrNoKey}
	}
	t.key = o.key
	if err := t.aimAt(ctx, &o.opts, op); err != nil {
		return err
	}
	t.shard = t.conn.shardOf(t.front, t.key)
	return t.expiry(&o.opts)
}

// beginRead is begin for reads that restart the TTL under SlideOnRead. Such a
// read writes, but a repetition leaves the same state.
func (q *query) beginRead(ctx context.Context, o *Object, op string) error {
	mode := driver.ReadOnly
	if o.opts.TTLPolicy == SlideOnRead {
		mode = driver.Repeatable
	}
	return q.begin(ctx, o, op, mode)
}

func (q *query) end() {
	q.near.Drop(q.key) // after the write, and before the caller continues and reads its own write
	q.witness()
	q.p.Free()
}

// cmd begins a command whose first argument is the key.
func (q *query) cmd(name string) *driver.Pipeline {
	return q.p.CmdKey(name, q.front, q.key)
}

// maxScripted is the most arguments passed to withExpiry; Lua's unpack takes
// about 8,000.
const maxScripted = 5000

// withExpiry runs a command on the key and then sets the key's expiry, unless
// the command failed: a key of another type must keep its expiry. ARGV: the
// command, milliseconds, NX or the empty string, the command's arguments. The
// result of INCRBY and HINCRBY is read again as text, because a number in Lua
// is a float64. The number is returned only if the text is gone: some servers
// let a key expire within a script.
var withExpiry = driver.NewScript(`
local reply = redis.pcall(ARGV[1], KEYS[1], unpack(ARGV, 4))
if type(reply) == 'table' and reply.err then return reply end
if ARGV[1] == 'INCRBY' then reply = redis.call('GET', KEYS[1]) or reply end
if ARGV[1] == 'HINCRBY' then reply = redis.call('HGET', KEYS[1], ARGV[4]) or reply end
if ARGV[3] == 'NX' then
	redis.call('PEXPIRE', KEYS[1], ARGV[2], 'NX')
else
	redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return reply
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	r := tx.Call(string(args[0]), append([][]byte{keys[0]}, args[3:]...)...)
	failed := r.Kind() == driver.KindError
	passOn(reply, r)
	if failed {
		return
	}
	expire := [][]byte{keys[0], args[1], args[2]}
	if len(args[2]) == 0 {
		expire = expire[:2]
	}
	tx.Call("PEXPIRE", expire...)
})

// write begins a command with a few arguments that may create the key. With a TTL,
// the command and its expiry are one step, so that no crash between two commands
// leaves a key without expiry.
func (q *query) write(name string) *driver.Pipeline {
	if q.ms == 0 {
		return q.cmd(name)
	}
	q.timed(name)
	if q.fixed {
		return q.p.String("NX")
	}
	return q.p.String("")
}

// writeMany is write for a command with args arguments, on a key of type t.
func (q *query) writeMany(t dataType, name string, args int) *driver.Pipeline {
	if q.ms == 0 || args <= maxScripted {
		return q.write(name)
	}
	q.large = t
	q.p.Reset(driver.Atomic)
	return q.cmd(name)
}

// read begins a command with a few arguments that reads and, under SlideOnRead,
// restarts the TTL.
func (q *query) read(name string) *driver.Pipeline {
	if !q.slide {
		return q.cmd(name)
	}
	return q.timed(name).String("")
}

// readMany is read for a command with args arguments, on a key of type t.
func (q *query) readMany(t dataType, name string, args int) *driver.Pipeline {
	if !q.slide || args <= maxScripted {
		return q.read(name)
	}
	q.large = t
	return q.cmd(name)
}

func (q *query) timed(name string) *driver.Pipeline {
	return q.p.Script(withExpiry, 1).Key(q.front, q.key).String(name).Int(q.ms)
}

// A dataType is the name of a Redis type of collections.
type dataType string

const (
	hashType      dataType = "hash"
	setType       dataType = "set"
	sortedSetType dataType = "zset"
	listType      dataType = "list"
)

// expire appends the expiry after a command with more arguments than a script
// takes. Such a command can fail only because the key holds another type. It has
// no effect on a missing key.
func (q *query) expire() {
	q.p.Script(expireType, 1).Key(q.front, q.key).String(string(q.large)).Int(q.ms)
	if q.fixed {
		q.p.String("NX")
	}
}

// expireType is PEXPIRE for a key of one type. ARGV: the type, milliseconds, NX
// or nothing.
var expireType = driver.NewScript(`
if redis.call('TYPE', KEYS[1]).ok ~= ARGV[1] then return 0 end
if ARGV[3] then return redis.call('PEXPIRE', KEYS[1], ARGV[2], ARGV[3]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	if kind, _, _ := tx.Call("TYPE", keys[0]).Bytes(); string(kind) != string(args[0]) {
		reply.Int(0)
		return
	}
	passOn(reply, tx.Call("PEXPIRE", append([][]byte{keys[0]}, args[1:]...)...))
})

// passOn makes the reply of a command within a script the reply of the script.
func passOn(to *driver.Replies, r driver.Reply) {
	switch r.Kind() {
	case driver.KindInt:
		n, _ := r.Int()
		to.Int(n)
	case driver.KindBulk:
		b, _, _ := r.Bytes()
		to.Bytes(b)
	case driver.KindStatus:
		b, _, _ := r.Bytes()
		to.Status(string(b))
	case driver.KindNil:
		to.Nil()
	case driver.KindArray:
		e, _ := r.Elems()
		to.Array(e.Len())
		for e.Len() > 0 {
			passOn(to, e.Next())
		}
	default:
		replyError(to, r.Err())
	}
}

// replyError makes the error of a command within a script the reply of the
// script.
func replyError(reply *driver.Replies, err error) {
	if server, ok := err.(*ServerError); ok {
		reply.Error(server.Code + " " + server.Message())
		return
	}
	reply.Error("ERR " + err.Error())
}

// run sends the commands, and the expiry that a large one has left.
func (q *query) run(ctx context.Context) error {
	if q.large != "" {
		q.expire()
	}
	if err := q.conn.do(ctx, q.shard, q.p); err != nil {
		return q.fail(err)
	}
	return nil
}

// fail is target.fail, and records the error as the result of q.
func (q *query) fail(err error) error {
	q.err = q.target.fail(err)
	return q.err
}

// int runs a query whose first reply is an integer.
func (q *query) int(ctx context.Context) (int64, error) {
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	n, err := q.p.Next().Int()
	if err == nil {
		err = q.rest()
	}
	if err != nil {
		return 0, q.fail(err)
	}
	return n, nil
}

// rest returns the first error among the remaining replies, such as the reply
// to the expiry.
func (q *query) rest() error {
	for range q.p.Replies().Len() {
		r := q.p.Next()
		if r.Kind() == 0 {
			return nil
		}
		if err := r.Err(); err != nil {
			return err
		}
	}
	return nil
}

// pageSize is the number of elements requested per page. The server may return
// more, such as the whole of a small collection.
const pageSize = 250

// scan iterates over a collection with HSCAN, SSCAN or ZSCAN. visit takes one
// element from e and reports whether to continue; its views are valid until it
// returns.
func (o Object) scan(ctx context.Context, op, cmd string, visit func(e *driver.Elems) (bool, error)) error {
	cursor := []byte{'0'}
	for {
		next, more, err := o.scanPage(ctx, op, cmd, cursor, visit)
		if err != nil || !more || string(next) == "0" {
			return err
		}
		cursor = next
	}
}

// scanPage visits one page and returns the cursor of the next one.
func (o Object) scanPage(ctx context.Context, op, cmd string, cursor []byte, visit func(e *driver.Elems) (bool, error)) (next []byte, more bool, err error) {
	var q query
	if err := q.beginRead(ctx, &o, op); err != nil {
		return nil, false, err
	}
	defer q.end()
	q.read(cmd).Bytes(cursor).String("COUNT").Int(pageSize)
	if err := q.run(ctx); err != nil {
		return nil, false, err
	}
	page, err := q.p.Next().Elems()
	if err != nil {
		return nil, false, q.fail(err)
	}
	at, _, err := page.Next().Bytes()
	if err != nil {
		return nil, false, q.fail(err)
	}
	elems, err := page.Next().Elems()
	for more = true; err == nil && more && elems.Len() > 0; {
		more, err = visit(&elems)
	}
	if err != nil {
		return nil, false, q.fail(err)
	}
	return append([]byte{}, at...), more, nil
}

// checkCount rejects a negative number of elements, which would mean something
// else to Redis.
func (o Object) checkCount(op string, n int) error {
	if n < 0 {
		return &OpError{Op: op, Key: o.key, Err: fmt.Errorf("caches: the number of elements, %d, is negative", n)}
	}
	return nil
}

// orDefault replaces a miss with def, and returns def with any other error.
func orDefault[T any](def T) func(v T, err error) (T, error) {
	return func(v T, err error) (T, error) {
		switch {
		case err == nil:
			return v, nil
		case errors.Is(err, ErrMiss):
			return def, nil
		}
		return def, err
	}
}
