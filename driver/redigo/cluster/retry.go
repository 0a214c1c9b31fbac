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
)

const (
	// maxRedirects bounds how often one call is sent on without a pause that a
	// server has asked for: beyond it they contradict each other.
	maxRedirects = 16
	// freeRedirects of them are at once: to where a slot has gone, and further.
	freeRedirects = 3

	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// collect takes what the servers of the round have answered.
func (c *call) collect() {
	for i := range c.parts {
		pt := &c.parts[i]
		if pt.err == nil {
			pt.node.well()
		}
		raw := pt.p.Replies().Raw()
		for _, at := range pt.units {
			switch u := &c.units[at]; {
			case pt.err != nil:
				c.failed(u, pt)
			case u.cmd == all:
				v, slot, address := verdictOfAll(raw)
				c.judge(u, pt, v, slot, address)
			default:
				u.reply, raw = driver.CutReply(raw)
				v, slot, address := verdictOf(u.reply)
				c.judge(u, pt, v, slot, address)
			}
		}
	}
}

// judge does what a reply means for its unit.
func (c *call) judge(u *unit, pt *part, v verdict, slot int, address string) {
	u.to, u.tried, u.asks = nil, nil, false
	switch v {
	case moved, ask:
		c.redirect(u, pt, v, slot, address)
	case again:
		c.s.refresher.ask()
		if pt.reader {
			c.masters = true // which need not wait
		} else {
			// To the one whose slot it is by then: that a server has sent it on
			// before does not hold for ever.
			c.wait = true
		}
	default:
		u.open, u.err = false, nil
	}
}

// redirect has a unit follow a server's word.
func (c *call) redirect(u *unit, pt *part, v verdict, slot int, address string) {
	to := c.s.node(c.s.resolved(address, pt.node))
	switch {
	case to == nil && c.s.ctx.Err() != nil:
		u.open, u.err = false, cmp.Or(u.err, unavailable(errClosed))
		return
	case to == nil: // the address is none: the reply says the most
		u.open, u.err = false, nil
		return
	case v == ask:
		c.s.asks(to) // the slot is not its yet: the next command goes the old way
	default:
		c.s.moved(slot, to)
	}
	u.to, u.asks = to, v == ask
}

// failed does what an error means for a unit: it stays open where another server
// may do better, and where running it twice is harmless or it has not run.
func (c *call) failed(u *unit, pt *part) {
	u.to, u.tried, u.asks = nil, nil, false
	// What comes later cannot undo that an earlier attempt may have run.
	if !isUnknown(u.err) || !isUnavailable(pt.err) {
		u.err = pt.err
	}
	// A server may have been replaced that does not answer in time, too. Whether
	// this call can make use of the answer or not, the next one can.
	if !errors.Is(pt.err, context.Canceled) && !errors.Is(pt.err, driver.ErrBusy) {
		c.s.refresher.ask()
	}
	switch {
	case !c.mayRepeat(pt.err):
		u.open = false
	case pt.reader:
		c.masters = true
	case isForNow(pt.err):
		c.wait = true
	default:
		// Not to the same one again, unless the others say that it is still the
		// one: seek finds out. What has no key can go to the next at once.
		u.tried = pt.node
		c.turn++
	}
}

// mayRepeat reports whether what failed by err may be sent again: where nothing
// of it was written, and where a second run does no harm. It is the one place
// that decides over commands that may have run.
func (c *call) mayRepeat(err error) bool {
	switch {
	case c.ctx.Err() != nil || c.s.ctx.Err() != nil:
		return false
	case errors.Is(err, driver.ErrBusy): // the server is well, and has enough
		return false
	case isUnknown(err):
		return c.p.Mode()&(driver.ReadOnly|driver.Repeatable) != 0
	}
	return isUnavailable(err)
}

// settle makes the call ready for another round. It is false where there is
// nothing left to send, or no time.
func (c *call) settle() bool {
	if !c.anyOpen() {
		return false
	}
	c.limit()
	for i := range c.units {
		if u := &c.units[i]; u.open {
			c.seek(u)
		}
	}
	if !c.anyOpen() {
		return false
	}
	if !c.rest() {
		for i := range c.units {
			c.stand(&c.units[i])
		}
		return false
	}
	return true
}

// stand ends a unit by what has come of it so far, for there is no time left.
func (c *call) stand(u *unit) {
	ended := c.ctx.Err()
	silent := u.reply == nil && (u.cmd != all || c.p.Replies().Len() == 0)
	// A redirect says no more than that nothing has run.
	if u.open && u.err == nil && (silent || u.to != nil && ended != nil) {
		u.err = unavailable(cmp.Or(ended, context.DeadlineExceeded))
	}
	u.open = false
}

func (c *call) anyOpen() bool {
	return slices.ContainsFunc(c.units, func(u unit) bool { return u.open })
}

// limit gives the call's context the deadline of the call, before it waits or is
// sent again. In the first round the stores of the servers see to it: a timer
// for each call would cost more than a short call.
func (c *call) limit() {
	_, has := c.ctx.Deadline()
	// What blocks may be meant to wait for longer than a call takes.
	if c.cancel == nil && !(has && c.p.Mode()&driver.Own != 0) {
		c.ctx, c.cancel = context.WithDeadline(c.ctx, base.Add(c.begun+c.s.timeout))
	}
}

// seek sees to a unit that has no server, or whose server is not there: it waits
// for the servers to be asked, unless they have been since it was first not
// there. So the first call that fails waits, and the others fail at once for as
// long as the outage lasts. The unit stays open where there is another server.
func (c *call) seek(u *unit) {
	found := func() bool {
		n := c.pick(u).node
		return n != nil && n != u.tried
	}
	since := c.begun
	if u.tried != nil {
		since = u.tried.ill()
	}
	var err error
	if !found() && !c.s.refresher.since(since) {
		err = c.s.refresher.wait(c.ctx, since, found)
	}
	if found() {
		u.tried = nil
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

// rest waits where a server has said that it will take a while, or where they
// send the call to and fro: for up to 2 ms, then up to 4 ms, … up to 100 ms,
// evenly distributed, so that many callers do not come back together. It is
// false, at once, where the time is up.
func (c *call) rest() bool {
	waits := c.wait
	if c.wait = false; !waits {
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
