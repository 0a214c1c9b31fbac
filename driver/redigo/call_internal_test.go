package redigo

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inBubble returns a call that uses the clock of its synctest bubble.
func inBubble(t *testing.T, ctx context.Context, timeout time.Duration) *call {
	t.Helper()
	s, err := Open(Config{Address: "127.0.0.1:1", OwnConns: 1, Timeout: timeout})
	require.NoError(t, err)
	p := driver.NewPipeline(0)
	p.Cmd("PING")
	return s.newCall(ctx, p)
}

// TestPause measures the pauses: the limit doubles up to 250 ms, and the pauses
// are spread over all of it.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inBubble(t, context.Background(), time.Hour)
		for n, most := range []time.Duration{5, 10, 20, 40, 80, 160, 250, 250, 250} {
			most *= time.Millisecond
			var least, longest, sum time.Duration = most, 0, 0
			const draws = 400
			for range draws {
				start := time.Now()
				require.True(t, c.pause(n))
				d := time.Since(start)
				least, longest, sum = min(least, d), max(longest, d), sum+d
			}
			assert.Less(t, longest, most)
			assert.Greater(t, longest, most*3/4, "1 in 10^49 runs")
			assert.Less(t, least, most/4, "1 in 10^49 runs")
			assert.InDelta(t, float64(most)/2, float64(sum)/draws, float64(most)/8)
		}
		assert.True(t, c.pause(1000), "the number of pauses has no end")
	})
}

func TestPauseEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(context.Background())
		c := inBubble(t, ctx, time.Hour)
		cancel()
		for range 100 {
			assert.False(t, c.pause(9))
		}
		c = inBubble(t, context.Background(), time.Hour)
		require.NoError(t, c.s.Close())
		for range 100 {
			assert.False(t, c.pause(9))
		}
		c = inBubble(t, context.Background(), time.Nanosecond)
		c.deadline = time.Since(base)
		assert.False(t, c.pause(0), "the deadline would pass meanwhile")
		assert.Equal(t, start, time.Now(), "none of them waited")
	})
}

// TestDeadlineIsTheNearerOne compares a context's deadline with the timeout.
func TestDeadlineIsTheNearerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, cancelNear := context.WithTimeout(context.Background(), time.Second)
		defer cancelNear()
		far, cancelFar := context.WithTimeout(context.Background(), time.Minute)
		defer cancelFar()
		for ctx, want := range map[context.Context]time.Duration{
			context.Background(): 10 * time.Second, near: time.Second, far: 10 * time.Second,
		} {
			end, ok := inBubble(t, ctx, 10*time.Second).Deadline()
			assert.True(t, ok)
			assert.Equal(t, want, time.Until(end))
		}
	})
}

// TestAcquireWaits waits for the only permit.
func TestAcquireWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inBubble(t, context.Background(), time.Minute)
		require.NoError(t, c.acquire())
		start := time.Now()
		err := c.acquire()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errBusy)
		assert.Equal(t, time.Minute, time.Since(start))

		c.deadline = time.Since(base) + time.Minute
		time.AfterFunc(time.Second, c.release)
		start = time.Now()
		require.NoError(t, c.acquire())
		assert.Equal(t, time.Second, time.Since(start))
	})
}

// TestCallsAreReused checks that nothing of a call is left when it is reused.
func TestCallsAreReused(t *testing.T) {
	c := inBubble(t, context.Background(), time.Second)
	c.out = make([]byte, 2*keepBuffer)
	c.free()
	assert.Nil(t, c.Context)
	assert.Nil(t, c.p)
	assert.Nil(t, c.out)
}

func TestConnWithoutSocket(t *testing.T) {
	require.NoError(t, new(conn).check(), "it cannot be checked, so it is used")
}
