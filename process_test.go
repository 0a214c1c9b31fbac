package caches_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// Several processes on one server. A worker is this test binary, started again
// with a job in its environment, which TestMain hands to work: it shares no
// memory with the test, and can be killed in the middle of anything.

// workerEnv holds the job of a worker, as JSON.
const workerEnv = "CACHES_TEST_WORKER"

// A job is what a worker is to do.
type job struct {
	Role string // a key of roles
	DSN  string
	Seed uint64
}

// roles are what workers do until their input ends.
var roles = map[string]func(j job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error{
	"claim":    claimWorker,
	"write":    writeWorker,
	"naive":    naiveWorker,
	"stampede": stampedeWorker,
	"sequels":  sequelWorker,
}

// work does a job and returns the exit code of the process.
func work(text string) int {
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.do()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

func (j job) do() error {
	conn, err := caches.Open(j.DSN)
	if err != nil {
		return err
	}
	err = roles[j.Role](j, conn, json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout))
	return errors.Join(err, conn.Close())
}

// A worker is a worker process as its test sees it.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr bytes.Buffer
}

// startWorker starts a worker, which is killed at the end of the test if it
// still runs then.
func startWorker(t *testing.T, j job) *worker {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	binary, err := os.Executable()
	require.NoError(t, err)
	w := &worker{cmd: exec.Command(binary)}
	// One processor each: there are more workers than processors as it is. The race
	// detector makes a process wait a second at its end, for goroutines that still
	// run: a worker has none.
	w.cmd.Env = append(os.Environ(), workerEnv+"="+string(text), "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	w.cmd.Stderr = &w.stderr
	w.in, err = w.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := w.cmd.StdoutPipe()
	require.NoError(t, err)
	w.out = json.NewDecoder(out)
	require.NoError(t, w.cmd.Start())
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			w.kill()
		}
	})
	return w
}

// ask sends a question and reads the answer into dst.
func (w *worker) ask(question, dst any) error {
	err := json.NewEncoder(w.in).Encode(question)
	if err == nil {
		err = w.out.Decode(dst)
	}
	if err != nil {
		_ = w.cmd.Wait() // its stderr is whole then
		return fmt.Errorf("the worker did not answer: %w\n%s", err, w.stderr.String())
	}
	return nil
}

// finish lets the worker end, and checks that it ends well: a data race in it
// is an exit code too.
func (w *worker) finish(t *testing.T) {
	t.Helper()
	require.NoError(t, w.in.Close())
	require.NoError(t, w.cmd.Wait(), w.stderr.String())
}

// kill ends the worker where it stands (SIGKILL).
func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait() // "signal: killed" is what was asked for
}

// seedOf returns the seed of a test's random choices, and says which.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return seed
}

const (
	claimProcesses = 4
	claimCallers   = 250 // per process
	claimConns     = 8   // per process
)

// claimRounds is how many gates are claimed.
func claimRounds() int { return fullOr(100, 8) }

// A claims is how one process fared in one round.
type claims struct {
	Won    int
	Errors []string
}

