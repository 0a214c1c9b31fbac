// Package route has the functions that map the texts of keys to shards.
package route

import (
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
)

// CRC returns the CRC-32 (IEEE 802.3) of a followed by b. Package hash/crc32 needs a
// slice, which escapes: the copy would cost more than this loop for keys of
// usual length.
func CRC(a, b string) uint32 {
	c := ^uint32(0)
	for i := range len(a) {
		c = crc32.IEEETable[byte(c)^a[i]] ^ c>>8
	}
	for i := range len(b) {
		c = crc32.IEEETable[byte(c)^b[i]] ^ c>>8
	}
	return ^c
}

const digestsPerShard = 40

// A Ring is the points of all shards in ascending order. It is immutable.
type Ring []point

type point struct {
	at    uint32
	shard int
}

// NewRing returns the Ring of shards, which are in byte order.
func NewRing(shards []string) Ring {
	r := make(Ring, 0, len(shards)*digestsPerShard*4)
	for shard, name := range shards {
		for i := range digestsPerShard {
			sum := md5.Sum([]byte(name + "-" + strconv.Itoa(i)))
			for b := sum[:]; len(b) > 0; b = b[4:] {
				r = append(r, point{binary.LittleEndian.Uint32(b), shard})
			}
		}
	}
	// The sort is stable, so that a search, which finds the first of equal points,
	// finds that of the first shard in byte order.
	slices.SortStableFunc(r, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	return r
}

// Find returns the index of the shard of a number; see [Digest].
func (r Ring) Find(at uint32) int {
	i, _ := slices.BinarySearchFunc(r, at, func(p point, at uint32) int { return cmp.Compare(p.at, at) })
	if i == len(r) {
		i = 0
	}
	return r[i].shard
}

// Digest returns the number on the ring of the text a+b.
func Digest(a, b string) uint32 {
	var buf [256]byte // longer keys cost an allocation
	sum := md5.Sum(append(append(buf[:0], a...), b...))
	return binary.LittleEndian.Uint32(sum[:])
}

// Text returns the text by which the key front+key is routed: its first hash
// tag that is not empty, or else all of it. The two pieces save a
// concatenation.
func Text(front, key string) (a, b string) {
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
