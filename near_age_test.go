package caches_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/testutil"
)

// How old a value may be that is served near: one process writes, another reads,
// and both say afterwards what they did and when.

const (
	agedKeys    = 200
	agedReaders = 4
)

// A sequel is one write of another process that the server has acknowledged.
type sequel struct {
	Key   int   // -1 for all keys
	Seq   int64 // counts the writes; what is stored, unless it was a removal
	Acked int64 // nanoseconds of Unix time
	TTL   time.Duration
}

// A look is one read.
type look struct {
	key   int
	seq   int64
	begun int64 // nanoseconds of Unix time
}

func aged(conn *caches.Conn, near *caches.NearOptions) caches.Cache[int64] {
	return caches.Cache[int64]{Prefix: "aged", TTL: time.Minute, Near: near}.On(conn)
}

// sequelWorker writes from its first question to its second, and answers that
// with its sequels.
func sequelWorker(j job, conn *caches.Conn, in *json.Decoder, out *json.Encoder) error {
	var word string
	if err := in.Decode(&word); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan []sequel)
	go func() { done <- writeSequels(ctx, conn, rand.New(rand.NewPCG(j.Seed, 0))) }()
	if err := out.Encode("begun"); err != nil {
		return err
	}
	err := in.Decode(&word)
	stop()
	if err != nil {
		return err
	}
	return out.Encode(<-done)
}

// writeSequels stores, removes, lets expire and now and then flushes, until ctx
// ends. Large values elsewhere have the server evict.
func writeSequels(ctx context.Context, conn *caches.Conn, random *rand.Rand) (all []sequel) {
	c := aged(conn, nil)
	filler := caches.Cache[[]byte]{Prefix: "filler", Serializer: caches.Raw}.On(conn)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for seq := int64(1); ; seq++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return all
		}
		w := sequel{Key: random.IntN(agedKeys), Seq: seq, TTL: time.Minute}
		var err error
		switch n := random.IntN(1000); {
		case n == 0:
			w.Key, err = -1, conn.UnsafeFlush(ctx)
		case n < 50:
			err = errOf(c.Key(w.Key).Delete(ctx))
		case n < 300:
			w.TTL = time.Duration(1+random.IntN(100)) * time.Millisecond
			err = c.Key(w.Key).WithTTL(w.TTL).Set(ctx, seq)
		default:
			err = c.Key(w.Key).Set(ctx, seq)
			_ = filler.Key(random.IntN(1000)).Set(ctx, make([]byte, 10_000))
		}
		if err != nil {
			continue // nobody has acknowledged it, and it may have been done or not
		}
		w.Acked = time.Now().UnixNano()
		all = append(all, w)
	}
}

// readAged reads until ctx ends, some reads every millisecond.
func readAged(ctx context.Context, c caches.Cache[int64], random *rand.Rand, perMilli int) (looks []look, faults int) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return looks, faults
		}
		for range perMilli {
			l := look{key: random.IntN(agedKeys), begun: time.Now().UnixNano()}
			var err error
			switch l.seq, err = c.Key(l.key).Get(context.Background()); {
			case err == nil:
				looks = append(looks, l)
			case !errors.Is(err, caches.ErrMiss):
				faults++
			}
		}
	}
}

// ageOf returns for how long what a look found had been replaced, removed or
// expired when it began; 0 where it had not. Writes are those of its key.
func ageOf(l look, writes []sequel) time.Duration {
	i, found := slices.BinarySearchFunc(writes, l.seq, func(w sequel, seq int64) int { return int(w.Seq - seq) })
	age := time.Duration(0)
	if found {
		age = max(0, time.Duration(l.begun-writes[i].Acked)-writes[i].TTL)
		i++
	}
	if i < len(writes) {
		age = max(age, time.Duration(l.begun-writes[i].Acked))
	}
	return age
}

// Another process writes, removes, expires and flushes, the server evicts, and
// the connection that tells of it all is killed again and again. What is served
// is never old.
func TestNearAges(t *testing.T) {
	const enough = 1_000_000
	kills, reads := fullOr(200, 10), fullOr(3*enough, 25_000) // half of them find something
	between := fullOr(160*time.Millisecond, 100*time.Millisecond)
	seed := seedOf(t)
	server := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"maxmemory 6mb", "maxmemory-policy allkeys-lru"}})
	conn := open(t, server.DSN()+patience)
	c := aged(conn, &caches.NearOptions{})
	writer := startWorker(t, job{Role: "sequels", DSN: server.DSN() + patience, Seed: seed})
	var word string
	require.NoError(t, writer.ask("go", &word))

	ctx, stop := context.WithCancel(t.Context())
	perMilli := 1 + reads/(kills*int(between.Milliseconds()))/agedReaders
	var mu sync.Mutex
	var looks []look
	faults := 0
	var readers sync.WaitGroup
	for i := range agedReaders {
		readers.Go(func() {
			l, f := readAged(ctx, c, rand.New(rand.NewPCG(seed, uint64(i+1))), perMilli)
			mu.Lock()
			defer mu.Unlock()
			looks, faults = append(looks, l...), faults+f
		})
	}
	killed := killTracking(t, server, kills, between)
	stop()
	readers.Wait()
	var writes []sequel
	require.NoError(t, writer.ask("stop", &writes))
	writer.finish(t)

	require.Zero(t, faults)
	byKey := make([][]sequel, agedKeys)
	for _, w := range writes {
		for key := range byKey {
			if w.Key == key || w.Key == -1 {
				if w.Key == -1 {
					w.TTL = 0
				}
				byKey[key] = append(byKey[key], w)
			}
		}
	}
	var ages []time.Duration
	for _, l := range looks {
		if age := ageOf(l, byKey[l.key]); age > 0 {
			ages = append(ages, age)
		}
	}
	slices.Sort(ages)
	info, err := redis.String(server.Do("INFO", "stats"))
	require.NoError(t, err)
	hits := nearHits(conn, "aged")
	t.Logf("%d reads that found a value, %d near hits of all; %d writes; %d kills of %d; %s", len(looks), hits, len(writes), killed, kills, infoLines(info, "evicted_keys", "expired_keys"))
	t.Logf("%d stale reads (%.4f %%): p50 %v, p99 %v, p99.9 %v, max %v", len(ages), 100*float64(len(ages))/float64(len(looks)),
		quantile(ages, 0.5), quantile(ages, 0.99), quantile(ages, 0.999), quantile(ages, 1))
	require.Positive(t, hits)
	require.GreaterOrEqual(t, killed, kills/2)
	require.Less(t, quantile(ages, 1), 3*time.Second, "the lease is the bound whatever happens")
	if full() {
		require.GreaterOrEqual(t, len(looks), enough)
		require.LessOrEqual(t, quantile(ages, 0.999), 50*time.Millisecond)
	}
}

// killTracking kills the connection that subscribes, n times, and returns how
// often there was one.
func killTracking(t *testing.T, server *testutil.RedisServer, n int, between time.Duration) (killed int) {
	t.Helper()
	pace := time.NewTicker(between)
	defer pace.Stop()
	for range n {
		<-pace.C
		k, err := redis.Int(server.Do("CLIENT", "KILL", "TYPE", "pubsub"))
		require.NoError(t, err)
		killed += k
	}
	return killed
}

// quantile returns the value below which q of sorted lie, 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// infoLines returns those lines of INFO that begin with one of names.
func infoLines(info string, names ...string) string {
	var found []string
	for line := range strings.Lines(info) {
		if name, _, _ := strings.Cut(line, ":"); slices.Contains(names, name) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, ", ")
}
