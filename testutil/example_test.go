package testutil_test

import (
	"testing"

	"github.com/gocaches/caches/testutil"
)

// A reshard, a failover and the death of a master under a client's load.
func ExampleCluster() {
	_ = func(t *testing.T) {
		c := testutil.Cluster(t, 3, 1)
		go load(t, c.DSN())
		first, second := c.Addrs()[0], c.Addrs()[1]

		slots := c.Slots(first)[:1000]
		c.MoveSlots(second, slots...)
		c.MoveSlots(first, slots...)

		c.Failover(first) // its replica is the master now …
		c.Failover(first) // … and it is again

		c.Node(second).Kill()
		c.Wait() // for its replica to take over
		c.Node(second).Restart()
		c.Wait() // for it to have its keys again, as the replica
	}
}

// Sentinels replace a master on demand and after its death.
func ExampleFailover() {
	_ = func(t *testing.T) {
		f := testutil.Failover(t, 3, 1)
		go load(t, f.DSN())
		f.Failover()
		f.Wait() // for the former master to be a replica

		master := f.Master()
		f.Node(master).Kill()
		f.WaitSwitch(master)
		f.Node(master).Restart()
		f.Wait()
	}
}

// A cluster behind NAT tells clients addresses that only it understands.
func ExampleClusterWith() {
	_ = func(t *testing.T) {
		c := testutil.ClusterWith(t, 3, 0, &testutil.ClusterOptions{
			TLS: true, Password: "secret", Hostname: "inside.invalid",
		})
		load(t, c.DSN())
	}
}

// load stands for what a test does with its own client.
func load(t *testing.T, dsn string) { t.Log(dsn) }
