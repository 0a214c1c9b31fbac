package failover_test

import (
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTrack checks that tracking goes on at the new master.
func TestTrack(t *testing.T) {
	a, b := testutil.Redis(t, nil), testutil.Redis(t, nil)
	one := sentinel(t, says{master: a.Addr(), epoch: 1})
	s := open(t, failover.Config{Sentinels: []string{one.addr}})
	events := make(chan driver.Event, 1024)
	stop := s.Track([]string{"k"}, func(e driver.Event) {
		if e.Kind != driver.Synced {
			e.Key = append([]byte{}, e.Key...)
			events <- e
		}
	})
	defer stop()
	require.Equal(t, driver.Tracking, (<-events).Kind)
	one.say(says{master: b.Addr(), epoch: 2}.answer)
	one.publish("+switch-master", "mymaster 127.0.0.1 1 127.0.0.1 2")
	lost := <-events
	require.Equal(t, driver.Lost, lost.Kind)
	assert.ErrorContains(t, lost.Err, " to "+b.Addr())
	require.Equal(t, driver.Tracking, (<-events).Kind)
	_, err := b.Do("SET", "k1", "v")
	require.NoError(t, err)
	changed := <-events
	assert.Equal(t, driver.Changed, changed.Kind)
	assert.Equal(t, "k1", string(changed.Key))
}
