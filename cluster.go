package caches

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

// Many servers as one connection. A [Router] says which shard a key lives on;
// every process that gives it the same names finds the same keys. Redis
// Cluster, whose servers divide the keys among themselves, is the driver's.

// A Router divides keys among the shards of a connection. [CRC32] and [Ketama]
// are those that the "router" option of a DSN knows.
type Router interface {
	// Route prepares the division among shards: their names, all different,
	// in byte order, at least two. The function that it returns gives the
	// index of the shard on which text lives, from 0 to len(shards)-1. It is
	// called for every key, by many goroutines at once. Text is what a key is
	// routed by: its hash tag, or all of it where it has none.
	Route(shards []string) func(text string) int
}

// CRC32 routes by CRC-32 (IEEE 802.3) modulo the number of shards. It costs
// some 40 ns and no memory. When the number of shards changes, nearly all keys
// move; where that matters, take [Ketama].
type CRC32 struct{}

// Route implements [Router].
func (CRC32) Route(shards []string) func(text string) int {
	n := uint32(len(shards))
	return func(text string) int { return int(crc(text, "") % n) }
}

func (CRC32) route(shards []string) func(front, key string) int {
	n := uint32(len(shards))
	return func(front, key string) int { return int(crc(hashed(front, key)) % n) }
}

// crc is the checksum of a followed by b. hash/crc32 takes a slice that
// escapes: the copy that it needs would cost more than the loop on keys of
// ordinary length.
func crc(a, b string) uint32 {
	c := ^uint32(0)
	for i := range len(a) {
		c = crc32.IEEETable[byte(c)^a[i]] ^ c>>8
	}
	for i := range len(b) {
		c = crc32.IEEETable[byte(c)^b[i]] ^ c>>8
	}
	return ^c
}

// Ketama routes by consistent hashing: one shard more among n moves only some
// 1/(n+1) of the keys, all of them to the new one. It costs O(log n), some
// 150 ns, and 1.25 KiB for each shard.
//
// Every shard has 160 points on a ring of 32-bit numbers: 40 MD5 digests of
// "name-0" to "name-39", four little-endian points in each. A key belongs to
// the first point that is not below the first four bytes of its own MD5, and
// past the last one to the first. Where two shards have the same point, it
// belongs to the one whose name comes first in byte order.
//
// The layout is that of libketama (Richard Jones, 2007,
// https://www.last.fm/user/RJ/journal/2007/04/10/rz_libketama_-_a_consistent_hashing_algo_for_memcache_clients).
type Ketama struct{}

// Route implements [Router].
func (Ketama) Route(shards []string) func(text string) int {
	r := newRing(shards)
	return func(text string) int { return r.find(digest(text, "")) }
}

func (Ketama) route(shards []string) func(front, key string) int {
	r := newRing(shards)
	return func(front, key string) int { return r.find(digest(hashed(front, key))) }
}

const digestsPerShard = 40

// A ring is the points of all shards, ascending. It never changes.
type ring []point

type point struct {
	at    uint32
	shard int
}

func newRing(shards []string) ring {
	r := make(ring, 0, len(shards)*digestsPerShard*4)
	for shard, name := range shards {
		for i := range digestsPerShard {
			sum := md5.Sum([]byte(name + "-" + strconv.Itoa(i)))
			for b := sum[:]; len(b) > 0; b = b[4:] {
				r = append(r, point{binary.LittleEndian.Uint32(b), shard})
			}
		}
	}
	// Stable, so that of equal points the one of the lower shard stands first,
	// which is the one that a search finds.
	slices.SortStableFunc(r, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	return r
}

func (r ring) find(at uint32) int {
	i, _ := slices.BinarySearchFunc(r, at, func(p point, at uint32) int { return cmp.Compare(p.at, at) })
	if i == len(r) {
		i = 0
	}
	return r[i].shard
}

// digest is where on the ring a followed by b lies.
func digest(a, b string) uint32 {
	var buf [256]byte // longer keys cost an allocation
	sum := md5.Sum(append(append(buf[:0], a...), b...))
	return binary.LittleEndian.Uint32(sum[:])
}

// hashed returns what the key front+key is routed by, in two pieces, so that
// nothing need be joined: its first "{…}" with something in it, else all of it.
func hashed(front, key string) (a, b string) {
	if strings.IndexByte(front, '{') >= 0 { // a tag may begin in one and end in the other
		front, key = "", front+key
	}
	for rest := key; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			return front, key
		}
		rest = rest[open+1:]
		switch end := strings.IndexByte(rest, '}'); {
		case end < 0:
			return front, key
		case end > 0:
			return "", rest[:end]
		}
	}
}

// A shard is one store of a connection, by the name that routing knows it by.
type shard struct {
	name  string
	store driver.Store
}

// A splitRouter takes a key in two pieces, which saves joining them.
type splitRouter interface {
	route(shards []string) func(front, key string) int
}

// newRoute prepares r, or CRC32 where it is nil, for shards.
func newRoute(r Router, shards []shard) func(front, key string) int {
	names := make([]string, len(shards))
	for i, s := range shards {
		names[i] = s.name
	}
	if r == nil {
		r = CRC32{}
	}
	if r, ok := r.(splitRouter); ok {
		return r.route(names)
	}
	find := r.Route(names)
	return func(front, key string) int {
		a, b := hashed(front, key)
		return find(a + b)
	}
}

