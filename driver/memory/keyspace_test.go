package memory_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/stretchr/testify/require"
)

// A clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.UnixMilli(1_700_000_000_000)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestExpiryToTheMillisecond(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{Clock: c.Now})
	for _, make := range []string{"SET k v PX 100", "HSET k f v", "SADD k m", "ZADD k 1 m", "LPUSH k m"} {
		run(t, s, 0, words(make), words("PEXPIRE k 100"))
		c.advance(100 * time.Millisecond)
		require.Equal(t, []string{":1", ":0", ":0"}, run(t, s, 0, words("EXISTS k"), words("PTTL k"), words("TTL k")),
			"%s: a key is there in the millisecond of its deadline", make)
		require.Equal(t, 1, s.Len())
		c.advance(time.Millisecond)
		for _, read := range []string{"EXISTS k", "STRLEN k", "HLEN k", "SCARD k", "ZCARD k", "LLEN k", "DBSIZE", "DEL k"} {
			require.Equal(t, ":0", one(t, s, read), "%s: %s", make, read)
		}
		require.Equal(t, "+none", one(t, s, "TYPE k"))
		require.Equal(t, `["0" []]`, one(t, s, "SCAN 0"))
		require.Equal(t, "nil", one(t, s, "GET k"))
		require.Equal(t, ":-2", one(t, s, "PTTL k"))
		require.Zero(t, s.Len())
	}
}

func TestSecondsAreRounded(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{Clock: c.Now})
	one(t, s, "SET k v PX 2000")
	for _, step := range []struct {
		at   time.Duration
		want string
	}{{0, ":2"}, {500, ":2"}, {1, ":1"}, {999, ":1"}, {1, ":0"}} {
		c.advance(step.at * time.Millisecond)
		require.Equal(t, step.want, one(t, s, "TTL k"))
	}
}

func TestExpiredKeyIsMadeAnew(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{Clock: c.Now})
	for _, write := range []string{"INCR k", "SADD k x", "HSET k f v", "ZADD k 1 m", "LPUSH k m", "APPEND k x", "SETNX k x"} {
		one(t, s, "SET k 41 PX 100")
		c.advance(101 * time.Millisecond)
		require.Equal(t, ":1", one(t, s, write), "nothing is left of the value")
		require.Equal(t, ":-1", one(t, s, "PTTL k"), "nor of the deadline")
		one(t, s, "DEL k")
	}
}

// TestExpiredKeysAreReclaimed checks that writes to other keys remove expired keys that
// are never read again. MaxEntries is large, as it would hide a leak, and does not
// apply to Keep keys.
func TestExpiredKeysAreReclaimed(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{Clock: c.Now})
	for i := range 1000 {
		run(t, s, driver.Keep, words(fmt.Sprint("SET k", i, " v PX ", 100+i%50)))
	}
	require.Equal(t, 1000, s.Len())
	c.advance(time.Second)
	require.Zero(t, s.Len())
	require.Equal(t, 1000, memory.Stored(s))
	for range 100 {
		one(t, s, "SET other v")
	}
	require.Equal(t, 1, memory.Stored(s))
}

func TestSynctestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memory.Options{})
		one(t, s, "SET k v EX 3600")
		time.Sleep(time.Hour)
		require.Equal(t, `"v"`, one(t, s, "GET k"))
		time.Sleep(time.Millisecond)
		require.Equal(t, "nil", one(t, s, "GET k"))
	})
}

func TestBound(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 100})
	for i := range 1000 {
		one(t, s, fmt.Sprint("SADD k", i, " m"))
		require.LessOrEqual(t, s.Len(), 100)
		if i%20 == 0 {
			memory.Check(t, s)
		}
	}
	require.Greater(t, s.Len(), 90)
}

