package caches

import (
	"context"
	"errors"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/trip"
)

// A lease is one computation's claim of an entry, over all processes. Its key holds
// the token of the computation and doubles as a fence: an invalidation of the entry
// removes the key, and a result is stored only while its token is still there.
//
// Other processes wait on a list of that token. They mark the lease, and at the end
// the computation pushes one word to the list. Each waiter takes the word and puts
// it back (BLMOVE onto itself), so one push wakes all, and a late waiter still
// finds the word.
type lease struct {
	s     *subject
	token string
	own   bool          // claimed by this computation, not shared with another
	life  time.Duration // what is left unless it is renewed
}

// A claimRequest says how to claim an entry.
type claimRequest struct {
	way   claimWay
	token string        // the new claim's
	lost  string        // that of an earlier claim whose reply was lost, or empty
	seen  string        // the ID of the entry that the caller saw
	life  time.Duration // of the claim
}

// A claimWay says what becomes of the lease of another computation.
type claimWay string

const (
	claimOrWait  claimWay = "w" // it is marked as waited for
	claimOrShare claimWay = "s" // its fence is shared
	claimAlone   claimWay = "t" // it is taken over
)

// An ending is the mode in which a computation ends.
type ending string

const (
	keepEntry   ending = "keep"
	removeEntry ending = "remove"
	leaveEntry  ending = "leave" // there is no result to store
	cedeEntry   ending = "cede"  // it was interrupted: another may succeed
)

// The words for waiters.
const (
	wordStored = "s" // the result is stored
	wordLost   = "l" // no result was stored, but another may be
	wordFailed = "f" // waiting gives no result
)

// waitPause is the interval at which callers without a connection to wait on look
// at the entry.
const waitPause = 50 * time.Millisecond

// wakeLife is the life of a word, for waiters that have seen the lease and have not
// reached the list yet.
const wakeLife = 10 * time.Second

// claim atomically reads the entry and tries to take its lease. If there is an
// entry other than the one that the caller saw (ARGV[4], its first bytes), it takes
// nothing, except in mode claimAlone. KEYS: the lease, the entry. ARGV: the token,
// its life in milliseconds, the way, the entry seen, and the token of a lost claim,
// or empty. It returns the current token, or an empty one, its remaining life, the
// entry, and the remaining life of the entry.
var claim = driver.NewScript(`
local entry = redis.pcall('GET', KEYS[2])
if type(entry) == 'table' then entry = false end
if ARGV[3] ~= 't' and entry and string.sub(entry, 1, 12) ~= ARGV[4] then
	return {'', 0, entry, redis.call('PTTL', KEYS[2])}
end
local lease = redis.call('GET', KEYS[1])
local token = lease and string.sub(lease, 1, 34)
if not lease or ARGV[3] == 't' and token ~= ARGV[1] or token == ARGV[5] or ARGV[3] == 'w' and string.sub(lease, 1, 2) == 'p:' then
	redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
	token = ARGV[1]
elseif ARGV[3] == 'w' and token ~= ARGV[1] and #lease == 34 then
	redis.call('SET', KEYS[1], token .. '+', 'KEEPTTL')
end
return {token, redis.call('PTTL', KEYS[1]), entry, redis.call('PTTL', KEYS[2])}
`, claimLocally)

func claimLocally(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	stored, there, _ := tx.Call("GET", keys[1]).Bytes()
	entry := append([]byte{}, stored...)
	left, _ := tx.Call("PTTL", keys[1]).Int()
	token, life := "", int64(0)
	if !there || claimWay(args[2]) == claimAlone || layout.ID(entry) == string(args[3]) {
		lease, stands, _ := tx.Call("GET", keys[0]).Bytes()
		token = layout.TokenOf(lease)
		paused := claimWay(args[2]) == claimOrWait && layout.IsPause(token)
		if !stands || claimWay(args[2]) == claimAlone && token != string(args[0]) || token == string(args[4]) || paused {
			token = string(args[0])
			tx.Call("SET", keys[0], args[0], []byte("PX"), args[1])
		}
		life, _ = tx.Call("PTTL", keys[0]).Int()
	}
	reply.Array(4)
	reply.String(token)
	reply.Int(life)
	if there {
		reply.Bytes(entry)
	} else {
		reply.Nil()
	}
	reply.Int(left)
}

