package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"runtime"
	"strconv"
	"sync"

	"github.com/gocaches/caches/internal/resp"
)

// A bare client is a pipelining multiplexer with nothing around it: no
// deadlines, cancellation, retries, limits, statistics, pools for what may not
// be shared, or end. What it reads it trusts, and an error ends the run.
//
// It schedules as the transport does, and is no peer but a measure: of what this
// machine lets such a client do, and of what its duties cost ours.
type bare struct {
	conn  net.Conn
	in    *bufio.Reader
	calls sync.Pool

	mu      sync.Mutex
	out     []byte
	spare   []byte
	queue   []*bareCall
	taken   []*bareCall // by the reader
	unsent  int         // of queue, in out
	flight  int
	peak    int
	state   bareState
	epoch   int
	reading bool
	wake    chan struct{}
}

type bareCall struct {
	done  chan struct{}
	req   []byte
	reply []byte // a string without its header, else as it came
}

type bareState int

const (
	bareIdle bareState = iota
	bareYielding
	bareWriting
)

func openBare(addr string) (client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	b := &bare{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), wake: make(chan struct{}, 1)}
	b.calls.New = func() any { return &bareCall{done: make(chan struct{}, 1)} }
	go func() {
		for range b.wake {
			b.readOn()
		}
	}()
	return b, nil
}

// do makes a call whose commands are in c.req, and waits for its reply.
func (b *bare) do(c *bareCall) {
	b.mu.Lock()
	b.out = append(b.out, c.req...)
	b.queue = append(b.queue, c)
	b.unsent++
	b.flight++
	b.peak = max(b.peak, b.flight)
	switch {
	case b.state == bareYielding && b.unsent >= 3 && b.unsent*3 >= b.peak:
		b.epoch++
		b.flush()
	case b.state != bareIdle:
		b.mu.Unlock()
	case !b.reading:
		b.alone(c)
	default:
		b.state = bareYielding
		b.epoch++
		epoch := b.epoch
		b.mu.Unlock()
		runtime.Gosched()
		b.mu.Lock()
		if b.epoch == epoch {
			b.flush()
		} else {
			b.mu.Unlock()
		}
	}
	<-c.done
}

// alone writes and reads for a caller that nobody else is with.
func (b *bare) alone(c *bareCall) {
	b.reading, b.state = true, bareWriting
	b.write()
	if b.unsent > 0 {
		b.wake <- struct{}{}
		b.flush()
		return
	}
	b.state = bareIdle
	b.mu.Unlock()
	for len(c.done) == 0 {
		b.read()
	}
	b.mu.Lock()
	if b.reading = b.flight > 0; b.reading {
		b.wake <- struct{}{}
	}
	b.mu.Unlock()
}

func (b *bare) flush() {
	b.state = bareWriting
	for b.unsent > 0 {
		b.write()
		if 0 < b.unsent && b.unsent*3 < b.peak {
			b.mu.Unlock()
			runtime.Gosched()
			b.mu.Lock()
		}
	}
	b.state = bareIdle
	b.mu.Unlock()
}

func (b *bare) write() {
	buf := b.out
	b.out, b.spare, b.unsent = b.spare[:0], nil, 0
	b.mu.Unlock()
	if _, err := b.conn.Write(buf); err != nil {
		panic(err)
	}
	b.mu.Lock()
	b.spare = buf
}

// readOn reads until there is nothing to read for now.
func (b *bare) readOn() {
	for few := 0; ; {
		if few++; b.read() > 1 {
			few = 0
		}
		if few < 16 {
			continue
		}
		b.mu.Lock()
		if b.flight == 0 {
			b.reading = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
	}
}

// read answers the calls that are queued when the first reply is there.
func (b *bare) read() (answered int) {
	if _, err := b.in.Peek(1); err != nil {
		runtime.Goexit() // the end
	}
	b.mu.Lock()
	b.taken, b.queue = b.queue, b.taken[:0]
	batch := len(b.taken)
	b.peak -= (b.peak - b.flight) / 16
	b.flight -= batch
	b.mu.Unlock()
	for _, c := range b.taken {
		c.reply = b.appendReply(c.reply[:0])
		c.done <- struct{}{}
	}
	return batch
}

// appendReply appends the next reply: a string without its header, an array with
// the headers of all its strings.
func (b *bare) appendReply(dst []byte) []byte {
	line, _ := b.in.ReadSlice('\n')
	n, _ := strconv.Atoi(string(line[1 : len(line)-2]))
	switch line[0] {
	case '$':
		return b.appendString(dst, n)
	case '*':
		for range n {
			line, _ := b.in.ReadSlice('\n')
			size, _ := strconv.Atoi(string(line[1 : len(line)-2]))
			dst = b.appendString(append(dst, line...), size)
			dst = append(dst, "\r\n"...)
		}
		return dst
	}
	return append(dst, line...)
}

func (b *bare) appendString(dst []byte, n int) []byte {
	value, _ := b.in.Peek(n + 2)
	dst = append(dst, value[:n]...)
	_, _ = b.in.Discard(n + 2)
	return dst
}

// request begins a call of a command; what follows are arguments.
func (b *bare) request(args int, name string) *bareCall {
	c := b.calls.Get().(*bareCall)
	c.req = append(strconv.AppendInt(append(c.req[:0], '*'), int64(args), 10), "\r\n"...)
	return c.arg(name)
}

func (c *bareCall) arg(s string) *bareCall {
	c.req = append(strconv.AppendInt(append(c.req, '$'), int64(len(s)), 10), "\r\n"...)
	c.req = append(append(c.req, s...), "\r\n"...)
	return c
}

func (b *bare) get(_ context.Context, key, want string) error {
	c := b.request(2, "GET").arg(key)
	defer b.calls.Put(c)
	b.do(c)
	return same(string(c.reply), want, nil)
}

func (b *bare) set(_ context.Context, key, value string) error {
	c := b.request(3, "SET").arg(key).arg(value)
	defer b.calls.Put(c)
	b.do(c)
	if !bytes.Equal(c.reply, []byte("+OK\r\n")) {
		return errWrong
	}
	return nil
}

func (b *bare) mget(_ context.Context, keys, want []string) error {
	c := b.request(1+len(keys), "MGET")
	defer b.calls.Put(c)
	for _, key := range keys {
		c.arg(key)
	}
	b.do(c)
	values := make([]string, len(keys))
	for i, raw := 0, c.reply; i < len(keys); i++ {
		var reply []byte
		reply, raw = resp.Cut(raw)
		values[i] = string(reply[bytes.IndexByte(reply, '\n')+1 : len(reply)-2])
	}
	return sameAll(values, want, nil)
}

func (b *bare) close() {
	_ = b.conn.Close()
	close(b.wake)
}
