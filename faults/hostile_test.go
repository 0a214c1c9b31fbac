package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dropWithin is how soon a connection must go that has shown something else
// than replies. With the race detector, on a machine with much else to do, the
// short form proves no more than that it goes.
func dropWithin() time.Duration {
	if full {
		return 100 * time.Millisecond
	}
	return time.Second
}

// hostileMemory is how many bytes of memory a call may take beyond the largest
// reply that is allowed: a buffer grows by doubling, with the old one at hand,
// and the collector lets garbage lie for up to twice as much.
var hostileMemory = uint64(6*hostileLimits.reply + 8<<20)

// hostileFound is what the child of TestHostileServer has found out.
type hostileFound struct {
	Runs, Dropped int
	Slowest       time.Duration // of the drops
	Memory        uint64        // bytes beyond those before, at most
}

// TestHostileServer has a server answer with garbage. It does so in a process
// of its own, for what a client does wrong here may end the process.
func TestHostileServer(t *testing.T) {
	var found hostileFound
	if !isChild(t) {
		inChild(t, &found)
		require.GreaterOrEqual(t, len(payloads), 60)
		require.Equal(t, len(payloads)*len(attempts), found.Runs)
		report(t, fmt.Sprintf("hostile server: %d payloads × %d operations in a process of their own", len(payloads), len(attempts)),
			"0 panics, 0 fatal errors; %d connections dropped, the slowest after %v; at most %.1f MiB more memory, replies of up to %d MiB being allowed; %d next calls right",
			found.Dropped, found.Slowest.Round(100*time.Microsecond), float64(found.Memory)/(1<<20), hostileLimits.reply>>20, found.Runs)
		return
	}
	r := testutil.Redis(t, nil)
	for i := range payloads {
		p := &payloads[i]
		debug.FreeOSMemory() // so that what is measured is this payload's
		before, stop := memory(), watchMemory()
		found.Runs += len(attempts)
		faceAll(t, r, p, &found)
		grown := stop() - before
		found.Memory = max(found.Memory, grown)
		assert.Less(t, grown, hostileMemory, "bytes of memory, payload %.40q", p.text)
	}
	answer(t, found)
}

// An attempt is an operation that a hostile server answers.
type attempt struct {
	name    string
	replies int // that it waits for
	run     func(ctx context.Context, s driver.Store, conn *caches.Conn) error
}

var (
	words    = caches.Cache[string]{Prefix: "word"}
	dicts    = caches.DictCache[string, int]{Prefix: "dict"}
	sets     = caches.SetCache[int]{Prefix: "set"}
	boards   = caches.SortedSetCache[string]{Prefix: "board"}
	counters = caches.CounterCache[int64]{Prefix: "counter"}
	gates    = caches.SentinelCache{Prefix: "gate", TTL: time.Minute}
)

var attempts = []attempt{
	{"GET", 1, commands(0, "GET k")},
	{"GET, read only", 1, commands(driver.ReadOnly, "GET k")},
	{"GET, own connection", 1, commands(driver.Own, "GET k")},
	{"three commands", 3, commands(0, "SET k v", "MGET k l", "HGETALL h")},
	{"transaction", 4, commands(driver.Atomic, "SET k v", "GET k")},
	{"script", 1, func(ctx context.Context, s driver.Store, _ *caches.Conn) error {
		p := driver.NewPipeline(driver.Repeatable)
		defer p.Free()
		p.Script(wordsOf, 1).Key("k").String("v")
		return readWhole(ctx, s, p)
	}},
	{"Value.Get", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		_, err := words.On(c).Key(1).Get(ctx)
		return err
	}},
	{"GetMany", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		_, err := caches.GetMany(ctx, words.On(c), []int{1, 2, 3})
		return err
	}},
	{"Dict.Copy", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		_, err := dicts.On(c).Key(1).Copy(ctx)
		return err
	}},
	{"Set.All", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		all, end := sets.On(c).Key(1).All(ctx)
		for range all {
		}
		return end()
	}},
	{"SortedSet.Range", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		_, err := boards.On(c).Key(1).Range(ctx, 0, -1)
		return err
	}},
	{"Counter.Incr", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		_, err := counters.On(c).Key(1).Incr(ctx, 1)
		return err
	}},
	{"Sentinel.Once", 1, func(ctx context.Context, _ driver.Store, c *caches.Conn) error {
		first, err := gates.On(c).Key(1).Once(ctx)
		if first && err != nil {
			return errors.New("a gate that failed let somebody in")
		}
		return err
	}},
}

