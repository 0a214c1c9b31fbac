package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// Values, members and keys are encoded by their users' code, in the middle of a
// command that is being built. When that code panics or fails, its caller gets
// the very panic or error, and nobody else notices anything: no frame is sent in
// part, no place in the order of replies is lost.

// A mood is what an encoder of a test does.
type mood int

const (
	calm mood = iota
	failing
	panicking
)

// A tantrum is what it panics with, and an error of its own that it returns. It
// knows whose it is.
type tantrum struct{ owner string }

func (e *tantrum) Error() string { return "the encoder of " + e.owner }

// act is an encoder's result.
func (m mood) act(owner string) ([]byte, error) {
	switch m {
	case failing:
		return nil, &tantrum{owner}
	case panicking:
		panic(&tantrum{owner})
	}
	return []byte(owner), nil
}

// A doc is a value whose JSON encoder has a mood.
type doc struct {
	owner string
	mood  mood
}

func (d doc) MarshalJSON() ([]byte, error) {
	b, err := d.mood.act(d.owner)
	return []byte(`"` + string(b) + `"`), err
}

func (d *doc) UnmarshalJSON(b []byte) error {
	d.owner = strings.Trim(string(b), `"`)
	return nil
}

// A word is a member, a field or a part of a key whose text has a mood.
type word struct {
	owner string
	mood  mood
}

func (w word) MarshalText() ([]byte, error) { return w.mood.act(w.owner) }

func (w *word) UnmarshalText(b []byte) error {
	w.owner = string(b)
	return nil
}

// moody is a serializer with a mood that is that of its values.
type moody struct{}

func (moody) Marshal(v any) ([]byte, error)      { d := v.(doc); return d.mood.act(d.owner) }
func (moody) Unmarshal(data []byte, v any) error { *v.(*doc) = doc{owner: string(data)}; return nil }

// spiteful decodes what it should and then has the mood of its own.
type spiteful struct{ mood mood }

func (spiteful) Marshal(v any) ([]byte, error) { return []byte(v.(doc).owner), nil }
func (s spiteful) Unmarshal(data []byte, _ any) error {
	_, err := s.mood.act(string(data))
	return err
}

// A victim is a call of an object with something in it of the given mood.
type victim struct {
	name string
	call func(ctx context.Context, owner string, m mood) error
}

