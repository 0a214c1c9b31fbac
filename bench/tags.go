package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	gocache "github.com/eko/gocache/lib/v4/cache"
	"github.com/eko/gocache/lib/v4/store"
	gocacheredis "github.com/eko/gocache/store/redis/v4"
	goredis "github.com/redis/go-redis/v9"

	"github.com/gocaches/caches"
)

var tagsOps = []string{"read", "write", "invalidate"}

// tags sets tagged values beside those of eko/gocache, which is the only peer
// that has any: reads and writes of values with three tags, and the invalidation
// of a tag that 10 and 1,000 values have. "ours-untagged" is the same object
// without tags.
//
// Ours vouches for each value at its read, which so asks for the tags as well,
// and invalidates by one command. gocache keeps a set of keys for each tag, which
// it writes with each value and deletes key by key.
func tags(b bench) error {
	p, err := newProbe(b.addr)
	if err != nil {
		return err
	}
	defer p.close()
	conn, err := caches.Open("redis://" + b.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := newGoRedis(b.addr)
	defer client.Close()
	all := []taggerPeer{{"ours", newOurTagger(conn)}, {"gocache", newGocacheTagger(client)}, {"ours-untagged", newUntagged(conn)}}
	for _, c := range all {
		if err := each(keys, func(id int) error { return c.set(context.Background(), id, tagsOf(id)) }); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, name := range chosen(b.ops, tagsOps...) {
		if err := tagsCases(b, p, name, all); err != nil {
			return err
		}
	}
	return nil
}

func tagsCases(b bench, p *probe, name string, all []taggerPeer) error {
	if name == "invalidate" {
		for _, n := range []int{10, 1000} {
			if err := tagsInvalidate(b, p, n, all[:2]); err != nil { // untagged has nothing to invalidate
				return err
			}
		}
		return nil
	}
	for _, g := range b.callersOr(1, 64) {
		if err := tagsUse(b, p, name, g, all); err != nil {
			return err
		}
	}
	return nil
}

// A tagger stores values under tags.
type tagger interface {
	set(ctx context.Context, id int, tags []string) error
	// get returns false for a value that is not there, or does not count.
	get(ctx context.Context, id int, tags []string) (User, bool, error)
	invalidate(ctx context.Context, tag string) error
}

type taggerPeer struct {
	name string
	tagger
}

// tagsOf returns the three tags of an id: one of few, one of many, one of all.
func tagsOf(id int) []string {
	return []string{"team:" + strconv.Itoa(id%10), "city:" + strconv.Itoa(id%1000), "users"}
}

// tagsUse measures reads or writes, of values that are there.
func tagsUse(b bench, p *probe, name string, g int, all []taggerPeer) error {
	l := newLoad(g, b.cancel)
	of := make([][]string, keys)
	for id := range of {
		of[id] = tagsOf(id)
	}
	var contenders []contender
	for _, c := range all {
		do := func(ctx context.Context, n int) error {
			id := scatter(n)
			u, ok, err := c.get(ctx, id, of[id])
			if err == nil && !ok {
				return errWrong
			}
			return sameUser(u, id, err)
		}
		if name == "write" {
			do = func(ctx context.Context, n int) error {
				id := scatter(n)
				return c.set(ctx, id, of[id])
			}
		}
		w := &watch{probe: p}
		contenders = append(contenders, w.contender(l, c.name, do))
	}
	return b.compare("tags", fmt.Sprintf("%s tags=3 g=%d", name, g), contenders)
}

// each calls do for 0 to n-1, from several goroutines.
func each(n int, do func(i int) error) error {
	var next atomic.Int64
	var running sync.WaitGroup
	errs := make([]error, 16)
	for w := range errs {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// tagsInvalidate measures the invalidation of a tag of n values.
func tagsInvalidate(b bench, p *probe, n int, all []taggerPeer) error {
	var contenders []contender
	for _, c := range all {
		i := &invalidation{tagger: c.tagger, probe: p, n: n}
		contenders = append(contenders, contender{c.name, i.turn, i.remark})
	}
	return b.compare("tags", fmt.Sprintf("invalidate n=%d", n), contenders)
}

// An invalidation stores n values, invalidates their tag, and looks at all of
// them. Only what is between is measured.
type invalidation struct {
	tagger
	probe *probe
	n     int
	wrong atomic.Int64
	took  []time.Duration // of a turn; kept for the next
}

// turn goes on for length, or for twice that where the storing takes most of it.
func (i *invalidation) turn(length time.Duration) (turn, error) {
	var t turn
	var total time.Duration
	i.took = i.took[:0]
	for begun := time.Now(); t.ops == 0 || total < length && time.Since(begun) < 2*length; t.ops++ {
		if err := each(i.n, func(id int) error { return i.set(context.Background(), id, []string{theTag}) }); err != nil {
			return t, err
		}
		took, err := i.once(&t)
		if err != nil {
			return t, err
		}
		i.took, total = append(i.took, took), total+took
		if err := each(i.n, i.look); err != nil {
			return t, err
		}
	}
	slices.Sort(i.took)
	return turn{
		rate: t.ops / total.Seconds(), p50: quantile(i.took, 0.50), p99: quantile(i.took, 0.99),
		allocs: t.allocs / t.ops, bytes: t.bytes / t.ops, ops: t.ops, runs: math.NaN(), commands: t.commands / t.ops,
		reads: t.reads / t.ops,
	}, nil
}

// theTag is what is invalidated.
const theTag = "team"

// once invalidates once, and adds to t what that cost.
func (i *invalidation) once(t *turn) (took time.Duration, err error) {
	counted, err := i.probe.count()
	if err != nil {
		return 0, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	if err := i.invalidate(context.Background(), theTag); err != nil {
		return 0, err
	}
	took = time.Since(begun)
	runtime.ReadMemStats(&after)
	t.allocs += float64(after.Mallocs - before.Mallocs)
	t.bytes += float64(after.TotalAlloc - before.TotalAlloc)
	now, err := i.probe.count()
	done := now.since(i.probe, counted)
	t.commands += done.commands
	t.reads += done.reads
	return took, err
}

// look counts a value that is still there.
func (i *invalidation) look(id int) error {
	_, ok, err := i.get(context.Background(), id, []string{theTag})
	if ok {
		i.wrong.Add(1)
	}
	return err
}

func (i *invalidation) remark() (string, bool) {
	if n := i.wrong.Load(); n > 0 {
		return fmt.Sprintf("STALE: %d values were still there", n), true
	}
	return "", false
}

// ourTagger is a tagged Cache.
type ourTagger struct {
	conn  *caches.Conn
	cache caches.Cache[User]
}

func newOurTagger(conn *caches.Conn) tagger {
	return ourTagger{conn, caches.Cache[User]{Prefix: "tagged", TTL: lifetime}.On(conn)}
}

func (t ourTagger) set(ctx context.Context, id int, tags []string) error {
	return t.cache.Key(id).Tagged(tags...).Set(ctx, userOf(id))
}

func (t ourTagger) get(ctx context.Context, id int, tags []string) (User, bool, error) {
	return found(t.cache.Key(id).Tagged(tags...).Get(ctx))
}

func (t ourTagger) invalidate(ctx context.Context, tag string) error {
	return t.conn.InvalidateTags(ctx, tag)
}

// untagged is the same without tags.
type untagged struct{ cache caches.Cache[User] }

func newUntagged(conn *caches.Conn) tagger {
	return untagged{caches.Cache[User]{Prefix: "untagged", TTL: lifetime}.On(conn)}
}

func (t untagged) set(ctx context.Context, id int, _ []string) error {
	return t.cache.Key(id).Set(ctx, userOf(id))
}

func (t untagged) get(ctx context.Context, id int, _ []string) (User, bool, error) {
	return found(t.cache.Key(id).Get(ctx))
}

func (t untagged) invalidate(context.Context, string) error { return errors.ErrUnsupported }

// found makes a miss an answer.
func found(u User, err error) (User, bool, error) {
	if errors.Is(err, caches.ErrMiss) {
		return User{}, false, nil
	}
	return u, err == nil, err
}

// gocacheTagger is eko/gocache over its Redis store, with JSON made by hand.
type gocacheTagger struct{ cache *gocache.Cache[[]byte] }

func newGocacheTagger(client *goredis.Client) tagger {
	return gocacheTagger{gocache.New[[]byte](gocacheredis.NewRedis(client, store.WithExpiration(lifetime)))}
}

func (t gocacheTagger) set(ctx context.Context, id int, tags []string) error {
	data, err := json.Marshal(userOf(id))
	if err != nil {
		return err
	}
	return t.cache.Set(ctx, "gocache-tagged:"+strconv.Itoa(id), data, store.WithTags(tags))
}

func (t gocacheTagger) get(ctx context.Context, id int, _ []string) (u User, ok bool, err error) {
	data, err := t.cache.Get(ctx, "gocache-tagged:"+strconv.Itoa(id))
	if errors.Is(err, store.NotFound{}) {
		return u, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &u)
	}
	return u, err == nil, err
}

func (t gocacheTagger) invalidate(ctx context.Context, tag string) error {
	return t.cache.Invalidate(ctx, store.WithInvalidateTags([]string{tag}))
}
