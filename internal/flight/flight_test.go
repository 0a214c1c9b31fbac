package flight_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gocaches/caches/internal/flight"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Results are text, and the basis of one is a version of the data.
type (
	group = flight.Group[string, int]
	run   = flight.Run[string, int]
)

var a, b = flight.Key{Scope: "s", Name: "a"}, flight.Key{Scope: "s", Name: "b"}

func always(int) bool { return true }
func never(int) bool  { return false }

// An outcome is the end of one call of Do.
type outcome struct {
	v     string
	err   error
	panic any
}

// call calls Do on a goroutine of its own.
func call(ctx context.Context, g *group, key flight.Key, holds func(int) bool, f flight.Func[string, int]) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panic = recover()
			ended <- o
		}()
		o.v, o.err = g.Do(ctx, key, holds, f)
	}()
	return ended
}

// A work is a function that counts its runs. Each begins on a new basis, 1 and
// further, and returns that as text, once it is released or its context ends.
type work struct {
	runs    int
	grace   time.Duration
	release chan struct{}

	mu    sync.Mutex
	cause error // guarded by mu; see ended
}

func newWork() *work { return &work{release: make(chan struct{})} }

func (w *work) do(ctx context.Context, r *run) (string, error) {
	w.runs++
	n := w.runs
	if err := r.Begin(n, w.grace); err != nil {
		return "", err
	}
	select {
	case <-w.release:
		return fmt.Sprint(n), nil
	case <-ctx.Done():
		w.end(ctx)
		return "", flight.Reason(ctx)
	}
}

func (w *work) end(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cause = context.Cause(ctx)
}

// ended returns the cause with which the context of a run has ended, nil if none
// has.
func (w *work) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// unwanted is the function of a call that starts no run.
func unwanted(t *testing.T) flight.Func[string, int] {
	return func(context.Context, *run) (string, error) {
		t.Error("a second run")
		return "", nil
	}
}

// bubble runs f in a bubble of testing/synctest.
func bubble(t *testing.T, f func(t *testing.T, g *group)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, new(group)) })
}

// Invariant 1: callers of one key share one run, callers of others do not.
func TestDoJoins(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w, other, scoped := newWork(), newWork(), newWork()
		var calls []<-chan outcome
		for range 10 {
			calls = append(calls, call(t.Context(), g, a, always, w.do))
		}
		calls = append(calls, call(t.Context(), g, b, always, other.do),
			call(t.Context(), g, flight.Key{Scope: "of another", Name: "a"}, always, scoped.do))
		synctest.Wait()
		require.Equal(t, []int{1, 1, 1}, []int{w.runs, other.runs, scoped.runs})
		close(w.release)
		close(other.release)
		close(scoped.release)
		for _, c := range calls {
			require.Equal(t, outcome{v: "1"}, <-c)
		}
		v, err := g.Do(t.Context(), a, always, w.do)
		require.NoError(t, err)
		require.Equal(t, "2", v, "a run that is done is not joined")
	})
}

func TestDoReturnsErrors(t *testing.T) {
	failure := errors.New("no such user")
	v, err := new(group).Do(t.Context(), a, always, func(context.Context, *run) (string, error) { return "half", failure })
	require.ErrorIs(t, err, failure)
	require.Equal(t, "half", v)
}

type tenant struct{}

// Invariant 2: the run has the values of its first caller, and not its end.
func TestFirstCallerLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		var ran context.Context
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), tenant{}, "acme"), time.Second)
		defer cancel()
		first := call(ctx, g, a, always, func(ctx context.Context, _ *run) (string, error) {
			ran = ctx
			<-release
			return "v", ctx.Err()
		})
		synctest.Wait()
		second := call(t.Context(), g, a, always, unwanted(t))
		require.ErrorIs(t, (<-first).err, context.DeadlineExceeded)
		require.Equal(t, "acme", ran.Value(tenant{}))
		_, ok := ran.Deadline()
		require.False(t, ok)
		close(release)
		require.Equal(t, outcome{v: "v"}, <-second)
		synctest.Wait()
		require.ErrorIs(t, context.Cause(ran), context.Canceled, "the context of a run that is done is canceled")
	})
}

// Invariant 2: a run that no caller waits for goes on for its grace.
func TestGrace(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w := newWork()
		w.grace = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		first := call(ctx, g, a, always, w.do)
		synctest.Wait()
		cancel()
		require.ErrorIs(t, (<-first).err, context.Canceled)
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		require.NoError(t, w.ended())
		ctx, cancel = context.WithCancel(t.Context())
		second := call(ctx, g, a, always, unwanted(t)) // in time: the grace starts again
		time.Sleep(time.Hour)
		require.NoError(t, w.ended())
		cancel()
		<-second
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		require.NoError(t, w.ended())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.ErrorIs(t, w.ended(), flight.ErrAbandoned)
	})
}

