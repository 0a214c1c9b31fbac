package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/gocaches/caches"
)

var clusterOps = []string{"get-many", "get", "set-many"}

const (
	clusterMasters = 3
	clusterKeys    = 20_000
	clusterBatch   = 1000 // keys of a get-many, of nearly as many slots
)

// cluster sets objects in a Redis Cluster beside other clients: 1,000 keys that
// are read at once, a single one, and 100 that are written at once. An operation
// of the table is a whole batch. The keys of a batch are of all slots, so no
// client can read them by one command of each master.
func cluster(b bench) error {
	nodes, err := b.servers.startCluster(clusterMasters)
	defer nodes.stop()
	if err != nil {
		return err
	}
	p, err := newProbe(nodes.addrs()...)
	if err != nil {
		return err
	}
	defer p.close()
	all, closeAll, err := openCluster(nodes.addrs(), b.peers)
	if err != nil {
		return err
	}
	defer closeAll()
	d := newClusterData()
	if err := d.store(all[0]); err != nil {
		return err
	}
	for _, name := range chosen(b.ops, clusterOps...) {
		c := clusterCases[name]
		for _, g := range b.callersOr(c.callers...) {
			if err := b.clusterOf(p, d, name, g, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// A clusterCase is an operation of the lane, one of clusterOps.
type clusterCase struct {
	title   string
	callers []int
	do      func(ctx context.Context, c clusterClient, d *data, from int) error
	notes   map[string]string // by peer
}

var clusterCases = map[string]clusterCase{
	"get-many": {"get-many n=1000", []int{1, 8, 64}, func(ctx context.Context, c clusterClient, d *data, from int) error {
		return c.batchGet(ctx, d, from, clusterBatch)
	}, map[string]string{"go-redis": "Pipelined GETs", "rueidis": "rueidis.MGet"}},
	"get": {"get", []int{1, 64, 256}, func(ctx context.Context, c clusterClient, d *data, from int) error {
		return c.getOne(ctx, d, from)
	}, nil},
	"set-many": {"set-many n=100", []int{1, 8, 64}, func(ctx context.Context, c clusterClient, d *data, from int) error {
		return c.batchSet(ctx, d, from, batch)
	}, map[string]string{"go-redis": "Pipelined SETs", "rueidis": "DoMulti of SETs"}},
}

func (b bench) clusterOf(p *probe, d *data, name string, g int, all []clusterPeer) error {
	l, c := newLoad(g, b.cancel), clusterCases[name]
	var contenders []contender
	for _, peer := range all {
		w := &watch{probe: p, note: c.notes[peer.name]}
		contenders = append(contenders, w.contender(l, peer.name, func(ctx context.Context, n int) error {
			return c.do(ctx, peer, d, d.at(n))
		}))
	}
	return b.compare("cluster", fmt.Sprintf("%s g=%d", c.title, g), contenders)
}

// newClusterData has its keys in an order of chance: those of a batch are any.
func newClusterData() *data {
	return makeData(rand.New(rand.NewPCG(1, 2)).Perm(clusterKeys), clusterBatch)
}

// store stores all values.
func (d *data) store(c clusterClient) error {
	for from := 0; from < d.count; from += clusterBatch {
		if err := c.batchSet(context.Background(), d, from, clusterBatch); err != nil {
			return err
		}
	}
	return nil
}

// A clusterClient is a client whose keys are divided among servers.
type clusterClient interface {
	batcher
	getOne(ctx context.Context, d *data, i int) error
	close()
}

type clusterPeer struct {
	name string
	clusterClient
}

// clusterPeers are in their default settings, as the documentation shows them.
var clusterPeers = []struct {
	name string
	open func(addrs []string) (clusterClient, error)
}{
	{"ours", openOurCluster},
	{"go-redis", openGoRedisCluster},
	{"rueidis", openRueidisCluster},
}

// openCluster opens ours and the peers that are asked for, all if none is.
func openCluster(addrs, asked []string) (all []clusterPeer, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range all {
			c.close()
		}
	}
	for _, peer := range clusterPeers {
		if peer.name != "ours" && len(asked) > 0 && !slices.Contains(asked, peer.name) {
			continue
		}
		c, err := peer.open(addrs)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("%s: %w", peer.name, err)
		}
		all = append(all, clusterPeer{peer.name, c})
	}
	return all, closeAll, nil
}

// ourCluster is what an application has: objects, not the transport.
type ourCluster struct {
	conn  *caches.Conn
	cache caches.Cache[[]byte]
}

func openOurCluster(addrs []string) (clusterClient, error) {
	conn, err := caches.Open("redis+cluster://" + strings.Join(addrs, ","))
	if err != nil {
		return nil, err
	}
	o := caches.Options{Prefix: keyPrefix, TTL: lifetime, Serializer: caches.Raw}
	return ourCluster{conn, caches.Cache[[]byte](o).On(conn)}, nil
}

func (o ourCluster) getOne(ctx context.Context, d *data, i int) error {
	v, err := o.cache.Key(d.ids[i]).Get(ctx)
	return sameBytes(v, d.values[i], err)
}

func (o ourCluster) batchGet(ctx context.Context, d *data, from, n int) error {
	values, err := caches.GetMany(ctx, o.cache, d.ids[from:from+n])
	for i := from; i < from+n && err == nil; i++ {
		err = sameBytes(values[d.ids[i]], d.values[i], nil)
	}
	return err
}

func (o ourCluster) batchSet(ctx context.Context, d *data, from, n int) error {
	values := make(map[int][]byte, n)
	for i := from; i < from+n; i++ {
		values[d.ids[i]] = d.bytes[i]
	}
	return caches.SetMany(ctx, o.cache, values)
}

func (o ourCluster) close() { _ = o.conn.Close() }

// sameBytes is same for what is not made a string.
func sameBytes(got []byte, want string, err error) error {
	if err == nil && string(got) != want {
		err = errWrong
	}
	return err
}

// goRedisCluster pipelines GETs and SETs, which its client divides among the
// servers: its MGET does not cross slots.
type goRedisCluster struct{ goRedis }

func openGoRedisCluster(addrs []string) (clusterClient, error) {
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: addrs})
	return goRedisCluster{goRedis{c, c}}, nil
}

func (c goRedisCluster) getOne(ctx context.Context, d *data, i int) error {
	return c.get(ctx, d.keys[i], d.values[i])
}

// rueidisCluster reads with the helper that divides an MGET by slots. The one
// for writes knows no time to live.
type rueidisCluster struct{ rueidisClient }

func openRueidisCluster(addrs []string) (clusterClient, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: addrs})
	return rueidisCluster{rueidisClient{c}}, err
}

func (c rueidisCluster) getOne(ctx context.Context, d *data, i int) error {
	return c.get(ctx, d.keys[i], d.values[i])
}

func (c rueidisCluster) batchGet(ctx context.Context, d *data, from, n int) error {
	values, err := rueidis.MGet(c.client, ctx, d.keys[from:from+n])
	for i := from; i < from+n && err == nil; i++ {
		m := values[d.keys[i]]
		v, e := m.ToString()
		err = same(v, d.values[i], e)
	}
	return err
}
