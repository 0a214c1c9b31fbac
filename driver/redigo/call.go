package redigo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gocaches/caches/driver"
)

const (
	maxRepeats = 4 // times that a call is sent again at once
	firstPause = 5 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// A call is one Do on its way, with all its attempts.
//
// It is a context too: redigo's Pool takes one and passes it on to dial, which
// gets the deadline of the call that way without a timer being set for every
// call, most of which dial nothing. Nothing may keep it longer than the call,
// for it is used again: dial gives what it starts the context inside.
type call struct {
	context.Context // the caller's
	s               *Store
	p               *driver.Pipeline
	deadline        time.Duration // after base: the context's or the timeout's, the nearer one

	// On a shared connection:
	ticket  ticket        // of the last exchange; without a slot where its reader may still write there
	begun   time.Duration // when the last exchange began, after base
	shared  shared
	lane    *lane // of the first attempt, once it is chosen
	counted bool  // it is in the statistics

	background chan error // the end of a call that a goroutine makes, else nil
	arg        [1]any     // the call itself: the argument of conn.Do
	out        []byte     // commands that are not those of p alone
	errs       bool       // the server answered a command with an error
	asking     bool       // ASKING goes in front of commands

	// Of the attempt under way:
	need   need
	wrote  bool // bytes may have reached the server
	reused bool // on a connection that other calls have used
}

// newCall returns a call of p's, which p keeps from one to the next: all that a
// call needs lies together, and comes out of one pool.
func (s *Store) newCall(ctx context.Context, p *driver.Pipeline) *call {
	kept := p.Kept()
	c, ok := (*kept).(*call)
	if ok {
		*kept = nil // until free: a call is never two
	} else {
		c = new(call)
		c.arg[0] = c
	}
	c.Context, c.s, c.p = ctx, s, p
	c.begun = time.Since(base)
	c.deadline = c.begun + s.timeout
	if end, ok := ctx.Deadline(); ok {
		// What blocks may be meant to wait for longer than a call takes.
		if end := end.Sub(base); end < c.deadline || p.Mode()&driver.Own != 0 {
			c.deadline = end
		}
	}
	return c
}

func (c *call) free() {
	p := c.p
	c.Context, c.s, c.p, c.lane, c.background, c.counted, c.asking = nil, nil, nil, nil, nil, false, false
	c.shared.m = nil // of a Start that was turned away
	if cap(c.out) > keepBuffer {
		c.out = nil
	}
	*p.Kept() = c
}

// left returns how much time the call has.
func (c *call) left() time.Duration { return c.deadline - time.Since(base) }

// Deadline is that of [context.Context], the timeout included.
func (c *call) Deadline() (time.Time, bool) { return base.Add(c.deadline), true }

// afterEnd arranges for f to be called once the context has ended. stop takes
// that back; it is false where f has been called or is about to be.
func (c *call) afterEnd(f func()) (stop func() bool) {
	if c.Done() == nil {
		return neverCalled
	}
	return context.AfterFunc(c.Context, f)
}

func neverCalled() bool { return true }

// Finish makes the call, or what start has left of it, and ends it.
func (c *call) Finish() error {
	c.count()
	err := c.finish()
	if err != nil {
		c.s.stats.errors.Add(1)
		c.p.ResetReplies()
	}
	c.free()
	return err
}

// count has the statistics count the call, unless a connection does.
func (c *call) count() {
	if !c.counted {
		c.counted = true
		c.s.stats.calls.Add(1)
	}
}

func (c *call) finish() error {
	if c.background != nil {
		return <-c.background
	}
	if !c.begunEarly() {
		if err := c.impossible(); err != nil {
			return err
		}
		if c.p.Len() == 0 {
			return nil
		}
	}
	return c.run()
}

// impossible returns why the call cannot even be begun with.
func (c *call) impossible() error {
	if err := c.Context.Err(); err != nil {
		return unavailable(err)
	}
	if c.s.closed() {
		return unavailable(errClosed)
	}
	return c.s.limits.checkArguments(c.p)
}

// quick is the way of nearly every call: one exchange on the shared connection
// that is there, and no error. It is true where that was all; the call is then
// at its end. Else Finish goes on from where quick has come.
func (c *call) quick() bool {
	const special = driver.Atomic | driver.Own
	p := c.p
	if c.s.fromPool || p.Mode()&special != 0 || p.HasScripts() || p.Len() == 0 || c.impossible() != nil || c.s.isStarved() {
		return false
	}
	c.lane = c.s.lane()
	m := c.lane.live()
	if m == nil || needOf(p) != shareable {
		return false
	}
	c.errs = false
	if c.ticket.slot == nil {
		c.ticket.slot = newSlot()
	}
	sl := c.ticket.slot
	if sl.buf == nil {
		sl.buf = p.Replies().Take() // one buffer goes to and fro
	}
	if err := m.submit(c, p.Frames(), p.Len()); err != nil || sl.errs {
		c.shared = shared{m: m, known: true, err: err}
		return false
	}
	p.Replies().Swap(sl.buf, p.Len())
	sl.buf = nil
	c.free()
	return true
}

func (c *call) begunEarly() bool { return c.shared.known || c.shared.early }

// start sends the call's commands, as the first half of its first attempt, or
// leaves all to Finish where there is nothing to wait for. Where the attempt
// needs more than a connection that is there, a goroutine makes the call.
func (c *call) start() {
	if c.impossible() != nil || c.p.Len() == 0 || c.s.fromPool {
		return
	}
	c.need = needOf(c.p)
	if c.need == shareable && !c.s.isStarved() {
		c.lane = c.s.lane()
		if m := c.lane.live(); m != nil {
			// If the connection turns the call away, so little has happened
			// that Finish can begin anew.
			c.errs = false
			frames, n := c.encode()
			c.shared.m = m
			c.shared.early = m.start(c, frames, n) == nil
			return
		}
	}
	c.count()
	c.background = make(chan error, 1)
	go func() { c.background <- c.run() }()
}

// run makes the call. Of a Pipeline that a former master has run in part, the
// rest goes to the new one.
func (c *call) run() error {
	err := c.try()
	if err == nil && c.demoted() && !c.refused(nil) && c.pause(0) {
		return c.rerun(c.unwritten())
	}
	return err
}

// try makes attempts until one has an outcome that stands.
func (c *call) try() error {
	var lost error // an attempt that may have run; what comes later cannot undo that
	var why error  // the server was there and would not serve us
	for again, pauses := 0, 0; ; {
		err := c.attempt()
		if errors.Is(err, driver.ErrUnknownOutcome) {
			lost = err
		}
		refused := c.refused(err)
		if refused && err != nil {
			why = err
		}
		switch {
		case refused && c.pause(pauses):
			pauses++
		case !refused && again < maxRepeats && c.mayRepeat(err) && c.pauseUnlessSent(again):
			again++
		case lost != nil && (refused || errors.Is(err, driver.ErrUnavailable)):
			return lost // of this attempt nothing has run, but of an earlier one
		case why != nil && !refused && errors.Is(err, driver.ErrUnavailable):
			return fmt.Errorf("%w; before that: %v", err, why)
		default:
			return err
		}
		c.s.stats.retries.Add(1)
		c.p.ResetReplies()
	}
}

// attempt takes a connection, sends the commands and reads the replies.
func (c *call) attempt() error {
	if c.begunEarly() {
		return c.serveShared(c.shared.m)
	}
	c.wrote, c.reused, c.errs = false, false, false
	c.need = needOf(c.p)
	switch {
	case c.s.fromPool:
		return c.classify(c.borrow())
	case c.need == shareable && !c.s.isStarved():
		return c.share(c.takeLane())
	}
	return c.usePool()
}

// takeLane returns the lane that was chosen for the first attempt, and another
// one for each later attempt.
func (c *call) takeLane() *lane {
	l := c.lane
	if c.lane = nil; l == nil {
		l = c.s.lane()
	}
	return l
}

// takeOut makes an attempt on a connection of the Pool.
func (c *call) usePool() error {
	if err := c.acquire(); err != nil {
		return unavailable(err)
	}
	defer c.release()
	pc, err := c.s.pool.GetContext(c)
	if err != nil {
		return unavailable(c.because(err))
	}
	// Do reaches conn.Do with this call as its argument; see there.
	_, err = pc.Do("", c.arg[:]...)
	_ = pc.Close() // gives it back; what an error would say, Do has said
	return c.classify(err)
}

var errBusy = errors.New("all connections are in use")

// acquire takes the right to one connection. The Pool's own way to wait needs
// a context that ends, which costs a timer for every call; this one only costs
// it those that wait.
func (c *call) acquire() error {
	select {
	case c.s.permits <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(c.left())
	defer timer.Stop()
	select {
	case c.s.permits <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: %w", errBusy, context.DeadlineExceeded)
	case <-c.Done():
		return fmt.Errorf("%w: %w", errBusy, c.Err())
	case <-c.s.done:
		return errClosed
	}
}

// release gives the right back, after the connection itself: so there are
// never more connections than rights.
func (c *call) release() { <-c.s.permits }

// dial makes a connection for the Pool.
func (s *Store) dial(ctx context.Context) (*conn, error) {
	c := ctx.(*call) // what attempt gives GetContext
	inner, cancel := context.WithDeadline(c.Context, base.Add(c.deadline))
	defer cancel()
	made, era, err := s.connect(inner)
	if err != nil {
		return nil, err
	}
	made.attach(era)
	s.stats.dials.Add(1)
	made.ready(s)
	return made, nil
}

// classify says of an attempt's error what it means for the commands.
func (c *call) classify(err error) error {
	switch {
	case err == nil, isFinal(err):
		return err
	case !c.wrote:
		return unavailable(c.because(err))
	}
	return fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, c.because(err))
}

// isFinal reports whether err already says it all.
func isFinal(err error) bool {
	for _, final := range []error{
		driver.ErrUnavailable, driver.ErrUnknownOutcome, driver.ErrTooLarge, driver.ErrProtocol, driver.ErrOldServer,
	} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// because returns err as the caller knows it: where the caller's context ended
// the wait, it is that context's error and not that of a socket.
func (c *call) because(err error) error {
	if ended := c.Context.Err(); ended != nil {
		return ended
	}
	var slow net.Error
	timedOut := errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
	if timedOut && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", err, context.DeadlineExceeded)
	}
	return err
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
}

// mayRepeat reports whether an attempt with this error may be made again at
// once: where nothing was written and another connection may do better, and
// where something was but doing it twice is harmless.
func (c *call) mayRepeat(err error) bool {
	switch {
	case err == nil || c.Context.Err() != nil || c.s.closed():
		return false
	case errors.Is(err, driver.ErrUnknownOutcome):
		return c.p.Mode()&(driver.ReadOnly|driver.Repeatable) != 0
	case errors.Is(err, driver.ErrUnavailable):
		return c.reused || isLoss(err)
	}
	return false
}

// isLoss reports whether a connection was refused or broken off, which another
// one need not be: a server that restarts is back within milliseconds.
func isLoss(err error) bool {
	for _, loss := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, errStale, errDropped} {
		if errors.Is(err, loss) {
			return true
		}
	}
	return false
}

