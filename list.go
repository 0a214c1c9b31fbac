package caches

import (
	"context"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// A ListCache describes a type of lists; [ListCache.Key] returns the list at a
// key. It has the fields of [Options].
//
// Elements are stored by the Serializer. [List.Remove] and [List.Contains]
// compare stored elements, so they need a Serializer that always stores equal
// elements alike, as [JSON] and [Raw] do. [Gob] does not do so for maps.
type ListCache[T any] Options

// Key returns the list at a key; see [Cache.Key].
func (l ListCache[T]) Key(parts ...any) List[T] { return List[T]{(*Options)(&l).object(parts)} }

// On returns a copy of l that uses conn; see [Cache.On].
func (l ListCache[T]) On(conn *Conn) ListCache[T] {
	l.conn = conn
	return l
}

// WithTTL returns a copy of l whose TTL is ttl.
func (l ListCache[T]) WithTTL(ttl time.Duration) ListCache[T] {
	l.TTL = ttl
	return l
}

// Fresh returns a copy of l whose reads bypass the near cache. The values they
// read still refresh it.
func (l ListCache[T]) Fresh() ListCache[T] {
	l.fresh = true
	return l
}

// Clear removes every list under the prefix; see [Cache.Clear].
func (l ListCache[T]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&l).clear(ctx, "ListCache.Clear")
}

// A List refers to one list, a Redis list of elements of type T. [ListCache.Key]
// returns it. The TTL applies to the whole list. An empty list does not exist:
// removing the last element removes the list and its expiry.
//
// The front of a list is index 0. A negative index counts from the back: -1 is
// the last element. Both ends are equally fast, so a list is a queue
// (PushBack, PopFront), a stack (PushFront, PopFront) or a feed of the newest
// elements (PushCapped, Range).
type List[T any] struct{ Object }

// Key returns the list at the key of l followed by parts; see [Cache.Key].
func (l List[T]) Key(parts ...any) List[T] { return List[T]{l.below(parts)} }

// On returns a copy of l that uses conn; see [Cache.On].
func (l List[T]) On(conn *Conn) List[T] { return List[T]{l.on(conn)} }

// WithTTL returns a copy of l whose TTL is ttl instead of the type's.
func (l List[T]) WithTTL(ttl time.Duration) List[T] { return List[T]{l.withTTL(ttl)} }

// Fresh returns a copy of l whose reads bypass the near cache; see
// [ListCache.Fresh].
func (l List[T]) Fresh() List[T] { return List[T]{l.afresh()} }

// PushFront adds values at the front, one after the other, so that the last of
// them becomes the first element. It returns the new length. Without values it
// changes nothing. O(len(values)), LPUSH and PEXPIRE in one step.
func (l List[T]) PushFront(ctx context.Context, values ...T) (length int, err error) {
	return l.push(ctx, "List.PushFront", "LPUSH", values)
}

// PushBack adds values at the back, in their order, and returns the new length.
// Without values it changes nothing. O(len(values)), RPUSH and PEXPIRE in one
// step.
func (l List[T]) PushBack(ctx context.Context, values ...T) (length int, err error) {
	return l.push(ctx, "List.PushBack", "RPUSH", values)
}

func (l List[T]) push(ctx context.Context, op, cmd string, values []T) (int, error) {
	if len(values) == 0 {
		return l.length(ctx, op, "LLEN")
	}
	var q query
	if err := q.begin(ctx, &l.Object, op, 0); err != nil {
		return 0, err
	}
	defer q.end()
	if err := l.writeAll(q.writeMany(listType, cmd, len(values)), values); err != nil {
		return 0, q.fail(err)
	}
	n, err := q.int(ctx)
	return int(n), err
}

// PushCapped adds values at the front as PushFront does, then removes elements
// at the back until at most n are left, and returns the new length. So a list
// has the n newest elements, the newest first. Without values it changes
// nothing. O(len(values)) plus the number removed, LPUSH, PEXPIRE and LTRIM in
// one transaction.
func (l List[T]) PushCapped(ctx context.Context, n int, values ...T) (length int, err error) {
	const op = "List.PushCapped"
	if err := l.checkCount(op, n); err != nil {
		return 0, err
	}
	if len(values) == 0 {
		return l.length(ctx, op, "LLEN")
	}
	var q query
	if err := q.begin(ctx, &l.Object, op, driver.Atomic); err != nil {
		return 0, err
	}
	defer q.end()
	if err := l.writeAll(q.writeMany(listType, "LPUSH", len(values)), values); err != nil {
		return 0, q.fail(err)
	}
	q.trim(n)
	pushed, err := q.int(ctx)
	return min(int(pushed), n), err
}

