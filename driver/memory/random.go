package memory

// This file has the common part of the three RAND commands. They use math/rand/v2,
// which is seeded and safe for concurrent readers. All members are equally likely;
// Redis trades that for speed in large hash tables.

import (
	"math"
	"math/rand/v2"
)

// randomOptions are the options of the RAND commands: [count [WITH…]]. With a positive
// count members do not repeat, so there may be fewer; with a negative one they may.
type randomOptions struct {
	counted bool
	count   int64
	with    bool // include the value of each member
}

// randomOptions reads the options. with is "" for a command without values.
func (t *turn) randomOptions(with string) (r randomOptions, ok bool) {
	opts := t.args[2:]
	if len(opts) == 0 {
		return r, true
	}
	if len(opts) > 1 && with == "" { // checked before the count, as in Redis
		return r, t.fail(syntaxError)
	}
	r.counted = true
	if r.count, ok = parseInt(opts[0]); !ok {
		return r, t.fail(notInteger)
	}
	if r.count == math.MinInt64 { // cannot be negated
		return r, t.fail(notNegatable)
	}
	if len(opts) == 1 {
		return r, true
	}
	r.with = is(opts[1], with)
	if len(opts) > 2 || !r.with {
		return r, t.fail(syntaxError)
	}
	// Twice the count must not overflow the length of the reply.
	if r.count < -math.MaxInt64/2 || r.count > math.MaxInt64/2 {
		return r, t.fail(outOfRange)
	}
	return r, true
}

// outRandom is HRANDFIELD, SRANDMEMBER and ZRANDMEMBER. find looks the collection up.
// out replies with one member, and its value if with is set. As in Redis the options
// are checked before the type.
func outRandom[V any](t *turn, with string, find func(key []byte) (*table[V], bool), out func(it *item[V], with bool)) {
	r, ok := t.randomOptions(with)
	if !ok {
		return
	}
	tb, ok := find(t.args[1])
	if !ok {
		return
	}
	draw := func(i int) { out(&tb.items[i], r.with) }
	switch n := tb.len(); {
	case n == 0 && !r.counted:
		t.out.Nil()
	case n == 0 || r.counted && r.count == 0:
		t.out.Array(0)
	case !r.counted:
		draw(rand.IntN(n)) // a string, not an array of one
	default:
		sample(n, r.count, func(drawn int) { t.out.Array(r.width() * drawn) }, draw)
	}
}

// width returns the number of replies for each member.
func (r randomOptions) width() int {
	if r.with {
		return 2
	}
	return 1
}

// sample chooses indices below n: for a positive count at most that many, all
// different; for a negative one exactly -count, which may repeat. It calls size once,
// before draw.
func sample(n int, count int64, size func(n int), draw func(i int)) {
	switch {
	case count < 0:
		size(int(-count))
		for range -count {
			draw(rand.IntN(n))
		}
	case count >= int64(n):
		size(n)
		for i := range n {
			draw(i)
		}
	default:
		size(int(count))
		// Floyd's algorithm: all sets of count indices are equally likely, in
		// O(count). J. Bentley and B. Floyd, "A sample of brilliance", CACM 30
		// (1987) 9.
		drawn := make(map[int]bool, count)
		for j := n - int(count); j < n; j++ {
			i := rand.IntN(j + 1)
			if drawn[i] {
				i = j
			}
			drawn[i] = true
			draw(i)
		}
	}
}
