package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// freezeTimeout is that of calls to servers that stop answering.
const freezeTimeout = 200 * time.Millisecond

// TestStoppedServer stops the server (SIGSTOP) and lets it go on (SIGCONT):
// connections stay open, and what was sent before is answered late. Values of
// 200 KiB fill the buffers of the system besides, so that writes wait as well.
func TestStoppedServer(t *testing.T) {
	for _, c := range []struct{ rounds, workers, size int }{
		{count(3, 20), siegeWorkers, 100},
		{count(2, 10), 16, 200 << 10},
	} {
		t.Run(strconv.Itoa(c.size), func(t *testing.T) {
			r := testutil.Redis(t, nil)
			s := open(t, redigo.Config{Address: r.Addr(), Timeout: freezeTimeout})
			f := &freeze{t: t, name: "SIGSTOP", on: r.Pause, off: r.Resume}
			f.run(s, c.rounds, c.workers, c.size)
		})
	}
}

// TestBlackHole loses every packet: nothing is refused, closed or answered. The
// full run has a network of its own for that, the short form a proxy that
// swallows the replies, or reads nothing at all.
func TestBlackHole(t *testing.T) {
	if full {
		h := newHole(t)
		s := open(t, redigo.Config{Address: h.addr, Timeout: freezeTimeout})
		f := &freeze{t: t, name: "black hole (network namespace, the peer's end down)", on: h.down, off: h.up}
		f.run(s, 20, siegeWorkers, 100)
		return
	}
	r := testutil.Redis(t, nil)
	for name, set := range map[string]func(*testutil.Proxy, bool){
		"swallows replies": (*testutil.Proxy).DropReplies,
		"reads nothing":    (*testutil.Proxy).Stall,
	} {
		t.Run(name, func(t *testing.T) {
			p := testutil.NewProxy(t, r.Addr())
			s := open(t, redigo.Config{Address: p.Addr(), Timeout: freezeTimeout})
			f := &freeze{t: t, name: "a proxy that " + name, on: func() { set(p, true) }, off: func() { set(p, false) }}
			f.run(s, 2, siegeWorkers, 100)
		})
	}
}

// TestTrickle has replies come all the time, too slowly for those who wait: it is
// not the silence of the server that ends a call.
func TestTrickle(t *testing.T) {
	r := testutil.Redis(t, nil)
	p := testutil.NewProxy(t, r.Addr())
	s := open(t, redigo.Config{Address: p.Addr(), Timeout: freezeTimeout})
	f := &freeze{t: t, name: "a line of 64 KiB a second", on: func() { p.Bandwidth(64 << 10) }, off: p.Heal, trickle: true}
	f.run(s, count(2, 20), 8, 64<<10)
}

// A freeze is a fault that nobody is told of.
type freeze struct {
	t       *testing.T
	name    string
	on, off func()
	trickle bool // something comes all the time, so that no connection is given up
}

// run has a siege go through rounds of the fault.
func (f *freeze) run(s *redigo.Store, rounds, workers, size int) {
	t := f.t
	awaitGood(t, s)
	b := besiege(t, s, workers, size, freezeTimeout)
	var recoveries []time.Duration
	for range rounds {
		b.await(&b.good, 100, "calls that succeed before the fault")
		f.on()
		// The first to notice are those that wait; then come some that find
		// the way barred, or have waited for a new connection.
		b.await(&b.slow, int64(workers)/2, "calls whose time is up")
		if !f.trickle {
			b.await(&b.unavailable, int64(workers), "calls that were not sent")
		}
		f.off()
		recoveries = append(recoveries, b.awaitAfter(time.Now()))
	}
	worst := b.verdict()
	last := percentile(recoveries, 1)
	t.Logf("recoveries: %v", recoveries)
	assert.Less(t, last, time.Second, "the slowest recovery")
	report(t, fmt.Sprintf("%s, %d times, %d goroutines, values of %d bytes, %s of %v", f.name, rounds, workers, size, b.calls(), freezeTimeout),
		"0 wrong of %d answers; every call back at most %s; good again after %v (worst)",
		b.checked.Load(), worst, last.Round(time.Millisecond))
}

