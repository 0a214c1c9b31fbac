// Package testutil provides servers, network faults and a conformance suite for
// tests of package caches and its stores.
//
//   - [Redis] starts a private redis-server, optionally with TLS, ACLs or a unix
//     socket. Its methods kill, pause and restart the server.
//   - [Cluster] starts a Redis Cluster, and [Failover] starts servers monitored
//     by Redis Sentinel. Both consist of real processes. Their methods move slots
//     and replace masters while clients keep running.
//   - [FakeRedis] is a Redis in this process. It needs no installation.
//   - [Memory] is the store in this process's memory.
//   - [NewProxy] sits between clients and a server and breaks connections the
//     way networks do.
//   - [TestStore] is the suite that every driver.Store must pass.
//
// A store of your own runs the suite like this:
//
//	func TestConformance(t *testing.T) {
//		testutil.TestStore(t, func(t *testing.T) driver.Store {
//			return mystore.Open(t.TempDir())
//		})
//	}
//
// Everything that this package starts ends with its test. On Linux, servers also
// end with the test process if that ends without cleaning up. The package does
// not import package caches, so tests inside and outside of it can use testutil.
//
// Tests that need redis-server are skipped if it is not installed, or fail if
// the environment has CACHES_TEST_REDIS=require. CACHES_TEST_SERVER replaces the
// redis-server in PATH: it names another version's program, or a server that
// speaks the same protocol.
package testutil
