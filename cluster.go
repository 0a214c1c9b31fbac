package caches

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gocaches/caches/driver"
)

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

// CRC32 routes by CRC-32 (IEEE 802.3) modulo the number of shards. It costs
// some 40 ns and no memory. If the number of shards changes, nearly all keys
// move; if that matters, use [Ketama].
type CRC32 struct{}

// Route implements [Router].
func (CRC32) Route(shards []string) func(text string) int {
	n := uint32(len(shards))
	return func(text string) int { return int(crc(text, "") % n) }
}

func (CRC32) route(shards []string) func(front, key string) int {
	n := uint32(len(shards))
	return func(front, key string) int { return int(crc(hashed(front, key)) % n) }
}

// crc returns the checksum of a followed by b. Package hash/crc32 needs a
// slice, which escapes: the copy would cost more than this loop for keys of
// usual length.
func crc(a, b string) uint32 {
	c := ^uint32(0)
	for i := range len(a) {
		c = crc32.IEEETable[byte(c)^a[i]] ^ c>>8
	}
	for i := range len(b) {
		c = crc32.IEEETable[byte(c)^b[i]] ^ c>>8
	}
	return ^c
}

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
type Ketama struct{}

// Route implements [Router].
func (Ketama) Route(shards []string) func(text string) int {
	r := newRing(shards)
	return func(text string) int { return r.find(digest(text, "")) }
}

func (Ketama) route(shards []string) func(front, key string) int {
	r := newRing(shards)
	return func(front, key string) int { return r.find(digest(hashed(front, key))) }
}

const digestsPerShard = 40

// A ring is the points of all shards in ascending order. It is immutable.
type ring []point

type point struct {
	at    uint32
	shard int
}

func newRing(shards []string) ring {
	r := make(ring, 0, len(shards)*digestsPerShard*4)
	for shard, name := range shards {
		for i := range digestsPerShard {
			sum := md5.Sum([]byte(name + "-" + strconv.Itoa(i)))
			for b := sum[:]; len(b) > 0; b = b[4:] {
				r = append(r, point{binary.LittleEndian.Uint32(b), shard})
			}
		}
	}
	// The sort is stable, so that a search, which finds the first of equal points,
	// finds that of the first shard.
	slices.SortStableFunc(r, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	return r
}

func (r ring) find(at uint32) int {
	i, _ := slices.BinarySearchFunc(r, at, func(p point, at uint32) int { return cmp.Compare(p.at, at) })
	if i == len(r) {
		i = 0
	}
	return r[i].shard
}

// digest returns the number on the ring of the key a+b.
func digest(a, b string) uint32 {
	var buf [256]byte // longer keys cost an allocation
	sum := md5.Sum(append(append(buf[:0], a...), b...))
	return binary.LittleEndian.Uint32(sum[:])
}

// hashed returns the text by which the key front+key is routed: its first hash
// tag that is not empty, or else all of it. The two pieces save a
// concatenation.
func hashed(front, key string) (a, b string) {
	if strings.IndexByte(front, '{') >= 0 { // a tag may begin in one and end in the other
		front, key = "", front+key
	}
	for rest := key; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			return front, key
		}
		rest = rest[open+1:]
		switch end := strings.IndexByte(rest, '}'); {
		case end < 0:
			return front, key
		case end > 0:
			return "", rest[:end]
		}
	}
}

// A shard is one store of a connection, with its name for the router.
type shard struct {
	name  string
	store driver.Store
}

// A splitRouter routes a key in two pieces, which saves a concatenation.
type splitRouter interface {
	route(shards []string) func(front, key string) int
}

// newRoute returns the routing function of r, or of CRC32 if r is nil.
func newRoute(r Router, shards []shard) func(front, key string) int {
	names := make([]string, len(shards))
	for i, s := range shards {
		names[i] = s.name
	}
	if r == nil {
		r = CRC32{}
	}
	if r, ok := r.(splitRouter); ok {
		return r.route(names)
	}
	find := r.Route(names)
	return func(front, key string) int {
		a, b := hashed(front, key)
		return find(a + b)
	}
}

// sortShards sorts shards by name in byte order, the order in which a Router
// counts them. It refuses two with the same name.
func sortShards(shards []shard) error {
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(shards); i++ {
		if shards[i].name == shards[i-1].name {
			return fmt.Errorf("caches: two shards are named %q: name them apart with ?node=", shards[i].name)
		}
	}
	return nil
}

// doEach runs ps[i] on shards[i]; see [Conn.doEach]. It starts all Starters,
// runs the other stores, each but the first on its own goroutine, and then
// waits for the Starters.
func doEach(ctx context.Context, shards []shard, ps []*driver.Pipeline) []error {
	errs := make([]error, len(ps))
	wanted := func(i int) bool { return i < len(ps) && ps[i] != nil }
	do := func(i int) { errs[i] = shards[i].store.Do(ctx, ps[i]) }
	if countShards(len(shards), wanted) < 2 {
		eachOf(len(shards), wanted, do)
		return nilIfNone(errs)
	}
	started := make([]driver.Pending, len(ps))
	for i, p := range ps {
		if s, ok := shards[i].store.(driver.Starter); ok && p != nil {
			started[i] = s.Start(ctx, p)
		}
	}
	eachOf(len(shards), func(i int) bool { return wanted(i) && started[i] == nil }, do)
	for i, s := range started {
		if s != nil {
			errs[i] = s.Finish()
		}
	}
	return nilIfNone(errs)
}

func countShards(shards int, wanted func(i int) bool) (n int) {
	for i := range shards {
		if wanted(i) {
			n++
		}
	}
	return n
}

func nilIfNone(errs []error) []error {
	if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return errs
	}
	return nil
}

// eachOf calls f for each wanted one of n shards, all at once, and returns when
// all are done. The first runs on the caller's goroutine, so a call for one
// shard starts no goroutine. If f panics, so does eachOf.
func eachOf(n int, wanted func(i int) bool, f func(i int)) {
	first := -1
	var others struct {
		sync.WaitGroup
		once sync.Once
		fell any // the value of the first panic
	}
	for i := range n {
		switch {
		case !wanted(i):
		case first < 0:
			first = i
		default:
			others.Go(func() {
				defer func() {
					if r := recover(); r != nil { // from a user's Store; only eachOf's caller can handle it
						others.once.Do(func() { others.fell = r })
					}
				}()
				f(i)
			})
		}
	}
	func() {
		defer others.Wait() // even if f panics: the caller then frees pipelines that the others use
		if first >= 0 {
			f(first)
		}
	}()
	if others.fell != nil {
		panic(others.fell)
	}
}

func everyOf(shards []shard, f func(shard int) error) error {
	errs := make([]error, len(shards))
	eachOf(len(shards), func(int) bool { return true }, func(i int) {
		if err := f(i); err != nil {
			errs[i] = fmt.Errorf("shard %s: %w", shards[i].name, err)
		}
	})
	return errors.Join(errs...)
}

// unlinkOn removes a key from shard s, even if it is routed to another
// (UNLINK).
func unlinkOn(ctx context.Context, s shard, key string) error {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.CmdKey("UNLINK", "", key)
	if err := s.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().Err()
}

// chunk is the maximum number of keys in one command of an operation on many
// keys: a server runs nothing else during a command.
const chunk = 1000
