package flight

import (
	"context"
	"sync/atomic"
	"time"
)

// A Run is one call of a function, for which any number of callers wait. Its
// methods are for that function.
type Run[T, B any] struct {
	group   *Group[T, B]
	link    link // its place in the chain of its context
	cancel  context.CancelCauseFunc
	looks   atomic.Int64
	hurried chan struct{}

	// Guarded by the mu of group.
	callers int
	grace   time.Duration
	timer   *time.Timer // cancels an abandoned run after its grace; nil while a caller waits
	begun   bool
	basis   B // if begun

	// Set before link.done is closed, read after it only.
	found int64 // the look whose result it is; 0 if it was computed
	val   T
	err   error
	panic *Panic
}

// Look counts a look for a result that is there already, such as another process
// has stored, and returns its number. It is called before the look begins: a
// caller that joins later may know of a change that the look does not see.
func (r *Run[T, B]) Look() int64 { return r.looks.Add(1) }

// Found says that the function returns the result of a look. Callers that joined
// after that look began do not get it, but start over.
func (r *Run[T, B]) Found(look int64) { r.found = look }

// Begin says that the computation begins now, on the given basis, and for how long
// the run goes on once no caller waits for it. It returns [ErrAbandoned] if the
// run has been canceled already: then nothing need begin.
func (r *Run[T, B]) Begin(basis B, grace time.Duration) error {
	r.group.mu.Lock()
	defer r.group.mu.Unlock()
	if r.timer != nil {
		if !r.timer.Stop() {
			return ErrAbandoned
		}
		defer r.abandon()
	}
	r.begun, r.basis, r.grace = true, basis, grace
	return nil
}

// Nested reports whether r is within another run of its group: that one may hold
// a slot, and wait for r while r waits for a slot.
func (r *Run[T, B]) Nested() bool { return r.link.outer.within(r.group) }

// Hurried returns a channel that is closed once another run of the group waits for
// r: that one may hold the slot that r waits for.
func (r *Run[T, B]) Hurried() <-chan struct{} { return r.hurried }

// hurry closes the channel of Hurried. The caller holds the group's mu.
func (r *Run[T, B]) hurry() {
	select {
	case <-r.hurried:
	default:
		close(r.hurried)
	}
}

// abandon starts the grace of a run that no caller waits for, unless it is done.
// The caller holds the group's mu.
func (r *Run[T, B]) abandon() {
	if !r.link.over() {
		r.timer = time.AfterFunc(r.grace, func() { r.cancel(ErrAbandoned) })
	}
}

// resume ends the grace of an abandoned run. It reports false if the run has been
// canceled. The caller holds the group's mu.
func (r *Run[T, B]) resume() bool {
	if r.timer == nil {
		return true
	}
	stopped := r.timer.Stop()
	if stopped {
		r.timer = nil
	}
	return stopped
}

// call calls f and ends the run.
func (r *Run[T, B]) call(ctx context.Context, f Func[T, B]) {
	returned := false
	defer func() {
		if !returned { // by a panic, or by runtime.Goexit, for which recover returns nil
			r.panic = Caught(recover())
		}
		r.group.unlist(r) // before done is closed: invariant 6
		close(r.link.done)
		r.group.mu.Lock()
		defer r.group.mu.Unlock()
		if r.timer != nil {
			r.timer.Stop()
		}
		r.cancel(nil)
	}()
	r.val, r.err = f(ctx, r)
	returned = true
}
