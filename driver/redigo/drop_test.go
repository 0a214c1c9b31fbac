package redigo_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errMoved = errors.New("it has moved")

// TestDrop drops connections of both kinds during calls: a write's outcome is
// unknown, and a read is sent again.
func TestDrop(t *testing.T) {
	for _, mode := range []driver.Mode{0, driver.Own} {
		var dropped atomic.Bool
		server := serve(t, func(_ int, cmd []string) string {
			if !dropped.Load() && cmd[0] != "TTL" {
				return silence
			}
			return ":1\r\n"
		})
		states := make(chan driver.State, 16)
		s := open(t, redigo.Config{Address: server.addr, OnState: func(state driver.State, reason error) {
			if reason != nil {
				assert.ErrorContains(t, reason, "it has moved")
			}
			states <- state
		}})
		_, err := run(s, mode, "TTL", "k")
		require.NoError(t, err)
		wrote, read := make(chan error), make(chan string)
		go func() {
			_, err := run(s, mode, "INCR", "k")
			wrote <- err
		}()
		go func() {
			reply, _ := run(s, mode|driver.ReadOnly, "GET", "k")
			read <- reply
		}()
		require.Eventually(t, func() bool { return server.count("INCR k")+server.count("GET k") == 2 }, patience, time.Millisecond)
		dropped.Store(true)
		s.Drop(errMoved)
		err = <-wrote
		require.ErrorIs(t, err, driver.ErrUnknownOutcome)
		require.ErrorContains(t, err, "it has moved")
		assert.Equal(t, ":1\r\n", <-read)
		assert.Equal(t, 1, server.count("INCR k"))
		if mode == 0 {
			assert.Equal(t, []driver.State{driver.Connected, driver.Disconnected, driver.Connected}, []driver.State{<-states, <-states, <-states})
		}
	}
}

// TestDropIdle drops idle connections: the server sees them close, and the next
// call dials.
func TestDropIdle(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	s.Drop(errMoved) // no connection yet
	must(t, s, "PING")
	_, err := run(s, driver.Own, "PING")
	require.NoError(t, err)
	before := clients(t, r)
	s.Drop(errMoved)
	require.Eventually(t, func() bool { return clients(t, r) == before-2 }, patience, time.Millisecond)
	for _, mode := range []driver.Mode{0, driver.Own} {
		_, err := run(s, mode, "INCR", "n")
		require.NoError(t, err)
	}
	assert.EqualValues(t, 4, s.Stats().Dials)
}

// TestDropDial drops during a dial to a server that does not reply: the dial
// starts again at the new address, for the calls that wait.
func TestDropDial(t *testing.T) {
	for _, mode := range []driver.Mode{0, driver.Own} {
		mute := serveAll(t, func(int, []string) string { return silence })
		now := serve(t, func(int, []string) string { return ":1\r\n" })
		var moved atomic.Bool
		asked := make(chan struct{}, 16)
		s := open(t, redigo.Config{Resolve: func(context.Context) (string, error) {
			asked <- struct{}{}
			if moved.Load() {
				return now.addr, nil
			}
			return mute.addr, nil
		}})
		done := make(chan error)
		go func() {
			_, err := run(s, mode, "INCR", "k")
			done <- err
		}()
		<-asked
		moved.Store(true)
		s.Drop(errMoved)
		require.NoError(t, <-done)
	}
}

// TestDropResets checks that Drop closes the breaker, so that the failures of
// the previous server do not delay calls.
func TestDropResets(t *testing.T) {
	now := serve(t, func(int, []string) string { return ":1\r\n" })
	var moved atomic.Bool
	s := open(t, redigo.Config{Resolve: func(context.Context) (string, error) {
		if moved.Load() {
			return now.addr, nil
		}
		return "", errors.New("nowhere")
	}})
	for range 200 {
		_, err := run(s, 0, "INCR", "k")
		require.ErrorIs(t, err, driver.ErrUnavailable)
	}
	assert.Positive(t, s.Stats().Refused, "the breaker is open")
	moved.Store(true)
	s.Drop(errMoved)
	must(t, s, "INCR", "k")
}

