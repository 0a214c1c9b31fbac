package route

import (
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Of two shards with one point, the first in byte order has it.
func TestRingCollision(t *testing.T) {
	r := Ring{{10, 0}, {20, 1}, {20, 2}, {30, 0}}
	assert.Equal(t, 0, r.Find(10))
	assert.Equal(t, 1, r.Find(11))
	assert.Equal(t, 1, r.Find(20))
	assert.Equal(t, 0, r.Find(21))
	assert.Equal(t, 0, r.Find(31), "past the last point comes the first")
	for i, p := range NewRing([]string{"a", "a"}) { // all points twice
		assert.Equal(t, i%2, p.shard)
	}
}

// The layout of the ring, written down once more from its description.
func TestRingLayout(t *testing.T) {
	names := []string{"cache01", "cache02"}
	var want []point
	for shard, name := range names {
		for i := range 40 {
			sum := md5.Sum(fmt.Appendf(nil, "%s-%d", name, i))
			for j := 0; j < 16; j += 4 {
				want = append(want, point{binary.LittleEndian.Uint32(sum[j : j+4]), shard})
			}
		}
	}
	slices.SortFunc(want, func(a, b point) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.shard, b.shard)) })
	assert.Equal(t, Ring(want), NewRing(names))
}

// The text of a key is its first hash tag that is not empty, or all of it, in
// whichever pieces the key comes.
func TestText(t *testing.T) {
	for key, want := range map[string]string{
		"": "", "a": "a", "a.b": "a.b", "{a}.b": "a", "x{a}{b}": "a", "x{}y": "x{}y", "x{}{b}": "b", "x{a": "x{a", "}{a}": "a", "a{{b}}": "{b",
	} {
		for cut := range len(key) + 1 {
			a, b := Text(key[:cut], key[cut:])
			assert.Equal(t, want, a+b, "%q | %q", key[:cut], key[cut:])
		}
	}
}

// Sums of two pieces are sums of the whole.
func TestSums(t *testing.T) {
	for _, text := range []string{"", "a", "prefix.key", strings.Repeat("long", 100)} {
		sum := md5.Sum([]byte(text))
		for cut := range len(text) + 1 {
			assert.Equal(t, crc32.ChecksumIEEE([]byte(text)), CRC(text[:cut], text[cut:]))
			assert.Equal(t, binary.LittleEndian.Uint32(sum[:]), Digest(text[:cut], text[cut:]))
		}
	}
}
