package caches_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// full reports whether tests of chance are to run as long as a release wants
// them to (make soak), and not as long as a developer does.
func full() bool { return os.Getenv("CACHES_TEST_FULL") == "1" }

// fullOr returns all, or in short runs few.
func fullOr[N any](all, few N) N {
	if full() {
		return all
	}
	return few
}

// A rush is 250 calls of one key in one process, all at once.
type rush struct {
	Round  int
	Worker int
	Takes  time.Duration // of the function
	Lease  time.Duration
}

// A rushed is how they fared.
type rushed struct {
	Wrong   int
	Errors  []string
	Slowest time.Duration
}

const rushCallers = 250

// rushDeadline is that of each caller.
const rushDeadline = 10 * time.Second

func stampedeWorker(_ job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error {
	for {
		var r rush
		switch err := in.Decode(&r); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := out.Encode(r.run(conn)); err != nil {
			return err
		}
	}
}

func runsKey(round int) string   { return fmt.Sprint("runs.", round) }
func holderKey(round int) string { return fmt.Sprint("holder.", round) }

// load is the function: it notes who runs it, and how often it was run.
func (r rush) load(conn *caches.Conn) func(context.Context, int) (string, error) {
	return func(ctx context.Context, round int) (string, error) {
		if _, err := conn.Do(ctx, "INCR", runsKey(round)); err != nil {
			return "", err
		}
		if _, err := conn.Do(ctx, "SET", holderKey(round), r.Worker); err != nil {
			return "", err
		}
		time.Sleep(r.Takes) // the function takes as long
		return fmt.Sprint("value ", round), nil
	}
}

func (r rush) run(conn *caches.Conn) rushed {
	f := caches.Cached(usersOn(conn), r.load(conn), &caches.CachedOptions[int, string]{Name: "rush", Lease: r.Lease})
	var (
		mu      sync.Mutex
		result  rushed
		callers sync.WaitGroup
		start   = make(chan struct{})
	)
	ctx, cancel := context.WithTimeout(context.Background(), rushDeadline)
	defer cancel()
	for range rushCallers {
		callers.Go(func() {
			<-start
			begun := time.Now()
			v, err := f.Get(ctx, r.Round)
			took := time.Since(begun)
			mu.Lock()
			defer mu.Unlock()
			result.Slowest = max(result.Slowest, took)
			if err != nil {
				result.Errors = append(result.Errors, err.Error())
			} else if v != fmt.Sprint("value ", r.Round) {
				result.Wrong++
			}
		})
	}
	close(start)
	callers.Wait()
	return result
}

func startRushers(t *testing.T, server *testutil.RedisServer, n int) []*worker {
	t.Helper()
	workers := make([]*worker, n)
	for i := range workers {
		workers[i] = startWorker(t, job{Role: "stampede", DSN: server.DSN() + patience})
	}
	return workers
}

// askAll has all workers rush at once. Those that are gone by then have no
// result.
func askAll(workers []*worker, r rush) (results []rushed, errs []error) {
	results, errs = make([]rushed, len(workers)), make([]error, len(workers))
	var asked sync.WaitGroup
	for i, w := range workers {
		asked.Go(func() {
			r := r
			r.Worker = i
			errs[i] = w.ask(r, &results[i])
		})
	}
	asked.Wait()
	return results, errs
}

// A thousand callers in four processes miss one key at once: the function runs
// once, and they have its result as soon as it is there.
func TestStampede(t *testing.T) {
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+patience)
	workers := startRushers(t, server, 4)
	const takes = 50 * time.Millisecond
	rounds := fullOr(100, 6)
	var slowest []time.Duration
	for round := range rounds {
		results, errs := askAll(workers, rush{Round: round, Takes: takes})
		require.NoError(t, errors.Join(errs...))
		runs, err := conn.Do(t.Context(), "GET", runsKey(round))
		require.NoError(t, err)
		require.Equal(t, "1", string(runs.([]byte)), "round %d", round)
		slow := time.Duration(0)
		for _, r := range results {
			require.Empty(t, r.Errors, "round %d", round)
			require.Zero(t, r.Wrong, "round %d", round)
			slow = max(slow, r.Slowest)
		}
		slowest = append(slowest, slow)
	}
	slices.Sort(slowest)
	in := 0
	for _, d := range slowest {
		if d < takes+100*time.Millisecond {
			in++
		}
	}
	t.Logf("slowest of 1,000 callers: median %v, most %v; %d of %d rounds within the function's %v and 100ms", slowest[rounds/2], slowest[rounds-1], in, rounds, takes)
	if full() { // a short run may have the machine with others
		require.GreaterOrEqual(t, in, 95)
	}
	for _, w := range workers {
		w.finish(t)
	}
}

// The process that computes is killed in the middle: one other takes its place
// when its lease ends, and no caller waits past its deadline.
//
// The lease is long beside the pauses of a busy machine: one that is not renewed
// in time is a second replacement.
func TestStampedeHolderKilled(t *testing.T) {
	t.Parallel()
	server := testutil.Redis(t, nil)
	conn := open(t, server.DSN()+patience)
	workers := startRushers(t, server, 4)
	for round := range fullOr(20, 1) {
		killed := make(chan int, 1)
		go func() {
			var holder any
			for holder == nil && t.Context().Err() == nil {
				holder, _ = conn.Do(t.Context(), "GET", holderKey(round))
			}
			if b, ok := holder.([]byte); ok {
				i := int(b[0] - '0')
				_ = workers[i].cmd.Process.Kill()
				killed <- i
			}
		}()
		begun := time.Now()
		results, errs := askAll(workers, rush{Round: round, Takes: 300 * time.Millisecond, Lease: 3 * time.Second})
		took, dead := time.Since(begun), <-killed
		for i, r := range results {
			if i == dead {
				require.Error(t, errs[i])
				continue
			}
			require.NoError(t, errs[i])
			require.Empty(t, r.Errors, "round %d", round)
			require.Zero(t, r.Wrong)
			require.Less(t, r.Slowest, rushDeadline)
		}
		runs, err := conn.Do(t.Context(), "GET", runsKey(round))
		require.NoError(t, err)
		require.Equal(t, "2", string(runs.([]byte)), "round %d: one replacement", round)
		t.Logf("round %d: replaced and answered in %v", round, took)
		workers[dead] = startWorker(t, job{Role: "stampede", DSN: server.DSN() + patience})
	}
	for _, w := range workers {
		w.finish(t)
	}
}