// A hole is a server in a network namespace, at the other end of a pair of
// virtual Ethernet devices; see ip-netns(8) and veth(4). Nothing that happens
// to that end is told to ours.
type hole struct {
	t         *testing.T
	name, far string // of the namespace and of the device in it
	addr      string
}

// newHole makes a hole that ends with the test. It fails the test where this
// process may not: that takes root and the command ip.
func newHole(t *testing.T) *hole {
	t.Helper()
	id := strconv.Itoa(os.Getpid())
	h := &hole{t: t, name: "caches" + id, far: "cf" + id, addr: "10.213.57.2:7777"}
	near := "cn" + id
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.name).Run() }) // and the devices with it
	for _, line := range []string{
		"netns add " + h.name,
		"link add " + near + " type veth peer name " + h.far + " netns " + h.name,
		"addr add 10.213.57.1/30 dev " + near,
		"link set " + near + " up",
		"-n " + h.name + " addr add 10.213.57.2/30 dev " + h.far,
	} {
		h.ip(line)
	}
	h.up()
	h.serve()
	return h
}

// ip runs the command of that name.
func (h *hole) ip(line string) {
	h.t.Helper()
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	require.NoError(h.t, err, "ip %s (the black hole needs root and iproute2): %s", line, out)
}

func (h *hole) down() { h.ip("-n " + h.name + " link set " + h.far + " down") }
func (h *hole) up()   { h.ip("-n " + h.name + " link set " + h.far + " up") }

// serve runs redis-server in the namespace.
func (h *hole) serve() {
	h.t.Helper()
	host, port, _ := strings.Cut(h.addr, ":")
	server := cmp.Or(os.Getenv("CACHES_TEST_SERVER"), "redis-server")
	cmd := exec.Command("ip", "netns", "exec", h.name, server, "--bind", host, "--port", port,
		"--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", h.t.TempDir(), "--logfile", "log")
	require.NoError(h.t, cmd.Start())
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed" is what was asked for
	})
}

// TestSlowAndBrokenNetwork has a siege go through what networks do.
func TestSlowAndBrokenNetwork(t *testing.T) {
	r := testutil.Redis(t, nil)
	for _, c := range []struct {
		name string
		set  func(p *testutil.Proxy, random *rand.Rand)
	}{
		{"latency of 1 to 30 ms", func(p *testutil.Proxy, random *rand.Rand) {
			p.Delay(time.Duration(1+random.IntN(30)) * time.Millisecond)
		}},
		{"bandwidth of 64 to 512 KiB/s", func(p *testutil.Proxy, random *rand.Rand) {
			p.Bandwidth((64 + random.IntN(449)) << 10)
		}},
		{"slices of one byte", func(p *testutil.Proxy, _ *rand.Rand) { p.Slice(true) }},
		{"resets", func(p *testutil.Proxy, random *rand.Rand) {
			if random.IntN(2) == 0 {
				p.Reset()
			} else {
				p.Rate(0.05+random.Float64()/4, random.Uint64())
			}
		}},
	} {
		t.Run(strings.Fields(c.name)[0], func(t *testing.T) {
			p := testutil.NewProxy(t, r.Addr())
			harass(t, p, c.name, c.set)
		})
	}
}

// harass has a siege go through rounds of one fault of the network.
func harass(t *testing.T, p *testutil.Proxy, name string, set func(*testutil.Proxy, *rand.Rand)) {
	const timeout, workers = 2 * time.Second, 16
	rounds := count(5, 200)
	s := open(t, redigo.Config{Address: p.Addr(), Timeout: timeout})
	awaitGood(t, s)
	b := besiege(t, s, workers, 300, timeout)
	choices := random(t.Name(), workers)
	for range rounds {
		set(p, choices)
		b.await(&b.good, 2*workers, "calls that succeed under the fault")
		p.Heal()
		b.await(&b.good, workers, "calls that succeed after it")
	}
	worst := b.verdict()
	broken := s.Stats().Dials - 1
	if name == "resets" {
		assert.GreaterOrEqual(t, broken, int64(rounds)/2, "connections lost")
	}
	report(t, fmt.Sprintf("proxy: %s, %d times, %d goroutines, %s", name, rounds, workers, b.calls()),
		"0 wrong of %d answers; %d calls without one; every call back at most %s",
		b.checked.Load(), b.unknown.Load()+b.unavailable.Load(), worst)
}
