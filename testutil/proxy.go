package testutil

import (
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Proxy sits between clients and one server and disturbs their connections
// the way networks do. A new Proxy passes everything on. Faults can be set
// while connections are open. They apply to open and new connections until
// Heal.
//
// A Proxy is safe for concurrent use. It handles bytes, not commands: with TLS
// it counts encrypted bytes.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	faults   faults
	pipes    map[*pipe]struct{}
	accepted int
	done     chan struct{} // closed by close
}

// faults are the current settings. The zero value of each field means no fault.
type faults struct {
	cutReply, cutRequest budget
	drop, refuse, slice  bool
	delay                time.Duration
	bandwidth            int           // bytes per second
	stalled              chan struct{} // closed when the stall ends
	rate                 float64
	random               *rand.Rand
}

// A budget is the number of bytes that may still pass on a connection.
type budget struct {
	on bool
	n  int
}

// A pipe is a client's connection and the matching connection to the server.
type pipe struct {
	client, server net.Conn
	reply, request budget // remaining; guarded by Proxy.mu
	gap            bool   // a reply was dropped; guarded by Proxy.mu
}

// NewProxy starts a Proxy for the server at host:port, or at the path of a unix
// socket. It listens on a free port of 127.0.0.1, and stops when the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listener: l, pipes: make(map[*pipe]struct{}), done: make(chan struct{})}
	p.running.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// Addr returns the host:port for clients to dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutReply closes each connection after n more bytes of replies, counted from
// now on open connections. Zero closes at the next byte.
func (p *Proxy) CutReply(n int) {
	p.change(func(f *faults) { f.cutReply = budget{true, n} })
}

// CutRequest is CutReply for the bytes that clients send.
func (p *Proxy) CutRequest(n int) {
	p.change(func(f *faults) { f.cutRequest = budget{true, n} })
}

// DropReplies drops the server's replies and keeps connections open. When it is
// turned off, connections with dropped replies are reset, because no network
// delivers data after a gap.
func (p *Proxy) DropReplies(on bool) { p.change(func(f *faults) { f.drop = on }) }

// Delay delays each portion of a reply by d.
func (p *Proxy) Delay(d time.Duration) { p.change(func(f *faults) { f.delay = d }) }

// Bandwidth limits each connection to n bytes per second in each direction, in
// portions of 10 milliseconds. Zero removes the limit, for data in transit too.
func (p *Proxy) Bandwidth(n int) { p.change(func(f *faults) { f.bandwidth = n }) }

// Stall stops reading on both sides, so that writers block once the system's
// buffers are full. Data in transit is passed on when the stall ends. Until
// then, connections closed by either side count as open.
func (p *Proxy) Stall(on bool) {
	p.change(func(f *faults) {
		switch {
		case !on:
			f.stalled = nil
		case f.stalled == nil:
			f.stalled = make(chan struct{})
		}
	})
}

// Refuse resets each new connection at once. Open connections are not affected.
func (p *Proxy) Refuse(on bool) { p.change(func(f *faults) { f.refuse = on }) }

// Slice passes replies on one byte at a time.
func (p *Proxy) Slice(on bool) { p.change(func(f *faults) { f.slice = on }) }

// Rate resets a connection in the middle of a portion of a reply, with the
// given probability for each portion. The random choices are determined by
// seed.
func (p *Proxy) Rate(rate float64, seed uint64) {
	p.change(func(f *faults) { f.rate, f.random = rate, rand.New(rand.NewPCG(seed, 0)) })
}

// Heal removes all faults. Lost data stays lost; see DropReplies.
func (p *Proxy) Heal() { p.change(func(f *faults) { *f = faults{} }) }

// change sets faults and resets the budgets of open connections.
func (p *Proxy) change(set func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.faults.stalled
	set(&p.faults)
	if before != nil && before != p.faults.stalled {
		close(before)
	}
	for c := range p.pipes {
		c.reply, c.request = p.faults.cutReply, p.faults.cutRequest
		if c.gap && !p.faults.drop {
			c.reset()
		}
	}
}

// Conns returns the number of open connections.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pipes)
}

// Accepted returns the number of connections so far, without refused ones.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Reset resets all open connections (RST), like a host that has rebooted.
func (p *Proxy) Reset() { p.end((*pipe).reset) }

