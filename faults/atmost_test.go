package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Commands that count must run once or not at all, and their callers must be
// told which, as far as it can be known: what was acknowledged has run, what is
// told unavailable has not, and only the unknown may be either.

// A tally is one counter of the server, and what its callers know of it.
type tally struct {
	name string
	incr func(ctx context.Context) (int64, error)
	read func() (int64, error) // past the store

	mu             sync.Mutex
	acked, unknown int64
	given          map[int64]struct{} // the values that were acknowledged
}

// note keeps what one call came to know. It reports whether the call counts:
// one that was not run is made again. An error is of the test.
func (y *tally) note(value int64, err error) (counts bool, wrong error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	switch {
	case err == nil:
		y.acked++
		if _, twice := y.given[value]; twice {
			return true, fmt.Errorf("%s: %d was given to two callers", y.name, value)
		}
		y.given[value] = struct{}{}
		return true, nil
	case !isOutcome(err):
		return true, fmt.Errorf("%s: not one of the two classes: %w", y.name, err)
	case errors.Is(err, driver.ErrUnknownOutcome):
		y.unknown++
		return true, nil
	}
	return false, nil
}

// An audit is a load of counting calls on a store behind a proxy.
type audit struct {
	server  *testutil.RedisServer
	proxy   *testutil.Proxy
	store   *redigo.Store
	mode    driver.Mode
	tallies []*tally

	counted atomic.Int64 // calls that were acknowledged or are unknown
	errs    atomic.Int64 // calls that ended in an error
	wrong   atomic.Pointer[error]
}

// perKind is how many counters of each kind an audit has.
const perKind = 4

func newAudit(t *testing.T, mode driver.Mode, objects bool) *audit {
	t.Helper()
	a := &audit{server: testutil.Redis(t, nil), mode: mode}
	a.proxy = testutil.NewProxy(t, a.server.Addr())
	a.store = open(t, redigo.Config{Address: a.proxy.Addr()})
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": a.store})
	require.NoError(t, err)
	for i := range perKind {
		if objects {
			a.countObjects(conn, i)
		} else {
			a.countCommands(strconv.Itoa(i))
		}
	}
	return a
}

// count adds a counter that the command get reads.
func (a *audit) count(name string, incr func(ctx context.Context) (int64, error), get string, args ...any) {
	read := func() (int64, error) {
		n, err := redis.Int64(a.server.Do(get, args...))
		if errors.Is(err, redis.ErrNil) {
			return 0, nil
		}
		return n, err
	}
	a.tallies = append(a.tallies, &tally{name: name, incr: incr, read: read, given: map[int64]struct{}{}})
}

// countCommands adds counters that are counted by commands.
func (a *audit) countCommands(id string) {
	a.count("INCR "+id, a.command("INCR", "n"+id), "GET", "n"+id)
	a.count("HINCRBY "+id, a.command("HINCRBY", "h"+id, "f", "1"), "HGET", "h"+id, "f")
	a.count("ZINCRBY "+id, a.command("ZINCRBY", "z"+id, "1", "m"), "ZSCORE", "z"+id, "m")
}

// command returns a call of one command that answers with a number.
func (a *audit) command(args ...string) func(ctx context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		p := driver.NewPipeline(a.mode)
		defer p.Free()
		add(p, args...)
		if err := a.store.Do(ctx, p); err != nil {
			return 0, err
		}
		reply := p.Next()
		if reply.Kind() == driver.KindInt {
			return reply.Int()
		}
		f, _, err := reply.Float() // ZINCRBY's, a whole number
		return int64(f), err
	}
}

