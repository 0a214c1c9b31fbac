package caches_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// TestDifferential runs random plans of operations of all objects in lock step
// on a real Redis and on locmem: few keys, fields, members and values, so that
// they meet, of right and of wrong types. Every result must be the same, and
// every error of the same class.
//
// Some keys live for a tenth of a second. Nothing is compared within 20 ms of
// the end of one, nor where the machine held up a step so long that its end may
// have come between the two sides.
//
// CACHES_TEST_PLAN is the number of operations, CACHES_TEST_SEED replays a plan.
func TestDifferential(t *testing.T) {
	size, seed := planSize(t, 12_000), planSeed(t)
	redis, locmem := open(t, testutil.Redis(t, &testutil.RedisOptions{Unix: true}).DSN()), open(t, "locmem://?maxsize=1000000")
	start := time.Now()
	tracks := make([]*track, 32) // goroutines, each with keys of its own
	var all sync.WaitGroup
	for i := range tracks {
		p := newPlan(seed, i)
		tracks[i] = &track{plan: p, redis: objects{redis, p.prefix}, locmem: objects{locmem, p.prefix}, seed: seed, ends: map[string]window{}, past: map[string][]pastStep{}}
		all.Go(func() { tracks[i].run(t, t.Context(), size/len(tracks)+1) })
	}
	all.Wait()
	compared, spoiled := 0, 0
	for _, track := range tracks {
		compared, spoiled = compared+track.compared, spoiled+track.spoiled
	}
	t.Logf("%d operations compared, %d held up and left out, in %v", compared, spoiled, time.Since(start).Round(time.Millisecond))
	require.True(t, t.Failed() || compared >= size)
}

func planSize(t *testing.T, otherwise int) int {
	return int(planNumber(t, "CACHES_TEST_PLAN", uint64(otherwise)))
}

func planSeed(t *testing.T) uint64 {
	seed := planNumber(t, "CACHES_TEST_SEED", rand.Uint64())
	t.Logf("CACHES_TEST_SEED=%d", seed)
	return seed
}

