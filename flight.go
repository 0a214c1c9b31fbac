package caches

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocaches/caches/driver"
)

// A flight joins calls of one key in this process: the first runs, the others
// wait for it. The zero value is ready.
type flight[T any] struct {
	mu    sync.Mutex
	calls map[flightKey]*joined[T] // guarded by mu; an entry stands from the start to the end of its run, unless it is dropped
}

// A flightKey says what is being computed. The connection is part of it: in a
// context's connection, one tenant's key may be the same as another's.
type flightKey struct {
	conn  *Conn
	key   string
	ahead bool // before anybody misses it: nobody waits for that
}

// joined is a run that any number of callers wait for.
type joined[T any] struct {
	cancel  context.CancelCauseFunc
	callers int           // guarded by the flight's mu, as are
	grace   time.Duration // for how long it goes on when nobody waits, and
	timer   *time.Timer   // which ends it then; nil while somebody waits

	waits waits                 // for other runs
	hurry chan struct{}         // closed once a run of the same flight waits for it, which may have the slot that it wants
	fence atomic.Pointer[fence] // what its result will stand on, once its function runs
	looks atomic.Int64          // how often it has looked at the entry

	done  chan struct{} // closed once what follows is set, which is read after it only
	from  int64         // the look whose entry is the result, 0 for one that was computed
	val   T
	err   error
	panic *loadPanic
}

// A fence is what a result stands on: it answers those only for whom all of it
// still stands.
type fence struct {
	token  string
	stamps []stamp
}

// A loadPanic carries a panic of the run to those who wait for it.
type loadPanic struct {
	value any
	stack []byte
}

func (p *loadPanic) Error() string {
	if p.value == nil { // panic(nil) panics with a *runtime.PanicNilError
		return "caches: the function ended its goroutine (runtime.Goexit)"
	}
	return fmt.Sprintf("caches: the function panicked: %v\n\n%s", p.value, p.stack)
}

// Unwrap returns what the function panicked with, where that is an error.
func (p *loadPanic) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// do returns what run returns for key, and joins a run that is under way, if that
// stands: one whose result will be of a time before the caller's call is left to
// those who wait for it. The run's context carries ctx's values but not its end:
// the caller who came first may go away, and the others must not fail for it.
// Each caller still leaves when its own context ends, and one whose context has
// ended starts nothing. A panic of run is raised in every caller. A run that asks
// for its own key, by itself or over others, gets errRecursive: it would wait
// for itself for ever.
func (f *flight[T]) do(ctx context.Context, key flightKey, stands func(*joined[T]) bool, run func(context.Context, *joined[T]) (T, error)) (T, error) {
	within := aboard{flight: f, key: key, outer: ctx.Value(aboardKey{})}
	for {
		var zero T
		switch {
		case ended(ctx):
			return zero, reasonOf(ctx)
		case within.again():
			return zero, fmt.Errorf("%w: %s", errRecursive, key.key)
		}
		call, first := f.join(ctx, within, run)
		looked := int64(0)
		if !first {
			looked = call.looks.Load()
		}
		if !first && !f.counts(call, stands) {
			f.drop(key, call)
			continue
		}
		// What the run had asked the server for before this caller came may be
		// of before an invalidation that the caller knows of.
		v, err, known := f.wait(ctx, within, call)
		if !known || call.from == 0 || call.from > looked {
			return v, err
		}
	}
}

// counts is stands for a caller who then waits, and leaves where it is false or
// panics.
func (f *flight[T]) counts(call *joined[T], stands func(*joined[T]) bool) (counts bool) {
	defer func() {
		if !counts {
			f.leave(call)
		}
	}()
	return stands(call)
}

// join makes the caller one of those who wait for a run, which it starts if none
// is under way.
func (f *flight[T]) join(ctx context.Context, within aboard, run func(context.Context, *joined[T]) (T, error)) (call *joined[T], first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call = f.calls[within.key]; call == nil || !call.board() {
		call, first = f.start(ctx, within, run), true
	}
	call.callers++
	if !first && within.nested() {
		select {
		case <-call.hurry:
		default:
			close(call.hurry)
		}
	}
	return call, first
}

