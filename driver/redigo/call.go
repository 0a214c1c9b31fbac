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
	maxRepeats = 4 // immediate repetitions of a call
	firstPause = 5 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// A call is one Do in progress, with all its attempts.
//
// It is also a context, which redigo's Pool passes on to dial: so dial gets the
// call's deadline without a timer for each call, most of which dial nothing. The
// Pipeline reuses its call, so nothing may hold one after its end: dial passes on
// only the caller's context.
type call struct {
	context.Context // the caller's
	s               *Store
	p               *driver.Pipeline
	deadline        time.Duration // after base: the context's or the timeout's, whichever is sooner

	// On a shared connection:
	ticket  ticket        // of the last exchange; no slot if a reader may still write to the old one
	begun   time.Duration // when the last exchange began, after base
	shared  shared
	lane    *lane // chosen for the first attempt, else nil
	counted bool  // it is in the statistics

	background chan error // result of a call that a goroutine makes, else nil
	arg        [1]any     // the call itself: the argument of conn.Do
	out        []byte     // the encoded commands, if they differ from p's frames
	errs       bool       // the server answered a command with an error
	asking     bool       // ASKING precedes the commands

	// Of the current attempt:
	need   need
	wrote  bool // bytes may have reached the server
	reused bool // on a connection that has served other calls
}

// newCall returns a call for p, which keeps it from one Do to the next: all parts
// of a call then come out of one pool and lie close together in memory.
func (s *Store) newCall(ctx context.Context, p *driver.Pipeline) *call {
	kept := repliesOf(p).Kept()
	c, ok := (*kept).(*call)
	if ok {
		*kept = nil // until free: no two calls share it
	} else {
		c = new(call)
		c.arg[0] = c
	}
	c.Context, c.s, c.p = ctx, s, p
	c.begun = time.Since(base)
	c.deadline = c.begun + s.timeout
	if end, ok := ctx.Deadline(); ok {
		// A blocking command may wait for longer than the timeout.
		if end := end.Sub(base); end < c.deadline || p.Mode()&driver.Own != 0 {
			c.deadline = end
		}
	}
	return c
}

func (c *call) free() {
	p := c.p
	c.Context, c.s, c.p, c.lane, c.background, c.counted, c.asking = nil, nil, nil, nil, nil, false, false
	c.shared.m = nil // set by a Start that was refused
	if cap(c.out) > keepBuffer {
		c.out = nil
	}
	*repliesOf(p).Kept() = c
}

func (c *call) left() time.Duration { return c.deadline - time.Since(base) }

// Deadline implements [context.Context]; it includes the timeout.
func (c *call) Deadline() (time.Time, bool) { return base.Add(c.deadline), true }

// afterEnd arranges for f to be called once the context is done. stop undoes that.
// It returns false if f has been called or is about to be.
func (c *call) afterEnd(f func()) (stop func() bool) {
	if c.Done() == nil {
		return neverCalled
	}
	return context.AfterFunc(c.Context, f)
}

func neverCalled() bool { return true }

// Finish makes the call, or the rest of it after start, and ends it.
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

// count adds the call to the statistics, unless a connection has.
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

// impossible returns why the call cannot begin, or nil.
func (c *call) impossible() error {
	if err := c.Context.Err(); err != nil {
		return unavailable(err)
	}
	if c.s.closed() {
		return unavailable(errClosed)
	}
	return c.s.limits.checkArguments(c.p)
}

// quick makes nearly every call: one exchange on an open shared connection, without
// an error. It reports whether the call is over. If not, Finish continues from the
// state that quick has left.
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
		sl.buf = repliesOf(p).Take() // one buffer moves back and forth
	}
	if err := m.submit(c, p.Frames(), p.Len()); err != nil || sl.errs {
		c.shared = shared{m: m, known: true, err: err}
		return false
	}
	repliesOf(p).Swap(sl.buf, p.Len())
	sl.buf = nil
	c.free()
	return true
}

func (c *call) begunEarly() bool { return c.shared.known || c.shared.early }

