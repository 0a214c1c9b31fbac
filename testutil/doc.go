// Package testutil has what tests of caches and of its stores need: servers,
// faults, and the conformance suite.
//
//   - [Redis] starts a private redis-server, with TLS, ACLs or on a unix socket
//     where asked, and kills, pauses and restarts it.
//
//   - [Cluster] starts a Redis Cluster and [Failover] a set of servers under
//     Sentinels, of real processes too. Their methods move slots and change
//     masters while clients go on.
//
//   - [FakeRedis] is a Redis in this process that needs nothing installed.
//
//   - [Memory] is the store of this process's memory.
//
//   - [NewProxy] stands between a client and a server and breaks connections
//     in the ways that networks do.
//
//   - [TestStore] is the suite that every driver.Store passes, those of this
//     module and one of your own:
//
//     func TestConformance(t *testing.T) {
//     testutil.TestStore(t, func(t *testing.T) driver.Store {
//     return mystore.Open(t.TempDir())
//     })
//     }
//
// Everything that a function of this package starts ends with the test that
// started it, and servers on Linux with the process where that ends without
// cleaning up. The package does not import package caches, so the tests of
// caches can use it from inside and outside.
//
// Tests that need a real redis-server are skipped, with a reason, where there
// is none; with CACHES_TEST_REDIS=require in the environment they fail instead.
// CACHES_TEST_SERVER names another program than the redis-server of PATH: the
// path of another version, or a server that speaks the same protocol.
package testutil