// board keeps a run that nobody waited for from ending. It is false where that
// comes too late. The caller holds the flight's mu.
func (c *joined[T]) board() bool {
	if c.timer == nil {
		return true
	}
	stopped := c.timer.Stop()
	if stopped {
		c.timer = nil
	}
	return stopped
}

// start starts a run. The caller holds mu.
func (f *flight[T]) start(ctx context.Context, within aboard, run func(context.Context, *joined[T]) (T, error)) *joined[T] {
	call := &joined[T]{done: make(chan struct{}), hurry: make(chan struct{})}
	if f.calls == nil {
		f.calls = make(map[flightKey]*joined[T])
	}
	f.calls[within.key], within.done, within.waits = call, call.done, &call.waits
	ctx, call.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), aboardKey{}, within))
	go f.run(ctx, within.key, call, run)
	return call
}

// ahead starts a run that nobody waits for, unless one is under way. It ends
// after grace.
func (f *flight[T]) ahead(ctx context.Context, key flightKey, grace time.Duration, run func(context.Context, *joined[T]) (T, error)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[key] != nil {
		return false
	}
	call := f.start(ctx, aboard{flight: f, key: key, outer: ctx.Value(aboardKey{})}, run)
	call.grace = grace
	call.abandon()
	return true
}

// wait waits for the end of a run, or of ctx: then the run's end is not known. A
// run that would wait for itself that way does not.
func (f *flight[T]) wait(ctx context.Context, within aboard, call *joined[T]) (v T, err error, known bool) {
	defer f.leave(call)
	if asks, ok := within.outer.(aboard); ok && !asks.over() {
		if !asks.waits.begin(&call.waits) {
			return v, fmt.Errorf("%w: %s", errRecursive, within.key.key), false
		}
		defer asks.waits.end(&call.waits)
	}
	select {
	case <-call.done:
	case <-ctx.Done():
		return v, reasonOf(ctx), false
	}
	if call.panic != nil {
		panic(call.panic)
	}
	return call.val, call.err, true
}

