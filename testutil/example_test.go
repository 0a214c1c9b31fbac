package testutil_test

import (
	"testing"

	"github.com/gocaches/caches/testutil"
)

// A reshard, a failover and the death of a master under load.
func ExampleCluster() {
	_ = func(t *testing.T) {
		c := testutil.Cluster(t, 3, 1)
		go load(t, c.DSN())
		first, second := c.Addrs()[0], c.Addrs()[1]

		slots := c.Slots(first)[:1000]
		c.MoveSlots(second, slots...)
		c.MoveSlots(first, slots...)

		c.Failover(first) // its replica is the master now …
		c.Failover(first) // … and now it is the master again

		c.Node(second).Kill()
		c.Wait() // until its replica has taken over
		c.Node(second).Restart()
		c.Wait() // until it has its keys again, as the replica
	}
}

// Sentinels replace a master on demand and after its death.
func ExampleFailover() {
	_ = func(t *testing.T) {
		f := testutil.Failover(t, 3, 1)
		go load(t, f.DSN())
		f.Failover()
		f.Wait() // until the previous master is a replica

		master := f.Master()
		f.Node(master).Kill()
		f.WaitSwitch(master)
		f.Node(master).Restart()
		f.Wait()
	}
}

// A cluster behind NAT announces addresses that clients cannot dial.
func ExampleClusterWith() {
	_ = func(t *testing.T) {
		c := testutil.ClusterWith(t, 3, 0, &testutil.ClusterOptions{
			TLS: true, Password: "secret", Hostname: "inside.invalid",
		})
		load(t, c.DSN())
	}
}

// load is the load of a test's own client.
func load(t *testing.T, dsn string) { t.Log(dsn) }
