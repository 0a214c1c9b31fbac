package caches

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
)

// UnsafeClear removes all keys that match a pattern, on all shards at once, and
// returns how many it removed (SCAN with MATCH, then UNLINK, page by page). The
// pattern must match the full key, including the prefix and version of the
// connection. It is a glob with * ? [a-z], and \ to escape a character. The
// pattern "*" matches every key, including keys of other programs.
//
// UnsafeClear visits every key of the database, O(n), in pages of a thousand.
// The connection's timeout applies to each page. Keys written meanwhile may be
// missed. If it fails, it returns the number of keys removed so far.
func (c *Conn) UnsafeClear(ctx context.Context, pattern string) (removed int, err error) {
	if pattern == "" {
		return 0, errors.New(`caches: UnsafeClear: the pattern is empty: write "*" for every key`)
	}
	defer c.near.Flush()
	var count atomic.Int64
	err = c.everyServer(ctx, func(s shard) error {
		n, err := s.clear(ctx, pattern)
		count.Add(int64(n))
		return err
	})
	return int(count.Load()), err
}

// clear is UnsafeClear on one shard. Each round trip unlinks one page and
// reads the next.
func (s shard) clear(ctx context.Context, pattern string) (removed int, err error) {
	p, next := driver.NewPipeline(driver.ReadOnly), driver.NewPipeline(0)
	defer func() { p.Free(); next.Free() }()
	scanKeys(p, []byte{'0'}, pattern)
	for p.Len() > 0 {
		if err := s.store.Do(ctx, p); err != nil {
			return removed, err
		}
		n, err := turnPage(p, next, pattern)
		removed += n
		if err != nil {
			return removed, err
		}
		p, next = next, p // the commands of next are copies: p can be reused
	}
	return removed, nil
}

func scanKeys(p *driver.Pipeline, cursor []byte, pattern string) {
	p.Cmd("SCAN").Bytes(cursor).String("MATCH").String(pattern).String("COUNT").Int(1000)
}

// turnPage reads the replies of one round trip, the number of unlinked keys and
// a page of keys, and writes the next round trip. After the last, next is
// empty.
func turnPage(p, next *driver.Pipeline, pattern string) (removed int, err error) {
	next.Reset(0)
	if string(p.Command(0).Args[0]) == "UNLINK" {
		n, err := p.Next().Int()
		if err != nil || p.Len() == 1 {
			return int(n), err
		}
		removed = int(n)
	}
	page, err := p.Next().Elems()
	if err != nil {
		return removed, err
	}
	cursor, _, err := page.Next().Bytes()
	if err != nil {
		return removed, err
	}
	keys, err := page.Next().Elems()
	if err != nil {
		return removed, err
	}
	if keys.Len() > 0 {
		next.Cmd("UNLINK")
	}
	for keys.Len() > 0 {
		key, _, err := keys.Next().Bytes()
		if err != nil {
			return removed, err
		}
		next.Bytes(key)
	}
	if string(cursor) != "0" {
		scanKeys(next, cursor, pattern)
	}
	return removed, nil
}

// clear removes every object under the prefix on all shards, and the object
// whose key is the prefix itself. It implements the Clear method of every type.
func (o *Options) clear(ctx context.Context, op string) (int, error) {
	q := query{target: target{op: op}}
	if o.err == nil && o.Prefix == "" {
		return 0, q.fail(errors.New("caches: a type without a Prefix has no objects of its own to clear: use Conn.UnsafeClear"))
	}
	if err := q.aimAt(ctx, o, op); err != nil {
		return 0, err
	}
	q.key = o.Prefix
	q.shard = q.conn.shardOf(q.front, q.key)
	n, err := q.conn.UnsafeClear(ctx, layout.Glob(q.front+q.key)+".*")
	if err != nil {
		return n, q.fail(err)
	}
	q.p = driver.NewPipeline(0)
	defer q.end()
	q.cmd("UNLINK")
	one, err := q.int(ctx)
	return n + int(one), err
}