// leave takes a caller away from a run. The last one leaves it to its grace.
func (f *flight[T]) leave(call *joined[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if call.callers--; call.callers == 0 {
		call.abandon()
	}
}

// abandon ends a run that nobody waits for, after its grace. The caller holds the
// flight's mu.
func (c *joined[T]) abandon() {
	select {
	case <-c.done:
	default:
		c.timer = time.AfterFunc(c.grace, func() { c.cancel(errAbandoned) })
	}
}

// linger says for how long a run goes on when nobody waits for it any more. It is
// false where the run is to end already.
func (f *flight[T]) linger(call *joined[T], grace time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	call.grace = grace
	if call.timer == nil {
		return true
	}
	if !call.timer.Stop() {
		return false
	}
	call.abandon()
	return true
}

// errAbandoned is why the context of a function ends that nobody waits for.
var errAbandoned = errors.New("caches: nobody waits for the result")

// errRecursive is what a function gets that calls itself with its own argument.
var errRecursive = errors.New("caches: the function waits for its own result")

// aboard says within which run a context is, and within which ones that run is.
type aboard struct {
	flight any
	key    flightKey
	outer  any             // an aboard, nil at the end
	done   <-chan struct{} // closed when the run has ended: its context may be kept for longer
	waits  *waits          // the run's
}

func (a aboard) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

type aboardKey struct{}

// again reports whether a is among those that it is within.
func (a aboard) again() bool {
	for outer, ok := a.outer.(aboard); ok; outer, ok = outer.outer.(aboard) {
		if outer.key == a.key && !outer.over() { // of whichever function: they share the lease
			return true
		}
	}
	return false
}

// nested reports whether the run of ctx is within another one of f: that one has
// a slot, and would wait for this one to get one.
func nested(ctx context.Context) bool {
	within, _ := ctx.Value(aboardKey{}).(aboard)
	return within.nested()
}

// nested reports whether a is within another run of its flight.
func (a aboard) nested() bool {
	for outer, ok := a.outer.(aboard); ok; outer, ok = outer.outer.(aboard) {
		if outer.flight == a.flight {
			return true
		}
	}
	return false
}

// waits are the runs that a run waits for, because its function called them. A
// function may call several at once.
type waits struct{ runs []*waits }

// waiting guards the waits of all runs. Only calls from within a run take it.
var waiting sync.Mutex

// begin notes that w's run waits for another one, unless that one waits for w's
// already, by itself or over others: they would wait for each other for ever.
func (w *waits) begin(other *waits) bool {
	waiting.Lock()
	defer waiting.Unlock()
	if other.reaches(w, make(map[*waits]bool)) {
		return false
	}
	w.runs = append(w.runs, other)
	return true
}

func (w *waits) end(other *waits) {
	waiting.Lock()
	defer waiting.Unlock()
	at := slices.Index(w.runs, other)
	w.runs = slices.Delete(w.runs, at, at+1)
}

// reaches reports whether w's run waits for another one. The caller holds
// waiting.
func (w *waits) reaches(other *waits, seen map[*waits]bool) bool {
	if w == other {
		return true
	}
	seen[w] = true
	return slices.ContainsFunc(w.runs, func(next *waits) bool { return !seen[next] && next.reaches(other, seen) })
}

// drop lets no later caller join a run.
func (f *flight[T]) drop(key flightKey, call *joined[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[key] == call {
		delete(f.calls, key)
	}
}

// forget lets no later caller join the run under way for key.
func (f *flight[T]) forget(key flightKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.calls, key)
}

func (f *flight[T]) run(ctx context.Context, key flightKey, call *joined[T], run func(context.Context, *joined[T]) (T, error)) {
	returned := false
	defer func() {
		if !returned { // by a panic, or by runtime.Goexit, for which recover gives nil
			call.panic = &loadPanic{recover(), debug.Stack()}
		}
		f.drop(key, call) // before done closes: whom done wakes never joins this call again
		close(call.done)
		f.mu.Lock()
		defer f.mu.Unlock()
		if call.timer != nil {
			call.timer.Stop()
		}
		call.cancel(nil)
	}()
	call.val, call.err = run(ctx, call)
	returned = true
}

// reasonOf returns why ctx has ended: its error, and its cause where that is
// another.
func reasonOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil { // its deadline is past, and its timer late
		return context.DeadlineExceeded
	}
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// A load is one computation of a cached function's result: from the miss to the
// entry that is stored, or not.
type load[A comparable, T any] struct {
	f     *CachedFunc[A, T]
	s     *subject
	arg   A
	seen  finding // of the entry, at the miss
	fault error   // in whose place it is, where the entry could not be read

	refresh bool          // by Refresh
	ahead   bool          // before anybody misses it …
	gap     time.Duration // … by so much

	waited atomic.Int64 // nanoseconds, for other processes
}

// stands reports whether the result of a run under way will count for a caller
// who comes now: the lease under which it is computed and its stamps are those
// of this moment. One whose function has not begun will.
func (l *load[A, T]) stands(ctx context.Context) func(*joined[T]) bool {
	return func(call *joined[T]) bool {
		fence := call.fence.Load()
		switch {
		case fence == nil:
			return true
		case l.fault != nil || fence.token == "": // a run without the server is for those who cannot ask it
			return l.fault != nil && fence.token == ""
		}
		t := newTrip(l.s.conn, driver.ReadOnly|driver.Master)
		defer t.free()
		l.s.ask(t, "", sideKey(l.s.front, l.s.key, leaseEnd), false)
		if err := t.run(ctx); err != nil {
			if ended(ctx) { // it was the caller's time that was up: do sees it
				return true
			}
			l.fault = l.s.fail(err)
			return false
		}
		lease, _, stamps, err := l.s.answer(t, false)
		return err != nil || tokenOf(lease) == fence.token && slices.Equal(stamps, fence.stamps)
	}
}

// run computes the result, or waits for the process that does.
func (l *load[A, T]) run(ctx context.Context, call *joined[T]) (v T, err error) {
	if l.fault != nil {
		return l.unfenced(ctx, call)
	}
	way, seen := claimOrWait, l.seen.id
	if l.f.opts.Lock < 0 {
		way = claimOrShare
	}
	for first := true; ; first = false {
		look := call.looks.Add(1)
		c, err := l.claim(ctx, way, seen, first)
		if err != nil {
			return l.refused(ctx, call, err)
		}
		if c.token == "" || c.own && c.id != seen { // another entry than was seen
			if v, err, ok := l.f.recall(c.found); ok {
				if c.own {
					_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
					l.swallow(ctx, fault)
				}
				call.from = look
				return v, err
			}
		}
		switch {
		case c.token == "":
			seen = c.id
		case c.own || way == claimOrShare:
			return l.compute(ctx, call, &c.lease, c.finding.stamps)
		case !l.wait(ctx, &c.lease):
			way = claimOrShare
		}
		if ctx.Err() != nil {
			return v, reasonOf(ctx)
		}
	}
}

// claim claims the entry. Only the first claim of a run is tried by plain
// commands: who has waited expects an entry to be there, and to claim it would
// only keep others from it.
func (l *load[A, T]) claim(ctx context.Context, way, seen string, first bool) (claimed[T], error) {
	ctx = context.WithoutCancel(ctx) // a claim that was broken off might leave a lease behind
	token, lost, life := newToken(tokenRunning), "", l.f.opts.lease()
	if first && way == claimOrWait {
		c, free, err := claimFree[T](ctx, l.s, token, life)
		switch {
		case free, err != nil && !unanswered(ctx, err):
			return c, err
		case err != nil:
			lost, token = token, newToken(tokenRunning)
		}
	}
	return claimEntry[T](ctx, l.s, token, lost, way, seen, life)
}

// refused is the way of a computation whose claim failed.
func (l *load[A, T]) refused(ctx context.Context, call *joined[T], err error) (v T, _ error) {
	if err = l.s.fail(err); !isFault(err) {
		return v, err
	}
	l.swallow(ctx, err)
	return l.unfenced(ctx, call)
}

// wait waits for the process that computes. It is false where that is of no use:
// there will be no result, or nobody to say that there is.
func (l *load[A, T]) wait(ctx context.Context, c *lease) bool {
	begun := time.Now()
	word, err := c.wait(ctx)
	l.waited.Add(int64(time.Since(begun)))
	if err != nil && ctx.Err() == nil {
		if server, ok := errors.AsType[*ServerError](err); !ok || server.Code != "ERR" {
			l.swallow(ctx, l.s.fail(err))
		} // else it is a store of this process, where nobody can wait
	}
	return err == nil && word != wordFailed
}

// unfenced computes without the server: as many at a time as Fallback allows, and
// nothing is kept.
func (l *load[A, T]) unfenced(ctx context.Context, call *joined[T]) (v T, err error) {
	if slots := l.f.fallback; slots != nil && !nested(ctx) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-call.hurry:
		case <-ctx.Done():
			return v, reasonOf(ctx)
		}
	}
	if !l.f.flight.linger(call, l.f.opts.lease()) {
		return v, errAbandoned
	}
	call.fence.Store(&fence{})
	begun := time.Now()
	v, err = l.f.fn(ctx, l.arg)
	l.report(ctx, time.Since(begun), err, false)
	return v, err
}