// pauseUnlessSent pauses before the next dial of a server that was not there;
// an attempt that had a connection is followed by another one at once.
func (c *call) pauseUnlessSent(n int) bool {
	if c.wrote || c.reused {
		return c.left() > 0
	}
	return c.pause(n)
}

// pause waits before another attempt, after n pauses: up to 5 ms, then up to
// 10 ms, … up to 250 ms, evenly distributed, so that many callers that were
// refused together do not come back together ("full jitter", see
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
// It is false, at once, where the deadline would pass meanwhile.
func (c *call) pause(n int) bool {
	d := rand.N(min(firstPause<<min(n, 10), lastPause))
	if c.left() <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.Done():
		return false
	case <-c.s.done:
		return false
	}
}

// refused reports whether the server has said that it ran nothing, for now.
func (c *call) refused(err error) bool {
	if c.s.showRefusals {
		return false
	}
	if err != nil {
		return errors.Is(err, driver.ErrUnavailable) && isTemporary(err)
	}
	if c.demoted() {
		return c.atomic() || len(c.unwritten()) == c.p.Len()
	}
	raw := c.p.Replies().Raw()
	for reply := []byte(nil); len(raw) > 0; {
		if raw[0] != '-' { // before split: most calls end here
			return false
		}
		reply, raw = split(raw)
		if !isRefusal(errorOf(reply)) {
			return false
		}
	}
	return c.errs
}

