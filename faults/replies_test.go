package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the server says when it refuses, and how often a command that it refused
// is sent. The rule: a server that says it ran nothing, for now, is asked again
// until the deadline, whatever the command; a script that it has forgotten goes
// again as its source; everything else is the answer, after one attempt.

// A code is an error reply as Redis 7.0 words it.
type code struct {
	text  string
	again bool // it says that nothing has run, for now
}

var codes = []code{
	{"LOADING Redis is loading the dataset in memory", true},
	{"TRYAGAIN Multiple keys request during rehashing of slot", true},
	{"CLUSTERDOWN Hash slot not served", true},
	{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true},
	{"ERR max number of clients reached", true},
	{"ERR value is not an integer or out of range", false},
	{"ERR unknown command 'SET', with args beginning with: 'k'", false},
	{"WRONGTYPE Operation against a key holding the wrong kind of value", false},
	{"OOM command not allowed when used memory > 'maxmemory'.", false},
	{"NOAUTH Authentication required.", false},
	{"WRONGPASS invalid username-password pair or user is disabled.", false},
	{"NOPERM this user has no permissions to run the 'set' command", false},
	{"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", false},
	{"READONLY You can't write against a read only replica.", false},
	{"MOVED 3999 127.0.0.1:6381", false},
	{"ASK 3999 127.0.0.1:6381", false},
	{"NOSCRIPT No matching script. Please use EVAL.", false},
	{"EXECABORT Transaction discarded because of previous errors.", false},
	{"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", false},
	{"NOREPLICAS Not enough good replicas to write.", false},
	{"UNKILLABLE Sorry the script already executed write commands against the dataset.", false},
	{"NOTBUSY No scripts in execution right now.", false},
	{"CROSSSLOT Keys in request don't hash to the same slot", false},
	{"BUSYKEY Target key name already exists.", false},
	{"INPROG Failover already in progress", false},
	{"NOPROTO unsupported protocol version", false},
}

func (c code) name() string { return strings.Fields(c.text)[0] }

func (c code) wire() string { return "-" + c.text + "\r\n" }

// ample is more than a call may come late on a machine that is busy with other
// things.
const ample = 5 * time.Second

// refusals is how often a fake refuses before it runs what it is asked.
const refusals = 3

// A class is a kind of call and how a server refuses it.
type class struct {
	name  string
	mode  driver.Mode
	build func(p *driver.Pipeline)
	first string // the command that begins an attempt

	// refuse answers one command of an attempt that is refused with text, and
	// accept one of another attempt.
	refuse func(cmd []string, text string) string
	accept func(cmd []string) string

	// Of the refusal, as the caller sees it: %[1]s stands for its text.
	replies string
	whole   bool  // it says that nothing at all has run
	err     error // of Do, where there is one
}

const (
	ok     = "+OK\r\n"
	queued = "+QUEUED\r\n"
	abort  = "-EXECABORT Transaction discarded because of previous errors.\r\n"
)

var greet = driver.NewScript(`return redis.call('SET', KEYS[1], ARGV[1])`, nil)

func buildSet(p *driver.Pipeline)    { p.Cmd("SET").Key("k").String("v") }
func buildGet(p *driver.Pipeline)    { p.Cmd("GET").Key("k") }
func buildScript(p *driver.Pipeline) { p.Script(greet, 1).Key("k").String("v") }

func buildTwo(name string) func(p *driver.Pipeline) {
	return func(p *driver.Pipeline) {
		p.Cmd(name).Key("a").String("v")
		p.Cmd(name + "X").Key("b").String("v")
	}
}

// always refuses every command.
func always(_ []string, text string) string { return text }

// only refuses the command of that name.
func only(name string, others func(cmd []string) string) func([]string, string) string {
	return func(cmd []string, text string) string {
		if cmd[0] == name {
			return text
		}
		return others(cmd)
	}
}

// run answers commands outside a transaction, and transact those inside one of
// as many commands as its number.
func runs(cmd []string) string { return ok }

