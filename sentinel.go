package caches

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
)

// A lock is one claim of a key by a token, for as long as its lease is renewed.
// It is a lease for efficiency on one server, not a lock for correctness over
// several.
type lock struct {
	object Object
	op     string
	token  string
	lease  time.Duration
}

// acquire claims the key, and reports whether the claim is this lock's.
func (l *lock) acquire(ctx context.Context) (bool, error) {
	var q query
	if err := q.begin(ctx, &l.object, l.op, driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	return q.claim(ctx, l.token, l.lease.Milliseconds())
}

// hold runs work and renews the lease meanwhile. It returns when both have
// ended.
func (l *lock) hold(ctx context.Context, work func(context.Context) error) error {
	// The lease outlives the caller's context: work may still be running.
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	ctx, lose := context.WithCancelCause(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		kept := false
		defer func() {
			if !kept { // a hook has ended the goroutine
				lose(ErrLeaseLost)
			}
		}()
		l.keep(keeping, lose)
		kept = true
	}()
	defer func() { // also when work panics: nothing renews the lease then
		stop() // ends a renewal under way as well
		<-stopped
		lose(nil)
	}()
	return work(ctx)
}

// keep renews the lease three times per lease until ctx ends, and after a fault
// tries again sooner, so that an outage shorter than the lease costs nothing. It
// calls lose when the claim is gone, or when no renewal has been answered for a
// whole lease: then the key may have expired.
func (l *lock) keep(ctx context.Context, lose context.CancelCauseFunc) {
	timer := time.NewTimer(l.lease / 3)
	defer timer.Stop()
	end := time.Now().Add(l.lease)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		sent, pause := time.Now(), l.lease/3
		renewed, err := l.renew(ctx, end)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && renewed:
			end = sent.Add(l.lease) // counted from before the server did
		case err == nil, !time.Now().Before(end):
			lose(ErrLeaseLost)
			return
		default:
			pause = l.lease / 12
		}
		timer.Reset(min(pause, time.Until(end)))
	}
}