// countObjects adds counters that are counted by objects.
func (a *audit) countObjects(conn *caches.Conn, id int) {
	o := caches.Options{Prefix: "o", TTL: time.Duration(id%2) * time.Hour} // with one, by a script
	counter := caches.CounterCache[int64](o).On(conn).Key("n", id)
	dict := caches.DictCache[string, int64](o).On(conn).Key("h", id)
	board := caches.SortedSetCache[string](o).On(conn).Key("z", id)
	a.count("Counter.Incr "+counter.String(),
		func(ctx context.Context) (int64, error) { return counter.Incr(ctx, 1) }, "GET", counter.String())
	a.count("Dict.Incr "+dict.String(),
		func(ctx context.Context) (int64, error) { return dict.Incr(ctx, "f", 1) }, "HGET", dict.String(), "f")
	a.count("SortedSet.Incr "+board.String(), func(ctx context.Context) (int64, error) {
		f, err := board.Incr(ctx, "m", 1)
		return int64(f), err
	}, "ZSCORE", board.String(), "m")
}

// work counts in so many goroutines until so many calls count and so many
// connections were lost.
func (a *audit) work(t *testing.T, workers, calls, losses int) {
	t.Helper()
	together(workers, func(w int) {
		choices := random(t.Name(), w)
		for a.wrong.Load() == nil && (int(a.counted.Load()) < calls || a.lost() < losses) {
			a.call(t.Context(), a.tallies[choices.IntN(len(a.tallies))])
		}
	})
	if wrong := a.wrong.Load(); wrong != nil {
		require.NoError(t, *wrong)
	}
}

func (a *audit) call(ctx context.Context, y *tally) {
	value, err := y.incr(ctx)
	counts, wrong := y.note(value, err)
	if wrong != nil {
		a.wrong.CompareAndSwap(nil, &wrong)
	}
	if err != nil {
		a.errs.Add(1)
	}
	if counts {
		a.counted.Add(1)
	} else {
		time.Sleep(time.Millisecond) // a server at rest is left in peace
	}
}

// lost is how many connections there were and are no more.
func (a *audit) lost() int { return a.proxy.Accepted() - a.proxy.Conns() }

// faults breaks connections in ways chosen at random, until done is closed: one
// each time that the callers have got so many answers since the last.
func (a *audit) faults(t *testing.T, gap int, done <-chan struct{}) {
	choices := random(t.Name()+" faults", 0)
	admin, err := redis.Dial("tcp", a.server.Addr())
	if !assert.NoError(t, err) {
		return
	}
	defer func() { _ = admin.Close() }()
	for next := int64(gap); await(done, func() bool { return a.counted.Load() >= next }); {
		conns := a.proxy.Accepted()
		a.fault(t, choices, admin)
		if !await(done, func() bool { return a.proxy.Accepted() > conns }) {
			break
		}
		a.proxy.Heal()
		next = a.counted.Load() + int64(gap)
	}
	a.proxy.Heal()
}

// fault breaks the connection, now or within the next few commands. A cut in a
// reply is of commands that have run, one in a request may be in the middle of
// a command, and the others are wherever they happen to be.
func (a *audit) fault(t *testing.T, choices *rand.Rand, admin redis.Conn) {
	switch choices.IntN(6) {
	case 0:
		a.proxy.CutReply(0)
	case 1:
		a.proxy.CutReply(choices.IntN(300))
	case 2, 3:
		a.proxy.CutRequest(choices.IntN(1500))
	case 4:
		a.proxy.Reset()
	case 5:
		_, err := admin.Do("CLIENT", "KILL", "TYPE", "normal")
		assert.NoError(t, err)
	}
}

// await waits until is holds; it is false where done was closed before.
func await(done <-chan struct{}, is func() bool) bool {
	ticker := time.NewTicker(100 * time.Microsecond)
	defer ticker.Stop()
	for !is() {
		select {
		case <-done:
			return false
		case <-ticker.C:
		}
	}
	return true
}

// A sum is over all counters of an audit.
type sum struct{ counter, acked, unknown int64 }

