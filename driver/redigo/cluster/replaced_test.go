package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// quiet answers nothing.
func quiet(*fakeNode, int, []string) string { return silence }

// All servers are replaced at once, and the former ones swallow what they get.
// The seed's name leads to the new ones. It is asked at once, however many
// servers there were, and not after all of them.
func TestAllServersReplaced(t *testing.T) {
	for _, n := range []int{3, 12, 30} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			old, fresh := fakes(t, n, echo), fakes(t, n, echo)
			seed := newName(t, old.nodes[0].addr)
			s := open(t, cluster.Config{Seeds: []string{seed.addr()}, Node: redigo.Config{Timeout: 200 * time.Millisecond}})
			keys := make([]string, n)
			for i := range keys {
				keys[i] = on(s, i, n, 0)
				eventually(t, func() bool { _, err := run(s, 0, "SET", keys[i], "v"); return err == nil }, "the first ones serve")
			}
			for _, node := range old.nodes {
				node.set(quiet)
			}
			seed.point(fresh.nodes[0].addr)
			begun, calls := time.Now(), 0
			eventually(t, func() bool { calls++; _, err := run(s, 0, "SET", keys[calls%n], "v"); return err == nil }, "the new ones serve")
			took := time.Since(begun)
			t.Logf("served again after %v, %d calls", took, calls)
			assert.Less(t, took, 2*time.Second, "asked one by one, 30 servers take 3 s")
			for _, node := range old.nodes {
				node.kill() // else Close would wait for the replies
			}
		})
	}
}
