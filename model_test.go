package caches_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// TestModel runs the plans of TestDifferential on locmem against plain Go maps,
// in a bubble whose clock both read: there the end of a key is exact, to the
// millisecond. What Redis does is in TestDifferential; this says what the
// objects mean, in Go.
//
// CACHES_TEST_PLAN is the number of operations, CACHES_TEST_SEED replays a plan.
func TestModel(t *testing.T) {
	size, seed := planSize(t, 20_000), planSeed(t)
	const plans = 6
	for i := range plans {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { modelRun(t, seed, i, size/plans) })
		})
	}
}

func modelRun(t *testing.T, seed uint64, i, size int) {
	ctx, conn := t.Context(), open(t, "locmem://")
	p := newPlan(seed, i)
	locmem, m := objects{conn, p.prefix}, &model{prefix: p.prefix, now: time.Now, entries: map[string]*entry{}}
	for n := range size {
		s := p.next()
		if p.r.IntN(8) == 0 {
			time.Sleep(time.Duration(p.r.IntN(60)) * time.Millisecond)
		}
		if p.r.IntN(500) == 0 {
			time.Sleep(time.Hour)
		}
		got := s.op.run(ctx, locmem, s)
		want := m.run(s, got.drawn)
		require.Equal(t, want, got.text, "CACHES_TEST_SEED=%d, plan %d, step %d: %v", seed, i, n, s)
		for _, key := range s.keys {
			ttl, err := locmem.object(key).ExpiresIn(ctx)
			require.Equal(t, m.expiresIn(key), fmt.Sprint(ttl)+class(err), "CACHES_TEST_SEED=%d, plan %d, step %d: %q after %v", seed, i, n, key, s)
		}
	}
}

// A model is what the objects of one plan are in Go.
type model struct {
	prefix  string
	now     func() time.Time
	entries map[string]*entry
}

// An entry is one object: one of the five is there, what its type is.
type entry struct {
	text  *string
	dict  map[string]string
	set   map[string]struct{}
	board map[string]float64
	list  []string
	end   time.Time // zero for none
}

// at returns the object at key, nil where there is none.
func (m *model) at(key string) *entry {
	e := m.entries[key]
	if e != nil && !e.end.IsZero() && m.now().After(e.end) { // as in Redis: its last millisecond is its own
		delete(m.entries, key)
		return nil
	}
	return e
}

func (m *model) expiresIn(key string) string {
	switch e := m.at(key); {
	case e == nil:
		return fmt.Sprint(time.Duration(0)) + class(caches.ErrMiss)
	case e.end.IsZero():
		return fmt.Sprint(caches.Forever)
	default:
		return fmt.Sprint(e.end.Sub(m.now()))
	}
}

// A modelStep is a step on its way through the model.
type modelStep struct {
	*step
	m     *model
	key   string
	e     *entry // nil for none
	drawn []string
}

// run does s and returns the text of its outcome. Where locmem has drawn at
// random, the model takes what it drew.
func (m *model) run(s *step, drawn []string) string {
	x := &modelStep{step: s, m: m, key: s.keys[0], e: m.at(s.keys[0]), drawn: drawn}
	run := modelOf[s.op.name]
	if run == nil {
		panic("the model has no " + s.op.name)
	}
	out := run(x)
	if e := m.entries[x.key]; e != nil && e.empty() {
		delete(m.entries, x.key)
	}
	return out
}

func (e *entry) empty() bool {
	return e.text == nil && len(e.dict)+len(e.set)+len(e.board)+len(e.list) == 0
}

// forever reports whether the type of the step has no time to live.
func (x *modelStep) forever() bool { return x.ttl == 0 || x.ttl == caches.Forever }

// wrote gives the object its time to live, as after every write.
func (x *modelStep) wrote() {
	e := x.m.at(x.key)
	if e == nil || e.empty() || x.forever() || x.policy == caches.FromCreation && !e.end.IsZero() {
		return
	}
	e.end = x.m.now().Add(x.ttl)
}

// read is wrote for reads, which may slide.
func (x *modelStep) read() {
	if x.policy == caches.SlideOnRead {
		x.wrote()
	}
}

// entry returns the object to write to, a new one where there is none.
func (x *modelStep) entry() *entry {
	if x.e == nil {
		x.e = &entry{}
		x.m.entries[x.key] = x.e
	}
	return x.e
}

