package faults

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// One of these is more than the buffers of two unix sockets hold, which do not
	// grow as those of TCP do.
	largeCalls = 6
	largeSize  = 900 << 10
)

// A stuck is a write that the server does not take the end of: its process is
// stopped, and the buffers between are full.
type stuck struct {
	server *testutil.RedisServer
	store  *redigo.Store
	calls  sync.WaitGroup
	shared bool // the write is that of the shared connection
}

func largeValue(i int) string {
	return strings.Repeat(strconv.Itoa(i%10), largeSize)
}

// newStuck stops the server and starts the large calls, which end with ctx.
func newStuck(ctx context.Context, t *testing.T) *stuck {
	t.Helper()
	b := &stuck{server: testutil.Redis(t, &testutil.RedisOptions{Unix: true})}
	b.store = open(t, redigo.Config{Network: "unix", Address: b.server.Addr(), Timeout: patience / 2})
	awaitGood(t, b.store)
	settled(t, b.store)
	b.server.Pause()
	writes := b.store.Stats().Writes
	for i := range largeCalls {
		b.calls.Go(func() {
			_, err := run(ctx, b.store, 0, "SET", "large"+strconv.Itoa(i), largeValue(i))
			if err != nil {
				assert.True(t, isOutcome(err), "%v", err)
			}
		})
	}
	b.await(t, largeCalls)
	// What comes before the write begins goes with it. Where this process is short
	// of processors there is none: then calls have connections for themselves.
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b.shared = await(soon.Done(), func() bool { return b.store.Stats().Writes > writes })
	return b
}

// await waits until so many calls are under way.
func (b *stuck) await(t *testing.T, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return b.store.Stats().InFlight >= n }, patience, time.Millisecond)
}

// behind starts calls behind the write, none of which can have been sent.
func (b *stuck) behind(t *testing.T, n int, check func(word, raw string, err error)) (wait func()) {
	t.Helper()
	begun := b.store.Stats().InFlight
	var calls sync.WaitGroup
	for i := range n {
		word := fmt.Sprint("behind ", i)
		calls.Go(func() {
			raw, err := run(context.Background(), b.store, 0, "ECHO", word)
			check(word, raw, err)
		})
	}
	b.await(t, begun+int64(n))
	return calls.Wait
}

// TestStuckWriteGoesOn has all callers of a stuck write go away, the one whose
// goroutine writes among them. The rest of it is written by somebody else: the
// server gets whole commands, and the calls behind them have their answers.
func TestStuckWriteGoesOn(t *testing.T) {
	rounds, whole := count(2, 50), 0
	for range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		b := newStuck(ctx, t)
		cancel()
		b.calls.Wait() // they do not wait for the server
		wait := b.behind(t, 10, func(word, raw string, err error) {
			if assert.NoError(t, err) {
				assert.Equal(t, bulk(word), raw)
			}
		})
		b.server.Resume()
		wait()
		settled(t, b.store)
		for i := range largeCalls {
			value, err := redis.String(b.server.Do("GET", "large"+strconv.Itoa(i)))
			if errors.Is(err, redis.ErrNil) {
				continue
			}
			require.NoError(t, err)
			require.True(t, value == largeValue(i), "large%d is not what was written", i) // not Equal, which would print it
			whole++
		}
		b.server.Kill()
	}
	require.NotZero(t, whole)
	report(t, fmt.Sprintf("all %d callers of a write that is stuck (%d KiB each) go away", largeCalls, largeSize>>10),
		"%d times: each at once; the calls behind are answered, %d of %d values are whole and none is in part", rounds, whole, rounds*largeCalls)
}

// TestStuckWriteIsLost kills the server in the same place: the calls behind were
// not sent, which is what they are told.
func TestStuckWriteIsLost(t *testing.T) {
	rounds, shared := count(2, 50), 0
	for tries := 0; shared < rounds && tries < 10*rounds; tries++ {
		b, wait := newStuck(t.Context(), t), func() {}
		if b.shared {
			shared++
			wait = b.behind(t, 10, func(_, _ string, err error) { assert.ErrorIs(t, err, driver.ErrUnavailable) })
		}
		b.server.Kill()
		b.calls.Wait()
		wait()
	}
	require.Equal(t, rounds, shared)
	report(t, "the server is killed while a write is stuck", "%d times, %d calls behind it: all told that they have not run", rounds, rounds*10)
}
