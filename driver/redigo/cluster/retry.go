package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

const (
	// maxRedirects bounds the further rounds of a call in which no server asks for
	// a pause. Servers that need more contradict each other.
	maxRedirects = 16
	// freeRedirects is the number of redirects followed without a pause.
	freeRedirects = 3

	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// collect processes the replies and errors of the round.
func (c *call) collect() {
	for i := range c.parts {
		pt := &c.parts[i]
		if pt.err == nil {
			pt.node.markUp()
		}
		raw := pt.p.Replies().Raw()
		for _, at := range pt.units {
			switch u := &c.units[at]; {
			case pt.err != nil:
				c.handleError(u, pt)
			case u.cmd == wholePipeline:
				v, slot, address := verdictOfAll(raw)
				c.handleReply(u, pt, v, slot, address)
			default:
				u.reply, raw = resp.Cut(raw)
				v, slot, address := verdictOf(u.reply)
				c.handleReply(u, pt, v, slot, address)
			}
		}
	}
}

// handleReply applies the verdict on the reply of u.
func (c *call) handleReply(u *unit, pt *part, v verdict, slot int, address string) {
	u.to, u.failedAt, u.asking = nil, nil, false
	switch v {
	case moved, ask:
		c.redirect(u, pt, v, slot, address)
	case retryLater:
		c.s.refresher.ask()
		if pt.reader {
			c.masters = true // masters can be asked without a pause
		} else {
			// After the pause the table decides: an earlier redirect may no longer be
			// right.
			c.mustPause = true
		}
	default:
		u.open, u.err = false, nil
	}
}

// redirect makes u follow a MOVED or ASK.
func (c *call) redirect(u *unit, pt *part, v verdict, slot int, address string) {
	to := c.s.node(resolved(address, pt.node))
	if to != nil && to.address == pt.node.address {
		to = c.s.renew(pt.node)
		if to == pt.node || pt.reader {
			c.misled(u, pt)
			return
		}
	}
	switch {
	case to == nil && c.s.ctx.Err() != nil:
		u.open, u.err = false, cmp.Or(u.err, unavailable(errClosed))
		return
	case to == nil: // a malformed address: let the caller see the reply
		u.open, u.err = false, nil
		return
	case v == ask:
		c.s.noteImport(to) // the slot has not moved yet: the table stays as it is
	default:
		c.s.noteMoved(slot, to)
	}
	u.to, u.asking = to, v == ask
}

// misled handles a unit whose server has redirected it to the server's own address.
// No server does that while it has the address. So the connection leads to a server
// that was replaced behind its name. If the name has just been dialed anew, it leads
// there still, and the unit waits.
func (c *call) misled(u *unit, pt *part) {
	c.s.refresher.ask()
	if pt.reader {
		c.masters = true
		return
	}
	c.mustPause = true
	u.err = cmp.Or(u.err, fmt.Errorf("%w: the server at %s redirects to that address itself: the name leads to a server that was replaced",
		driver.ErrUnavailable, pt.node.address))
}

// handleError applies the error of pt to u. The unit stays open if sending it
// again is harmless and may help.
func (c *call) handleError(u *unit, pt *part) {
	u.to, u.failedAt, u.asking = nil, nil, false
	// Keep an unknown outcome: a later attempt that did not run cannot undo it. Keep
	// the reason too why a server could not be reached, if the last attempt failed
	// only because a new table does not name it.
	if u.err == nil || !isUnavailable(pt.err) || !isUnknown(u.err) && c.s.has(pt.node) {
		u.err = pt.err
	}
	// A server that does not answer may have been replaced. Refresh even if this
	// call cannot use the result: the next one can.
	if !errors.Is(pt.err, context.Canceled) && !errors.Is(pt.err, driver.ErrBusy) {
		if isMissing(pt.err) {
			pt.node.markDown() // the refresh then asks others first
		}
		c.s.refresher.ask()
	}
	switch {
	case !c.mayRepeat(pt.err):
		u.open = false
	case pt.reader:
		c.masters = true
	case isTransientRefusal(pt.err):
		c.mustPause = true
	default:
		// Not to the same server again, unless a refresh confirms it: see findServer.
		// A command without a key can go to the next server at once.
		u.failedAt = pt.node
		c.turn++
	}
}

// mayRepeat reports whether commands that failed with err may be sent again:
// because nothing was written, or because running them twice is harmless. No
// other code decides this.
func (c *call) mayRepeat(err error) bool {
	switch {
	case c.ctx.Err() != nil || c.s.ctx.Err() != nil:
		return false
	case errors.Is(err, driver.ErrBusy): // the server works but is at its limit
		return false
	case isUnknown(err):
		return c.p.Mode()&(driver.ReadOnly|driver.Repeatable) != 0
	}
	return isUnavailable(err)
}

// prepareRound makes the call ready for another round. It reports false if
// there is nothing left to send or no time left.
func (c *call) prepareRound() bool {
	if !c.anyOpen() {
		return false
	}
	c.limit()
	for i := range c.units {
		if u := &c.units[i]; u.open {
			c.findServer(u)
		}
	}
	if !c.anyOpen() {
		return false
	}
	if !c.backOff() {
		for i := range c.units {
			c.giveUp(&c.units[i])
		}
		return false
	}
	return true
}

// giveUp ends u with its latest reply or error because no time is left.
func (c *call) giveUp(u *unit) {
	ended := c.ctx.Err()
	silent := u.reply == nil && (u.cmd != wholePipeline || c.p.Replies().Len() == 0)
	// An error says more than a redirect, which only means that nothing has run.
	if u.open && u.err == nil && (silent || u.to != nil && ended != nil) {
		u.err = unavailable(cmp.Or(ended, context.DeadlineExceeded))
	}
	u.open = false
}

func (c *call) anyOpen() bool {
	return slices.ContainsFunc(c.units, func(u unit) bool { return u.open })
}

// limit gives c.ctx the deadline of the call before it waits or is sent again.
// In the first round the servers' stores enforce the timeout: a timer per call
// would cost more than a short call.
func (c *call) limit() {
	_, has := c.ctx.Deadline()
	// A blocking command with a deadline may be meant to exceed the timeout.
	if c.cancel == nil && !(has && c.p.Mode()&driver.Own != 0) {
		c.ctx, c.cancel = context.WithDeadline(c.ctx, base.Add(c.begun+c.s.timeout))
	}
}

// findServer handles a unit whose server is unknown or has failed. It waits for
// a refresh, unless one has begun and finished since the server first failed.
// So the first failing call of an outage waits, and later ones fail at once.
// The unit stays open if another server is found.
func (c *call) findServer(u *unit) {
	found := func() bool {
		n := c.pick(u).node
		return n != nil && n != u.failedAt
	}
	since := c.begun
	if u.failedAt != nil {
		since = u.failedAt.markDown()
	}
	var err error
	if !found() && !c.s.refresher.since(since) {
		err = c.s.refresher.wait(c.ctx, since, found)
	}
	if found() {
		u.failedAt = nil
		return
	}
	u.open = false
	switch {
	case u.err != nil:
	case err != nil:
		u.err = unavailable(err)
	default:
		u.err = fmt.Errorf("%w: no server of the cluster has slot %d", driver.ErrUnavailable, u.slot)
	}
}

// backOff pauses if a server has asked for it or the redirects go in circles.
// The pauses are random, up to 2 ms, then 4 ms, … then 100 ms, so that callers
// do not return all at once. backOff reports false, immediately, after
// maxRedirects or if it would exceed the deadline.
func (c *call) backOff() bool {
	waits := c.mustPause
	if c.mustPause = false; !waits {
		if c.redirects++; c.redirects <= freeRedirects {
			return c.ctx.Err() == nil
		}
		if c.redirects > maxRedirects {
			return false
		}
	}
	d := rand.N(min(firstPause<<min(c.pauses, 10), lastPause))
	c.pauses++
	if end, ok := c.ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	return sleep(c.ctx, d)
}
