package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is a timeout that no healthy call reaches, on a loaded machine
// under the race detector either.
const patience = 20 * time.Second

// open opens a store that is closed when the test ends. Without a Timeout of
// its own a Config gets patience.
func open(t testing.TB, c redigo.Config) *redigo.Store {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = c.Timeout
	}
	s, err := redigo.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// run runs one command in a Pipeline of the given mode and returns the reply as
// it came over the wire.
func run(ctx context.Context, s driver.Store, mode driver.Mode, args ...string) (string, error) {
	p := driver.NewPipeline(mode)
	defer p.Free()
	add(p, args...)
	err := s.Do(ctx, p)
	return string(p.Replies().Raw()), err
}

// add appends one command.
func add(p *driver.Pipeline, args ...string) {
	p.Cmd(args[0])
	for _, arg := range args[1:] {
		p.String(arg)
	}
}

// bulk is a string on the wire.
func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

// awaitGood waits until a call succeeds: after a fault the connection is dialled
// anew, which a store that was refused repeatedly leaves for a moment.
func awaitGood(t testing.TB, s driver.Store) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		_, err = run(context.Background(), s, driver.ReadOnly, "ECHO", "good")
		return err == nil
	}, patience, time.Millisecond, "the last error: %v", err)
}

// settled waits until the store has nothing under way.
func settled(t testing.TB, s *redigo.Store) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Stats().InFlight == 0 }, patience, time.Millisecond)
}

// isOutcome reports whether err is what a call may end in that got no reply:
// one of the two classes, and not both.
func isOutcome(err error) bool {
	return errors.Is(err, driver.ErrUnavailable) != errors.Is(err, driver.ErrUnknownOutcome)
}

// together runs f in n goroutines and waits for all.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// A register is a key that one goroutine writes and everybody reads. Its n-th
// value is known beforehand: a reader can tell whether what it got was ever
// written there, and whether it is older than it may be.
type register struct {
	key  string
	size int // of a value, in bytes

	mu     sync.Mutex
	writes []byte // how each write ended; the n-th is writes[n-1]
	acked  int    // the last write that was acknowledged
}

// How a write ended.
const (
	underWay     = iota
	acknowledged // it is in effect, or was
	unknown      // it may be at any time from its begin: bytes wait in old sockets, too
	refused      // it never is
)

// value returns the n-th value, which names the register, n and its own size.
func (r *register) value(n int) string {
	head := r.key + "#" + strconv.Itoa(n) + "#"
	return head + strings.Repeat(string(rune('a'+n%26)), max(r.size-len(head), 0))
}

// write makes a write by put and notes how it ended.
func (r *register) write(put func(value string) error) error {
	r.mu.Lock()
	r.writes = append(r.writes, underWay)
	n := len(r.writes)
	r.mu.Unlock()
	err := put(r.value(n))
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.writes[n-1], r.acked = acknowledged, n
	case errors.Is(err, driver.ErrUnavailable):
		r.writes[n-1] = refused
	default:
		r.writes[n-1] = unknown
	}
	return err
}

// floor returns the write that a read which begins now must see, or a later one.
func (r *register) floor() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked
}

// check returns what is wrong about a value, nil if nothing is. ok is whether
// there was one, and floor that of the read's begin.
func (r *register) check(value string, ok bool, floor int) error {
	if !ok {
		if floor > 0 {
			return fmt.Errorf("%s is not there, but write %d was acknowledged", r.key, floor)
		}
		return nil
	}
	name, rest, _ := strings.Cut(value, "#")
	number, _, _ := strings.Cut(rest, "#")
	n, err := strconv.Atoi(number)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case name != r.key || err != nil || n < 1 || n > len(r.writes) || value != r.value(n):
		return fmt.Errorf("%s gave %.60q of %d bytes, which nobody wrote there", r.key, value, len(value))
	case r.writes[n-1] == refused:
		return fmt.Errorf("%s gave write %d, which was told to have never run", r.key, n)
	case n < floor && r.writes[n-1] != unknown:
		return fmt.Errorf("%s gave write %d after %d was acknowledged", r.key, n, floor)
	}
	return nil
}

// A load is a store with one register for each of its workers, and what was
// wrong about its answers.
type load struct {
	store     *redigo.Store
	values    caches.Cache[string]
	registers []*register
	seed      string        // of the workers' choices
	turns     chan struct{} // of workers that do anything but wait for a call

	commands       atomic.Int64 // that were given to the store, MULTI and EXEC too
	checked, wrong atomic.Int64 // answers
	first          atomic.Pointer[error]
}

// newLoad makes a load of so many workers. Its keys are those of this test, for
// several may share a server. The store stays open, whatever
// happens to the connection that the objects have.
func newLoad(t testing.TB, s *redigo.Store, workers, size int) *load {
	t.Helper()
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"store": s})
	require.NoError(t, err)
	l := &load{store: s, seed: t.Name(), turns: make(chan struct{}, 2)}
	l.values = caches.Cache[string]{Prefix: t.Name(), Serializer: caches.Raw}.On(conn)
	for i := range workers {
		l.registers = append(l.registers, &register{key: l.values.Key(i).String(), size: size})
	}
	return l
}

// verify counts one checked answer.
func (l *load) verify(err error) {
	l.checked.Add(1)
	if err != nil {
		l.wrong.Add(1)
		l.first.CompareAndSwap(nil, &err)
	}
}

