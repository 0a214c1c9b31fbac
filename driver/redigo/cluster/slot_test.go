package cluster_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gocaches/caches/driver/redigo/cluster"
)

// Slots match the cluster specification and its reference implementation.
func TestSlot(t *testing.T) {
	s := open(t, cluster.Config{Seeds: []string{"127.0.0.1:1"}})
	for key, want := range map[string]int{
		"":          0,
		"123456789": 0x31C3 % 16384,
		"foo":       12182,
		"bar":       5061,
		"hello":     866,
	} {
		assert.Equal(t, want, s.Slot("", key), key)
		assert.Equal(t, want, s.Slot(key, ""), key)
	}
	for key, tag := range map[string]string{
		"{user1000}.following": "user1000",
		"foo{bar}{zap}":        "bar",
		"foo{bar}":             "bar",
		"}{bar}":               "bar",
	} {
		assert.Equal(t, s.Slot("", tag), s.Slot("", key), key)
	}
	// Answers of Redis 7.0 to CLUSTER KEYSLOT for keys with braces that hold no
	// tag, or not the apparent one.
	for key, want := range map[string]int{
		"foo{{bar}}zap": 4015,
		"foo{}{bar}":    8363,
		"foo{bar":       15278,
		"foo}bar{":      11073,
	} {
		assert.Equal(t, want, s.Slot("", key), key)
	}
}

// Slot gives the same result for every way of cutting a key in two.
func TestSlotOfTwoPieces(t *testing.T) {
	s := open(t, cluster.Config{Seeds: []string{"127.0.0.1:1"}})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		key := make([]byte, r.IntN(12))
		for i := range key {
			key[i] = "{}ab"[r.IntN(4)]
		}
		want, cut := s.Slot("", string(key)), r.IntN(len(key)+1)
		assert.Equal(t, want, s.Slot(string(key[:cut]), string(key[cut:])), "%q at %d", key, cut)
		assert.Less(t, want, 16384)
	}
}