// settle waits until nothing of what was sent can run any more, and compares
// each counter with what is known of it. over are those above their bound.
func (a *audit) settle(t *testing.T) (all sum, over []string) {
	t.Helper()
	require.NoError(t, a.store.Close())
	a.proxy.KillAll()
	awaitNoClients(t, a.server)
	for _, y := range a.tallies {
		n, err := y.read()
		require.NoError(t, err)
		assert.LessOrEqual(t, y.acked, n, "%s: what was acknowledged has run", y.name)
		if n > y.acked+y.unknown {
			over = append(over, fmt.Sprintf("%s is %d, %d acknowledged and %d unknown", y.name, n, y.acked, y.unknown))
		}
		for value := range y.given {
			assert.True(t, 0 < value && value <= n, "%s is %d, and a caller was given %d", y.name, n, value)
		}
		all = sum{all.counter + n, all.acked + y.acked, all.unknown + y.unknown}
	}
	return all, over
}

// awaitNoClients waits until the server has read all that its clients sent, and
// has found out that they are gone.
func awaitNoClients(t *testing.T, server *testutil.RedisServer) {
	t.Helper()
	require.Eventually(t, func() bool {
		list, err := redis.String(server.Do("CLIENT", "LIST", "TYPE", "normal"))
		return err == nil && clientsIn(list) == 1 // the one that asks
	}, patience, time.Millisecond)
}

func clientsIn(list string) int {
	n := 0
	for _, c := range list {
		if c == '\n' {
			n++
		}
	}
	return n
}

// auditLosses makes so many calls while so many connections are lost.
func auditLosses(t *testing.T, a *audit, workers, calls, losses int) {
	t.Helper()
	done := make(chan struct{})
	var breaking sync.WaitGroup
	breaking.Go(func() { a.faults(t, calls/losses/2, done) })
	a.work(t, workers, calls, losses)
	close(done)
	breaking.Wait()
}

func TestAtMostOnce(t *testing.T) {
	var total sum
	lost := 0
	for _, c := range []struct {
		name           string
		objects        bool
		workers, calls int
		losses         int
	}{
		{"alone", false, 1, count(1_000, 20_000), count(20, 250)},
		{"together", false, 64, count(8_000, 160_000), count(80, 1_700)},
		{"objects", true, 16, count(1_000, 20_000), count(20, 250)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAudit(t, 0, c.objects)
			auditLosses(t, a, c.workers, c.calls, c.losses)
			all, over := a.settle(t)
			require.Empty(t, over)
			require.NotZero(t, all.unknown, "the faults have hit nothing")
			require.Greater(t, all.counter, all.acked, "nothing that ran was lost")
			t.Logf("%+v, %d connections lost", all, a.lost())
			total = sum{total.counter + all.counter, total.acked + all.acked, total.unknown + all.unknown}
			lost += a.lost()
		})
	}
	report(t, "INCR, HINCRBY and ZINCRBY over connections that are lost, at most once",
		"%d calls, %d connections lost: %d acknowledged ≤ %d counted ≤ %d acknowledged or unknown, for each counter",
		total.acked+total.unknown, lost, total.acked, total.counter, total.acked+total.unknown)
}

// TestExactlyOnceWithoutFaults is the same load on connections that hold.
func TestExactlyOnceWithoutFaults(t *testing.T) {
	calls := int64(0)
	for _, objects := range []bool{false, true} {
		a := newAudit(t, 0, objects)
		a.work(t, 64, count(5_000, 100_000), 0)
		all, over := a.settle(t)
		require.Empty(t, over)
		require.Zero(t, a.errs.Load())
		require.Equal(t, all.acked, all.counter)
		calls += all.acked
	}
	report(t, "the same without faults", "%d calls: acknowledged = counted, 0 errors", calls)
}

// TestAuditSeesRepeats makes a false promise, that counting may be repeated:
// the audit must see what comes of it, or it could not see a repeat at all.
func TestAuditSeesRepeats(t *testing.T) {
	a := newAudit(t, driver.Repeatable, false)
	auditLosses(t, a, 8, 2_000, 60)
	all, over := a.settle(t)
	require.NotEmpty(t, over, "%+v", all)
	require.Greater(t, all.counter, all.acked+all.unknown)
	report(t, "the same with commands that are wrongly marked as repeatable",
		"seen by the audit: %d counted, %d acknowledged, %d unknown", all.counter, all.acked, all.unknown)
}
