package caches

import "github.com/gocaches/caches/internal/route"

// Several servers as one connection: a [Router] chooses the shard of each key.
// Processes with the same router and the same names of shards find the same
// keys. A Redis Cluster, which divides its keys itself, is one shard; see
// driver.Cluster.

// A Router divides keys among the shards of a connection. The "router" option
// of a DSN has [CRC32] and [Ketama].
type Router interface {
	// Route returns a function that maps the text of a key to the index of its
	// shard, from 0 to len(shards)-1. The text is the key's hash tag, or the whole
	// key if it has none. The function is called for every key and must be safe
	// for concurrent use. The names in shards are at least two, all different and
	// in byte order.
	Route(shards []string) func(text string) int
}

const (
	// CRC32 routes by CRC-32 (IEEE 802.3) modulo the number of shards. It costs
	// some 40 ns and no memory. If the number of shards changes, nearly all keys
	// move; if that matters, use [Ketama].
	CRC32 routing = iota + 1

	// Ketama routes by consistent hashing: adding a shard to n shards moves only
	// some 1/(n+1) of the keys, all of them to the new shard. It costs O(log n),
	// some 150 ns, and 1.25 KiB per shard.
	//
	// Every shard has 160 points on a ring of 32-bit numbers: the MD5 digests of
	// "name-0" to "name-39", each read as four little-endian numbers. The position
	// of a key is the first such number of its own MD5. The key belongs to the
	// shard of the first point not below its position, or of the lowest point if
	// all are below. If two shards have the same point, the shard first in byte
	// order has it.
	//
	// The layout is that of libketama (Richard Jones, 2007,
	// https://www.last.fm/user/RJ/journal/2007/04/10/rz_libketama_-_a_consistent_hashing_algo_for_memcache_clients).
	Ketama
)

// A routing is a Router of this package.
type routing uint8

// String returns the name that a DSN has for the router: "crc32" or "ketama".
func (r routing) String() string { return wordOf(r, "", "crc32", "ketama") }

// Route implements [Router].
func (r routing) Route(shards []string) func(text string) int {
	find := r.route(shards)
	return func(text string) int { return find("", text) }
}

// route is Route for a key in two pieces, which saves a concatenation.
func (r routing) route(shards []string) func(front, key string) int {
	if r == Ketama {
		ring := route.NewRing(shards)
		return func(front, key string) int { return ring.Find(route.Digest(route.Text(front, key))) }
	}
	n := uint32(len(shards))
	return func(front, key string) int { return int(route.CRC(route.Text(front, key)) % n) }
}
