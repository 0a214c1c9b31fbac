package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	gocache "github.com/eko/gocache/lib/v4/cache"
	"github.com/eko/gocache/lib/v4/store"
	gocacheredis "github.com/eko/gocache/store/redis/v4"
	rediscache "github.com/go-redis/cache/v9"
	jetcache "github.com/mgtv-tech/jetcache-go"
	jetjson "github.com/mgtv-tech/jetcache-go/encoding/json"
	"github.com/mgtv-tech/jetcache-go/local"
	"github.com/mgtv-tech/jetcache-go/remote"
	"github.com/mgtv-tech/jetcache-go/stats"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
	"github.com/viccon/sturdyc"
)

// newGoRedis is the client under all that work with go-redis.
func newGoRedis(addr string) *goredis.Client {
	return goredis.NewClient(&goredis.Options{Addr: addr, PoolSize: poolSize})
}

// goRedisCache is go-redis/cache, whose own codec is msgpack with compression.
type goRedisCache struct {
	client *goredis.Client
	cache  *rediscache.Cache
	source *source
}

func openGoRedisCache(addr string, s *source, t tier) (loader, error) {
	client := newGoRedis(addr)
	o := &rediscache.Options{Redis: client, Marshal: json.Marshal, Unmarshal: json.Unmarshal}
	if t == fromMemory {
		o.LocalCache = rediscache.NewTinyLFU(2*keys, lifetime)
	}
	return goRedisCache{client, rediscache.New(o), s}, nil
}

func (l goRedisCache) get(ctx context.Context, id int) (u User, err error) {
	err = l.cache.Once(&rediscache.Item{
		Ctx: ctx, Key: "go-redis-cache:" + strconv.Itoa(id), Value: &u, TTL: lifetime,
		Do: func(i *rediscache.Item) (any, error) { return l.source.load(i.Ctx, id) },
	})
	return u, err
}

func (l goRedisCache) close() { _ = l.client.Close() }

// jetcacheLoader is jetcache-go by its generic interface, without statistics.
type jetcacheLoader struct {
	client *goredis.Client
	base   jetcache.Cache
	users  *jetcache.T[int, User]
	source *source
}

func openJetcache(addr string, s *source, t tier) (loader, error) {
	return newJetcache(addr, s, t), nil
}

func newJetcache(addr string, s *source, t tier) jetcacheLoader {
	client := newGoRedis(addr)
	o := []jetcache.Option{
		jetcache.WithRemote(remote.NewGoRedisV9Adapter(client)), jetcache.WithRemoteExpiry(lifetime),
		jetcache.WithCodec(jetjson.Name), jetcache.WithStatsHandler(stats.NewHandles(true)),
	}
	if t == fromMemory {
		// Its TinyLFU counts some 50 bytes against the size for each entry.
		o = append(o, jetcache.WithLocal(local.NewFreeCache(256*local.MB, lifetime)))
	}
	base := jetcache.New(o...)
	return jetcacheLoader{client, base, jetcache.NewT[int, User](base), s}
}

func (l jetcacheLoader) get(ctx context.Context, id int) (User, error) {
	return l.users.Get(ctx, "jetcache", id, l.source.load)
}

func (l jetcacheLoader) close() {
	l.base.Close()
	_ = l.client.Close()
}

// gocacheLoader is eko/gocache's loadable cache over its Redis store. What is
// no string or bytes it cannot store there: JSON is made by hand.
type gocacheLoader struct {
	client *goredis.Client
	cache  *gocache.LoadableCache[[]byte]
}

const gocachePrefix = "gocache:"

