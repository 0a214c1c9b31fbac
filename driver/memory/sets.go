package memory

// This file has the commands on sets. Redis has three encodings for sets of integers,
// small sets and large ones, each with its own order. Here there is one, and its
// order is no more significant.
//
// The *STORE commands replace a destination of any type and clear its deadline.
// They look up all sources first, so a source of a wrong type changes nothing.

import (
	"bytes"
	"math/rand/v2"
	"slices"
)

// A set is a set of members.
type set struct{ table[struct{}] }

// newSet returns an empty set.
func newSet() *set { return &set{newTable[struct{}]()} }

func (s *set) typeName() string { return "set" }

func (s *set) clone() collection {
	return &set{s.table.clone(func(v struct{}) struct{} { return v })}
}

// members looks up a set for reading. It returns nil, an empty table, if there is none.
func (t *turn) members(key []byte) (*table[struct{}], bool) {
	_, s, ok := lookupObject[*set](t, key)
	if s == nil {
		return nil, ok
	}
	return &s.table, ok
}

// sadd is SADD key member …, O(1) for each.
func (t *turn) sadd() {
	s, ok := obtainObject(t, t.args[1], newSet)
	if !ok {
		return
	}
	t.out.Int(s.addAll(t.args[2:]))
}

// addAll adds members and returns the number of new ones.
func (s *set) addAll(members [][]byte) (added int64) {
	for _, member := range members {
		if s.get(member) == nil {
			s.add(string(member), struct{}{})
			added++
		}
	}
	return added
}

// srem is SREM key member …
func (t *turn) srem() {
	removeFrom(t, func(s *set) int64 { return s.removeAll(t.args[2:]) })
}

// sisMember is SISMEMBER key member.
func (t *turn) sisMember() {
	if s, ok := t.members(t.args[1]); ok {
		t.outBool(s.get(t.args[2]) != nil)
	}
}

// smisMember is SMISMEMBER key member …
func (t *turn) smisMember() {
	s, ok := t.members(t.args[1])
	if !ok {
		return
	}
	t.out.Array(len(t.args) - 2)
	for _, member := range t.args[2:] {
		t.outBool(s.get(member) != nil)
	}
}

// scard is SCARD key.
func (t *turn) scard() {
	if s, ok := t.members(t.args[1]); ok {
		t.out.Int(int64(s.len()))
	}
}

// smembers is SMEMBERS key, in no particular order.
func (t *turn) smembers() {
	if s, ok := t.members(t.args[1]); ok {
		t.outNames(s.names())
	}
}

// outNames replies with an array of names.
func (t *turn) outNames(names []string) {
	t.out.Array(len(names))
	for _, name := range names {
		t.out.String(name)
	}
}

// spop is SPOP key [count], O(1) for each. All members are equally likely.
func (t *turn) spop() {
	count, counted, ok := t.popCount()
	if !ok {
		return
	}
	e, s, ok := lookupObject[*set](t, t.args[1])
	switch {
	case !ok:
		return
	case s == nil && !counted:
		t.out.Nil()
		return
	case s == nil:
		t.out.Array(0)
		return
	}
	// The length of the array is known in advance: the turn holds the space
	// exclusively.
	n := min(count, int64(s.len()))
	if counted {
		t.out.Array(int(n))
	}
	for range n {
		name := s.items[rand.IntN(s.len())].name
		s.remove([]byte(name))
		t.out.String(name)
	}
	if s.len() == 0 {
		t.space.drop(e)
	}
}

// popCount reads the count of a command that pops, which defaults to 1. counted
// reports whether it is given: then the reply is an array.
func (t *turn) popCount() (count int64, counted, ok bool) {
	switch len(t.args) {
	case 2:
		return 1, false, true
	case 3:
	default:
		return 0, false, t.fail(syntaxError)
	}
	count, ok = parseInt(t.args[2])
	if !ok || count < 0 {
		return 0, true, t.fail(mustBePositive)
	}
	return count, true, true
}

// srandMember is SRANDMEMBER key [count].
func (t *turn) srandMember() {
	outRandom(t, "", t.members, func(it *item[struct{}], _ bool) { t.out.String(it.name) })
}

// smove is SMOVE source destination member. It checks the type of the destination even
// if the member is missing, but not if the source is missing.
func (t *turn) smove() {
	e, from, ok := lookupObject[*set](t, t.args[1])
	if !ok {
		return
	}
	if from == nil {
		t.out.Int(0)
		return
	}
	_, to, ok := lookupObject[*set](t, t.args[2])
	if !ok {
		return
	}
	member := t.args[3]
	if has := from.get(member) != nil; !has || bytes.Equal(t.args[1], t.args[2]) {
		t.outBool(has) // nothing changes
		return
	}
	from.remove(member)
	if from.len() == 0 {
		t.space.drop(e) // to belongs to another entry and stays valid
	}
	if to == nil {
		to = newSet()
		t.create(t.args[2]).object = to
	}
	to.addAll([][]byte{member})
	t.out.Int(1)
}

