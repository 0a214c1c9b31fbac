package caches

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"time"

	"github.com/gocaches/caches/driver"
)

// Scored is a member of a sorted set with its score.
type Scored[T comparable] struct {
	Score  float64 // any number but NaN
	Member T       // unique in its sorted set
}

// A SortedSetCache describes a type of sorted sets; [SortedSetCache.Key]
// returns the sorted set at a key. It has the fields of [Options]; Serializer
// and Near are not used. Members are stored as in a [SetCache].
type SortedSetCache[T comparable] Options

// Key returns the sorted set at a key; see [Cache.Key].
func (s SortedSetCache[T]) Key(parts ...any) SortedSet[T] {
	return SortedSet[T]{(*Options)(&s).object(parts)}
}

// On returns a copy of s that uses conn; see [Cache.On].
func (s SortedSetCache[T]) On(conn *Conn) SortedSetCache[T] {
	s.conn = conn
	return s
}

// WithTTL returns a copy of s whose TTL is ttl.
func (s SortedSetCache[T]) WithTTL(ttl time.Duration) SortedSetCache[T] {
	s.TTL = ttl
	return s
}

// Clear removes every sorted set under the prefix; see [Cache.Clear].
func (s SortedSetCache[T]) Clear(ctx context.Context) (int, error) {
	return (*Options)(&s).clear(ctx, "SortedSetCache.Clear")
}

// A SortedSet refers to one sorted set, a Redis sorted set of members of type
// T, ordered by score and then by the bytes of the member. [SortedSetCache.Key]
// returns it. The TTL applies to the whole sorted set. An empty sorted set does
// not exist.
//
// Scores are float64: integers are exact up to 2^53, infinities are allowed,
// NaN is an error, and negative zero is stored as zero.
type SortedSet[T comparable] struct{ Object }

// Key returns the sorted set at the key of s followed by parts; see
// [Cache.Key].
func (s SortedSet[T]) Key(parts ...any) SortedSet[T] { return SortedSet[T]{s.below(parts)} }

// On returns a copy of s that uses conn; see [Cache.On].
func (s SortedSet[T]) On(conn *Conn) SortedSet[T] { return SortedSet[T]{s.on(conn)} }

// WithTTL returns a copy of s whose TTL is ttl instead of the type's.
func (s SortedSet[T]) WithTTL(ttl time.Duration) SortedSet[T] { return SortedSet[T]{s.withTTL(ttl)} }

// A Condition restricts the changes that [SortedSet.AddIf] makes.
type Condition uint8

// Conditions may be combined with |, but IfNew must be alone, and IfGreater
// and IfLess exclude each other.
const (
	IfNew      Condition = 1 << iota // add new members; keep existing scores
	IfExisting                       // set the scores of existing members; add none
	IfGreater                        // replace a score only with a greater one; add new members
	IfLess                           // replace a score only with a lesser one; add new members
)

func (c Condition) write(p *driver.Pipeline) error {
	switch {
	case c&IfNew != 0 && c != IfNew, c&IfGreater != 0 && c&IfLess != 0:
		return fmt.Errorf("caches: IfNew cannot be combined with other conditions, nor IfGreater with IfLess")
	case c > IfNew|IfExisting|IfGreater|IfLess:
		return fmt.Errorf("caches: %d is not a Condition", c)
	}
	for i, flag := range [...]string{"NX", "XX", "GT", "LT"} {
		if c&(1<<i) != 0 {
			p.String(flag)
		}
	}
	return nil
}

// Add adds members, or sets the scores of existing ones, and returns how many
// were new. O(len(items) log n), ZADD and PEXPIRE in one step.
func (s SortedSet[T]) Add(ctx context.Context, items ...Scored[T]) (added int, err error) {
	return s.zadd(ctx, "SortedSet.Add", items, nil)
}

// AddIf adds members and sets scores as condition allows, and returns how many
// members were added or got another score. O(len(items) log n), ZADD CH with
// NX, XX, GT or LT, and PEXPIRE in one step.
func (s SortedSet[T]) AddIf(ctx context.Context, condition Condition, items ...Scored[T]) (changed int, err error) {
	return s.zadd(ctx, "SortedSet.AddIf", items, func(p *driver.Pipeline) error {
		err := condition.write(p)
		p.String("CH")
		return err
	})
}