// compute runs the function under a lease, and concludes it.
func (l *load[A, T]) compute(ctx context.Context, call *joined[T], c *lease, stamps []stamp) (v T, err error) {
	life := l.f.opts.lease()
	if call != nil {
		if !l.f.flight.linger(call, life) {
			_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
			l.swallow(ctx, fault)
			return v, errAbandoned
		}
		call.fence.Store(&fence{c.token, stamps})
	}
	stop := c.renewing(ctx, life)
	returned, begun := false, time.Now()
	defer func() {
		stop()
		if !returned { // by a panic: the next caller must not wait for the lease's end
			_, fault := c.end(ctx, leaveEntry, 0, nil, 0)
			l.swallow(ctx, fault)
		}
	}()
	v, err = l.f.fn(ctx, l.arg)
	took := time.Since(begun)
	if l.f.unguarded {
		if late, err := claimEntry[T](ctx, l.s, c.token, "", claimAlone, "", life); err == nil {
			c, stamps = &late.lease, late.finding.stamps
		}
	}
	v, err = l.conclude(ctx, c, stamps, v, err, took)
	returned = true
	return v, err
}

// conclude keeps a result, or lets go of the lease. That a server could not take
// it is the next caller's loss, not this one's; that it can never be stored is an
// error of the program.
func (l *load[A, T]) conclude(ctx context.Context, c *lease, stamps []stamp, v T, err error, took time.Duration) (T, error) {
	what, data, ms, wrong := l.verdict(ctx, stamps, v, err, took)
	var pause time.Duration
	if l.ahead && what == leaveEntry {
		pause = min(retryPause, l.f.opts.lease())
	}
	held, fault := c.end(ctx, what, pause, data, ms)
	l.report(ctx, took, err, what == keepEntry && fault == nil && !held)
	switch {
	case wrong != nil:
		return v, l.s.fail(wrong)
	case fault == nil:
	case l.refresh && err == nil, !isFault(fault):
		return v, l.s.fail(fault)
	default:
		l.swallow(ctx, l.s.fail(fault))
	}
	return v, err
}