// commands is a run of those in lines.
func commands(mode driver.Mode, lines ...string) func(context.Context, driver.Store, *caches.Conn) error {
	return func(ctx context.Context, s driver.Store, _ *caches.Conn) error {
		p := driver.NewPipeline(mode)
		defer p.Free()
		for _, line := range lines {
			add(p, strings.Fields(line)...)
		}
		return readWhole(ctx, s, p)
	}
}

// readWhole runs p and looks at everything in its replies, by every way that
// there is to look.
func readWhole(ctx context.Context, s driver.Store, p *driver.Pipeline) error {
	if err := s.Do(ctx, p); err != nil {
		return err
	}
	for range p.Len() {
		readReply(p.Next())
	}
	return nil
}

func readReply(r driver.Reply) {
	_, _, _ = r.Bytes()
	_, _ = r.Int()
	_, _, _ = r.Float()
	_, _ = r.OK(), r.Err()
	elems, _ := r.Elems()
	for range elems.Len() {
		readReply(elems.Next())
	}
}

// faceAll makes all attempts, one after the other, for they share a measure of
// memory. Those that wait for their deadlines do so together.
func faceAll(t *testing.T, r *testutil.RedisServer, p *payload, found *hostileFound) {
	t.Helper()
	if p.kind.waits() {
		together(len(attempts), func(i int) { face(t, r, p, &attempts[i], found) })
		return
	}
	for i := range attempts {
		face(t, r, p, &attempts[i], found)
	}
}

// face makes one attempt at a server that answers p, and one more call once the
// server is a good one.
func face(t *testing.T, r *testutil.RedisServer, p *payload, a *attempt, found *hostileFound) {
	t.Helper()
	what := fmt.Sprintf("%s, payload %.40q", a.name, p.text)
	h, err := newHostile(r.Addr(), p, a.replies)
	if !assert.NoError(t, err) {
		return
	}
	defer h.close()
	s, err := redigo.Open(redigo.Config{Address: h.addr, Timeout: patience, Limits: redigo.Limits{
		Bulk: hostileLimits.bulk, Array: hostileLimits.array, Depth: hostileLimits.depth, Line: hostileLimits.line, Reply: hostileLimits.reply,
	}})
	if !assert.NoError(t, err) {
		return
	}
	defer func() { _ = s.Close() }()
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"hostile": s})
	if !assert.NoError(t, err) {
		return
	}
	for _, mode := range []driver.Mode{0, driver.Own} { // so that connections are there
		_, err = run(t.Context(), s, mode, "PING")
		assert.NoError(t, err, what)
	}

	// What ends by a whole reply or by the connection's end needs no deadline.
	timeout := patience
	if p.kind.waits() || p.kind == legal {
		timeout = hostileTimeout
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	err = a.run(ctx, s, conn)
	cancel()
	h.judge(t, what, err, found)

	h.reform()
	word := a.name
	raw, err := run(t.Context(), s, driver.ReadOnly, "ECHO", word)
	assert.NoError(t, err, "the next call, after %s", what)
	assert.Equal(t, bulk(word), raw, "the next call, after %s", what)
}

// A hostile server answers each portion of commands with its payload; after
// reform it is the good one behind it.
type hostile struct {
	addr, good string
	payload    *payload
	replies    int
	listener   net.Listener
	running    sync.WaitGroup

	mu       sync.Mutex
	reformed bool
	conns    map[net.Conn]struct{}
	drops    []time.Duration // from a payload to the end of its connection
	waiting  int             // payloads whose connection has not ended
}