// trim appends the command that keeps the first n elements. LTRIM takes a last
// index, and -1 would mean all.
func (q *query) trim(n int) {
	if n == 0 {
		q.cmd("LTRIM").Int(1).Int(0)
		return
	}
	q.cmd("LTRIM").Int(0).Int(int64(n) - 1)
}

func (l List[T]) writeAll(p *driver.Pipeline, values []T) error {
	for _, v := range values {
		if err := writeValue(p, l.opts.serializer(), v); err != nil {
			return err
		}
	}
	return nil
}

// PopFront removes the first element and returns it, or [ErrMiss]. An element
// that does not decode is removed as well, and the error is [ErrCorrupt]. O(1),
// LPOP.
func (l List[T]) PopFront(ctx context.Context) (T, error) {
	return l.pop(ctx, "List.PopFront", "LPOP")
}

// PopBack is PopFront for the last element. O(1), RPOP.
func (l List[T]) PopBack(ctx context.Context) (T, error) {
	return l.pop(ctx, "List.PopBack", "RPOP")
}

func (l List[T]) pop(ctx context.Context, op, cmd string) (T, error) {
	var q query
	if err := q.begin(ctx, &l.Object, op, 0); err != nil {
		var zero T
		return zero, err
	}
	defer q.end()
	q.cmd(cmd)
	return l.one(ctx, &q)
}

// one runs a query whose first reply is an element, or nil for a miss.
func (l List[T]) one(ctx context.Context, q *query) (T, error) {
	if err := q.run(ctx); err != nil {
		var zero T
		return zero, err
	}
	return readStored[T](q, l.opts.serializer())
}

// PopFrontN removes up to n elements from the front and returns them, the first
// one first. Elements that do not decode are removed as well: the error is
// [ErrCorrupt], and the others are returned with it. O(n), LPOP.
func (l List[T]) PopFrontN(ctx context.Context, n int) ([]T, error) {
	return l.popN(ctx, "List.PopFrontN", "LPOP", n)
}

// PopBackN is PopFrontN from the back, the last element first. O(n), RPOP.
func (l List[T]) PopBackN(ctx context.Context, n int) ([]T, error) {
	return l.popN(ctx, "List.PopBackN", "RPOP", n)
}

func (l List[T]) popN(ctx context.Context, op, cmd string, n int) ([]T, error) {
	if err := l.checkCount(op, n); err != nil || n == 0 {
		return nil, err
	}
	var q query
	if err := q.begin(ctx, &l.Object, op, 0); err != nil {
		return nil, err
	}
	defer q.end()
	q.cmd(cmd).Int(int64(n))
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	r := q.p.Next()
	if q.result = hitIf(r.Kind() != driver.KindNil); q.result == LookupMiss {
		return nil, nil
	}
	e, err := r.Elems()
	popped := make([]T, 0, e.Len())
	for e.Len() > 0 {
		v, failed := l.element(e.Next())
		if failed == nil {
			popped = append(popped, v)
		} else if err == nil {
			err = failed
		}
	}
	if err != nil {
		q.result = LookupNone
		return popped, q.fail(err)
	}
	return popped, nil
}

// element decodes an element.
func (l List[T]) element(r driver.Reply) (v T, err error) {
	data, err := present(r)
	if err != nil {
		return v, err
	}
	return readValue[T](l.opts.serializer(), data)
}

// Len returns the number of elements. O(1), LLEN.
func (l List[T]) Len(ctx context.Context) (int, error) {
	return l.length(ctx, "List.Len", "LLEN")
}

// At returns the element at index i, or [ErrMiss] if there is none. O(1) near
// both ends and O(n) between them, LINDEX.
func (l List[T]) At(ctx context.Context, i int) (T, error) {
	var q query
	if err := q.beginRead(ctx, &l.Object, "List.At"); err != nil {
		var zero T
		return zero, err
	}
	defer q.end()
	q.read("LINDEX").Int(int64(i))
	return l.one(ctx, &q)
}

// Range returns the elements from index start to index stop, inclusive, as
// [SortedSet.Range] does: Range(ctx, 0, 9) returns the first ten, Range(ctx, -3,
// -1) the last three and Range(ctx, 0, -1) all. Indices beyond an end stand for
// that end. O(start + m) for m results, LRANGE.
func (l List[T]) Range(ctx context.Context, start, stop int) ([]T, error) {
	var q query
	if err := q.beginRead(ctx, &l.Object, "List.Range"); err != nil {
		return nil, err
	}
	defer q.end()
	q.read("LRANGE").Int(int64(start)).Int(int64(stop))
	return l.elements(ctx, &q)
}

// elements runs a query whose first reply is an array of elements.
func (l List[T]) elements(ctx context.Context, q *query) ([]T, error) {
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	all, err := readSlice(q.p.Next(), l.element)
	if err != nil {
		return nil, q.fail(err)
	}
	return all, nil
}

