package memory

// This file has the four scans, and the patterns that they match.

import "strconv"

// A scan visits a slice from its end to its beginning. Its cursor is the number of
// elements still to be visited, all of them at the beginning of the slice. A
// returned cursor of 0 means that the scan is complete, a given one that it begins.
//
// A scan visits every element that is in the slice from the first call to the last:
// removal moves only the last element, so an unvisited one can only move towards
// the beginning. A visited element may move there too and be visited again, and an
// element added meanwhile is not visited. SCAN allows both
// (https://redis.io/docs/latest/commands/scan/).
type scan struct {
	cursor uint64
	count  int64
	match  []byte // the MATCH pattern, nil for none
	kind   string // the TYPE of SCAN, "" for any
}

// scanCursor parses a cursor, the first check of a scan.
func (t *turn) scanCursor(arg []byte) (cursor uint64, ok bool) {
	cursor, err := strconv.ParseUint(string(arg), 10, 64)
	if err != nil {
		return 0, t.fail("ERR invalid cursor")
	}
	return cursor, true
}

// scanOptions reads the options behind the cursor. keys is set for SCAN, the only
// command with TYPE.
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

// window returns the indices that this call visits among n elements, from high-1
// down to low, and the cursor for the next call. If elements were removed, the
// cursor may be beyond the end: the remaining ones are unvisited, so the scan
// continues at the end.
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

// matches reports whether name matches the pattern.
func (sc scan) matches(name string) bool { return sc.match == nil || glob(sc.match, name) }

// outScan replies with the cursor and the chosen elements. For each, out adds width
// replies.
func outScan[T any](t *turn, next uint64, chosen []T, width int, out func(T)) {
	t.out.Array(2)
	t.out.String(strconv.FormatUint(next, 10))
	t.out.Array(width * len(chosen))
	for _, c := range chosen {
		out(c)
	}
}

// scan is SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]. It
// skips expired keys.
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

// scans reports whether SCAN returns e.
func (t *turn) scans(sc scan, e *entry) bool {
	return (e.deadline == 0 || !t.passed(e.deadline)) &&
		(sc.kind == "" || is([]byte(sc.kind), e.typeName())) && sc.matches(e.key)
}

// scanTable is HSCAN, SSCAN and ZSCAN. find looks the collection up. out adds width
// replies for one member.
func scanTable[V any](t *turn, find func(key []byte) (*table[V], bool), width int, out func(*item[V])) {
	cursor, ok := t.scanCursor(t.args[2])
	if !ok {
		return
	}
	tb, ok := find(t.args[1])
	if !ok {
		return
	}
	if tb.len() == 0 { // checked before the options, as in Redis
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

// glob reports whether s matches pattern as in Redis (stringmatchlen): "*" matches any
// bytes, "?" any single byte, "[a-c]" one byte in the class and "[^a-c]" one byte
// outside it, and "\" escapes the next byte. An unclosed bracket extends to the end
// of the pattern.
//
// On a mismatch only the last star is tried again, one byte further on: a longer
// match of an earlier star cannot help. So the time is at most the product of the
// two lengths.
func glob(pattern []byte, s string) bool {
	if s == "" { // matches no other pattern in Redis, not even "**"
		return len(pattern) == 0 || string(pattern) == "*"
	}
	star, mark := -1, 0 // index behind the last star, and of its current match in s
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

// globByte matches the byte c against the element of pattern at p. It returns the
// index of the next element.
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

// globClass matches c against the class that begins at p, behind the bracket. A range
// may be reversed, and a backslash escapes a bracket.
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
