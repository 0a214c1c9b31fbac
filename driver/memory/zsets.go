package memory

import (
	"math"

	"github.com/tidwall/btree"
)

// A zset is a sorted set. The table has the score of each member. The tree has the
// scores and members, ordered by score and then by the bytes of the member. Between
// commands both have the same members, like the dict and the skip list of Redis.
//
// The tree has the number of elements below each node, so it finds the member of a
// rank in O(log n). The rank of a member takes O(log² n), by a binary search over
// ranks. The tree has no lock of its own: space.mu guards it, and its reads change
// nothing.
type zset struct {
	table[float64]
	tree *btree.BTreeG[scored]
}

// A scored is a member and its score.
type scored struct {
	score  float64
	member string
}

// before is the order of a sorted set. Go compares strings byte by byte, like memcmp
// in Redis.
func before(a, b scored) bool {
	return a.score < b.score || a.score == b.score && a.member < b.member
}

func newZset() *zset {
	return &zset{newTable[float64](), btree.NewBTreeGOptions(before, btree.Options{NoLocks: true})}
}

func (z *zset) typeName() string { return "zset" }

func (z *zset) clone() collection {
	c := newZset()
	for _, it := range z.items {
		c.set([]byte(it.name), it.value)
	}
	return c
}

// set sets the score of member. It deletes a member from the tree before its score
// changes, as the tree finds it by score and name.
func (z *zset) set(member []byte, score float64) {
	if i, ok := z.at[string(member)]; ok {
		it := &z.items[i]
		z.tree.Delete(scored{it.value, it.name})
		it.value = score
		z.tree.Set(scored{score, it.name})
		return
	}
	name := string(member)
	z.add(name, score)
	z.tree.Set(scored{score, name})
}

// delete removes a member from the table and the tree, if it exists.
func (z *zset) delete(member []byte) (ok bool) {
	it, ok := z.remove(member)
	if ok {
		z.tree.Delete(scored{it.value, it.name})
	}
	return ok
}

// zset looks up a sorted set. It returns nil if there is none.
func (t *turn) zset(key []byte) (*zset, bool) {
	_, z, ok := lookupObject[*zset](t, key)
	return z, ok
}

// scores looks up a sorted set for reading its members without their order. It returns
// nil, an empty table, if there is none.
func (t *turn) scores(key []byte) (*table[float64], bool) {
	z, ok := t.zset(key)
	if z == nil {
		return nil, ok
	}
	return &z.table, ok
}

// outScore replies with a score.
func (t *turn) outScore(score float64) {
	var text [32]byte
	t.out.Bytes(appendScore(text[:0], score))
}

// addOptions are the options of ZADD.
type addOptions struct{ nx, xx, gt, lt, ch, incr bool }

// zadd is ZADD key [NX|XX] [GT|LT] [CH] [INCR] score member …, O(log n) for each.
// GT and LT do not apply to new members.
func (t *turn) zadd() {
	o, pairs := t.addOptions()
	switch {
	case len(pairs) == 0 || len(pairs)%2 != 0:
		t.fail(syntaxError)
	case o.nx && o.xx:
		t.fail("ERR XX and NX options at the same time are not compatible")
	case o.gt && o.lt || o.nx && (o.gt || o.lt):
		t.fail("ERR GT, LT, and/or NX options at the same time are not compatible")
	case o.incr && len(pairs) > 2:
		t.fail("ERR INCR option supports a single increment-element pair")
	default:
		t.zaddPairs(o, pairs)
	}
}

// addOptions reads the options, up to the first other argument.
func (t *turn) addOptions() (o addOptions, pairs [][]byte) {
	for pairs = t.args[2:]; len(pairs) > 0; pairs = pairs[1:] {
		switch {
		case is(pairs[0], "NX"):
			o.nx = true
		case is(pairs[0], "XX"):
			o.xx = true
		case is(pairs[0], "GT"):
			o.gt = true
		case is(pairs[0], "LT"):
			o.lt = true
		case is(pairs[0], "CH"):
			o.ch = true
		case is(pairs[0], "INCR"):
			o.incr = true
		default:
			return o, pairs
		}
	}
	return o, nil
}

// zincrBy is ZINCRBY key increment member, which is ZADD with INCR.
func (t *turn) zincrBy() { t.zaddPairs(addOptions{incr: true}, t.args[2:]) }

// zaddPairs adds pairs of scores and members under valid options. It creates no sorted
// set if XX prevents all additions.
func (t *turn) zaddPairs(o addOptions, pairs [][]byte) {
	scores := make([]float64, len(pairs)/2)
	for i := range scores { // parsed before any change
		var ok bool
		if scores[i], ok = parseFloat(pairs[2*i]); !ok {
			t.fail(notFloat)
			return
		}
	}
	e, z, ok := lookupObject[*zset](t, t.args[1])
	if !ok {
		return
	}
	if e == nil {
		z = newZset() // stored once it has a member
	}
	// From here on only INCR can fail. It has one pair, so nothing has changed then.
	r := addResult{}
	for i, score := range scores {
		if !r.add(z, o, pairs[2*i+1], score) {
			t.fail("ERR resulting score is not a number (NaN)")
			return
		}
	}
	if e == nil && z.len() > 0 {
		t.create(t.args[1]).object = z
	}
	t.outAdded(o, r)
}

