package testutil

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// A FakeServer is a Redis written in Go that listens on a TCP port of
// 127.0.0.1. All its methods except DSN come from miniredis: FastForward
// advances the time for expiry, and SetError makes every command fail.
type FakeServer struct {
	*miniredis.Miniredis
}

// FakeRedis starts a [FakeServer] and closes it when the test ends. Keys expire
// as time passes.
//
// It is not Redis: it lacks CONFIG, CLIENT INFO, OBJECT ENCODING and clusters,
// and has different error texts in places. To test the behavior of Redis
// itself, use [Redis].
func FakeRedis(t testing.TB) *FakeServer {
	t.Helper()
	m := miniredis.RunT(t)
	m.ClockTTL(true)
	return &FakeServer{m}
}

// DSN returns the server's address in the form that caches accepts.
func (s *FakeServer) DSN() string { return "redis://" + s.Addr() + "/0" }