// renew asks the server to keep the claim, until end at the latest.
func (l *lock) renew(ctx context.Context, end time.Time) (bool, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	var q query
	if err := q.begin(ctx, &l.object, l.op, driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	q.p.Script(renew, 1).Key(q.front, q.key).String(l.token).Int(l.lease.Milliseconds())
	n, err := q.int(ctx)
	return n == 1, err
}

// settle lets go of the claim.
func (l *lock) settle(ctx context.Context) error {
	_, err := l.end(ctx, func(q *query, p *driver.Pipeline) {})
	return err
}

// shut turns the claim into a gate that stays shut for the time to live.
func (l *lock) shut(ctx context.Context) error {
	done := newToken(tokenDone)
	held, err := l.end(ctx, func(q *query, p *driver.Pipeline) { p.String(done).Int(q.ms) })
	if err == nil && !held {
		return &OpError{Op: l.op, Key: l.object.key, Err: fmt.Errorf("%w before the work was done", ErrLeaseLost)}
	}
	return err
}

// end runs settle, also where ctx has ended: a claim left behind would keep
// others out for a lease.
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

// SentinelCache is a type of gates for one-time work: [SentinelCache.Key] returns
// the gate at a key. The zero value is usable: gates without a prefix, on the
// default connection.
//
//	var welcome = caches.SentinelCache{Prefix: "welcome", TTL: 24 * time.Hour}
//	…
//	first, err := welcome.Key(userID).Once(ctx)   // may this caller do it?
//	ran, err := welcome.Key(userID).Do(ctx, send) // do it
type SentinelCache struct {
	// Prefix, TTL, Connection and Version are those of [Options]. The time to
	// live starts with the claim. Without one a gate stays shut.
	Prefix     string
	TTL        time.Duration
	Connection string
	Version    string

	// Lease is how long a claim of Do outlives its process: a crash during the
	// work opens the gate again after it. It is renewed while the work runs.
	// Zero means 30 seconds; less than 10 milliseconds is an error. It does not
	// concern Once.
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

// On returns a copy of s that uses conn, whatever Connection and the context
// say. Nil removes an earlier conn.
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
func (s SentinelCache) Clear(ctx context.Context) (int64, error) {
	return s.options().clear(ctx, "SentinelCache.Clear")
}

// Sentinel is one gate for one-time work. [SentinelCache.Key] returns it. Exists
// reports whether the gate is shut, Delete opens it.
//
// A gate fails closed: a fault is false and an error, never a second yes. It has
// at most one winner per time to live, unless the server loses the key: by a
// failover to a replica that has not received it, a flush, or eviction. Give
// gates a server, or a maxmemory-policy, that does not evict; locmem never
// evicts them. A gate saves work; if a second run would do harm, the work itself
// must be able to refuse it.
type Sentinel struct {
	Object
	lease time.Duration
}

// Key returns the gate whose key is that of s followed by parts; see
// [Cache.Key].
func (s Sentinel) Key(parts ...any) Sentinel { return Sentinel{s.below(parts), s.lease} }

// On returns a copy of s that uses conn; see [SentinelCache.On].
func (s Sentinel) On(conn *Conn) Sentinel { return Sentinel{s.on(conn), s.lease} }

// WithTTL returns a copy of s with a time to live of its own.
func (s Sentinel) WithTTL(ttl time.Duration) Sentinel { return Sentinel{s.withTTL(ttl), s.lease} }

// Once shuts the gate, and reports whether this call was the one that did: true
// for at most one caller per time to live, in all processes. After an error it
// is not known who won; the gate may be shut. O(1), SET NX GET with PX.
//
// The claim carries a random token, so that a command sent again after a lost
// reply knows its own claim.
func (s Sentinel) Once(ctx context.Context) (bool, error) {
	var q query
	if err := q.begin(ctx, &s.Object, "SentinelCache.Once", driver.Repeatable|driver.Keep); err != nil {
		return false, err
	}
	defer q.end()
	return q.claim(ctx, newToken(tokenDone), q.ms)
}

// claim shuts the gate with token for ms milliseconds, 0 for ever, and reports
// whether it is token that shuts it now.
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

// settle ends a claim: ARGV holds the token and, where the work is done, the
// token that shuts the gate and its time to live in milliseconds, 0 for none.
// It does nothing where the claim is no longer the token's. The second run of a
// settle whose reply was lost finds the gate as it wants it.
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

// renew gives a claim ARGV[2] milliseconds more, if it is still the token's.
var renew = driver.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	holder, _, err := tx.Call("GET", keys[0]).Bytes()
	if err != nil {
		replyError(reply, err)
		return
	}
	if string(holder) != string(args[0]) {
		reply.Int(0)
		return
	}
	n, _ := tx.Call("PEXPIRE", keys[0], args[1]).Int()
	reply.Int(n)
})

// Do runs work if the gate is open, and shuts it for the time to live once work
// has succeeded; ran reports whether work ran, and err is its error. While it
// runs, a lease keeps others out: they get false and no error, as they do once
// it is done. When work fails or panics the gate opens again, for the next
// caller.
//
// So work succeeds at most once per time to live while its lease holds. The
// context of work ends, with [ErrLeaseLost] as its cause, when the lease could
// not be renewed in time or the claim is gone; what it does afterwards, others
// may be doing too.
//
// An error beside ran true that is not work's own says that work succeeded and
// the gate may not have been shut.
func (s Sentinel) Do(ctx context.Context, work func(context.Context) error) (ran bool, err error) {
	lease := s.lease
	switch {
	case lease == 0:
		lease = defaultLease
	case lease < minLease:
		return false, &OpError{Op: "SentinelCache.Do", Key: s.key, Err: fmt.Errorf("caches: a Lease of %v is less than %v", lease, minLease)}
	}
	l := lock{object: s.Object, op: "SentinelCache.Do", token: newToken(tokenRunning), lease: lease}
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
