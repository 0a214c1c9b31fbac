package testutil

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// A FakeServer is a Redis written in Go that listens on a TCP port of
// 127.0.0.1. Its methods beside DSN are miniredis's own: FastForward moves the
// time of expiry on, SetError makes every command fail.
type FakeServer struct {
	*miniredis.Miniredis
}

// FakeRedis starts a [FakeServer] and closes it when the test ends. Keys
// expire as time passes.
//
// It is not Redis: it has no CONFIG, CLIENT INFO, OBJECT ENCODING or cluster,
// and some texts of its errors differ. What a test proves here about Redis, it
// proves better with [Redis].
func FakeRedis(t testing.TB) *FakeServer {
	t.Helper()
	m := miniredis.RunT(t)
	m.ClockTTL(true)
	return &FakeServer{m}
}

// DSN returns the address as caches takes it.
func (s *FakeServer) DSN() string { return "redis://" + s.Addr() + "/0" }
