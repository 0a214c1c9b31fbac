package caches

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

// The former is the shards among which keys were divided before: a connection
// that names them (the option "previous") finds what is still there and moves
// it, key by key, when it is asked for. Nothing is lost then by the change of a
// ring, but the trips of the move.
//
// The order in which a key moves keeps what was deleted from coming back. Who
// moves first leaves a token beside the key's new place; then reads the old one;
// then stores, in one step with looking whether the token still stands; then
// removes the old one. Who writes moves the key first, or, where the old place is
// empty, removes the token: what was read before then is not stored any more.
type former struct {
	conn   *Conn
	shards []shard // as the router counted them
	own    []int   // which of conn.shards each is, -1 for none
	route  func(front, key string) int

	mu    sync.Mutex
	known map[string]knowledge // of keys whose place has changed; guarded by mu
}

// A knowledge is for whom a key need not be looked for at its old place again.
type knowledge uint8

const (
	forNobody knowledge = iota
	forReaders
	forWriters // and readers: nobody is about to store what was there
)

const (
	// maxKnown bounds the keys that are known; beyond it all are forgotten, and
	// looked for again.
	maxKnown = 1 << 17
	// moveLife is for how long a move may take, from the token to the store.
	moveLife = 5 * time.Second
	moveEnd  = "%move"
)

// A formerShard is a shard by the name that the router knew it by, and which of
// the connection's shards it is, -1 for none.
type formerShard struct {
	shard
	own int
}

func newFormer(c *Conn, all []formerShard, r Router) *former {
	slices.SortFunc(all, func(a, b formerShard) int { return strings.Compare(a.name, b.name) })
	f := &former{conn: c, known: make(map[string]knowledge)}
	for _, s := range all {
		f.shards, f.own = append(f.shards, s.shard), append(f.own, s.own)
	}
	if len(all) > 1 {
		f.route = newRoute(r, f.shards)
	}
	return f
}

// gone are the shards that the connection has no more.
func (f *former) gone() (gone []shard) {
	if f == nil {
		return nil
	}
	for i, s := range f.shards {
		if f.own[i] < 0 {
			gone = append(gone, s)
		}
	}
	return gone
}

// forget removes the stamp of a namespace from all shards of before. It comes
// before those of now lose theirs: an entry that moves meanwhile has been given
// one of these, which then goes, too.
func (f *former) forget(ctx context.Context, key string) error {
	if f == nil {
		return nil
	}
	return everyOf(f.shards, func(i int) error { return unlinkOn(ctx, f.shards[i], key) })
}

// A move is a key whose place has changed, under a call.
type move struct {
	key      string // in full
	from, to int    // shards of former and of the connection
	err      error
	there    bool // at its old place

	token      string // beside the new place
	dump       []byte // what is stored, as DUMP gives it; nil for nothing
	data       []byte // the value, where it may be an entry whose namespace …
	namespace  string // … has its stamp at this key, on each shard
	was, is    stamp  // the stamp there and here
	ttl        int64  // milliseconds, -1 for none
	knownAfter knowledge
}

// bring moves what p is about to its shard.
func (f *former) bring(ctx context.Context, shard int, p *driver.Pipeline) error {
	moves := f.moves(nil, shard, p)
	if moves == nil {
		return nil
	}
	f.run(ctx, moves, p.Mode()&driver.ReadOnly == 0)
	for _, m := range moves {
		if m.err != nil {
			return m.err
		}
	}
	return nil
}

// bringAll is bring for a Pipeline of each shard. It returns their errors, nil
// where there is none.
func (f *former) bringAll(ctx context.Context, ps []*driver.Pipeline) []error {
	var moves []*move
	writes := false
	for shard, p := range ps {
		if p != nil {
			moves = f.moves(moves, shard, p)
			writes = writes || p.Mode()&driver.ReadOnly == 0
		}
	}
	if moves == nil {
		return nil
	}
	f.run(ctx, moves, writes)
	errs := make([]error, len(ps))
	for _, m := range moves {
		errs[m.to] = cmp.Or(errs[m.to], m.err)
	}
	return nilIfNone(errs)
}

// moves appends the keys of p whose place has changed, and which are not known to
// have come. What belongs to a shard, and what a computation leaves beside its
// result for the time that it runs, stays where it is.
func (f *former) moves(all []*move, shard int, p *driver.Pipeline) []*move {
	least, namespace := forReaders, ""
	if p.Mode()&driver.ReadOnly == 0 {
		least = forWriters
	}
	first := len(all)
	eachKey(p, func(key []byte) {
		switch {
		case bytes.Contains(key, []byte(namespaceFront)):
			namespace = string(key)
		case bytes.IndexByte(key, '%') >= 0 && isSide(key):
		default:
			if len(all) > first && all[len(all)-1].key == string(key) {
				return // a command and its expiry
			}
			if m := f.moved(string(key), shard, least); m != nil {
				all = append(all, m)
			}
		}
	})
	for _, m := range all[first:] {
		m.namespace = namespace
	}
	return all
}

