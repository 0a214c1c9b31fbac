package redigo_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A started makes each Do in two steps.
type started struct{ *redigo.Store }

func (s started) Do(ctx context.Context, p *driver.Pipeline) error {
	return s.Start(ctx, p).Finish()
}

func TestStartStore(t *testing.T) {
	r := testutil.Redis(t, nil)
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		_, err := r.Do("FLUSHALL")
		require.NoError(t, err)
		s, err := redigo.Open(redigo.Config{Address: r.Addr(), Timeout: patience})
		require.NoError(t, err)
		ping(t, s) // without a connection, Start uses a goroutine
		return started{s}
	})
}

func start(ctx context.Context, s *redigo.Store, mode driver.Mode, args ...string) (driver.Pending, *driver.Pipeline) {
	p := driver.NewPipeline(mode)
	if len(args) > 0 {
		add(p, args...)
	}
	return s.Start(ctx, p), p
}

// TestStartSendsToAll has one goroutine's commands in progress on three servers
// that do not reply yet. No other goroutine waits for a server.
func TestStartSendsToAll(t *testing.T) {
	var stores []*redigo.Store
	var servers []*testutil.RedisServer
	for range 3 {
		r := testutil.Redis(t, nil)
		s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: patience})
		must(t, s, "SET", "k", r.Addr())
		r.Pause()
		stores, servers = append(stores, s), append(servers, r)
	}
	goroutines := runtime.NumGoroutine()
	var calls []driver.Pending
	var pipelines []*driver.Pipeline
	for _, s := range stores {
		before := s.Stats().BytesOut
		call, p := start(t.Context(), s, driver.ReadOnly, "GET", "k")
		calls, pipelines = append(calls, call), append(pipelines, p)
		assert.Greater(t, s.Stats().BytesOut, before)
		assert.EqualValues(t, 1, s.Stats().InFlight)
	}
	// The watchdogs' looks are goroutines that end at once; one that waited for a
	// server would last as long as the call.
	for end := time.Now().Add(patience / 2); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "%d goroutines more", runtime.NumGoroutine()-goroutines)
	}
	for i, r := range servers {
		r.Resume()
		require.NoError(t, calls[i].Finish())
		assert.Equal(t, bulk(r.Addr()), string(pipelines[i].Replies().Raw()))
		assert.Zero(t, stores[i].Stats().InFlight)
	}
}

func TestStartBeforeAnything(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	call, p := start(t.Context(), s, 0, "ECHO", "dialed meanwhile")
	require.NoError(t, call.Finish())
	assert.Equal(t, bulk("dialed meanwhile"), string(p.Replies().Raw()))

	call, p = start(t.Context(), s, driver.Own, "ECHO", "for itself")
	require.NoError(t, call.Finish())
	assert.Equal(t, bulk("for itself"), string(p.Replies().Raw()))

	call, _ = start(t.Context(), s, 0)
	require.NoError(t, call.Finish(), "nothing to do")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	call, _ = start(ended, s, 0, "SET", "k", "v")
	err := call.Finish()
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, s.Close())
	call, _ = start(t.Context(), s, 0, "SET", "k", "v")
	require.ErrorIs(t, call.Finish(), driver.ErrUnavailable)
	assert.EqualValues(t, 5, s.Stats().Calls)
	assert.EqualValues(t, 2, s.Stats().Errors)
}

// TestStartLost loses the connection between Start and Finish.
func TestStartLost(t *testing.T) {
	r := testutil.Redis(t, nil)
	proxy := testutil.NewProxy(t, r.Addr())
	s := openShared(t, redigo.Config{Address: proxy.Addr(), Timeout: patience})
	for _, mode := range []driver.Mode{driver.ReadOnly, 0} {
		proxy.Heal()
		ping(t, s)
		proxy.DropReplies(true)
		call, p := start(t.Context(), s, mode, "ECHO", "v")
		proxy.Heal()
		proxy.Reset()
		err := call.Finish()
		if mode == 0 {
			require.ErrorIs(t, err, driver.ErrUnknownOutcome)
			assert.Zero(t, p.Replies().Len())
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, bulk("v"), string(p.Replies().Raw()))
	}
}

// TestStartAbandoned ends the context between Start and Finish: the late reply
// is dropped.
func TestStartAbandoned(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: patience})
	must(t, s, "PING")
	r.Pause()
	ctx, cancel := context.WithCancel(t.Context())
	call, _ := start(ctx, s, 0, "ECHO", "nobody's")
	cancel()
	begun := time.Now()
	err := call.Finish()
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, time.Since(begun), patience)
	r.Resume()
	assert.Equal(t, bulk("mine"), must(t, s, "ECHO", "mine"))
	assert.EqualValues(t, 1, s.Stats().Dials)
}

// TestStartTogether starts several calls from each of many goroutines.
func TestStartTogether(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := openShared(t, redigo.Config{Address: r.Addr(), Timeout: patience, Conns: 2})
	must(t, s, "PING")
	together(32, func(g int) {
		for i := range 50 {
			var calls []driver.Pending
			var pipelines []*driver.Pipeline
			for j := range 4 {
				call, p := start(t.Context(), s, 0, "ECHO", fmt.Sprint(g, i, j))
				calls, pipelines = append(calls, call), append(pipelines, p)
			}
			for j, call := range calls {
				assert.NoError(t, call.Finish())
				assert.Equal(t, bulk(fmt.Sprint(g, i, j)), string(pipelines[j].Replies().Raw()))
				pipelines[j].Free()
			}
		}
	})
	settled(t, s)
}