func newHostile(good string, p *payload, replies int) (*hostile, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hostile{addr: l.Addr().String(), good: good, payload: p, replies: replies, listener: l, conns: make(map[net.Conn]struct{})}
	h.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.running.Go(func() { h.serve(c) })
		}
	})
	return h, nil
}

func (h *hostile) close() {
	_ = h.listener.Close()
	h.reform()
	h.running.Wait()
}

// reform ends the connections that there are; the next ones are good.
func (h *hostile) reform() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reformed = true
	for c := range h.conns {
		_ = c.Close()
	}
}

func (h *hostile) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	h.mu.Lock()
	h.conns[c] = struct{}{}
	reformed := h.reformed
	h.mu.Unlock()
	if reformed {
		h.relay(c)
	} else {
		h.talk(c)
	}
	h.mu.Lock()
	delete(h.conns, c)
	h.mu.Unlock()
}

// relay passes bytes between c and the good server until either ends.
func (h *hostile) relay(c net.Conn) {
	server, err := net.Dial("tcp", h.good)
	if err != nil {
		return
	}
	h.running.Go(func() {
		_, _ = io.Copy(c, server)
		_ = c.Close()
	})
	_, _ = io.Copy(server, c)
	_ = server.Close()
}

var greeting = []byte("*1\r\n$4\r\nPING\r\n")

// talk greets, and answers everything else with the payload.
func (h *hostile) talk(c net.Conn) {
	b := make([]byte, 64<<10)
	sent := time.Time{}
	for {
		n, err := c.Read(b)
		switch {
		case err != nil:
			h.ended(sent)
			return
		case bytes.Equal(b[:n], greeting):
			_, _ = io.WriteString(c, "+PONG\r\n")
			continue
		}
		if sent.IsZero() {
			h.mu.Lock()
			h.waiting++
			h.mu.Unlock()
		}
		sent = time.Now()
		if err := h.send(c); err != nil || h.payload.kind == hangUp {
			h.ended(sent)
			return
		}
	}
}

// send sends the payload, as often as it is meant to be.
func (h *hostile) send(c net.Conn) error {
	p := h.payload
	times := 1
	switch p.kind {
	case legal:
		times = h.replies
	case surplus:
		times = h.replies + 1
	case flood:
		block := strings.Repeat(p.text, 1+64<<10/len(p.text))
		for range 1024 { // 64 MiB, far beyond every limit
			if _, err := io.WriteString(c, block); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := io.WriteString(c, strings.Repeat(p.text, times))
	return err
}

// ended notes the end of a connection that has got its payload at sent.
func (h *hostile) ended(sent time.Time) {
	if sent.IsZero() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
	h.drops = append(h.drops, time.Since(sent))
}

// judge says whether err is what the call may end in, and waits for the end of
// the connection where there has to be one.
func (h *hostile) judge(t *testing.T, what string, err error, found *hostileFound) {
	t.Helper()
	switch h.payload.kind {
	case legal:
		return // whatever it is, it is the answer
	case lineless:
		assert.True(t, is(err, driver.ErrProtocol, driver.ErrUnknownOutcome), "%s: %v", what, err)
		return
	case unfinished:
		assert.ErrorIs(t, err, driver.ErrUnknownOutcome, what)
		assert.ErrorIs(t, err, context.DeadlineExceeded, what)
		return
	case hangUp:
		assert.ErrorIs(t, err, driver.ErrUnknownOutcome, what)
		return
	case malformed:
		assert.Error(t, err, what)
		assert.True(t, is(err, driver.ErrProtocol, driver.ErrTooLarge), "%s: %v", what, err)
	}
	// A reply too many may come after the call has got its own, which was right.
	assert.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.waiting == 0 && len(h.drops) > 0
	}, patience, 100*time.Microsecond, "%s: the connection stays", what)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.drops {
		found.Dropped++
		found.Slowest = max(found.Slowest, d)
		assert.LessOrEqual(t, d, dropWithin(), "%s: the connection's end", what)
	}
}

// is reports whether err is one of those.
func is(err error, those ...error) bool {
	return slices.ContainsFunc(those, func(one error) bool { return errors.Is(err, one) })
}
