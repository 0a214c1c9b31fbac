package caches

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
)

// removeMembers is the Remove of every collection.
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

// readAll runs a command that answers with an array, and decodes it.
func readAll[T any](ctx context.Context, o Object, op, cmd string, read func(driver.Reply) (T, error)) ([]T, error) {
	var q query
	if err := q.beginRead(ctx, &o, op); err != nil {
		return nil, err
	}
	defer q.end()
	q.read(cmd, 0)
	q.slid()
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	all, err := readSlice(q.p.Next(), read)
	if err != nil {
		return nil, q.fail(err)
	}
	return all, nil
}

// A sighting is an operation under way on a connection that has hooks.
type sighting struct {
	ctx   context.Context
	begun time.Time
	info  CallInfo
}

// sight notes the beginning of an operation that hooks will hear of.
func (q *query) sight(ctx context.Context, o *Object) {
	q.seen = &sighting{ctx: ctx, begun: time.Now(), info: CallInfo{
		Op: q.op, Conn: q.conn.name, Shard: q.conn.shards[q.shard].name, Type: o.opts.typeName(), Key: q.front + q.key,
	}}
}

// outcome is what the operation came to as a look-up, where it is one.
func (q *query) outcome() Result {
	switch {
	case q.result != NoLookup || !q.looks:
		return q.result
	case q.err == nil:
		return Hit
	case errors.Is(q.err, ErrMiss):
		return Miss
	}
	return NoLookup
}

// witness counts the operation, which has ended, and tells the hooks.
func (q *query) witness() {
	result := q.outcome()
	if q.tally != nil {
		q.tally.call(result, q.err)
	}
	if q.seen == nil {
		return
	}
	c := &q.seen.info
	if c.Result, c.Err, c.Reason = result, q.err, q.reason; result == Miss && c.Reason == NoReason {
		c.Reason = MissAbsent
	}
	c.Elapsed = time.Since(q.seen.begun)
	c.BytesOut, c.BytesIn = len(q.p.Frames()), q.p.Replies().Size()
	q.conn.observer.called(q.seen.ctx, c)
}

// Object is what all cache objects have in common: a key on a connection. It is
// embedded in each of them; its methods are theirs. An Object is an immutable
// value, cheap to copy and safe for concurrent use, and it holds nothing of
// what is stored.
type Object struct {
	opts Options // those of the type that Key was called on
	key  string  // with the prefix, without what the connection puts in front
	err  error   // why there is no key
}

// object returns the object at the key of parts under the prefix.
func (o *Options) object(parts []any) Object {
	if o.err != nil {
		return Object{opts: *o, err: o.err}
	}
	key, err := makeKey(o.Prefix, parts)
	return Object{opts: *o, key: key, err: err}
}

// below returns the object whose key is that of o followed by parts.
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

// String returns the full key, with the prefix and version of the connection
// where there is one, and of an object without a key its error.
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

// Delete removes the object, whole. That there was none is no error. O(1) for
// the caller, whatever the size (UNLINK).
func (o Object) Delete(ctx context.Context) error {
	var q query
	err := q.begin(ctx, &o, "Delete", 0)
	if err != nil {
		return err
	}
	defer q.end()
	q.cmd("UNLINK")
	_, err = q.int(ctx)
	return err
}

