package driver_test

import (
	"bytes"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
	"github.com/gomodule/redigo/redis"
)

var (
	reply100 = bytes.Repeat([]byte("x"), 100)
	bulk100  = []byte("$100\r\n" + string(reply100) + "\r\n")
	array100 = []byte("*100\r\n" + strings.Repeat(string(bulk100), 100))
)

// wire is a connection to a server that always sends the same reply.
type wire struct {
	net.Conn
	reply []byte
	left  []byte
}

func (w *wire) Write(b []byte) (int, error) { w.left = w.reply; return len(b), nil }

func (w *wire) Read(b []byte) (int, error) {
	n := copy(b, w.left)
	w.left = w.left[n:]
	return n, nil
}

func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

type piped struct {
	out   []byte
	reply []byte
}

func (s *piped) Do(p *driver.Pipeline) error {
	s.out = append(s.out[:0], p.Frames()...)
	(*resp.Replies)(p.Replies()).Append(s.reply, 1)
	return nil
}

// BenchmarkSeam compares redigo, which boxes arguments and replies in []any, with a
// Pipeline, which decodes replies in place. Both run the same commands and read a
// prepared reply; neither uses a socket.
func BenchmarkSeam(b *testing.B) {
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "profile." + strconv.Itoa(i)
	}
	for _, of := range []struct {
		name string
		run  func(b *testing.B, keys []string)
	}{
		{"boxed/get", boxedGet},
		{"pipeline/get", pipelineGet},
		{"boxed/set", boxedSet},
		{"pipeline/set", pipelineSet},
		{"boxed/mget100", boxedMultiGet},
		{"pipeline/mget100", pipelineMultiGet},
	} {
		b.Run(of.name, func(b *testing.B) { of.run(b, keys) })
	}
}

func boxedGet(b *testing.B, keys []string) {
	s := redis.NewConn(&wire{reply: bulk100}, 0, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v, err := redis.String(s.Do("GET", keys[i%100]))
		if err != nil || len(v) != 100 {
			b.Fatal(v, err)
		}
	}
}

func pipelineGet(b *testing.B, keys []string) {
	s := &piped{reply: bulk100}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("GET").Key(keys[i%100])
		s.Do(p)
		v, _, err := p.Next().Bytes()
		if out := string(v); err != nil || len(out) != 100 {
			b.Fatal(v, err)
		}
		p.Free()
	}
}

func boxedSet(b *testing.B, keys []string) {
	s := redis.NewConn(&wire{reply: []byte("+OK\r\n")}, 0, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Do("SET", keys[i%100], reply100); err != nil {
			b.Fatal(err)
		}
	}
}

func pipelineSet(b *testing.B, keys []string) {
	s := &piped{reply: []byte("+OK\r\n")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := driver.NewPipeline(0)
		p.Cmd("SET").Key(keys[i%100]).Bytes(reply100)
		s.Do(p)
		if err := p.Next().OK(); err != nil {
			b.Fatal(err)
		}
		p.Free()
	}
}

func boxedMultiGet(b *testing.B, keys []string) {
	s := redis.NewConn(&wire{reply: array100}, 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		args := make([]any, len(keys))
		for i, key := range keys {
			args[i] = key
		}
		vs, err := redis.Strings(s.Do("MGET", args...))
		if err != nil || len(vs) != 100 {
			b.Fatal(err)
		}
	}
}

func pipelineMultiGet(b *testing.B, keys []string) {
	s := &piped{reply: array100}
	b.ReportAllocs()
	for b.Loop() {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("MGET")
		for _, key := range keys {
			p.Key(key)
		}
		s.Do(p)
		e, err := p.Next().Elems()
		vs := make([]string, e.Len())
		for i := range vs {
			v, _, _ := e.Next().Bytes()
			vs[i] = string(v)
		}
		if err != nil || len(vs) != 100 {
			b.Fatal(err)
		}
		p.Free()
	}
}
