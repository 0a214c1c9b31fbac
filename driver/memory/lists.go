package memory

// This file has the commands on lists.

import (
	"math"
	"math/bits"
)

// A list is a list of elements in a ring buffer: element i is at index head+i of
// the ring, modulo its length. So an element at either end is added or removed,
// and any element is read, in O(1) time. The time to grow and to shrink is
// amortized. An element costs a string header and its bytes, and the ring is at
// least a quarter full.
type list struct {
	ring []string // its length is a power of two; "" outside the list
	head int      // less than len(ring)
	size int      // at most len(ring)
}

// minRing is the least length of a ring.
const minRing = 4

func newList() *list { return &list{ring: make([]string, minRing)} }

func (l *list) typeName() string { return "list" }

func (l *list) clone() collection {
	c := *l
	c.resize(0)
	return &c
}

// len returns the number of elements. A nil list has none: it stands for a key that
// does not exist.
func (l *list) len() int {
	if l == nil {
		return 0
	}
	return l.size
}

// slot returns the place of element i, which may be one before the first or after
// the last if the ring has room. It is valid until the next resize.
func (l *list) slot(i int) *string { return &l.ring[(l.head+i)&(len(l.ring)-1)] }

// resize copies the elements to a new ring with room for more.
func (l *list) resize(more int) {
	ring := make([]string, max(minRing, 1<<bits.Len(uint(max(l.size+more, 1)-1))))
	n := copy(ring[:l.size], l.ring[l.head:])
	copy(ring[n:l.size], l.ring)
	l.ring, l.head = ring, 0
}

// push adds elements one by one, each as the new first or last one.
func (l *list) push(elements [][]byte, front bool) {
	if l.size+len(elements) > len(l.ring) {
		l.resize(len(elements))
	}
	for _, e := range elements {
		if front {
			*l.slot(-1) = string(e)
			l.head = (l.head - 1) & (len(l.ring) - 1)
		} else {
			*l.slot(l.size) = string(e)
		}
		l.size++
	}
}

// keep removes the elements outside of w, which must be within the list. It takes
// O(1) time for each removed element.
func (l *list) keep(w window) {
	for i := range w.low {
		*l.slot(i) = "" // releases the element
	}
	for i := w.high; i < l.size; i++ {
		*l.slot(i) = ""
	}
	l.head = (l.head + w.low) & (len(l.ring) - 1)
	l.size = w.len()
	l.shrink()
}

// remove removes up to most elements that are equal to value, from the first one on
// or from the last one back, and returns their number. O(n).
func (l *list) remove(value []byte, most int64, reverse bool) (removed int64) {
	place := func(i int) *string {
		if reverse {
			i = l.size - 1 - i
		}
		return l.slot(i)
	}
	kept := 0
	for i := range l.size {
		e := *place(i)
		if removed < most && e == string(value) {
			removed++
			continue
		}
		*place(kept) = e
		kept++
	}
	if reverse {
		l.keep(window{l.size - kept, l.size})
	} else {
		l.keep(window{0, kept})
	}
	return removed
}

// shrink releases memory when three quarters of the ring are empty.
func (l *list) shrink() {
	if len(l.ring) > 64 && l.size < len(l.ring)/4 {
		l.resize(l.size)
	}
}

// list looks up a list for reading. It returns nil, an empty list, if there is none.
func (t *turn) list(key []byte) (*list, bool) {
	_, l, ok := lookupObject[*list](t, key)
	return l, ok
}

// lpush is LPUSH key element …, O(1) for each.
func (t *turn) lpush() { t.push(true) }

// rpush is RPUSH key element …, O(1) for each.
func (t *turn) rpush() { t.push(false) }

func (t *turn) push(front bool) {
	if l, ok := obtainObject(t, t.args[1], newList); ok {
		l.push(t.args[2:], front)
		t.out.Int(int64(l.len()))
	}
}

// lpushX is LPUSHX key element …
func (t *turn) lpushX() { t.pushX(true) }

// rpushX is RPUSHX key element …
func (t *turn) rpushX() { t.pushX(false) }

func (t *turn) pushX(front bool) {
	l, ok := t.list(t.args[1])
	if !ok {
		return
	}
	if l != nil {
		l.push(t.args[2:], front)
	}
	t.out.Int(int64(l.len()))
}

// lpop is LPOP key [count], O(1) for each.
func (t *turn) lpop() { t.pop(true) }

// rpop is RPOP key [count], O(1) for each. It replies with the last element first.
func (t *turn) rpop() { t.pop(false) }

func (t *turn) pop(front bool) {
	if len(t.args) > 3 {
		t.fail(wrongArity(t.args))
		return
	}
	count, counted, ok := t.popCount()
	if !ok {
		return
	}
	e, l, ok := lookupObject[*list](t, t.args[1])
	switch {
	case !ok:
		return
	case l == nil: // a nil array, if counted
		t.out.Nil()
		return
	}
	n := int(min(count, int64(l.len())))
	if counted {
		t.out.Array(n)
	}
	rest := window{n, l.len()}
	if !front {
		rest = window{0, l.len() - n}
	}
	for i := range n {
		if !front {
			i = l.len() - 1 - i
		}
		t.out.String(*l.slot(i))
	}
	l.keep(rest)
	if l.len() == 0 {
		t.space.drop(e)
	}
}

