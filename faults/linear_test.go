package faults

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/internal/resp"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What many callers see of one server must be what a single one would have seen
// who did it all, one after the other, in an order in which nobody's call moves
// out of the time that it took: linearizability, see
// https://cs.brown.edu/~mph/HerlihyW90/p463-herlihy.pdf. porcupine looks for
// that order.
//
// A call of unknown outcome took from its begin to the end of time: it may have
// run at any time after its begin, and one that never did is one that runs when
// nobody looks any more. A call that was told unavailable has not been.

// An act is one call of a history, and what it came to.
type act struct {
	key    string // a partition: keys know nothing of each other
	kind   string // the command
	arg    int    // of it
	result int    // where it is known
	known  bool
}

// none is the result of a read that finds nothing.
const none = -1

// A model is what one key does, one call after the other. Its state is one int.
type model struct {
	name  string
	start int
	// step returns the state and the result of a call.
	step func(state int, a act) (next, result int)
}

// models are the kinds of keys. Their states must be all that later results
// depend on.
var models = []model{
	{"register", none, func(state int, a act) (int, int) {
		if a.kind == "SET" {
			return a.arg, 0
		}
		return state, state // GET
	}},
	{"counter", 0, func(state int, a act) (int, int) {
		if a.kind == "INCR" {
			return state + 1, state + 1
		}
		return state, state // GET
	}},
	{"set", 0, func(state int, a act) (int, int) { // of members 0 to 62, a bit each
		bit := 1 << a.arg
		in := state >> a.arg & 1
		switch a.kind {
		case "SADD":
			return state | bit, 1 - in
		case "SREM":
			return state &^ bit, in
		}
		return state, in // SISMEMBER
	}},
	{"claim", none, func(state int, a act) (int, int) {
		switch {
		case a.kind == "SETNX" && state == none:
			return a.arg, 1
		case a.kind == "SETNX":
			return state, 0
		case a.kind == "DEL" && state == none:
			return none, 0
		case a.kind == "DEL":
			return none, 1
		}
		return state, state // GET
	}},
	{"gate", 0, func(state int, a act) (int, int) { // SentinelCache
		if a.kind == "ONCE" {
			return 1, 1 - state
		}
		return state, state // EXISTS
	}},
}

// porcupine's form of a model.
func (m *model) check() porcupine.Model {
	return porcupine.Model{
		Partition: byKey,
		Init:      func() any { return m.start },
		Step: func(state, input, output any) (bool, any) {
			next, result := m.step(state.(int), input.(act))
			got := output.(act)
			return !got.known || got.result == result, next
		},
		DescribeOperation: func(input, output any) string {
			in, out := input.(act), output.(act)
			return fmt.Sprintf("%s %s %d: %d (known: %v)", in.kind, in.key, in.arg, out.result, out.known)
		},
	}
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	parts := make(map[string][]porcupine.Operation)
	for _, op := range history {
		key := op.Input.(act).key
		parts[key] = append(parts[key], op)
	}
	all := make([][]porcupine.Operation, 0, len(parts))
	for _, part := range parts {
		all = append(all, part)
	}
	return all
}

// A history is what some callers did on keys of their own model, and saw.
type history struct {
	t     *testing.T
	n     int // of the history: its keys are nobody else's
	store driver.Store
	gates caches.SentinelCache
	begun time.Time

	done       atomic.Int64 // calls
	unknown    atomic.Int64
	mu         sync.Mutex
	operations map[string][]porcupine.Operation // of each model
}

const (
	keysPerModel = 3
	callsEach    = 40 // of a caller
)

// record has so many callers make their calls. Under faults some of them go away
// early.
func (h *history) record(callers int, faulty bool) {
	together(callers, func(g int) {
		choices := random(fmt.Sprint(h.t.Name(), " history ", h.n), g)
		for i := range callsEach {
			m := &models[choices.IntN(len(models))]
			a := h.choose(m, choices, g*callsEach+i)
			ctx, cancel := context.Background(), func() {}
			if faulty && choices.IntN(40) == 0 {
				ctx, cancel = context.WithTimeout(ctx, time.Duration(choices.IntN(300))*time.Microsecond)
			}
			h.call(ctx, m, g, a)
			cancel()
		}
	})
}

