package near

import (
	"math"
	"time"

	"github.com/gocaches/caches/driver"
)

// A Fill is a read in progress whose result may be kept. The zero Fill keeps
// nothing.
type Fill struct {
	space *Space
	key   string
	gen   uint64
	begun int64
	ground
}

// Fill begins a Fill for a key on a shard. It is called before the commands of the
// read are sent. A nil Space returns the zero Fill.
func (s *Space) Fill(shard int, key string) Fill {
	if s == nil {
		return Fill{}
	}
	f := Fill{space: s, key: key, begun: s.cache.now()}
	f.shard = &s.cache.shards[shard]
	var ok bool
	if f.epoch, ok = f.shard.covered(s.topic); !ok {
		return Fill{}
	}
	stripe := s.stripe(key)
	stripe.mu.Lock()
	f.gen = stripe.gen
	stripe.mu.Unlock()
	return f
}

// Keeps reports whether the result of f may be kept.
func (f *Fill) Keeps() bool { return f.space != nil }

// DependOn makes the result of f depend on n stamps. At returns each of them: its
// full key, the topic, a prefix that the keys of many stamps share, and the shard.
// DependOn is called once, before the stamps are read. If changes of a topic are not
// reported yet, f keeps nothing.
func (f *Fill) DependOn(n int, at func(i int) (topic, key string, shard int)) {
	if f.space == nil {
		return
	}
	cache := f.space.cache
	f.stamps = make([]*stamp, 0, n)
	for i := range n {
		topic, key, index := at(i)
		shard := &cache.shards[index]
		epoch, ok := shard.covered(cache.follow(topic))
		if !ok {
			*f = Fill{}
			return
		}
		f.stamps = append(f.stamps, cache.stamps.of(stampKey{shard, key}, epoch))
	}
}

// Ask appends a PTTL of the key: an expired key is reported only when it is
// removed.
func (f *Fill) Ask(p *driver.Pipeline) {
	if f.space != nil {
		p.CmdKey("PTTL", f.space.front, f.key)
	}
}

// Left returns how long a value may be kept, by the reply to Ask. ok is false if it
// may not be kept.
func (f *Fill) Left(ttl driver.Reply) (left time.Duration, ok bool) {
	if f.space == nil {
		return 0, false
	}
	ms, err := ttl.Int()
	if err != nil || ms == -2 { // gone since the read
		return 0, false
	}
	if ms == -1 || ms >= f.space.age.Milliseconds() {
		return f.space.age, true
	}
	return time.Duration(ms) * time.Millisecond, true
}

// Keep keeps v for left at most, counted from the beginning of f, unless the key has
// changed since. f must keep; see [Fill.Left].
func Keep[T any](f *Fill, left time.Duration, v T) {
	s := f.space
	f.until = f.begun + int64(min(left, s.age, math.MaxInt64/2))
	stripe := s.stripe(f.key)
	stripe.mu.Lock()
	defer stripe.mu.Unlock()
	if stripe.gen == f.gen {
		s.values.Set(f.key, &entry[T]{f.ground, v})
	}
}
