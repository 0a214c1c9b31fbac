package caches_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/gocaches/caches"

// deps returns all packages that a package needs to be built, without those of
// its tests.
func deps(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", pkg).Output()
	require.NoError(t, err)
	all := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		all[strings.TrimSpace(line)] = true
	}
	require.True(t, all[pkg])
	return all
}

// Which package may import which: examples and tools import caches, caches the
// two drivers, and those the seam, which imports only its hidden part. A part of
// caches that is a package to be read alone (internal/flight) imports nothing of
// ours. An arrow the other way round would bring a cost to all that only some
// should pay.
func TestArrows(t *testing.T) {
	const (
		driver, memory, redigo = module + "/driver", module + "/driver/memory", module + "/driver/redigo"
		testutil               = module + "/testutil"
		move                   = module + "/internal/move"
		resp                   = module + "/internal/resp" // the hidden part of the seam
		flight                 = module + "/internal/flight"
		near                   = module + "/internal/near"
		snapshot               = module + "/internal/snapshot"
	)
	for pkg, never := range map[string][]string{
		module: {
			testutil, "net/http", "expvar", "html/template", "testing",
			"github.com/stretchr/testify/assert", "github.com/alicebob/miniredis/v2",
		},
		driver:   {module, memory, redigo, testutil, "net", "net/http"},
		memory:   {module, redigo, testutil, "net/http"},
		redigo:   {module, memory, testutil, "net/http"},
		testutil: {module},
	} {
		all := deps(t, pkg)
		for _, unwanted := range never {
			assert.False(t, all[unwanted], "%s imports %s", pkg, unwanted)
		}
	}
	for pkg := range deps(t, driver) {
		host, _, _ := strings.Cut(pkg, "/")
		assert.True(t, pkg == driver || pkg == resp || !strings.Contains(host, "."), "the seam imports %s", pkg)
	}
	assert.False(t, deps(t, resp)[driver])
	for pkg := range deps(t, move) {
		assert.True(t, pkg == move || pkg == driver || pkg == resp || !strings.HasPrefix(pkg, module), "%s imports %s", move, pkg)
	}
	for pkg := range deps(t, near) {
		assert.True(t, pkg == near || pkg == driver || pkg == resp || pkg == snapshot || !strings.HasPrefix(pkg, module), "%s imports %s", near, pkg)
	}
	for _, leaf := range []string{flight, snapshot} {
		for pkg := range deps(t, leaf) {
			host, _, _ := strings.Cut(pkg, "/")
			assert.True(t, pkg == leaf || !strings.Contains(host, "."), "%s imports %s", leaf, pkg)
		}
	}
}