// An addResult is the result of ZADD.
type addResult struct {
	added, changed int64
	score          float64 // of the last applied pair
	applied        bool    // the last pair was applied, even if its score did not change
}

// add applies one pair. It returns false if INCR gives NaN, as for the sum of two
// opposite infinities.
func (r *addResult) add(z *zset, o addOptions, member []byte, score float64) bool {
	r.applied = false
	old := z.get(member)
	if old == nil {
		if !o.xx {
			z.set(member, score)
			r.added++
			r.applied, r.score = true, score
		}
		return true
	}
	if o.nx {
		return true
	}
	if o.incr {
		score += *old
		if math.IsNaN(score) {
			return false
		}
	}
	// GT and LT compare the sum, not the increment.
	if o.lt && score >= *old || o.gt && score <= *old {
		return true
	}
	r.applied, r.score = true, score
	if score != *old {
		z.set(member, score)
		r.changed++
	}
	return true
}

// outAdded adds the reply of ZADD: a count, or with INCR the new score, nil if it was
// not applied.
func (t *turn) outAdded(o addOptions, r addResult) {
	switch {
	case o.incr && r.applied:
		t.outScore(r.score)
	case o.incr:
		t.out.Nil()
	case o.ch:
		t.out.Int(r.added + r.changed)
	default:
		t.out.Int(r.added)
	}
}

// outMemberScore replies with the score of a member, or nil if there is none.
func (t *turn) outMemberScore(z *table[float64], member []byte) {
	if score := z.get(member); score != nil {
		t.outScore(*score)
	} else {
		t.out.Nil()
	}
}

// zscore is ZSCORE key member, O(1).
func (t *turn) zscore() {
	if z, ok := t.scores(t.args[1]); ok {
		t.outMemberScore(z, t.args[2])
	}
}

// zmscore is ZMSCORE key member …
func (t *turn) zmscore() {
	z, ok := t.scores(t.args[1])
	if !ok {
		return
	}
	t.out.Array(len(t.args) - 2)
	for _, member := range t.args[2:] {
		t.outMemberScore(z, member)
	}
}

// zrank is ZRANK key member.
func (t *turn) zrank() { t.outRank(false) }

// zrevRank is ZREVRANK key member.
func (t *turn) zrevRank() { t.outRank(true) }

// outRank replies with the rank of a member, from either end. O(log² n).
func (t *turn) outRank(reverse bool) {
	_, z, ok := lookupObject[*zset](t, t.args[1])
	if !ok {
		return
	}
	if z == nil || z.get(t.args[2]) == nil {
		t.out.Nil()
		return
	}
	member := scored{*z.get(t.args[2]), string(t.args[2])}
	rank := z.rank(func(it scored) bool { return before(it, member) })
	if reverse {
		rank = z.len() - 1 - rank
	}
	t.out.Int(int64(rank))
}

// zcard is ZCARD key.
func (t *turn) zcard() {
	if z, ok := t.scores(t.args[1]); ok {
		t.out.Int(int64(z.len()))
	}
}

// zpopMin is ZPOPMIN key [count].
func (t *turn) zpopMin() { t.zpop(func(z *zset) (scored, bool) { return z.tree.PopMin() }) }

// zpopMax is ZPOPMAX key [count].
func (t *turn) zpopMax() { t.zpop(func(z *zset) (scored, bool) { return z.tree.PopMax() }) }

// zpop removes members at one end and replies with them, O(log n) for each. The reply
// is a flat array, alternating members and scores, with or without a count.
func (t *turn) zpop(pop func(*zset) (scored, bool)) {
	count, _, ok := t.popCount()
	if !ok {
		return
	}
	e, z, ok := lookupObject[*zset](t, t.args[1])
	if !ok {
		return
	}
	if z == nil {
		t.out.Array(0)
		return
	}
	n := min(count, int64(z.len()))
	t.out.Array(2 * int(n))
	for range n {
		it, _ := pop(z)
		z.remove([]byte(it.member))
		t.out.String(it.member)
		t.outScore(it.score)
	}
	if z.len() == 0 {
		t.space.drop(e)
	}
}

// zrem is ZREM key member …, O(log n) for each.
func (t *turn) zrem() {
	removeFrom(t, func(z *zset) (n int64) {
		for _, member := range t.args[2:] {
			if z.delete(member) {
				n++
			}
		}
		return n
	})
}

// zrandMember is ZRANDMEMBER key [count [WITHSCORES]].
func (t *turn) zrandMember() {
	outRandom(t, "WITHSCORES", t.scores, func(it *item[float64], with bool) {
		t.out.String(it.name)
		if with {
			t.outScore(it.value)
		}
	})
}
