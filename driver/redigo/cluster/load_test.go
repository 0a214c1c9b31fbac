package cluster_test

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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// A load is the traffic of many goroutines that check every reply.
type load struct {
	t       *testing.T
	s       driver.Store
	workers []*worker
	pause   time.Duration // of each worker between two operations
	stop    chan struct{}
	running sync.WaitGroup
	ops     atomic.Int64
}

// A worker has keys that no other worker writes, so it knows their values.
type worker struct {
	l    *load
	id   int
	r    *rand.Rand
	vals map[string]sure
	// By key: INCRs that were acknowledged, and others that may have run.
	acked, unknown map[string]int
	errs           map[string]int // by kind
}

// sure lists the possible values of a key. The empty string means absent.
type sure []string

func startLoad(t *testing.T, s driver.Store, workers int) *load {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := &load{t: t, s: s, stop: make(chan struct{}), pause: fullOr(0, 2*time.Millisecond)}
	for id := range workers {
		w := &worker{l: l, id: id, r: rand.New(rand.NewPCG(seed, uint64(id))), vals: map[string]sure{},
			acked: map[string]int{}, unknown: map[string]int{}, errs: map[string]int{}}
		l.workers = append(l.workers, w)
		l.running.Go(w.run)
	}
	return l
}

// end stops the load and returns the number of errors by kind.
func (l *load) end() map[string]int {
	close(l.stop)
	l.running.Wait()
	all := map[string]int{}
	for _, w := range l.workers {
		for k, n := range w.errs {
			all[k] += n
		}
	}
	l.t.Logf("%d operations, errors %v", l.ops.Load(), all)
	return all
}

// settle checks the knowledge of all workers once the faults are over. If lost
// is set, acknowledged writes may be missing: a master was killed.
func (l *load) settle(lost bool) {
	for _, w := range l.workers {
		for key, want := range w.vals {
			if !lost {
				got, err := w.read(key)
				require.NoError(l.t, err)
				assert.Contains(l.t, want, got, key)
			}
		}
		for key := range w.acked {
			got, err := w.read(key)
			require.NoError(l.t, err)
			n, _ := strconv.Atoi(got)
			assert.LessOrEqual(l.t, n, w.acked[key]+w.unknown[key], "%s ran more often than it was sent", key)
			if !lost {
				assert.GreaterOrEqual(l.t, n, w.acked[key], "%s lost increments", key)
			}
		}
	}
}

func (w *worker) run() {
	for ; ; time.Sleep(w.l.pause) {
		select {
		case <-w.l.stop:
			return
		default:
		}
		[]func(){w.set, w.get, w.incr, w.mget, w.script, w.atomic, w.unlink}[w.r.IntN(7)]()
		w.l.ops.Add(1)
	}
}

func (w *worker) key(n int) string { return fmt.Sprintf("w%d.%d", w.id, n) }
func (w *worker) any() string      { return w.key(w.r.IntN(20)) }

// do runs a Pipeline and returns its error, or the error of its first failed
// reply.
func (w *worker) do(mode driver.Mode, write func(p *driver.Pipeline), read func(p *driver.Pipeline)) error {
	p := driver.NewPipeline(mode)
	defer p.Free()
	write(p)
	err := w.l.s.Do(context.Background(), p)
	for raw := p.Replies().Raw(); err == nil && len(raw) > 0; {
		q := driver.NewPipeline(0)
		var reply []byte
		reply, raw = resp.Cut(raw)
		(*resp.Replies)(q.Replies()).Append(reply, 1)
		err = q.Next().Err()
		q.Free()
	}
	if err != nil {
		w.errs[kind(err)]++
		return err
	}
	read(p)
	return nil
}

func kind(err error) string {
	switch e, ok := errors.AsType[*driver.ServerError](err); {
	case errors.Is(err, driver.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, driver.ErrUnknownOutcome):
		return "unknown outcome"
	case ok:
		return e.Error()
	}
	return err.Error()
}

