package caches_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

// gates is a type of gates on conn that stay shut for ttl.
func gates(conn *caches.Conn, ttl time.Duration) caches.SentinelCache {
	return caches.SentinelCache{Prefix: "gate", TTL: ttl}.On(conn)
}

// nothing is work that succeeds.
func nothing(context.Context) error { return nil }

// mustNotRun is work behind a gate that is shut.
func mustNotRun(t *testing.T) func(context.Context) error {
	return func(context.Context) error {
		t.Error("work ran behind a gate that was shut")
		return nil
	}
}

// requireShut checks that neither Once nor Do gets through.
func requireShut(t *testing.T, ctx context.Context, gate caches.Sentinel) {
	t.Helper()
	won, err := gate.Once(ctx)
	require.NoError(t, err)
	require.False(t, won, "Once got through")
	ran, err := gate.Do(ctx, mustNotRun(t))
	require.NoError(t, err)
	require.False(t, ran, "Do got through")
	shut, err := gate.Exists(ctx)
	require.NoError(t, err)
	require.True(t, shut)
}

// requireOpen checks that Exists says so and that Once gets through, and opens
// the gate again.
func requireOpen(t *testing.T, ctx context.Context, gate caches.Sentinel) {
	t.Helper()
	shut, err := gate.Exists(ctx)
	require.NoError(t, err)
	require.False(t, shut)
	won, err := gate.Once(ctx)
	require.NoError(t, err)
	require.True(t, won)
	require.NoError(t, errOf(gate.Delete(ctx)))
}

func TestOnceIsTrueOnceUntilDelete(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, time.Minute).Key("a")
		won, err := gate.Once(ctx)
		require.NoError(t, err)
		require.True(t, won)
		for range 3 {
			requireShut(t, ctx, gate)
		}
		requireOpen(t, ctx, gates(conn, time.Minute).Key("b")) // another key is another gate
		require.NoError(t, errOf(gate.Delete(ctx)))
		requireOpen(t, ctx, gate)
	})
}

// The first claim says for how long; no policy lets a later call change that.
func TestOnceKeepsTheExpiryOfTheClaim(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			gate := func(ttl time.Duration) caches.Sentinel {
				o := caches.Options{Prefix: "gate", TTL: ttl, TTLPolicy: policy}
				return caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn).Key(policy.String())
			}
			won, err := gate(time.Minute).Once(ctx)
			require.NoError(t, err)
			require.True(t, won)
			for _, later := range []time.Duration{time.Hour, time.Second, caches.Forever} {
				requireShut(t, ctx, gate(later))
				left, err := gate(later).ExpiresIn(ctx)
				require.NoError(t, err)
				require.LessOrEqual(t, left, time.Minute, policy)
				require.Greater(t, left, 30*time.Second, policy)
			}
		}
	})
}

func TestOnceTimesToLive(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, ttl := range []time.Duration{0, caches.Forever} { // the connection has no default
			gate := gates(conn, ttl).Key(ttl)
			won, err := gate.Once(ctx)
			require.NoError(t, err)
			require.True(t, won)
			left, err := gate.ExpiresIn(ctx)
			require.NoError(t, err)
			require.Equal(t, caches.Forever, left)
		}
		gate := gates(conn, -time.Second).Key("negative")
		won, err := gate.Once(ctx)
		require.ErrorContains(t, err, "negative")
		require.False(t, won)
		ran, err := gate.Do(ctx, mustNotRun(t))
		require.ErrorContains(t, err, "negative")
		require.False(t, ran)
	})
}

func TestOnceOpensAgainWhenTheClaimExpires(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, 60*time.Millisecond).Key("a")
		won, err := gate.Once(ctx)
		require.NoError(t, err)
		require.True(t, won)
		require.Eventually(t, func() bool {
			won, err := gate.Once(ctx)
			return err == nil && won
		}, 10*time.Second, 10*time.Millisecond)
	})
}

// On a clock of its own, the claim ends neither early nor late.
func TestOnceExpiryToTheMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := gates(open(t, "locmem://?ttl=1h"), 0).Key("a")
		won, err := gate.Once(t.Context())
		require.NoError(t, err)
		require.True(t, won)
		time.Sleep(time.Hour)
		requireShut(t, t.Context(), gate)
		time.Sleep(time.Millisecond)
		requireOpen(t, t.Context(), gate)
	})
}