func transacts(n int) func(cmd []string) string {
	return func(cmd []string) string {
		switch cmd[0] {
		case "MULTI":
			return ok
		case "EXEC":
			return fmt.Sprintf("*%d\r\n", n) + strings.Repeat(ok, n)
		}
		return queued
	}
}

// spoils answers a transaction one of whose commands is refused.
func spoils(cmd []string) string {
	if cmd[0] == "EXEC" {
		return abort
	}
	return transacts(0)(cmd)
}

var classes = []class{
	{"a write", 0, buildSet, "SET", always, runs, "%[1]s", true, nil},
	{"a read", driver.ReadOnly, buildGet, "GET", always, runs, "%[1]s", true, nil},
	{"a repeatable write", driver.Repeatable, buildSet, "SET", always, runs, "%[1]s", true, nil},
	{"a write that keeps", driver.Keep, buildSet, "SET", always, runs, "%[1]s", true, nil},
	{"on its own connection", driver.Own, buildSet, "SET", always, runs, "%[1]s", true, nil},
	{"two writes", 0, buildTwo("SET"), "SET", always, runs, "%[1]s%[1]s", true, nil},
	{"two reads", driver.ReadOnly, buildTwo("GET"), "GET", always, runs, "%[1]s%[1]s", true, nil},
	{"two writes, the first", 0, buildTwo("SET"), "SET", only("SET", runs), runs, "%[1]s" + ok, false, nil},
	{"two writes, the second", 0, buildTwo("SET"), "SET", only("SETX", runs), runs, ok + "%[1]s", false, nil},
	{"two reads, the second", driver.ReadOnly, buildTwo("GET"), "GET", only("GETX", runs), runs, ok + "%[1]s", false, nil},
	{"two repeatable, the first", driver.Repeatable, buildTwo("SET"), "SET", only("SET", runs), runs, "%[1]s" + ok, false, nil},
	{"a transaction, all of it", driver.Atomic, buildSet, "MULTI", always, transacts(1), "%[1]s", true, nil},
	{"a transaction, its command", driver.Atomic, buildSet, "MULTI", only("SET", spoils), transacts(1), "%[1]s", true, nil},
	{"a transaction, one of two", driver.Atomic, buildTwo("SET"), "MULTI", only("SET", spoils), transacts(2), "%[1]s" + abort, false, nil},
	{"a transaction, its EXEC", driver.Atomic, buildTwo("SET"), "MULTI", only("EXEC", transacts(2)), transacts(2), "%[1]s%[1]s", true, nil},
	{"a transaction, when it ran", driver.Atomic, buildTwo("SET"), "MULTI", inside, transacts(2), ok + "%[1]s", false, nil},
	{"a transaction that was none", driver.Atomic, buildSet, "MULTI", only("MULTI", withoutMulti), transacts(1), "", false, driver.ErrUnknownOutcome},
	{"a script", 0, buildScript, "EVALSHA", only("EVALSHA", runs), runs, "%[1]s", true, nil},
	{"a script that reads", driver.ReadOnly, buildScript, "EVALSHA", only("EVALSHA", runs), runs, "%[1]s", true, nil},
	{"a script in a transaction", driver.Atomic, buildScript, "MULTI", only("EVAL", spoils), transacts(1), "%[1]s", true, nil},
}

// inside answers a transaction whose second command fails as it runs.
func inside(cmd []string, text string) string {
	if cmd[0] == "EXEC" {
		return "*2\r\n" + ok + text
	}
	return transacts(2)(cmd)
}

// withoutMulti answers what comes after a MULTI that was refused.
func withoutMulti(cmd []string) string {
	if cmd[0] == "EXEC" {
		return "-ERR EXEC without MULTI\r\n"
	}
	return ok
}

// TestErrorReplies sends every class of call to a server that refuses three
// attempts with every code, and counts.
func TestErrorReplies(t *testing.T) {
	cases, attempts := 0, 0
	for _, c := range codes {
		for _, k := range classes {
			t.Run(c.name()+"/"+k.name, func(t *testing.T) {
				attempts += refuseThrice(t, c, &k)
				cases++
			})
		}
	}
	require.Equal(t, len(codes)*len(classes), cases)
	report(t, fmt.Sprintf("%d error replies of the server × %d classes of calls", len(codes), len(classes)),
		"%d of %d with the exact outcome and number of attempts (%d)", cases, cases, attempts)
}

