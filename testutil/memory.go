package testutil

import (
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
)

// Memory returns an empty store in this process's memory and closes it when the
// test ends.
func Memory(t testing.TB) driver.Store {
	t.Helper()
	s, err := memory.Open(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