func TestOnceHasOneWinnerAmongGoroutines(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for round := range 20 {
			gate := gates(conn, time.Minute).Key(round)
			var winners atomic.Int32
			var callers sync.WaitGroup
			for range 50 {
				callers.Go(func() {
					won, err := gate.Once(ctx)
					if assert.NoError(t, err) && won {
						winners.Add(1)
					}
				})
			}
			callers.Wait()
			require.EqualValues(t, 1, winners.Load(), "round %d", round)
		}
	})
}

// A gate fails closed: whatever goes wrong is false and an error.
func TestSentinelFailsClosed(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		dict := caches.DictCache[string, int]{Prefix: "gate"}.On(conn).Key("dict")
		require.NoError(t, dict.Set(ctx, "a", 1))
		type namedBadly struct{}
		for _, tt := range []struct {
			name string
			ctx  context.Context
			gate caches.Sentinel
			want error
		}{
			{"no key", ctx, caches.Sentinel{}, caches.ErrNoKey},
			{"a part that is none", ctx, gates(conn, time.Minute).Key(namedBadly{}), nil},
			{"context ended", ended, gates(conn, time.Minute).Key("ended"), caches.ErrUnavailable},
			{"context ended", ended, gates(conn, time.Minute).Key("ended"), context.Canceled},
			{"another type", ctx, gates(conn, time.Minute).Key("dict"), caches.ErrWrongType},
		} {
			won, err := tt.gate.Once(tt.ctx)
			require.Error(t, err, tt.name)
			require.False(t, won, tt.name)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want, tt.name)
			}
			ran, err := tt.gate.Do(tt.ctx, mustNotRun(t))
			require.Error(t, err, tt.name)
			require.False(t, ran, tt.name)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want, tt.name)
			}
		}
		requireOpen(t, ctx, gates(conn, time.Minute).Key("ended"))
		n, err := dict.Get(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 1, n, "a failed claim overwrote somebody else's data")
	})
}

func TestSentinelClearOpensEveryGateOfTheType(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		other := caches.SentinelCache{Prefix: "gates", TTL: time.Minute}.On(conn).Key(1)
		for _, gate := range []caches.Sentinel{gates(conn, time.Minute).Key(1), gates(conn, time.Minute).Key(2), other} {
			_, err := gate.Once(ctx)
			require.NoError(t, err)
		}
		n, err := gates(conn, time.Minute).Clear(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		requireOpen(t, ctx, gates(conn, time.Minute).Key(1))
		requireShut(t, ctx, other)
	})
}

func TestDoRunsOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, time.Minute).Key("a")
		runs := 0
		ran, err := gate.Do(ctx, func(ctx context.Context) error {
			runs++
			requireShut(t, ctx, gate) // while work runs
			left, err := gate.ExpiresIn(ctx)
			require.NoError(t, err)
			require.LessOrEqual(t, left, 30*time.Second, "the default lease")
			return nil
		})
		require.NoError(t, err)
		require.True(t, ran)
		require.Equal(t, 1, runs)
		requireShut(t, ctx, gate) // and after
		left, err := gate.ExpiresIn(ctx)
		require.NoError(t, err)
		require.Greater(t, left, 30*time.Second, "the time to live in place of the lease")
		require.LessOrEqual(t, left, time.Minute)
		require.NoError(t, errOf(gate.Delete(ctx)))
		requireOpen(t, ctx, gate)
	})
}

func TestDoWithoutATimeToLiveShutsForEver(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, caches.Forever).Key("a")
		ran, err := gate.Do(ctx, func(ctx context.Context) error {
			left, err := gate.ExpiresIn(ctx)
			require.NoError(t, err)
			require.LessOrEqual(t, left, 30*time.Second, "while work runs there is an end: the process may crash")
			return nil
		})
		require.NoError(t, err)
		require.True(t, ran)
		left, err := gate.ExpiresIn(ctx)
		require.NoError(t, err)
		require.Equal(t, caches.Forever, left)
	})
}

