package caches

import (
	"context"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/corrupt"
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/near"
	"github.com/gocaches/caches/internal/trip"
)

// A subject is one entry during a call: its place, and the stamps that validate it.
type subject struct {
	target
	opts  *Options
	tags  []string
	extra time.Duration // how long an entry is kept after it is no longer fresh
	begun time.Time
}

func newSubject(ctx context.Context, o *Object, op string, tags []string) (*subject, error) {
	s := &subject{opts: &o.opts, tags: tags, begun: time.Now()}
	if err := s.aim(ctx, o, op); err != nil {
		return nil, err
	}
	if len(tags) > layout.MaxTags {
		return nil, s.fail(fmt.Errorf("%w: %d tags, and an entry carries %d at most", ErrTooLarge, len(tags), layout.MaxTags))
	}
	return s, nil
}

// end counts a call, reports it to hooks and returns its error.
func (s *subject) end(ctx context.Context, r Lookup, f *finding, err error) error {
	if err != nil {
		err = s.fail(err)
		if !errors.Is(err, ErrMiss) {
			r = LookupNone
		}
	}
	w := s.conn.witness(s.opts, nil)
	w.call(r, err)
	if w.heard() {
		c := s.info()
		c.Lookup, c.Reason, c.Tag, c.Err = r, f.reason, f.tag, err
		w.called(ctx, c)
	}
	return err
}

func (s *subject) info() *CallInfo {
	return &CallInfo{Op: s.op, Shard: s.conn.shards[s.shard].name, Key: s.front + s.key, Tags: s.tags, Elapsed: time.Since(s.begun)}
}

// stamps returns the number of stamps that validate the entry.
func (s *subject) stamps() int { return 1 + len(s.tags) }

func (s *subject) stampAt(i int) (front, key string, shard int) {
	if i == 0 {
		return s.front, layout.NamespaceFront + s.opts.Prefix, s.shard
	}
	key = layout.Tag(s.tags[i-1])
	return s.conn.prefix, key, s.conn.shardOf(s.conn.prefix, key)
}

// A finding is the outcome of a look at an entry. reason says why the entry is not
// valid; MissNone means that it is. An entry with MissExpired still has a value.
type finding struct {
	layout.Entry
	reason MissReason
	tag    string // the tag that was invalidated
	id     string // the first bytes of the stored data, empty if there is none
	text   string // of the error, if the entry is negative
	tags   []string
	stamps []layout.Stamp // the current stamps; a missing one is zero
	err    error          // of the decoder
	near   bool           // from the near cache
}

// A found is a finding with its value.
type found[T any] struct {
	finding
	value T
}

// hit returns the kind of hit for a look that found a value.
func (f *finding) hit() Lookup {
	if f.near {
		return LookupNear
	}
	return LookupHit
}

// look reads an entry and its stamps, by one MGET for each shard, or takes the
// finding from the near cache.
func look[T any](ctx context.Context, s *subject) (f found[T], err error) {
	if f, ok := nearFound[T](s); ok {
		return f, nil
	}
	for begun := time.Now(); ; {
		f, err = tryLook[T](ctx, s)
		if !errors.Is(err, ErrBusy) || time.Since(begun) > busyWait {
			return f, err
		}
		select { // the server is up: a computation instead would add more load
		case <-time.After(busyPause + mathrand.N(busyPause)):
		case <-ctx.Done():
			return f, err
		}
	}
}

const (
	// busyWait is how long a look waits for a slot among the calls of a connection;
	// busyPause is the least pause between two tries.
	busyWait  = 5 * time.Second
	busyPause = 2 * time.Millisecond
)