// claimWorker answers each number with what became of 250 calls of Once, all at
// once, on the gate of that number.
func claimWorker(_ job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error {
	for {
		var round int
		switch err := in.Decode(&round); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := out.Encode(claim(gates(conn, time.Hour).Key(round))); err != nil {
			return err
		}
	}
}

func claim(gate caches.Sentinel) claims {
	var (
		mu      sync.Mutex
		result  claims
		callers sync.WaitGroup
		start   = make(chan struct{})
	)
	for range claimCallers {
		callers.Go(func() {
			<-start
			won, err := gate.Once(context.Background())
			mu.Lock()
			defer mu.Unlock()
			if won {
				result.Won++
			}
			if err != nil {
				result.Errors = append(result.Errors, err.Error())
			}
		})
	}
	close(start)
	callers.Wait()
	return result
}

// claimRound has all workers claim one gate and returns what they say together.
func claimRound(t *testing.T, workers []*worker, round int) claims {
	t.Helper()
	results, errs := make([]claims, len(workers)), make([]error, len(workers))
	var asked sync.WaitGroup
	for i, w := range workers {
		asked.Go(func() { errs[i] = w.ask(round, &results[i]) })
	}
	asked.Wait()
	require.NoError(t, errors.Join(errs...))
	var all claims
	for _, r := range results {
		all.Won += r.Won
		all.Errors = append(all.Errors, r.Errors...)
	}
	return all
}

// Of a thousand callers in four processes one passes the gate, in every round.
func TestOnceHasOneWinnerAmongProcesses(t *testing.T) {
	server := testutil.Redis(t, nil)
	workers := startClaimers(t, func(int) string { return server.Addr() })
	for round := range claimRounds() {
		all := claimRound(t, workers, round)
		require.Empty(t, all.Errors, "round %d", round)
		require.Equal(t, 1, all.Won, "round %d", round)
	}
	for _, w := range workers {
		w.finish(t)
	}
}

// The same where the network cuts one reply in a hundred. Claims are sent again
// and know themselves, so that the winner is told even then. How many replies come
// in one piece depends on the scheduler, so the rounds go on until there were
// enough cuts.
func TestOnceHasOneWinnerAmongProcessesThroughCutReplies(t *testing.T) {
	server, seed := testutil.Redis(t, nil), seedOf(t)
	var proxies []*testutil.Proxy
	workers := startClaimers(t, func(i int) string {
		proxy := testutil.NewProxy(t, server.Addr())
		proxy.Rate(0.01, seed+uint64(i))
		proxies = append(proxies, proxy)
		return proxy.Addr()
	})
	connections := func() (n int) {
		for _, proxy := range proxies {
			n += proxy.Accepted()
		}
		return n
	}
	const enough = 2 * claimProcesses * claimConns // connections: each was cut once
	direct, unsure, rounds := gates(open(t, server.DSN()+patience), time.Hour), 0, 0
	for ; rounds < claimRounds() || connections() <= enough; rounds++ {
		round := rounds
		require.Less(t, round, 1000, "the proxies cut too little")
		all := claimRound(t, workers, round)
		if len(all.Errors) == 0 {
			require.Equal(t, 1, all.Won, "round %d", round)
			continue
		}
		// A call of which every attempt was cut, some four in a million, does
		// not know: it may be the one that won. Nobody else can have, too.
		unsure++
		require.LessOrEqual(t, all.Won, 1, "round %d: %v", round, all.Errors)
		requireShut(t, t.Context(), direct.Key(round))
	}
	for _, w := range workers {
		w.finish(t)
	}
	t.Logf("%d connections, %d of %d rounds with a caller that does not know", connections(), unsure, rounds)
	require.LessOrEqual(t, unsure, max(3, rounds/10), "sending again hides all but the rarest loss")
}

// startClaimers starts the workers, the one of index i on the server at addr(i).
func startClaimers(t *testing.T, addr func(i int) string) []*worker {
	t.Helper()
	workers := make([]*worker, claimProcesses)
	for i := range workers {
		dsn := fmt.Sprintf("redis://%s?timeout=30s&connect_timeout=30s&conns=%d", addr(i), claimConns)
		workers[i] = startWorker(t, job{Role: "claim", DSN: dsn})
	}
	return workers
}

// writeWorker makes keys in every way that there is, one after the other, until
// it is killed. Errors are no news: the network is bad.
func writeWorker(j job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error {
	var start int
	if err := in.Decode(&start); err != nil {
		return err
	}
	w := writer{ctx: context.Background(), conn: conn, seed: j.Seed}
	w.round() // the first one whole, so that every way is gone once
	if err := out.Encode(w.failed); err != nil {
		return err
	}
	for {
		w.round()
	}
}

// A writer makes keys that nobody has made before.
type writer struct {
	ctx    context.Context
	conn   *caches.Conn
	seed   uint64
	n      int
	failed []string
}

func (w *writer) round() {
	for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
		o := caches.Options{Prefix: "w", TTL: time.Hour, TTLPolicy: policy}
		w.values(caches.Cache[string](o).On(w.conn))
		w.counters(caches.CounterCache[int64](o).On(w.conn), caches.CounterCache[float64](o).On(w.conn))
		w.collections(o)
		w.sets(caches.SetCache[int](o).On(w.conn))
		w.gates(caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(w.conn))
	}
}

// key returns a new key.
func (w *writer) key() string {
	w.n++
	return fmt.Sprintf("%d-%d", w.seed, w.n)
}

// did takes the error of a write, the last of what it returned.
func (w *writer) did(results ...any) {
	if err, _ := results[len(results)-1].(error); err != nil {
		w.failed = append(w.failed, err.Error())
	}
}

func (w *writer) values(c caches.Cache[string]) {
	w.did(c.Key(w.key()).Set(w.ctx, "v"))
	w.did(c.Key(w.key()).Add(w.ctx, "v"))
	w.did(c.Key(w.key()).Swap(w.ctx, "v"))
	w.did(c.Key(w.key()).GetOrSet(w.ctx, func(context.Context) (string, error) { return "v", nil }))
	w.did(caches.SetMany(w.ctx, c, map[string]string{w.key(): "a", w.key(): "b", w.key(): "c"}))
}

func (w *writer) counters(ints caches.CounterCache[int64], floats caches.CounterCache[float64]) {
	w.did(ints.Key(w.key()).Incr(w.ctx, 1))
	w.did(ints.Key(w.key()).Decr(w.ctx, 1))
	w.did(ints.Key(w.key()).Set(w.ctx, 1))
	w.did(floats.Key(w.key()).Incr(w.ctx, 0.5))
}

func (w *writer) collections(o caches.Options) {
	for _, kind := range kinds {
		on := kind.on(w.conn, o)
		for i, act := range on.zero.acts {
			if act.effect != stores {
				continue
			}
			c := on.key(w.key())
			w.did(c.acts[i].run(w.ctx))
		}
		c := on.key(w.key())
		w.did(c.fill(w.ctx))
		w.did(c.empty(w.ctx)) // the key goes with its last element …
		w.did(c.fill(w.ctx))  // … and is made anew
	}
}

func (w *writer) sets(s caches.SetCache[int]) {
	a, b := s.Key(w.key()), s.Key(w.key())
	w.did(a.Add(w.ctx, 1, 2))
	w.did(b.Update(w.ctx, map[int]struct{}{2: {}, 3: {}}))
	w.did(s.Key(w.key()).StoreUnion(w.ctx, a, b))
	w.did(s.Key(w.key()).StoreIntersect(w.ctx, a, b))
	w.did(s.Key(w.key()).StoreDifference(w.ctx, a, b))
}

func (w *writer) gates(s caches.SentinelCache) {
	w.did(s.Key(w.key()).Once(w.ctx))
	w.did(s.Key(w.key()).Do(w.ctx, nothing))
	w.did(s.Key(w.key()).Do(w.ctx, func(context.Context) error { return errors.ErrUnsupported }))
	w.failed = w.failed[:max(0, len(w.failed)-1)] // that one was meant to fail
}

// naiveWorker is the control: it makes keys as is often done by hand, the
// expiry in a command of its own.
func naiveWorker(j job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error {
	var start int
	if err := in.Decode(&start); err != nil {
		return err
	}
	if err := out.Encode([]string{}); err != nil {
		return err
	}
	ctx := context.Background()
	for n := 0; ; n++ {
		key := fmt.Sprintf("naive.%d.%d", j.Seed, n)
		_, _ = conn.Do(ctx, "SADD", key, "a")
		_, _ = conn.Do(ctx, "PEXPIRE", key, 3_600_000)
	}
}

// disturb starts a worker behind a proxy, has the proxy cut what it sends at
// random bytes for a while, and kills it.
func disturb(t *testing.T, server *testutil.RedisServer, role string, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	proxy := testutil.NewProxy(t, server.Addr())
	w := startWorker(t, job{Role: role, DSN: "redis://" + proxy.Addr() + patience, Seed: seed})
	var failed []string
	require.NoError(t, w.ask(0, &failed))
	require.Empty(t, failed, "a write failed on a sound network")
	for end := time.Now().Add(time.Duration(random.IntN(int(80 * time.Millisecond)))); time.Now().Before(end); {
		proxy.CutRequest(random.IntN(4000))
		time.Sleep(time.Duration(random.IntN(int(5 * time.Millisecond))))
	}
	w.kill()
}

// immortal returns the keys on the server without an end, and how many keys
// there are.
func immortal(t *testing.T, server *testutil.RedisServer) (forever []string, keys int) {
	t.Helper()
	reply, err := server.Do("EVAL", `
local cursor, keys, found = '0', 0, {}
repeat
	local page = redis.call('SCAN', cursor, 'COUNT', 1000)
	cursor = page[1]
	for _, key in ipairs(page[2]) do
		keys = keys + 1
		if redis.call('PTTL', key) <= 0 then table.insert(found, key) end
	end
until cursor == '0'
return {keys, found}`, 0)
	require.NoError(t, err)
	parts := reply.([]any)
	for _, key := range parts[1].([]any) {
		forever = append(forever, string(key.([]byte)))
	}
	return forever, int(parts[0].(int64))
}

// A writer that is killed between any two commands, or whose connection breaks
// at any byte, leaves no key behind that lives for ever: the write and its
// expiry are one command or one transaction.
func TestKilledWritersLeaveNoImmortalKeys(t *testing.T) {
	t.Parallel()
	lanes, kills := 2, fullOr(32, 5)
	server, seed := testutil.Redis(t, nil), seedOf(t)
	t.Run("writers", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				for kill := range kills {
					disturb(t, server, "write", seed+uint64(lane*kills+kill))
				}
			})
		}
	})
	forever, keys := immortal(t, server)
	t.Logf("%d keys after %d kills", keys, lanes*kills)
	require.Greater(t, keys, lanes*kills*60, "the writers wrote too little")
	require.Empty(t, forever)
}

// The control: the same disturbance finds the usual mistake, and the check sees
// a single key without an end among many.
func TestKilledNaiveWritersAreFound(t *testing.T) {
	t.Parallel()
	server, seed := testutil.Redis(t, nil), seedOf(t)
	conn := open(t, server.DSN())
	values := caches.Cache[int]{Prefix: "v", TTL: time.Hour}.On(conn)
	require.NoError(t, caches.SetMany(t.Context(), values, map[int]int{1: 1, 2: 2, 3: 3}))
	require.NoError(t, caches.Cache[int]{Prefix: "control"}.On(conn).Key("x").Set(t.Context(), 1))
	forever, keys := immortal(t, server)
	require.Equal(t, []string{"control.x"}, forever)
	require.Equal(t, 4, keys)

	for kill := range uint64(50) {
		disturb(t, server, "naive", seed+kill)
		if forever, _ = immortal(t, server); len(forever) > 1 {
			break
		}
	}
	require.Greater(t, len(forever), 1, "the disturbance never came between two commands")
	for _, key := range forever {
		require.True(t, key == "control.x" || strings.HasPrefix(key, "naive."), key)
	}
}