// A run that has not begun has no grace, and need not begin.
func TestAbandonedBeforeBegin(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		goOn, begun := make(chan struct{}), make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		first := call(ctx, g, a, always, func(ctx context.Context, r *run) (string, error) {
			<-goOn
			err := r.Begin(1, time.Hour)
			begun <- err
			return "", err
		})
		synctest.Wait()
		cancel()
		<-first
		synctest.Wait()
		w := newWork()
		second := call(t.Context(), g, a, always, w.do)
		synctest.Wait()
		require.Equal(t, 1, w.runs, "a canceled run is not joined")
		close(goOn)
		require.ErrorIs(t, <-begun, flight.ErrAbandoned)
		synctest.Wait()
		third := call(t.Context(), g, a, always, unwanted(t)) // the canceled run has unlisted itself alone
		synctest.Wait()
		close(w.release)
		require.Equal(t, outcome{v: "1"}, <-second)
		require.Equal(t, outcome{v: "1"}, <-third)
	})
}

// Invariant 3: a caller leaves alone, at its own end and with its own reason.
func TestCallerLeavesAlone(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w := newWork()
		first := call(t.Context(), g, a, always, w.do)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		require.ErrorIs(t, (<-call(ctx, g, a, always, w.do)).err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begun))
		cause := errors.New("the user went away")
		gone, leave := context.WithCancelCause(t.Context())
		second := call(gone, g, a, always, w.do)
		synctest.Wait()
		leave(cause)
		err := (<-second).err
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, cause)
		close(w.release)
		require.Equal(t, outcome{v: "1"}, <-first)
		require.Equal(t, 1, w.runs)
	})
}

// late is a context whose deadline has passed and whose timer has not fired.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// Invariant 3: a caller whose context has ended starts nothing.
func TestEndedContextStartsNothing(t *testing.T) {
	cause := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := new(group).Do(ctx, a, always, unwanted(t))
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, flight.Ended(late{t.Context()}.Context))
	_, err = new(group).Do(late{t.Context()}, a, always, unwanted(t))
	require.Equal(t, context.DeadlineExceeded, err)
}

// Invariant 4: a run whose basis no longer holds keeps its callers and gets no more.
func TestBasisNoLongerHolds(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w, newer := newWork(), newWork()
		first := call(t.Context(), g, a, never, w.do) // the caller that starts a run is not asked
		synctest.Wait()
		var asked int
		joined := call(t.Context(), g, a, func(basis int) bool { asked = basis; return true }, unwanted(t))
		synctest.Wait()
		require.Equal(t, 1, asked)
		second := call(t.Context(), g, a, never, newer.do)
		third := call(t.Context(), g, a, never, newer.do)
		synctest.Wait()
		require.GreaterOrEqual(t, newer.runs, 1)
		close(w.release)
		require.Equal(t, outcome{v: "1"}, <-first)
		require.Equal(t, outcome{v: "1"}, <-joined)
		close(newer.release)
		require.NoError(t, (<-second).err)
		require.NoError(t, (<-third).err)
		require.Equal(t, 1, w.runs)
	})
}

// A run whose function has not begun is new enough for any caller.
func TestNotBegunAlwaysHolds(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		goOn := make(chan struct{})
		first := call(t.Context(), g, a, never, func(_ context.Context, r *run) (string, error) {
			<-goOn
			return "v", r.Begin(1, 0)
		})
		synctest.Wait()
		second := call(t.Context(), g, a, never, unwanted(t))
		synctest.Wait()
		close(goOn)
		require.Equal(t, outcome{v: "v"}, <-first)
		require.Equal(t, outcome{v: "v"}, <-second)
	})
}

// A caller whose holds panics is none of those that wait: the run ends with the others.
func TestPanicOfHolds(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w := newWork()
		ctx, cancel := context.WithCancel(t.Context())
		first := call(ctx, g, a, always, w.do)
		synctest.Wait()
		second := call(t.Context(), g, a, func(int) bool { panic("holds") }, unwanted(t))
		require.Equal(t, "holds", (<-second).panic)
		cancel()
		<-first
		synctest.Wait()
		require.ErrorIs(t, w.ended(), flight.ErrAbandoned)
	})
}

// Invariant 4: a result that was found answers the callers that joined before the
// look began; the others start over.
func TestFoundByAnEarlierLook(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		goOn := make(chan struct{})
		first := call(t.Context(), g, a, always, func(_ context.Context, r *run) (string, error) {
			r.Look()
			<-goOn
			look := r.Look()
			<-goOn
			r.Found(look)
			return "found", nil
		})
		synctest.Wait()
		second := call(t.Context(), g, a, always, unwanted(t)) // before the second look
		synctest.Wait()
		goOn <- struct{}{}
		synctest.Wait()
		w := newWork()
		close(w.release)
		third := call(t.Context(), g, a, always, w.do) // after it
		synctest.Wait()
		require.Zero(t, w.runs)
		goOn <- struct{}{}
		require.Equal(t, outcome{v: "found"}, <-first)
		require.Equal(t, outcome{v: "found"}, <-second)
		require.Equal(t, outcome{v: "1"}, <-third)
	})
}