// sunion is SUNION key …, O(n) for n members in all sets together.
func (t *turn) sunion() { t.outCombined(t.args[1:], union) }

// sinter is SINTER key …, O(n·m) for n members in the smallest of m sets.
func (t *turn) sinter() { t.outCombined(t.args[1:], intersection) }

// sdiff is SDIFF key …, O(n·m) for n members in the first of m sets.
func (t *turn) sdiff() { t.outCombined(t.args[1:], difference) }

// sunionStore is SUNIONSTORE destination key …
func (t *turn) sunionStore() { t.storeCombined(union) }

// sinterStore is SINTERSTORE destination key …
func (t *turn) sinterStore() { t.storeCombined(intersection) }

// sdiffStore is SDIFFSTORE destination key …
func (t *turn) sdiffStore() { t.storeCombined(difference) }

// A combination combines several sets, some of them nil, into one and returns its
// members without duplicates.
type combination func(sets []*table[struct{}]) []string

// sets looks up all keys; a missing one gives nil. A key of another type is an error
// even if the result does not depend on it.
func (t *turn) sets(keys [][]byte) (sets []*table[struct{}], ok bool) {
	sets = make([]*table[struct{}], len(keys))
	for i, key := range keys {
		if sets[i], ok = t.members(key); !ok {
			return nil, false
		}
	}
	return sets, true
}

// outCombined replies with a combination of the sets at keys.
func (t *turn) outCombined(keys [][]byte, combine combination) {
	if sets, ok := t.sets(keys); ok {
		t.outNames(combine(sets))
	}
}

// storeCombined replaces the value of the first key, of any type, by a combination of
// the others, or deletes the key if that is empty. It clears the deadline.
func (t *turn) storeCombined(combine combination) {
	sets, ok := t.sets(t.args[2:])
	if !ok {
		return
	}
	names := combine(sets) // before drop, as the destination may be a source
	if e := t.lookup(t.args[1]); e != nil {
		t.space.drop(e)
	}
	if len(names) > 0 {
		s := newSet()
		for _, name := range names {
			s.add(name, struct{}{})
		}
		t.create(t.args[1]).object = s
	}
	t.out.Int(int64(len(names)))
}

// union returns the members of all sets, in the order of their first occurrence.
func union(sets []*table[struct{}]) (names []string) {
	seen := make(map[string]bool)
	for _, s := range sets {
		for _, name := range s.names() {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// intersection returns the members common to all sets. It visits only the smallest, so
// it is cheap if one set is empty.
func intersection(sets []*table[struct{}]) (names []string) {
	smallest := slices.MinFunc(sets, func(a, b *table[struct{}]) int { return a.len() - b.len() })
	for _, name := range smallest.names() {
		if !slices.ContainsFunc(sets, func(s *table[struct{}]) bool { return !s.has(name) }) {
			names = append(names, name)
		}
	}
	return names
}

// difference returns the members of the first set that are in no other.
func difference(sets []*table[struct{}]) (names []string) {
	for _, name := range sets[0].names() {
		if !slices.ContainsFunc(sets[1:], func(s *table[struct{}]) bool { return s.has(name) }) {
			names = append(names, name)
		}
	}
	return names
}

// sinterCard is SINTERCARD numkeys key … [LIMIT limit].
func (t *turn) sinterCard() {
	n, ok := parseInt(t.args[1])
	switch {
	case !ok || n <= 0:
		t.fail("ERR numkeys should be greater than 0")
		return
	case n > int64(len(t.args)-2):
		t.fail("ERR Number of keys can't be greater than number of args")
		return
	}
	// The options are checked before the types, whatever the sizes of the sets.
	limit, ok := t.cardLimit(t.args[2+n:])
	if !ok {
		return
	}
	sets, ok := t.sets(t.args[2 : 2+n])
	if !ok {
		return
	}
	size := int64(len(intersection(sets)))
	if limit > 0 {
		size = min(size, limit)
	}
	t.out.Int(size)
}

// cardLimit reads the LIMIT of SINTERCARD; 0 means none. As in Redis, a negative limit
// and a malformed one have the same error.
func (t *turn) cardLimit(opts [][]byte) (limit int64, ok bool) {
	for ; len(opts) > 0; opts = opts[2:] {
		if len(opts) < 2 || !is(opts[0], "LIMIT") {
			return 0, t.fail(syntaxError)
		}
		if limit, ok = parseInt(opts[1]); !ok || limit < 0 {
			return 0, t.fail("ERR LIMIT can't be negative")
		}
	}
	return limit, true
}
