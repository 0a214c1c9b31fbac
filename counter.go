package caches

import (
	"context"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/text"
)

// Number is a constraint that permits the number types of a [CounterCache].
type Number interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 |
		~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 |
		~float32 | ~float64
}

// A CounterCache describes a type of counters; [CounterCache.Key] returns the
// counter at a key. It has the fields of [Options]; Serializer is not used.
type CounterCache[N Number] Options

// Key returns the counter at a key; see [Cache.Key].
func (c CounterCache[N]) Key(parts ...any) Counter[N] {
	return Counter[N]{(*Options)(&c).object(parts)}
}

// On returns a copy of c that uses conn; see [Cache.On].
func (c CounterCache[N]) On(conn *Conn) CounterCache[N] {
	c.conn = conn
	return c
}

// WithTTL returns a copy of c whose TTL is ttl.
func (c CounterCache[N]) WithTTL(ttl time.Duration) CounterCache[N] {
	c.TTL = ttl
	return c
}

// Clear removes every counter under the prefix; see [Cache.Clear].
func (c CounterCache[N]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&c).clear(ctx, "CounterCache.Clear")
}

// A Counter refers to one counter, a number in a Redis string.
// [CounterCache.Key] returns it. The server does the counting, so no increment
// is lost. The number is stored as plain decimal text, which redis-cli and
// other languages can read.
//
// The server keeps integers as int64 and floats as long double with 17 digits
// after the decimal point. A number that int64 or N cannot hold is
// [ErrOverflow]. An increment counts even if N cannot hold its result.
type Counter[N Number] struct{ Object }

// Key returns the counter at the key of c followed by parts; see [Cache.Key].
func (c Counter[N]) Key(parts ...any) Counter[N] { return Counter[N]{c.below(parts)} }

// On returns a copy of c that uses conn; see [Cache.On].
func (c Counter[N]) On(conn *Conn) Counter[N] { return Counter[N]{c.on(conn)} }

// WithTTL returns a copy of c whose TTL is ttl instead of the type's.
func (c Counter[N]) WithTTL(ttl time.Duration) Counter[N] { return Counter[N]{c.withTTL(ttl)} }

// Cache returns a type of plain values at the keys of the counters, for
// [GetMany], [SetMany], [DeleteMany] and [Cached].
func (c CounterCache[N]) Cache() Cache[N] {
	c.Serializer = numberText[N]()
	return Cache[N](c)
}

// value returns the counter as a plain value.
func (c Counter[N]) value() Value[N] {
	c.opts.Serializer = numberText[N]()
	return Value[N](c)
}

// numberText returns the serializer for counters of N.
func numberText[N Number]() Serializer {
	if zero := N(0); zero-1 > zero {
		return unsignedText{Raw}
	}
	return Raw
}

// unsignedText is Raw for unsigned counters. It rejects numbers beyond int64,
// because the server could not add to them.
type unsignedText struct{ format }

func (s unsignedText) Marshal(v any) ([]byte, error) {
	if n := reflect.ValueOf(v); n.CanUint() && n.Uint() > math.MaxInt64 {
		return nil, text.ErrInt64
	}
	return s.format.Marshal(v)
}

// Incr adds delta, which may be negative, and returns the result. A missing
// counter counts from zero. If the key does not hold a number, the error is
// [ErrNotNumber]. O(1), INCRBY or INCRBYFLOAT, with PEXPIRE in one step.
func (c Counter[N]) Incr(ctx context.Context, delta N) (N, error) {
	var q query
	if err := q.begin(ctx, &c.Object, "Counter.Incr", 0); err != nil {
		return 0, err
	}
	defer q.end()
	return incr(ctx, &q, delta, 1)
}

// Decr subtracts delta and returns the result; see Incr.
func (c Counter[N]) Decr(ctx context.Context, delta N) (N, error) {
	var q query
	if err := q.begin(ctx, &c.Object, "Counter.Decr", 0); err != nil {
		return 0, err
	}
	defer q.end()
	return incr(ctx, &q, delta, -1)
}

func incr[N Number](ctx context.Context, q *query, delta N, sign int64) (N, error) {
	step, float, err := text.Step(delta, sign)
	if err != nil {
		return 0, q.fail(err)
	}
	if float {
		q.write("INCRBYFLOAT").Bytes(step)
	} else {
		q.write("INCRBY").Bytes(step)
	}
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	return readNumber[N](q)
}

// readNumber decodes the reply to an increment and checks the other replies.
func readNumber[N any](q *query) (N, error) {
	n, err := parseNumber[N](q.p.Next())
	if err == nil {
		err = q.rest()
	}
	if err != nil {
		var zero N
		return zero, q.fail(err)
	}
	return n, nil
}

// Get returns the count, or [ErrMiss]; see [Value.Get]. O(1), GET.
func (c Counter[N]) Get(ctx context.Context) (N, error) {
	return c.value().Get(ctx)
}

// GetOr is like Get but returns def instead of [ErrMiss].
func (c Counter[N]) GetOr(ctx context.Context, def N) (N, error) {
	return c.value().GetOr(ctx, def)
}

// GetOrSet returns the count. If there is none, it stores and returns the
// result of load; see [Value.GetOrSet].
func (c Counter[N]) GetOrSet(ctx context.Context, load func(context.Context) (N, error)) (N, error) {
	return c.value().GetOrSet(ctx, load)
}

// Set stores n. O(1), SET.
func (c Counter[N]) Set(ctx context.Context, n N) error { return c.value().Set(ctx, n) }

// Add stores n if there is no count, and reports whether it did. O(1), SET NX.
func (c Counter[N]) Add(ctx context.Context, n N) (added bool, err error) {
	return c.value().Add(ctx, n)
}

// Replace stores n if there is a count, and reports whether it did. O(1),
// SET XX.
func (c Counter[N]) Replace(ctx context.Context, n N) (replaced bool, err error) {
	return c.value().Replace(ctx, n)
}

// Swap stores n and returns the previous count; loaded reports whether there
// was one. O(1), SET GET.
func (c Counter[N]) Swap(ctx context.Context, n N) (previous N, loaded bool, err error) {
	return c.value().Swap(ctx, n)
}

// Pop removes the counter and returns its count, or [ErrMiss]. O(1), GETDEL.
func (c Counter[N]) Pop(ctx context.Context) (N, error) { return c.value().Pop(ctx) }

// parseNumber decodes the reply to an increment.
func parseNumber[N any](r driver.Reply) (n N, err error) {
	var buf [20]byte
	number := buf[:0]
	if r.Kind() == driver.KindInt {
		var i int64
		i, err = r.Int()
		number = strconv.AppendInt(number, i, 10)
	} else {
		number, err = present(r)
	}
	if err != nil {
		return n, err
	}
	return n, text.Parse(number, &n)
}
