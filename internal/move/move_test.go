package move_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/internal/move"
	"github.com/gocaches/caches/testutil"
)

// A world is three databases of one server. The previous shards are 0 and 1, the
// current ones 1 and 2. A key that begins with "a" was on 0, others were on 1.
type world struct {
	t      *testing.T
	stores [3]*redigo.Store
}

func newWorld(t *testing.T) *world {
	w, server := &world{t: t}, testutil.Redis(t, nil)
	for db := range w.stores {
		s, err := redigo.Open(redigo.Config{Address: server.Addr(), DB: db})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
		w.stores[db] = s
	}
	return w
}

// reply runs one command on a database and gives its reply to read.
func (w *world) reply(db int, read func(driver.Reply) error, args ...string) {
	p := driver.NewPipeline(0)
	defer p.Free()
	command(p, args)
	require.NoError(w.t, w.stores[db].Do(context.Background(), p))
	require.NoError(w.t, read(p.Next()))
}

// command appends a command whose arguments are all taken for keys.
func command(p *driver.Pipeline, args []string) {
	p.Cmd(args[0])
	for _, arg := range args[1:] {
		p.Key(arg)
	}
}

func (w *world) do(db int, args ...string) { w.reply(db, driver.Reply.Err, args...) }

// get returns a value, "" if it is absent.
func (w *world) get(db int, key string) (value string) {
	w.reply(db, func(r driver.Reply) error {
		data, _, err := r.Bytes()
		value = string(data)
		return err
	}, "GET", key)
	return value
}

// ttl returns the milliseconds that a key has left, -1 if it does not expire.
func (w *world) ttl(db int, key string) (ms int64) {
	w.reply(db, func(r driver.Reply) (err error) {
		ms, err = r.Int()
		return err
	}, "PTTL", key)
	return ms
}

// mover returns a Mover over the world that calls before, if not nil, ahead of each
// round trip, with the names of its commands. If before returns an error, the trip
// fails in place of running.
func (w *world) mover(before func(step string) error) *move.Mover {
	on := func(name string, dbs ...int) func(context.Context, []*driver.Pipeline) []error {
		return func(ctx context.Context, ps []*driver.Pipeline) []error {
			errs := make([]error, len(ps))
			for i, p := range ps {
				if p == nil {
					continue
				}
				if before != nil {
					errs[i] = before(name + " " + p.Name(0))
				}
				if errs[i] == nil {
					errs[i] = w.stores[dbs[i]].Do(ctx, p)
				}
			}
			return errs
		}
	}
	return move.New(move.Config{
		Previous: on("previous", 0, 1), Current: on("current", 1, 2), Shards: 2, Same: []int{-1, 0},
		Route: func(key string) int {
			if key[0] == 'a' {
				return 0
			}
			return 1
		},
		Layout:     layout{},
		Unanswered: func(_ context.Context, err error) bool { return errors.Is(err, driver.ErrUnknownOutcome) },
	})
}

// bring brings the keys of one command to database 2.
func bring(m *move.Mover, mode driver.Mode, args ...string) error {
	p := driver.NewPipeline(mode)
	defer p.Free()
	command(p, args)
	return m.Bring(context.Background(), 1, p)
}

// A layout has namespaces that begin with "ns", tokens that end with "%move", and
// entries of a stamp of one byte, a colon and a value.
type layout struct{}

func (layout) Kind(key []byte) move.Kind {
	switch {
	case bytes.HasPrefix(key, []byte("ns")):
		return move.Namespace
	case bytes.HasSuffix(key, []byte("%move")):
		return move.Side
	}
	return move.Plain
}

func (layout) TokenKey(key string) string { return key + "%move" }
func (layout) NewStamp() []byte           { return []byte("N") }

func (layout) Restamp(data, previous, current []byte) []byte {
	if value, ok := bytes.CutPrefix(data, append(bytes.Clone(previous), ':')); ok {
		return append(append(bytes.Clone(current), ':'), value...)
	}
	return nil
}

// trace returns a function for mover, and the steps that it has seen.
func trace() (*[]string, func(string) error) {
	steps := new([]string)
	return steps, func(step string) error {
		*steps = append(*steps, step)
		return nil
	}
}

var (
	readSteps  = []string{"previous EXISTS", "current SET", "previous DUMP", "current EVALSHA", "previous UNLINK"}
	writeSteps = append(readSteps[:len(readSteps):len(readSteps)], "current UNLINK")
)