// choose chooses a call; id is different for each.
func (h *history) choose(m *model, choices *rand.Rand, id int) act {
	kinds := map[string][]string{
		"register": {"SET", "GET"}, "counter": {"INCR", "INCR", "GET"}, "set": {"SADD", "SREM", "SISMEMBER"},
		"claim": {"SETNX", "SETNX", "DEL", "GET"}, "gate": {"ONCE", "EXISTS"},
	}[m.name]
	a := act{key: fmt.Sprintf("%s.%d.%d", m.name, h.n, choices.IntN(keysPerModel)), kind: kinds[choices.IntN(len(kinds))], arg: id}
	switch m.name {
	case "set":
		a.arg = choices.IntN(3)
	case "gate":
		a.key = fmt.Sprintf("%s.%d.%d", m.name, h.n, choices.IntN(8)) // each is won once only
	}
	return a
}

// call makes one call and keeps it, unless it has not run, or has told nothing
// and done nothing.
func (h *history) call(ctx context.Context, m *model, client int, a act) {
	begin := time.Since(h.begun).Nanoseconds()
	result, err := h.do(ctx, a)
	op := porcupine.Operation{ClientId: client, Input: a, Call: begin, Return: time.Since(h.begun).Nanoseconds()}
	h.done.Add(1)
	a.result, a.known = result, err == nil
	op.Output = a
	if err != nil {
		if !assert.True(h.t, isOutcome(err), "%s %s: %v", a.kind, a.key, err) || !errors.Is(err, driver.ErrUnknownOutcome) || a.reads() {
			return
		}
		op.Return = math.MaxInt64
		h.unknown.Add(1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations[m.name] = append(h.operations[m.name], op)
}

func (a act) reads() bool { return a.kind == "GET" || a.kind == "SISMEMBER" || a.kind == "EXISTS" }

// do does what an act says.
func (h *history) do(ctx context.Context, a act) (int, error) {
	switch a.kind {
	case "ONCE":
		won, err := h.gates.Key(a.key).Once(ctx)
		return asInt(won), err
	case "EXISTS":
		shut, err := h.gates.Key(a.key).Exists(ctx)
		return asInt(shut), err
	}
	mode := driver.Mode(0)
	if a.reads() {
		mode = driver.ReadOnly
	}
	p := driver.NewPipeline(mode)
	defer p.Free()
	a.append(p)
	if err := h.store.Do(ctx, p); err != nil {
		return 0, err
	}
	return a.read(p.Next())
}

// append appends the command.
func (a act) append(p *driver.Pipeline) {
	switch a.kind {
	case "SETNX":
		p.Cmd("SET").Key(a.key).Int(int64(a.arg)).String("NX")
	case "SET", "SADD", "SREM", "SISMEMBER":
		p.Cmd(a.kind).Key(a.key).Int(int64(a.arg))
	default: // GET, INCR, DEL
		p.Cmd(a.kind).Key(a.key)
	}
}

// read returns the result of a command.
func (a act) read(reply driver.Reply) (int, error) {
	switch reply.Kind() {
	case driver.KindInt:
		n, err := reply.Int()
		return int(n), err
	case driver.KindStatus:
		return asInt(a.kind == "SETNX"), nil // OK: of a SET there is no other result than 0
	case driver.KindNil:
		if a.kind == "SETNX" || a.key[:3] == "cou" {
			return 0, nil // lost; a counter that is not there
		}
		return none, nil
	}
	b, _, err := reply.Bytes()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(b))
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A field is where histories take place.
type field struct {
	server *testutil.RedisServer
	proxy  *testutil.Proxy
	store  driver.Store
	conn   *caches.Conn
	hits   int // faults so far
}

// newField opens a store; through stands between it and the callers.
func newField(t *testing.T, through func(driver.Store) driver.Store) *field {
	t.Helper()
	server := testutil.Redis(t, nil)
	f := &field{server: server, proxy: testutil.NewProxy(t, server.Addr())}
	f.store = through(open(t, redigo.Config{Address: f.proxy.Addr(), Conns: 2}))
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": f.store})
	require.NoError(t, err)
	f.conn = conn
	return f
}

// history records one.
func (f *field) history(t *testing.T, n int, faulty bool) *history {
	choices := random(t.Name(), n)
	gates := caches.SentinelCache{Prefix: "gates"}
	h := &history{
		t: t, n: n, store: f.store, gates: gates.On(f.conn),
		begun: time.Now(), operations: make(map[string][]porcupine.Operation),
	}
	callers := 8 + choices.IntN(9)
	done := make(chan struct{})
	var breaking sync.WaitGroup
	if faulty {
		breaking.Go(func() { f.disturb(t, h, callers*callsEach, choices, done) })
	}
	h.record(callers, faulty)
	close(done)
	breaking.Wait()
	f.proxy.Heal()
	return h
}

// disturb breaks the connection three times while so many calls are made.
func (f *field) disturb(t *testing.T, h *history, calls int, choices *rand.Rand, done <-chan struct{}) {
	for i := range 3 {
		at := int64(calls*i/3 + choices.IntN(calls/3))
		if !await(done, func() bool { return h.done.Load() >= at }) {
			return
		}
		conns := f.proxy.Accepted()
		f.fault(t, choices)
		f.hits++
		if !await(done, func() bool { return f.proxy.Accepted() > conns }) {
			return
		}
		f.proxy.Heal()
	}
}

// fault breaks the connection in one of the ways in which a call can run with
// nobody to hear of it, now or later.
func (f *field) fault(t *testing.T, choices *rand.Rand) {
	switch choices.IntN(5) {
	case 0:
		f.proxy.CutReply(choices.IntN(30))
	case 1:
		f.proxy.CutRequest(choices.IntN(300))
	case 2:
		f.proxy.Reset()
	case 3:
		_, err := f.server.Do("CLIENT", "KILL", "TYPE", "normal")
		assert.NoError(t, err)
	case 4: // what was sent is read, and runs, after its callers have been told
		f.server.Pause()
		time.Sleep(time.Duration(choices.IntN(1000)) * time.Microsecond)
		f.proxy.Reset()
		time.Sleep(time.Duration(choices.IntN(1000)) * time.Microsecond)
		f.server.Resume()
	}
}

// checkTimeout is how long porcupine may look for an order: it takes
// milliseconds where it is not led astray by too many unknown outcomes.
const checkTimeout = time.Minute

func TestLinearizable(t *testing.T) {
	f := newField(t, func(s driver.Store) driver.Store { return s })
	histories, operations, unknown := count(20, 200), 0, int64(0)
	for n := range histories {
		h := f.history(t, n, n%2 == 1)
		for _, m := range models {
			ops := h.operations[m.name]
			require.NotEmpty(t, ops)
			result := porcupine.CheckOperationsTimeout(m.check(), ops, checkTimeout)
			require.Equal(t, porcupine.Ok, result, "history %d of a %s, seed %d:\n%s", n, m.name, seed, describe(&m, ops))
			operations += len(ops)
		}
		unknown += h.unknown.Load()
	}
	require.NotZero(t, unknown, "the faults have hit nothing")
	report(t, fmt.Sprintf("linearizability of %d kinds of keys (porcupine), %d histories, half of them under faults", len(models), histories),
		"all Ok: %d operations, %d of them of unknown outcome, %d faults", operations, unknown, f.hits)
}

// describe shows a history, by the times at which its calls began.
func describe(m *model, ops []porcupine.Operation) string {
	text := ""
	for _, op := range ops {
		text += fmt.Sprintf("%12d %20d  caller %2d  %s\n", op.Call, op.Return, op.ClientId, m.check().DescribeOperation(op.Input, op.Output))
	}
	return text
}

// A crooked store does to one call in fifty what a transport must never do.
type crooked struct {
	driver.Store
	calls atomic.Int64
	wrong func(c *crooked, ctx context.Context, p *driver.Pipeline) error

	mu   sync.Mutex
	kept map[string]string // the first reply to each command
}

func (c *crooked) Do(ctx context.Context, p *driver.Pipeline) error {
	if c.calls.Add(1)%50 == 0 {
		return c.wrong(c, ctx, p)
	}
	err := c.Store.Do(ctx, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if command := string(p.Frames()); err == nil && c.kept[command] == "" {
		c.kept[command] = string(p.Replies().Raw())
	}
	return err
}

// twice runs a call twice and gives the second answer.
func (c *crooked) twice(ctx context.Context, p *driver.Pipeline) error {
	if err := c.Store.Do(ctx, p); err != nil {
		return err
	}
	p.ResetReplies()
	return c.Store.Do(ctx, p)
}

// never says that a call has run that has not.
func (c *crooked) never(ctx context.Context, p *driver.Pipeline) error {
	if name := p.Name(0); name != "SET" && name != "DEL" {
		return c.Store.Do(ctx, p)
	}
	if p.Name(0) == "DEL" {
		p.Replies().Int(1)
	} else {
		p.Replies().Status("OK")
	}
	return nil
}

// denied says that a call has not run that has.
func (c *crooked) denied(ctx context.Context, p *driver.Pipeline) error {
	if err := c.Store.Do(ctx, p); err != nil {
		return err
	}
	return driver.ErrUnavailable
}

// stale gives the first answer that the same command ever had.
func (c *crooked) stale(ctx context.Context, p *driver.Pipeline) error {
	c.mu.Lock()
	old := c.kept[string(p.Frames())]
	c.mu.Unlock()
	if old == "" {
		return c.Store.Do(ctx, p)
	}
	(*resp.Replies)(p.Replies()).Append([]byte(old), 1)
	return nil
}

// TestLinearizableIsRejected records histories of stores that are wrong in one
// call of fifty, on connections that hold: each kind of key that it can show on
// must show it.
func TestLinearizableIsRejected(t *testing.T) {
	rejected := 0
	for _, c := range []struct {
		name  string
		wrong func(c *crooked, ctx context.Context, p *driver.Pipeline) error
		shows []string
	}{
		{"a call that runs twice", (*crooked).twice, []string{"counter", "set", "claim"}},
		{"a write that never runs", (*crooked).never, []string{"register", "claim"}},
		{"a call that runs and is told unavailable", (*crooked).denied, []string{"register", "counter", "set", "claim"}},
		{"an answer of before", (*crooked).stale, []string{"register", "counter", "set", "claim"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newField(t, func(s driver.Store) driver.Store {
				return &crooked{Store: s, wrong: c.wrong, kept: map[string]string{}}
			})
			seen := make(map[string]int)
			for n := 0; n < 100 && !all(seen, c.shows); n++ {
				h := f.history(t, n, false)
				for _, m := range models {
					if porcupine.CheckOperationsTimeout(m.check(), h.operations[m.name], checkTimeout) == porcupine.Illegal {
						seen[m.name]++
						rejected++
					}
				}
			}
			for _, name := range c.shows {
				assert.NotZero(t, seen[name], "%s does not show on a %s: %v", c.name, name, seen)
			}
		})
	}
	report(t, "the same with transports that are wrong in one call of fifty, in four ways", "rejected: %d histories", rejected)
}

// all reports whether every one of names was seen.
func all(seen map[string]int, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return seen[name] == 0 })
}

// TestModels checks short histories, each beside one that is nearly the same.
func TestModels(t *testing.T) {
	const never = math.MaxInt64
	op := func(kind string, arg, result int, begin, end int64) porcupine.Operation {
		a := act{key: "k", kind: kind, arg: arg}
		out := a
		out.result, out.known = result, end != never
		return porcupine.Operation{Input: a, Output: out, Call: begin, Return: end}
	}
	for _, c := range []struct {
		name, model string
		want        porcupine.CheckResult
		ops         []porcupine.Operation
	}{
		{"a read after a write", "register", porcupine.Ok, []porcupine.Operation{op("SET", 1, 0, 0, 1), op("GET", 0, 1, 2, 3)}},
		{"a read of before", "register", porcupine.Illegal, []porcupine.Operation{op("SET", 1, 0, 0, 1), op("GET", 0, none, 2, 3)}},
		{"a read beside a write", "register", porcupine.Ok, []porcupine.Operation{op("SET", 1, 0, 0, 4), op("GET", 0, none, 2, 3)}},
		{"a value that comes back", "register", porcupine.Illegal, []porcupine.Operation{
			op("SET", 1, 0, 0, 1), op("SET", 2, 0, 2, 3), op("GET", 0, 2, 4, 5), op("GET", 0, 1, 6, 7)}},
		{"an unknown write that comes late", "register", porcupine.Ok, []porcupine.Operation{
			op("SET", 1, 0, 0, never), op("SET", 2, 0, 2, 3), op("GET", 0, 2, 4, 5), op("GET", 0, 1, 6, 7)}},
		{"an unknown write that comes twice", "register", porcupine.Illegal, []porcupine.Operation{
			op("SET", 1, 0, 0, never), op("GET", 0, 1, 1, 2), op("SET", 2, 0, 3, 4), op("GET", 0, 2, 5, 6), op("GET", 0, 1, 7, 8)}},
		{"an unknown count that has run", "counter", porcupine.Ok, []porcupine.Operation{op("INCR", 0, 0, 0, never), op("INCR", 0, 2, 2, 3)}},
		{"an unknown count that has not", "counter", porcupine.Ok, []porcupine.Operation{op("INCR", 0, 0, 0, never), op("INCR", 0, 1, 2, 3)}},
		{"an unknown count that has run twice", "counter", porcupine.Illegal, []porcupine.Operation{op("INCR", 0, 0, 0, never), op("INCR", 0, 3, 2, 3)}},
		{"one answer for two", "counter", porcupine.Illegal, []porcupine.Operation{op("INCR", 0, 1, 0, 3), op("INCR", 0, 1, 1, 2)}},
		{"a count before its call", "counter", porcupine.Illegal, []porcupine.Operation{op("GET", 0, 1, 0, 1), op("INCR", 0, 1, 2, 3)}},
		{"a member that was removed", "set", porcupine.Ok, []porcupine.Operation{
			op("SADD", 1, 1, 0, 1), op("SREM", 1, 1, 2, 3), op("SISMEMBER", 1, 0, 4, 5)}},
		{"a member that is lost", "set", porcupine.Illegal, []porcupine.Operation{op("SADD", 1, 1, 0, 1), op("SISMEMBER", 1, 0, 4, 5)}},
		{"a member added twice", "set", porcupine.Illegal, []porcupine.Operation{op("SADD", 1, 1, 0, 3), op("SADD", 1, 1, 1, 2)}},
		{"one winner", "claim", porcupine.Ok, []porcupine.Operation{op("SETNX", 1, 1, 0, 3), op("SETNX", 2, 0, 1, 2), op("GET", 0, 1, 4, 5)}},
		{"two winners", "claim", porcupine.Illegal, []porcupine.Operation{op("SETNX", 1, 1, 0, 3), op("SETNX", 2, 1, 1, 2)}},
		{"a winner after a release", "claim", porcupine.Ok, []porcupine.Operation{op("SETNX", 1, 1, 0, 3), op("DEL", 0, 1, 1, 4), op("SETNX", 2, 1, 2, 5)}},
		{"a loser of nobody", "claim", porcupine.Illegal, []porcupine.Operation{op("SETNX", 1, 0, 0, 1)}},
		{"two through a gate", "gate", porcupine.Illegal, []porcupine.Operation{op("ONCE", 0, 1, 0, 3), op("ONCE", 0, 1, 1, 2)}},
		{"a gate shut by an unknown", "gate", porcupine.Ok, []porcupine.Operation{op("ONCE", 0, 0, 0, never), op("ONCE", 0, 0, 1, 2)}},
		{"a gate that opens", "gate", porcupine.Illegal, []porcupine.Operation{op("ONCE", 0, 1, 0, 1), op("EXISTS", 0, 0, 2, 3)}},
	} {
		for _, m := range models {
			if m.name == c.model {
				assert.Equal(t, c.want, porcupine.CheckOperationsTimeout(m.check(), c.ops, checkTimeout), c.name)
			}
		}
	}
}