func TestDoHasOneWinnerAmongGoroutines(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, time.Minute).Key("a")
		var runs, reported atomic.Int32
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				ran, err := gate.Do(ctx, func(context.Context) error { runs.Add(1); return nil })
				if assert.NoError(t, err) && ran {
					reported.Add(1)
				}
			})
		}
		callers.Wait()
		require.EqualValues(t, 1, runs.Load())
		require.EqualValues(t, 1, reported.Load())
	})
}

// Whichever way work fails to succeed, the gate is open afterwards.
func TestDoFreesTheGate(t *testing.T) {
	errWork := errors.New("no mail today")
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, time.Minute).Key("a")
		t.Run("error", func(t *testing.T) {
			ran, err := gate.Do(ctx, func(context.Context) error { return errWork })
			require.True(t, ran)
			require.Equal(t, errWork, err, "work's own error, as it is")
			requireOpen(t, ctx, gate)
		})
		t.Run("panic", func(t *testing.T) {
			require.PanicsWithValue(t, "at the disco", func() {
				_, _ = gate.Do(ctx, func(context.Context) error { panic("at the disco") })
			})
			requireOpen(t, ctx, gate)
		})
		t.Run("goexit", func(t *testing.T) {
			var left sync.WaitGroup
			left.Go(func() {
				_, _ = gate.Do(ctx, func(context.Context) error { runtime.Goexit(); return nil })
				t.Error("Goexit came back")
			})
			left.Wait()
			requireOpen(t, ctx, gate)
		})
		t.Run("context ended", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(ctx)
			ran, err := gate.Do(ctx, func(ctx context.Context) error {
				cancel(errWork)
				<-ctx.Done()
				require.Equal(t, errWork, context.Cause(ctx), "the caller's cause, not a lost lease")
				return ctx.Err()
			})
			require.True(t, ran)
			require.ErrorIs(t, err, context.Canceled)
			requireOpen(t, t.Context(), gate)
		})
	})
}

// The caller's context is no reason to forget work that has succeeded.
func TestDoShutsAfterTheContextHasEnded(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		gate := gates(conn, time.Minute).Key("a")
		ending, cancel := context.WithCancel(ctx)
		ran, err := gate.Do(ending, func(context.Context) error { cancel(); return nil })
		require.NoError(t, err)
		require.True(t, ran)
		requireShut(t, ctx, gate)
	})
}

func TestDoRefusesAShortLease(t *testing.T) {
	conn := open(t, "locmem://")
	for _, tt := range []struct {
		lease time.Duration
		ok    bool
	}{
		{-time.Second, false}, {time.Nanosecond, false}, {10*time.Millisecond - 1, false},
		{10 * time.Millisecond, true}, {time.Hour, true}, {0, true},
	} {
		typ := gates(conn, time.Minute)
		typ.Lease = tt.lease
		gate := typ.Key(tt.lease)
		ran, err := gate.Do(t.Context(), nothing)
		require.Equal(t, tt.ok, ran, tt.lease)
		if tt.ok {
			require.NoError(t, err, tt.lease)
			continue
		}
		refusal, ok := errors.AsType[*caches.OpError](err)
		require.True(t, ok, err)
		require.Equal(t, "Sentinel.Do", refusal.Op)
		require.ErrorContains(t, err, "less than 10ms")
		requireOpen(t, t.Context(), gate)
	}
}

// The token tells whoever looks with redis-cli what the gate stands for.
func TestSentinelTokens(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		seen := make(map[string]bool)
		check := func(gate caches.Sentinel, kind string) {
			token, err := conn.Do(ctx, "GET", gate.String())
			require.NoError(t, err)
			text := string(token.([]byte))
			require.Regexp(t, "^"+kind+":[0-9a-f]{32}$", text)
			require.False(t, seen[text], "a token came twice")
			seen[text] = true
		}
		once, do := gates(conn, time.Minute).Key("once"), gates(conn, time.Minute).Key("do")
		_, err := once.Once(ctx)
		require.NoError(t, err)
		check(once, "d")
		_, err = do.Do(ctx, func(context.Context) error { check(do, "c"); return nil })
		require.NoError(t, err)
		check(do, "d")
	})
}

