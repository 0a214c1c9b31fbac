package caches

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
)

// A lock is a claim of a key by a token, which lasts as long as its lease is
// renewed. It is a lease for efficiency on one server, not a lock for
// correctness across several.
type lock struct {
	object Object
	op     string
	token  string
	lease  time.Duration
}

// acquire tries to claim the key, and reports whether this lock holds the
// claim.
func (l *lock) acquire(ctx context.Context) (bool, error) {
	var q query
	if err := q.begin(ctx, &l.object, l.op, driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	return q.claim(ctx, l.token, l.lease.Milliseconds())
}

// hold runs work and renews the claim in the meantime.
func (l *lock) hold(ctx context.Context, work func(context.Context) error) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	// The claim outlives the caller's context, as work may still be running.
	r := renewal{life: l.lease, renew: l.renew, lost: func() { lose(ErrLeaseLost) }}
	r.start(ctx)
	defer r.stop() // also if work panics, so that nothing renews the claim
	return work(ctx)
}

// renew asks the server to extend the claim.
func (l *lock) renew(ctx context.Context) (held bool, err error) {
	var q query
	if err := q.begin(ctx, &l.object, l.op, driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	q.p.Script(renew, 1).Key(q.front, q.key).String(l.token).Int(l.lease.Milliseconds())
	n, err := q.int(ctx)
	return n == 1, err
}

// settle releases the claim.
func (l *lock) settle(ctx context.Context) error {
	_, err := l.end(ctx, func(q *query, p *driver.Pipeline) {})
	return err
}

// shut turns the claim into a gate that stays shut for the TTL.
func (l *lock) shut(ctx context.Context) error {
	done := layout.NewToken(layout.TokenDone)
	held, err := l.end(ctx, func(q *query, p *driver.Pipeline) { p.String(done).Int(q.ms) })
	if err == nil && !held {
		return &OpError{Op: l.op, Key: l.object.key, Err: fmt.Errorf("%w before the work was done", ErrLeaseLost)}
	}
	return err
}

// end runs the script settle, even if ctx is done: a claim left behind would
// keep other callers out for a whole lease.
func (l *lock) end(ctx context.Context, args func(*query, *driver.Pipeline)) (held bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var q query
	if err := q.begin(ctx, &l.object, l.op, driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	args(&q, q.p.Script(settle, 1).Key(q.front, q.key).String(l.token))
	n, err := q.int(ctx)
	return n == 1, err
}

// A SentinelCache describes a type of gates for one-time work;
// [SentinelCache.Key] returns the gate at a key. The zero value is valid: gates
// without a prefix, on the default connection.
//
//	var welcome = caches.SentinelCache{Prefix: "welcome", TTL: 24 * time.Hour}
//	…
//	first, err := welcome.Key(userID).Once(ctx)   // may this caller do it?
//	ran, err := welcome.Key(userID).Do(ctx, send) // do it
type SentinelCache struct {
	// Prefix, TTL, Connection and Version are as in [Options]. The TTL starts
	// when Once or Do shuts the gate. Without a TTL, the gate stays shut.
	Prefix     string
	TTL        time.Duration
	Connection string
	Version    string

	// Lease is how long a claim of Do outlives its process: after a crash, the
	// gate opens again once the lease expires. It is renewed while the work runs.
	// Zero means 30 seconds; less than 10 milliseconds is an error. Once does not
	// use it.
	Lease time.Duration

	conn *Conn // set by On
}

func (s *SentinelCache) options() *Options {
	return &Options{Prefix: s.Prefix, TTL: s.TTL, Connection: s.Connection, Version: s.Version, conn: s.conn}
}

// Key returns the gate at a key; see [Cache.Key].
func (s SentinelCache) Key(parts ...any) Sentinel {
	return Sentinel{s.options().object(parts), s.Lease}
}

// On returns a copy of s that uses conn; see [Cache.On].
func (s SentinelCache) On(conn *Conn) SentinelCache {
	s.conn = conn
	return s
}

// WithTTL returns a copy of s whose TTL is ttl.
func (s SentinelCache) WithTTL(ttl time.Duration) SentinelCache {
	s.TTL = ttl
	return s
}

// Clear opens every gate under the prefix; see [Cache.Clear].
func (s SentinelCache) Clear(ctx context.Context) (int, error) {
	return s.options().clear(ctx, "SentinelCache.Clear")
}

// A Sentinel refers to one gate for one-time work. [SentinelCache.Key] returns
// it. Exists reports whether the gate is shut; Delete opens it.
//
// A gate fails closed: a caller that cannot claim it because of a fault gets
// false and an error. At most one caller wins per TTL, unless the server loses
// the key by a failover to a replica that has not received it, by a flush, or
// by eviction. Keep gates on a server, or under a maxmemory-policy, that does
// not evict; locmem never evicts them. A gate saves work. If a second run would
// do harm, the work itself must be able to refuse it.
type Sentinel struct {
	Object
	lease time.Duration
}

// Key returns the gate at the key of s followed by parts; see [Cache.Key].
func (s Sentinel) Key(parts ...any) Sentinel { return Sentinel{s.below(parts), s.lease} }

// On returns a copy of s that uses conn; see [Cache.On].
func (s Sentinel) On(conn *Conn) Sentinel { return Sentinel{s.on(conn), s.lease} }

// WithTTL returns a copy of s whose TTL is ttl instead of the type's.
func (s Sentinel) WithTTL(ttl time.Duration) Sentinel { return Sentinel{s.withTTL(ttl), s.lease} }

// Once shuts the gate, and reports whether this call shut it. It returns true
// to at most one caller per TTL, in all processes. After an error, the winner
// is unknown and the gate may be shut. O(1), SET NX GET with PX.
//
// The claim carries a random token, so that a command sent again after a lost
// reply recognizes its own claim.
func (s Sentinel) Once(ctx context.Context) (bool, error) {
	var q query
	if err := q.begin(ctx, &s.Object, "Sentinel.Once", driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	return q.claim(ctx, layout.NewToken(layout.TokenDone), q.ms)
}

// claim shuts the gate with token for ms milliseconds, or without expiry if ms
// is 0. It reports whether the gate is now shut by token.
func (q *query) claim(ctx context.Context, token string, ms int64) (bool, error) {
	p := q.cmd("SET").String(token).String("NX").String("GET")
	if ms > 0 {
		p.String("PX").Int(ms)
	}
	if err := q.run(ctx); err != nil {
		return false, err
	}
	holder, shut, err := q.p.Next().Bytes()
	if err != nil {
		return false, q.fail(err)
	}
	return !shut || string(holder) == token, nil
}

// settle ends a claim. ARGV: the token and, if the work is done, the token that
// shuts the gate and its TTL in milliseconds, 0 for none. It does nothing if
// the token no longer holds the claim. If it runs again after a lost reply, the
// gate is already as requested.
var settle = driver.NewScript(`
local holder = redis.call('GET', KEYS[1])
if #ARGV > 1 and holder == ARGV[2] then return 1 end
if holder ~= ARGV[1] then return 0 end
if #ARGV == 1 then
	redis.call('DEL', KEYS[1])
elseif ARGV[3] == '0' then
	redis.call('SET', KEYS[1], ARGV[2])
else
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	holder, _, err := tx.Call("GET", keys[0]).Bytes()
	switch {
	case err != nil:
		replyError(reply, err)
		return
	case len(args) > 1 && string(holder) == string(args[1]):
		reply.Int(1)
		return
	case string(holder) != string(args[0]):
		reply.Int(0)
		return
	case len(args) == 1:
		tx.Call("DEL", keys[0])
	case string(args[2]) == "0":
		tx.Call("SET", keys[0], args[1])
	default:
		tx.Call("SET", keys[0], args[1], []byte("PX"), args[2])
	}
	reply.Int(1)
})

// Do runs work if the gate is open, and shuts the gate for the TTL after work
// has succeeded. It reports whether work ran; err is the error of work. While
// work runs, a lease keeps other callers out: they get false and no error, as
// they do after the gate is shut. If work fails or panics, the gate opens again
// for the next caller.
//
// While the lease holds, work succeeds at most once per TTL. If the lease is
// not renewed in time, or the claim is gone, the context of work is canceled
// with [ErrLeaseLost] as its cause. From then on, another caller may be doing
// the same work.
//
// If ran is true and err does not come from work, work succeeded but the gate
// may not have been shut.
func (s Sentinel) Do(ctx context.Context, work func(context.Context) error) (ran bool, err error) {
	lease := s.lease
	switch {
	case lease == 0:
		lease = defaultLease
	case lease < minLease:
		return false, &OpError{Op: "Sentinel.Do", Key: s.key, Err: fmt.Errorf("caches: a Lease of %v is less than %v", lease, minLease)}
	}
	l := lock{object: s.Object, op: "Sentinel.Do", token: layout.NewToken(layout.TokenRunning), lease: lease}
	won, err := l.acquire(ctx)
	if err != nil || !won {
		return false, err
	}
	finished := false
	defer func() {
		if !finished { // work panicked, or ended its goroutine
			l.settle(ctx)
		}
	}()
	err = l.hold(ctx, work)
	finished = true
	if err == nil {
		return true, l.shut(ctx)
	}
	if fault := l.settle(ctx); fault != nil {
		err = errors.Join(err, fault)
	}
	return true, err
}
