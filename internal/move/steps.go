package move

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/trip"
)

const (
	tokenLife = 5 * time.Second // bounds a move, from the token to the store
	sendAgain = 3               // times that an announcement without a reply is sent again
)

// A move is one key whose place has changed, during one call.
type move struct {
	key      string // in full
	from, to int    // a previous shard and a current one
	err      error
	there    bool // at its previous place

	token      string // beside the current place
	dump       []byte // the value, in the form of DUMP; nil for none
	data       []byte // the value of a string, if it may be an entry of namespace
	namespace  string // the key of its stamp on each shard, empty for none
	was, is    []byte // the stamp there and here; nil for none
	ttl        int64  // milliseconds, -1 for none
	knownAfter knowledge
}

// run runs all steps for moves. They are those of a call that writes, or of one
// that only reads.
func (m *Mover) run(ctx context.Context, moves []*move, writes bool) {
	m.look(ctx, moves)
	var coming []*move
	for _, k := range moves {
		if k.knownAfter = forReaders; k.there && k.err == nil {
			coming = append(coming, k)
		}
	}
	if len(coming) > 0 {
		m.announce(ctx, coming)
		m.read(ctx, coming)
		m.store(ctx, coming)
		m.remove(ctx, coming)
	}
	if writes { // after the previous places are empty: a token set later stores nothing
		m.forbid(ctx, moves)
	}
	m.note(moves)
}

// A side is the shards before the change, or those after it.
type side uint8

const (
	previous side = iota
	current
)

// trip sends commands for moves to the shards of one side, and reads the replies.
// It leaves out moves that have failed.
func (m *Mover) trip(ctx context.Context, moves []*move, s side, mode driver.Mode, write func(*driver.Pipeline, *move), read func(*driver.Pipeline, *move) error) {
	n, do, at := m.config.Shards, m.config.Current, func(k *move) int { return k.to }
	if s == previous {
		n, do, at = len(m.config.Same), m.config.Previous, func(k *move) int { return k.from }
	}
	t := trip.New(n, mode)
	defer t.Free()
	for _, k := range moves {
		if k.err == nil {
			write(t.On(at(k)), k)
		}
	}
	_ = t.Run(ctx, do) // by shard in Err
	for _, k := range moves {
		if k.err != nil {
			continue
		}
		if k.err = t.Err(at(k)); k.err == nil {
			k.err = read(t.On(at(k)), k)
		}
	}
}

// look asks which keys are at their previous places.
func (m *Mover) look(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, previous, driver.ReadOnly|driver.Master, func(p *driver.Pipeline, k *move) {
		p.CmdKey("EXISTS", "", k.key)
	}, func(p *driver.Pipeline, k *move) error {
		n, err := p.Next().Int()
		k.there = n == 1
		return err
	})
}

// announce leaves a token beside each current place, or takes over the token that
// is there. For a possible entry it does the same with the stamp of its namespace.
//
// A store must send neither twice: one that was removed in between would come
// back. Here they are sent again with new values, before the keys are read.
func (m *Mover) announce(ctx context.Context, moves []*move) {
	for again := 0; len(moves) > 0; again++ {
		m.tryAnnounce(ctx, moves)
		if again == sendAgain {
			return
		}
		var lost []*move
		for _, k := range moves {
			if m.config.Unanswered(ctx, k.err) {
				k.err = nil
				lost = append(lost, k)
			}
		}
		moves = lost
	}
}