// The steps run in the order of the package comment, and a key that has moved is not
// looked for again (invariant 6).
func TestMoveSteps(t *testing.T) {
	w := newWorld(t)
	steps, before := trace()
	m := w.mover(before)
	w.do(0, "SET", "a1", "v", "PX", "60000")
	w.do(0, "SET", "a2", "v")
	for _, tt := range []struct {
		what string
		mode driver.Mode
		args []string
		want []string
	}{
		{"a read moves", driver.ReadOnly, []string{"GET", "a1"}, readSteps},
		{"the next read knows", driver.ReadOnly, []string{"GET", "a1"}, nil},
		{"a write still forbids", 0, []string{"SET", "a1"}, []string{"previous EXISTS", "current UNLINK"}},
		{"the next write knows", 0, []string{"SET", "a1"}, nil},
		{"a write moves", 0, []string{"INCR", "a2"}, writeSteps},
		{"a read after a write knows", driver.ReadOnly, []string{"GET", "a2"}, nil},
		{"an absent key", driver.ReadOnly, []string{"MGET", "a3", "a4"}, []string{"previous EXISTS"}},
		{"its absence is known", driver.ReadOnly, []string{"GET", "a4"}, nil},
		{"stamps and tokens do not move", driver.ReadOnly, []string{"MGET", "ns", "a%move"}, nil},
	} {
		*steps = nil
		require.NoError(t, bring(m, tt.mode, tt.args...), tt.what)
		assert.Equal(t, tt.want, *steps, tt.what)
	}
	for _, key := range []string{"a1", "a2"} {
		assert.Equal(t, "v", w.get(2, key))
		assert.Empty(t, w.get(0, key))
		assert.Empty(t, w.get(2, key+"%move"), "the token is removed")
	}
	assert.InDelta(t, 45_000, w.ttl(2, "a1"), 15_000)
	assert.Equal(t, int64(-1), w.ttl(2, "a2"))
}

// A key whose shard is the same stays; BringAll moves the keys of all shards, and
// passes over nil.
func TestBringAll(t *testing.T) {
	w := newWorld(t)
	steps, before := trace()
	m := w.mover(before)
	w.do(0, "SET", "a", "1")
	w.do(1, "SET", "b", "2")
	w.do(1, "SET", "c", "3")
	ps := []*driver.Pipeline{driver.NewPipeline(driver.ReadOnly), driver.NewPipeline(driver.ReadOnly)}
	ps[0].CmdKey("GET", "", "b")
	assert.Nil(t, m.BringAll(t.Context(), []*driver.Pipeline{ps[0], nil}))
	assert.Empty(t, *steps, "b is on the same shard as before")
	ps[0].CmdKey("GET", "", "a")
	ps[1].CmdKey("GET", "", "c")
	assert.Nil(t, m.BringAll(t.Context(), ps))
	for db, key := range map[int]string{1: "a", 2: "c"} {
		assert.NotEmpty(t, w.get(db, key))
	}
	assert.Empty(t, w.get(0, "a"))
	assert.Empty(t, w.get(1, "c"))
	assert.Equal(t, "2", w.get(1, "b"))
}

// A value at the current place is not replaced (invariant 2).
func TestMoveReplacesNothing(t *testing.T) {
	w := newWorld(t)
	w.do(0, "SET", "a", "previous")
	w.do(2, "SET", "a", "current")
	require.NoError(t, bring(w.mover(nil), driver.ReadOnly, "GET", "a"))
	assert.Equal(t, "current", w.get(2, "a"))
	assert.Empty(t, w.get(2, "a%move"), "the store removes the token")
	assert.Empty(t, w.get(0, "a"))
}

// Whatever step fails, the value is at one of its places, the call fails, and the
// next one moves the key (invariants 3 and 5).
func TestMoveFails(t *testing.T) {
	w := newWorld(t)
	failed := errors.New("failed")
	for _, fails := range writeSteps {
		w.do(2, "FLUSHDB")
		w.do(0, "SET", "a", "v")
		armed := true
		m := w.mover(func(step string) error {
			if armed && step == fails {
				return failed
			}
			return nil
		})
		require.ErrorIs(t, bring(m, 0, "INCR", "a"), failed, fails)
		assert.Contains(t, []string{w.get(0, "a"), w.get(2, "a")}, "v", fails)
		armed = false
		require.NoError(t, bring(m, 0, "INCR", "a"), fails)
		assert.Equal(t, "v", w.get(2, "a"), fails)
		assert.Empty(t, w.get(0, "a"), fails)
	}
}

