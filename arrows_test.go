package caches_test

import (
	"os/exec"
	"slices"
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
// caches that is a package to be read alone (internal/flight) imports the packages
// listed for it, and one without any imports only the standard library. An arrow the other way round would bring a cost to all that only some
// should pay.
func TestArrows(t *testing.T) {
	const (
		driver, memory, redigo = module + "/driver", module + "/driver/memory", module + "/driver/redigo"
		testutil               = module + "/testutil"
		resp                   = module + "/internal/resp" // the hidden part of the seam
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
	for part, may := range map[string][]string{ // of this module
		"corrupt":  {driver, resp},
		"flight":   nil,
		"layout":   {driver, resp, module + "/internal/corrupt", module + "/internal/move", module + "/internal/trip"},
		"move":     {driver, resp, module + "/internal/trip"},
		"near":     {driver, resp, snapshot},
		"route":    nil,
		"snapshot": nil,
		"tally":    {snapshot},
		"text":     {module + "/internal/corrupt", driver, resp},
		"trip":     {driver, resp},
	} {
		part = module + "/internal/" + part
		for pkg := range deps(t, part) {
			host, _, _ := strings.Cut(pkg, "/")
			assert.True(t, pkg == part || slices.Contains(may, pkg) || !strings.HasPrefix(pkg, module), "%s imports %s", part, pkg)
			assert.True(t, pkg == part || may != nil || !strings.Contains(host, "."), "%s imports %s", part, pkg)
		}
	}
}
