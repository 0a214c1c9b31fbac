package memory

import "math/rand/v2"

// A table is a map that also has an order, so that a member can be drawn at
// random in O(1) and a scan can be left and resumed: the members stand in a
// slice, and removal moves the last one into the gap.
type table[V any] struct {
	at    map[string]int // the index in items
	items []item[V]
}

// An item is a member of a table and what belongs to it.
type item[V any] struct {
	name  string
	value V
}

// newTable makes an empty table.
func newTable[V any]() table[V] { return table[V]{at: make(map[string]int)} }

// len returns the number of members.
func (tb *table[V]) len() int { return len(tb.items) }

// get returns where the value of name is kept, nil where name is not there.
// The next put or remove ends it.
func (tb *table[V]) get(name []byte) *V {
	if i, ok := tb.at[string(name)]; ok {
		return &tb.items[i].value
	}
	return nil
}

// has reports whether name is a member.
func (tb *table[V]) has(name string) bool {
	_, ok := tb.at[name]
	return ok
}

// add appends a member that is not there.
func (tb *table[V]) add(name string, value V) {
	tb.at[name] = len(tb.items)
	tb.items = append(tb.items, item[V]{name, value})
}

// remove takes a member out, if it is there.
func (tb *table[V]) remove(name []byte) (removed item[V], ok bool) {
	i, ok := tb.at[string(name)]
	if !ok {
		return item[V]{}, false
	}
	removed = tb.items[i]
	delete(tb.at, removed.name)
	last := len(tb.items) - 1
	if i != last {
		tb.items[i] = tb.items[last]
		tb.at[tb.items[i].name] = i
	}
	tb.items[last] = item[V]{}
	tb.items = tb.items[:last]
	tb.shrink()
	return removed, true
}

// shrink gives memory back once three quarters of the slice are empty, and
// that of the map with it: Go's maps do not do it by themselves.
func (tb *table[V]) shrink() {
	if n := len(tb.items); cap(tb.items) > 64 && n < cap(tb.items)/4 {
		tb.items = append(make([]item[V], 0, 2*n), tb.items...)
		tb.at = make(map[string]int, n)
		for i := range tb.items {
			tb.at[tb.items[i].name] = i
		}
	}
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