// Invariant 5: all callers get the panic, with its value and its stack.
func TestPanicReachesAllCallers(t *testing.T) {
	failure := errors.New("index out of sorts")
	for name, row := range map[string]struct {
		end  func()
		text string
	}{
		"panic":  {func() { panic(failure) }, "the function panicked: index out of sorts"},
		"nil":    {func() { panic(nil) }, "panic called with nil"},
		"Goexit": {runtime.Goexit, "runtime.Goexit"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, g *group) {
				release := make(chan struct{})
				f := func(context.Context, *run) (string, error) {
					<-release
					row.end()
					return "", nil
				}
				var calls []<-chan outcome
				for range 10 {
					calls = append(calls, call(t.Context(), g, a, always, f))
				}
				synctest.Wait()
				close(release)
				for _, c := range calls {
					fell, ok := (<-c).panic.(*flight.Panic)
					require.True(t, ok)
					require.ErrorContains(t, fell, row.text)
					require.Equal(t, name == "panic", errors.Is(fell, failure))
					require.Contains(t, string(fell.Stack), "TestPanicReachesAllCallers")
				}
				w := newWork()
				close(w.release)
				require.Equal(t, outcome{v: "1"}, <-call(t.Context(), g, a, always, w.do), "the next call works")
			})
		})
	}
}

// Invariant 6: a caller that has its result joins that run no more.
func TestDoneIsNeverJoined(t *testing.T) {
	var g group
	n := 0 // one run at a time: each is done before the next call
	for i := range 10_000 {
		v, err := g.Do(t.Context(), a, always, func(context.Context, *run) (string, error) { n++; return fmt.Sprint(n), nil })
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i+1), v)
	}
}

func TestForget(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		old, fresh := newWork(), newWork()
		first := call(t.Context(), g, a, always, old.do)
		synctest.Wait()
		g.Forget(a)
		g.Forget(b)
		second := call(t.Context(), g, a, always, fresh.do)
		synctest.Wait()
		close(old.release)
		require.Equal(t, outcome{v: "1"}, <-first, "the callers that it has get its result")
		synctest.Wait()
		third := call(t.Context(), g, a, always, unwanted(t)) // the end of the old run unlisted that one alone
		synctest.Wait()
		close(fresh.release)
		require.Equal(t, outcome{v: "1"}, <-second)
		require.Equal(t, outcome{v: "1"}, <-third)
	})
}

// A run ahead is one of its key, is joined by no caller, and ends after its grace.
func TestAhead(t *testing.T) {
	bubble(t, func(t *testing.T, g *group) {
		w, missed := newWork(), newWork()
		w.grace = time.Second
		require.True(t, g.Ahead(t.Context(), a, time.Hour, w.do))
		require.False(t, g.Ahead(t.Context(), a, time.Hour, unwanted(t)))
		require.True(t, g.Ahead(t.Context(), b, time.Hour, func(context.Context, *run) (string, error) { return "", nil }))
		synctest.Wait()
		first := call(t.Context(), g, a, always, missed.do)
		synctest.Wait()
		require.Equal(t, 1, missed.runs)
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.NoError(t, w.ended())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.ErrorIs(t, w.ended(), flight.ErrAbandoned, "the grace of Begin replaces that of Ahead")
		require.True(t, g.Ahead(t.Context(), a, time.Hour, w.do), "the first one is done")
		close(w.release)
		close(missed.release)
		require.Equal(t, outcome{v: "1"}, <-first)
		require.True(t, g.Ahead(t.Context(), b, time.Second, func(ctx context.Context, _ *run) (string, error) {
			<-ctx.Done()
			missed.end(ctx)
			return "", nil
		}))
		time.Sleep(time.Second)
		synctest.Wait()
		require.ErrorIs(t, missed.ended(), flight.ErrAbandoned, "before Begin, that of Ahead counts")
	})
}

// Many callers come, leave, forget and panic at once: each gets a result of its own
// key that is not older than its call, or its own reason, and no run is left.
func TestEverythingAtOnce(t *testing.T) {
	var g group
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for n := range 50 {
				key := flight.Key{Name: string(rune('a' + (i+n)%3))}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%5)*100*time.Microsecond)
				v, err := g.Do(ctx, key, func(basis int) bool { return basis%2 == 0 }, func(ctx context.Context, r *run) (string, error) {
					look := r.Look()
					if n%7 == 0 {
						r.Found(look)
						return key.Name, nil
					}
					if err := r.Begin(n, time.Duration(n%3)*50*time.Microsecond); err != nil {
						return "", err
					}
					select {
					case <-time.After(time.Duration(n%4) * 50 * time.Microsecond):
						return key.Name, nil
					case <-ctx.Done():
						return "", flight.Reason(ctx)
					}
				})
				cancel()
				if err == nil {
					assert.Equal(t, key.Name, v)
				} else {
					assert.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, flight.ErrAbandoned), "%v", err)
				}
				if n%9 == 0 {
					g.Forget(key)
				}
			}
		})
	}
	all.Wait()
}