// Update adds all members of items, such as the Copy of another sorted set, or
// sets their scores; see Add.
func (s SortedSet[T]) Update(ctx context.Context, items map[T]float64) (added int, err error) {
	all := make([]Scored[T], 0, len(items))
	for member, score := range items {
		all = append(all, Scored[T]{score, member})
	}
	return s.zadd(ctx, "SortedSet.Update", all, nil)
}

// zadd runs ZADD with items; flags writes the options before them.
func (s SortedSet[T]) zadd(ctx context.Context, op string, items []Scored[T], flags func(*driver.Pipeline) error) (int, error) {
	if len(items) == 0 {
		return 0, nil
	}
	var q query
	if err := q.begin(ctx, &s.Object, op, 0); err != nil {
		return 0, err
	}
	defer q.end()
	p := q.writeMany(sortedSetType, "ZADD", 5+2*len(items))
	if flags != nil {
		if err := flags(p); err != nil {
			return 0, q.fail(err)
		}
	}
	for _, item := range items {
		if err := writeScore(p, item.Score); err != nil {
			return 0, q.fail(err)
		}
		if err := writeMember(p, item.Member); err != nil {
			return 0, q.fail(err)
		}
	}
	n, err := q.int(ctx)
	return int(n), err
}

func writeScore(p *driver.Pipeline, score float64) error {
	if math.IsNaN(score) {
		return fmt.Errorf("%w: NaN is not a score", ErrNotNumber)
	}
	p.Float(score)
	return nil
}

// Incr adds delta to the score of member and returns the result. A missing
// member counts from zero. O(log n), ZINCRBY and PEXPIRE in one step.
func (s SortedSet[T]) Incr(ctx context.Context, member T, delta float64) (float64, error) {
	var q query
	err := q.begin(ctx, &s.Object, "SortedSet.Incr", 0)
	if err != nil {
		return 0, err
	}
	defer q.end()
	p := q.write("ZINCRBY")
	if err = writeScore(p, delta); err == nil {
		err = writeMember(p, member)
	}
	if err != nil {
		return 0, q.fail(err)
	}
	return q.score(ctx)
}

// score runs a query whose first reply is a score. Only a look-up can miss.
func (q *query) score(ctx context.Context) (float64, error) {
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	score, ok, err := q.p.Next().Float()
	switch {
	case err != nil:
	case !ok && q.looks:
		err = ErrMiss
	case !ok:
		err = errNil
	default:
		err = q.rest()
	}
	if err != nil {
		return 0, q.fail(err)
	}
	return score + 0, nil // negative zero becomes zero
}

// Score returns the score of member, or [ErrMiss]. O(1), ZSCORE.
func (s SortedSet[T]) Score(ctx context.Context, member T) (float64, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, "SortedSet.Score"); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeMember(q.read("ZSCORE"), member); err != nil {
		return 0, q.fail(err)
	}
	q.looks = true
	return q.score(ctx)
}

// Contains reports whether member is in the sorted set. O(1), ZSCORE.
func (s SortedSet[T]) Contains(ctx context.Context, member T) (bool, error) {
	switch _, err := s.Score(ctx, member); {
	case errors.Is(err, ErrMiss):
		return false, nil
	default:
		return err == nil, err
	}
}

// Rank returns the rank of member, counted from 0 at the lowest score, or
// [ErrMiss]. O(log n), ZRANK.
func (s SortedSet[T]) Rank(ctx context.Context, member T) (int, error) {
	return s.rank(ctx, "SortedSet.Rank", "ZRANK", member)
}

// RevRank is Rank counted from the highest score. O(log n), ZREVRANK.
func (s SortedSet[T]) RevRank(ctx context.Context, member T) (int, error) {
	return s.rank(ctx, "SortedSet.RevRank", "ZREVRANK", member)
}

func (s SortedSet[T]) rank(ctx context.Context, op, cmd string, member T) (int, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, op); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeMember(q.read(cmd), member); err != nil {
		return 0, q.fail(err)
	}
	q.looks = true
	if err := q.run(ctx); err != nil {
		return 0, err
	}
	r := q.p.Next()
	if r.Kind() == driver.KindNil {
		return 0, q.fail(ErrMiss)
	}
	n, err := r.Int()
	if err != nil {
		return 0, q.fail(err)
	}
	return int(n), nil
}

// Len returns the number of members. O(1), ZCARD.
func (s SortedSet[T]) Len(ctx context.Context) (int, error) {
	return s.length(ctx, "SortedSet.Len", "ZCARD")
}

