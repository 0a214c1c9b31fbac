package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/gocaches/caches"
)

// A bulkLoader is a loader that takes many ids at once.
type bulkLoader interface {
	getMany(ctx context.Context, ids []int) (map[int]User, error)
	close()
}

type bulkPeer struct {
	name string
	open func(addr string, s *source) (bulkLoader, error)
	note string
}

var ourBulkPeer = bulkPeer{"ours", func(addr string, s *source) (bulkLoader, error) { return newOurLoader(addr, s, fromServer) }, "GetMany"}

var bulkPeers = []bulkPeer{
	{"ours-later", openOurLater, "Batch, Later"},
	{"by-hand", openRueidisByHand, "rueidis: MGET, the function of many ids, DoMulti"},
	{"jetcache", func(addr string, s *source) (bulkLoader, error) { return newJetcache(addr, s, fromServer), nil },
		"a function of many ids"},
	{"sturdyc", func(addr string, s *source) (bulkLoader, error) { return newSturdyc(addr, s, fromServer), nil },
		"a function of many ids; JSON in a record of its own; its memory is cleared before each call; stores after it has answered"},
}

const (
	batchHeld  = 1000    // ids whose results the server holds
	batchFresh = 1 << 20 // from where on nobody has asked
)

// batchCached measures calls of one function, 100 at once. Each missing result
// is computed once and stored.
func batchCached(b bench, p *probe, _ string) error {
	for _, hits := range []int{100, 50} {
		for _, g := range b.callersOr(1, 8) {
			if err := batchCachedOf(b, p, hits, g); err != nil {
				return err
			}
		}
	}
	return nil
}

func batchCachedOf(b bench, p *probe, hits, g int) error {
	l := newLoad(g, b.cancel)
	var fresh atomic.Int64
	var contenders []contender
	for _, peer := range append([]bulkPeer{ourBulkPeer}, bulkPeers...) {
		if len(b.peers) > 0 && peer.name != ourBulkPeer.name && !slices.Contains(b.peers, peer.name) {
			continue
		}
		w := &watch{probe: p, source: &source{}, promise: float64(batch - hits), stores: true, note: peer.note}
		c, err := peer.open(b.addr, w.source)
		if err != nil {
			return fmt.Errorf("%s: %w", peer.name, err)
		}
		defer c.close()
		w.before = func() error { return refill(c, p) }
		contenders = append(contenders, w.contender(l, peer.name, func(ctx context.Context, n int) error {
			ids := make([]int, batch)
			for i := range ids {
				if i < hits {
					ids[i] = (scatter(n) + i) % batchHeld
				} else {
					ids[i] = batchFresh + int(fresh.Add(1))
				}
			}
			return sameUsers(c.getMany(ctx, ids))(ids)
		}))
	}
	return b.compare("batch", fmt.Sprintf("cached n=%d hits=%d%% g=%d", batch, hits, g), contenders)
}

// refill empties the server and has it hold what it is to hold.
func refill(c bulkLoader, p *probe) error {
	if err := p.flush(); err != nil {
		return err
	}
	held := make([]int, batchHeld)
	for i := range held {
		held[i] = i
	}
	for ids := range slices.Chunk(held, batch) {
		if err := sameUsers(c.getMany(context.Background(), ids))(ids); err != nil {
			return err
		}
	}
	missing, err := p.await(batchHeld)
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d results were not stored", missing)
	}
	return err
}

// sameUsers checks that the users are those of ids.
func sameUsers(users map[int]User, err error) func(ids []int) error {
	return func(ids []int) error {
		for _, id := range ids {
			if err == nil {
				err = sameUser(users[id], id, nil)
			}
		}
		return err
	}
}

func (l *ourLoader) getMany(ctx context.Context, ids []int) (map[int]User, error) {
	return l.f.GetMany(ctx, ids)
}

// ourLater makes the calls one by one, in a Batch.
type ourLater struct{ *ourLoader }

func openOurLater(addr string, s *source) (bulkLoader, error) {
	l, err := newOurLoader(addr, s, fromServer)
	return ourLater{l}, err
}

func (l ourLater) getMany(ctx context.Context, ids []int) (map[int]User, error) {
	b := new(caches.Batch)
	promises := make([]*caches.Promise[User], len(ids))
	for i, id := range ids {
		promises[i] = l.f.Later(b, id)
	}
	if err := b.Run(ctx); err != nil {
		return nil, err
	}
	users := make(map[int]User, len(ids))
	for i, id := range ids {
		u, err := promises[i].Value(ctx)
		if err != nil {
			return nil, err
		}
		users[id] = u
	}
	return users, nil
}

func (l jetcacheLoader) getMany(ctx context.Context, ids []int) (map[int]User, error) {
	return l.users.MGetWithErr(ctx, "jetcache", ids, l.source.loadMany)
}

// getMany turns the ids into the strings that sturdyc takes, and back.
func (l sturdycLoader) getMany(ctx context.Context, ids []int) (map[int]User, error) {
	keyOf := l.cache.BatchKeyFn(sturdycPrefix)
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = strconv.Itoa(id)
		if l.clear {
			l.cache.Delete(keyOf(names[i]))
		}
	}
	found, err := l.cache.GetOrFetchBatch(ctx, names, keyOf, l.loadNamed)
	users := make(map[int]User, len(ids))
	for i, id := range ids {
		users[id] = found[names[i]]
	}
	return users, err
}

func (l sturdycLoader) loadNamed(ctx context.Context, names []string) (map[string]User, error) {
	users := make(map[string]User, len(names))
	for _, name := range names {
		id, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		users[name], _ = l.source.load(ctx, id)
	}
	return users, nil
}

// rueidisByHand is what one writes without a cache library: nothing keeps two
// from computing the same.
type rueidisByHand struct {
	client rueidis.Client
	source *source
}

func openRueidisByHand(addr string, s *source) (bulkLoader, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
	return rueidisByHand{c, s}, err
}

func (l rueidisByHand) getMany(ctx context.Context, ids []int) (map[int]User, error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = "by-hand:" + strconv.Itoa(id)
	}
	values, err := l.client.Do(ctx, l.client.B().Mget().Key(names...).Build()).ToArray()
	if err != nil {
		return nil, err
	}
	users := make(map[int]User, len(ids))
	var missing []int
	for i, id := range ids {
		var u User
		switch err := values[i].DecodeJSON(&u); {
		case rueidis.IsRedisNil(err):
			missing = append(missing, id)
		case err != nil:
			return nil, err
		default:
			users[id] = u
		}
	}
	return users, l.loadMissing(ctx, users, missing)
}

func (l rueidisByHand) loadMissing(ctx context.Context, users map[int]User, missing []int) error {
	loaded, err := l.source.loadMany(ctx, missing)
	if err != nil || len(missing) == 0 {
		return err
	}
	cmds := make(rueidis.Commands, 0, len(missing))
	for id, u := range loaded {
		data, err := json.Marshal(u)
		if err != nil {
			return err
		}
		users[id] = u
		cmds = append(cmds, l.client.B().Set().Key("by-hand:"+strconv.Itoa(id)).Value(rueidis.BinaryString(data)).Px(lifetime).Build())
	}
	for _, r := range l.client.DoMulti(ctx, cmds...) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}

func (l rueidisByHand) close() { l.client.Close() }
