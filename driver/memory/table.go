package memory

// A table is a map whose members also have an order, so that a random one can be
// chosen in O(1) and a scan can be resumed: the members are in a slice, and
// removal moves the last one into the gap. Hashes, sets and sorted sets are
// tables of values, of nothing, and of scores.
//
// A look-up converts bytes to a string without allocating, and the map and the
// slice share the name of a member.
type table[V any] struct {
	at    map[string]int // the index in items
	items []item[V]
}

// An item is a member of a table and its value.
type item[V any] struct {
	name  string
	value V
}

// newTable returns an empty table.
func newTable[V any]() table[V] { return table[V]{at: make(map[string]int)} }

// len returns the number of members. A nil table has none: it stands for a key that
// does not exist, so that reading commands need no special case.
func (tb *table[V]) len() int {
	if tb == nil {
		return 0
	}
	return len(tb.items)
}

// get returns a pointer to the value of name, valid until the next add or remove,
// or nil if name is not a member. A nil table has no members.
func (tb *table[V]) get(name []byte) *V {
	if tb == nil {
		return nil
	}
	if i, ok := tb.at[string(name)]; ok {
		return &tb.items[i].value
	}
	return nil
}

// has reports whether name is a member. A nil table has no members.
func (tb *table[V]) has(name string) bool {
	if tb == nil {
		return false
	}
	_, ok := tb.at[name]
	return ok
}

// names returns the names of the members, in no particular order.
func (tb *table[V]) names() []string {
	names := make([]string, tb.len())
	for i := range names {
		names[i] = tb.items[i].name
	}
	return names
}

// clone returns a table with the same members and copies of their values.
func (tb *table[V]) clone(copy func(V) V) table[V] {
	c := newTable[V]()
	for i := range tb.items {
		c.add(tb.items[i].name, copy(tb.items[i].value))
	}
	return c
}

// add appends a new member.
func (tb *table[V]) add(name string, value V) {
	tb.at[name] = len(tb.items)
	tb.items = append(tb.items, item[V]{name, value})
}

// remove removes a member, if it exists, and moves the last member into its place.
// So choosing a random member takes O(1) time; see scan for the consequence.
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
	tb.items[last] = item[V]{} // releases the name and the value
	tb.items = tb.items[:last]
	tb.shrink()
	return removed, true
}

// removeAll removes names and returns the number of them that were members.
func (tb *table[V]) removeAll(names [][]byte) (n int64) {
	for _, name := range names {
		if _, ok := tb.remove(name); ok {
			n++
		}
	}
	return n
}

// shrink releases memory when three quarters of the slice are empty. It replaces
// the map too, as Go's maps do not shrink.
func (tb *table[V]) shrink() {
	if n := len(tb.items); cap(tb.items) > 64 && n < cap(tb.items)/4 {
		tb.items = append(make([]item[V], 0, 2*n), tb.items...)
		tb.at = make(map[string]int, n)
		for i := range tb.items {
			tb.at[tb.items[i].name] = i
		}
	}
}