func isSide(key []byte) bool {
	return bytes.HasSuffix(key, []byte(leaseEnd)) || bytes.Contains(key, []byte(wakeEnd)) || bytes.HasSuffix(key, []byte(moveEnd))
}

// moved returns the move of a key that is now on a shard, nil where none is due.
func (f *former) moved(key string, shard int, least knowledge) *move {
	from := 0
	if f.route != nil {
		from = f.route("", key)
	}
	if f.own[from] == shard {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[key] >= least {
		return nil
	}
	return &move{key: key, from: from, to: shard}
}

// eachKey calls visit for the keys of all commands of p.
func eachKey(p *driver.Pipeline, visit func(key []byte)) {
	for i := range p.Len() {
		var keys [][]byte
		switch c := p.Command(i); {
		case c.Script != nil:
			keys = c.Keys
		case ofKeysAlone[p.Name(i)] && p.FirstKey(i) != nil:
			keys = c.Args[1:]
		case p.FirstKey(i) != nil:
			visit(p.FirstKey(i))
		}
		for _, key := range keys {
			visit(key)
		}
	}
}

// ofKeysAlone are the commands of several keys that we send, all of whose
// arguments are keys.
var ofKeysAlone = map[string]bool{
	"MGET": true, "DEL": true, "UNLINK": true, "EXISTS": true, "TOUCH": true,
	"SUNION": true, "SINTER": true, "SDIFF": true, "SUNIONSTORE": true, "SINTERSTORE": true, "SDIFFSTORE": true,
}

// run brings all that is at its old place.
func (f *former) run(ctx context.Context, moves []*move, writes bool) {
	f.look(ctx, moves)
	var coming []*move
	for _, m := range moves {
		if m.knownAfter = forReaders; m.there && m.err == nil {
			coming = append(coming, m)
		}
	}
	if len(coming) > 0 {
		f.announce(ctx, coming)
		f.read(ctx, coming)
		f.store(ctx, coming)
		f.remove(ctx, coming)
	}
	if writes { // after the old places are empty: who leaves a token now finds nothing
		f.forbid(ctx, moves)
	}
	f.note(moves)
}

// note remembers what was found out.
func (f *former) note(moves []*move) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known)+len(moves) > maxKnown {
		clear(f.known)
	}
	for _, m := range moves {
		if m.err == nil {
			f.known[m.key] = max(f.known[m.key], m.knownAfter)
		}
	}
}

// trip sends commands for moves to shards, those of before or those of now, and
// reads the replies. A move that has failed before is left out.
func (f *former) trip(ctx context.Context, moves []*move, there bool, mode driver.Mode, write func(*driver.Pipeline, *move), read func(*driver.Pipeline, *move) error) {
	shards := f.conn.shards
	at := func(m *move) int { return m.to }
	if there {
		shards, at = f.shards, func(m *move) int { return m.from }
	}
	ps := make([]*driver.Pipeline, len(shards))
	defer func() {
		for _, p := range ps {
			if p != nil {
				p.Free()
			}
		}
	}()
	for _, m := range moves {
		if m.err != nil {
			continue
		}
		if ps[at(m)] == nil {
			ps[at(m)] = driver.NewPipeline(mode)
		}
		write(ps[at(m)], m)
	}
	errs := doEach(ctx, shards, ps)
	for _, m := range moves {
		if m.err == nil && errs != nil {
			m.err = errs[at(m)]
		}
		if m.err == nil {
			m.err = read(ps[at(m)], m)
		}
	}
}

// look asks which keys are at their old places.
func (f *former) look(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, true, driver.ReadOnly|driver.Master, func(p *driver.Pipeline, m *move) {
		p.CmdKey("EXISTS", "", m.key)
	}, func(p *driver.Pipeline, m *move) error {
		n, err := p.Next().Int()
		m.there = n == 1
		return err
	})
}

// forbid lets nobody store what was at the old places.
func (f *former) forbid(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, false, driver.Repeatable, func(p *driver.Pipeline, m *move) {
		p.CmdKey("UNLINK", "", f.tokenKey(m))
	}, func(p *driver.Pipeline, m *move) error {
		m.knownAfter = forWriters
		return p.Next().Err()
	})
}

// tokenKey is where the token of a move is, in the slot of its key.
func (f *former) tokenKey(m *move) string {
	front := f.conn.prefix
	own, ok := strings.CutPrefix(m.key, front)
	if !ok {
		front = ""
	}
	return sideKey(front, own, moveEnd)
}

