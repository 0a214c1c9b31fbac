package failover

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const second = time.Second

// TestBelieve gives answers in order, each at its time.
func TestBelieve(t *testing.T) {
	type step struct {
		from    int // index of one of three Sentinels
		address string
		epoch   int64
		after   time.Duration
		want    string // the master's address after the answer
	}
	for name, steps := range map[string][]step{
		"the first one": {{0, "a", 7, 0, "a"}},
		"newer":         {{0, "a", 7, 0, "a"}, {1, "b", 8, 0, "b"}},
		"older":         {{0, "b", 8, 0, "b"}, {1, "a", 7, 0, "b"}},
		"equal":         {{0, "a", 7, 0, "a"}, {1, "b", 7, 0, "a"}},
		"does not tell": {{0, "a", 7, 0, "a"}, {1, "b", -1, 0, "b"}, {1, "c", 0, 0, "c"}},
		"one is behind for long": {
			{0, "b", 8, 0, "b"}, {1, "a", 7, 6 * second, "b"}, {1, "a", 7, 6 * second, "b"},
		},
		"most have begun anew": {
			{0, "b", 8, 0, "b"}, {1, "a", 0, 6 * second, "b"}, {2, "a", 0, second, "a"}, {0, "a", 0, second, "a"}, {1, "c", 1, second, "c"},
		},
		"most are behind for a moment": {
			{0, "b", 8, 0, "b"}, {1, "a", 7, second, "b"}, {2, "a", 7, second, "b"}, {0, "b", 8, second, "b"}, {1, "a", 7, 4 * second, "b"},
		},
		"begun anew, the same master": {
			{0, "a", 8, 0, "a"}, {1, "a", 0, 6 * second, "a"}, {2, "a", 0, 0, "a"}, {2, "b", 1, 0, "b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(&Config{Master: "m"})
			require.NoError(t, w.open([]string{"s:1", "s:2", "s:3"}))
			now, was := time.Now(), ""
			for i, step := range steps {
				now = now.Add(step.after)
				w.sentinels[step.from].saidMaster, w.sentinels[step.from].heardAt = step.address, now
				from, moved := w.believe(answer{address: step.address, epoch: step.epoch}, now)
				require.Equal(t, step.want, w.master.address, "step %d", i)
				require.Equal(t, was != "" && was != step.want, moved, "step %d", i)
				if moved {
					require.Equal(t, was, from)
				}
				was = step.want
			}
			w.close()
		})
	}
}

// TestReplicasStayInOrder checks that the order of replicas is stable, so that
// taking turns skips none.
func TestReplicasStayInOrder(t *testing.T) {
	w := newWatch(&Config{Master: "m"})
	defer w.close()
	require.NoError(t, w.open([]string{"s:1", "s:2"}))
	now := time.Now()
	w.believe(answer{address: "a", epoch: 1}, now)
	for i, replicas := range [][]string{{"d", "b", "a", "c"}, {"c", "d", "b"}} {
		s := w.sentinels[i]
		s.saidMaster, s.heardAt, s.replicas = "a", now, replicas
	}
	for range 100 {
		require.Equal(t, []string{"b", "c", "d"}, w.upReplicas(now))
	}
}

// TestForget drops a Sentinel named by others after a long silence, and never
// drops a configured one.
func TestForget(t *testing.T) {
	w := newWatch(&Config{Master: "m"})
	defer w.close()
	require.NoError(t, w.open([]string{"s:1"}))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.learn([]peer{{"s:2", "two"}, {"s:2", "two"}, {"no address", ""}})
	require.Len(t, w.sentinels, 2)
	w.forget(time.Now().Add(forgetAfter - second))
	require.Len(t, w.sentinels, 2)
	w.forget(time.Now().Add(forgetAfter + second))
	require.Len(t, w.sentinels, 1)
	assert.Equal(t, "s:1", w.sentinels[0].address)
	peers := make([]peer, 1000)
	for i := range peers {
		peers[i].address = "s:" + string(rune('0'+i))
	}
	w.learn(peers)
	assert.LessOrEqual(t, len(w.sentinels), maxListed)
}

// A story is a store whose replies are derived from bytes.
type story struct {
	driver.Store
	bytes []byte
}

func (s *story) next() byte {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return b
}

func (s *story) Do(_ context.Context, p *driver.Pipeline) error {
	for range p.Len() {
		s.leave(p.Replies(), 4)
	}
	return nil
}

var words = []string{"", "ip", "port", "flags", "127.0.0.1", "::1", "a b", "6379", "70000", "-1", "config-epoch", "7", "runid", "s_down,slave", "ok", "master-link-status"}

func (s *story) leave(to *driver.Replies, depth int) {
	switch b := s.next(); b % 8 {
	case 0:
		to.Nil()
	case 1:
		to.Error("ERR no")
	case 2:
		to.Int(int64(b))
	case 3, 4, 5:
		to.String(words[b/8%16])
	default:
		n := int(b / 8)
		if depth == 0 {
			n = 0
		}
		to.Array(n)
		for range n {
			s.leave(to, depth-1)
		}
	}
}

// FuzzAsk lets a Sentinel answer anything. The result is an error or an address
// that can be dialled.
func FuzzAsk(f *testing.F) {
	f.Add([]byte{22, 35, 59, 6, 0, 6, 0})
	f.Add([]byte{22, 35, 59, 22, 83, 91, 14, 54, 11, 35, 19, 59, 27, 0, 0, 54})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1000 {
			return
		}
		a, err := ask(t.Context(), &story{bytes: b}, "m")
		if err != nil {
			assert.Equal(t, answer{}, a)
			return
		}
		all := append([]string{a.address}, a.replicas...)
		for _, p := range a.peers {
			all = append(all, p.address)
		}
		for _, address := range all {
			_, port, err := net.SplitHostPort(address)
			require.NoError(t, err)
			require.Contains(t, []string{"6379", "7"}, port)
		}
	})
}