// allRight fails the test where an answer was wrong.
func (l *load) allRight(t testing.TB) {
	t.Helper()
	if first := l.first.Load(); first != nil {
		assert.NoError(t, *first, "the first of %d wrong answers", l.wrong.Load())
	}
	require.Zero(t, l.wrong.Load())
	require.NotZero(t, l.checked.Load())
}

// A worker makes calls of all kinds and checks every answer.
type worker struct {
	*load
	n      int
	own    *register
	random *rand.Rand
	calls  int
}

func (l *load) worker(n int) *worker {
	return &worker{load: l, n: n, own: l.registers[n], random: random(l.seed, n)}
}

// step makes one call of a kind chosen at random. Its error says that there was
// no answer to check.
//
// A worker gives its turn away while it calls. Without that, a hundred workers
// that make and check values are what a store takes for a process short of
// processors, in which calls share no connection.
func (w *worker) step(ctx context.Context) error {
	w.turns <- struct{}{}
	defer func() { <-w.turns }()
	w.calls++
	w.commands.Add(1)
	kinds := [...]func(context.Context) error{w.set, w.get, w.mget, w.echo, w.transact, w.script, w.setObject, w.getObject}
	return kinds[w.random.IntN(len(kinds))](ctx)
}

// word is different for every call.
func (w *worker) word() string { return fmt.Sprintf("%d-%d", w.n, w.calls) }

func (w *worker) any() *register { return w.registers[w.random.IntN(len(w.registers))] }

// while makes a call while others have their turns.
func (w *worker) while(call func() error) error {
	<-w.turns
	defer func() { w.turns <- struct{}{} }()
	return call()
}

// do runs p.
func (w *worker) do(ctx context.Context, p *driver.Pipeline) error {
	return w.while(func() error { return w.store.Do(ctx, p) })
}

// run runs one command.
func (w *worker) run(ctx context.Context, mode driver.Mode, args ...string) (string, error) {
	p := driver.NewPipeline(mode)
	defer p.Free()
	add(p, args...)
	err := w.do(ctx, p)
	return string(p.Replies().Raw()), err
}

func (w *worker) set(ctx context.Context) error {
	return w.own.write(func(value string) error {
		raw, err := w.run(ctx, 0, "SET", w.own.key, value)
		return w.expect(raw, "+OK\r\n", err)
	})
}

func (w *worker) setObject(ctx context.Context) error {
	return w.own.write(func(value string) error {
		return w.while(func() error { return w.values.Key(w.n).Set(ctx, value) })
	})
}

// expect checks an answer that can be only one.
func (w *worker) expect(raw, want string, err error) error {
	switch {
	case err != nil:
		return err
	case raw != want:
		w.verify(fmt.Errorf("%.60q in place of %.60q", raw, want))
	default:
		w.verify(nil)
	}
	return nil
}

func (w *worker) echo(ctx context.Context) error {
	word := w.word()
	raw, err := w.run(ctx, 0, "ECHO", word)
	return w.expect(raw, bulk(word), err)
}

var wordsOf = driver.NewScript(`return {KEYS[1], ARGV[1]}`, nil)

func (w *worker) script(ctx context.Context) error {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	key, word := w.own.key, w.word()
	p.Script(wordsOf, 1).Key(key).String(word)
	err := w.do(ctx, p)
	return w.expect(string(p.Replies().Raw()), "*2\r\n"+bulk(key)+bulk(word), err)
}

// transact has two answers that nobody else's command may come between.
func (w *worker) transact(ctx context.Context) error {
	p := driver.NewPipeline(driver.Atomic)
	defer p.Free()
	w.commands.Add(3)
	return w.own.write(func(value string) error {
		p.Cmd("SET").Key(w.own.key).String(value)
		p.Cmd("GET").Key(w.own.key)
		err := w.do(ctx, p)
		return w.expect(string(p.Replies().Raw()), "+OK\r\n"+bulk(value), err)
	})
}

func (w *worker) get(ctx context.Context) error { return w.readRegisters(ctx, w.any()) }

func (w *worker) mget(ctx context.Context) error {
	return w.readRegisters(ctx, w.any(), w.own, w.any())
}

// readRegisters reads registers by one command each, or by one for all.
func (w *worker) readRegisters(ctx context.Context, rs ...*register) error {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	floors := make([]int, len(rs))
	for i, r := range rs {
		floors[i] = r.floor()
		if i == 0 {
			p.Cmd("MGET")
		}
		p.Key(r.key)
	}
	if err := w.do(ctx, p); err != nil {
		return err
	}
	elems, err := p.Next().Elems()
	w.verify(err)
	for i, r := range rs {
		reply := elems.Next()
		value, ok, err := reply.Bytes()
		if err == nil {
			err = r.check(string(value), ok, floors[i])
		}
		w.verify(err)
	}
	return nil
}

func (w *worker) getObject(ctx context.Context) error {
	i := w.random.IntN(len(w.registers))
	r := w.registers[i]
	floor := r.floor()
	var value string
	err := w.while(func() (err error) {
		value, err = w.values.Key(i).Get(ctx)
		return err
	})
	if err != nil && !errors.Is(err, caches.ErrMiss) {
		return err
	}
	w.verify(r.check(value, err == nil, floor))
	return nil
}