// TestBoundKeepsWhatIsUsed checks that keys in constant use survive the addition of
// many others, so that eviction is not random.
func TestBoundKeepsWhatIsUsed(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 200})
	for i := range 20 {
		one(t, s, fmt.Sprint("SET hot", i, " v"))
	}
	for i := range 5000 {
		one(t, s, fmt.Sprint("GET hot", i%20))
		one(t, s, fmt.Sprint("SET cold", i, " v"))
	}
	hits := 0
	for i := range 20 {
		if one(t, s, fmt.Sprint("GET hot", i)) == `"v"` {
			hits++
		}
	}
	require.GreaterOrEqual(t, hits, 18)
}

func TestKeepIsNotEvicted(t *testing.T) {
	c := newClock()
	s := open(t, memory.Options{MaxEntries: 50, Clock: c.Now})
	one(t, s, "SET before v") // bounded until a Keep pipeline writes it
	for i := range 200 {
		run(t, s, driver.Keep, words(fmt.Sprint("SET kept", i, " v NX PX 1000")))
	}
	run(t, s, driver.Keep, words("APPEND before w"))
	run(t, s, driver.Keep, words("RENAME kept7 renamed"), words("COPY kept8 copied"))
	for i := range 1000 {
		one(t, s, fmt.Sprint("SET k", i, " v"))
	}
	memory.Check(t, s)
	for i := range 200 {
		if i != 7 {
			require.Equal(t, `"v"`, one(t, s, fmt.Sprint("GET kept", i)))
		}
	}
	require.Equal(t, `["vw" "v" "v"]`, one(t, s, "MGET before renamed copied"))
	c.advance(1001 * time.Millisecond)
	require.LessOrEqual(t, s.Len(), 51, "they expire all the same")
	require.Equal(t, "nil", one(t, s, "GET kept3"))
}

// TestTransactionSeesNoEviction checks that no key is evicted between two commands of a
// transaction, even if it adds more keys than the bound allows.
func TestTransactionSeesNoEviction(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 10})
	var commands [][]string
	for i := range 50 {
		commands = append(commands, words(fmt.Sprint("SET k", i, " v")))
	}
	for i := range 50 {
		commands = append(commands, words(fmt.Sprint("DEL k", i)), words(fmt.Sprint("SADD k", i, " m")))
	}
	replies := run(t, s, driver.Atomic, commands...)
	for i, r := range replies[50:] {
		require.Equal(t, ":1", r, i)
	}
	memory.Check(t, s)
	require.LessOrEqual(t, s.Len(), 10)
}

// TestLongPipelineIsBounded checks that a pipeline that is not a transaction evicts as
// it goes: otherwise it would keep all of its keys in memory.
func TestLongPipelineIsBounded(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 10})
	var commands [][]string
	for i := range 1000 {
		commands = append(commands, words(fmt.Sprint("SET k", i, " v")), words("DBSIZE"))
	}
	for _, r := range run(t, s, 0, commands...) {
		if n, err := strconv.Atoi(strings.TrimPrefix(r, ":")); err == nil {
			require.LessOrEqual(t, n, 10+16)
		}
	}
	memory.Check(t, s)
}

func TestFlushOfFullStore(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 100})
	var commands [][]string
	for i := range 300 {
		commands = append(commands, words(fmt.Sprint("SET k", i, " v PX 100000")))
	}
	run(t, s, 0, append(commands, words("FLUSHALL"), words("SET k1 v"))...)
	memory.Check(t, s)
	require.Equal(t, `["0" ["k1"]]`, one(t, s, "SCAN 0"))
}

