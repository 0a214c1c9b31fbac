package memory

// This file has what the three RAND commands share. Draws come from math/rand/v2,
// which seeds itself and is safe for concurrent readers; they are fair, where
// Redis trades fairness for speed in large hash tables.

import (
	"math"
	"math/rand/v2"
)

// randomOptions are those of the RAND commands: [count [WITH…]]. A positive count
// is a choice without repetition, so it may give fewer; a negative one draws anew
// each time.
type randomOptions struct {
	counted bool
	count   int64
	with    bool // the value of each as well
}

// randomOptions reads them. A command without values passes "".
func (t *turn) randomOptions(with string) (r randomOptions, ok bool) {
	opts := t.args[2:]
	if len(opts) == 0 {
		return r, true
	}
	if len(opts) > 1 && with == "" { // before the count is read, as in Redis
		return r, t.fail(syntaxError)
	}
	r.counted = true
	if r.count, ok = parseInt(opts[0]); !ok {
		return r, t.fail(notInteger)
	}
	if r.count == math.MinInt64 { // has no negative
		return r, t.fail(outOfRange + ", value must between -9223372036854775807 and 9223372036854775807")
	}
	if len(opts) == 1 {
		return r, true
	}
	r.with = is(opts[1], with)
	if len(opts) > 2 || !r.with {
		return r, t.fail(syntaxError)
	}
	// Twice the count must be a length that a reply can have.
	if r.count < -math.MaxInt64/2 || r.count > math.MaxInt64/2 {
		return r, t.fail(outOfRange)
	}
	return r, true
}

// outRandom is HRANDFIELD, SRANDMEMBER and ZRANDMEMBER. find looks the
// collection up, out leaves one member of it, and its value where that was
// asked for. The order of checks is that of Redis: options, then the type.
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

// width is how many replies each member takes.
func (r randomOptions) width() int {
	if r.with {
		return 2
	}
	return 1
}

// sample draws indices as the RAND commands do: for a positive count at most
// that many, all different; for a negative one exactly -count, which may
// repeat. It calls size once, before draw.
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
		// Floyd's sampling: each set of count indices is as likely as any
		// other, in O(count). J. Bentley and B. Floyd, "A sample of
		// brilliance", CACM 30 (1987) 9.
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