// KillAll closes all open connections (FIN), like a server that exits.
func (p *Proxy) KillAll() { p.end((*pipe).close) }

func (p *Proxy) end(how func(*pipe)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pipes {
		how(c)
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	close(p.done) // under mu, so that connect adds no pipe afterwards
	p.mu.Unlock()
	_ = p.listener.Close()
	p.KillAll()
	p.running.Wait()
}

func (p *Proxy) accept() {
	defer p.running.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		c := &pipe{client: client}
		if !p.connect(c) {
			c.reset()
			continue
		}
		p.running.Add(2)
		go p.copy(c, c.server, c.client, (*Proxy).passReply)
		go p.copy(c, c.client, c.server, (*Proxy).passRequest)
	}
}

// connect dials the server for c. It reports false if c is refused.
func (p *Proxy) connect(c *pipe) bool {
	network := "tcp"
	if strings.HasPrefix(p.target, "/") {
		network = "unix"
	}
	server, err := net.Dial(network, p.target)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		return false
	}
	c.server = server
	select {
	case <-p.done:
		return false
	default:
	}
	if p.faults.refuse {
		return false
	}
	p.accepted++
	p.pipes[c] = struct{}{}
	c.reply, c.request = p.faults.cutReply, p.faults.cutRequest
	return true
}

// copy passes bytes on until one side ends, then ends both.
func (p *Proxy) copy(c *pipe, from, to net.Conn, pass func(*Proxy, *pipe, []byte) verdict) {
	defer p.running.Done()
	defer p.forget(c)
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.hold()
		v := pass(p, c, b[:n])
		p.wait(v.delay)
		if !p.write(to, b[:v.pass], v.slice) {
			return
		}
		if v.reset {
			c.reset()
		}
		if v.end {
			return
		}
	}
}

func (p *Proxy) wait(d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.done:
	}
}

// hold waits until the stall ends.
func (p *Proxy) hold() {
	p.mu.Lock()
	stalled := p.faults.stalled
	p.mu.Unlock()
	if stalled == nil {
		return
	}
	select {
	case <-stalled:
	case <-p.done:
	}
}

// A verdict says how to treat one portion of bytes.
type verdict struct {
	pass              int // number of bytes to pass on
	end, reset, slice bool
	delay             time.Duration
}

func (p *Proxy) passRequest(c *pipe, b []byte) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, end := c.request.take(len(b))
	return verdict{pass: n, end: end}
}

func (p *Proxy) passReply(c *pipe, b []byte) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &p.faults
	if f.drop {
		c.gap = true
		return verdict{}
	}
	v := verdict{delay: f.delay, slice: f.slice}
	v.pass, v.end = c.reply.take(len(b))
	if f.rate > 0 && f.random.Float64() < f.rate {
		v.pass, v.end, v.reset = f.random.IntN(max(v.pass, 1)), true, true // lose at least one byte
	}
	return v
}

// take returns how many of n bytes may pass, and whether the connection ends
// then.
func (b *budget) take(n int) (pass int, end bool) {
	if !b.on || n < b.n {
		b.n -= n
		return n, false
	}
	pass, b.n = b.n, 0
	return pass, true
}

// write writes b at once, byte by byte, or at the configured bandwidth.
func (p *Proxy) write(to net.Conn, b []byte, slice bool) bool {
	for len(b) > 0 {
		n, pause := p.portion(len(b))
		if slice {
			n, pause = 1, pause/time.Duration(n)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
		p.wait(pause)
	}
	return true
}

// portion returns the number of bytes to write next, between 1 and n, and the
// time this takes at the configured bandwidth.
func (p *Proxy) portion(n int) (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rate := p.faults.bandwidth
	if rate == 0 {
		return n, 0
	}
	n = min(n, max(rate/100, 1))
	return n, time.Second * time.Duration(n) / time.Duration(rate)
}

// forget removes c from Conns and closes it. The first of the two copy
// goroutines to end does it for both.
func (p *Proxy) forget(c *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pipes, c)
	c.close() // under mu: once Conns is lower, the client's connection is closed
}

func (c *pipe) close() {
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
}

// reset sends RST: with a linger time of zero the kernel discards unsent data.
func (c *pipe) reset() {
	if tcp, ok := c.client.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.close()
}