// note records that key holds value, or may hold it if err is an unknown
// outcome.
func (w *worker) note(key, value string, err error) {
	switch {
	case err == nil:
		w.vals[key] = sure{value}
	case !errors.Is(err, driver.ErrUnavailable):
		w.vals[key] = append(w.known(key), value)
	}
}

func (w *worker) known(key string) sure {
	if w.vals[key] == nil {
		w.vals[key] = sure{""}
	}
	return w.vals[key]
}

func (w *worker) value() string { return strconv.FormatUint(w.r.Uint64(), 36) }

func (w *worker) set() {
	key, value := w.any(), w.value()
	w.note(key, value, w.do(0, func(p *driver.Pipeline) { p.Cmd("SET").Key(key).String(value) }, func(*driver.Pipeline) {}))
}

func (w *worker) unlink() {
	a, b := w.any(), w.any()
	err := w.do(driver.Repeatable, func(p *driver.Pipeline) { p.Cmd("UNLINK").Key(a).Key(b) }, func(*driver.Pipeline) {})
	w.note(a, "", err)
	w.note(b, "", err)
}

func (w *worker) read(key string) (value string, err error) {
	err = w.do(driver.ReadOnly, func(p *driver.Pipeline) { p.Cmd("GET").Key(key) }, func(p *driver.Pipeline) {
		b, _, _ := p.Next().Bytes()
		value = string(b)
	})
	return value, err
}

func (w *worker) get() {
	key := w.any()
	want := w.known(key)
	if got, err := w.read(key); err == nil {
		assert.Contains(w.l.t, want, got, key)
	}
}

// mget reads all keys of the worker at once, with another command behind MGET.
func (w *worker) mget() {
	_ = w.do(driver.ReadOnly, func(p *driver.Pipeline) {
		p.Cmd("MGET")
		for n := range 20 {
			p.Key(w.key(n))
		}
		p.Cmd("EXISTS").Key(w.key(0))
	}, func(p *driver.Pipeline) {
		elems, err := p.Next().Elems()
		if assert.NoError(w.l.t, err) && assert.Equal(w.l.t, 20, elems.Len()) {
			for n := range 20 {
				if got, _, err := elems.Next().Bytes(); err != nil {
					w.errs[kind(err)]++
				} else {
					assert.Contains(w.l.t, w.known(w.key(n)), string(got), w.key(n))
				}
			}
		}
	})
}

func (w *worker) incr() {
	key := fmt.Sprintf("n%d.%d", w.id, w.r.IntN(5))
	w.counted(key, w.do(0, func(p *driver.Pipeline) { p.Cmd("INCR").Key(key) }, func(*driver.Pipeline) {}))
}

func (w *worker) counted(key string, err error) {
	switch {
	case err == nil:
		w.acked[key]++
	case !errors.Is(err, driver.ErrUnavailable):
		w.unknown[key]++
	default:
		w.acked[key] += 0
	}
}

// setAndCount writes two keys of one slot atomically.
var setAndCount = driver.NewScript(`
redis.call('SET', KEYS[1], ARGV[1])
return redis.call('INCR', KEYS[2])`, nil)

func (w *worker) script() {
	tag := fmt.Sprintf("{s%d.%d}", w.id, w.r.IntN(5))
	value := w.value()
	err := w.do(0, func(p *driver.Pipeline) { p.Script(setAndCount, 2).Key(tag).Key(tag + "n").String(value) }, func(*driver.Pipeline) {})
	w.note(tag, value, err)
	w.counted(tag+"n", err)
}

func (w *worker) atomic() {
	tag := fmt.Sprintf("{a%d.%d}", w.id, w.r.IntN(5))
	value := w.value()
	err := w.do(driver.Atomic, func(p *driver.Pipeline) {
		p.Cmd("SET").Key(tag).String(value)
		p.Cmd("INCR").Key(tag + "n")
	}, func(*driver.Pipeline) {})
	w.note(tag, value, err)
	w.counted(tag+"n", err)
}

// eventually waits until ok reports true.
func eventually(t testing.TB, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}