// The types. Each of these returns what is there, nothing where there is
// nothing, and ok where it is not something else.
func (x *modelStep) text() (text *string, ok bool) {
	if x.e == nil {
		return nil, true
	}
	return x.e.text, x.e.text != nil
}

func (x *modelStep) dict() (map[string]string, bool) {
	if x.e == nil {
		return nil, true
	}
	return x.e.dict, x.e.dict != nil
}

func (m *model) set(key string) (map[string]struct{}, bool) {
	e := m.at(key)
	if e == nil {
		return nil, true
	}
	return e.set, e.set != nil
}

func (x *modelStep) board() (map[string]float64, bool) {
	if x.e == nil {
		return nil, true
	}
	return x.e.board, x.e.board != nil
}

func (x *modelStep) list() ([]string, bool) {
	if x.e == nil {
		return nil, true
	}
	return x.e.list, len(x.e.list) > 0
}

// ranked returns the members of a board in their order.
func ranked(board map[string]float64) []caches.Scored[string] {
	var all []caches.Scored[string]
	for member, score := range board {
		all = append(all, scored(member, score))
	}
	slices.SortFunc(all, func(a, b caches.Scored[string]) int {
		return cmp.Or(cmp.Compare(a.Score, b.Score), strings.Compare(a.Member, b.Member))
	})
	return all
}

// onDict, onSet and onBoard make the model of an operation on one type. Writes
// says that it may create, zero is the result on another type.
func onDict(zero any, writes bool, do func(x *modelStep, d map[string]string) (any, error)) func(*modelStep) string {
	return func(x *modelStep) string {
		d, ok := x.dict()
		if ok && writes && d == nil {
			d = map[string]string{}
		}
		v, err := zero, error(caches.ErrWrongType)
		if ok {
			v, err = do(x, d)
		}
		if ok && len(d) > 0 {
			x.entry().dict = d
		}
		return x.finish(writes, v, err)
	}
}

func onSet(zero any, writes bool, do func(x *modelStep, s map[string]struct{}) (any, error)) func(*modelStep) string {
	return func(x *modelStep) string {
		s, ok := x.m.set(x.key)
		if ok && writes && s == nil {
			s = map[string]struct{}{}
		}
		v, err := zero, error(caches.ErrWrongType)
		if ok {
			v, err = do(x, s)
		}
		if ok && len(s) > 0 {
			x.entry().set = s
		}
		return x.finish(writes, v, err)
	}
}

func onBoard(zero any, writes bool, do func(x *modelStep, b map[string]float64) (any, error)) func(*modelStep) string {
	return func(x *modelStep) string {
		b, ok := x.board()
		if ok && writes && b == nil {
			b = map[string]float64{}
		}
		v, err := zero, error(caches.ErrWrongType)
		if ok {
			v, err = do(x, b)
		}
		if ok && len(b) > 0 {
			x.entry().board = b
		}
		return x.finish(writes, v, err)
	}
}

// onList is the model of an operation that returns the list as it is afterwards.
func onList(zero any, writes bool, do func(x *modelStep, l []string) (list []string, v any, err error)) func(*modelStep) string {
	return func(x *modelStep) string {
		l, ok := x.list()
		v, err := zero, error(caches.ErrWrongType)
		if ok {
			if l, v, err = do(x, slices.Clone(l)); len(l) > 0 || x.e != nil {
				x.entry().list = l
			}
		}
		return x.finish(writes, v, err)
	}
}

// finish ends an operation that writes or reads in one step with the expiry:
// that runs unless the command was refused.
func (x *modelStep) finish(writes bool, v any, err error) string {
	switch {
	case errors.Is(err, caches.ErrWrongType), errors.Is(err, caches.ErrNotNumber), errors.Is(err, caches.ErrOverflow):
	case writes:
		x.wrote()
	default:
		x.read()
	}
	return result(v, err).text
}

// still is an operation that leaves the expiry, whatever it does.
func still(run func(*modelStep) string) func(*modelStep) string {
	return func(x *modelStep) string {
		x.step = &step{op: x.op, keys: x.keys, ttl: caches.Forever, f: x.f, v: x.v, n: x.n, s: x.s, delta: x.delta}
		return run(x)
	}
}

var noItems []caches.Scored[string]

func missing(ok bool) error {
	if ok {
		return nil
	}
	return caches.ErrMiss
}

// What a text is to the three types of values.
func asText(text string) (any, error) { return text, nil }

func asInt(text string) (any, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, caches.ErrCorrupt
	}
	return n, nil
}

func asFloat(text string) (any, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, caches.ErrCorrupt
	}
	return f, nil
}

