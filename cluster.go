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

// Many servers as one connection. A [Router] says which shard a key lives on;
// every process that gives it the same names finds the same keys. Redis
// Cluster, whose servers divide the keys among themselves, is the driver's.

// A Router divides keys among the shards of a connection. [CRC32] and [Ketama]
// are those that the "router" option of a DSN knows.
type Router interface {
	// Route prepares the division among shards: their names, all different,
	// in byte order, at least two. The function that it returns gives the
	// index of the shard on which text lives, from 0 to len(shards)-1. It is
	// called for every key, by many goroutines at once. Text is what a key is
	// routed by: its hash tag, or all of it where it has none.
	Route(shards []string) func(text string) int
}

// CRC32 routes by CRC-32 (IEEE 802.3) modulo the number of shards. It costs
// some 40 ns and no memory. When the number of shards changes, nearly all keys
// move; where that matters, take [Ketama].
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

// crc is the checksum of a followed by b. hash/crc32 takes a slice that
// escapes: the copy that it needs would cost more than the loop on keys of
// ordinary length.
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

// Ketama routes by consistent hashing: one shard more among n moves only some
// 1/(n+1) of the keys, all of them to the new one. It costs O(log n), some
// 150 ns, and 1.25 KiB for each shard.
//
// Every shard has 160 points on a ring of 32-bit numbers: 40 MD5 digests of
// "name-0" to "name-39", four little-endian points in each. A key belongs to
// the first point that is not below the first four bytes of its own MD5, and
// past the last one to the first. Where two shards have the same point, it
// belongs to the one whose name comes first in byte order.
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

// A ring is the points of all shards, ascending. It never changes.
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
	// Stable, so that of equal points the one of the lower shard stands first,
	// which is the one that a search finds.
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

// digest is where on the ring a followed by b lies.
func digest(a, b string) uint32 {
	var buf [256]byte // longer keys cost an allocation
	sum := md5.Sum(append(append(buf[:0], a...), b...))
	return binary.LittleEndian.Uint32(sum[:])
}

// hashed returns what the key front+key is routed by, in two pieces, so that
// nothing need be joined: its first "{…}" with something in it, else all of it.
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

// A shard is one store of a connection, by the name that routing knows it by.
type shard struct {
	name  string
	store driver.Store
}

// A splitRouter takes a key in two pieces, which saves joining them.
type splitRouter interface {
	route(shards []string) func(front, key string) int
}

// newRoute prepares r, or CRC32 where it is nil, for shards.
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

// sortShards puts shards in the byte order of their names, which is the order
// that routing counts in, and refuses two of one name.
func sortShards(shards []shard) error {
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(shards); i++ {
		if shards[i].name == shards[i-1].name {
			return fmt.Errorf("caches: two shards are named %q: name them apart with ?node=", shards[i].name)
		}
	}
	return nil
}

// doEach runs ps[i] on shards[i]; see [Conn.doEach]. Stores that can be started
// are sent to one after the other, and then waited for; the others, each but the
// first, take a goroutine.
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

// eachOf calls f for every one of n shards that is wanted, all at once, the first
// of them on the caller's own goroutine: a call that concerns one shard starts
// none. It returns when all are done.
func eachOf(n int, wanted func(i int) bool, f func(i int)) {
	first := -1
	var others struct {
		sync.WaitGroup
		once sync.Once
		fell any // what one of them panicked with
	}
	for i := range n {
		switch {
		case !wanted(i):
		case first < 0:
			first = i
		default:
			others.Go(func() {
				defer func() {
					if r := recover(); r != nil { // of a user's Store: its caller may recover, this goroutine's nobody
						others.once.Do(func() { others.fell = r })
					}
				}()
				f(i)
			})
		}
	}
	func() {
		defer others.Wait() // also where f panics: the others use what its caller frees
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

// unlinkOn removes one key of one shard, wherever it belongs.
func unlinkOn(ctx context.Context, s shard, key string) error {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.CmdKey("UNLINK", "", key)
	if err := s.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().Err()
}

// chunk is how many keys one command of an operation on many has: a server runs
// nothing else during a command.
const chunk = 1000
