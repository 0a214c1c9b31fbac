package redigo

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
)

// An echo is a server in this process that has one reply to all commands of a
// size: the rest of a call's time is the client's own.
type echo struct {
	net.Conn
	size    int
	replies string
	reply   int // bytes
	written chan int
	left    string
	once    sync.Once
	closed  chan struct{}
}

func (e *echo) Write(b []byte) (int, error) {
	e.written <- len(b) / e.size
	return len(b), nil
}

func (e *echo) Read(b []byte) (int, error) {
	if len(e.left) == 0 {
		select {
		case n := <-e.written:
			e.left = e.replies[:n*e.reply]
		case <-e.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, e.left)
	e.left = e.left[n:]
	return n, nil
}

func (e *echo) Close() error                     { e.once.Do(func() { close(e.closed) }); return nil }
func (e *echo) SetReadDeadline(time.Time) error  { return nil }
func (e *echo) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkMux measures the client's share of a GET from many goroutines,
// without system calls or a server. With -cpu 1 its figures are repeatable,
// unlike those of the module bench.
func BenchmarkMux(b *testing.B) {
	const key, reply = "0123456789", "$5\r\nhello\r\n"
	for _, g := range []int{1, 8, 64, 256, 1024} {
		b.Run(fmt.Sprintf("g=%d", g), func(b *testing.B) {
			s, err := Open(Config{Address: "127.0.0.1:1"})
			if err != nil {
				b.Fatal(err)
			}
			s.starvedYield = time.Hour
			server := &echo{
				size: len("*2\r\n$3\r\nGET\r\n$10\r\n") + len(key) + 2, reply: len(reply),
				replies: strings.Repeat(reply, maxFlight), written: make(chan int, maxFlight), closed: make(chan struct{}),
			}
			m := newMux(&s.lanes[0], &conn{nc: server, sock: server})
			m.watchdog.lastBeat = time.Since(base) + time.Hour // no PING: it has another size
			s.lanes[0].cur.Store(m)
			defer func() { _ = s.Close() }()
			b.ReportAllocs()
			b.ResetTimer()
			var callers sync.WaitGroup
			for range g {
				callers.Go(func() {
					for range b.N/g + 1 {
						p := driver.NewPipeline(driver.ReadOnly)
						p.CmdKey("GET", "", key)
						err := s.Do(context.Background(), p)
						v, ok, _ := p.Next().Bytes()
						if err != nil || !ok || len(v) != 5 {
							b.Error(err)
						}
						p.Free()
					}
				})
			}
			callers.Wait()
		})
	}
}

// BenchmarkFrame measures how long the reader takes to find the end of a reply.
func BenchmarkFrame(b *testing.B) {
	bulk := "$100\r\n" + strings.Repeat("x", 100) + "\r\n"
	for name, reply := range map[string]string{
		"GET":      bulk,
		"SET":      "+OK\r\n",
		"MGET 100": "*100\r\n" + strings.Repeat(bulk, 100),
	} {
		b.Run(name, func(b *testing.B) {
			f, buf := framer{limits: Limits{}.orDefaults()}, []byte(reply)
			for b.Loop() {
				if f.usual(buf) > 0 {
					continue
				}
				f.begin(1)
				if err := f.advance(buf); err != nil || f.left > 0 {
					b.Fatal(err)
				}
			}
		})
	}
}