// refuseThrice makes one call and returns how many attempts came.
func refuseThrice(t *testing.T, c code, k *class) int {
	n := 0 // attempts so far
	server := newFake(t, func(cmd []string) string {
		switch {
		case cmd[0] == "PING":
			return "+PONG\r\n"
		case cmd[0] == "INFO":
			return bulk("redis_version:7.0.15\r\n")
		case cmd[0] == k.first:
			n++
		}
		if n == 0 || n > refusals { // 0: the script is made known
			return k.accept(cmd)
		}
		return k.refuse(cmd, c.wire())
	})
	s := open(t, redigo.Config{Address: server.addr})
	makeKnown(t, s, server, k)
	got, err := wireOf(t, s, k)
	expectRefusal(t, c, k, got, err)
	want := k.attempts(c)
	sent := server.count(k.first)
	assert.Equal(t, want, sent, "attempts")
	assert.EqualValues(t, want-1, s.Stats().Retries)
	assert.Equal(t, k.sources(c), server.count("EVAL"), "times that the script was sent as its source")
	if strings.HasPrefix(k.name, "two") {
		assert.Equal(t, want, server.count("SETX", "GETX"), "the second command")
	}
	assert.Equal(t, 1, server.accepted(), "a refusal costs no connection")
	return sent
}

// makeKnown lets the store send the script, so that the next call has its
// digest.
func makeKnown(t *testing.T, s *redigo.Store, f *fake, k *class) {
	t.Helper()
	if k.first != "EVALSHA" {
		return
	}
	got, err := wireOf(t, s, k)
	require.NoError(t, err)
	require.Equal(t, ok, got)
	require.Equal(t, 1, f.count("EVAL"))
}

func wireOf(t *testing.T, s driver.Store, k *class) (string, error) {
	t.Helper()
	p := driver.NewPipeline(k.mode)
	defer p.Free()
	k.build(p)
	n := p.Len()
	err := s.Do(t.Context(), p)
	if err == nil {
		require.Equal(t, n, p.Replies().Len(), "one reply for each command")
	}
	return string(p.Replies().Raw()), err
}

// attempts is how many the call takes, by the rule.
func (k *class) attempts(c code) int {
	if c.again && k.whole {
		return refusals + 1
	}
	return 1
}

// sources is how often a script is sent as its source.
func (k *class) sources(c code) int {
	switch {
	case k.first == "EVALSHA" && c.name() == "NOSCRIPT":
		return 2 // to make it known, and once more when it was forgotten
	case k.first == "EVALSHA":
		return 1
	case k.name == "a script in a transaction":
		return k.attempts(c)
	}
	return 0
}

// expectRefusal checks what the caller gets.
func expectRefusal(t *testing.T, c code, k *class, got string, err error) {
	t.Helper()
	if k.err != nil {
		require.ErrorIs(t, err, k.err)
		require.NotErrorIs(t, err, driver.ErrUnavailable)
		refusal, ok := errors.AsType[*driver.ServerError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, c.name(), refusal.Code)
		assert.Empty(t, got)
		return
	}
	require.NoError(t, err)
	switch {
	case c.again && k.whole:
		assert.Equal(t, strings.Repeat(ok, strings.Count(k.replies, "%[1]s")), got, "the attempt that was let through")
	case k.first == "EVALSHA" && c.name() == "NOSCRIPT":
		assert.Equal(t, ok, got, "its source was let through")
	default:
		assert.Equal(t, strings.ReplaceAll(k.replies, "%[1]s", c.wire()), got)
	}
}