// store is SET: creates says that it is one that stores only where there is
// nothing.
func (x *modelStep) store(text string, creates bool) {
	e := &entry{text: &text}
	if keep := x.policy == caches.FromCreation && !creates && x.e != nil; keep {
		e.end = x.e.end
	}
	x.e, x.m.entries[x.key] = e, e
	x.wrote()
}

func (x *modelStep) modelGet(zero string, parse func(string) (any, error)) string {
	text, ok := x.text()
	switch {
	case !ok:
		return zero + class(caches.ErrWrongType)
	case text == nil:
		return zero + class(caches.ErrMiss)
	}
	x.read()
	return parsed(*text, zero, "", parse)
}

// parsed is what text is, or zero and an error, with more behind both.
func parsed(text, zero, more string, parse func(string) (any, error)) string {
	v, err := parse(text)
	if err != nil {
		return zero + more + class(err)
	}
	return fmt.Sprint(v) + more
}

func (x *modelStep) modelSwap(text, zero string, parse func(string) (any, error)) string {
	old, ok := x.text()
	if !ok {
		return zero + " false" + class(caches.ErrWrongType)
	}
	x.store(text, false)
	if old == nil {
		return zero + " false"
	}
	return parsed(*old, zero, " true", parse)
}

func (x *modelStep) modelPop(zero string, parse func(string) (any, error)) string {
	text, ok := x.text()
	switch {
	case !ok:
		return zero + class(caches.ErrWrongType)
	case text == nil:
		return zero + class(caches.ErrMiss)
	}
	delete(x.m.entries, x.key)
	return parsed(*text, zero, "", parse)
}

// count is an increment by an integer, measure one by a float.
func (x *modelStep) count(delta int64) string {
	return x.arithmetic(func(old string) (any, string, error) {
		n, err := added(old, delta)
		return n, fmt.Sprint(n), err
	})
}

func (x *modelStep) measure(delta float64) string {
	return x.arithmetic(func(old string) (any, string, error) {
		sum, _, err := big.ParseFloat(old, 10, 64, big.ToNearestEven) // C's long double
		if err != nil {
			return 0, "", caches.ErrNotNumber
		}
		text := strings.TrimRight(sum.Add(sum, big.NewFloat(delta)).Text('f', 17), "0")
		text = strings.TrimSuffix(text, ".")
		f, err := strconv.ParseFloat(text, 64)
		return f, text, err
	})
}

func (x *modelStep) arithmetic(do func(old string) (result any, text string, err error)) string {
	old, ok := x.text()
	if !ok {
		return "0" + class(caches.ErrWrongType)
	}
	zero := "0"
	if old == nil {
		old = &zero
	}
	v, text, err := do(*old)
	if err != nil {
		return "0" + class(err)
	}
	x.entry().text = &text
	x.wrote()
	return fmt.Sprint(v)
}

func added(old string, delta int64) (int64, error) {
	n, err := strconv.ParseInt(old, 10, 64)
	switch {
	case err != nil:
		return 0, caches.ErrNotNumber
	case delta > 0 && n > math.MaxInt64-delta, delta < 0 && n < math.MinInt64-delta:
		return 0, caches.ErrOverflow
	}
	return n + delta, nil
}

func modelTouch(x *modelStep) string {
	switch {
	case x.lifetime < 0:
		return failure(x.refused("Touch", fmt.Sprintf("caches: a TTL of %v is negative: use caches.Forever for none", x.lifetime))).text
	case x.e == nil:
		return failure(caches.ErrMiss).text
	case x.lifetime == caches.Forever:
		x.e.end = time.Time{}
	case x.lifetime > 0:
		x.e.end = x.m.now().Add(x.lifetime)
	case !x.forever():
		x.e.end = x.m.now().Add(x.ttl)
	}
	return failure(nil).text
}

func modelPersist(x *modelStep) string {
	if x.e == nil {
		return failure(caches.ErrMiss).text
	}
	x.e.end = time.Time{}
	return failure(nil).text
}

// refused is the error of a call that asks nobody.
func (x *modelStep) refused(op, text string) error {
	return &caches.OpError{Op: op, Key: x.m.prefix + "." + x.key, Err: fmt.Errorf("%s", text)}
}

// noTrip is the outcome of an operation on n[0] elements, none or fewer.
func (x *modelStep) noTrip(op, zero string) string {
	if x.n[0] == 0 {
		return zero
	}
	return zero + class(x.refused(op, fmt.Sprintf("caches: the number of elements, %d, is negative", x.n[0])))
}