// verdict says what is to become of a result, and as what it is kept.
func (l *load[A, T]) verdict(ctx context.Context, stamps []stamp, v T, err error, took time.Duration) (what string, data []byte, ms int64, wrong error) {
	e := envelope{created: time.Now(), cost: took, stamps: stamps}
	switch {
	case err != nil && l.f.known(err) != nil:
		e.negative = true
		data = []byte(l.f.known(err).Error())
	case err != nil && ctx.Err() != nil:
		return cedeEntry, nil, 0, nil
	case err != nil:
		return leaveEntry, nil, 0, nil
	case l.f.bypasses(l.arg, v) && l.refresh:
		return removeEntry, nil, 0, nil
	case l.f.bypasses(l.arg, v):
		return leaveEntry, nil, 0, nil
	default:
		if data, wrong = l.s.opts.serializer().Marshal(v); wrong != nil {
			return leaveEntry, nil, 0, wrong
		}
	}
	ms = l.f.life(&e, l.s)
	return keepEntry, e.append(nil, l.s.front, l.s.key, data), ms, nil
}

// life says for how long an entry is fresh, and returns for how long it is kept,
// in milliseconds, 0 without end.
func (f *CachedFunc[A, T]) life(e *envelope, s *subject) int64 {
	ms := s.ms
	if e.negative {
		if negative := max(f.opts.Negative.TTL.Milliseconds(), 1); ms == 0 || negative < ms {
			ms = negative
		}
	}
	if s.slide && !e.negative || ms == 0 {
		return ms
	}
	ms = max(ms-int64(f.opts.Jitter*rand.Float64()*float64(ms)), 1)
	e.ttl = time.Duration(ms) * time.Millisecond
	if s.extra > 0 && !e.negative {
		e.kept = true
		ms += s.extra.Milliseconds()
	}
	return ms
}

// known returns which of the errors to remember err is, nil for none.
func (f *CachedFunc[A, T]) known(err error) error {
	for _, known := range f.opts.Negative.Errors {
		if errors.Is(err, known) {
			return known
		}
	}
	return nil
}

// anew is the computation of Refresh: whoever computes loses the lease to it.
func (l *load[A, T]) anew(ctx context.Context) (T, error) {
	c, fault := l.takeOver(ctx)
	l.f.flight.forget(flightKey{conn: l.s.conn, key: l.s.front + l.s.key})
	if fault == nil {
		done := make(chan struct{})
		defer close(done)
		within := aboard{l.f.flight, flightKey{conn: l.s.conn, key: l.s.front + l.s.key}, ctx.Value(aboardKey{}), done, new(waits)}
		return l.compute(context.WithValue(ctx, aboardKey{}, within), nil, &c.lease, c.finding.stamps)
	}
	begun := time.Now()
	v, err := l.f.fn(ctx, l.arg)
	l.report(ctx, time.Since(begun), err, false)
	if err == nil {
		err = l.s.fail(fault)
	}
	return v, err
}

