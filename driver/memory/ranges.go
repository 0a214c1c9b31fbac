package memory

// This file has the commands on ranges of sorted sets: by rank, score or member.

import (
	"bytes"
	"sort"
)

// rank returns the number of members for which less is true, which must be the first
// members of z. It calls less O(log n) times and takes O(log² n) time.
func (z *zset) rank(less func(scored) bool) int {
	return sort.Search(z.tree.Len(), func(i int) bool {
		it, _ := z.tree.GetAt(i)
		return !less(it)
	})
}

// A window is a range of ranks, from low up to but not including high.
type window struct{ low, high int }

func (w window) len() int { return max(w.high-w.low, 0) }

// limit skips offset ranks at the beginning, or at the end if reverse, and keeps the
// next count. With a negative offset it keeps none, with a negative count all.
func (w window) limit(offset, count int64, reverse bool) window {
	n := int64(w.len())
	if offset < 0 || offset >= n {
		return window{}
	}
	if count < 0 || count > n-offset {
		count = n - offset
	}
	if reverse {
		high := w.high - int(offset)
		return window{high - int(count), high}
	}
	low := w.low + int(offset)
	return window{low, low + int(count)}
}

// walk calls f for the members of w, in order or in reverse. It takes O(log n) time
// to find the first and O(1) for each member.
func (z *zset) walk(w window, reverse bool, f func(scored)) {
	left := w.len()
	if left == 0 {
		return
	}
	step := func(it scored) bool {
		f(it)
		left--
		return left > 0
	}
	if reverse {
		last, _ := z.tree.GetAt(w.high - 1)
		z.tree.Descend(last, step)
		return
	}
	first, _ := z.tree.GetAt(w.low)
	z.tree.Ascend(first, step)
}

// zcount is ZCOUNT key min max, O(log² n) for a range of any size.
func (t *turn) zcount() {
	if find, ok := t.scoreRange(t.args[2], t.args[3]); ok {
		t.outCount(find)
	}
}

// zlexCount is ZLEXCOUNT key min max.
func (t *turn) zlexCount() {
	if find, ok := t.lexRange(t.args[2], t.args[3]); ok {
		t.outCount(find)
	}
}

// A finder returns the ranks that a range covers in a sorted set. Ranges by rank,
// score and member differ only in their finder: counting, returning and removing
// members are the same for any window.
type finder func(z *zset) window

// outCount replies with the number of members in a range.
func (t *turn) outCount(find finder) {
	switch z, ok := t.zset(t.args[1]); {
	case !ok:
	case z == nil:
		t.out.Int(0)
	default:
		t.out.Int(int64(find(z).len()))
	}
}

// rankRange parses a range of ranks, including both ends. A negative rank counts from
// the end. With reverse, ranks count from the other side.
func (t *turn) rankRange(from, to []byte, reverse bool) (find finder, ok bool) {
	start, ok1 := parseInt(from)
	stop, ok2 := parseInt(to)
	if !ok1 || !ok2 {
		return nil, t.fail(notInteger)
	}
	return func(z *zset) window {
		w := ranks(start, stop, int64(z.len()))
		if reverse {
			w = window{z.len() - w.high, z.len() - w.low}
		}
		return w
	}, true
}

// ranks returns the window between two ranks of a sorted set of n members, or two
// indices of a list. As in Redis, ranks beyond the first or the last member stand
// for that member. A range that is reversed or entirely outside is empty.
func ranks(start, stop, n int64) window {
	if start < 0 {
		start = max(start+n, 0)
	}
	if stop < 0 {
		stop += n
	}
	if start > stop || start >= n {
		return window{}
	}
	return window{int(start), int(min(stop, n-1)) + 1}
}

// scoreRange parses a range of scores. A "(" excludes the score that follows. Both
// ends are found by rank, so the cost does not depend on the position of the range.
// An empty or reversed range has a window of length 0.
func (t *turn) scoreRange(from, to []byte) (find finder, ok bool) {
	low, ok1 := parseScoreBound(from)
	high, ok2 := parseScoreBound(to)
	if !ok1 || !ok2 {
		return nil, t.fail("ERR min or max is not a float")
	}
	return func(z *zset) window {
		return window{
			low: z.rank(func(it scored) bool {
				return it.score < low.score || low.open && it.score == low.score
			}),
			high: z.rank(func(it scored) bool {
				return it.score < high.score || !high.open && it.score == high.score
			}),
		}
	}, true
}

// A scoreBound is one end of a range of scores.
type scoreBound struct {
	score float64
	open  bool // score is excluded
}

// parseScoreBound parses one end. Redis uses strtod, so infinities are valid and an
// empty string is 0.
func parseScoreBound(b []byte) (bound scoreBound, ok bool) {
	b, bound.open = bytes.CutPrefix(b, []byte{'('})
	if len(b) == 0 {
		return bound, true
	}
	bound.score, ok = parseFloat(b)
	return bound, ok
}

// lexRange parses a range of members. It is meant for sorted sets whose scores are all
// equal, as only then the members are in lexical order. For others the result is
// unspecified, as in Redis.
func (t *turn) lexRange(from, to []byte) (find finder, ok bool) {
	low, ok1 := parseLexBound(from)
	high, ok2 := parseLexBound(to)
	if !ok1 || !ok2 {
		return nil, t.fail("ERR min or max not valid string range item")
	}
	return func(z *zset) window {
		return window{
			low: z.rank(func(it scored) bool {
				c := low.compare(it.member)
				return c < 0 || low.open && c == 0
			}),
			high: z.rank(func(it scored) bool {
				c := high.compare(it.member)
				return c < 0 || !high.open && c == 0
			}),
		}
	}, true
}

