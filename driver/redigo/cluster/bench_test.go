package cluster_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/testutil"
)

// BenchmarkOneServer measures the cost of slots: the same server used through a
// cluster Store and directly.
func BenchmarkOneServer(b *testing.B) {
	c := testutil.Cluster(b, 1, 0)
	direct, err := redigo.Open(redigo.Config{Address: c.Addrs()[0]})
	require.NoError(b, err)
	defer func() { _ = direct.Close() }()
	for name, s := range map[string]driver.Store{"direct": direct, "cluster": open(b, cluster.Config{Seeds: c.Addrs()})} {
		b.Run("get/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					benchGet(b, s)
				}
			})
		})
	}
}

func benchGet(b *testing.B, s driver.Store) {
	p := driver.NewPipeline(driver.ReadOnly)
	defer p.Free()
	p.CmdKey("GET", "", "profile.42")
	if err := s.Do(b.Context(), p); err != nil {
		b.Error(err)
	}
}

// BenchmarkMGet1000 reads a thousand keys of three servers with one MGET.
func BenchmarkMGet1000(b *testing.B) {
	c := testutil.Cluster(b, 3, 0)
	s := open(b, cluster.Config{Seeds: c.Addrs()})
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = "profile." + strconv.Itoa(i)
		_, err := run(s, 0, "SET", keys[i], "a value of some length, as they come in life")
		require.NoError(b, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("MGET")
		for _, key := range keys {
			p.Key(key)
		}
		if err := s.Do(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		if e, err := p.Next().Elems(); err != nil || e.Len() != len(keys) {
			b.Fatal(err)
		}
		p.Free()
	}
}