func planNumber(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// An outcome is what an operation returned, in a form that can be compared.
type outcome struct {
	text  string
	ttl   time.Duration // of ExpiresIn, which two sides never read at once
	drawn []string      // what was drawn at random, for the other side to follow
}

// classes are the errors that callers branch on. The first that an error is
// says what it is; of any other the whole text must be the same.
var classes = []error{
	caches.ErrMiss, caches.ErrUnavailable, caches.ErrUnknownOutcome, caches.ErrTooLarge, caches.ErrCorrupt,
	caches.ErrWrongType, caches.ErrNotNumber, caches.ErrOverflow, caches.ErrNoKey, caches.ErrNoConnection,
}

func class(err error) string {
	if err == nil {
		return ""
	}
	for _, c := range classes {
		if errors.Is(err, c) {
			return " " + c.Error()
		}
	}
	return " " + err.Error()
}

// result is the outcome of an operation that returned v and err.
func result(v any, err error) outcome { return outcome{text: fmt.Sprint(v) + class(err)} }

func failure(err error) outcome { return outcome{text: "done" + class(err)} }

func result2(v any, ok bool, err error) outcome { return result(fmt.Sprint(v, " ", ok), err) }

// unordered is the outcome of an operation whose elements come in any order.
func unordered(v []string, err error) outcome {
	v = slices.Clone(v)
	slices.Sort(v)
	return result(fmt.Sprintf("%q", v), err)
}

// orderedItems is the same for sorted sets, which have an order.
func orderedItems(v []caches.Scored[string], err error) outcome {
	return result(v, err)
}

// A step is one operation, with all that any operation may want drawn.
type step struct {
	op       *operation
	keys     []string // that of the object first
	ttl      time.Duration
	policy   caches.TTLPolicy
	f, v     [3]string // fields or members, and values
	n        [3]int
	s        [3]float64
	delta    int64
	lifetime time.Duration // for Touch
}

func (s *step) String() string {
	return fmt.Sprintf("%s %q ttl=%v policy=%v f=%q v=%q n=%v s=%v delta=%d lifetime=%v",
		s.op.name, s.keys, s.ttl, s.policy, s.f, s.v, s.n, s.s, s.delta, s.lifetime)
}

func (s *step) items() map[string]string {
	return map[string]string{s.f[0]: s.v[0], s.f[1]: s.v[1], s.f[2]: s.v[2]}
}

func (s *step) scored() []caches.Scored[string] {
	return []caches.Scored[string]{scored(s.f[0], s.s[0]), scored(s.f[1], s.s[1]), scored(s.f[2], s.s[2])}
}

// bulk is n members or fields in all, for collections of several pages.
func (s *step) bulk() []string {
	all := make([]string, 260+20*s.n[0])
	for i := range all {
		all[i] = fmt.Sprint("bulk", i)
	}
	return all
}

func (s *step) condition() caches.Condition {
	all := []caches.Condition{0, caches.IfNew, caches.IfExisting, caches.IfGreater, caches.IfLess,
		caches.IfExisting | caches.IfGreater, caches.IfExisting | caches.IfLess, caches.IfGreater | caches.IfLess}
	return all[uint(s.n[2])%uint(len(all))]
}

// A plan draws steps. Its keys are its own: two lists of one for each kind of
// object, those that begin with s live shortly.
type plan struct {
	r      *rand.Rand
	prefix string
	kinds  map[byte][]*operation
	short  time.Duration // the least time to live of short keys
}

func newPlan(seed uint64, i int) *plan {
	return &plan{r: rand.New(rand.NewPCG(seed, uint64(i))), prefix: fmt.Sprint("plan", i), kinds: byKind(), short: 80 * time.Millisecond}
}

// byKind lists the operations by kind of object, as often as they weigh.
func byKind() map[byte][]*operation {
	kinds := map[byte][]*operation{}
	for i := range operations {
		op := &operations[i]
		kinds[op.kind] = append(kinds[op.kind], slices.Repeat([]*operation{op}, max(1, op.weight))...)
	}
	return kinds
}

const kindLetters = "vcdszq" // value, counter, dict, set, sorted set, list

func (p *plan) pick(from ...string) string { return from[p.r.IntN(len(from))] }

func (p *plan) key(kind byte) string {
	if p.r.IntN(6) == 0 {
		return "s" + string(kind)
	}
	return string(kind) + strconv.Itoa(p.r.IntN(3))
}

func shortLived(key string) bool { return key[0] == 's' && key[1] > '9' }

// keys are all keys of the plan.
func planKeys() []string {
	keys := []string{"g0", "g1"}
	for _, kind := range kindLetters {
		keys = append(keys, "s"+string(kind))
		for i := range 3 {
			keys = append(keys, string(kind)+strconv.Itoa(i))
		}
	}
	return keys
}

func (p *plan) next() *step {
	kind := kindLetters[p.r.IntN(len(kindLetters))]
	s := &step{keys: []string{p.key(kind), p.key(kind), p.key(kind)}}
	opKind := kind
	switch n := p.r.IntN(1000); {
	case n < 60:
		s.keys, opKind = []string{p.pick("g0", "g1")}, 'g'
	case n < 120: // of another kind than the key's
		opKind = kindLetters[p.r.IntN(len(kindLetters))]
	case n < 280:
		opKind = 'o'
	case n < 281:
		s.keys, opKind = planKeys(), 'a'
	case n < 284:
		opKind = 'l'
	}
	ops := p.kinds[opKind]
	s.op = ops[p.r.IntN(len(ops))]
	if !s.op.several && opKind != 'a' {
		s.keys = s.keys[:1]
	}
	if s.op.kind == 'o' { // it may write to all its keys: all live shortly, or none
		for i := range s.keys {
			if shortLived(s.keys[i]) != shortLived(s.keys[0]) {
				s.keys[i] = s.keys[0]
			}
		}
	}
	p.draw(s)
	return s
}

func (p *plan) draw(s *step) {
	s.policy = caches.TTLPolicy(p.r.IntN(3))
	minutes := func() time.Duration { return time.Duration(1+p.r.IntN(90)) * time.Minute }
	s.ttl = []time.Duration{0, caches.Forever, minutes(), minutes(), minutes()}[p.r.IntN(5)]
	s.lifetime = []time.Duration{0, caches.Forever, -time.Second, minutes(), minutes(), minutes()}[p.r.IntN(6)]
	if shortLived(s.keys[0]) {
		brief := p.short + time.Duration(p.r.IntN(60))*time.Millisecond
		s.ttl = []time.Duration{0, caches.Forever, brief, brief, brief}[p.r.IntN(5)]
		s.lifetime = []time.Duration{0, caches.Forever, brief}[p.r.IntN(3)]
	}
	for i := range s.f {
		s.f[i] = p.pick("a", "b", "c", "d", "e", "f", "1", "", "bulk7", "\x00")
		s.v[i] = p.pick("", "x", "7", "-3", "0", "1.5", "9223372036854775807")
		s.n[i] = p.r.IntN(16) - 4
		s.s[i] = []float64{math.Inf(-1), -1, 0, 0.25, 1, 2, 2, 3, math.Inf(1)}[p.r.IntN(9)]
	}
	if s.delta = int64(p.r.IntN(20) - 5); p.r.IntN(20) == 0 {
		s.delta = math.MaxInt64
	}
}

// A window is the time in which a key ends on both sides.
type window struct{ from, to time.Time }

const (
	margin = 20 * time.Millisecond // from the end of a key within which nothing is compared
	heldUp = 30 * time.Millisecond // a step of that length is not compared: the briefest key may end within
)

// A track is one goroutine's way through its plan.
type track struct {
	plan          *plan
	redis, locmem objects
	seed          uint64
	ends          map[string]window     // of the short-lived keys that have an end
	past          map[string][]pastStep // the last steps of each key
	compared      int
	spoiled       int
}

func (tr *track) run(t *testing.T, ctx context.Context, size int) {
	for n := 0; tr.compared < size && !t.Failed(); n++ {
		s := tr.plan.next()
		tr.await(s.keys)
		start := time.Now()
		want, got := tr.both(ctx, s)
		same := want.text == got.text && near(want.ttl, got.ttl, time.Minute)
		ends, agree := tr.newEnds(ctx, s.keys, start)
		if tr.disturbed(s.keys, start, time.Now()) {
			tr.spoiled++
			tr.forget(t, ctx, s.keys)
			continue
		}
		for key, w := range ends {
			tr.ends[key] = w
		}
		tr.compared++
		tr.note(s, want)
		if !same || agree != "" {
			t.Errorf("CACHES_TEST_SEED=%d, %s, step %d: %v\n redis: %s %v\nlocmem: %s %v\n%s\n%s",
				tr.seed, tr.plan.prefix, n, s, want.text, want.ttl, got.text, got.ttl, agree, tr.history(s.keys))
		}
	}
}

func near(a, b, slack time.Duration) bool {
	return a == b || a != caches.Forever && b != caches.Forever && (a-b).Abs() <= slack
}

// both runs a step on both sides. Where the sides have drawn different elements
// at random, each follows the other, so that both have lost the same.
func (tr *track) both(ctx context.Context, s *step) (want, got outcome) {
	want, got = s.op.run(ctx, tr.redis, s), s.op.run(ctx, tr.locmem, s)
	if s.op.follow == nil || slices.Equal(want.drawn, got.drawn) {
		return want, got
	}
	other := func(mine, theirs []string) []string { // what they have drawn and I have not
		return slices.DeleteFunc(slices.Clone(theirs), func(e string) bool { return slices.Contains(mine, e) })
	}
	want.text += s.op.follow(ctx, tr.redis, s, other(want.drawn, got.drawn))
	got.text += s.op.follow(ctx, tr.locmem, s, other(got.drawn, want.drawn))
	return want, got
}

// await waits until no short-lived key is near its end.
func (tr *track) await(keys []string) {
	for _, key := range keys {
		if w := tr.ends[key]; w != (window{}) && time.Until(w.from) < margin+heldUp {
			time.Sleep(time.Until(w.to) + margin + time.Millisecond)
			delete(tr.ends, key) // it has ended
		}
	}
}

// newEnds asks both sides how long the short-lived keys among keys have, zero
// where there is no end, and says what they disagree on.
func (tr *track) newEnds(ctx context.Context, keys []string, start time.Time) (ends map[string]window, disagree string) {
	ends = map[string]window{}
	for _, key := range keys {
		if !shortLived(key) {
			continue
		}
		before := time.Now()
		a, errA := tr.redis.object(key).ExpiresIn(ctx)
		b, errB := tr.locmem.object(key).ExpiresIn(ctx)
		after := time.Now()
		old := tr.ends[key]
		slack := after.Sub(start) + old.to.Sub(old.from) + 3*time.Millisecond
		if class(errA) != class(errB) || !near(a, b, slack) {
			disagree += fmt.Sprintf("%q ends in %v%s on redis, %v%s on locmem (slack %v)\n", key, a, class(errA), b, class(errB), slack)
		}
		ends[key] = window{}
		if errA == nil && a != caches.Forever && b != caches.Forever {
			ends[key] = window{before.Add(min(a, b)), after.Add(max(a, b) + time.Millisecond)}
		}
	}
	return ends, disagree
}

// disturbed reports whether a short-lived key may have ended while a step ran.
func (tr *track) disturbed(keys []string, start, end time.Time) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		w := tr.ends[key]
		return shortLived(key) && (end.Sub(start) > heldUp || w != (window{}) && end.After(w.from.Add(-margin)) && start.Before(w.to.Add(margin)))
	})
}

