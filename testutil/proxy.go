package testutil

import (
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and one server and does to their connections
// what networks do. A new Proxy passes everything on. Faults are set while
// connections are open and hold for those and for later ones until Heal.
//
// A Proxy is safe for concurrent use. It knows bytes, not commands: with TLS
// it counts what is encrypted.
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

// faults are the settings; the zero value of each is the absence of the fault.
type faults struct {
	cutReply, cutRequest budget
	drop, refuse, slice  bool
	delay                time.Duration
	bandwidth            int           // bytes a second
	stalled              chan struct{} // closed when the stall ends
	rate                 float64
	random               *rand.Rand
}

// A budget is how many more bytes may pass on each connection.
type budget struct {
	on bool
	n  int
}

// A pipe is one client's connection and ours to the server.
type pipe struct {
	client, server net.Conn
	reply, request budget // what is left, guarded by Proxy.mu
	gap            bool   // a reply was swallowed, guarded by Proxy.mu
}

// NewProxy starts a Proxy to a server at host:port, or at the path of a unix
// socket. It listens on a free port of 127.0.0.1, and ends with the test.
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

// Addr returns the host:port that clients dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutReply closes each connection once n more bytes of replies have passed on
// it, counted from now for the connections that are open. Zero closes at the
// next byte.
func (p *Proxy) CutReply(n int) {
	p.change(func(f *faults) { f.cutReply = budget{true, n} })
}

// CutRequest is CutReply for what clients send.
func (p *Proxy) CutRequest(n int) {
	p.change(func(f *faults) { f.cutRequest = budget{true, n} })
}

// DropReplies swallows what the server answers and keeps connections open. A
// connection on which something was swallowed is reset when that ends, for no
// network passes on what comes behind a gap.
func (p *Proxy) DropReplies(on bool) { p.change(func(f *faults) { f.drop = on }) }

// Delay holds back each portion of a reply.
func (p *Proxy) Delay(d time.Duration) { p.change(func(f *faults) { f.delay = d }) }

// Bandwidth lets at most n bytes a second pass on each connection in each
// direction, in portions of what passes in 10 milliseconds. Zero takes the limit
// away, for what is on its way as well.
func (p *Proxy) Bandwidth(n int) { p.change(func(f *faults) { f.bandwidth = n }) }

// Stall stops the reading on both sides, so that those who write wait once the
// system's buffers are full. What is on its way passes when the stall ends.
// Connections that end meanwhile count as open until then.
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

// Refuse resets each new connection as soon as it is there. Open ones go on.
func (p *Proxy) Refuse(on bool) { p.change(func(f *faults) { f.refuse = on }) }

// Slice passes replies on one byte at a time.
func (p *Proxy) Slice(on bool) { p.change(func(f *faults) { f.slice = on }) }

// Rate resets a connection in the middle of a portion of a reply, with
// probability rate at each portion. The choices follow from seed.
func (p *Proxy) Rate(rate float64, seed uint64) {
	p.change(func(f *faults) { f.rate, f.random = rate, rand.New(rand.NewPCG(seed, 0)) })
}

// Heal takes all faults back. What was lost stays lost; see DropReplies.
func (p *Proxy) Heal() { p.change(func(f *faults) { *f = faults{} }) }

// change changes the faults and gives open connections their budgets anew.
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

// Accepted returns the number of connections that there have been, refused
// ones not counted.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Reset breaks all open connections off (RST), as a host that has lost its
// memory of them does.
func (p *Proxy) Reset() { p.end((*pipe).reset) }

// KillAll closes all open connections (FIN), as a server that ends does.
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
	close(p.done) // under mu: connect adds no pipe afterwards
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
			return // close has closed the listener
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

// connect dials the server for c. It is false where c is to be refused.
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

// copy passes bytes on until one side ends, and then ends both.
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

// hold waits for the end of a stall.
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

// A verdict is what becomes of one portion of bytes.
type verdict struct {
	pass              int // bytes of it to pass on
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
		v.pass, v.end, v.reset = f.random.IntN(max(v.pass, 1)), true, true // a byte is lost at least
	}
	return v
}

// take returns how many of n bytes may pass, and whether that is the end.
func (b *budget) take(n int) (pass int, end bool) {
	if !b.on || n < b.n {
		b.n -= n
		return n, false
	}
	pass, b.n = b.n, 0
	return pass, true
}

// write writes b: in one go, byte by byte, or as the bandwidth allows.
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

// portion returns how much of n bytes to write at once, at least one, and how
// long that takes on a line of the bandwidth.
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

// forget ends c, and lets others see that it is gone only then; the first of its two copies to end does it for both.
func (p *Proxy) forget(c *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pipes, c)
	c.close() // under mu: when Conns is down, the client's end is closed
}

func (c *pipe) close() {
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
}

// reset makes the kernel send RST by leaving it no time to send what is left.
func (c *pipe) reset() {
	if tcp, ok := c.client.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.close()
}
