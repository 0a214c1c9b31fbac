package redigo

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// flapping returns an OnState during which another state is noted each time, as
// if connections changed faster than OnState returns. Its second run lasts until
// resume is closed.
func flapping(s *states, runs *atomic.Int64, resume chan struct{}) func(driver.State, error) {
	return func(driver.State, error) {
		switch n := runs.Add(1); {
		case n == 2:
			<-resume
		case n >= 100:
			return
		}
		s.note(driver.Connected, nil)
	}
}

// A goroutine that tells a state is not held up by states noted meanwhile.
func TestTellerIsLetGo(t *testing.T) {
	var s states
	var runs atomic.Int64
	resume := make(chan struct{})
	s.on = flapping(&s, &runs, resume)
	s.noteAndTell(driver.Connected, nil)
	assert.True(t, s.busy(), "a goroutine goes on")
	close(resume)
	s.wait(time.Now().Add(time.Minute))
	assert.EqualValues(t, 100, runs.Load())
}

// Nor is a dial; its calls would time out although there is a connection.
func TestDialIsLetGo(t *testing.T) {
	var runs atomic.Int64
	resume := make(chan struct{})
	s, err := Open(Config{Address: polite(t), Timeout: time.Minute})
	require.NoError(t, err)
	s.states.on = flapping(&s.states, &runs, resume)
	require.NoError(t, <-begin(t.Context(), s, "INCR", "n"))
	close(resume)
	require.NoError(t, s.Close())
	assert.EqualValues(t, 101, runs.Load(), "Close tells the remaining states before it returns")
}

// A silence that is counted while OnState is told of the next connection does not
// open the breaker.
func TestLateSilence(t *testing.T) {
	var last atomic.Uint32
	inside, resume := make(chan struct{}), make(chan struct{})
	s, err := Open(Config{Address: polite(t), OnState: func(state driver.State, _ error) {
		last.Store(uint32(state))
		if state == driver.Connected {
			close(inside)
			<-resume
		}
	}})
	require.NoError(t, err)
	l := &s.lanes[0]
	l.failures = tripAt - 1 // dials that failed since the silent connection
	d, _, err := l.dial()
	require.NoError(t, err)
	<-inside
	l.countSilence(errSilent) // as look does after fail
	close(resume)
	<-d.done
	require.NoError(t, d.err)
	s.states.wait(time.Now().Add(time.Minute))
	assert.Equal(t, uint32(driver.Connected), last.Load(), "the breaker is closed")
	require.NoError(t, s.Close())
}

// An OnState that exits its goroutine, as a test's may, does not prevent later
// states from being told.
func TestOnStateThatEnds(t *testing.T) {
	var s states
	var told atomic.Int64
	s.on = func(driver.State, error) {
		if told.Add(1) == 1 {
			runtime.Goexit()
		}
	}
	var ended sync.WaitGroup
	ended.Go(func() { s.noteAndTell(driver.Connected, nil) })
	ended.Wait()
	s.noteAndTell(driver.Disconnected, nil)
	assert.EqualValues(t, 2, told.Load())
}

// The states that wait for a slow OnState are bounded, and the newest are kept.
func TestStatesAreBounded(t *testing.T) {
	var s states
	var heard []driver.State
	resume := make(chan struct{})
	s.on = func(state driver.State, _ error) {
		<-resume
		heard = append(heard, state)
	}
	var telling sync.WaitGroup
	telling.Go(func() { s.noteAndTell(driver.Connected, nil) })
	for !s.busy() {
		time.Sleep(time.Millisecond)
	}
	for range 3000 {
		s.noteAndTell(driver.Connected, nil)
	}
	s.noteAndTell(driver.Resting, nil)
	close(resume)
	telling.Wait()
	s.wait(time.Now().Add(time.Minute))
	assert.LessOrEqual(t, len(heard), 1+maxNoted)
	assert.Equal(t, driver.Resting, heard[len(heard)-1])
}

// polite returns the address of a server that replies +PONG to all bytes it reads
// at once.
func polite(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				for in := make([]byte, 1024); ; {
					if _, err := c.Read(in); err != nil {
						return
					}
					_, _ = io.WriteString(c, "+PONG\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}
