package caches_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain configures what a program would have in CACHES_DSN: the Examples are
// written as users write. Nothing may run on once all is closed. A worker of
// process_test.go does its job instead.
func TestMain(m *testing.M) {
	if text := os.Getenv(workerEnv); text != "" {
		os.Exit(work(text))
	}
	registry, err := caches.NewRegistry("locmem://")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	caches.SetDefault(registry)
	code := m.Run()
	lasting.end()
	if err := errors.Join(registry.Close(), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// eachBackend runs one test of objects on every store that there is: this
// process's memory, four shards of it, the fake Redis, a real one, a Redis Cluster
// and a master that Sentinels name.
func eachBackend(t *testing.T, test func(t *testing.T, ctx context.Context, conn *caches.Conn)) {
	t.Helper()
	for _, backend := range []struct {
		name string
		dsns func(t *testing.T) []string
	}{
		{"locmem", func(*testing.T) []string { return []string{"locmem://"} }},
		{"sharded", func(*testing.T) []string {
			return []string{"locmem://?node=a", "locmem://?node=b", "locmem://?node=c", "locmem://?node=d"}
		}},
		{"fake", func(t *testing.T) []string { return []string{testutil.FakeRedis(t).DSN() + patience} }},
		{"redis", func(t *testing.T) []string { return []string{realRedis(t)} }},
		{"cluster", func(t *testing.T) []string { return []string{sharedCluster.take(t)} }},
		{"sentinel", func(t *testing.T) []string { return []string{sharedFailover.take(t)} }},
	} {
		if testing.Short() && (backend.name == "cluster" || backend.name == "sentinel") {
			continue // make cover, which runs all again: they cover nothing besides
		}
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			test(t, t.Context(), open(t, backend.dsns(t)...))
		})
	}
}

// eachServer is eachBackend on servers alone: a real Redis, a Redis Cluster of
// three masters, and a master that Sentinels name.
func eachServer(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, realRedis(t))
	})
	for _, s := range []*sharedServers{sharedCluster, sharedFailover} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			test(t, s.take(t))
		})
	}
}

// A sharedServers is a set of servers that takes seconds to start, which tests
// therefore have one after the other.
type sharedServers struct {
	name  string
	start func() (dsn string)
	mu    sync.Mutex // held by the test that has them
}

var (
	sharedCluster = &sharedServers{name: "cluster", start: sync.OnceValue(func() string {
		return testutil.Cluster(lasting, 3, 0).DSN() + patience
	})}
	sharedFailover = &sharedServers{name: "sentinel", start: sync.OnceValue(func() string {
		return testutil.Failover(lasting, 3, 1).DSN() + patience
	})}
)

// take gives the servers, empty, to a test until its end.
func (s *sharedServers) take(t *testing.T) (dsn string) {
	t.Helper()
	s.mu.Lock()
	t.Cleanup(s.mu.Unlock) // after all that the test closes
	dsn = s.start()
	conn, err := caches.Open(dsn)
	require.NoError(t, err)
	require.NoError(t, conn.UnsafeFlush(t.Context()))
	require.NoError(t, conn.Close())
	return dsn
}

// A lastingTB is what servers are started for that outlive a test: they end when
// all tests have. What goes wrong with one ends the tests.
type lastingTB struct {
	testing.TB // nil: what is not below is not called
	mu         sync.Mutex
	cleanups   []func() // guarded by mu
}

var lasting = &lastingTB{}

func (l *lastingTB) Helper()                           {}
func (l *lastingTB) Name() string                      { return "lasting" }
func (l *lastingTB) Failed() bool                      { return false }
func (l *lastingTB) Log(args ...any)                   { fmt.Fprintln(os.Stderr, args...) }
func (l *lastingTB) Logf(format string, args ...any)   { l.Log(fmt.Sprintf(format, args...)) }
func (l *lastingTB) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (l *lastingTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (l *lastingTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (l *lastingTB) Error(args ...any)                 { panic(fmt.Sprint(args...)) }

func (l *lastingTB) Cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, f)
}

func (l *lastingTB) TempDir() string {
	dir, err := os.MkdirTemp("", "caches")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// end runs the clean-ups, the last one first.
func (l *lastingTB) end() {
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
}

// patience is for tests of the results of operations, on a machine that does other
// things as well. A dial that takes longer than connect_timeout makes a cached
// function run without the server, and a test that counts its runs fail. Tests of
// how long operations take say so themselves.
const patience = "?timeout=20s&connect_timeout=20s"

// open opens a connection that ends with the test.
func open(t testing.TB, dsns ...string) *caches.Conn {
	t.Helper()
	conn, err := caches.Open(dsns...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// realRedis returns the DSN of a redis-server of the test's own.
func realRedis(t testing.TB) string { return testutil.Redis(t, nil).DSN() + patience }