// victims are calls of every object, with encoders at each place where there
// can be one. Whatever stands before the moody one in the same command has been
// encoded by then.
func victims(conn *caches.Conn) []victim {
	o := caches.Options{Prefix: "victim", TTL: time.Hour}
	values := caches.Cache[doc](o).On(conn)
	plain := caches.Cache[string](o).On(conn)
	keyed := func(s caches.Serializer) caches.Cache[doc] {
		c := caches.Cache[doc](o)
		c.Serializer = s
		return c.On(conn)
	}
	own, packed := keyed(moody{}), keyed(caches.Compressed(moody{}, nil))
	dict := caches.DictCache[word, doc](o).On(conn).Key("dict")
	set := caches.SetCache[word](o).On(conn).Key("set")
	board := caches.SortedSetCache[word](o).On(conn).Key("board")
	gate := caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn)
	counter := caches.CounterCache[int](o).On(conn)
	drop := func(_ any, err error) error { return err }
	load := func(owner string, m mood) func(context.Context) (doc, error) {
		return func(context.Context) (doc, error) {
			b, err := m.act(owner)
			return doc{owner: string(b)}, err
		}
	}
	return []victim{
		{"Value.Set, JSON", func(ctx context.Context, w string, m mood) error { return values.Key("v").Set(ctx, doc{w, m}) }},
		{"Value.Set, a Serializer", func(ctx context.Context, w string, m mood) error { return own.Key("m").Set(ctx, doc{w, m}) }},
		{"Value.Set, Compressed", func(ctx context.Context, w string, m mood) error { return packed.Key("p").Set(ctx, doc{w, m}) }},
		{"Value.Add", func(ctx context.Context, w string, m mood) error { return drop(values.Key("a", w).Add(ctx, doc{w, m})) }},
		{"Value.Swap", func(ctx context.Context, w string, m mood) error {
			_, _, err := values.Key("v").Swap(ctx, doc{w, m})
			return err
		}},
		{"Cache.Key", func(ctx context.Context, w string, m mood) error { return plain.Key("k", word{w, m}).Set(ctx, "x") }},
		{"Value.Get, decoding", func(ctx context.Context, w string, m mood) error {
			c := keyed(spiteful{m}).Key("d", w)
			return errors.Join(c.Set(ctx, doc{owner: w}), drop(c.Get(ctx)))
		}},
		{"GetOrSet", func(ctx context.Context, w string, m mood) error {
			return drop(values.Key("g", w).GetOrSet(ctx, load(w, m)))
		}},
		{"SetMany", func(ctx context.Context, w string, m mood) error {
			return caches.SetMany(ctx, values, map[int]doc{1: {owner: "one"}, 2: {w, m}, 3: {owner: "three"}})
		}},
		{"Dict.Set, field", func(ctx context.Context, w string, m mood) error { return dict.Set(ctx, word{w, m}, doc{owner: w}) }},
		{"Dict.Set, value", func(ctx context.Context, w string, m mood) error { return dict.Set(ctx, word{owner: w}, doc{w, m}) }},
		{"Dict.Update", func(ctx context.Context, w string, m mood) error {
			return dict.Update(ctx, map[word]doc{{owner: "one"}: {owner: "one"}, {owner: w}: {w, m}})
		}},
		{"Dict.GetMany", func(ctx context.Context, w string, m mood) error {
			return drop(dict.GetMany(ctx, word{owner: "one"}, word{w, m}))
		}},
		{"Set.Add", func(ctx context.Context, w string, m mood) error {
			return drop(set.Add(ctx, word{owner: "one"}, word{w, m}))
		}},
		{"Set.Remove", func(ctx context.Context, w string, m mood) error {
			return drop(set.Remove(ctx, word{owner: w}, word{w, m}))
		}},
		{"SortedSet.Add", func(ctx context.Context, w string, m mood) error {
			return drop(board.Add(ctx, caches.Scored[word]{Score: 1, Member: word{owner: "one"}}, caches.Scored[word]{Score: 2, Member: word{w, m}}))
		}},
		{"SortedSet.Incr", func(ctx context.Context, w string, m mood) error { return drop(board.Incr(ctx, word{w, m}, 1)) }},
		{"CounterCache.Key", func(ctx context.Context, w string, m mood) error {
			return drop(counter.Key("c", word{w, m}).Incr(ctx, 1))
		}},
		{"SentinelCache.Key", func(ctx context.Context, w string, m mood) error { return drop(gate.Key("g", word{w, m}).Once(ctx)) }},
		{"Sentinel.Do", func(ctx context.Context, w string, m mood) error {
			return drop(gate.Key("do", w).Do(ctx, func(context.Context) error { _, err := m.act(w); return err }))
		}},
	}
}

// provoke makes one call and returns its error, or what it panicked with.
func (v *victim) provoke(ctx context.Context, owner string, m mood) (err error, panicked any) {
	returned := false
	defer func() {
		if !returned {
			panicked = recover()
		}
	}()
	err = v.call(ctx, owner, m)
	returned = true
	return err, nil
}

// expect returns what is wrong about how a call of mood m ended. Where the
// connection may be lost, that may be the end as well, but for a panic and an
// error that come before anything is sent.
func (v *victim) expect(owner string, m mood, err error, panicked any, losses bool) error {
	var mine *tantrum
	switch {
	case m == panicking && panicked != nil:
		if e, is := panicked.(*tantrum); is && e.owner == owner {
			return nil
		}
		return fmt.Errorf("%s panicked with %v", v.name, panicked)
	case panicked != nil:
		return fmt.Errorf("%s panicked with %v and should not have", v.name, panicked)
	case errors.As(err, &mine):
		if m == failing && mine.owner == owner {
			return nil
		}
		return fmt.Errorf("%s: somebody else's error: %w", v.name, err)
	case losses && isOutcome(err), m == calm && err == nil:
		return nil
	}
	return fmt.Errorf("%s in mood %d ended in %v", v.name, m, err)
}

// A scene is a server whose traffic is checked while victims are provoked.
type scene struct {
	*load
	server *testutil.RedisServer
	conn   *caches.Conn
	losses bool

	provoked, panics, failures atomic.Int64
}

func newScene(t *testing.T, losses bool) *scene {
	t.Helper()
	server := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: server.Addr()})
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": s})
	require.NoError(t, err)
	return &scene{load: newLoad(t, s, 8, 100), server: server, conn: conn, losses: losses}
}