// tryLook is look without the near cache.
func tryLook[T any](ctx context.Context, s *subject) (f found[T], err error) {
	mode := driver.ReadOnly | driver.Master // a replica may still have a stamp that was invalidated
	if s.slide {
		mode = driver.Repeatable
	}
	t := trip.New(len(s.conn.shards), mode)
	defer t.Free()
	fill := s.nearFill()
	s.ask(t, s.front, s.key, s.slide)
	fill.Ask(t.On(s.shard))
	if err := t.Run(ctx, s.conn.doEach); err != nil {
		return f, err
	}
	data, ok, stamps, err := s.answer(t, s.slide)
	if err != nil {
		return f, err
	}
	f = judge[T](s, data, ok, stamps)
	if left, ok := fill.Left(t.On(s.shard).Next()); ok {
		nearKeepFound(&fill, left, f)
	}
	return f, nil
}

// ask appends the read of a key on the entry's shard, and of all its stamps.
func (s *subject) ask(t *trip.Trip, front, key string, slide bool) {
	p := t.On(s.shard)
	if slide {
		p.CmdKey("GETEX", front, key).String("PX").Int(s.ms)
		p.Cmd("MGET")
	} else {
		p.CmdKey("MGET", front, key)
	}
	for i := range s.stamps() {
		front, key, shard := s.stampAt(i)
		if !t.Asks(shard) {
			t.On(shard).Cmd("MGET")
		}
		t.On(shard).Key(front, key)
	}
}

// answer reads the replies to ask. data is a view.
func (s *subject) answer(t *trip.Trip, slide bool) (data []byte, ok bool, stamps []layout.Stamp, err error) {
	if slide {
		if data, ok, err = t.On(s.shard).Next().Bytes(); err != nil {
			return nil, false, nil, err
		}
	}
	elems := make([]driver.Elems, len(s.conn.shards))
	for shard := range elems {
		if !t.Asks(shard) {
			continue
		}
		if elems[shard], err = t.On(shard).Next().Elems(); err != nil {
			return nil, false, nil, err
		}
	}
	if !slide {
		if data, ok, err = elems[s.shard].Next().Bytes(); err != nil {
			return nil, false, nil, err
		}
	}
	stamps = make([]layout.Stamp, s.stamps())
	for i := range stamps {
		_, _, shard := s.stampAt(i)
		text, _, err := elems[shard].Next().Bytes()
		if err != nil {
			return nil, false, nil, err
		}
		stamps[i] = layout.StampOf(text)
	}
	return data, ok, stamps, nil
}

// judge decides whether the data stored at the key is valid, and decodes the value.
func judge[T any](s *subject, data []byte, ok bool, stamps []layout.Stamp) (f found[T]) {
	f.finding = s.judge(data, ok, stamps)
	defer func() { f.Payload = nil }() // a view, valid only until the trip is freed
	if f.reason != MissNone && f.reason != MissExpired || f.Negative {
		return f
	}
	v, err := readValue[T](s.opts.serializerAt(s.front, s.key), f.Payload)
	if err != nil {
		f.reason, f.err = MissCorrupt, err
		return f
	}
	f.value = v
	return f
}

func (s *subject) judge(data []byte, ok bool, stamps []layout.Stamp) (f finding) {
	f.tags, f.stamps = s.tags, stamps
	if !ok {
		f.reason = MissAbsent
		return f
	}
	f.id = layout.ID(data)
	if !layout.IsEntry(data) {
		f.Payload = data
		if len(s.tags) > 0 { // it has no stamps to validate it
			f.reason = MissVersion
		}
		return f
	}
	if f.Entry, f.err = layout.Open(s.front, s.key, data); f.err != nil {
		if f.reason = MissCorrupt; f.err == layout.ErrFormat {
			f.reason = MissVersion
		}
		return f
	}
	if f.Negative {
		f.text = string(f.Payload)
	}
	f.reason, f.tag = s.vouch(f.Entry.Stamps, stamps)
	if f.reason == MissNone && (f.Kept || f.Negative) && f.TTL > 0 && time.Since(f.Created) >= f.TTL {
		f.reason = MissExpired
	}
	return f
}

