package redigo_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestStatesInOrder loses a connection whose OnState is slow: calls get the next
// connection meanwhile, and OnState is told of it afterwards.
func TestStatesInOrder(t *testing.T) {
	server := serve(t, func(int, []string) string { return ":1\r\n" })
	states, lost, resume := make(chan driver.State, 16), make(chan struct{}), make(chan struct{})
	s := open(t, redigo.Config{Address: server.addr, OnState: func(state driver.State, _ error) {
		if state == driver.Disconnected {
			lost <- struct{}{}
			<-resume
		}
		states <- state
	}})
	must(t, s, "TTL", "k")
	var dropping sync.WaitGroup
	dropping.Go(func() { s.Drop(errMoved) })
	<-lost
	must(t, s, "TTL", "k")
	assert.EqualValues(t, 2, s.Stats().Dials)
	close(resume)
	dropping.Wait()
	assert.Equal(t, []driver.State{driver.Connected, driver.Disconnected, driver.Connected}, []driver.State{<-states, <-states, <-states})
	go func() { <-lost }()
	require.NoError(t, s.Close())
	assert.Equal(t, driver.Disconnected, <-states)
}

// TestStatesAlternate loses the one connection of many calls repeatedly.
func TestStatesAlternate(t *testing.T) {
	server := serve(t, func(int, []string) string { return ":1\r\n" })
	var inside, heard atomic.Int64
	enough := int64(scale(60, 200))
	last := driver.Disconnected
	s := open(t, redigo.Config{Address: server.addr, OnState: func(state driver.State, _ error) {
		assert.EqualValues(t, 1, inside.Add(1), "one at a time")
		defer inside.Add(-1)
		assert.NotEqual(t, last, state)
		last = state
		heard.Add(1)
	}})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for heard.Load() < enough && !t.Failed() {
				if _, err := run(s, driver.ReadOnly, "TTL", "k"); err != nil { // lost too often
					assert.ErrorContains(t, err, "it has moved")
				}
			}
		})
	}
	for heard.Load() < enough && !t.Failed() {
		time.Sleep(time.Millisecond) // otherwise no dial would succeed
		s.Drop(errMoved)
	}
	all.Wait()
}