// A lexBound is one end of a range of members.
type lexBound struct {
	infinite int // -1 before all members, 1 after all members, else 0
	member   string
	open     bool // member is excluded
}

// parseLexBound parses one end: "-", "+", "[member" or "(member".
func parseLexBound(b []byte) (bound lexBound, ok bool) {
	switch {
	case string(b) == "-":
		return lexBound{infinite: -1}, true
	case string(b) == "+":
		return lexBound{infinite: 1}, true
	case len(b) > 0 && (b[0] == '[' || b[0] == '('):
		return lexBound{member: string(b[1:]), open: b[0] == '('}, true
	}
	return lexBound{}, false
}

// compare compares a member with the bound.
func (b lexBound) compare(member string) int {
	switch {
	case b.infinite != 0:
		return -b.infinite
	case member < b.member:
		return -1
	case member > b.member:
		return 1
	}
	return 0
}

// rangeOptions are the options of ZRANGE.
type rangeOptions struct {
	byScore, byLex, reverse, withScores, limited bool
	offset, count                                int64
}

// zrange is ZRANGE key start stop [BYSCORE|BYLEX] [REV] [LIMIT offset count]
// [WITHSCORES]. It checks the options and the ends before it looks the key up, so a
// malformed range is an error even for a missing key. O(log² n) to find both ends,
// and O(1) for each member.
func (t *turn) zrange() {
	o, ok := t.rangeOptions()
	if !ok {
		return
	}
	find, ok := t.rangeFinder(o)
	if !ok {
		return
	}
	z, ok := t.zset(t.args[1])
	if !ok {
		return
	}
	if z == nil {
		t.out.Array(0)
		return
	}
	w := find(z)
	if o.limited && (o.byScore || o.byLex) {
		w = w.limit(o.offset, o.count, o.reverse)
	}
	t.outWindow(z, w, o)
}

// rangeOptions reads the options of ZRANGE in any order.
func (t *turn) rangeOptions() (o rangeOptions, ok bool) {
	for opts := t.args[4:]; len(opts) > 0; opts = opts[1:] {
		switch {
		// BYSCORE and BYLEX together are a syntax error, as in Redis.
		case is(opts[0], "BYSCORE") && !o.byLex:
			o.byScore = true
		case is(opts[0], "BYLEX") && !o.byScore:
			o.byLex = true
		case is(opts[0], "REV"):
			o.reverse = true
		case is(opts[0], "WITHSCORES"):
			o.withScores = true
		case is(opts[0], "LIMIT") && len(opts) > 2:
			if !o.limit(opts[1], opts[2]) {
				return o, t.fail(notInteger)
			}
			opts = opts[2:]
		default:
			return o, t.fail(syntaxError)
		}
	}
	return o, t.allows(o)
}

// allows reports whether ZRANGE takes the options together.
func (t *turn) allows(o rangeOptions) bool {
	// Redis does not distinguish a count of -1, which means all, from no LIMIT.
	if o.limited && o.count != -1 && !o.byScore && !o.byLex {
		return t.fail("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
	}
	if o.withScores && o.byLex {
		return t.fail("ERR syntax error, WITHSCORES not supported in combination with BYLEX")
	}
	return true
}

// limit reads the arguments of LIMIT.
func (o *rangeOptions) limit(offset, count []byte) bool {
	var ok1, ok2 bool
	o.offset, ok1 = parseInt(offset)
	o.count, ok2 = parseInt(count)
	o.limited = true
	return ok1 && ok2
}

// rangeFinder parses the two ends. With REV, scores and members are given with the
// higher end first, and ranks count from the end.
func (t *turn) rangeFinder(o rangeOptions) (find finder, ok bool) {
	from, to := t.args[2], t.args[3]
	if !o.byScore && !o.byLex {
		return t.rankRange(from, to, o.reverse)
	}
	if o.reverse {
		from, to = to, from
	}
	if o.byScore {
		return t.scoreRange(from, to)
	}
	return t.lexRange(from, to)
}

// outWindow replies with the members of w, and their scores with WITHSCORES.
func (t *turn) outWindow(z *zset, w window, o rangeOptions) {
	width := 1
	if o.withScores {
		width = 2
	}
	t.out.Array(width * w.len())
	z.walk(w, o.reverse, func(it scored) {
		t.out.String(it.member)
		if o.withScores {
			t.outScore(it.score)
		}
	})
}

// zremRangeByRank is ZREMRANGEBYRANK key start stop.
func (t *turn) zremRangeByRank() {
	if find, ok := t.rankRange(t.args[2], t.args[3], false); ok {
		t.removeRange(find)
	}
}

// zremRangeByScore is ZREMRANGEBYSCORE key min max.
func (t *turn) zremRangeByScore() {
	if find, ok := t.scoreRange(t.args[2], t.args[3]); ok {
		t.removeRange(find)
	}
}

// removeRange removes the members of a range, O(log n) for each. It always removes the
// first, as the next one takes its rank.
func (t *turn) removeRange(find finder) {
	removeFrom(t, func(z *zset) int64 {
		w := find(z)
		for range w.len() {
			it, _ := z.tree.DeleteAt(w.low)
			z.remove([]byte(it.member))
		}
		return int64(w.len())
	})
}