// TestDropStorm keeps dropping connections during calls: each call has a
// definite outcome, and nothing runs twice.
func TestDropStorm(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr(), Conns: 2})
	var all sync.WaitGroup
	var acked, unknown atomic.Int64
	for w := range 16 {
		all.Go(func() {
			mode := []driver.Mode{0, driver.Own}[w%2]
			for range scale(50, 300) {
				switch _, err := run(s, mode, "INCR", "n"); {
				case err == nil:
					acked.Add(1)
				case errors.Is(err, driver.ErrUnknownOutcome):
					unknown.Add(1)
				default:
					assert.ErrorIs(t, err, driver.ErrUnavailable)
				}
			}
		})
	}
	stop := make(chan struct{})
	dropping := sync.WaitGroup{}
	dropping.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				s.Drop(errMoved)
			}
		}
	})
	all.Wait()
	close(stop)
	dropping.Wait()
	n, err := redis.Int64(r.Do("GET", "n"))
	require.NoError(t, err)
	t.Logf("%d acknowledged, %d unknown, counter %d, %d dials", acked.Load(), unknown.Load(), n, s.Stats().Dials)
	assert.GreaterOrEqual(t, n, acked.Load())
	assert.LessOrEqual(t, n, acked.Load()+unknown.Load())
}

// TestDropTracking checks that tracking starts again after Drop.
func TestDropTracking(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	events := make(chan driver.Event, 1024)
	stop := s.Track([]string{"k"}, func(e driver.Event) {
		if e.Kind != driver.Synced {
			events <- e
		}
	})
	defer stop()
	require.Equal(t, driver.Tracking, (<-events).Kind)
	s.Drop(errMoved)
	lost := <-events
	require.Equal(t, driver.Lost, lost.Kind)
	assert.ErrorContains(t, lost.Err, "it has moved")
	require.Equal(t, driver.Tracking, (<-events).Kind)
}

// TestListen checks the messages, and the reason for the end.
func TestListen(t *testing.T) {
	r := testutil.Redis(t, nil)
	s := open(t, redigo.Config{Address: r.Addr()})
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan string, 16), make(chan error, 1)
	listen := func() {
		done <- s.Listen(ctx, "news", func(message []byte) { heard <- string(message) })
	}
	go listen()
	require.Empty(t, <-heard, "the subscription is confirmed")
	_, err := r.Do("PUBLISH", "news", "it rains")
	require.NoError(t, err)
	assert.Equal(t, "it rains", <-heard)
	_, err = r.Do("CLIENT", "KILL", "TYPE", "pubsub")
	require.NoError(t, err)
	require.ErrorContains(t, <-done, "listening at "+r.Addr())

	go listen()
	require.Empty(t, <-heard)
	s.Drop(errMoved)
	require.ErrorContains(t, <-done, "it has moved")

	go listen()
	require.Empty(t, <-heard)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	ctx = t.Context()
	go listen()
	require.Empty(t, <-heard)
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-done, context.Canceled)
	require.Error(t, s.Listen(ctx, "news", func([]byte) {}), "the store is closed")
}

// TestForeignPool checks that a Store made by FromPool can neither drop nor
// listen.
func TestForeignPool(t *testing.T) {
	r := testutil.Redis(t, nil)
	pool := &redis.Pool{Dial: func() (redis.Conn, error) { return redis.Dial("tcp", r.Addr()) }, MaxIdle: 1}
	defer func() { _ = pool.Close() }()
	s := redigo.FromPool(pool, redigo.PoolOptions{Timeout: patience})
	s.Drop(errMoved)
	must(t, s, "PING")
	require.ErrorIs(t, s.Listen(t.Context(), "news", func([]byte) {}), driver.ErrUnavailable)
	require.NoError(t, s.Close())
}
