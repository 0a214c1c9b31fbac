package memory_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/maypok86/otter/v2"
)

const benchEntries = 10_000

// BenchmarkGet compares reading 100 bytes through Do with the same read from an otter
// cache. Far from its bound a store does not tell the policy of reads. A full store
// does, as a full otter cache records reads. Both do the work of the policy in the
// caller, so that it is measured.
//
//	otter     GetIfPresent of an otter cache
//	do        Do of a command made in advance
//	store     making the command, Do, and reading the reply
//	expiring  the same for a key with a deadline, which also reads the clock
func BenchmarkGet(b *testing.B) {
	value := bytes.Repeat([]byte("x"), 100)
	for _, fill := range []int{100, benchEntries} {
		keys := make([]string, fill)
		for i := range keys {
			keys[i] = fmt.Sprint("profile.", i)
		}
		cache := otter.Must(&otter.Options[string, []byte]{MaximumSize: benchEntries, Executor: func(f func()) { f() }})
		store := open(b, memory.Options{MaxEntries: benchEntries})
		expiring := open(b, memory.Options{MaxEntries: benchEntries})
		p := driver.NewPipeline(0)
		defer p.Free()
		for _, key := range keys {
			cache.Set(key, value)
			set(b, store, p, key, value, 0)
			set(b, expiring, p, key, value, 1_000_000)
		}
		b.Run(fmt.Sprintf("otter/%d", fill), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if v, ok := cache.GetIfPresent(keys[i%100]); ok && len(v) != 100 {
					b.Fatal(v)
				}
			}
		})
		b.Run(fmt.Sprintf("do/%d", fill), func(b *testing.B) { benchDo(b, store, keys[0]) })
		b.Run(fmt.Sprintf("store/%d", fill), func(b *testing.B) { benchGet(b, store, keys[:100]) })
		b.Run(fmt.Sprintf("expiring/%d", fill), func(b *testing.B) { benchGet(b, expiring, keys[:100]) })
	}
}

// benchDo measures Do without making the command and reading the reply.
func benchDo(b *testing.B, s *memory.Store, key string) {
	ctx := context.Background()
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.Cmd("GET").Key(key)
	b.ReportAllocs()
	for b.Loop() {
		p.ResetReplies()
		if err := s.Do(ctx, p); err != nil {
			b.Fatal(err)
		}
	}
}

func benchGet(b *testing.B, s *memory.Store, keys []string) {
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("GET").Key(keys[i%len(keys)])
		if err := s.Do(ctx, p); err != nil {
			b.Fatal(err)
		}
		if v, ok, err := p.Next().Bytes(); err != nil || ok && len(v) != 100 {
			b.Fatal(v, ok, err)
		}
		p.Free()
	}
}

func set(b *testing.B, s *memory.Store, p *driver.Pipeline, key string, value []byte, ms int64) {
	p.Reset(0)
	p.Cmd("SET").Key(key).Bytes(value)
	if ms > 0 {
		p.String("PX").Int(ms)
	}
	if err := s.Do(context.Background(), p); err != nil {
		b.Fatal(err)
	}
	if err := p.Next().OK(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSet overwrites keys, and adds keys to a full store.
func BenchmarkSet(b *testing.B) {
	value := bytes.Repeat([]byte("x"), 100)
	keys := make([]string, 4*benchEntries)
	for i := range keys {
		keys[i] = fmt.Sprint("profile.", i)
	}
	for _, n := range []int{100, len(keys)} {
		for _, ms := range []int64{0, 1_000_000} {
			b.Run(fmt.Sprintf("keys=%d/ttl=%t", n, ms > 0), func(b *testing.B) {
				s := open(b, memory.Options{MaxEntries: benchEntries})
				p := driver.NewPipeline(0)
				defer p.Free()
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					set(b, s, p, keys[i%n], value, ms)
				}
			})
		}
	}
}

// BenchmarkSorted runs commands on a sorted set of 100,000 members.
func BenchmarkSorted(b *testing.B) {
	s := open(b, memory.Options{})
	add := []string{"ZADD", "board"}
	for i := range 100_000 {
		add = append(add, fmt.Sprint(i*7919%100_003), fmt.Sprint("member", i))
	}
	run(b, s, 0, add)
	for _, c := range []string{"ZRANK board member500", "ZADD board 7 member500", "ZRANGE board 5000 5009"} {
		b.Run(words(c)[0], func(b *testing.B) {
			p := driver.NewPipeline(0)
			defer p.Free()
			b.ReportAllocs()
			for b.Loop() {
				p.Reset(0)
				appendCommand(p, words(c))
				if err := s.Do(context.Background(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
