package redigo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// A plan is the random course of one connection's life, by its seed.
type plan struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (p *plan) n(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.r.IntN(n)
}

// rest sleeps for less than the given number of microseconds.
func (p *plan) rest(most int) { time.Sleep(time.Duration(p.n(most)) * time.Microsecond) }

var errChaos = errors.New("chaos")

// A chaotic connection is slow, reads in pieces, and sometimes fails: before a
// write, in the middle of it, or together with the last bytes of a read.
type chaotic struct {
	net.Conn
	plan *plan
	odds int // one in so many reads and writes fails
}

func (c *chaotic) Write(b []byte) (n int, err error) {
	switch c.plan.n(c.odds) {
	case 0:
		c.plan.rest(2000)
		return 0, errChaos
	case 1:
		n, _ = c.Conn.Write(b[:c.plan.n(len(b))])
		return n, errChaos
	case 2, 3:
		c.plan.rest(1000)
	}
	return c.Conn.Write(b)
}

func (c *chaotic) Read(b []byte) (n int, err error) {
	switch c.plan.n(c.odds) {
	case 0:
		n, _ = c.Conn.Read(b)
		return n, errChaos
	case 1, 2:
		c.plan.rest(1000)
	}
	if c.plan.n(3) == 0 {
		b = b[:1+c.plan.n(min(len(b), 300))]
	}
	return c.Conn.Read(b)
}

// echoes replies to each command with its last argument.
func echoes(nc net.Conn) {
	defer func() { _ = nc.Close() }()
	in := bufio.NewReader(nc)
	for {
		var args int
		if _, err := fmt.Fscanf(in, "*%d\r\n", &args); err != nil {
			return
		}
		var last []byte
		for range args {
			var size int
			if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
				return
			}
			last = make([]byte, size+2)
			if _, err := io.ReadFull(in, last); err != nil {
				return
			}
		}
		if _, err := fmt.Fprintf(nc, "$%d\r\n%s", len(last)-2, last); err != nil {
			return
		}
	}
}

// TestChaos runs many connections and ends each in a different way during calls:
// no call gets another's reply, every call ends, and the counts are right.
func TestChaos(t *testing.T) {
	lives := 100
	if os.Getenv("CACHES_TEST_FULL") == "1" {
		lives = 400
	}
	first := rand.Uint64()
	for i := range lives {
		if seed := first + uint64(i); !t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { life(t, seed) }) {
			return
		}
	}
}

func life(t *testing.T, seed uint64) {
	p := &plan{r: rand.New(rand.NewPCG(seed, 0))}
	s, m := muxTo(t, 10*time.Second, echoes)
	odds := []int{30, 300, 3000}[p.n(3)]
	m.mu.Lock() // the reader starts at the first wake, which comes after this
	m.conn.nc = &chaotic{m.conn.nc, p, odds}
	m.mu.Unlock()
	s.lanes[0].mu.Lock() // prevents a second dial
	s.lanes[0].failures, s.lanes[0].retryAt, s.lanes[0].lastErr = tripAt, time.Now().Add(time.Hour), errChaos
	s.lanes[0].mu.Unlock()
	var callers sync.WaitGroup
	for caller := range 1 + p.n(8) {
		callers.Go(func() {
			for n := 0; n < 50 && !m.isDead() && callOnce(t, s, p, fmt.Sprintf("%d.%d", caller, n)); n++ {
			}
		})
	}
	p.rest(5000)
	switch p.n(4) {
	case 0:
		s.Drop(errChaos)
	case 1:
		_ = m.conn.sock.Close()
	case 2:
		go func() { _ = s.Close() }()
	}
	callers.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for end := time.Now().Add(10 * time.Second); m.flight()+m.unwritten > 0 && m.dead == nil && time.Now().Before(end); {
		m.mu.Unlock() // wait for replies to abandoned calls, and for a late write
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	assert.Zero(t, m.unsent)
	if m.dead != nil {
		assert.Empty(t, m.queue)
		return
	}
	assert.Zero(t, m.flight())
	assert.Zero(t, m.unwritten)
}

// callOnce makes one call, and reports whether its outcome is a permitted one.
func callOnce(t *testing.T, s *Store, p *plan, word string) bool {
	if p.n(20) == 0 {
		word += strings.Repeat("x", p.n(2*handOver))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if p.n(5) == 0 {
		after := time.AfterFunc(time.Duration(p.n(1500))*time.Microsecond, cancel)
		defer after.Stop()
	}
	pipeline := driver.NewPipeline(driver.Mode(p.n(2)) * driver.ReadOnly)
	defer pipeline.Free()
	pipeline.Cmd("ECHO").String(word)
	call := s.Start
	if p.n(4) > 0 {
		call = func(ctx context.Context, p *driver.Pipeline) driver.Pending { return done{s.Do(ctx, p)} }
	}
	pending := call(ctx, pipeline)
	if p.n(4) == 0 {
		p.rest(500)
	}
	switch err := pending.Finish(); {
	case err == nil:
		return assert.Equal(t, string(appendBulk(nil, word)), string(pipeline.Replies().Raw()))
	case errors.Is(err, driver.ErrUnavailable):
		return true
	default:
		return assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
	}
}

// done is the end of a call.
type done struct{ err error }

func (d done) Finish() error { return d.err }