// TestScanResumed checks the guarantee of SCAN: it returns every element that is present
// from the first call to the last, despite changes of the others.
func TestScanResumed(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	kinds := []struct{ add, remove, scan string }{
		{"SET %s v", "DEL %s", "SCAN"},
		{"HSET h %s v", "HDEL h %s", "HSCAN h"},
		{"SADD s %s", "SREM s %s", "SSCAN s"},
		{"ZADD z 1 %s", "ZREM z %s", "ZSCAN z"},
	}
	for _, kind := range kinds {
		t.Run(kind.scan, func(t *testing.T) {
			s := open(t, memory.Options{})
			for i := range 300 {
				one(t, s, fmt.Sprintf(kind.add, name("stay", i)))
				one(t, s, fmt.Sprintf(kind.add, name("go", i)))
			}
			seen := map[string]bool{}
			pages, cursor := 0, "0"
			for {
				page := elements(one(t, s, kind.scan+" "+cursor+" COUNT 7"))
				for _, e := range page[1:] {
					seen[e] = true
				}
				if cursor = unquote(t, page[0]); cursor == "0" {
					break
				}
				require.LessOrEqual(t, len(page), 1+2*7, "COUNT is honoured")
				for range 5 {
					one(t, s, fmt.Sprintf(kind.remove, name("go", r.IntN(300))))
					one(t, s, fmt.Sprintf(kind.add, name("new", r.IntN(50))))
				}
				pages++
				require.Less(t, pages, 1000, "the scan must end")
			}
			for i := range 300 {
				require.True(t, seen[strconv.Quote(name("stay", i))], name("stay", i))
			}
		})
	}
}

func name(kind string, i int) string { return kind + strconv.Itoa(i) }

func unquote(t *testing.T, quoted string) string {
	s, err := strconv.Unquote(quoted)
	require.NoError(t, err)
	return s
}

func TestScanCursorBeyondTheEnd(t *testing.T) {
	s := open(t, memory.Options{})
	run(t, s, 0, words("SET a 1"), words("SET b 1"))
	require.Equal(t, `["0" ["b" "a"]]`, one(t, s, "SCAN 18446744073709551615"))
}

// TestRandomMembersAreUniform chooses one of eight members 8000 times, chooses three of
// eight, and pops one of eight from a new set each time. The expected counts for each
// member are 1000, 3000 and 1000, with standard deviations of 30, 43 and 30. The limits
// are more than six deviations away, which a uniform choice exceeds less than once in
// 1e7 runs.
func TestRandomMembersAreUniform(t *testing.T) {
	s := open(t, memory.Options{})
	one(t, s, "SADD s 0 1 2 3 4 5 6 7")
	one(t, s, "HSET h 0 a 1 a 2 a 3 a 4 a 5 a 6 a 7 a")
	one(t, s, "ZADD z 0 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7")
	for _, draw := range []struct {
		command        string
		each, low, top int
	}{
		{"SRANDMEMBER s", 1, 800, 1200},
		{"HRANDFIELD h -1", 1, 800, 1200},
		{"ZRANDMEMBER z 3", 3, 2700, 3300},
	} {
		counts := map[string]int{}
		for range 8000 {
			drawn := elements(one(t, s, draw.command))
			require.Len(t, drawn, draw.each)
			slices.Sort(drawn)
			require.Len(t, slices.Compact(drawn), draw.each, "different members")
			for _, e := range drawn {
				counts[e]++
			}
		}
		require.Len(t, counts, 8, draw.command)
		for e, n := range counts {
			require.True(t, draw.low < n && n < draw.top, "%s: %s %d times", draw.command, e, n)
		}
	}
	popped := map[string]int{}
	for range 8000 {
		e := one(t, s, "SPOP s")
		popped[e]++
		one(t, s, "SADD s "+unquote(t, e))
	}
	for e, n := range popped {
		require.True(t, 800 < n && n < 1200, "SPOP: %s %d times", e, n)
	}
}

func TestPopAll(t *testing.T) {
	s := open(t, memory.Options{})
	one(t, s, "SADD s a b c d e")
	first := elements(one(t, s, "SPOP s 3"))
	require.Len(t, first, 3)
	rest := elements(one(t, s, "SPOP s 10"))
	all := append(first, rest...)
	slices.Sort(all)
	require.Equal(t, []string{`"a"`, `"b"`, `"c"`, `"d"`, `"e"`}, all)
	require.Equal(t, ":0", one(t, s, "EXISTS s"))
}