// each calls do for every key of the step.
func (x *modelStep) each(keys []string, do func(x *modelStep)) {
	for _, key := range keys {
		do(&modelStep{step: x.step, m: x.m, key: key, e: x.m.at(key)})
	}
}

func modelGetMany(x *modelStep) string {
	found := map[string]string{}
	var failed error
	x.each(x.keys, func(x *modelStep) {
		switch text, ok := x.text(); {
		case text != nil:
			found[x.key] = *text
			x.read()
		case !ok && x.policy == caches.SlideOnRead: // MGET does not tell
			failed = caches.ErrWrongType
		}
	})
	return result(found, failed).text
}

func modelSetMany(x *modelStep) string {
	x.each(slices.Compact(slices.Clone(x.keys[:2])), func(x *modelStep) { x.store(x.v[0], false) })
	return failure(nil).text
}

func modelDelete(x *modelStep) string {
	there := x.e != nil
	delete(x.m.entries, x.key)
	return result(there, nil).text
}

func modelDeleteMany(x *modelStep) string {
	n := 0
	x.each(x.keys[:2], func(x *modelStep) {
		if x.e != nil {
			n++
		}
		delete(x.m.entries, x.key)
	})
	return result(n, nil).text
}

func modelGetOrAdd(x *modelStep) string {
	d, ok := x.dict()
	if !ok {
		return " false" + class(caches.ErrWrongType)
	}
	if v, ok := d[x.f[0]]; ok {
		x.read()
		return v + " true"
	}
	e := x.entry()
	if e.dict == nil {
		e.dict = map[string]string{}
	}
	e.dict[x.f[0]] = x.v[0]
	x.wrote()
	return x.v[0] + " false"
}

func removed[V any](m map[string]V, keys []string) int {
	n := len(m)
	for _, key := range keys {
		delete(m, key)
	}
	return n - len(m)
}

func addAll(s map[string]struct{}, members []string) int {
	n := len(s)
	for _, member := range members {
		s[member] = struct{}{}
	}
	return len(s) - n
}