// Count returns the number of members with scores from min to max, inclusive.
// An infinity leaves its side open. O(log n), ZCOUNT.
func (s SortedSet[T]) Count(ctx context.Context, min, max float64) (int, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, "SortedSet.Count"); err != nil {
		return 0, err
	}
	defer q.end()
	if err := writeScores(q.read("ZCOUNT"), min, max); err != nil {
		return 0, q.fail(err)
	}
	n, err := q.int(ctx)
	return int(n), err
}

func writeScores(p *driver.Pipeline, first, second float64) error {
	if err := writeScore(p, first); err != nil {
		return err
	}
	return writeScore(p, second)
}

// Range returns the members with ranks from start to stop, inclusive, lowest
// score first. Negative ranks count from the end: Range(ctx, 0, -1) returns all
// members, Range(ctx, -3, -1) the three highest. O(log n + m) for m results,
// ZRANGE.
func (s SortedSet[T]) Range(ctx context.Context, start, stop int) ([]Scored[T], error) {
	return s.zrange(ctx, "SortedSet.Range", func(p *driver.Pipeline) error {
		p.Int(int64(start)).Int(int64(stop))
		return nil
	})
}

// RevRange is Range with the highest score first: RevRange(ctx, 0, 9) returns
// the top ten. O(log n + m), ZRANGE REV.
func (s SortedSet[T]) RevRange(ctx context.Context, start, stop int) ([]Scored[T], error) {
	return s.zrange(ctx, "SortedSet.RevRange", func(p *driver.Pipeline) error {
		p.Int(int64(start)).Int(int64(stop)).String("REV")
		return nil
	})
}

// RangeByScore returns the members with scores from min to max, inclusive,
// lowest score first. An infinity leaves its side open. O(log n + m), ZRANGE
// BYSCORE.
func (s SortedSet[T]) RangeByScore(ctx context.Context, min, max float64) ([]Scored[T], error) {
	return s.zrange(ctx, "SortedSet.RangeByScore", func(p *driver.Pipeline) error {
		err := writeScores(p, min, max)
		p.String("BYSCORE")
		return err
	})
}

// RevRangeByScore is RangeByScore with the highest score first. O(log n + m),
// ZRANGE BYSCORE REV.
func (s SortedSet[T]) RevRangeByScore(ctx context.Context, min, max float64) ([]Scored[T], error) {
	return s.zrange(ctx, "SortedSet.RevRangeByScore", func(p *driver.Pipeline) error {
		err := writeScores(p, max, min) // REV takes the upper bound first
		p.String("BYSCORE").String("REV")
		return err
	})
}

func (s SortedSet[T]) zrange(ctx context.Context, op string, bounds func(*driver.Pipeline) error) ([]Scored[T], error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, op); err != nil {
		return nil, err
	}
	defer q.end()
	p := q.read("ZRANGE")
	if err := bounds(p); err != nil {
		return nil, q.fail(err)
	}
	p.String("WITHSCORES")
	return runScored[T](ctx, &q)
}

// runScored runs a query whose first reply is an array of members and scores.
func runScored[T comparable](ctx context.Context, q *query) ([]Scored[T], error) {
	if err := q.run(ctx); err != nil {
		return nil, err
	}
	items, err := readScored[T](q.p.Next())
	if err != nil {
		return nil, q.fail(err)
	}
	return items, nil
}