// announce leaves a token beside each new place, or takes over the one that is
// there, and for what may be an entry the stamp of its namespace.
//
// Neither is sent twice: one that was taken away meanwhile would come back.
func (f *former) announce(ctx context.Context, moves []*move) {
	for again := 0; len(moves) > 0; again++ {
		f.tryAnnounce(ctx, moves)
		if again == sendAgain {
			return
		}
		var lost []*move
		for _, m := range moves {
			if unanswered(ctx, m.err) {
				m.err = nil
				lost = append(lost, m)
			}
		}
		moves = lost
	}
}

func (f *former) tryAnnounce(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, false, 0, func(p *driver.Pipeline, m *move) {
		m.token = newToken(tokenRunning)
		p.CmdKey("SET", "", f.tokenKey(m)).String(m.token).String("NX").String("GET").String("PX").Int(moveLife.Milliseconds())
		if m.namespace != "" {
			m.is = newStamp()
			p.CmdKey("SET", "", m.namespace).Bytes(m.is[:]).String("NX").String("GET")
		}
	}, func(p *driver.Pipeline, m *move) error {
		stood, ok, err := p.Next().Bytes()
		if ok {
			m.token = string(stood)
		}
		if err != nil || m.namespace == "" {
			return err
		}
		if stood, ok, err = p.Next().Bytes(); ok {
			m.is = stampOf(stood)
		}
		return err
	})
}

// read reads the old places.
func (f *former) read(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, true, driver.ReadOnly|driver.Master, func(p *driver.Pipeline, m *move) {
		p.CmdKey("DUMP", "", m.key)
		p.CmdKey("PTTL", "", m.key)
		if m.namespace != "" {
			p.CmdKey("GET", "", m.key)
			p.CmdKey("GET", "", m.namespace)
		}
	}, func(p *driver.Pipeline, m *move) error {
		dump, there, err1 := p.Next().Bytes()
		ttl, err2 := p.Next().Int()
		if m.ttl = ttl; there && ttl != -2 {
			m.dump = append([]byte{}, dump...)
		}
		if err := errors.Join(err1, err2); err != nil || m.namespace == "" {
			return err
		}
		data, _, err := p.Next().Bytes()
		if err == nil {
			m.data = append([]byte{}, data...)
		} // else it is of another type, and no entry
		was, _, err := p.Next().Bytes()
		m.was = stampOf(was)
		return err
	})
}

// settleMove stores what was at the old place of a key, if the token that stood
// before it was read still does, and nothing is there. KEYS: the key, the token's.
// ARGV: the token, milliseconds or 0, what DUMP gave or nothing, an entry that
// goes in its place. It answers whether it has stored: what an older server cannot
// read (an ERR of RESTORE) is lost.
var settleMove = driver.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[3] == '' or redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if ARGV[4] == '' then
	local reply = redis.pcall('RESTORE', KEYS[1], ARGV[2], ARGV[3])
	if reply.err and string.sub(reply.err, 1, 4) ~= 'ERR ' then return reply end
	if reply.err then return 0 end
elseif ARGV[2] == '0' then
	redis.call('SET', KEYS[1], ARGV[4])
else
	redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[2])
end
return 1
`, nil)

// store puts the keys at their new places.
func (f *former) store(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, false, driver.Repeatable, func(p *driver.Pipeline, m *move) {
		p.Script(settleMove, 2).Key(m.key).Key(f.tokenKey(m)).String(m.token).Int(max(m.ttl, 0)).Bytes(m.dump)
		if data := m.entry(); m.dump == nil || data == nil {
			p.String("")
		} else {
			p.Bytes(data)
		}
		if m.namespace == "" {
			return
		}
		if m.ttl <= 0 {
			p.CmdKey("PERSIST", "", m.namespace)
		} else {
			p.CmdKey("PEXPIRE", "", m.namespace).Int(2*m.ttl + time.Minute.Milliseconds()).String("GT")
		}
	}, func(p *driver.Pipeline, m *move) error {
		err := p.Next().Err()
		if m.namespace != "" {
			err = cmp.Or(err, p.Next().Err())
		}
		return err
	})
}

// entry returns the entry that is to be stored for one that counted at its old
// place: each shard has a stamp of its own for a namespace. It is nil for what is
// no entry, or did not count.
func (m *move) entry() []byte {
	if !enveloped(m.data) || m.was == (stamp{}) || m.is == (stamp{}) {
		return nil
	}
	stamps := m.data[envelopeHead:]
	if binary.BigEndian.Uint16(m.data[44:]) == 0 || len(stamps) < len(m.was) || stamp(stamps[:len(m.was)]) != m.was {
		return nil
	}
	copy(stamps, m.is[:])
	return m.data
}

// remove empties the old places.
func (f *former) remove(ctx context.Context, moves []*move) {
	f.trip(ctx, moves, true, driver.Repeatable, func(p *driver.Pipeline, m *move) {
		p.CmdKey("UNLINK", "", m.key)
	}, func(p *driver.Pipeline, m *move) error {
		return p.Next().Err()
	})
}
