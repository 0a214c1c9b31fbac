package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// siegeWorkers is how many goroutines call a server under its faults.
const siegeWorkers = 64

// A siege is a load that goes on until it is ended, through whatever happens to
// the server. It notes how late calls come back and when one last succeeded.
type siege struct {
	*load
	t       *testing.T
	timeout time.Duration // of each call

	stop    chan struct{}
	workers sync.WaitGroup

	good, unknown, unavailable atomic.Int64
	slow                       atomic.Int64 // calls that their time was up for
	lastGood                   atomic.Int64 // nanoseconds since begun of the last success
	begun                      time.Time
	mu                         sync.Mutex
	late                       []span // from their deadline on, of the calls that came later
	stalls                     stalls // of the machine
	odd                        error  // the first that is none of the two outcomes
}

// besiege begins a siege by n workers. Each call has timeout, half of them from
// their context and half from the store's Config, which must say the same.
func besiege(t *testing.T, s *redigo.Store, n, size int, timeout time.Duration) *siege {
	t.Helper()
	b := &siege{load: newLoad(t, s, n, size), t: t, timeout: timeout, stop: make(chan struct{}), begun: time.Now()}
	for i := range n {
		b.workers.Go(func() { b.assail(b.worker(i)) })
	}
	for range bystanders {
		b.workers.Go(func() { b.stalls.watch(b.stop) })
	}
	t.Cleanup(b.end)
	return b
}

// assail makes calls until the siege ends.
func (b *siege) assail(w *worker) {
	for {
		select {
		case <-b.stop:
			return
		default:
		}
		b.call(w)
		// Users think, too; and while the store turns calls away at once, those
		// who try again at once would have no processor left for anybody.
		time.Sleep(time.Duration(w.random.IntN(2000)) * time.Microsecond)
	}
}

func (b *siege) call(w *worker) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if w.random.IntN(2) == 0 {
		ctx, cancel = context.WithTimeout(ctx, b.timeout)
	}
	defer cancel()
	start := time.Now()
	err := w.step(ctx)
	b.note(err, span{start.Add(b.timeout), time.Now()})
	if err == nil {
		b.lastGood.Store(int64(time.Since(b.begun)))
	}
}

// note counts how a call ended, and between which times it was late.
func (b *siege) note(err error, late span) {
	switch {
	case err == nil:
		b.good.Add(1)
	case errors.Is(err, driver.ErrUnknownOutcome):
		b.unknown.Add(1)
	default:
		b.unavailable.Add(1)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		b.slow.Add(1)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && !isOutcome(err) && b.odd == nil {
		b.odd = err
	}
	if late.to.After(late.from) {
		b.late = append(b.late, late)
	}
}

// awaitAfter waits until a call has succeeded that ended after at, and returns
// how long after.
func (b *siege) awaitAfter(at time.Time) time.Duration {
	b.t.Helper()
	mark := at.Sub(b.begun)
	var took time.Duration
	require.Eventually(b.t, func() bool {
		took = time.Duration(b.lastGood.Load()) - mark
		return took > 0
	}, patience, time.Millisecond, "no call succeeds any more")
	return took
}

// await waits until a counter has grown by n.
func (b *siege) await(counter *atomic.Int64, n int64, what string) {
	b.t.Helper()
	before := counter.Load()
	require.Eventually(b.t, func() bool { return counter.Load() >= before+n }, patience, time.Millisecond, what)
}

// end ends the siege. A call that hangs would keep it from ending: the test's
// own timeout then shows where.
func (b *siege) end() {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.workers.Wait()
}

// lateness is how late a call may come back. With the race detector, on a
// machine that does other things, the short form proves no more than that a
// call comes back at all; the full run has the bound that is promised.
func (b *siege) lateness() time.Duration {
	if full {
		return max(b.timeout/20, 10*time.Millisecond)
	}
	return 250 * time.Millisecond
}

// verdict ends the siege and fails the test where an answer was wrong, an error
// was of no known class, or a call came back too late, by more than the machine
// stood still at that time. It says how late the latest was.
func (b *siege) verdict() (worst string) {
	b.t.Helper()
	b.end()
	b.allRight(b.t)
	all := make([]time.Duration, len(b.late))
	var own, most time.Duration
	for i, late := range b.late {
		all[i] = late.to.Sub(late.from)
		own = max(own, all[i]-b.stalls.excuse(span{late.from.Add(-b.timeout), late.to}, late.from))
		most = max(most, all[i])
	}
	b.t.Logf("%d good, %d unknown, %d unavailable, %d late, half of them by %v, the worst by %v, less stalls by %v, %+v", b.good.Load(), b.unknown.Load(), b.unavailable.Load(),
		len(all), percentile(all, 0.5), most, own, b.store.Stats())
	assert.NoError(b.t, b.odd, "an error that is not exactly one of the two outcomes")
	assert.LessOrEqual(b.t, own, b.lateness(), "a call of %v came back late", b.timeout)
	assert.Zero(b.t, b.store.Stats().Desyncs)
	own, most = own.Round(100*time.Microsecond), most.Round(100*time.Microsecond)
	if own == most {
		return fmt.Sprintf("%v after its deadline", most)
	}
	return fmt.Sprintf("%v after its deadline (%v less the stalls of the machine)", most, own)
}

// calls says how many calls a siege made, for a report.
func (b *siege) calls() string {
	return fmt.Sprintf("%d calls", b.good.Load()+b.unknown.Load()+b.unavailable.Load())
}

// leaks notes what this process has open. The function it returns fails the
// test where more is open then: goroutines, or descriptors.
func leaks(t *testing.T) (check func()) {
	t.Helper()
	goroutines, before := goleak.IgnoreCurrent(), descriptors(t)
	return func() {
		t.Helper()
		assert.NoError(t, goleak.Find(goroutines))
		assert.Eventually(t, func() bool { return descriptors(t) <= before }, patience, time.Millisecond,
			"%d descriptors before", before)
	}
}

// descriptors counts the open ones, see proc(5).
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
