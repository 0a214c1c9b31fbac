package caches_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

// The lease of Sentinel.Do over time. These tests run on a clock that
// moves only when every goroutine waits (testing/synctest), over a store of
// this process: their times are exact, and a goroutine that stays behind is an
// error of its own.

// A switchStore is a store that can be taken away: down, it answers as one that
// cannot be reached; hung, it answers nothing until the caller gives up.
type switchStore struct {
	driver.Store

	mu         sync.Mutex
	down, hung bool
}

func (s *switchStore) set(down, hung bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.hung = down, hung
}

func (s *switchStore) Do(ctx context.Context, p *driver.Pipeline) error {
	s.mu.Lock()
	down, hung := s.down, s.hung
	s.mu.Unlock()
	switch {
	case hung:
		<-ctx.Done()
		return fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, ctx.Err())
	case down:
		return fmt.Errorf("%w: switched off", driver.ErrUnavailable)
	}
	return s.Store.Do(ctx, p)
}

// over opens a connection over stores of a test's own.
func over(t *testing.T, stores ...driver.Store) *caches.Conn {
	t.Helper()
	shards := make(map[string]driver.Store)
	for i, store := range stores {
		shards[fmt.Sprintf("shard%d", i)] = store
	}
	conn, err := caches.ConnOptions{}.OpenStores(shards)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

const lease = 3 * time.Second

// leased runs test in a bubble with a gate whose lease is 3 s.
func leased(t *testing.T, test func(t *testing.T, gate caches.Sentinel, store *switchStore)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := &switchStore{Store: testutil.Memory(t)}
		typ := gates(over(t, store), time.Hour)
		typ.Lease = lease
		test(t, typ.Key("a"), store)
	})
}

// lost waits for the end of work's context, checks that it is a lost lease, and
// returns how long that took.
func lost(t *testing.T, ctx context.Context) time.Duration {
	t.Helper()
	start := time.Now()
	<-ctx.Done()
	require.Equal(t, caches.ErrLeaseLost, context.Cause(ctx))
	require.Equal(t, context.Canceled, ctx.Err())
	return time.Since(start)
}

func TestLeaseIsRenewedWhileWorkRuns(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
		ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
			for range 100 { // ten leases long
				time.Sleep(lease / 10)
				require.NoError(t, ctx.Err())
				requireShut(t, ctx, gate)
				left, err := gate.ExpiresIn(ctx)
				require.NoError(t, err)
				require.GreaterOrEqual(t, left, lease*6/10, "renewed three times per lease")
				require.LessOrEqual(t, left, lease)
			}
			return nil
		})
		require.NoError(t, err)
		require.True(t, ran)
		time.Sleep(time.Hour) // nobody renews a gate whose work is done
		requireShut(t, t.Context(), gate)
		time.Sleep(time.Millisecond)
		requireOpen(t, t.Context(), gate)
	})
}

// A process that crashes in the middle of the work renews nothing: the gate
// opens a lease later. Its stand-in is a store that has gone from it, while
// another connection still sees the data.
func TestLeaseEndsWithoutItsProcess(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		others := gate.On(over(t, store.Store))
		ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
			store.set(true, false)
			time.Sleep(lease - time.Millisecond)
			requireShut(t, t.Context(), others)
			time.Sleep(2 * time.Millisecond)
			require.Error(t, ctx.Err(), "whoever has lost the gate knows before others can pass it")
			requireOpen(t, t.Context(), others)
			return nil
		})
		require.True(t, ran)
		require.ErrorIs(t, err, caches.ErrUnavailable)
	})
}

func TestLeaseLostWhenTheGateIsDeleted(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
		ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
			require.NoError(t, errOf(gate.Delete(ctx)))
			require.LessOrEqual(t, lost(t, ctx), lease/3)
			return context.Cause(ctx)
		})
		require.True(t, ran)
		require.Equal(t, caches.ErrLeaseLost, err)
		requireOpen(t, t.Context(), gate)
	})
}

// Who has lost the gate to somebody else leaves it to them, whether the work
// then fails or not.
func TestLeaseLostToAnother(t *testing.T) {
	for _, tt := range []struct {
		name   string
		result error
		want   error
	}{
		{"and work fails", errors.ErrUnsupported, errors.ErrUnsupported},
		{"and work succeeds", nil, caches.ErrLeaseLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
				ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
					require.NoError(t, errOf(gate.Delete(ctx)))
					won, err := gate.Once(ctx)
					require.NoError(t, err)
					require.True(t, won)
					require.LessOrEqual(t, lost(t, ctx), lease/3)
					return tt.result
				})
				require.True(t, ran)
				require.ErrorIs(t, err, tt.want)
				requireShut(t, t.Context(), gate)
			})
		})
	}
}