// conclude atomically ends a computation. If the token is still valid it stores or
// removes the entry; it releases the lease and pushes a word for the waiters. KEYS:
// the lease, the entry, the list. ARGV: the token; the mode (keep, remove, leave or
// cede); 1 if the lease is the computation's own; the length of the pause that
// replaces the lease, or 0; the life of the word; and to keep, the entry and its
// life, 0 for ever. It returns whether the token was valid.
var conclude = driver.NewScript(`
local lease = redis.call('GET', KEYS[1])
local held = lease and string.sub(lease, 1, 34) == ARGV[1]
local word, fault = 'f', nil
if not held then
	word = 'l'
elseif ARGV[2] == 'leave' or ARGV[2] == 'cede' then
	if ARGV[2] == 'cede' then word = 'l' end
	if ARGV[3] == '1' and ARGV[4] ~= '0' then
		redis.call('SET', KEYS[1], 'p:' .. string.sub(ARGV[1], 3), 'PX', ARGV[4])
	elseif ARGV[3] == '1' then
		redis.call('DEL', KEYS[1])
	end
else
	if ARGV[2] == 'remove' then
		redis.call('DEL', KEYS[2])
	elseif ARGV[7] == '0' then
		fault = redis.pcall('SET', KEYS[2], ARGV[6])
	else
		fault = redis.pcall('SET', KEYS[2], ARGV[6], 'PX', ARGV[7])
	end
	redis.call('DEL', KEYS[1])
	if ARGV[2] == 'keep' then word = 's' end
end
if (ARGV[3] == '1' or word == 's') and (not held or #lease > 34) then
	redis.pcall('RPUSH', KEYS[3], word)
	redis.pcall('PEXPIRE', KEYS[3], ARGV[5])
end
if fault and fault.err then return fault end
return held and 1 or 0
`, concludeLocally)

// concludeLocally pushes no word: no caller waits for one in a process's own store.
func concludeLocally(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	lease, _, _ := tx.Call("GET", keys[0]).Bytes()
	if layout.TokenOf(lease) != string(args[0]) {
		reply.Int(0)
		return
	}
	own := string(args[2]) == "1"
	switch ending(args[1]) {
	case leaveEntry, cedeEntry:
		if own && string(args[3]) != "0" {
			tx.Call("SET", keys[0], layout.Pause(args[0]), []byte("PX"), args[3])
		} else if own {
			tx.Call("DEL", keys[0])
		}
		reply.Int(1)
		return
	case removeEntry:
		tx.Call("DEL", keys[1])
	case keepEntry:
		set := [][]byte{keys[1], args[5], []byte("PX"), args[6]}
		if string(args[6]) == "0" {
			set = set[:2]
		}
		tx.Call("SET", set...)
	}
	tx.Call("DEL", keys[0])
	reply.Int(1)
}

// A claimed is the outcome of a claim.
type claimed[T any] struct {
	lease                  // no token if the entry is not the one seen
	found[T]               // the entry
	left     time.Duration // of the entry's life; negative if it has no expiry
}

// claimEntry claims the entry and takes its stamps, in one trip.
func claimEntry[T any](ctx context.Context, s *subject, r claimRequest) (c claimed[T], err error) {
	for again := 0; ; again++ {
		c, err = tryClaim[T](ctx, s, &r)
		if err == nil && c.token == "" && r.lost != "" {
			// The entry is there, and the lost claim may hold the lease without a
			// computation. If this release is lost as well, the lease expires by
			// itself.
			s.release(ctx, r.lost)
		}
		if again == sendAgain || !unanswered(ctx, err) {
			return c, err
		}
		// Neither token nor stamps are sent twice: the first ones may arrive late,
		// after they have been invalidated.
		r.lost, r.token = r.token, layout.NewToken(layout.TokenRunning)
	}
}

// release releases a lease that no computation will conclude.
func (s *subject) release(ctx context.Context, token string) {
	_, _ = (&lease{s: s, token: token, own: true}).end(ctx, cedeEntry, 0, nil, 0)
}

func tryClaim[T any](ctx context.Context, s *subject, r *claimRequest) (c claimed[T], err error) {
	t := trip.New(len(s.conn.shards), 0)
	defer t.Free()
	t.On(s.shard).Script(claim, 2).Key(layout.Lease(s.front, s.key)).Key(s.front, s.key).
		String(r.token).Int(r.life.Milliseconds()).String(string(r.way)).String(r.seen).String(r.lost)
	fresh := s.makeStamps(t)
	if err := t.Run(ctx, s.conn.doEach); err != nil {
		if t.Err(s.shard) == nil { // a tag's did not: the lease may be ours
			s.release(ctx, r.token)
		}
		return c, err
	}
	e, err := t.On(s.shard).Next().Elems()
	if err != nil {
		return c, err
	}
	stands, _, err1 := e.Next().Bytes()
	c.lease = lease{s: s, token: string(stands), own: string(stands) == r.token}
	ms, err2 := e.Next().Int()
	c.life = time.Duration(ms) * time.Millisecond
	data, there, err3 := e.Next().Bytes()
	left, err4 := e.Next().Int()
	c.left = time.Duration(left) * time.Millisecond
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return c, err
	}
	stamps, err := s.madeStamps(ctx, t, fresh)
	if err == nil {
		c.found = judge[T](s, data, there, stamps)
	} else if c.own {
		s.release(ctx, r.token)
	}
	return c, err
}