func readScored[T comparable](r driver.Reply) ([]Scored[T], error) {
	e, err := r.Elems()
	if err != nil {
		return nil, err
	}
	items := make([]Scored[T], 0, e.Len()/2)
	for e.Len() > 0 {
		item, err := nextScored[T](&e)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func nextScored[T comparable](e *driver.Elems) (item Scored[T], err error) {
	if item.Member, err = readMember[T](e.Next()); err != nil {
		return item, err
	}
	score, ok, err := e.Next().Float()
	if err == nil && !ok {
		err = errNil
	}
	item.Score = score + 0 // negative zero becomes zero
	return item, err
}

// PopMin removes the member with the lowest score and returns it, or [ErrMiss].
// O(log n), ZPOPMIN.
func (s SortedSet[T]) PopMin(ctx context.Context) (Scored[T], error) {
	return first(s.pop(ctx, "SortedSet.PopMin", "ZPOPMIN", 1))
}

// PopMax removes the member with the highest score and returns it, or
// [ErrMiss]. O(log n), ZPOPMAX.
func (s SortedSet[T]) PopMax(ctx context.Context) (Scored[T], error) {
	return first(s.pop(ctx, "SortedSet.PopMax", "ZPOPMAX", 1))
}

// PopMinN removes up to n members with the lowest scores and returns them,
// lowest first. O(n log n), ZPOPMIN.
func (s SortedSet[T]) PopMinN(ctx context.Context, n int) ([]Scored[T], error) {
	items, _, err := s.pop(ctx, "SortedSet.PopMinN", "ZPOPMIN", n)
	return items, err
}

// PopMaxN removes up to n members with the highest scores and returns them,
// highest first. O(n log n), ZPOPMAX.
func (s SortedSet[T]) PopMaxN(ctx context.Context, n int) ([]Scored[T], error) {
	items, _, err := s.pop(ctx, "SortedSet.PopMaxN", "ZPOPMAX", n)
	return items, err
}

// pop returns the members it popped, and the error to return if there are none.
func (s SortedSet[T]) pop(ctx context.Context, op, cmd string, n int) (items []Scored[T], miss, err error) {
	if err := s.checkCount(op, n); err != nil || n == 0 {
		return nil, nil, err
	}
	var q query
	if err := q.begin(ctx, &s.Object, op, 0); err != nil {
		return nil, nil, err
	}
	defer q.end()
	q.cmd(cmd).Int(int64(n))
	items, err = runScored[T](ctx, &q)
	if err == nil {
		q.result = hitIf(len(items) > 0)
	}
	return items, &OpError{Op: op, Key: q.front + q.key, Err: ErrMiss}, err
}

// first returns the only item of a pop, or miss if there is none.
func first[T comparable](items []Scored[T], miss, err error) (Scored[T], error) {
	switch {
	case err != nil:
		return Scored[T]{}, err
	case len(items) == 0:
		return Scored[T]{}, miss
	}
	return items[0], nil
}

// Remove removes members and returns the number removed. O(len(members) log n),
// ZREM.
func (s SortedSet[T]) Remove(ctx context.Context, members ...T) (removed int, err error) {
	return removeMembers(ctx, s.Object, "SortedSet.Remove", "ZREM", members)
}

// RemoveRange removes the members that Range returns, and returns the number
// removed. O(log n + m), ZREMRANGEBYRANK.
func (s SortedSet[T]) RemoveRange(ctx context.Context, start, stop int) (removed int, err error) {
	return s.removeRange(ctx, "SortedSet.RemoveRange", "ZREMRANGEBYRANK", func(p *driver.Pipeline) error {
		p.Int(int64(start)).Int(int64(stop))
		return nil
	})
}

// RemoveRangeByScore removes the members that RangeByScore returns, and returns
// the number removed. O(log n + m), ZREMRANGEBYSCORE.
func (s SortedSet[T]) RemoveRangeByScore(ctx context.Context, min, max float64) (removed int, err error) {
	return s.removeRange(ctx, "SortedSet.RemoveRangeByScore", "ZREMRANGEBYSCORE", func(p *driver.Pipeline) error {
		return writeScores(p, min, max)
	})
}

// Trim removes the members with the lowest scores until at most keep are left,
// and returns the number removed. O(log n + m), ZREMRANGEBYRANK.
func (s SortedSet[T]) Trim(ctx context.Context, keep int) (removed int, err error) {
	if err := s.checkCount("SortedSet.Trim", keep); err != nil {
		return 0, err
	}
	return s.removeRange(ctx, "SortedSet.Trim", "ZREMRANGEBYRANK", func(p *driver.Pipeline) error {
		p.Int(0).Int(int64(-keep) - 1)
		return nil
	})
}

func (s SortedSet[T]) removeRange(ctx context.Context, op, cmd string, bounds func(*driver.Pipeline) error) (int, error) {
	var q query
	if err := q.begin(ctx, &s.Object, op, 0); err != nil {
		return 0, err
	}
	defer q.end()
	if err := bounds(q.cmd(cmd)); err != nil {
		return 0, q.fail(err)
	}
	n, err := q.int(ctx)
	return int(n), err
}

// Copy returns all members with their scores. O(n), ZRANGE. For large sorted
// sets use All, for the order use Range.
func (s SortedSet[T]) Copy(ctx context.Context) (map[T]float64, error) {
	items, err := s.zrange(ctx, "SortedSet.Copy", func(p *driver.Pipeline) error {
		p.Int(0).Int(-1)
		return nil
	})
	all := make(map[T]float64, len(items))
	for _, item := range items {
		all[item.Member] = item.Score
	}
	return all, err
}

// All returns an iterator over the members and their scores, lowest score
// first, and a function that returns, after the loop, the error that stopped
// it, if any. The iterator reads a page per round trip. Each page starts after
// the last member seen, so members that are added or removed meanwhile do not
// hide others. A member whose score changes may be seen twice or not at all.
// O(log n) per page, ZRANGE.
func (s SortedSet[T]) All(ctx context.Context) (iter.Seq2[T, float64], func() error) {
	return s.walk(ctx, zwalk{op: "SortedSet.All"})
}

// Backward is All with the highest score first.
func (s SortedSet[T]) Backward(ctx context.Context) (iter.Seq2[T, float64], func() error) {
	return s.walk(ctx, zwalk{op: "SortedSet.Backward", rev: true})
}

// Chunk is like All but iterates over up to limit members from rank offset on,
// in slices of size members; the last slice may be shorter. A limit of zero
// means all remaining members, a size of zero means 250. The slices belong to
// the caller.
func (s SortedSet[T]) Chunk(ctx context.Context, limit, offset, size int) (iter.Seq[[]Scored[T]], func() error) {
	w := zwalk{op: "SortedSet.Chunk", limit: limit, offset: offset, size: size}
	var failed error
	chunks := func(yield func([]Scored[T]) bool) {
		if failed = s.checkCount(w.op, min(limit, offset, size)); failed != nil {
			return
		}
		w.size = cmp.Or(size, pageSize)
		var rest []Scored[T]
		more := true
		failed = s.pages(ctx, w, func(items []Scored[T]) bool {
			for rest = append(rest, items...); more && len(rest) >= w.size; rest = rest[w.size:] {
				more = yield(rest[:w.size:w.size])
			}
			return more
		})
		if more && len(rest) > 0 {
			yield(rest)
		}
	}
	return chunks, func() error { return failed }
}

// A zwalk describes one iteration over a sorted set.
type zwalk struct {
	op     string
	rev    bool
	offset int // rank of the first member
	limit  int // members in all; 0 for no limit
	size   int // of the slices of Chunk; a page has pageSize to chunk members
}

// A place is the end of a page: its last member, as stored. Paging by rank
// would miss members while others are popped; paging after a member does not.
type place struct {
	score  float64
	member []byte
}

func (s SortedSet[T]) walk(ctx context.Context, w zwalk) (iter.Seq2[T, float64], func() error) {
	var failed error
	all := func(yield func(T, float64) bool) {
		failed = s.pages(ctx, w, func(items []Scored[T]) bool {
			for _, item := range items {
				if !yield(item.Member, item.Score) {
					return false
				}
			}
			return true
		})
	}
	return all, func() error { return failed }
}

// pages passes one page after another to visit until it returns false.
func (s SortedSet[T]) pages(ctx context.Context, w zwalk, visit func([]Scored[T]) bool) error {
	left := cmp.Or(w.limit, math.MaxInt)
	var at *place
	for left > 0 {
		n := min(max(w.size, pageSize), left, chunk)
		items, last, err := s.page(ctx, w, at, n)
		if err != nil {
			return err
		}
		if len(items) > 0 && !visit(items) || last == nil {
			return nil
		}
		left -= len(items)
		at = last
	}
	return nil
}

// page returns up to n members after at, and the place of the last one, or nil
// at the end of the sorted set.
func (s SortedSet[T]) page(ctx context.Context, w zwalk, at *place, n int) ([]Scored[T], *place, error) {
	var q query
	if err := q.beginRead(ctx, &s.Object, w.op); err != nil {
		return nil, nil, err
	}
	defer q.end()
	if at == nil {
		p := q.read("ZRANGE").Int(int64(w.offset)).Int(int64(w.offset) + int64(n) - 1)
		w.write(p)
		p.String("WITHSCORES")
	} else {
		q.p.Script(rangeBehind, 1).Key(q.front, q.key).Bytes(at.member).Float(at.score).Int(int64(n))
		if q.slide {
			q.p.Int(q.ms)
		} else {
			q.p.Int(0)
		}
		w.write(q.p)
	}
	if err := q.run(ctx); err != nil {
		return nil, nil, err
	}
	r := q.p.Next()
	if r.Kind() == driver.KindNil {
		return s.pageByScore(ctx, w, at, n)
	}
	items, last, err := readPage[T](r, n)
	if err != nil {
		return nil, nil, q.fail(err)
	}
	return items, last, nil
}

func (w zwalk) write(p *driver.Pipeline) {
	if w.rev {
		p.String("REV")
	}
}

// readPage decodes a page of up to n members. A page that is not full is the
// last one.
func readPage[T comparable](r driver.Reply, n int) (items []Scored[T], last *place, err error) {
	if items, err = readScored[T](r); err != nil || len(items) < n {
		return items, nil, err
	}
	e, _ := r.Elems()
	for e.Len() > 2 {
		e.Next()
	}
	member, _, _ := e.Next().Bytes()
	return items, &place{items[len(items)-1].Score, bytes.Clone(member)}, nil
}

// rangeBehind returns the members ranked after a given member, or nil if the
// member is gone or its score has changed. ARGV: member, score, count, the TTL
// in milliseconds that the read restarts or 0, REV or nothing.
var rangeBehind = driver.NewScript(`
local rank
if ARGV[5] then
	rank = redis.call('ZREVRANK', KEYS[1], ARGV[1])
else
	rank = redis.call('ZRANK', KEYS[1], ARGV[1])
end
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
if not rank or tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) ~= tonumber(ARGV[2]) then
	return false
end
if ARGV[5] then
	return redis.call('ZRANGE', KEYS[1], rank + 1, rank + ARGV[3], 'REV', 'WITHSCORES')
end
return redis.call('ZRANGE', KEYS[1], rank + 1, rank + ARGV[3], 'WITHSCORES')
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	member, rev := args[0], args[4:]
	want, _ := strconv.ParseFloat(string(args[1]), 64)
	count, _ := strconv.ParseInt(string(args[2]), 10, 64)
	score, ok, err := tx.Call("ZSCORE", keys[0], member).Float()
	if err != nil {
		replyError(reply, err)
		return
	}
	if string(args[3]) != "0" {
		tx.Call("PEXPIRE", keys[0], args[3])
	}
	if !ok || score != want {
		reply.Nil()
		return
	}
	cmd := "ZRANK"
	if len(rev) > 0 {
		cmd = "ZREVRANK"
	}
	rank, _ := tx.Call(cmd, keys[0], member).Int()
	bounds := [][]byte{keys[0], strconv.AppendInt(nil, rank+1, 10), strconv.AppendInt(nil, rank+count, 10)}
	r := tx.Call("ZRANGE", append(append(bounds, rev...), []byte("WITHSCORES"))...)
	passOn(reply, r)
})

// pageByScore finds the next page if the member at a place is gone or its score
// has changed. It reads from that score on and drops the members up to the
// place. Each read is one snapshot. If all members read are dropped, as with
// many of one score, it reads twice as many.
func (s SortedSet[T]) pageByScore(ctx context.Context, w zwalk, at *place, n int) ([]Scored[T], *place, error) {
	for count := n; ; count *= 2 {
		var q query
		if err := q.begin(ctx, &s.Object, w.op, driver.ReadOnly); err != nil {
			return nil, nil, err
		}
		items, last, full, err := readBehind[T](ctx, &q, w, at, n, count)
		q.end()
		if err != nil || len(items) > 0 || !full {
			return items, last, err
		}
	}
}

// readBehind reads count members from the score of at on, and returns the first
// n that come after at. full reports whether there may be more.
func readBehind[T comparable](ctx context.Context, q *query, w zwalk, at *place, n, count int) (items []Scored[T], last *place, full bool, err error) {
	p := q.cmd("ZRANGE").Float(at.score)
	if w.rev {
		p.String("-inf").String("BYSCORE").String("REV")
	} else {
		p.String("inf").String("BYSCORE")
	}
	p.String("LIMIT").Int(0).Int(int64(count)).String("WITHSCORES")
	if err := q.run(ctx); err != nil {
		return nil, nil, false, err
	}
	e, err := q.p.Next().Elems()
	full = e.Len()/2 == count
	for err == nil && e.Len() > 0 && len(items) < n {
		ahead := e // a copy, to read the member's bytes before it is decoded
		member, _, _ := ahead.Next().Bytes()
		var item Scored[T]
		if item, err = nextScored[T](&e); err == nil && at.before(w, item.Score, member) {
			items = append(items, item)
			last = &place{item.Score, bytes.Clone(member)}
		}
	}
	if err != nil {
		return nil, nil, false, q.fail(err)
	}
	if !full && e.Len() == 0 {
		last = nil // no member is left after it
	}
	return items, last, full, nil
}

// before reports whether a member with the given score comes after at.
func (at *place) before(w zwalk, score float64, member []byte) bool {
	if score != at.score {
		return true
	}
	order := bytes.Compare(member, at.member)
	if w.rev {
		return order < 0
	}
	return order > 0
}