// Copy returns the whole list, which is empty if there is none. O(n), LRANGE;
// for long lists use All. With Options.Near, the slice may be a copy of one kept
// in this process.
func (l List[T]) Copy(ctx context.Context) ([]T, error) {
	if all, ok := nearHit[[]T](ctx, &l.Object, "List.Copy"); ok {
		return slices.Clone(all), nil
	}
	var q query
	if err := q.beginRead(ctx, &l.Object, "List.Copy"); err != nil {
		return nil, err
	}
	defer q.end()
	fill := q.nearFill(&l.Object)
	q.read("LRANGE").Int(0).Int(-1)
	fill.Ask(q.p)
	all, err := l.elements(ctx, &q)
	if err == nil && fill.Keeps() {
		nearPut(&fill, q.p.Next(), slices.Clone(all))
	}
	return all, err
}

// Contains reports whether an element is equal to value. O(n), LPOS.
func (l List[T]) Contains(ctx context.Context, value T) (bool, error) {
	var q query
	if err := q.beginRead(ctx, &l.Object, "List.Contains"); err != nil {
		return false, err
	}
	defer q.end()
	if err := writeValue(q.read("LPOS"), l.opts.serializer(), value); err != nil {
		return false, q.fail(err)
	}
	if err := q.run(ctx); err != nil {
		return false, err
	}
	r := q.p.Next()
	if r.Kind() == driver.KindNil {
		return false, nil
	}
	if _, err := r.Int(); err != nil {
		return false, q.fail(err)
	}
	return true, nil
}

// Remove removes all elements that are equal to one of values, and returns the
// number removed. O(n) for each value, LREM in one transaction.
func (l List[T]) Remove(ctx context.Context, values ...T) (removed int, err error) {
	return l.remove(ctx, "List.Remove", 0, values)
}

// RemoveN removes the first n elements that are equal to value, or all if there
// are fewer, and returns the number removed. O(n), LREM.
func (l List[T]) RemoveN(ctx context.Context, n int, value T) (removed int, err error) {
	const op = "List.RemoveN"
	if err := l.checkCount(op, n); err != nil || n == 0 { // 0 means all to LREM
		return 0, err
	}
	return l.remove(ctx, op, n, []T{value})
}

func (l List[T]) remove(ctx context.Context, op string, count int, values []T) (int, error) {
	if len(values) == 0 {
		return 0, nil
	}
	mode := driver.Atomic
	if len(values) == 1 {
		mode = 0
	}
	var q query
	if err := q.begin(ctx, &l.Object, op, mode); err != nil {
		return 0, err
	}
	defer q.end()
	for _, v := range values {
		if err := writeValue(q.cmd("LREM").Int(int64(count)), l.opts.serializer(), v); err != nil {
			return 0, q.fail(err)
		}
	}
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	removed := 0
	for range values {
		n, err := q.p.Next().Int()
		if err != nil {
			return 0, q.fail(err)
		}
		removed += int(n)
	}
	return removed, nil
}

// Trim removes elements at the back until at most keep are left, and returns the
// number removed. O(m) for m removed elements, LLEN and LTRIM in one
// transaction.
func (l List[T]) Trim(ctx context.Context, keep int) (removed int, err error) {
	const op = "List.Trim"
	if err := l.checkCount(op, keep); err != nil {
		return 0, err
	}
	n, err := l.shorten(ctx, op, func(q *query) { q.trim(keep) })
	return max(n-keep, 0), err
}

// KeepRange removes the elements that Range does not return, and returns the
// number removed: KeepRange(ctx, -10, -1) keeps the last ten. O(m) for m removed
// elements, LLEN and LTRIM in one transaction.
func (l List[T]) KeepRange(ctx context.Context, start, stop int) (removed int, err error) {
	n, err := l.shorten(ctx, "List.KeepRange", func(q *query) {
		q.cmd("LTRIM").Int(int64(start)).Int(int64(stop))
	})
	if start < 0 {
		start = max(start+n, 0)
	}
	if stop < 0 {
		stop += n
	}
	// Indices bounded by the list can be subtracted without an overflow.
	start, stop = min(start, n), min(max(stop, -1), n-1)
	return n - max(stop-start+1, 0), err
}

// shorten runs the command that trim appends and returns the length before it.
func (l List[T]) shorten(ctx context.Context, op string, trim func(*query)) (int, error) {
	var q query
	if err := q.begin(ctx, &l.Object, op, driver.Atomic); err != nil {
		return 0, err
	}
	defer q.end()
	q.cmd("LLEN")
	trim(&q)
	n, err := q.int(ctx)
	return int(n), err
}