// claimFree claims an entry that no computation holds. It uses plain commands,
// which cost the server a fraction of a script: SET NX of the lease, then GET of
// the entry. If another holds the lease, free is false and nothing has changed.
// Otherwise the lease is the caller's, even if the entry is not the one that the
// caller has seen.
//
// Entries are stored only under a lease, so the entry that GET finds does not
// change afterwards. The exception is a change of servers: two of them may answer
// the two commands in the other order, and a function may run twice, each time
// under a lease. A claim that arrives after its caller has gone remains until it
// expires; the script would have seen that there is an entry.
func claimFree[T any](ctx context.Context, s *subject, token string, life time.Duration) (c claimed[T], free bool, err error) {
	t := trip.New(len(s.conn.shards), 0)
	defer t.Free()
	p := t.On(s.shard)
	p.CmdKey("SET", "", layout.Lease(s.front, s.key)).String(token).String("PX").Int(life.Milliseconds()).String("NX")
	p.CmdKey("GET", s.front, s.key)
	fresh := s.makeStamps(t)
	if err := t.Run(ctx, s.conn.doEach); err != nil {
		if t.Err(s.shard) == nil { // a tag's did not: the lease may be ours
			s.release(ctx, token)
		}
		return c, false, err
	}
	set, entry := p.Next(), p.Next()
	data, there, err := entry.Bytes()
	if server, ok := errors.AsType[*ServerError](err); ok && server.Code == "WRONGTYPE" {
		err = nil // counts as absent, and is replaced
	}
	switch {
	case set.Err() != nil:
		return c, false, set.Err()
	case set.Kind() == driver.KindNil:
		return c, false, err
	}
	var stamps []layout.Stamp
	if err == nil {
		stamps, err = s.madeStamps(ctx, t, fresh)
	}
	if err != nil {
		s.release(ctx, token)
		return c, false, err
	}
	c.lease = lease{s: s, token: token, own: true, life: life}
	c.found = judge[T](s, data, there, stamps)
	return c, true, nil
}

// wait waits until the computation that holds the lease ends, the lease expires, or
// ctx is done. word is empty if none was pushed. It uses a connection of its own.
func (l *lease) wait(ctx context.Context) (word string, err error) {
	life := max(l.life, minLease)
	select {
	case l.s.conn.waiters <- struct{}{}:
		defer func() { <-l.s.conn.waiters }()
	case <-time.After(min(life, waitPause)): // then look again, without a connection
		return "", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, life+settleTimeout)
	defer cancel()
	// A computation in this process cannot push a word once the connection is
	// closed, and a store lets calls on connections of their own continue.
	defer context.AfterFunc(l.s.conn.open, cancel)()
	p := driver.NewPipeline(driver.Own | driver.Repeatable)
	defer p.Free()
	list := layout.Wake(l.s.front, l.s.key, l.token)
	p.CmdKey("BLMOVE", "", list).Key(list).String("LEFT").String("RIGHT").Float(life.Seconds())
	if err := l.s.conn.do(ctx, l.s.shard, p); err != nil {
		return "", err
	}
	text, _, err := p.Next().Bytes()
	return string(text), err
}

// end concludes the computation, even if ctx is done. kept reports whether the
// token was still valid.
func (l *lease) end(ctx context.Context, what ending, pause time.Duration, data []byte, ms int64) (kept bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	defer l.s.space().Drop(l.s.key)
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	own := "0"
	if l.own {
		own = "1"
	}
	p.Script(conclude, 3).Key(layout.Lease(l.s.front, l.s.key)).Key(l.s.front, l.s.key).
		Key(layout.Wake(l.s.front, l.s.key, l.token)).String(l.token).String(string(what)).String(own).
		Int(pause.Milliseconds()).Int(wakeLife.Milliseconds())
	if what == keepEntry {
		p.Bytes(data).Int(ms)
	}
	if err := l.s.conn.do(ctx, l.s.shard, p); err != nil {
		return false, err
	}
	n, err := p.Next().Int()
	return n == 1, err
}

// renewing renews the lease until stop is called or the lease is lost. A lost lease
// does not end the computation: its result answers the waiting callers and is not
// stored.
func (l *lease) renewing(ctx context.Context, life time.Duration) (stop func()) {
	wanted, left := ctx, 6 // renewals after the last caller has left: a hung function must not keep others out
	r := renewal{life: life, lost: func() {}}
	r.renew = func(ctx context.Context) (held bool, err error) {
		if wanted.Err() != nil {
			if left--; left < 0 {
				return false, nil
			}
		}
		return l.renew(ctx, life)
	}
	r.start(ctx)
	return r.stop
}

func (l *lease) renew(ctx context.Context, life time.Duration) (held bool, err error) {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.Script(renew, 1).Key(layout.Lease(l.s.front, l.s.key)).String(l.token).Int(life.Milliseconds())
	if err := l.s.conn.do(ctx, l.s.shard, p); err != nil {
		return false, err
	}
	n, err := p.Next().Int()
	return n == 1, err
}
