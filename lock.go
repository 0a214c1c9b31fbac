package caches

import (
	"context"
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
		l.keep(keeping, lose)
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