// llen is LLEN key.
func (t *turn) llen() {
	if l, ok := t.list(t.args[1]); ok {
		t.out.Int(int64(l.len()))
	}
}

// lindex is LINDEX key index, O(1).
func (t *turn) lindex() {
	l, ok := t.list(t.args[1])
	switch {
	case !ok:
		return
	case l == nil: // checked before the index, as in Redis
		t.out.Nil()
		return
	}
	i, ok := parseInt(t.args[2])
	if !ok {
		t.fail(notInteger)
		return
	}
	if i < 0 {
		i += int64(l.len())
	}
	if i < 0 || i >= int64(l.len()) {
		t.out.Nil()
		return
	}
	t.out.String(*l.slot(int(i)))
}

// listRange parses the range of LRANGE and LTRIM and looks the list up.
func (t *turn) listRange() (e *entry, l *list, w window, ok bool) {
	start, ok1 := parseInt(t.args[2])
	stop, ok2 := parseInt(t.args[3])
	if !ok1 || !ok2 {
		return nil, nil, w, t.fail(notInteger)
	}
	e, l, ok = lookupObject[*list](t, t.args[1])
	return e, l, ranks(start, stop, int64(l.len())), ok
}

// lrange is LRANGE key start stop, O(1) for each element of the range.
func (t *turn) lrange() {
	_, l, w, ok := t.listRange()
	if !ok {
		return
	}
	t.out.Array(w.len())
	for i := w.low; i < w.high; i++ {
		t.out.String(*l.slot(i))
	}
}

// ltrim is LTRIM key start stop, O(1) for each removed element.
func (t *turn) ltrim() {
	e, l, w, ok := t.listRange()
	if !ok {
		return
	}
	if l != nil {
		if l.keep(w); l.len() == 0 {
			t.space.drop(e)
		}
	}
	t.out.Status("OK")
}

// lrem is LREM key count element. A negative count counts from the end, 0 means all.
func (t *turn) lrem() {
	count, ok := parseInt(t.args[2])
	if !ok {
		t.fail(notInteger)
		return
	}
	most, reverse := count, count < 0
	switch {
	case count == 0 || count == math.MinInt64:
		most = math.MaxInt64
	case reverse:
		most = -count
	}
	removeFrom(t, func(l *list) int64 { return l.remove(t.args[3], most, reverse) })
}

// A search is the options of LPOS.
type search struct {
	rank    int64 // the first match to return, negative from the end
	count   int64 // the number of matches to return, 0 for all
	counted bool  // count is given: the reply is an array
	most    int64 // the number of elements to compare, 0 for all
}

// lpos is LPOS key element [RANK rank] [COUNT count] [MAXLEN len], O(n).
func (t *turn) lpos() {
	s, ok := t.searchOptions(t.args[3:])
	if !ok {
		return
	}
	l, ok := t.list(t.args[1])
	if !ok {
		return
	}
	var one [1]int // saves the allocation
	found := l.find(one[:0], t.args[2], s)
	switch {
	case s.counted:
		t.out.Array(len(found))
		for _, i := range found {
			t.out.Int(int64(i))
		}
	case len(found) > 0:
		t.out.Int(int64(found[0]))
	default:
		t.out.Nil()
	}
}

// find appends to found the indices of the elements that are equal to value.
func (l *list) find(found []int, value []byte, s search) []int {
	n, skip := int64(l.len()), s.rank-1
	if s.rank < 0 {
		skip = -s.rank - 1
	}
	if s.most > 0 {
		n = min(n, s.most)
	}
	for i := range int(n) {
		if s.rank < 0 {
			i = l.size - 1 - i
		}
		if *l.slot(i) != string(value) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if found = append(found, i); int64(len(found)) == s.count {
			break
		}
	}
	return found
}

// searchOptions reads the options of LPOS. Of an option that is given twice, the last
// one counts.
func (t *turn) searchOptions(opts [][]byte) (s search, ok bool) {
	s = search{rank: 1, count: 1}
	for ; len(opts) > 0; opts = opts[2:] {
		if len(opts) < 2 {
			return s, t.fail(syntaxError)
		}
		n, ok := parseInt(opts[1])
		switch {
		case is(opts[0], "RANK"):
			switch {
			case !ok:
				return s, t.fail(notInteger)
			case n == math.MinInt64: // cannot be negated
				return s, t.fail(notNegatable)
			case n == 0:
				return s, t.fail("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list")
			}
			s.rank = n
		case is(opts[0], "COUNT"):
			if !ok || n < 0 {
				return s, t.fail("ERR COUNT can't be negative")
			}
			s.count, s.counted = n, true
		case is(opts[0], "MAXLEN"):
			if !ok || n < 0 {
				return s, t.fail("ERR MAXLEN can't be negative")
			}
			s.most = n
		default:
			return s, t.fail(syntaxError)
		}
	}
	return s, true
}
