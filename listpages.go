package caches

import (
	"bytes"
	"context"
	"iter"
	"math"
	"strconv"

	"github.com/gocaches/caches/driver"
)

// All returns an iterator over the indices and elements, front to back, and a
// function that returns, after the loop, the error that stopped it, if any. The
// iterator reads a page per round trip. The indices are those at that time.
//
// Each page continues at the element that came next when the previous page was
// read, wherever it is by now. So elements that are added or removed meanwhile
// neither hide others nor make All see them twice. If that element is gone, the
// page continues after the last element seen; if both are gone, All begins again
// at the front. Equal elements may stand for each other. O(1) per page near both
// ends, and O(n) if both ends have changed; LRANGE, LINDEX and LPOS in one
// script.
func (l List[T]) All(ctx context.Context) (iter.Seq2[int, T], func() error) {
	return l.walk(ctx, "List.All", 1)
}

// Backward is All from back to front, with descending indices.
func (l List[T]) Backward(ctx context.Context) (iter.Seq2[int, T], func() error) {
	return l.walk(ctx, "List.Backward", -1)
}

// walk iterates in steps of 1 or -1.
func (l List[T]) walk(ctx context.Context, op string, step int) (iter.Seq2[int, T], func() error) {
	var failed error
	all := func(yield func(int, T) bool) {
		w := listWalk{op: op, step: step, more: true, most: math.MaxInt}
		if step < 0 {
			w.index = -1
		}
		for w.more {
			var page []T
			page, failed = l.page(ctx, &w)
			for i, v := range page {
				if !yield(w.first+i*step, v) {
					failed = nil
					return
				}
			}
		}
	}
	return all, func() error { return failed }
}

// A listWalk is an iteration over a list. After a page it holds the next element
// and the last one seen, as stored, and the place of the next one. Paging by
// index would miss elements while others are popped at the front, and see
// elements twice while others are pushed there.
type listWalk struct {
	op    string
	step  int
	first int // the index of the first element of the page

	more       bool // false after the last page
	next, last []byte
	index      int // of next; -1 for the last element of the list
	left       int // the number of elements from next to the back

	// again is set when both elements were gone and the iteration began again. Then
	// it sees at most as many elements as there were. All others are newer, and an
	// iteration over a list that is replaced faster than it is read would not end.
	again bool
	most  int // the number of elements that are left to see
}

// page returns the next page in the order of the iteration. With an error, these
// are the elements before the one that does not decode.
func (l List[T]) page(ctx context.Context, w *listWalk) ([]T, error) {
	w.more = false
	var q query
	if err := q.beginRead(ctx, &l.Object, w.op); err != nil {
		return nil, err
	}
	defer q.end()
	q.p.Script(listPage, 1).Key(q.front, q.key)
	if q.slide {
		q.p.Int(q.ms)
	} else {
		q.p.Int(0)
	}
	q.p.Int(int64(w.step)).Int(pageSize + 1).Int(int64(w.index)).Int(int64(w.left))
	if w.next != nil {
		q.p.Bytes(w.next).Bytes(w.last)
	}
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	stored, err := w.read(q.p.Next())
	page := make([]T, 0, len(stored))
	for _, data := range stored {
		var v T
		if v, err = readValue[T](l.opts.serializer(), data); err != nil {
			w.more = false
			break
		}
		page = append(page, v)
	}
	if err != nil {
		return page, q.fail(err)
	}
	return page, nil
}

// read reads a reply of listPage and returns views of the elements of the page.
func (w *listWalk) read(r driver.Reply) ([][]byte, error) {
	e, err := r.Elems()
	var ints [3]int64 // the length of the list, the index of the first element, and whether it began again
	for i := range ints {
		if err == nil {
			ints[i], err = e.Next().Int()
		}
	}
	if err != nil {
		return nil, err
	}
	stored, err := readSlice(e.Next(), present)
	if err != nil {
		return nil, err
	}
	if ints[2] != 0 && !w.again {
		w.again, w.most = true, int(ints[0])
	}
	n := min(len(stored), pageSize, w.most)
	w.first, w.most = int(ints[1]), w.most-n
	if w.more = len(stored) > n && w.most > 0; w.more {
		w.last, w.next = bytes.Clone(stored[n-1]), bytes.Clone(stored[n])
		w.index = w.first + n*w.step
		w.left = int(ints[0]) - w.index
	}
	return stored[:n], nil
}