// vouch compares the stamps of an entry with the current ones.
func (s *subject) vouch(made, stand []layout.Stamp) (MissReason, string) {
	if len(made) != len(stand) || made[0] != stand[0] || made[0] == (layout.Stamp{}) {
		return MissVersion, ""
	}
	for i, tag := range s.tags {
		if made[i+1] != stand[i+1] || made[i+1] == (layout.Stamp{}) {
			return MissTag, tag
		}
	}
	return MissNone, ""
}

// makeStamps appends commands that create missing stamps and make all stamps live
// longer than the entry. It returns the stamps that it proposes.
func (s *subject) makeStamps(t *trip.Trip) []layout.Stamp {
	fresh := make([]layout.Stamp, s.stamps())
	for i := range fresh {
		front, key, shard := s.stampAt(i)
		fresh[i] = layout.NewStamp()
		p := t.On(shard).CmdKey("SET", front, key).Bytes(fresh[i][:]).String("NX").String("GET")
		if s.ms == 0 { // the entry may live for ever
			p.CmdKey("PERSIST", front, key)
			continue
		}
		_, life := s.stampLife()
		p.String("PX").Int(life)
		p.CmdKey("PTTL", front, key)
	}
	return fresh
}

// stampLife returns the least life of a stamp, and the life it is given, in
// milliseconds. A stamp stays alive while entries are stored under it, but is not
// touched for each of them: a touched key counts as changed, and invalidates the
// near values that depend on it.
func (s *subject) stampLife() (least, given int64) {
	life := s.ms + s.extra.Milliseconds()
	if s.slide { // it may live for long: a stamp that expires first costs a miss
		life = max(life, slidingStamp.Milliseconds())
	}
	return life + time.Minute.Milliseconds()/2, 2*life + time.Minute.Milliseconds()
}

// slidingStamp is the least life of a stamp whose entries slide: reads restart
// their TTL. A stamp without an expiry would stay for ever.
const slidingStamp = 24 * time.Hour

// madeStamps reads the replies to makeStamps, in the same order, and lengthens the
// lives that are too short. It returns all stamps, none of them zero, in place of
// the proposed ones.
func (s *subject) madeStamps(ctx context.Context, t *trip.Trip, stamps []layout.Stamp) ([]layout.Stamp, error) {
	var short []int
	defer func() { s.lengthen(ctx, short) }()
	for i := range stamps {
		_, _, shard := s.stampAt(i)
		old, stood, err := t.On(shard).Next().Bytes()
		if err != nil {
			return nil, err
		}
		if stood {
			stamps[i] = layout.StampOf(old)
		}
		if stamps[i] == (layout.Stamp{}) {
			return nil, corrupt.Value(corrupt.Reason("a stamp that is none"))
		}
		left, err := t.On(shard).Next().Int() // the reply to PERSIST is not a time
		if err != nil {
			return nil, err
		}
		if least, _ := s.stampLife(); s.ms > 0 && left >= 0 && left < least {
			short = append(short, i)
		}
	}
	return stamps, nil
}

// lengthen extends the life of the stamps in short. An error is ignored: a stamp
// that expires too soon only costs a miss.
func (s *subject) lengthen(ctx context.Context, short []int) {
	if len(short) == 0 {
		return
	}
	t := trip.New(len(s.conn.shards), driver.Repeatable)
	defer t.Free()
	_, life := s.stampLife()
	for _, i := range short {
		front, key, shard := s.stampAt(i)
		t.On(shard).CmdKey("PEXPIRE", front, key).Int(life).String("GT")
	}
	_ = t.Run(ctx, s.conn.doEach)
}

// takeStamps returns the current stamps, and creates missing ones.
func (s *subject) takeStamps(ctx context.Context) ([]layout.Stamp, error) {
	for again := 0; ; again++ {
		stamps, err := s.tryStamps(ctx)
		if again == sendAgain || !unanswered(ctx, err) {
			return stamps, err
		}
	}
}