// ExpiresIn returns the time to live that is left, [Forever] where there is no
// end, and [ErrMiss] where there is no object. O(1), PTTL.
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
	if ms >= Forever.Milliseconds() { // what Redis can count to, a Duration cannot
		return Forever - time.Millisecond, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// Touch starts the time to live again, at ttl: zero means the type's own (and
// changes nothing where that has none), [Forever] means no end, less than zero
// is an error; it never deletes. Without an object it returns [ErrMiss]. O(1),
// PEXPIRE or PERSIST.
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

// Persist lets the object live without end. Without one it returns [ErrMiss].
// O(1), PERSIST.
func (o Object) Persist(ctx context.Context) error { return o.persist(ctx, "Persist") }

func (o Object) persist(ctx context.Context, op string) error {
	var q query
	if err := q.begin(ctx, &o, op, 0); err != nil {
		return err
	}
	defer q.end()
	q.cmd("PERSIST") // answers 0 for an object without an expiry, too: so ask
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

// length is the Len of the collections.
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

// A query is one operation of an object under way: the connection it resolved,
// the key, and the commands and replies. It lives on the stack of the
// operation, which ends it.
type query struct {
	conn  *Conn
	front string // what the connection puts before the key
	key   string
	op    string
	shard int
	ms    int64 // the type's time to live in milliseconds, 0 for none
	slide bool  // reads start it again
	fixed bool  // writes leave it (FromCreation)

	scripted bool // the expiry is in the command's script
	p        *driver.Pipeline
	near     *nearSpace // that forgets the key, which is written to; nil for none

	// What the counters and hooks are told at the end.
	tally  *tally
	seen   *sighting // nil unless the connection has hooks
	err    error     // the operation's, a miss included
	looks  bool      // a value was looked up: err says whether there was one
	result Result    // … unless the operation says so itself
	reason Reason
}

// begin makes q the operation op on o. Whoever calls it with success ends q.
//
// It fills q in place: a query that was returned would be copied, at a cost that
// shows beside a read of locmem.
func (q *query) begin(ctx context.Context, o *Object, op string, mode driver.Mode) error {
	switch {
	case o.err != nil:
		return &OpError{Op: op, Err: o.err}
	case o.key == "":
		return &OpError{Op: op, Err: ErrNoKey}
	}
	conn, err := resolve(ctx, o.opts.conn, o.opts.Connection)
	if err != nil {
		return &OpError{Op: op, Key: o.key, Err: err}
	}
	q.conn, q.front, q.key, q.op = conn, conn.front(o.opts.Version), o.key, op
	if q.ms, err = o.opts.ttl(conn); err != nil {
		return q.fail(err)
	}
	q.shard = conn.shardOf(q.front, q.key)
	q.slide = o.opts.TTLPolicy == SlideOnRead && q.ms > 0
	q.fixed = o.opts.TTLPolicy == FromCreation
	if o.opts.Near != nil { // what a replica says may be kept after the news that it is old
		mode |= driver.Master
	}
	q.p = driver.NewPipeline(mode)
	if o.opts.Near != nil && mode&driver.ReadOnly == 0 {
		q.near = conn.nearSpace(&o.opts)
	}
	q.tally = conn.tallies.of(o.opts.typeName())
	if conn.observer != nil {
		q.sight(ctx, o)
	}
	return nil
}

// beginRead is begin for operations that slide the time to live of types that
// say so. Sliding writes, but a second run leaves what the first one left.
func (q *query) beginRead(ctx context.Context, o *Object, op string) error {
	mode := driver.ReadOnly
	if o.opts.TTLPolicy == SlideOnRead {
		mode = driver.Repeatable
	}
	return q.begin(ctx, o, op, mode)
}

func (q *query) end() {
	q.near.drop(q.key) // after the write and before its caller goes on, who reads what he wrote
	q.witness()
	q.p.Free()
}

// cmd begins a command whose first argument is the key.
func (q *query) cmd(name string) *driver.Pipeline {
	return q.p.CmdKey(name, q.front, q.key)
}

// maxScripted is how many arguments go through withExpiry; Lua's unpack takes
// some 8,000.
const maxScripted = 5000

// withExpiry runs a command on the key, and then sets the key's expiry, unless
// the command failed: an operation that returns an error, because the key is
// not its own, leaves the key as it is. ARGV: the command, milliseconds, NX or
// nothing, the command's arguments. The result of INCRBY and HINCRBY is read
// again as text, because a number of Lua is a float64. The number is returned
// only if the text is gone: some servers let a key expire within a script.
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

// write begins a command that may create the key, with up to args arguments
// behind it. With a time to live it is one step with its expiry, so that no
// crash between two commands leaves a key that lives for ever. Who calls it
// calls expire behind the arguments.
func (q *query) write(name string, args int) *driver.Pipeline {
	switch {
	case q.ms == 0:
		return q.cmd(name)
	case args > maxScripted:
		q.p.Reset(driver.Atomic)
		return q.cmd(name)
	}
	q.timed(name)
	if q.fixed {
		return q.p.String("NX")
	}
	return q.p.String("")
}

// read begins a command that reads, and under SlideOnRead starts the time to
// live again. Who calls it calls slid behind the arguments.
func (q *query) read(name string, args int) *driver.Pipeline {
	if !q.slide || args > maxScripted {
		return q.cmd(name)
	}
	return q.timed(name).String("")
}

func (q *query) timed(name string) *driver.Pipeline {
	q.scripted = true
	return q.p.Script(withExpiry, 1).Key(q.front, q.key).String(name).Int(q.ms)
}

// expire appends what a write that may create the key needs for its expiry,
// where that is not in its script.
func (q *query) expire() {
	if q.ms == 0 || q.scripted {
		return
	}
	q.expireOwn()
	if q.fixed {
		q.p.String("NX")
	}
}

// expireOwn is the expiry behind a command of more arguments than a script
// takes. All that can make such a command fail is a key of another type.
func (q *query) expireOwn() {
	q.p.Script(expireType, 1).Key(q.front, q.key).String(typeOf(q.p.Name(0))).Int(q.ms)
}

// typeOf returns the data type that a command of a collection works on, by its
// name's first letter.
func typeOf(command string) string {
	switch command[0] {
	case 'H':
		return "hash"
	case 'S':
		return "set"
	}
	return "zset"
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

// slid appends what a read needs for its expiry: nothing, for most types. On a
// key that is gone it does nothing.
func (q *query) slid() {
	if q.slide && !q.scripted {
		q.expireOwn()
	}
}

// passOn gives the reply of a command within a script to its caller.
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

// replyError passes on the error of a command within a script.
func replyError(reply *driver.Replies, err error) {
	if server, ok := err.(*ServerError); ok {
		reply.Error(server.Code + " " + server.Message())
		return
	}
	reply.Error("ERR " + err.Error())
}

// run sends the commands.
func (q *query) run(ctx context.Context) error {
	if err := q.conn.do(ctx, q.shard, q.p); err != nil {
		return q.fail(err)
	}
	return nil
}

// fail says which operation on which key err befell.
func (q *query) fail(err error) error {
	q.err = &OpError{Op: q.op, Key: q.front + q.key, Err: classify(err)}
	return q.err
}

// errNil reports a nil reply to a command that always has a value. It is no
// miss, which only an operation that looks something up returns.
var errNil = fmt.Errorf("%w: a nil reply where a value was expected", ErrProtocol)

// present returns the bytes of a reply that is never nil, in place.
func present(r driver.Reply) ([]byte, error) {
	data, ok, err := r.Bytes()
	if err == nil && !ok {
		err = errNil
	}
	return data, err
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

// rest reads the replies that are left, such as that of the expiry, for an
// error in one of them.
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

// pageSize is how many elements a page of an iteration asks for. The server may
// give more: it returns a small collection whole.
const pageSize = 250

// scan walks a collection by HSCAN, SSCAN or ZSCAN. visit takes one element
// from e, and reports whether to go on; the views that it reads end when it
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

// scanPage visits one page, and returns the cursor of the next one.
func (o Object) scanPage(ctx context.Context, op, cmd string, cursor []byte, visit func(e *driver.Elems) (bool, error)) (next []byte, more bool, err error) {
	var q query
	if err := q.beginRead(ctx, &o, op); err != nil {
		return nil, false, err
	}
	defer q.end()
	q.read(cmd, 3).Bytes(cursor).String("COUNT").Int(pageSize)
	q.slid()
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

// checkCount refuses a negative number of elements, which Redis would take for
// something else.
func (o Object) checkCount(op string, n int) error {
	if n < 0 {
		return &OpError{Op: op, Key: o.key, Err: fmt.Errorf("caches: %d is not a number of elements", n)}
	}
	return nil
}

// orDefault puts def in place of a miss, and beside any other error.
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