// listPage returns the length of a list, the index of an element, whether the
// iteration begins again, and up to a number of elements from that one on, in
// steps of 1 or -1. The element is the one at an index, or the given one: at the
// index, as far from the back as it was, or nearest to the index. If it is gone,
// it is the one after the last element seen. If both are gone, the iteration
// begins again. ARGV: milliseconds or 0, step, number, index,
// the number of elements from there to the back, and nothing, or the element and
// the last one seen.
var listPage = driver.NewScript(`
local len = redis.pcall('LLEN', KEYS[1])
if type(len) == 'table' then return len end
if ARGV[1] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local step, at, old, again = tonumber(ARGV[2]), tonumber(ARGV[4]), len - tonumber(ARGV[5]), 0
if at < 0 then at = at + len end

local function is(i) return i >= 0 and redis.call('LINDEX', KEYS[1], i) == ARGV[6] end
local function nearest(element)
	local found
	for _, i in ipairs(redis.call('LPOS', KEYS[1], element, 'COUNT', 0)) do
		if not found or math.abs(i - at) < math.abs(found - at) then found = i end
	end
	return found
end
if ARGV[6] and not is(at) then
	local i = is(old) and old or nearest(ARGV[6])
	if not i then
		i = nearest(ARGV[7])
		if not i then again = 1 end
		i = i and i + step or step < 0 and len - 1 or 0
	end
	at = i
end

if at < 0 then return {len, at, again, {}} end
if step > 0 then return {len, at, again, redis.call('LRANGE', KEYS[1], at, at + ARGV[3] - 1)} end
local page, back = redis.call('LRANGE', KEYS[1], math.max(at - ARGV[3] + 1, 0), at), {}
for i = #page, 1, -1 do back[#back + 1] = page[i] end
return {len, at, again, back}
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	r := tx.Call("LLEN", keys[0])
	if r.Kind() == driver.KindError {
		passOn(reply, r)
		return
	}
	n, _ := r.Int()
	if string(args[0]) != "0" {
		tx.Call("PEXPIRE", keys[0], args[0])
	}
	var ints [4]int64
	for i := range ints {
		ints[i], _ = strconv.ParseInt(string(args[1+i]), 10, 64)
	}
	s := listSearch{tx: tx, key: keys[0], length: n, step: ints[0], at: ints[2], old: n - ints[3]}
	if s.at < 0 {
		s.at += n
	}
	if len(args) > 5 {
		s.find(args[5], args[6])
	}
	reply.Array(4)
	reply.Int(n)
	reply.Int(s.at)
	reply.Int(s.again)
	s.page(reply, ints[1])
})

// A listSearch is one run of the Go form of listPage.
type listSearch struct {
	tx      driver.Tx
	key     []byte
	length  int64
	step    int64
	at, old int64 // where the element was, counted from the front and from the back
	again   int64 // 1 if the iteration begins again
}

// find sets at to the index at which the page begins.
func (s *listSearch) find(next, last []byte) {
	is := func(i int64) bool {
		if i < 0 {
			return false
		}
		data, ok, _ := s.tx.Call("LINDEX", s.key, strconv.AppendInt(nil, i, 10)).Bytes()
		return ok && bytes.Equal(data, next)
	}
	if is(s.at) {
		return
	}
	if is(s.old) {
		s.at = s.old
		return
	}
	if i := s.nearest(next); i >= 0 {
		s.at = i
	} else if i = s.nearest(last); i >= 0 {
		s.at = i + s.step
	} else if s.at, s.again = 0, 1; s.step < 0 {
		s.at = s.length - 1
	}
}

// nearest returns the index of the element nearest to at that is equal to
// element, or -1.
func (s *listSearch) nearest(element []byte) int64 {
	found := int64(-1)
	e, _ := s.tx.Call("LPOS", s.key, element, []byte("COUNT"), []byte("0")).Elems()
	for e.Len() > 0 {
		i, _ := e.Next().Int()
		if found < 0 || max(i-s.at, s.at-i) < max(found-s.at, s.at-found) {
			found = i
		}
	}
	return found
}

// page adds up to count elements to reply.
func (s *listSearch) page(reply *driver.Replies, count int64) {
	low, high := s.at, s.at+count-1
	if s.step < 0 {
		low, high = max(s.at-count+1, 0), s.at
	}
	if s.at < 0 {
		reply.Array(0)
		return
	}
	r := s.tx.Call("LRANGE", s.key, strconv.AppendInt(nil, low, 10), strconv.AppendInt(nil, high, 10))
	if s.step > 0 {
		passOn(reply, r)
		return
	}
	page, _ := readSlice(r, present)
	reply.Array(len(page))
	for i := range page {
		reply.Bytes(page[len(page)-1-i])
	}
}