// The three operations between sets make a new one.
func join(a, b map[string]struct{}) map[string]struct{} {
	all := map[string]struct{}{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

func meet(a, b map[string]struct{}) map[string]struct{} {
	both := map[string]struct{}{}
	for member := range a {
		if _, ok := b[member]; ok {
			both[member] = struct{}{}
		}
	}
	return both
}

func without(a, b map[string]struct{}) map[string]struct{} {
	rest := map[string]struct{}{}
	for member := range a {
		if _, ok := b[member]; !ok {
			rest[member] = struct{}{}
		}
	}
	return rest
}

type setOperation = func(a, b map[string]struct{}) map[string]struct{}

// combined is op of the sets at keys; a key of another type is an error.
func (m *model) combined(op setOperation, keys ...string) (map[string]struct{}, error) {
	var all map[string]struct{}
	for i, key := range keys {
		set, ok := m.set(key)
		if !ok {
			return nil, caches.ErrWrongType
		}
		if all == nil && i == 0 {
			all = join(set, nil)
		} else {
			all = op(all, set)
		}
	}
	return all, nil
}

func modelAlgebra(op setOperation) func(*modelStep) string {
	return func(x *modelStep) string { return result(x.m.combined(op, x.keys...)).text }
}

// modelStore gives dst its own time to live, whatever its policy.
func modelStore(op setOperation) func(*modelStep) string {
	return func(x *modelStep) string {
		all, err := x.m.combined(op, x.keys[1], x.keys[2])
		if err == nil {
			e := &entry{set: all} // run removes an empty one
			if !x.forever() {
				e.end = x.m.now().Add(x.ttl)
			}
			x.m.entries[x.key] = e
		}
		return result(len(all), err).text
	}
}

func modelAddIf(x *modelStep) string {
	condition := x.condition()
	has := func(c caches.Condition) bool { return condition&c != 0 }
	if has(caches.IfGreater) && has(caches.IfLess) {
		return result(0, x.refused("SortedSet.AddIf", "caches: IfNew cannot be combined with other conditions, nor IfGreater with IfLess")).text
	}
	return onBoard(0, true, func(x *modelStep, b map[string]float64) (any, error) {
		n := 0
		for _, item := range x.scored() {
			old, ok := b[item.Member]
			switch {
			case !ok && has(caches.IfExisting), ok && has(caches.IfNew), ok && item.Score == old,
				ok && has(caches.IfGreater) && item.Score < old, ok && has(caches.IfLess) && item.Score > old:
				continue
			}
			b[item.Member] = item.Score
			n++
		}
		return n, nil
	})(x)
}

func rankOf(all []caches.Scored[string], member string) (any, error) {
	i := slices.IndexFunc(all, func(item caches.Scored[string]) bool { return item.Member == member })
	return max(i, 0), missing(i >= 0)
}

func between(all []caches.Scored[string], low, high float64) []caches.Scored[string] {
	return slices.DeleteFunc(all, func(item caches.Scored[string]) bool { return item.Score < low || item.Score > high })
}

// slice is all from rank start to rank stop.
func slice(all []caches.Scored[string], start, stop int) []caches.Scored[string] {
	low, high := bounds(start, stop, len(all))
	return all[low:high]
}

func membersOf(items []caches.Scored[string]) []string {
	var members []string
	for _, item := range items {
		members = append(members, item.Member)
	}
	return members
}

func listed(items []caches.Scored[string]) []string {
	var all []string
	for _, item := range items {
		all = append(all, fmt.Sprintf("%q=%v", item.Member, item.Score))
	}
	return all
}

// bounds are the limits of the elements from index start to index stop of n, both
// included, from the end where they are negative.
func bounds(start, stop, n int) (low, high int) {
	if start < 0 {
		start = max(0, start+n)
	}
	if stop < 0 {
		stop += n
	}
	if stop = min(stop+1, n); start >= stop {
		return 0, 0
	}
	return start, stop
}

// modelListPop is the model of an operation that pops: one element if it has no
// name, and else n[0].
func modelListPop(op string, back bool) func(*modelStep) string {
	return still(func(x *modelStep) string {
		n, zero := 1, any("")
		if op != "" {
			if n, zero = x.n[0], any([]string(nil)); n <= 0 {
				return x.noTrip(op, "[]")
			}
		}
		return onList(zero, false, func(x *modelStep, l []string) ([]string, any, error) {
			popped := slices.Clone(l[:min(n, len(l))])
			rest := l[len(popped):]
			if back {
				rest, popped = l[:len(l)-len(popped)], slices.Clone(l[len(l)-len(popped):])
				slices.Reverse(popped)
			}
			switch {
			case op != "":
				return rest, popped, nil
			case len(popped) == 0:
				return rest, "", caches.ErrMiss
			}
			return rest, popped[0], nil
		})(x)
	})
}

func modelListRemove(x *modelStep, l []string, most int, values ...string) ([]string, any, error) {
	n := 0
	rest := slices.DeleteFunc(slices.Clone(l), func(v string) bool {
		gone := slices.Contains(values, v) && n < most
		if gone {
			n++
		}
		return gone
	})
	return rest, n, nil
}

// inFront is l with values pushed at the front.
func inFront(l []string, values ...string) []string {
	values = slices.Clone(values)
	slices.Reverse(values)
	return append(values, l...)
}

type order = func(map[string]float64) []caches.Scored[string]

func modelPop(in order) func(*modelStep) string {
	return still(onBoard(caches.Scored[string]{}, false, func(x *modelStep, b map[string]float64) (any, error) {
		if len(b) == 0 {
			return caches.Scored[string]{}, caches.ErrMiss
		}
		first := in(b)[0]
		delete(b, first.Member)
		return first, nil
	}))
}

func modelPopN(op string, in order) func(*modelStep) string {
	return still(func(x *modelStep) string {
		if x.n[0] <= 0 {
			return x.noTrip(op, "[]")
		}
		return onBoard(noItems, false, func(x *modelStep, b map[string]float64) (any, error) {
			all := in(b)
			all = all[:min(len(all), x.n[0])]
			removed(b, membersOf(all))
			return all, nil
		})(x)
	})
}

func modelChunk(x *modelStep) string {
	limit, offset, size := x.n[0], x.n[1], x.n[2]
	if least := min(limit, offset, size); least < 0 {
		return "[]" + class(x.refused("SortedSet.Chunk", fmt.Sprintf("caches: the number of elements, %d, is negative", least)))
	}
	return onBoard("[]", false, func(x *modelStep, b map[string]float64) (any, error) {
		all := ranked(b)
		all = all[min(offset, len(all)):]
		if limit > 0 {
			all = all[:min(limit, len(all))]
		}
		return slices.Collect(slices.Chunk(all, cmp.Or(size, 250))), nil
	})(x)
}
