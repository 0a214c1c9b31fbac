package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/gocaches/caches"
)

// A loader is a cache in front of a function, as its documentation shows it to
// be used: what it does not hold, it has its source load, and keeps it as JSON.
type loader interface {
	get(ctx context.Context, id int) (User, error)
	// close ends the connections; no operation is under way.
	close()
}

// A tier says which copy of a result answers a hit.
type tier int

const (
	// asComes is what is recommended for functions. No cache of the process is
	// added to a library that works without.
	asComes tier = iota
	// fromServer has every hit ask the server.
	fromServer
	// fromMemory keeps results in the process as well.
	fromMemory
)

const (
	lifetime = time.Hour // of all that is stored
	poolSize = 64        // connections, of who has a pool; the others share theirs among all callers
)

// A loaderPeer is a kind of loader.
type loaderPeer struct {
	name  string
	open  func(addr string, s *source, t tier) (loader, error)
	alone scope           // where one run at a time is promised for a key
	notes map[tier]string // what a reader of its figures must know
}

// A scope is how far a promise goes.
type scope int

const (
	nowhere scope = iota
	inProcess
	everywhere
)

// promise returns how often the function may run for a key that callers of
// several clients, each as good as a process, ask for at once.
func (p loaderPeer) promise(clients, callers int) int {
	switch p.alone {
	case everywhere:
		return 1
	case inProcess:
		return clients
	}
	return callers
}

// ourLoaderPeer is a Cached function, all options at their defaults.
var ourLoaderPeer = loaderPeer{name: "ours", alone: everywhere, open: func(addr string, s *source, t tier) (loader, error) {
	return newOurLoader(addr, s, t)
}}

// loaderPeers are in their default settings but for the codec, the time to live
// and the pool.
var loaderPeers = []loaderPeer{
	{"by-hand", openByHand, nowhere, map[tier]string{asComes: "redigo: GET, the function, SET"}},
	{"go-redis-cache", openGoRedisCache, inProcess, map[tier]string{fromMemory: "TinyLFU; blind to other processes"}},
	{"jetcache", openJetcache, inProcess, map[tier]string{fromMemory: "FreeCache; blind to other processes"}},
	{"gocache", openGocache, inProcess, map[tier]string{asComes: "stores after it has answered"}},
	{"sturdyc", openSturdyc, inProcess, map[tier]string{
		asComes:    "JSON in a record of its own; keeps it in memory as well; stores after it has answered",
		fromServer: "JSON in a record of its own; its memory is cleared before each call",
		fromMemory: "blind to other processes",
	}},
	{"rueidisaside", openRueidisAside, everywhere, map[tier]string{
		asComes:    "with its client-side cache, which wakes those who wait",
		fromServer: "client-side cache off, so that nobody who waits would be woken",
	}},
}

func loaderNames() []string {
	var names []string
	for _, p := range loaderPeers {
		names = append(names, p.name)
	}
	return names
}

// loaderPeersOf returns ours and then those of the given names that -peers asks
// for.
func (b bench) loaderPeersOf(names ...string) []loaderPeer {
	all := []loaderPeer{ourLoaderPeer}
	for _, p := range loaderPeers {
		if slices.Contains(chosen(b.peers, names...), p.name) {
			all = append(all, p)
		}
	}
	return all
}

// An opened is a loader that takes part in a comparison, and who watches it.
type opened struct {
	name string
	loader
	watch *watch
}

// ask gets the result for id and checks it.
func (o opened) ask(ctx context.Context, id int) error {
	u, err := o.get(ctx, id)
	return sameUser(u, id, err)
}

// openLoaders opens peers, each with a source of its own.
func openLoaders(addr string, p *probe, t tier, peers []loaderPeer) (all []opened, closeAll func(), err error) {
	closeAll = func() {
		for _, l := range all {
			l.close()
		}
	}
	for _, peer := range peers {
		s := &source{}
		l, err := peer.open(addr, s, t)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("%s: %w", peer.name, err)
		}
		all = append(all, opened{peer.name, l, &watch{probe: p, source: s, note: peer.notes[t]}})
	}
	return all, closeAll, nil
}

// ourLoader is a Cached function.
type ourLoader struct {
	conn *caches.Conn
	f    *caches.CachedFunc[int, User]
}

func newOurLoader(addr string, s *source, t tier) (*ourLoader, error) {
	conn, err := caches.Open("redis://" + addr)
	if err != nil {
		return nil, err
	}
	c := caches.Cache[User]{Prefix: "ours", TTL: lifetime}.On(conn)
	if t == fromMemory {
		c.Near = &caches.NearOptions{MaxEntries: 2 * keys, MaxAge: lifetime}
	}
	return &ourLoader{conn, caches.Cached(c, s.load, &caches.CachedOptions[int, User]{Name: "user"})}, nil
}

func (l *ourLoader) get(ctx context.Context, id int) (User, error) { return l.f.Get(ctx, id) }

func (l *ourLoader) close() { _ = l.conn.Close() }

// byHand is what one writes without any of them, as little as works.
type byHand struct {
	pool   *redis.Pool
	source *source
}

func openByHand(addr string, s *source, _ tier) (loader, error) {
	dial := func() (redis.Conn, error) { return redis.Dial("tcp", addr) }
	return byHand{&redis.Pool{MaxIdle: poolSize, MaxActive: poolSize, Wait: true, Dial: dial}, s}, nil
}

// get holds no connection while the function runs.
func (l byHand) get(ctx context.Context, id int) (u User, err error) {
	key := "by-hand:" + strconv.Itoa(id)
	data, err := redis.Bytes(l.do("GET", key))
	if err == nil {
		return u, json.Unmarshal(data, &u)
	}
	if !errors.Is(err, redis.ErrNil) {
		return u, err
	}
	if u, err = l.source.load(ctx, id); err != nil {
		return u, err
	}
	if data, err = json.Marshal(u); err != nil {
		return u, err
	}
	_, err = l.do("SET", key, data, "PX", lifetime.Milliseconds())
	return u, err
}

func (l byHand) do(cmd string, args ...any) (any, error) {
	conn := l.pool.Get()
	defer conn.Close()
	return conn.Do(cmd, args...)
}

func (l byHand) close() { _ = l.pool.Close() }
