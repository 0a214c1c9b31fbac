package caches_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
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
	if err := errors.Join(registry.Close(), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// eachBackend runs one test of objects on every store that there is: this
// process's memory, four shards of it, the fake Redis and a real one.
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
	} {
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			test(t, t.Context(), open(t, backend.dsns(t)...))
		})
	}
}

// patience is a timeout for tests of what operations do, on a machine that does
// other things as well; tests of how long they take say so themselves.
const patience = "?timeout=20s"

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
