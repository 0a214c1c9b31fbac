package redigo

import (
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// TestNeedOf checks names of commands in any case and at any index.
func TestNeedOf(t *testing.T) {
	for _, c := range []struct {
		mode  driver.Mode
		names []string
		want  need
	}{
		{0, []string{"GET"}, shareable},
		{driver.ReadOnly, []string{"GET", "SUBSCRIBE"}, disposable},
		{driver.Own, []string{"GET"}, exclusive},
		{driver.Own, []string{"SELECT"}, disposable},
		{0, []string{"SET", "blpop"}, exclusive},
		{0, []string{"wAtCh", "GET"}, disposable},
		{0, []string{"PUNSUBSCRIBE"}, disposable},
		{0, []string{"PUNSUBSCRIBEX"}, shareable},
		{0, []string{"A", "BITFIELD_RO", "GEORADIUSBYMEMBER_RO"}, shareable},
	} {
		p := driver.NewPipeline(c.mode)
		for _, name := range c.names {
			p.Cmd(name).Key("k").Int(1)
		}
		assert.Equal(t, c.want, needOf(p), "%v", c.names)
		p.Free()
	}
	p := driver.NewPipeline(0)
	defer p.Free()
	p.Cmd("SET").Key("k").Bytes(make([]byte, maxShared))
	assert.Equal(t, exclusive, needOf(p), "large")
}

// BenchmarkNeedOf measures its cost for each call.
func BenchmarkNeedOf(b *testing.B) {
	for _, name := range []string{"GET", "HGET", "EVALSHA"} {
		b.Run(name, func(b *testing.B) {
			p := driver.NewPipeline(0)
			p.Cmd(name).Key("k").String("v")
			for b.Loop() {
				if needOf(p) != shareable {
					b.Fatal("it is shareable")
				}
			}
		})
	}
}