// What another Do has made of the gate stays: neither the end of the first
// work nor its failure touches a claim that is not its own.
func TestLeaseOfAnotherDoIsLeftAlone(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
		second := make(chan error)
		ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
			require.NoError(t, errOf(gate.Delete(ctx)))
			go func() {
				_, err := gate.Do(t.Context(), func(context.Context) error { time.Sleep(10 * lease); return nil })
				second <- err
			}()
			lost(t, ctx)
			return errors.ErrUnsupported
		})
		require.True(t, ran)
		require.Equal(t, errors.ErrUnsupported, err)
		requireShut(t, t.Context(), gate)
		require.NoError(t, <-second, "the second work kept its lease throughout")
		requireShut(t, t.Context(), gate)
	})
}

// Work that holds the gate knows that it may no longer do so no later than
// others could pass it: a lease after the last renewal was sent.
func TestLeaseLostWhenTheServerIsGone(t *testing.T) {
	for _, tt := range []struct {
		name       string
		down, hung bool
	}{
		{"unreachable", true, false},
		{"silent", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
				ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
					time.Sleep(lease) // renewed at 1 s and 2 s, and perhaps just now
					store.set(tt.down, tt.hung)
					took := lost(t, ctx)
					require.LessOrEqual(t, took, lease)
					require.GreaterOrEqual(t, took, lease*2/3-time.Millisecond, "not before the lease was in doubt")
					store.set(false, false)
					return context.Cause(ctx)
				})
				require.True(t, ran)
				require.ErrorIs(t, err, caches.ErrLeaseLost)
				requireOpen(t, t.Context(), gate)
			})
		})
	}
}

func TestLeaseSurvivesAShortOutage(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		ran, err := gate.Do(t.Context(), func(ctx context.Context) error {
			for range 5 {
				store.set(true, false)
				time.Sleep(lease / 2)
				store.set(false, false)
				time.Sleep(lease)
				require.NoError(t, ctx.Err())
				requireShut(t, ctx, gate)
			}
			return nil
		})
		require.NoError(t, err)
		require.True(t, ran)
	})
}

// Ran true with an error that is not work's own: it succeeded, and the gate may
// not have been shut.
func TestDoCannotShut(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		ran, err := gate.Do(t.Context(), func(context.Context) error {
			store.set(true, false)
			return nil
		})
		require.True(t, ran)
		require.ErrorIs(t, err, caches.ErrUnavailable)
		store.set(false, false)
		requireShut(t, t.Context(), gate) // until the lease ends
		time.Sleep(lease + time.Millisecond)
		requireOpen(t, t.Context(), gate)
	})
}

func TestDoCannotFree(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		ran, err := gate.Do(t.Context(), func(context.Context) error {
			store.set(true, false)
			return errors.ErrUnsupported
		})
		require.True(t, ran)
		require.ErrorIs(t, err, errors.ErrUnsupported, "work's own error")
		require.ErrorIs(t, err, caches.ErrUnavailable, "beside the one of freeing the gate")
	})
}

// A server that says nothing holds Do up for five seconds at most, whatever the
// context.
func TestDoEndsAlthoughTheServerIsSilent(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		ran, err := gate.Do(ctx, func(context.Context) error {
			store.set(false, true)
			cancel()
			return nil
		})
		require.True(t, ran)
		require.ErrorIs(t, err, caches.ErrUnknownOutcome)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(start), 5*time.Second)
	})
}

// The lease goes on while work winds up after its caller has left.
func TestLeaseOutlivesTheCallersContext(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ran, err := gate.Do(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			require.Equal(t, context.DeadlineExceeded, context.Cause(ctx))
			for range 10 {
				time.Sleep(lease)
				requireShut(t, t.Context(), gate)
			}
			return ctx.Err()
		})
		require.True(t, ran)
		require.Equal(t, context.DeadlineExceeded, err)
		requireOpen(t, t.Context(), gate)
	})
}

// The context of work carries the caller's values and ends with Do.
func TestDoContext(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, _ *switchStore) {
		type key struct{}
		var inner context.Context
		_, err := gate.Do(context.WithValue(t.Context(), key{}, "value"), func(ctx context.Context) error {
			inner = ctx
			require.Equal(t, "value", ctx.Value(key{}))
			require.NoError(t, ctx.Err())
			return nil
		})
		require.NoError(t, err)
		require.Error(t, inner.Err(), "a context that outlives Do would leak")
	})
}

// A panic in work does not leave the renewal behind, which would keep the gate
// shut for as long as the process lives.
func TestLeaseIsNotRenewedAfterAPanic(t *testing.T) {
	leased(t, func(t *testing.T, gate caches.Sentinel, store *switchStore) {
		others := gate.On(over(t, store.Store))
		require.Panics(t, func() {
			_, _ = gate.Do(t.Context(), func(context.Context) error {
				store.set(true, false) // so that the gate cannot be freed at once
				panic("in the middle")
			})
		})
		store.set(false, false)
		requireShut(t, t.Context(), others)
		time.Sleep(lease + time.Millisecond)
		requireOpen(t, t.Context(), others)
	})
}