func openGocache(addr string, s *source, _ tier) (loader, error) {
	client := newGoRedis(addr)
	load := func(ctx context.Context, key any) ([]byte, []store.Option, error) {
		id, err := strconv.Atoi(key.(string)[len(gocachePrefix):])
		if err != nil {
			return nil, nil, err
		}
		u, err := s.load(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		data, err := json.Marshal(u)
		return data, nil, err
	}
	under := gocache.New[[]byte](gocacheredis.NewRedis(client, store.WithExpiration(lifetime)))
	return gocacheLoader{client, gocache.NewLoadable(load, under)}, nil
}

func (l gocacheLoader) get(ctx context.Context, id int) (u User, err error) {
	data, err := l.cache.Get(ctx, gocachePrefix+strconv.Itoa(id))
	if err == nil {
		err = json.Unmarshal(data, &u)
	}
	return u, err
}

func (l gocacheLoader) close() {
	_ = l.cache.Close()
	_ = l.client.Close()
}

// sturdycLoader is sturdyc with Redis behind it. It always has a memory of its
// own; clear has every call ask Redis all the same.
type sturdycLoader struct {
	client *goredis.Client
	cache  *sturdyc.Client[User]
	source *source
	clear  bool
}

const sturdycPrefix = "sturdyc"

func openSturdyc(addr string, s *source, t tier) (loader, error) { return newSturdyc(addr, s, t), nil }

// newSturdyc leaves out the goroutine that evicts, which would never end. Full
// shards evict without it.
func newSturdyc(addr string, s *source, t tier) sturdycLoader {
	client := newGoRedis(addr)
	c := sturdyc.New[User](2*keys, 10, lifetime, 10,
		sturdyc.WithDistributedStorage(sturdycStorage{client}), sturdyc.WithNoContinuousEvictions())
	return sturdycLoader{client, c, s, t == fromServer}
}

func (l sturdycLoader) get(ctx context.Context, id int) (User, error) {
	key := sturdycPrefix + "-" + strconv.Itoa(id)
	if l.clear {
		l.cache.Delete(key)
	}
	return l.cache.GetOrFetch(ctx, key, func(ctx context.Context) (User, error) { return l.source.load(ctx, id) })
}

func (l sturdycLoader) close() { _ = l.client.Close() }

// sturdycStorage is what sturdyc leaves to its users: the commands. It can be
// told of no error.
type sturdycStorage struct{ client *goredis.Client }

func (s sturdycStorage) Get(ctx context.Context, key string) ([]byte, bool) {
	data, err := s.client.Get(ctx, key).Bytes()
	return data, err == nil
}

func (s sturdycStorage) Set(ctx context.Context, key string, value []byte) {
	_ = s.client.Set(ctx, key, value, lifetime).Err()
}

func (s sturdycStorage) GetBatch(ctx context.Context, keys []string) map[string][]byte {
	values, err := s.client.MGet(ctx, keys...).Result()
	if err != nil {
		return nil
	}
	found := make(map[string][]byte, len(keys))
	for i, v := range values {
		if text, ok := v.(string); ok {
			found[keys[i]] = []byte(text)
		}
	}
	return found
}

func (s sturdycStorage) SetBatch(ctx context.Context, records map[string][]byte) {
	_, _ = s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for key, value := range records {
			p.Set(ctx, key, value, lifetime)
		}
		return nil
	})
}

// rueidisAside is rueidisaside by its typed interface.
type rueidisAside struct {
	cache  rueidisaside.TypedCacheAsideClient[User]
	source *source
}

func openRueidisAside(addr string, s *source, t tier) (loader, error) {
	c, err := rueidisaside.NewClient(rueidisaside.ClientOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: t == fromServer},
	})
	if err != nil {
		return nil, err
	}
	marshal := func(u *User) (string, error) {
		data, err := json.Marshal(u)
		return string(data), err
	}
	unmarshal := func(text string) (*User, error) {
		u := new(User)
		return u, json.Unmarshal([]byte(text), u)
	}
	return rueidisAside{rueidisaside.NewTypedCacheAsideClient(c, marshal, unmarshal), s}, nil
}

func (l rueidisAside) get(ctx context.Context, id int) (User, error) {
	u, err := l.cache.Get(ctx, lifetime, "rueidisaside:"+strconv.Itoa(id), func(ctx context.Context, _ string) (*User, error) {
		u, err := l.source.load(ctx, id)
		return &u, err
	})
	if err != nil {
		return User{}, err
	}
	if u == nil {
		return User{}, errors.New("rueidisaside: neither a value nor an error")
	}
	return *u, nil
}

func (l rueidisAside) close() { l.cache.Client().Close() }