// tryStamps sends once. A fresh stamp must not be sent twice: if entries were
// stored under the first copy and then invalidated, the second would make them
// valid again.
func (s *subject) tryStamps(ctx context.Context) ([]layout.Stamp, error) {
	t := trip.New(len(s.conn.shards), 0)
	defer t.Free()
	fresh := s.makeStamps(t)
	if err := t.Run(ctx, s.conn.doEach); err != nil {
		return nil, err
	}
	return s.madeStamps(ctx, t, fresh)
}

// unlink removes the entry and its lease, so that a result that is being computed
// is not stored either.
func (s *subject) unlink(ctx context.Context) error {
	defer s.space().Drop(s.key)
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.CmdKey("UNLINK", s.front, s.key).Key(layout.Lease(s.front, s.key))
	if err := s.conn.do(ctx, s.shard, p); err != nil {
		return err
	}
	return p.Next().Err()
}

// lookMany reads many entries and their stamps: one MGET for each thousand keys of
// a shard, all shards at once.
func lookMany[A comparable, T any](ctx context.Context, subjects map[A]*subject) (map[A]found[T], map[A]error) {
	seen, faults := make(map[A]found[T], len(subjects)), make(map[A]error)
	var m *mget
	fills := make(map[A]near.Fill)
	for arg, s := range subjects {
		if f, ok := nearFound[T](s); ok {
			seen[arg] = f
			continue
		}
		if s.slide { // each read is a write, which MGET cannot do
			f, err := look[T](ctx, s)
			if err != nil {
				faults[arg] = s.fail(err)
			}
			seen[arg] = f
			continue
		}
		if m == nil {
			m = newMget(s.conn)
		}
		fill := s.nearFill()
		s.want(m)
		if fills[arg] = fill; fill.Keeps() {
			m.wantLife(s.shard, s.front+s.key)
		}
	}
	if m == nil {
		return seen, faults
	}
	defer m.Free()
	m.run(ctx)
	for arg, fill := range fills {
		s := subjects[arg]
		data, ok, stamps, err := s.got(m)
		if errors.Is(err, ErrBusy) {
			seen[arg], err = look[T](ctx, s)
		} else if err == nil {
			seen[arg] = judge[T](s, data, ok, stamps)
			if left, ok := fill.Left(m.life(s.shard, s.front+s.key)); ok {
				nearKeepFound(&fill, left, seen[arg])
			}
		}
		if err != nil {
			faults[arg] = s.fail(err)
		}
	}
	return seen, faults
}

// want asks for the entry and its stamps; got returns them.
func (s *subject) want(m *mget) {
	m.want(s.shard, s.front+s.key)
	for i := range s.stamps() {
		front, key, shard := s.stampAt(i)
		m.want(shard, front+key)
	}
}

func (s *subject) got(m *mget) (data []byte, ok bool, stamps []layout.Stamp, err error) {
	if data, ok, err = m.got(s.shard, s.front+s.key); err != nil {
		return nil, false, nil, err
	}
	stamps = make([]layout.Stamp, s.stamps())
	for i := range stamps {
		front, key, shard := s.stampAt(i)
		text, _, err := m.got(shard, front+key)
		if err != nil {
			return nil, false, nil, err
		}
		stamps[i] = layout.StampOf(text)
	}
	return data, ok, stamps, nil
}

// An mget reads any number of keys, each once.
type mget struct {
	*trip.Trip
	conn  *Conn
	keys  [][]string                // by shard, in the order of the requests
	index []map[string]int          // of each key in keys
	lives []map[string]driver.Reply // PTTL replies, of the keys passed to wantLife
	vals  [][][]byte                // views; nil for a key that does not exist
	bad   map[string]error          // of keys whose server in a cluster failed
	errs  []error                   // of each shard
}

func newMget(conn *Conn) *mget {
	n := len(conn.shards)
	return &mget{
		Trip: trip.New(n, driver.ReadOnly|driver.Master), conn: conn, keys: make([][]string, n), index: make([]map[string]int, n),
		lives: make([]map[string]driver.Reply, n), vals: make([][][]byte, n), errs: make([]error, n),
	}
}