// forget makes both sides equal again.
func (tr *track) forget(t *testing.T, ctx context.Context, keys []string) {
	for _, key := range keys {
		for _, side := range []objects{tr.redis, tr.locmem} {
			if err := errOf(side.object(key).Delete(ctx)); err != nil {
				t.Error(err)
			}
		}
		delete(tr.ends, key)
		tr.past[key] = nil
	}
}

const pastSteps = 20

// A pastStep is told only where something has failed.
type pastStep struct {
	*step
	text string
}

func (tr *track) note(s *step, want outcome) {
	for _, key := range s.keys {
		past := tr.past[key]
		if len(past) == pastSteps {
			past = slices.Delete(past, 0, 1)
		}
		tr.past[key] = append(past, pastStep{s, want.text})
	}
}

func (tr *track) history(keys []string) string {
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "the last steps of %q:\n", key)
		for _, past := range tr.past[key] {
			fmt.Fprintf(&b, "  %v = %.200s\n", past.step, past.text)
		}
	}
	return b.String()
}

// objects makes the objects of one side.
type objects struct {
	conn   *caches.Conn
	prefix string
}

func (x objects) options(s *step) caches.Options {
	return caches.Options{Prefix: x.prefix, TTL: s.ttl, TTLPolicy: s.policy, Serializer: caches.Raw}
}