// TestRefusedForGood leaves a server as it is that never lets anything through:
// the refusal is the answer, by the deadline and not before a second attempt.
// All wait for their deadlines at the same time.
func TestRefusedForGood(t *testing.T) {
	cases := 0
	var all sync.WaitGroup
	for _, c := range codes {
		for _, k := range classes {
			if c.again && k.whole && k.first != "EVALSHA" {
				cases++
				server := newFake(t, refusing(c, &k))
				all.Go(func() { expectPersistence(t, server, c, &k) })
			}
		}
	}
	all.Wait()
	require.NotZero(t, cases)
	report(t, "the server refuses until the deadline", "%d of %d calls end with its answer, by then, after several attempts", cases, cases)
}

func refusing(c code, k *class) func(cmd []string) string {
	return func(cmd []string) string {
		if cmd[0] == "PING" {
			return "+PONG\r\n"
		}
		return k.refuse(cmd, c.wire())
	}
}

func expectPersistence(t *testing.T, server *fake, c code, k *class) {
	const timeout = 500 * time.Millisecond
	s := open(t, redigo.Config{Address: server.addr, Timeout: timeout})
	start := time.Now()
	got, err := wireOf(t, s, k)
	took := time.Since(start)
	if err != nil { // the deadline passed while an attempt was under way
		assert.ErrorIs(t, err, driver.ErrUnknownOutcome)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	} else {
		assert.Equal(t, strings.ReplaceAll(k.replies, "%[1]s", c.wire()), got)
	}
	assert.Greater(t, server.count(k.first), 1, "%s, %s", c.name(), k.name)
	assert.Less(t, took, timeout+ample, "%s, %s", c.name(), k.name)
}

// TestRefusedGreeting is refused when it dials: nothing of the call has run.
func TestRefusedGreeting(t *testing.T) {
	for _, c := range codes {
		t.Run(c.name(), func(t *testing.T) {
			greetings := 0
			server := newFake(t, func(cmd []string) string {
				if cmd[0] != "PING" {
					return ok
				}
				if greetings++; greetings <= refusals {
					return c.wire()
				}
				return "+PONG\r\n"
			})
			s := open(t, redigo.Config{Address: server.addr})
			got, err := wireOf(t, s, &classes[0])
			switch {
			case c.again:
				require.NoError(t, err)
				assert.Equal(t, ok, got)
				assert.Equal(t, refusals+1, server.accepted())
			case c.name() == "NOPERM": // a user without PING: still an answer
				require.NoError(t, err)
				assert.Equal(t, ok, got)
				assert.Equal(t, 1, server.accepted())
			default:
				require.ErrorIs(t, err, driver.ErrUnavailable)
				refusal, isRefusal := errors.AsType[*driver.ServerError](err)
				require.True(t, isRefusal, "%v", err)
				assert.Equal(t, c.name(), refusal.Code)
				assert.Equal(t, 1, server.accepted())
				assert.Zero(t, server.count("SET"))
			}
		})
	}
	report(t, fmt.Sprintf("%d error replies to the greeting of a connection", len(codes)),
		"%d of %d with the exact outcome and number of dials", len(codes), len(codes))
}

// An operation is one of an object.
type operation struct {
	name string
	call func(ctx context.Context) error
}