// locmem has a bound on its keys; gates do not count, and are never the ones to
// go. A gate that opens by itself would run what must run once.
func TestSentinelsAreNeverEvicted(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://?maxsize=10")
	values := caches.Cache[int]{Prefix: "value"}.On(conn)
	for i := range 20 {
		won, err := gates(conn, time.Hour).Key("once", i).Once(ctx)
		require.NoError(t, err)
		require.True(t, won)
	}
	for i := range 20 {
		ran, err := gates(conn, time.Hour).Key("do", i).Do(ctx, func(ctx context.Context) error {
			for n := range 50 {
				require.NoError(t, values.Key(i, n).Set(ctx, n))
			}
			requireShut(t, ctx, gates(conn, time.Hour).Key("do", i)) // the claim of work under way
			return nil
		})
		require.NoError(t, err)
		require.True(t, ran)
	}
	for i := range 20 {
		requireShut(t, ctx, gates(conn, time.Hour).Key("once", i))
		requireShut(t, ctx, gates(conn, time.Hour).Key("do", i))
	}
	kept := 0
	for i := range 20 {
		for n := range 50 {
			if ok, err := values.Key(i, n).Exists(ctx); err == nil && ok {
				kept++
			}
		}
	}
	require.LessOrEqual(t, kept, 10, "the bound holds for the other keys")
}

// A lossyStore sends every pipeline that may be sent again a second time, as a
// transport does whose first reply was lost.
type lossyStore struct {
	driver.Store
	again atomic.Int32
}

func (s *lossyStore) Do(ctx context.Context, p *driver.Pipeline) error {
	if p.Mode()&(driver.Repeatable|driver.ReadOnly) != 0 {
		if err := s.Store.Do(ctx, p); err != nil {
			return err
		}
		s.again.Add(1)
		p.ResetReplies()
	}
	return s.Store.Do(ctx, p)
}

// A claim that is sent again after its reply was lost is still one claim; and
// so is the end of work: the second settle finds what the first one left.
func TestSentinelSentAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t *testing.T) driver.Store
	}{
		{"locmem", func(t *testing.T) driver.Store { return testutil.Memory(t) }},
		{"redis", func(t *testing.T) driver.Store { return redisStore(t, testutil.Redis(t, nil).Addr()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, store := t.Context(), &lossyStore{Store: tt.open(t)}
			conn := over(t, store)
			won, err := gates(conn, time.Minute).Key("once").Once(ctx)
			require.NoError(t, err)
			require.True(t, won)
			requireShut(t, ctx, gates(conn, time.Minute).Key("once"))
			require.Positive(t, store.again.Load())

			typ := gates(conn, time.Minute)
			typ.Lease = 150 * time.Millisecond
			gate := typ.Key("do")
			renewed := store.again.Load() + 3
			ran, err := gate.Do(ctx, func(ctx context.Context) error {
				return await(ctx, func() bool { return store.again.Load() > renewed })
			})
			require.NoError(t, err, "claimed, renewed and shut, each of it twice")
			require.True(t, ran)
			requireShut(t, ctx, gate)

			ran, err = gate.Key("failing").Do(ctx, func(context.Context) error { return errors.ErrUnsupported })
			require.Equal(t, errors.ErrUnsupported, err)
			require.True(t, ran)
			requireOpen(t, ctx, gate.Key("failing"))
		})
	}
}

// await waits for ok, until ctx ends.
func await(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting: %w", context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// What a gate is called in an error is its whole key.
func TestSentinelErrorsNameTheKey(t *testing.T) {
	conn := over(t, &switchStore{Store: testutil.Memory(t), down: true})
	_, err := gates(conn, time.Minute).Key("a", 1).Once(t.Context())
	require.ErrorIs(t, err, caches.ErrUnavailable)
	require.True(t, strings.HasPrefix(err.Error(), `Sentinel.Once "gate.a.1": `), err)
	_, err = gates(conn, time.Minute).Key("a", 1).Do(t.Context(), mustNotRun(t))
	require.True(t, strings.HasPrefix(err.Error(), `Sentinel.Do "gate.a.1": `), err)
}
