package testutil_test

import (
	"context"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/require"
)

func open(t *testing.T, c redigo.Config) driver.Store {
	t.Helper()
	c.Timeout = 20 * time.Second // a loaded machine and the race detector are slow
	s, err := redigo.Open(c)
	require.NoError(t, err)
	return s
}

func TestMemory(t *testing.T) {
	t.Parallel()
	testutil.TestStore(t, func(t *testing.T) driver.Store { return testutil.Memory(t) })
}

// TestFakeRedis lists the differences between miniredis 2.40 and Redis: error
// texts and the limits of numbers.
func TestFakeRedis(t *testing.T) {
	t.Parallel()
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		return open(t, redigo.Config{Address: testutil.FakeRedis(t).Addr()})
	}, testutil.Lacks(
		"NOSUCH", "SET k v EX 0", "SET k v NX XX", "LPOP q -1", // other texts, other precedence
		"EXPIRETIME k", "PEXPIRETIME k", // a millisecond off: it stores the remaining time, not the expiry
		"HINCRBY h t 1", "HINCRBY h m 1", "HINCRBYFLOAT h t 1", // texts; overflow wraps around
		"SINTERSTORE u s none", "EXISTS u", // an empty result keeps the old set
		"ZADD z nan", "ZINCRBY z", "ZREM z n none", "ZREM z i", // NaN is accepted as a score
	))
}

// TestGapsAreHonoured breaks a store and declares the gap.
func TestGapsAreHonoured(t *testing.T) {
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		return &forgetful{Store: testutil.Memory(t)}
	}, testutil.Lacks("STRLEN"))
}

// forgetful is a store without STRLEN.
type forgetful struct{ driver.Store }

func (s *forgetful) Do(ctx context.Context, p *driver.Pipeline) error {
	if p.Len() == 1 && p.Command(0).Name() == "STRLEN" {
		p.Replies().Error("ERR no such thing")
		return nil
	}
	return s.Store.Do(ctx, p)
}
