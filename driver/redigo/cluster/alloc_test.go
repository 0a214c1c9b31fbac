//go:build !race

package cluster_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// Recognizing that one server can run a whole Pipeline allocates nothing beyond
// the allocations of that server's Store. The race detector adds some of its
// own.
func TestOneServerAllocatesNothing(t *testing.T) {
	c := testutil.Cluster(t, 1, 0)
	over := open(t, cluster.Config{Seeds: c.Addrs()})
	direct, err := redigo.Open(redigo.Config{Address: c.Addrs()[0]})
	assert.NoError(t, err)
	t.Cleanup(func() { _ = direct.Close() })
	for name, write := range map[string]func(p *driver.Pipeline){
		"GET":      func(p *driver.Pipeline) { p.CmdKey("GET", "", "k") },
		"two GETs": func(p *driver.Pipeline) { p.CmdKey("GET", "", "k"); p.CmdKey("GET", "", "other") },
		"MGET":     func(p *driver.Pipeline) { p.Cmd("MGET").Key("{k}a").Key("{k}b") },
		"divided":  func(p *driver.Pipeline) { p.Cmd("MGET").Key("a").Key("b").Key("c").Key("d") },
	} {
		cost := func(s driver.Store) float64 {
			return testing.AllocsPerRun(500, func() {
				p := driver.NewPipeline(driver.ReadOnly)
				defer p.Free()
				write(p)
				if err := s.Do(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		if name == "divided" {
			t.Logf("%s: %v", name, cost(over))
			continue // a single server refuses it
		}
		assert.LessOrEqual(t, cost(over), cost(direct)+0.5, name)
	}
}