// TestCollectionShrinks removes most members of large collections and checks that the
// others survive the release of memory.
func TestCollectionShrinks(t *testing.T) {
	s := open(t, memory.Options{})
	for i := range 5000 {
		one(t, s, fmt.Sprint("ZADD z ", i, " m", i))
	}
	require.Equal(t, ":4990", one(t, s, "ZREMRANGEBYRANK z 5 -6"))
	require.Equal(t, ":10", one(t, s, "ZCARD z"))
	require.Equal(t, `["m0" "m1" "m2" "m3" "m4" "m4995" "m4996" "m4997" "m4998" "m4999"]`, one(t, s, "ZRANGE z 0 -1"))
	require.Len(t, elements(one(t, s, "ZSCAN z 0 COUNT 100")), 1+2*10)
	for i := range 5000 {
		one(t, s, fmt.Sprint("RPUSH l e", i))
	}
	memory.Check(t, s)
	require.Len(t, elements(one(t, s, "LPOP l 4996")), 4996)
	require.Equal(t, `["e4996" "e4997" "e4998" "e4999"]`, one(t, s, "LRANGE l 0 -1"))
	memory.Check(t, s)
}

// TestConcurrent runs all kinds of commands from many goroutines on a few keys, with
// eviction and expiry. It checks that transactions are atomic and the key space is
// consistent.
func TestConcurrent(t *testing.T) {
	s := open(t, memory.Options{MaxEntries: 100})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 600 {
				key := fmt.Sprint("k", r.IntN(300))
				switch r.IntN(8) {
				case 0:
					one(t, s, "SET "+key+" v PX "+fmt.Sprint(1+r.IntN(5)))
				case 1:
					run(t, s, 0, words("GET "+key), words("SADD set"+key+" m n"), words("SCAN 0 COUNT 50"))
				case 2:
					run(t, s, driver.ReadOnly, words("MGET "+key+" k1 k2"), words("ZRANGE z"+key+" 0 -1"))
				case 3:
					one(t, s, "ZADD z"+key+" 1 a 2 b")
				case 4:
					run(t, s, driver.Keep, words(fmt.Sprint("SET kept", r.IntN(20), " v PX 2")))
				case 5:
					one(t, s, "DEL "+key+" set"+key)
				case 6:
					// Both keys or neither: a transaction writes both.
					run(t, s, driver.Atomic|driver.Keep, words("INCR left"), words("INCR right"))
					got := run(t, s, driver.Atomic, words("GET left"), words("GET right"))
					require.Equal(t, got[0], got[1])
				case 7:
					got := run(t, s, driver.Atomic, words("SET t"+key+" v"), words("GET t"+key))
					require.Equal(t, `"v"`, got[1], "evicted inside a transaction")
				}
				if r.IntN(50) == 0 {
					memory.Check(t, s)
				}
			}
		})
	}
	wg.Wait()
	memory.Check(t, s)
	require.LessOrEqual(t, s.Len(), 100+22)
}

// TestConcurrentClose checks that a pipeline concurrent with Close runs completely or
// not at all.
func TestConcurrentClose(t *testing.T) {
	for range 50 {
		s, err := memory.Open(memory.Options{})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					p := driver.NewPipeline(0)
					p.Cmd("GET").Key("k").Cmd("SET").Key("k").String("v").Cmd("GET").Key("k")
					if err := s.Do(t.Context(), p); err != nil {
						require.ErrorIs(t, err, driver.ErrUnavailable)
						require.Zero(t, p.Replies().Len())
						p.Free()
						return
					}
					require.Equal(t, 3, p.Replies().Len())
					p.Free()
				}
			})
		}
		time.Sleep(100 * time.Microsecond)
		require.NoError(t, s.Close())
		wg.Wait()
	}
}