// takeOver takes the lease from whoever has it. A caller who goes away meanwhile
// leaves it to nobody, once it is there.
func (l *load[A, T]) takeOver(ctx context.Context) (claimed[T], error) {
	var c claimed[T]
	var fault error
	var fell any // what a user's Store panicked with, for the caller
	done, inner := make(chan struct{}), context.WithoutCancel(ctx)
	go func() {
		defer func() {
			fell = recover()
			close(done)
		}()
		c, fault = claimEntry[T](inner, l.s, newToken(tokenRunning), "", claimAlone, "", l.f.opts.lease())
	}()
	select {
	case <-done:
		if fell != nil {
			panic(fell)
		}
		return c, fault
	case <-ctx.Done():
	}
	go func() {
		if <-done; fell == nil && fault == nil {
			l.s.release(inner, c.token)
		}
	}()
	return claimed[T]{}, fmt.Errorf("%w: %w", ErrUnavailable, reasonOf(ctx))
}

// lookAhead has a result computed in the background that is about to expire, or
// has, and says what the caller is served.
func (f *CachedFunc[A, T]) lookAhead(ctx context.Context, s *subject, arg A, seen found[T]) Result {
	result := seen.hit()
	var gap time.Duration
	reason := seen.reason
	switch {
	case seen.reason == MissExpired:
		result = StaleHit
	case seen.negative || seen.ttl == 0 || f.opts.Early <= 0:
		return result
	default:
		gap, reason = early(seen.cost, f.opts.Early, rand.Float64()), MissEarly
		if gap < seen.ttl-time.Since(seen.created) {
			return result
		}
	}
	l := &load[A, T]{f: f, s: s, arg: arg, seen: seen.finding, ahead: true, gap: gap}
	l.seen.reason = reason
	select {
	case f.early <- struct{}{}:
		key := flightKey{conn: s.conn, key: s.front + s.key, ahead: true}
		if !f.flight.ahead(ctx, key, f.opts.lease(), l.runAhead) {
			<-f.early
		}
	default: // as many run already; a later caller will come
	}
	return result
}

// early draws by how much before the end a result is computed anew: cost·β·-ln(u),
// u even between 0 and 1. See [CachedOptions.Early].
func early(cost time.Duration, beta, u float64) time.Duration {
	return time.Duration(min(float64(cost)*beta*-math.Log(1-u), math.MaxInt64/2))
}

// clockSlack is by how much the server's count of what is left may differ from
// ours, for the time that commands travel.
const clockSlack = 20 * time.Millisecond

// runAhead computes a result before anybody misses it, unless another process is
// at it. Our clock may differ from that of whoever stored the entry: what is left
// by the server's own is what counts.
func (l *load[A, T]) runAhead(ctx context.Context, call *joined[T]) (v T, err error) {
	defer func() {
		if r := recover(); r != nil { // nobody waits whom it could reach
			l.swallow(ctx, &loadPanic{r, debug.Stack()})
		}
		<-l.f.early
	}()
	c, err := claimEntry[T](ctx, l.s, newToken(tokenRunning), "", claimOrShare, l.seen.id, l.f.opts.lease())
	switch {
	case err != nil:
		l.swallow(ctx, l.s.fail(err))
		return v, err
	case !c.own:
		return v, nil
	case c.left-l.s.extra > l.gap+clockSlack:
		_, fault := c.end(ctx, cedeEntry, 0, nil, 0)
		l.swallow(ctx, fault)
		return v, nil
	}
	return l.compute(ctx, call, &c.lease, c.finding.stamps)
}

// swallow counts a fault, in spite of which callers are served, and tells of it.
func (l *load[A, T]) swallow(ctx context.Context, fault error) {
	if fault == nil {
		return
	}
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.add(countSwallowed, 1)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Swallowed = l.f.label(), fault
		w.failed(ctx, c)
	}
}

// report counts a run of the function, and tells of it.
func (l *load[A, T]) report(ctx context.Context, took time.Duration, err error, dropped bool) {
	w := l.s.conn.witness(l.s.opts, l.f.observer)
	w.load(took, err, dropped)
	if w.heard() {
		c := l.s.info()
		c.Function, c.Result, c.Reason, c.Tag = l.f.label(), Miss, l.seen.reason, l.seen.tag
		c.Ran, c.Waited, c.Dropped, c.Err = took, time.Duration(l.waited.Load()), dropped, err
		w.loaded(ctx, c)
	}
}