// isForNow reports whether a dial ended because the server is there, but does
// not serve us at the moment.
func isTemporary(err error) bool {
	if errors.Is(err, errRole) {
		return true
	}
	refusal, ok := errors.AsType[*driver.ServerError](err)
	return ok && isRefusal(refusal)
}

func isRefusal(e *driver.ServerError) bool {
	switch e.Code {
	case "LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN":
		return true
	}
	return e.Code == "ERR" && strings.HasPrefix(e.Message(), "max number of clients reached")
}

// errorOf returns an error reply as it came from the wire.
func errorOf(reply []byte) *driver.ServerError {
	return driver.NewServerError(string(reply[len("-") : len(reply)-len("\r\n")]))
}

// isCode reports whether an error's text has that code.
func isCode(text, code string) bool {
	first, _, _ := strings.Cut(text, " ")
	return first == code
}

// starves reports whether this process has lately been short of processors. A
// shared connection needs goroutines to follow each other quickly; one that a
// caller has for itself needs nobody else.
//
// When the time is up, one caller looks whether that is over: all of them on
// the shared connection would pay for a look that says no.
func (s *Store) isStarved() bool {
	until := s.poolUntil.Load()
	if until == 0 {
		return false
	}
	now := time.Since(base)
	if int64(now) < until || !s.poolUntil.CompareAndSwap(until, int64(now+poolFor)) {
		return true
	}
	runtime.Gosched()
	if time.Since(base)-now > s.starvedYield {
		return true
	}
	s.poolUntil.Store(0)
	return false
}
