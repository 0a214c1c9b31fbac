package memory

// A table is a map that also has an order, so that a member can be drawn at
// random in O(1) and a scan can be left and resumed: the members stand in a
// slice, and removal moves the last one into the gap. Hashes, sets and sorted
// sets are tables of values, of nothing, and of scores.
//
// The map is asked with bytes and keeps strings: a look-up makes no string, and
// a member's name is in memory once.
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

// len returns the number of members. A nil table has none: it stands for a key
// that does not exist, so that commands which only read need not ask.
func (tb *table[V]) len() int {
	if tb == nil {
		return 0
	}
	return len(tb.items)
}

// get returns where the value of name is kept, nil where name is not there.
// The next add or remove ends it. A nil table has nothing.
func (tb *table[V]) get(name []byte) *V {
	if tb == nil {
		return nil
	}
	if i, ok := tb.at[string(name)]; ok {
		return &tb.items[i].value
	}
	return nil
}

// has reports whether name is a member. A nil table has none.
func (tb *table[V]) has(name string) bool {
	if tb == nil {
		return false
	}
	_, ok := tb.at[name]
	return ok
}

// names returns the members, in no order that means anything.
func (tb *table[V]) names() []string {
	names := make([]string, tb.len())
	for i := range names {
		names[i] = tb.items[i].name
	}
	return names
}

// clone returns a table of the same members, their values by copy.
func (tb *table[V]) clone(copy func(V) V) table[V] {
	c := newTable[V]()
	for i := range tb.items {
		c.add(tb.items[i].name, copy(tb.items[i].value))
	}
	return c
}

// add appends a member that is not there.
func (tb *table[V]) add(name string, value V) {
	tb.at[name] = len(tb.items)
	tb.items = append(tb.items, item[V]{name, value})
}

// remove takes a member out, if it is there. The last one takes its place: that
// is what makes a draw at random O(1), and what a scan has to reckon with.
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
	tb.items[last] = item[V]{} // lets go of the name and the value
	tb.items = tb.items[:last]
	tb.shrink()
	return removed, true
}

// removeAll removes names and counts those that were there.
func (tb *table[V]) removeAll(names [][]byte) (n int64) {
	for _, name := range names {
		if _, ok := tb.remove(name); ok {
			n++
		}
	}
	return n
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
