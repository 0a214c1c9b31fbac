package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// Random Pipelines get the same replies from a cluster as from one server,
// however their keys are spread, even while slots move.
func TestPipelinesAsOnOneServer(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 0)
	single, err := redigo.Open(redigo.Config{Address: testutil.Redis(t, nil).Addr(), Timeout: patience})
	require.NoError(t, err)
	t.Cleanup(func() { _ = single.Close() })
	s := open(t, cluster.Config{Seeds: c.Addrs()})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	compare := func() bool {
		want, got := driver.NewPipeline(0), driver.NewPipeline(0)
		defer want.Free()
		defer got.Free()
		randomPipeline(r, want, got)
		err := single.Do(t.Context(), want)
		do := s.Do
		if r.IntN(2) == 0 {
			do = func(ctx context.Context, p *driver.Pipeline) error { return s.Start(ctx, p).Finish() }
		}
		err = errors.Join(err, do(t.Context(), got))
		return assert.NoError(t, err) && assert.Equal(t, want.Replies().Len(), got.Replies().Len()) &&
			assert.Equal(t, string(want.Replies().Raw()), string(got.Replies().Raw()), "%q", want.Frames())
	}
	for range 500 {
		require.True(t, compare())
	}
	// A command with several keys of a moving slot may have to wait for the end of
	// the move, and then runs after later commands. So the slots of the tags stay.
	slots := slices.DeleteFunc(c.Slots(c.Masters()[0]), func(slot int) bool {
		return slices.ContainsFunc([]string{"t0", "t1", "t2"}, func(tag string) bool { return s.Slot("", tag) == slot })
	})
	var moved atomic.Bool
	var comparing sync.WaitGroup
	comparing.Go(func() {
		for n := 0; (n < 200 || !moved.Load()) && compare(); n++ {
		}
	})
	defer comparing.Wait()
	defer moved.Store(true)
	c.MoveSlots(c.Masters()[1], slots[:1000]...)
}

// randomPipeline writes the same random commands to both Pipelines.
func randomPipeline(r *rand.Rand, both ...*driver.Pipeline) {
	key := func() string {
		if r.IntN(4) == 0 {
			return fmt.Sprintf("{t%d}%d", r.IntN(3), r.IntN(3))
		}
		return fmt.Sprintf("k%d", r.IntN(40))
	}
	mode := []driver.Mode{0, driver.ReadOnly, driver.Repeatable, driver.Keep}[r.IntN(4)]
	for _, p := range both {
		p.Reset(mode)
	}
	for range r.IntN(8) {
		cmd := [][]string{
			{"GET", key()}, {"SET", key(), fmt.Sprint(r.IntN(1000))}, {"APPEND", key(), "\r\n-ERR no"}, {"SADD", key(), "1", "2"},
			{"SMEMBERS", key()}, {"PING"}, {"INCR", key()}, {"TYPE", key()}, {"MGET"}, {"DEL"}, {"UNLINK"}, {"EXISTS"}, {"TOUCH"},
		}[r.IntN(13)]
		if len(cmd) == 1 && cmd[0] != "PING" {
			for range r.IntN(12) {
				cmd = append(cmd, key())
			}
		}
		for _, p := range both {
			p.Cmd(cmd[0])
			for i, arg := range cmd[1:] {
				// A caller that unlinks a page of SCAN does not mark its arguments as keys.
				if i == 0 && cmd[0] != "UNLINK" {
					p.Key(arg)
				} else {
					p.String(arg)
				}
			}
		}
	}
}