func (m *Mover) tryAnnounce(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, current, 0, func(p *driver.Pipeline, k *move) {
		k.token = rand.Text()
		p.CmdKey("SET", "", m.config.Layout.TokenKey(k.key)).String(k.token).String("NX").String("GET").String("PX").Int(tokenLife.Milliseconds())
		if k.namespace != "" {
			k.is = m.config.Layout.NewStamp()
			p.CmdKey("SET", "", k.namespace).Bytes(k.is).String("NX").String("GET")
		}
	}, func(p *driver.Pipeline, k *move) error {
		set, ok, err := p.Next().Bytes()
		if ok {
			k.token = string(set)
		}
		if k.namespace == "" {
			return err
		}
		set, ok, err2 := p.Next().Bytes() // in any case: the replies of other moves follow
		if ok {
			k.is = bytes.Clone(set)
		}
		return cmp.Or(err, err2)
	})
}

// read reads the previous places.
func (m *Mover) read(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, previous, driver.ReadOnly|driver.Master, func(p *driver.Pipeline, k *move) {
		p.CmdKey("DUMP", "", k.key)
		p.CmdKey("PTTL", "", k.key)
		if k.namespace != "" {
			p.CmdKey("GET", "", k.key)
			p.CmdKey("GET", "", k.namespace)
		}
	}, func(p *driver.Pipeline, k *move) error {
		dump, there, err1 := p.Next().Bytes()
		ttl, err2 := p.Next().Int()
		if k.ttl = ttl; there && ttl != -2 {
			k.dump = append([]byte{}, dump...)
		}
		if k.namespace == "" {
			return errors.Join(err1, err2)
		}
		data, _, err := p.Next().Bytes()
		if err == nil {
			k.data = append([]byte{}, data...)
		} // else it is of another type, and not an entry
		was, _, err3 := p.Next().Bytes()
		k.was = bytes.Clone(was)
		return errors.Join(err1, err2, err3)
	})
}

// settle stores the value of a key, if the token is still set and the key is
// absent. It removes the token. KEYS: the key, the token's. ARGV: the token,
// milliseconds or 0, the dump or nothing, an entry to store in place of the dump
// or nothing. It returns 1 if it has stored. A dump that this server cannot read
// (an ERR of RESTORE) is dropped.
var settle = driver.NewScript(`
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

// store puts the values at the current places. The stamp of a namespace must live
// at least as long as the entry.
func (m *Mover) store(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, current, driver.Repeatable, func(p *driver.Pipeline, k *move) {
		p.Script(settle, 2).Key(k.key).Key(m.config.Layout.TokenKey(k.key)).String(k.token).Int(max(k.ttl, 0)).Bytes(k.dump).Bytes(m.entry(k))
		if k.namespace == "" {
			return
		}
		if k.ttl <= 0 {
			p.CmdKey("PERSIST", "", k.namespace)
		} else {
			p.CmdKey("PEXPIRE", "", k.namespace).Int(2*k.ttl + time.Minute.Milliseconds()).String("GT")
		}
	}, func(p *driver.Pipeline, k *move) error {
		err := p.Next().Err()
		if k.namespace != "" {
			err = cmp.Or(err, p.Next().Err())
		}
		return err
	})
}

// entry returns the entry to store in place of the dump, nil if k is not an entry
// or was not valid at its previous place.
func (m *Mover) entry(k *move) []byte {
	if k.dump == nil || k.data == nil || k.was == nil || k.is == nil {
		return nil
	}
	return m.config.Layout.Restamp(k.data, k.was, k.is)
}

// remove empties the previous places.
func (m *Mover) remove(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, previous, driver.Repeatable, func(p *driver.Pipeline, k *move) {
		p.CmdKey("UNLINK", "", k.key)
	}, func(p *driver.Pipeline, k *move) error {
		return p.Next().Err()
	})
}

// forbid removes the tokens, so that no other move stores a value that it has
// read before.
func (m *Mover) forbid(ctx context.Context, moves []*move) {
	m.trip(ctx, moves, current, driver.Repeatable, func(p *driver.Pipeline, k *move) {
		p.CmdKey("UNLINK", "", m.config.Layout.TokenKey(k.key))
	}, func(p *driver.Pipeline, k *move) error {
		k.knownAfter = forWriters
		return p.Next().Err()
	})
}