func (m *mget) want(shard int, key string) {
	if m.index[shard] == nil {
		m.index[shard] = make(map[string]int)
	}
	if _, ok := m.index[shard][key]; !ok {
		m.index[shard][key] = len(m.keys[shard])
		m.keys[shard] = append(m.keys[shard], key)
	}
}

func (m *mget) got(shard int, key string) ([]byte, bool, error) {
	if m.errs[shard] != nil {
		return nil, false, m.errs[shard]
	}
	if err := m.bad[key]; err != nil {
		return nil, false, err
	}
	data := m.vals[shard][m.index[shard][key]]
	return data, data != nil, nil
}

// wantLife asks for the remaining life of a key; life returns the reply.
func (m *mget) wantLife(shard int, key string) {
	if m.lives[shard] == nil {
		m.lives[shard] = make(map[string]driver.Reply)
	}
	m.lives[shard][key] = driver.Reply{}
}

func (m *mget) life(shard int, key string) driver.Reply { return m.lives[shard][key] }

func (m *mget) run(ctx context.Context) {
	for shard, keys := range m.keys {
		for part := range slices.Chunk(keys, chunk) {
			m.On(shard).Cmd("MGET")
			for _, key := range part {
				m.On(shard).Key(key)
			}
		}
	}
	timed := make([][]string, len(m.keys)) // the same order for commands and replies
	for shard, lives := range m.lives {
		timed[shard] = slices.Collect(maps.Keys(lives))
		for _, key := range timed[shard] {
			m.On(shard).CmdKey("PTTL", "", key)
		}
	}
	_ = m.Run(ctx, m.conn.doEach) // by shard in Err
	for shard, keys := range m.keys {
		m.errs[shard] = m.Err(shard)
		for part := range slices.Chunk(keys, chunk) {
			if m.errs[shard] == nil {
				m.errs[shard] = m.read(shard, len(part))
			}
		}
		for _, key := range timed[shard] {
			if m.errs[shard] == nil {
				m.lives[shard][key] = m.On(shard).Next()
			}
		}
	}
}

func (m *mget) read(shard, keys int) error {
	e, err := m.On(shard).Next().Elems()
	if err == nil && e.Len() != keys {
		return fmt.Errorf("%w: an MGET of %d keys has %d values", ErrProtocol, keys, e.Len())
	}
	for err == nil && e.Len() > 0 {
		data, ok, err := e.Next().Bytes()
		if ok && data == nil {
			data = []byte{}
		}
		if err != nil {
			if m.bad == nil {
				m.bad = make(map[string]error)
			}
			m.bad[m.keys[shard][len(m.vals[shard])]] = err
		}
		m.vals[shard] = append(m.vals[shard], data)
	}
	return err
}

// nearFound returns the finding of an entry in the near cache.
func nearFound[T any](s *subject) (f found[T], ok bool) {
	space := s.space()
	if space == nil || s.opts.fresh {
		return f, false
	}
	f, ok = near.Get[found[T]](space, s.key)
	return f, ok && slices.Equal(f.tags, s.tags)
}

// space returns the near space of the entry, nil for none.
func (s *subject) space() *near.Space { return s.conn.nearSpace(s.opts) }

// nearFill begins a fill, before the entry and its stamps are read.
func (s *subject) nearFill() near.Fill {
	f := s.space().Fill(s.shard, s.key)
	f.DependOn(s.stamps(), func(i int) (topic, key string, shard int) {
		front, key, shard := s.stampAt(i)
		if topic = layout.TagFront; i == 0 {
			topic = layout.NamespaceFront
		}
		return front + topic, front + key, shard
	})
	return f
}

// nearKeepFound keeps a valid finding near, for left at most and no longer than the
// entry is fresh.
func nearKeepFound[T any](f *near.Fill, left time.Duration, seen found[T]) {
	if seen.reason != MissNone || !f.Keeps() {
		return
	}
	if seen.TTL > 0 {
		left = min(left, seen.TTL-time.Since(seen.Created))
	}
	seen.near = true
	near.Keep(f, left, seen)
}