// An announcement without a reply is sent again, three times at most.
func TestMoveAnnouncesAgain(t *testing.T) {
	w := newWorld(t)
	for _, lost := range []int{1, 3, 4} {
		w.do(2, "FLUSHDB")
		w.do(0, "SET", "a", "v")
		sent := 0
		err := bring(w.mover(func(step string) error {
			if step == "current SET" {
				if sent++; sent <= lost {
					return driver.ErrUnknownOutcome
				}
			}
			return nil
		}), driver.ReadOnly, "GET", "a")
		if lost > 3 {
			assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
			continue
		}
		assert.NoError(t, err)
		assert.Equal(t, "v", w.get(2, "a"))
	}
}

// An entry gets the stamp of the current shard if it was valid, and an invalidation
// during the move, previous shards first, invalidates it (invariant 7).
func TestMoveOfEntry(t *testing.T) {
	w := newWorld(t)
	for _, at := range append([]string{"never"}, readSteps...) {
		w.do(0, "FLUSHDB")
		w.do(2, "FLUSHDB")
		w.do(0, "SET", "ns", "P")
		w.do(0, "SET", "a", "P:v")
		w.do(2, "SET", "ns", "C")
		require.NoError(t, bring(w.mover(func(step string) error {
			if step == at {
				w.do(0, "UNLINK", "ns")
				w.do(2, "UNLINK", "ns")
			}
			return nil
		}), driver.ReadOnly, "MGET", "a", "ns"))
		stamp, entry := w.get(2, "ns"), w.get(2, "a")
		if at == "never" {
			assert.Equal(t, "C:v", entry)
			continue
		}
		assert.False(t, stamp != "" && strings.HasPrefix(entry, stamp+":"), "invalidated before %s, and %q is valid under %q", at, entry, stamp)
	}
}

// An error reply for one key leaves the replies of the others in their places.
func TestMoveBesideError(t *testing.T) {
	w := newWorld(t)
	w.do(0, "SET", "ns", "P")
	w.do(0, "SET", "a1", "P:v")
	w.do(0, "SET", "a2", "P:w")
	w.do(2, "SET", "ns", "C")
	w.do(2, "HSET", "a1%move", "not", "a token")
	require.ErrorContains(t, bring(w.mover(nil), driver.ReadOnly, "MGET", "a1", "a2", "ns"), "WRONGTYPE")
	assert.Equal(t, "P:v", w.get(0, "a1"))
	assert.Equal(t, "C:w", w.get(2, "a2"))
	assert.Empty(t, w.get(0, "a2"))
}

// An actor is one process of a schedule: it stops before each round trip.
type actor struct {
	resume, stopped chan struct{} // stopped is closed at the end
	ended           bool
}

func (w *world) start(act func(wait func())) *actor {
	a := &actor{resume: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(a.stopped)
		<-a.resume
		act(func() {
			a.stopped <- struct{}{}
			<-a.resume
		})
	}()
	return a
}

// run resumes a up to n times.
func (a *actor) run(n int) {
	for ; n > 0 && !a.ended; n-- {
		a.resume <- struct{}{}
		_, more := <-a.stopped
		a.ended = !more
	}
}

// However the round trips of a read and of a write alternate, up to three times, the
// read finds the previous value or the written one, and the written one is the last
// (invariants 1, 3 and 4).
func TestMoveInEveryOrder(t *testing.T) {
	w := newWorld(t)
	const reads, writes = 7, 8 // round trips at most
	for _, write := range [][]string{{"UNLINK", "a"}, {"APPEND", "a", "+"}} {
		want := map[string]string{"UNLINK": "", "APPEND": "old+"}[write[0]]
		for order := range reads * writes * reads {
			runs := [3]int{order % reads, order / reads % writes, order / reads / writes} // of the read, the write, the read
			w.do(2, "FLUSHDB")
			w.do(0, "SET", "a", "old")
			var errs [2]error
			var read string
			reader := w.start(func(wait func()) {
				errs[0] = bring(w.mover(func(string) error { wait(); return nil }), driver.ReadOnly, "GET", "a")
				wait()
				read = w.get(2, "a")
			})
			writer := w.start(func(wait func()) {
				errs[1] = bring(w.mover(func(string) error { wait(); return nil }), 0, write[0], "a")
				wait()
				w.do(2, write...)
			})
			reader.run(runs[0])
			writer.run(runs[1])
			reader.run(runs[2])
			writer.run(100)
			reader.run(100)
			what := fmt.Sprint(write[0], runs)
			require.True(t, reader.ended && writer.ended, what)
			require.NoError(t, errors.Join(errs[:]...), what)
			require.Contains(t, []string{"old", want}, read, what)
			require.Equal(t, want, w.get(2, "a"), what)
			require.Empty(t, w.get(0, "a"), what)
		}
	}
}
