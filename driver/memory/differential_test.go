package memory_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
	"github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
)

// TestDifferential runs a random plan on a real Redis and on a Store: valid and
// malformed commands over a few keys, fields, members and values, so that they
// interact. All replies must be equal, and so must the data at the end.
//
// CACHES_TEST_PLAN is the number of commands. CACHES_TEST_SEED replays a plan.
func TestDifferential(t *testing.T) {
	conn := startRedis(t)
	store := open(t, memory.Options{})
	seed := uint64(envInt(t, "CACHES_TEST_SEED", time.Now().UnixNano()))
	size := int(envInt(t, "CACHES_TEST_PLAN", 20_000))
	t.Logf("seed %d, %d commands", seed, size)
	pl := newPlan(seed)
	for done := 0; done < size; {
		batch := slices.DeleteFunc(pl.batch(100), func(s step) bool {
			return slices.ContainsFunc(s.commands, conn.differs)
		})
		done += 100
		compareBatch(t, conn, store, batch)
		if t.Failed() {
			t.Fatalf("after %d commands of seed %d", done, seed)
		}
	}
	compareData(t, conn, store)
}

// TestEveryCommandIsCompared checks that the plans have every command that a Store has.
func TestEveryCommandIsCompared(t *testing.T) {
	for _, name := range memory.Commands() {
		switch name {
		case "TIME", "FLUSHDB", "FLUSHALL": // differs by nature, would leave nothing to compare
			continue
		}
		require.True(t, slices.ContainsFunc(templates, func(row string) bool { return strings.Fields(row)[0] == name }), name)
	}
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// A step of a plan is one command, or a transaction of several.
type step struct {
	commands [][]string
	atomic   bool
}

// compareBatch sends a batch to Redis in one round trip. It then runs the batch on the
// store step by step, as the random choices of Redis are known by then.
func compareBatch(t *testing.T, conn *server, store *memory.Store, batch []step) {
	for _, s := range batch {
		if s.atomic {
			send(t, conn, []string{"MULTI"})
		}
		for _, c := range s.commands {
			send(t, conn, c)
		}
		if s.atomic {
			send(t, conn, []string{"EXEC"})
		}
	}
	require.NoError(t, conn.Flush())
	for _, s := range batch {
		if s.atomic {
			want := receiveTransaction(t, conn, len(s.commands))
			got := run(t, store, driver.Atomic, s.commands...)
			for i, c := range s.commands {
				conn.compare(t, c, want[i], got[i])
			}
			continue
		}
		compareStep(t, conn, store, s.commands[0], receive(t, conn))
	}
}

func send(t *testing.T, conn redis.Conn, c []string) {
	args := make([]any, len(c)-1)
	for i, arg := range c[1:] {
		args[i] = arg
	}
	require.NoError(t, conn.Send(c[0], args...))
}

func receive(t *testing.T, conn redis.Conn) string {
	reply, err := conn.Receive()
	if e, ok := err.(redis.Error); ok {
		return renderRedis(e)
	}
	require.NoError(t, err)
	return renderRedis(reply)
}

// receiveTransaction reads the replies of MULTI, n commands and EXEC. It returns the
// replies that a Pipeline has: one for each command, or if one was refused, its
// error and EXECABORT for the others.
func receiveTransaction(t *testing.T, conn redis.Conn, n int) []string {
	require.Equal(t, "+OK", receive(t, conn))
	queued := make([]string, n)
	for i := range queued {
		queued[i] = receive(t, conn)
	}
	reply, err := conn.Receive()
	if e, ok := err.(redis.Error); ok {
		for i, q := range queued {
			if q == "+QUEUED" {
				queued[i] = renderRedis(e)
			}
		}
		return queued
	}
	require.NoError(t, err)
	for i, r := range reply.([]any) {
		queued[i] = renderRedis(r)
	}
	return queued
}

// compareStep runs c on the store and compares the replies. Instead of a random pop it
// removes the members that Redis has popped, which must exist.
func compareStep(t *testing.T, conn *server, store *memory.Store, c []string, want string) {
	if c[0] != "SPOP" || want == "nil" || want == "[]" || want[0] == '-' {
		conn.compare(t, c, want, run(t, store, 0, c)[0])
		return
	}
	rem := []string{"SREM", c[1]}
	for _, quoted := range elements(want) {
		member, err := strconv.Unquote(quoted)
		require.NoError(t, err)
		rem = append(rem, member)
	}
	conn.compare(t, rem, fmt.Sprint(":", len(rem)-2), run(t, store, 0, rem)[0])
}

// compare compares the parts of a reply that are deterministic.
func (s *server) compare(t *testing.T, c []string, want, got string) {
	t.Helper()
	if !s.same(c, want, got) {
		t.Errorf("%q\n got %s\nwant %s", c, got, want)
	}
}

func (s *server) same(c []string, want, got string) bool {
	if s.shortest && c[0][0] == 'Z' {
		want, got = shortest(want), shortest(got)
	}
	if want == got {
		return true
	}
	if want[0] != got[0] || want[0] == '-' {
		return false
	}
	switch c[0] {
	case "SMEMBERS", "HKEYS", "HVALS", "SUNION", "SINTER", "SDIFF", "SSCAN", "SCAN":
		return sorted(want) == sorted(got)
	case "HGETALL", "HSCAN":
		return slices.Equal(pairs(want), pairs(got))
	case "ZSCAN": // the format of large integers depends on the encoding of the set
		return slices.Equal(pairs(plainIntegers(want)), pairs(plainIntegers(got)))
	case "SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER":
		return len(elements(want)) == len(elements(got))
	case "TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME":
		return near(c[0], want, got)
	}
	return false
}

var floats = regexp.MustCompile(`"-?[0-9][-+.e0-9]*"`)

// shortest writes floats in their shortest form.
func shortest(reply string) string {
	return floats.ReplaceAllStringFunc(reply, func(quoted string) string {
		f, err := strconv.ParseFloat(strings.Trim(quoted, `"`), 64)
		if err != nil {
			return quoted
		}
		return strconv.Quote(strconv.FormatFloat(f, 'g', -1, 64))
	})
}

var exponents = regexp.MustCompile(`"-?[0-9.]+e\+[0-9]+"`)

// plainIntegers writes scores without exponents.
func plainIntegers(array string) string {
	return exponents.ReplaceAllStringFunc(array, func(quoted string) string {
		f, err := strconv.ParseFloat(strings.Trim(quoted, `"`), 64)
		if err != nil {
			return quoted
		}
		return strconv.Quote(strconv.FormatFloat(f, 'f', 0, 64)) // all digits: with -1, 1.0000000000000002e+17 ends in 20 and not in 16
	})
}

// pairs sorts a flat array of pairs. A cursor in front of them stays first.
func pairs(array string) []string {
	e := elements(array)
	var out []string
	if len(e)%2 == 1 {
		out, e = e[:1], e[1:]
	}
	for i := 0; i < len(e); i += 2 {
		out = append(out, e[i]+" "+e[i+1])
	}
	slices.Sort(out)
	return out
}

// near compares times that the two sides have read at different moments. The deadlines
// of a plan are at least 500 s apart from each other and from now.
func near(command, want, got string) bool {
	a, err1 := strconv.ParseInt(strings.TrimPrefix(want, ":"), 10, 64)
	b, err2 := strconv.ParseInt(strings.TrimPrefix(got, ":"), 10, 64)
	slack := int64(120)
	if command[0] == 'P' {
		slack *= 1000
	}
	return err1 == nil && err2 == nil && a > 0 && b > 0 && max(a-b, b-a) <= slack
}

// compareData compares all stored data.
func compareData(t *testing.T, conn *server, store *memory.Store) {
	dump := map[string][]string{
		`+string`: {"GET"}, `+hash`: {"HGETALL"}, `+set`: {"SMEMBERS"}, `+zset`: {"ZRANGE", "0", "-1", "WITHSCORES"},
		`+list`: {"LRANGE", "0", "-1"},
	}
	keys := elements(redisStep(t, conn, []string{"KEYS", "*"}))
	require.Equal(t, len(keys), store.Len())
	for _, quoted := range keys {
		key, err := strconv.Unquote(quoted)
		require.NoError(t, err)
		kind := redisStep(t, conn, []string{"TYPE", key})
		require.Equal(t, kind, one(t, store, "TYPE "+key))
		read := append([]string{dump[kind][0], key}, dump[kind][1:]...)
		for _, c := range [][]string{read, {"PTTL", key}} {
			conn.compare(t, c, redisStep(t, conn, c), run(t, store, 0, c)[0])
		}
	}
}

// A plan is a source of random commands.
type plan struct {
	r    *rand.Rand
	base int64 // Unix time at which the plan was made
}

func newPlan(seed uint64) *plan {
	return &plan{r: rand.New(rand.NewPCG(seed, 0)), base: time.Now().Unix()}
}

func (p *plan) batch(n int) []step {
	batch := make([]step, n)
	for i := range batch {
		s := step{commands: [][]string{p.command()}}
		if s.atomic = p.r.IntN(20) == 0; s.atomic {
			for range p.r.IntN(4) {
				s.commands = append(s.commands, p.command())
			}
			// Random choices within a transaction cannot be repeated on the store.
			s.commands = slices.DeleteFunc(s.commands, func(c []string) bool { return c[0] == "SPOP" })
			s.atomic = len(s.commands) > 0
			if !s.atomic {
				s.commands = [][]string{{"PING"}}
			}
		}
		batch[i] = s
	}
	return batch
}

// templates are the commands. One letter stands for an argument:
//
//	k any key   s h e z q l  a key of a string, hash, set, sorted set, list, or
//	sorted set whose scores are all 0 (one in eight is any key)
//	v value  f field  m member  n integer  d float  c count  i rank
//	b bound of scores  x bound of members  t seconds  u milliseconds
//	T U the same as Unix time  A B the same, in the future  p pattern  j COUNT  y cursor
//
// Any other word stands for itself. A part in parentheses is optional. A "+" after a
// letter repeats it; "fv+" repeats the pair.
var templates = strings.Split(strings.TrimSpace(`
PING
PING v
ECHO v
DBSIZE
DEL k
DEL k k
UNLINK k
EXISTS k k k
TOUCH k k
TYPE k
EXPIRE k t
EXPIRE k t NX
EXPIRE k t XX
EXPIRE k t FOO
EXPIRE k t NX GT
EXPIRE k T GT LT
PEXPIRE k u
PEXPIRE k u (NX)
EXPIREAT k T (NX) (XX) (GT) (LT)
PEXPIREAT k U (NX) (XX) (GT) (LT)
TTL k
PTTL k
EXPIRETIME k
PEXPIRETIME k
PERSIST k
SCAN 0 COUNT 10000
SCAN 0 COUNT 10000 MATCH p
SCAN 0 TYPE hash COUNT 10000
SCAN y COUNT 10000
SCAN 0 COUNT j
RENAME k k
COPY k k
COPY k k REPLACE
COPY k k FOO
GET s
GET s
GET s
SET s v
SET s v (NX) (XX) (GET)
SET s v (NX) (XX) (GET) (KEEPTTL) (EX) (t)
SET s v (GET) EX t
SET s v PX u (NX)
SET s v EXAT A
SET s v PXAT B (XX)
SET s v KEEPTTL
SET s n
SET s d
SETNX s v
GETSET s v
GETDEL s
GETEX s
GETEX s EX t
GETEX s PX u
GETEX s EXAT T
GETEX s PXAT U
GETEX s PERSIST
GETEX s PERSIST (EX) (t)
MGET s k s h
MSET s v k v
MSET s v s
STRLEN s
APPEND s v
INCR s
DECR s
INCRBY s n
INCRBY s n
DECRBY s n
INCRBYFLOAT s d
INCRBYFLOAT s d
HGET h f
HGET h f
HSET h f v
HSET h f v f v f n
HSET h f v f
HSET h f d
HSETNX h f v
HDEL h f
HDEL h f f f
HEXISTS h f
HLEN h
HKEYS h
HVALS h
HGETALL h
HMGET h f f f
HINCRBY h f n
HINCRBYFLOAT h f d
HSCAN h 0 COUNT 10000
HSCAN h 0 COUNT 10000 MATCH p
HSCAN h y COUNT 10000
HSCAN h 0 COUNT j
HSCAN h 0 COUNT
SSCAN e y COUNT 10000
HRANDFIELD h
HRANDFIELD h c
HRANDFIELD h c WITHVALUES
HRANDFIELD h c FOO
HSTRLEN h f
LPUSH q m
LPUSH q m m m m
RPUSH q m
RPUSH q m m v m
LPUSHX q m m
RPUSHX q m
LPOP q
LPOP q c
LPOP q c c
RPOP q
RPOP q c
LLEN q
LINDEX q i
LINDEX q i
LRANGE q i i
LRANGE q i i
LTRIM q i i
LREM q c m
LREM q n m
LPOS q m
LPOS q m RANK c
LPOS q m (RANK) (c) (COUNT) (c) (MAXLEN) (c)
LPOS q m COUNT c MAXLEN c
LPOS q m COUNT c FOO
SADD e m
SADD e m m m m
SREM e m
SREM e m m m
SISMEMBER e m
SMISMEMBER e m m m
SCARD e
SMEMBERS e
SPOP e
SPOP e c
SRANDMEMBER e
SRANDMEMBER e c
SRANDMEMBER e c FOO
SSCAN e 0 COUNT 10000
SSCAN e 0 MATCH p COUNT 10000
SMOVE e e m
SMOVE e k m
SUNION e e
SINTER e e
SINTER e k e
SDIFF e e e
SUNIONSTORE e e e
SINTERSTORE e e e
SDIFFSTORE e e e
SUNIONSTORE k e
SINTERCARD 2 e e
SINTERCARD 2 e e LIMIT c
SINTERCARD c e e e LIMIT n
ZADD z d m
ZADD z d m d m d m
ZADD z (NX) (XX) (GT) (LT) (CH) (INCR) d m
ZADD z (GT) (CH) d m d m
ZADD z (LT) (XX) d m d m
ZADD z d m d
ZADD l 0 m 0 m 0 m
ZADD l 0 m 0 m
ZREM l m
ZINCRBY z d m
ZSCORE z m
ZMSCORE z m m m
ZRANK z m
ZREVRANK z m
ZCARD z
ZCOUNT z b b
ZLEXCOUNT l x x
ZRANGE z i i
ZRANGE z i i (REV) (WITHSCORES)
ZRANGE z b b BYSCORE (REV) (WITHSCORES)
ZRANGE z b b BYSCORE LIMIT i i (REV) (WITHSCORES)
ZRANGE l x x BYLEX (REV)
ZRANGE l x x BYLEX LIMIT i i (REV)
ZRANGE z i i (BYLEX) (BYSCORE) (WITHSCORES) (LIMIT)
ZRANGE z i i LIMIT i i
ZPOPMIN z
ZPOPMIN z c
ZPOPMAX z
ZPOPMAX z c
ZREM z m
ZREM z m m m
ZREMRANGEBYRANK z i i
ZREMRANGEBYSCORE z b b
ZSCAN z 0 COUNT 10000
ZSCAN z 0 MATCH p COUNT 10000
ZRANDMEMBER z
ZRANDMEMBER z c
ZRANDMEMBER z c WITHSCORES
NONSENSE k v
GET
GET s s
HSET h f
`), "\n")

var alphabet = map[string][]string{
	"v": {"", "a", "b", "hello", "10", "-3", "007", " 1", "1.5", "9223372036854775807", "-9223372036854775808", "x\r\ny\x00z", strings.Repeat("long ", 20)},
	"f": {"f0", "f1", "f2", "f3", "f4", "f5", "F", ""},
	"m": {"a", "b", "c", "d", "e", "aa", "ab", "B", "m\xff", "7", "12", ""},
	"n": {"0", "1", "2", "-1", "-7", "100", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "+1", "01", "1.0", "-0", "", "x"},
	"d": {"0", "1", "-1", "2", "3.5", "0.1", "0.2", "-0.3", "10.50", "1e3", "5.0e3", "3.14159265358979", "123456789.125", "1e17", "100000000000000001", "0x10", "1e-7", "inf", "-inf", "+5", "nan", "x", "", "1e400", " 1", "1_0"},
	"c": {"0", "1", "2", "3", "5", "100", "-1", "-4", "-5", "x", "1.5"},
	"i": {"0", "1", "2", "3", "5", "100", "-1", "-2", "-4", "-100", "x"},
	"b": {"-inf", "+inf", "inf", "0", "1", "(1", "2", "(2", "0.1", "(0.1", "-1", "(3.5", "1000", "(inf", "x", "", "nan", "("},
	"x": {"-", "+", "[a", "(a", "[b", "(c", "[aa", "(e", "[", "(", "[m", "a", "", "--"},
	"t": {"1000", "2000", "3000", "1000", "2000", "0", "-1", "x", "9223372036854775807", "-9223372036854775808", "9223372036854775"},
	"u": {"1000000", "2000000", "3000000", "1000000", "0", "-1", "x", "9223372036854775807", "-9223372036854775808"},
	"j": {"0", "-1", "x", "10000", "20000"},
	"y": {"x", "0", " 0", "1.5", "18446744073709551616"},
	"p": {"*", "*1", "s*", "?", "[ab]", "[^a]*", "[a-c]", "f[0-2]", "h?", "\\a", "a*b", "*a*", "[a", "", "**", "s[", "a\\", "[^", "[c-a]", "[\\]a]", "*[be]*"},
}

// command returns a random command.
func (p *plan) command() []string {
	if p.r.IntN(200) == 0 {
		return p.bulk()
	}
	var c []string
	for i, word := range strings.Fields(pick(p, templates)) {
		if strings.HasPrefix(word, "(") {
			if p.r.IntN(3) > 0 {
				continue
			}
			word = strings.Trim(word, "()")
		}
		if i > 0 {
			word = p.argument(word)
		}
		c = append(c, word)
	}
	return c
}

// kinds are the letters of keys.
var kinds = []string{"s", "h", "e", "z", "q"}

func pick[T any](p *plan, from []T) T { return from[p.r.IntN(len(from))] }

func (p *plan) argument(letter string) string {
	switch letter {
	case "s", "h", "e", "z", "q":
		if p.r.IntN(8) > 0 {
			return letter + strconv.Itoa(p.r.IntN(3))
		}
		return pick(p, kinds) + strconv.Itoa(p.r.IntN(3))
	case "k":
		return pick(p, kinds) + strconv.Itoa(p.r.IntN(4))
	case "l":
		return "l" + strconv.Itoa(p.r.IntN(2))
	case "T", "A":
		return p.absolute(letter == "T", 1)
	case "U", "B":
		return p.absolute(letter == "U", 1000)
	}
	if from, ok := alphabet[letter]; ok {
		return pick(p, from)
	}
	return letter
}

// absolute returns a random Unix time that is far from all relative ones. A past time
// deletes the key, but SET stores such a key, and DBSIZE of Redis counts it until it
// is next looked up. So past times are not used with SET.
func (p *plan) absolute(past bool, scale int64) string {
	if past && p.r.IntN(4) == 0 {
		return pick(p, []string{"0", "1", "-1", "-9223372036854775808", "x"})
	}
	return strconv.FormatInt((p.base+10_000*int64(1+p.r.IntN(4)))*scale, 10)
}

// bulk returns a random command with so many members that Redis does not use its
// encoding for small collections.
func (p *plan) bulk() []string {
	n := 150 + p.r.IntN(150)
	switch p.r.IntN(5) {
	case 0:
		return p.members([]string{"HSET", p.argument("h")}, n, func(m string) []string { return []string{m, m} })
	case 1:
		return p.members([]string{"SADD", p.argument("e")}, 4*n, func(m string) []string { return []string{m} })
	case 2:
		return p.members([]string{"ZADD", p.argument("z")}, n, func(m string) []string {
			return []string{strconv.FormatFloat(p.r.NormFloat64(), 'g', -1, 64), m}
		})
	case 3:
		return p.members([]string{pick(p, []string{"LPUSH", "RPUSH"}), p.argument("q")}, n, func(m string) []string { return []string{m} })
	}
	return []string{"DEL", p.argument("h"), p.argument("e"), p.argument("z"), p.argument("q")}
}

func (p *plan) members(c []string, n int, args func(string) []string) []string {
	for range n {
		c = append(c, args(fmt.Sprint("m", p.r.IntN(2*n)))...)
	}
	return c
}