// sortShards puts shards in the byte order of their names, which is the order
// that routing counts in, and refuses two of one name.
func sortShards(shards []shard) error {
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(shards); i++ {
		if shards[i].name == shards[i-1].name {
			return fmt.Errorf("caches: two shards are named %q: name them apart with ?node=", shards[i].name)
		}
	}
	return nil
}

// shardOf returns the index of the shard on which the key front+key lives.
func (c *Conn) shardOf(front, key string) int {
	if len(c.shards) == 1 {
		return 0
	}
	return c.route(front, key)
}

// group returns, for each shard, the indices of those keys that live on it, in
// their order. A shard without any has nil.
func (c *Conn) group(front string, keys []string) [][]int {
	groups := make([][]int, len(c.shards))
	for i, key := range keys {
		shard := c.shardOf(front, key)
		groups[shard] = append(groups[shard], i)
	}
	return groups
}

// do runs p on one shard.
func (c *Conn) do(ctx context.Context, shard int, p *driver.Pipeline) error {
	if c.former != nil {
		if err := c.former.bring(ctx, shard, p); err != nil {
			return err
		}
	}
	return c.shards[shard].store.Do(ctx, p)
}

// doEach runs ps[i] on shard i, all at once, and returns when all are done.
// Nil entries are skipped. The result has the error of each, and is nil where
// there was none. Each Pipeline is again the caller's alone.
func (c *Conn) doEach(ctx context.Context, ps []*driver.Pipeline) []error {
	if c.former == nil {
		return doEach(ctx, c.shards, ps)
	}
	failed := c.former.bringAll(ctx, ps)
	if failed == nil {
		return doEach(ctx, c.shards, ps)
	}
	left := slices.Clone(ps)
	for i, err := range failed {
		if err != nil {
			left[i] = nil
		}
	}
	for i, err := range doEach(ctx, c.shards, left) {
		failed[i] = cmp.Or(failed[i], err)
	}
	return failed
}

// doEach runs ps[i] on shards[i]; see [Conn.doEach]. Stores that can be started
// are sent to one after the other, and then waited for; the others, each but the
// first, take a goroutine.
func doEach(ctx context.Context, shards []shard, ps []*driver.Pipeline) []error {
	errs := make([]error, len(ps))
	wanted := func(i int) bool { return i < len(ps) && ps[i] != nil }
	do := func(i int) { errs[i] = shards[i].store.Do(ctx, ps[i]) }
	if countShards(len(shards), wanted) < 2 {
		eachOf(len(shards), wanted, do)
		return nilIfNone(errs)
	}
	started := make([]driver.Pending, len(ps))
	for i, p := range ps {
		if s, ok := shards[i].store.(driver.Starter); ok && p != nil {
			started[i] = s.Start(ctx, p)
		}
	}
	eachOf(len(shards), func(i int) bool { return wanted(i) && started[i] == nil }, do)
	for i, s := range started {
		if s != nil {
			errs[i] = s.Finish()
		}
	}
	return nilIfNone(errs)
}

func countShards(shards int, wanted func(i int) bool) (n int) {
	for i := range shards {
		if wanted(i) {
			n++
		}
	}
	return n
}

func nilIfNone(errs []error) []error {
	if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return errs
	}
	return nil
}

// eachOf calls f for every one of n shards that is wanted, all at once, the first
// of them on the caller's own goroutine: a call that concerns one shard starts
// none. It returns when all are done.
func eachOf(n int, wanted func(i int) bool, f func(i int)) {
	first := -1
	var others struct {
		sync.WaitGroup
		once sync.Once
		fell any // what one of them panicked with
	}
	for i := range n {
		switch {
		case !wanted(i):
		case first < 0:
			first = i
		default:
			others.Go(func() {
				defer func() {
					if r := recover(); r != nil { // of a user's Store: its caller may recover, this goroutine's nobody
						others.once.Do(func() { others.fell = r })
					}
				}()
				f(i)
			})
		}
	}
	func() {
		defer others.Wait() // also where f panics: the others use what its caller frees
		if first >= 0 {
			f(first)
		}
	}()
	if others.fell != nil {
		panic(others.fell)
	}
}

// everyShard calls f for all shards at once and joins their errors, each with
// the name of its shard, in the order of the shards.
func (c *Conn) everyShard(f func(shard int) error) error { return everyOf(c.shards, f) }

func everyOf(shards []shard, f func(shard int) error) error {
	errs := make([]error, len(shards))
	eachOf(len(shards), func(int) bool { return true }, func(i int) {
		if err := f(i); err != nil {
			errs[i] = fmt.Errorf("shard %s: %w", shards[i].name, err)
		}
	})
	return errors.Join(errs...)
}

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

// everyServer calls f for all servers at once, those included that keys were
// divided among before, and joins their errors as everyShard does.
func (c *Conn) everyServer(ctx context.Context, f func(s shard) error) error {
	servers, err := c.servers(ctx)
	return errors.Join(err, everyOf(servers, func(i int) error { return f(servers[i]) }))
}

// servers returns all shards, those included that keys were divided among
// before, and in place of a cluster its masters. One that cannot say who they are
// is an error, and left out.
func (c *Conn) servers(ctx context.Context) (all []shard, err error) {
	for _, s := range slices.Concat(c.shards, c.former.gone()) {
		divided, ok := s.store.(driver.Cluster)
		if !ok {
			all = append(all, s)
			continue
		}
		masters, e := divided.Masters(ctx)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("shard %s: %w", s.name, e))
		}
		for _, m := range masters {
			all = append(all, shard{s.name, m})
		}
	}
	return all, err
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