// start sends the call's commands, as the first half of its first attempt. If that
// takes more than an open shared connection, a goroutine makes the whole call. If
// there is nothing to send, or the pool is the caller's, Finish does it all.
func (c *call) start() {
	if c.impossible() != nil || c.p.Len() == 0 || c.s.fromPool {
		return
	}
	c.need = needOf(c.p)
	if c.need == shareable && !c.s.isStarved() {
		c.lane = c.s.lane()
		if m := c.lane.live(); m != nil {
			// If the connection refuses the call, Finish can still begin from the start.
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

// run makes the call. If a demoted master has refused part of the Pipeline, run
// sends that part to the new one.
func (c *call) run() error {
	err := c.try()
	if err == nil && c.demoted() && !c.refused(nil) && c.pause(0) {
		return c.rerun(c.unwritten())
	}
	return err
}

// try makes attempts until the outcome is final.
func (c *call) try() error {
	var lost error // the error of an attempt that may have run; a later one cannot undo that
	var why error  // the error of a server that was reachable and refused to serve
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
		case refused || errors.Is(err, driver.ErrUnavailable):
			return withEarlier(err, lost, why, refused)
		default:
			return err
		}
		c.s.stats.retries.Add(1)
		c.p.ResetReplies()
	}
}

// withEarlier returns the outcome of a call whose last attempt ran nothing and failed
// with err. lost, why and refused are those of try.
func withEarlier(err, lost, why error, refused bool) error {
	switch {
	case lost != nil:
		return lost // this attempt ran nothing, but an earlier one may have
	case why != nil && !refused:
		return fmt.Errorf("%w; earlier: %v", err, why)
	}
	return err
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

// takeLane returns the lane of the first attempt, and the next in turn for later
// ones.
func (c *call) takeLane() *lane {
	l := c.lane
	if c.lane = nil; l == nil {
		l = c.s.lane()
	}
	return l
}

// usePool makes an attempt on a dedicated connection.
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
	_ = pc.Close() // returns it to the pool; Do has returned any error
	return c.classify(err)
}

var errBusy = errors.New("all connections are in use")

// acquire takes a permit for one dedicated connection. The Pool could wait instead,
// but only with a context that ends, which costs each call a timer; here only
// waiting calls pay for one.
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

// release returns the permit, after the connection was returned: so there are never
// more connections than permits.
func (c *call) release() { <-c.s.permits }

// dial makes a connection for the Pool.
func (s *Store) dial(ctx context.Context) (*conn, error) {
	c := ctx.(*call) // as usePool passes it
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

// classify adds the outcome, [driver.ErrUnavailable] or [driver.ErrUnknownOutcome],
// to an attempt's error.
func (c *call) classify(err error) error {
	switch {
	case err == nil, isFinal(err):
		return err
	case !c.wrote:
		return unavailable(c.because(err))
	}
	return fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, c.because(err))
}

// isFinal reports whether err already states the outcome.
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

// because returns the cause of err as the caller sees it: the error of the caller's
// context once that is done, and [context.DeadlineExceeded] for a socket's timeout.
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

// mayRepeat reports whether an attempt that failed with err may be made again at
// once: nothing was written and another connection may work, or something was but a
// second run does no harm.
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

// isLoss reports whether a connection was refused or lost. A new one may work: a
// server that restarts is back within milliseconds.
func isLoss(err error) bool {
	for _, loss := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, errStale, errDropped} {
		if errors.Is(err, loss) {
			return true
		}
	}
	return false
}

// pauseUnlessSent pauses before the next dial of an unreachable server. An attempt
// that had a connection is repeated at once.
func (c *call) pauseUnlessSent(n int) bool {
	if c.wrote || c.reused {
		return c.left() > 0
	}
	return c.pause(n)
}

// pause waits before another attempt, after n earlier pauses: for a random time up
// to 5 ms, then up to 10 ms, … up to 250 ms, so that calls that failed together do
// not come back together ("full jitter", see
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). It
// returns false at once if the deadline would pass meanwhile, and early if the
// context or the Store ends.
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

// refused reports whether the server said that it ran nothing but may do so later.
// It is always false if Config.Refusals is set.
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

// isTemporary reports whether a dial failed although the server is reachable: it
// refuses to serve for now, or has another role.
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

// errorOf decodes an error reply.
func errorOf(reply []byte) *driver.ServerError {
	return driver.NewServerError(string(reply[len("-") : len(reply)-len("\r\n")]))
}

// isCode reports whether code is the first word of an error's text.
func isCode(text, code string) bool {
	first, _, _ := strings.Cut(text, " ")
	return first == code
}

// isStarved reports whether this process has recently been short of processors. A
// shared connection needs several goroutines to run in turn, a dedicated one does
// not.
//
// After poolFor one caller yields to check again: if all calls checked on a shared
// connection, all would pay for a shortage that persists.
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
