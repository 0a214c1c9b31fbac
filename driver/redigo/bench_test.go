package redigo_test

import (
	"context"
	"strings"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/gomodule/redigo/redis"
)

// BenchmarkGet compares the Store with redigo's own Pool, from one goroutine and
// from several.
func BenchmarkGet(b *testing.B) {
	r := testutil.Redis(b, nil)
	s := open(b, redigo.Config{Address: r.Addr()})
	must(b, s, "SET", "k", strings.Repeat("x", 100))
	pool := &redis.Pool{MaxIdle: 64, Dial: func() (redis.Conn, error) { return redis.Dial("tcp", r.Addr()) }}
	defer func() { _ = pool.Close() }()
	store := func() error {
		p := driver.NewPipeline(driver.ReadOnly)
		defer p.Free()
		p.Cmd("GET").Key("k")
		return s.Do(context.Background(), p)
	}
	redigoPool := func() error {
		c := pool.Get()
		defer func() { _ = c.Close() }()
		_, err := c.Do("GET", "k")
		return err
	}
	for name, get := range map[string]func() error{"store": store, "redigo": redigoPool} {
		b.Run(name+"/alone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := get(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/together", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := get(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