func operations(conn *caches.Conn) []operation {
	o := caches.Options{Prefix: "o", TTL: time.Hour}
	value := caches.Cache[string](o).On(conn)
	counter := caches.CounterCache[int](o).On(conn).Key("c")
	dict := caches.DictCache[string, int](o).On(conn).Key("d")
	set := caches.SetCache[string](o).On(conn).Key("s")
	board := caches.SortedSetCache[string](o).On(conn).Key("z")
	gate := caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn).Key("g")
	two := func(_ any, err error) error { return err }
	return []operation{
		{"Value.Get", func(ctx context.Context) error { return two(value.Key("v").Get(ctx)) }},
		{"Value.Set", func(ctx context.Context) error { return value.Key("v").Set(ctx, "x") }},
		{"Value.Pop", func(ctx context.Context) error { return two(value.Key("v").Pop(ctx)) }},
		{"Exists", func(ctx context.Context) error { return two(value.Key("v").Exists(ctx)) }},
		{"GetMany", func(ctx context.Context) error { return two(caches.GetMany(ctx, value, []int{1, 2})) }},
		{"SetMany", func(ctx context.Context) error { return caches.SetMany(ctx, value, map[int]string{1: "a", 2: "b"}) }},
		{"Counter.Incr", func(ctx context.Context) error { return two(counter.Incr(ctx, 1)) }},
		{"Dict.Get", func(ctx context.Context) error { return two(dict.Get(ctx, "f")) }},
		{"Dict.Set", func(ctx context.Context) error { return dict.Set(ctx, "f", 1) }},
		{"Dict.PopItem", func(ctx context.Context) error { _, _, err := dict.PopItem(ctx); return err }},
		{"Set.Add", func(ctx context.Context) error { return two(set.Add(ctx, "m")) }},
		{"Set.Contains", func(ctx context.Context) error { return two(set.Contains(ctx, "m")) }},
		{"SortedSet.Add", func(ctx context.Context) error {
			return two(board.Add(ctx, caches.Scored[string]{Score: 1, Member: "m"}))
		}},
		{"SortedSet.Score", func(ctx context.Context) error { return two(board.Score(ctx, "m")) }},
		{"Sentinel.Once", func(ctx context.Context) error { return two(gate.Once(ctx)) }},
	}
}

// TestObjectsRefused is the same seen from the objects: a refusal is a
// *ServerError with its code, never a miss, and where it is final it is asked
// for once.
func TestObjectsRefused(t *testing.T) {
	cases := 0
	for _, c := range codes {
		for i, op := range operations(nil) {
			t.Run(c.name()+"/"+op.name, func(t *testing.T) {
				refuseObject(t, c, i)
				cases++
			})
		}
	}
	n := len(codes) * len(operations(nil))
	require.Equal(t, n, cases)
	report(t, fmt.Sprintf("%d error replies × %d operations of objects", len(codes), len(operations(nil))),
		"%d of %d are errors of their type; 0 misses", cases, n)
}

// refuseObject refuses all that operation i sends. Where that is asked for again
// and again, its caller goes away after the third time.
func refuseObject(t *testing.T, c code, i int) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]int{}
	server := newFake(t, func(cmd []string) string {
		switch cmd[0] {
		case "PING":
			return "+PONG\r\n"
		case "INFO":
			return bulk("redis_version:7.0.15\r\n")
		}
		line := strings.Join(cmd, " ")
		if seen[line]++; c.again && seen[line] == 3 {
			cancel()
		}
		return c.wire()
	})
	s := open(t, redigo.Config{Address: server.addr})
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"one": s})
	require.NoError(t, err)
	expectObjectError(t, c, operations(conn)[i].call(ctx))
	line, n := server.most()
	switch {
	case c.again:
		assert.GreaterOrEqual(t, n, 3, line)
	case strings.HasPrefix(line, "EVAL ") && c.name() == "NOSCRIPT":
		assert.Equal(t, 2, n, "once more as its source: %s", line)
	default:
		assert.Equal(t, 1, n, line)
		assert.Zero(t, s.Stats().Retries)
	}
}

func expectObjectError(t *testing.T, c code, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, caches.ErrMiss)
	if c.again && errors.Is(err, caches.ErrUnknownOutcome) {
		require.ErrorIs(t, err, context.Canceled) // the last attempt was under way then
		return
	}
	refusal, ok := errors.AsType[*caches.ServerError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, c.name(), refusal.Code)
	assert.Equal(t, c.name() == "WRONGTYPE", errors.Is(err, caches.ErrWrongType))
	assert.Equal(t, strings.HasPrefix(c.text, "ERR value is not"), errors.Is(err, caches.ErrNotNumber))
	assert.NotErrorIs(t, err, caches.ErrUnavailable)
	assert.NotErrorIs(t, err, caches.ErrUnknownOutcome)
	_, op := errors.AsType[*caches.OpError](err)
	_, keys := errors.AsType[*caches.KeysError](err)
	assert.True(t, op || keys, "%T", err)
}