// check makes checked calls until done is closed.
func (c *scene) check(w *worker, done <-chan struct{}) {
	for ended := false; !ended; {
		err := w.step(context.Background())
		if err != nil && !(c.losses && isOutcome(err)) {
			c.verify(err)
		}
		select {
		case <-done:
			ended = true
		default:
		}
	}
}

// provoke provokes each victim so many times, in turn, in moods chosen at random.
// Gates and keys are used once only: first makes a new one of each.
func (c *scene) provoke(t *testing.T, g, first, times int) {
	choices := random(fmt.Sprint(t.Name(), " moods ", first), g)
	for i := first; i < first+times; i++ {
		for j, v := range victims(c.conn) {
			owner, m := fmt.Sprintf("%d-%d-%d", g, i, j), mood(choices.IntN(3))
			err, panicked := v.provoke(context.Background(), owner, m)
			c.verify(v.expect(owner, m, err, panicked, c.losses))
			c.provoked.Add(1)
			switch {
			case panicked != nil:
				c.panics.Add(1)
			case m == failing:
				c.failures.Add(1)
			}
		}
	}
}

// play provokes victims from some goroutines and checks calls from others. Until
// wait returns, too, it goes on with both.
func (c *scene) play(t *testing.T, times int, wait func()) {
	t.Helper()
	done := make(chan struct{})
	var checking, provoking, waiting sync.WaitGroup
	for n := range c.registers {
		checking.Go(func() { c.check(c.worker(n), done) })
	}
	over := atomic.Bool{}
	waiting.Go(func() { wait(); over.Store(true) })
	for g := range 4 {
		provoking.Go(func() {
			for round := 0; round == 0 || !over.Load(); round++ {
				c.provoke(t, g, round*times, times/4)
			}
		})
	}
	provoking.Wait()
	waiting.Wait()
	close(done)
	checking.Wait()
	c.allRight(t)
	c.noServerErrors(t)
}

// noServerErrors asks the server whether it ever got anything that is not a
// command as the objects make them.
func (c *scene) noServerErrors(t *testing.T) {
	t.Helper()
	stats, err := redis.String(c.server.Do("INFO", "errorstats"))
	require.NoError(t, err)
	for line := range strings.Lines(stats) {
		if strings.HasPrefix(line, "errorstat_") && !strings.HasPrefix(line, "errorstat_NOSCRIPT") {
			assert.Fail(t, "the server answered with an error", line)
		}
	}
	settled(t, c.store)
	assert.Zero(t, c.store.Stats().Desyncs)
}

// TestPanics provokes victims on connections that hold: these must not notice.
func TestPanics(t *testing.T) {
	c := newScene(t, false)
	c.play(t, count(200, 5_000), func() {})
	n := len(victims(c.conn))
	require.Greater(t, c.panics.Load(), c.provoked.Load()/4)
	require.Greater(t, c.failures.Load(), c.provoked.Load()/4)
	report(t, fmt.Sprintf("encoders, decoders and functions that panic or fail, in %d operations of all objects", n),
		"%d panics and %d errors, each its caller's own; 0 of %d checked answers wrong; 0 error replies of the server",
		c.panics.Load(), c.failures.Load(), c.checked.Load())
}

// TestPanicsWhileKilled is the same while the server kills every connection,
// again and again.
func TestPanicsWhileKilled(t *testing.T) {
	c := newScene(t, true)
	kills := int64(0)
	c.play(t, count(40, 1_000), func() { kills = c.kill(t, int64(count(500, 5_000))) })
	report(t, "the same, and writers whose connections the server kills (CLIENT KILL)",
		"%d killed, %d panics and %d errors; 0 of %d checked answers wrong, 0 error replies of the server",
		kills, c.panics.Load(), c.failures.Load(), c.checked.Load())
}

// kill kills connections until so many were. Each has answered some calls before
// it is killed.
func (c *scene) kill(t *testing.T, want int64) (killed int64) {
	admin, err := redis.Dial("tcp", c.server.Addr())
	if !assert.NoError(t, err) {
		return 0
	}
	defer func() { _ = admin.Close() }()
	for never := make(chan struct{}); killed < want; {
		checked := c.checked.Load()
		await(never, func() bool { return c.checked.Load() >= checked+20 })
		n, err := redis.Int64(admin.Do("CLIENT", "KILL", "TYPE", "normal"))
		if !assert.NoError(t, err) {
			return killed
		}
		killed += n
	}
	return killed
}
