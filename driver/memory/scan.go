package memory

// This file has the four scans, and the patterns that they match.

import "strconv"

// A scan walks a slice from its end to its beginning. The cursor that it hands
// out is the number of elements it has still to visit, which are those at the
// beginning; 0 says that it is done, and, from a caller, that it begins.
//
// Whatever stays in the slice from the first call to the last is visited:
// removal moves only the last element, so one that is still to be visited can
// only move towards the beginning. An element that was visited may move there
// as well and be visited again, and what is added in between is not, both of
// which SCAN allows (https://redis.io/docs/latest/commands/scan/).
type scan struct {
	cursor uint64
	count  int64
	match  []byte // nil: everything
	kind   string // of SCAN: only keys of this TYPE; "" for any
}

// scanCursor reads a cursor. It is the first thing that a scan checks.
func (t *turn) scanCursor(arg []byte) (cursor uint64, ok bool) {
	cursor, err := strconv.ParseUint(string(arg), 10, 64)
	if err != nil {
		return 0, t.fail("ERR invalid cursor")
	}
	return cursor, true
}

// scanOptions reads what follows the cursor; keys says that it is for SCAN, which
// alone knows TYPE.
func (t *turn) scanOptions(cursor uint64, opts [][]byte, keys bool) (sc scan, ok bool) {
	sc = scan{cursor: cursor, count: 10}
	for ; len(opts) > 0; opts = opts[2:] {
		switch {
		case len(opts) < 2:
			return sc, t.fail(syntaxError)
		case is(opts[0], "COUNT"):
			if sc.count, ok = parseInt(opts[1]); !ok {
				return sc, t.fail(notInteger)
			}
			if sc.count < 1 {
				return sc, t.fail(syntaxError)
			}
		case is(opts[0], "MATCH"):
			sc.match = opts[1]
		case is(opts[0], "TYPE") && keys:
			sc.kind = string(opts[1])
		default:
			return sc, t.fail(syntaxError)
		}
	}
	return sc, true
}

// window returns which of n elements this call visits, high to low, and the
// cursor for the next one. A cursor beyond the end is one from before elements
// were removed: the walk goes on at the end, as everything below was not visited.
func (sc scan) window(n int) (low, high int, next uint64) {
	high = n
	if sc.cursor > 0 && sc.cursor < uint64(n) {
		high = int(sc.cursor)
	}
	if sc.count < int64(high) {
		low = high - int(sc.count)
	}
	return low, high, uint64(low)
}

// matches reports whether a name passes MATCH.
func (sc scan) matches(name string) bool { return sc.match == nil || glob(sc.match, name) }

// outScan leaves the reply: the cursor, and the chosen ones, each width
// replies by out.
func outScan[T any](t *turn, next uint64, chosen []T, width int, out func(T)) {
	t.out.Array(2)
	t.out.String(strconv.FormatUint(next, 10))
	t.out.Array(width * len(chosen))
	for _, c := range chosen {
		out(c)
	}
}

// scan is SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]. Expired keys are
// passed over.
func (t *turn) scan() {
	cursor, ok := t.scanCursor(t.args[1])
	if !ok {
		return
	}
	sc, ok := t.scanOptions(cursor, t.args[2:], true)
	if !ok {
		return
	}
	var chosen []*entry
	low, high, next := sc.window(len(t.space.order))
	for i := high - 1; i >= low; i-- {
		if e := t.space.order[i]; t.scans(sc, e) {
			chosen = append(chosen, e)
		}
	}
	outScan(t, next, chosen, 1, func(e *entry) { t.out.String(e.key) })
}

// scans reports whether SCAN shows e.
func (t *turn) scans(sc scan, e *entry) bool {
	return (e.deadline == 0 || !t.passed(e.deadline)) &&
		(sc.kind == "" || is([]byte(sc.kind), e.typeName())) && sc.matches(e.key)
}

// scanTable is HSCAN, SSCAN and ZSCAN. find looks the collection up, out leaves
// one member of it, in width replies.
func scanTable[V any](t *turn, find func(key []byte) (*table[V], bool), width int, out func(*item[V])) {
	cursor, ok := t.scanCursor(t.args[2])
	if !ok {
		return
	}
	tb, ok := find(t.args[1])
	if !ok {
		return
	}
	if tb.len() == 0 { // before the options are read, as in Redis
		outScan(t, 0, nil, width, out)
		return
	}
	sc, ok := t.scanOptions(cursor, t.args[3:], false)
	if !ok {
		return
	}
	var chosen []*item[V]
	low, high, next := sc.window(tb.len())
	for i := high - 1; i >= low; i-- {
		if it := &tb.items[i]; sc.matches(it.name) {
			chosen = append(chosen, it)
		}
	}
	outScan(t, next, chosen, width, out)
}

// hscan is HSCAN key cursor [MATCH pattern] [COUNT count].
func (t *turn) hscan() {
	scanTable(t, t.hash, 2, func(it *item[[]byte]) {
		t.out.String(it.name)
		t.out.Bytes(it.value)
	})
}

// sscan is SSCAN key cursor [MATCH pattern] [COUNT count].
func (t *turn) sscan() {
	scanTable(t, t.members, 1, func(it *item[struct{}]) { t.out.String(it.name) })
}

// zscan is ZSCAN key cursor [MATCH pattern] [COUNT count].
func (t *turn) zscan() {
	scanTable(t, t.scores, 2, func(it *item[float64]) {
		var text [32]byte
		t.out.String(it.name)
		t.out.Bytes(appendStored(text[:0], it.value))
	})
}

// glob reports whether s matches pattern as in Redis (stringmatchlen): "*" is
// any bytes, "?" one, "[a-c]" and "[^a-c]" one of those or of the others, and
// "\" takes the meaning from what follows. A bracket that does not close ends
// with the pattern.
//
// A star that fails later is tried one byte further on, and only the last one:
// an earlier one could match nothing that this one cannot. So the time is at
// most the product of the lengths, whatever the pattern.
func glob(pattern []byte, s string) bool {
	if s == "" { // Redis matches nothing else with it, not even "**"
		return len(pattern) == 0 || string(pattern) == "*"
	}
	star, mark := -1, 0 // the pattern after the last star, and where in s it is tried
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, mark = p, i
			continue
		}
		if p < len(pattern) {
			if ok, next := globByte(pattern, p, s[i]); ok {
				p, i = next, i+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globByte matches one byte of the string, c, against the element of pattern at p, and returns where
// the next element begins.
func globByte(pattern []byte, p int, c byte) (ok bool, next int) {
	switch pattern[p] {
	case '?':
		return true, p + 1
	case '[':
		return globClass(pattern, p+1, c)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return pattern[p] == c, p + 1
}

// globClass matches c against what stands between brackets, from p on. A range may
// be given backwards, and a backslash makes a bracket one of the class.
func globClass(pattern []byte, p int, c byte) (ok bool, next int) {
	negate := p < len(pattern) && pattern[p] == '^'
	if negate {
		p++
	}
	for ; p < len(pattern) && pattern[p] != ']'; p++ {
		switch {
		case pattern[p] == '\\' && p+1 < len(pattern):
			p++
			ok = ok || pattern[p] == c
		case p+2 < len(pattern) && pattern[p+1] == '-':
			low, high := min(pattern[p], pattern[p+2]), max(pattern[p], pattern[p+2])
			ok = ok || low <= c && c <= high
			p += 2
		default:
			ok = ok || pattern[p] == c
		}
	}
	return ok != negate, min(p+1, len(pattern))
}