func (x objects) object(key string) caches.Value[string] {
	return caches.Cache[string]{Prefix: x.prefix}.On(x.conn).Key(key)
}

func (x objects) values(s *step) caches.Cache[string] {
	return caches.Cache[string](x.options(s)).On(x.conn)
}

func (x objects) value(s *step) caches.Value[string] { return x.values(s).Key(s.keys[0]) }

func (x objects) counter(s *step) caches.Counter[int64] {
	return caches.CounterCache[int64](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) meter(s *step) caches.Counter[float64] {
	return caches.CounterCache[float64](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) dict(s *step) caches.Dict[string, string] {
	return caches.DictCache[string, string](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) tallies(s *step) caches.Dict[string, int64] {
	return caches.DictCache[string, int64](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) set(s *step, key string) caches.Set[string] {
	return caches.SetCache[string](x.options(s)).On(x.conn).Key(key)
}

func (x objects) members(s *step) caches.Set[string] { return x.set(s, s.keys[0]) }

func (x objects) board(s *step) caches.SortedSet[string] {
	return caches.SortedSetCache[string](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) list(s *step) caches.List[string] {
	return caches.ListCache[string](x.options(s)).On(x.conn).Key(s.keys[0])
}

func (x objects) gate(s *step) caches.Sentinel {
	o := x.options(s)
	return caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL}.On(x.conn).Key(s.keys[0])
}

// An operation is one that a plan can draw, and how it runs on a side. The
// kinds are those of kindLetters, o for what all objects have, g for gates, l for
// what makes a collection large, and a for what concerns all keys.
type operation struct {
	kind    byte
	name    string
	weight  int // zero means 1
	several bool
	run     func(ctx context.Context, x objects, s *step) outcome
	// follow takes from a side what the other one has drawn at random.
	follow func(ctx context.Context, x objects, s *step, drawn []string) string
}

// draws is the outcome of an operation that draws at random: how many elements,
// and which.
func draws(drawn []string, err error) outcome {
	return outcome{text: fmt.Sprint(len(drawn)) + class(err), drawn: drawn}
}

func drawsOne(drawn string, err error) outcome {
	if err != nil {
		return draws(nil, err)
	}
	return draws([]string{drawn}, nil)
}

func removeDrawn(ctx context.Context, x objects, s *step, drawn []string) string {
	return result(x.members(s).Remove(ctx, drawn...)).text
}

func collectAll[T any](all iter.Seq[T], end func() error) ([]T, error) {
	elements := slices.Collect(all)
	return elements, end()
}

// pairs joins the two halves of what an iterator gives.
func pairs[V any](all iter.Seq2[string, V], end func() error) ([]string, error) {
	var elements []string
	for k, v := range all {
		elements = append(elements, fmt.Sprintf("%q=%v", k, v))
	}
	return elements, end()
}

func indexedEnd(all iter.Seq2[int, string], end func() error) ([]string, error) {
	return indexed(all), end()
}

func algebraOf(op func(caches.Set[string], context.Context, ...caches.Set[string]) (map[string]struct{}, error)) func(context.Context, objects, *step) outcome {
	return func(ctx context.Context, x objects, s *step) outcome {
		return result(op(x.members(s), ctx, x.set(s, s.keys[1]), x.set(s, s.keys[2])))
	}
}

// storeOf stores into the first key, which is sometimes among the sources.
func storeOf(op func(caches.Set[string], context.Context, caches.Set[string], ...caches.Set[string]) (int, error)) func(context.Context, objects, *step) outcome {
	return func(ctx context.Context, x objects, s *step) outcome {
		return result(op(x.members(s), ctx, x.set(s, s.keys[1]), x.set(s, s.keys[2])))
	}
}

var operations = []operation{
	{kind: 'o', name: "Exists", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Exists(ctx)) }},
	{kind: 'o', name: "Delete", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Delete(ctx)) }},
	{kind: 'o', name: "ExpiresIn", weight: 12, run: expiresIn},
	{kind: 'o', name: "Touch", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return failure(x.value(s).Touch(ctx, s.lifetime))
	}},
	{kind: 'o', name: "Persist", run: func(ctx context.Context, x objects, s *step) outcome { return failure(x.value(s).Persist(ctx)) }},
	{kind: 'o', name: "GetMany", several: true, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(caches.GetMany(ctx, x.values(s), s.keys))
	}},
	{kind: 'o', name: "SetMany", several: true, run: func(ctx context.Context, x objects, s *step) outcome {
		return failure(caches.SetMany(ctx, x.values(s), map[string]string{s.keys[0]: s.v[0], s.keys[1]: s.v[0]}))
	}},
	{kind: 'o', name: "DeleteMany", several: true, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(caches.DeleteMany(ctx, x.values(s), s.keys[:2]))
	}},
	{kind: 'a', name: "Clear", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.values(s).Clear(ctx)) }},

	{kind: 'v', name: "Get", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Get(ctx)) }},
	{kind: 'v', name: "GetOr", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).GetOr(ctx, "def")) }},
	{kind: 'v', name: "GetOrSet", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.value(s).GetOrSet(ctx, func(context.Context) (string, error) { return s.v[0], nil }))
	}},
	{kind: 'v', name: "Set", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return failure(x.value(s).Set(ctx, s.v[0])) }},
	{kind: 'v', name: "Add", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Add(ctx, s.v[0])) }},
	{kind: 'v', name: "Replace", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Replace(ctx, s.v[0])) }},
	{kind: 'v', name: "Swap", run: func(ctx context.Context, x objects, s *step) outcome { return result2(x.value(s).Swap(ctx, s.v[0])) }},
	{kind: 'v', name: "Pop", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.value(s).Pop(ctx)) }},

	{kind: 'c', name: "counter.Incr", weight: 3, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.counter(s).Incr(ctx, s.delta)) }},
	{kind: 'c', name: "counter.Decr", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.counter(s).Decr(ctx, s.delta)) }},
	{kind: 'c', name: "counter.Get", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.counter(s).Get(ctx)) }},
	{kind: 'c', name: "counter.Set", run: func(ctx context.Context, x objects, s *step) outcome { return failure(x.counter(s).Set(ctx, s.delta)) }},
	{kind: 'c', name: "counter.Swap", run: func(ctx context.Context, x objects, s *step) outcome { return result2(x.counter(s).Swap(ctx, s.delta)) }},
	{kind: 'c', name: "counter.Pop", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.counter(s).Pop(ctx)) }},
	{kind: 'c', name: "meter.Incr", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.meter(s).Incr(ctx, float64(s.n[0])/4))
	}},
	{kind: 'c', name: "meter.Get", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.meter(s).Get(ctx)) }},

	{kind: 'd', name: "dict.Get", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Get(ctx, s.f[0])) }},
	{kind: 'd', name: "dict.GetMany", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.dict(s).GetMany(ctx, s.f[:]...))
	}},
	{kind: 'd', name: "dict.Set", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return failure(x.dict(s).Set(ctx, s.f[0], s.v[0]))
	}},
	{kind: 'd', name: "dict.Update", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return failure(x.dict(s).Update(ctx, s.items()))
	}},
	{kind: 'd', name: "dict.GetOrAdd", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result2(x.dict(s).GetOrAdd(ctx, s.f[0], s.v[0]))
	}},
	{kind: 'd', name: "dict.Remove", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Remove(ctx, s.f[:]...)) }},
	{kind: 'd', name: "dict.Contains", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Contains(ctx, s.f[0])) }},
	{kind: 'd', name: "dict.Len", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Len(ctx)) }},
	{kind: 'd', name: "dict.Pop", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Pop(ctx, s.f[0])) }},
	{kind: 'd', name: "dict.PopItem", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		f, _, err := x.dict(s).PopItem(ctx)
		return drawsOne(f, err)
	}, follow: func(ctx context.Context, x objects, s *step, drawn []string) string {
		return result(x.dict(s).Remove(ctx, drawn...)).text
	}},
	{kind: 'd', name: "dict.Keys", run: func(ctx context.Context, x objects, s *step) outcome { return unordered(x.dict(s).Keys(ctx)) }},
	{kind: 'd', name: "dict.Values", run: func(ctx context.Context, x objects, s *step) outcome { return unordered(x.dict(s).Values(ctx)) }},
	{kind: 'd', name: "dict.Copy", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.dict(s).Copy(ctx)) }},
	{kind: 'd', name: "dict.All", run: func(ctx context.Context, x objects, s *step) outcome { return unordered(pairs(x.dict(s).All(ctx))) }},
	{kind: 'd', name: "tallies.Incr", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.tallies(s).Incr(ctx, s.f[0], s.delta))
	}},
	{kind: 'd', name: "tallies.Get", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.tallies(s).Get(ctx, s.f[0])) }},
	{kind: 'd', name: "tallies.Copy", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.tallies(s).Copy(ctx)) }},

	{kind: 's', name: "set.Add", weight: 3, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.members(s).Add(ctx, s.f[:]...)) }},
	{kind: 's', name: "set.Remove", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.members(s).Remove(ctx, s.f[:]...))
	}},
	{kind: 's', name: "set.Contains", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.members(s).Contains(ctx, s.f[0]))
	}},
	{kind: 's', name: "set.ContainsMany", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.members(s).ContainsMany(ctx, s.f[:]...))
	}},
	{kind: 's', name: "set.Len", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.members(s).Len(ctx)) }},
	{kind: 's', name: "set.Copy", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.members(s).Copy(ctx)) }},
	{kind: 's', name: "set.All", run: func(ctx context.Context, x objects, s *step) outcome {
		return unordered(collectAll(x.members(s).All(ctx)))
	}},
	{kind: 's', name: "set.Pop", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return drawsOne(x.members(s).Pop(ctx)) }, follow: removeDrawn},
	{kind: 's', name: "set.PopN", run: func(ctx context.Context, x objects, s *step) outcome { return draws(x.members(s).PopN(ctx, s.n[0])) }, follow: removeDrawn},
	{kind: 's', name: "set.Random", run: func(ctx context.Context, x objects, s *step) outcome { return drawsOne(x.members(s).Random(ctx)) }, follow: func(ctx context.Context, x objects, s *step, drawn []string) string {
		return fmt.Sprint(len(drawn), result(x.members(s).Contains(ctx, drawn[0])).text)
	}},
	{kind: 's', name: "set.Union", several: true, run: algebraOf(caches.Set[string].Union)},
	{kind: 's', name: "set.Intersect", several: true, run: algebraOf(caches.Set[string].Intersect)},
	{kind: 's', name: "set.Difference", several: true, run: algebraOf(caches.Set[string].Difference)},
	{kind: 's', name: "set.StoreUnion", several: true, run: storeOf(caches.Set[string].StoreUnion)},
	{kind: 's', name: "set.StoreIntersect", several: true, run: storeOf(caches.Set[string].StoreIntersect)},
	{kind: 's', name: "set.StoreDifference", several: true, run: storeOf(caches.Set[string].StoreDifference)},

	{kind: 'z', name: "sorted.Add", weight: 3, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).Add(ctx, s.scored()...))
	}},
	{kind: 'z', name: "sorted.AddIf", weight: 4, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).AddIf(ctx, s.condition(), s.scored()...))
	}},
	{kind: 'z', name: "sorted.Incr", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).Incr(ctx, s.f[0], s.s[0]))
	}},
	{kind: 'z', name: "sorted.Score", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Score(ctx, s.f[0])) }},
	{kind: 'z', name: "sorted.Contains", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Contains(ctx, s.f[0])) }},
	{kind: 'z', name: "sorted.Rank", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Rank(ctx, s.f[0])) }},
	{kind: 'z', name: "sorted.RevRank", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).RevRank(ctx, s.f[0])) }},
	{kind: 'z', name: "sorted.Len", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Len(ctx)) }},
	{kind: 'z', name: "sorted.Count", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).Count(ctx, s.s[0], s.s[1]))
	}},
	{kind: 'z', name: "sorted.Range", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).Range(ctx, s.n[0], s.n[1]))
	}},
	{kind: 'z', name: "sorted.RevRange", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).RevRange(ctx, s.n[0], s.n[1]))
	}},
	{kind: 'z', name: "sorted.RangeByScore", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).RangeByScore(ctx, s.s[0], s.s[1]))
	}},
	{kind: 'z', name: "sorted.RevRangeByScore", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).RevRangeByScore(ctx, s.s[0], s.s[1]))
	}},
	{kind: 'z', name: "sorted.PopMin", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).PopMin(ctx)) }},
	{kind: 'z', name: "sorted.PopMax", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).PopMax(ctx)) }},
	{kind: 'z', name: "sorted.PopMinN", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).PopMinN(ctx, s.n[0]))
	}},
	{kind: 'z', name: "sorted.PopMaxN", run: func(ctx context.Context, x objects, s *step) outcome {
		return orderedItems(x.board(s).PopMaxN(ctx, s.n[0]))
	}},
	{kind: 'z', name: "sorted.Remove", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).Remove(ctx, s.f[:]...))
	}},
	{kind: 'z', name: "sorted.RemoveRange", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).RemoveRange(ctx, s.n[0], s.n[1]))
	}},
	{kind: 'z', name: "sorted.RemoveRangeByScore", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.board(s).RemoveRangeByScore(ctx, s.s[0], s.s[1]))
	}},
	{kind: 'z', name: "sorted.Trim", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Trim(ctx, s.n[0])) }},
	{kind: 'z', name: "sorted.Copy", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.board(s).Copy(ctx)) }},
	{kind: 'z', name: "sorted.All", run: func(ctx context.Context, x objects, s *step) outcome { return result(pairs(x.board(s).All(ctx))) }},
	{kind: 'z', name: "sorted.Backward", run: func(ctx context.Context, x objects, s *step) outcome { return result(pairs(x.board(s).Backward(ctx))) }},
	{kind: 'z', name: "sorted.Chunk", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(collectAll(x.board(s).Chunk(ctx, s.n[0], s.n[1], s.n[2])))
	}},

	{kind: 'q', name: "list.PushFront", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).PushFront(ctx, s.f[:2]...))
	}},
	{kind: 'q', name: "list.PushBack", weight: 3, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).PushBack(ctx, s.f[:]...))
	}},
	{kind: 'q', name: "list.PushCapped", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).PushCapped(ctx, s.n[0], s.f[:2]...))
	}},
	{kind: 'q', name: "list.PopFront", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).PopFront(ctx)) }},
	{kind: 'q', name: "list.PopBack", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).PopBack(ctx)) }},
	{kind: 'q', name: "list.PopFrontN", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).PopFrontN(ctx, s.n[0])) }},
	{kind: 'q', name: "list.PopBackN", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).PopBackN(ctx, s.n[0])) }},
	{kind: 'q', name: "list.Len", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).Len(ctx)) }},
	{kind: 'q', name: "list.At", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).At(ctx, s.n[0])) }},
	{kind: 'q', name: "list.Range", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).Range(ctx, s.n[0], s.n[1]))
	}},
	{kind: 'q', name: "list.Copy", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).Copy(ctx)) }},
	{kind: 'q', name: "list.Contains", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).Contains(ctx, s.f[0])) }},
	{kind: 'q', name: "list.Remove", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).Remove(ctx, s.f[:2]...))
	}},
	{kind: 'q', name: "list.RemoveN", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).RemoveN(ctx, s.n[0], s.f[0]))
	}},
	{kind: 'q', name: "list.Trim", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.list(s).Trim(ctx, s.n[0])) }},
	{kind: 'q', name: "list.KeepRange", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).KeepRange(ctx, s.n[0], s.n[1]))
	}},
	{kind: 'q', name: "list.All", run: func(ctx context.Context, x objects, s *step) outcome { return result(indexedEnd(x.list(s).All(ctx))) }},
	{kind: 'q', name: "list.Backward", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(indexedEnd(x.list(s).Backward(ctx)))
	}},

	{kind: 'l', name: "list.PushBack of many", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.list(s).PushBack(ctx, s.bulk()...))
	}},
	{kind: 'l', name: "dict.Update of many", run: func(ctx context.Context, x objects, s *step) outcome {
		items := map[string]string{}
		for _, f := range s.bulk() {
			items[f] = s.v[0]
		}
		return failure(x.dict(s).Update(ctx, items))
	}},
	{kind: 'l', name: "set.Add of many", run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.members(s).Add(ctx, s.bulk()...))
	}},
	{kind: 'l', name: "sorted.Add of many", run: func(ctx context.Context, x objects, s *step) outcome {
		var items []caches.Scored[string]
		for i, member := range s.bulk() {
			items = append(items, scored(member, float64(i/100)))
		}
		return result(x.board(s).Add(ctx, items...))
	}},

	{kind: 'g', name: "gate.Once", weight: 3, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.gate(s).Once(ctx)) }},
	{kind: 'g', name: "gate.Do", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome {
		return result(x.gate(s).Do(ctx, func(context.Context) error { return nil }))
	}},
	{kind: 'g', name: "gate.Exists", run: func(ctx context.Context, x objects, s *step) outcome { return result(x.gate(s).Exists(ctx)) }},
	{kind: 'g', name: "gate.Delete", weight: 2, run: func(ctx context.Context, x objects, s *step) outcome { return result(x.gate(s).Delete(ctx)) }},
	{kind: 'g', name: "gate.ExpiresIn", weight: 2, run: expiresIn},
	{kind: 'g', name: "gate.Touch", run: func(ctx context.Context, x objects, s *step) outcome {
		return failure(x.gate(s).Touch(ctx, s.lifetime))
	}},
}

func expiresIn(ctx context.Context, x objects, s *step) outcome {
	ttl, err := x.value(s).ExpiresIn(ctx)
	return outcome{text: fmt.Sprint(ttl == caches.Forever) + class(err), ttl: ttl}
}
