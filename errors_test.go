package caches_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

// sentinels are all errors that callers test for.
var sentinels = map[string]error{
	"ErrMiss":           caches.ErrMiss,
	"ErrUnavailable":    caches.ErrUnavailable,
	"ErrUnknownOutcome": caches.ErrUnknownOutcome,
	"ErrTooLarge":       caches.ErrTooLarge,
	"ErrCorrupt":        caches.ErrCorrupt,
	"ErrWrongType":      caches.ErrWrongType,
	"ErrNotNumber":      caches.ErrNotNumber,
	"ErrOverflow":       caches.ErrOverflow,
	"ErrNoKey":          caches.ErrNoKey,
	"ErrNoConnection":   caches.ErrNoConnection,
	"ErrLeaseLost":      caches.ErrLeaseLost,
	"ErrProtocol":       driver.ErrProtocol,
	"ErrOldServer":      driver.ErrOldServer,
}

// requireOnly checks that err is those sentinels and none of the others.
func requireOnly(t *testing.T, name string, err error, want ...error) {
	t.Helper()
	require.Error(t, err, name)
	for title, sentinel := range sentinels {
		expected := false
		for _, w := range want {
			expected = expected || w == sentinel
		}
		require.Equal(t, expected, errors.Is(err, sentinel), "%s: errors.Is(%v, %s)", name, err, title)
	}
}

func TestSentinelErrorsDiffer(t *testing.T) {
	for name, err := range sentinels {
		requireOnly(t, name, err, err)
		require.True(t, strings.HasPrefix(err.Error(), "caches: "), err)
	}
	require.Equal(t, driver.ErrUnavailable, caches.ErrUnavailable)
	require.Equal(t, driver.ErrUnknownOutcome, caches.ErrUnknownOutcome)
	require.Equal(t, driver.ErrTooLarge, caches.ErrTooLarge)
}

// What goes wrong with the caller's data is a sentinel of its own, the same on
// every store, inside an OpError that says what was being done and to which key.
func TestErrorsOfData(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := caches.Options{Prefix: "e"}
		text := caches.Cache[string](o).On(conn)
		number := caches.CounterCache[int64](o).On(conn)
		small := caches.CounterCache[int8](o).On(conn)
		float := caches.CounterCache[float64](o).On(conn)
		dict := caches.DictCache[string, int](o).On(conn)
		board := caches.SortedSetCache[string](o).On(conn)
		set := caches.SetCache[int](o).On(conn)
		require.NoError(t, text.Key("text").Set(ctx, "a text"))
		require.NoError(t, number.Key("most").Set(ctx, 1<<63-1))
		require.NoError(t, float.Key("huge").Set(ctx, 1.7e308))
		texts := caches.DictCache[string, string](o).On(conn)
		require.NoError(t, texts.Key("dict").Set(ctx, "text", "a text"))
		for _, tt := range []struct {
			op, key string
			want    []error
			call    func() error
		}{
			{"Value.Get", "e.none", []error{caches.ErrMiss},
				func() error { _, err := text.Key("none").Get(ctx); return err }},
			{"Dict.Get", "e.dict", []error{caches.ErrMiss},
				func() error { _, err := dict.Key("dict").Get(ctx, "none"); return err }},
			{"ExpiresIn", "e.none", []error{caches.ErrMiss},
				func() error { _, err := text.Key("none").ExpiresIn(ctx); return err }},
			{"Value.Get", "e.dict", []error{caches.ErrWrongType},
				func() error { _, err := text.Key("dict").Get(ctx); return err }},
			{"Dict.Set", "e.text", []error{caches.ErrWrongType},
				func() error { return dict.Key("text").Set(ctx, "f", 1) }},
			{"Set.Add", "e.text", []error{caches.ErrWrongType},
				func() error { _, err := set.Key("text").Add(ctx, 1); return err }},
			{"SortedSet.Incr", "e.text", []error{caches.ErrWrongType},
				func() error { _, err := board.Key("text").Incr(ctx, "m", 1); return err }},
			{"Counter.Incr", "e.dict", []error{caches.ErrWrongType},
				func() error { _, err := number.Key("dict").Incr(ctx, 1); return err }},
			{"Sentinel.Once", "e.dict", []error{caches.ErrWrongType},
				func() error {
					_, err := caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn).Key("dict").Once(ctx)
					return err
				}},
			{"Counter.Incr", "e.text", []error{caches.ErrNotNumber},
				func() error { _, err := number.Key("text").Incr(ctx, 1); return err }},
			{"Counter.Incr", "e.text", []error{caches.ErrNotNumber},
				func() error { _, err := float.Key("text").Incr(ctx, 1); return err }},
			{"Counter.Incr", "e.most", []error{caches.ErrOverflow},
				func() error { _, err := number.Key("most").Incr(ctx, 1); return err }},
			{"Dict.Incr", "e.dict", []error{caches.ErrNotNumber},
				func() error { _, err := dict.Key("dict").Incr(ctx, "text", 1); return err }},
			{"Value.Get", "e.most", []error{caches.ErrCorrupt, caches.ErrOverflow},
				func() error { _, err := small.Key("most").Get(ctx); return err }},
			{"Value.Get", "e.text", []error{caches.ErrCorrupt},
				func() error { _, err := caches.Cache[int](o).On(conn).Key("text").Get(ctx); return err }},
			{"Dict.Get", "", []error{caches.ErrNoKey},
				func() error { _, err := caches.Dict[string, int]{}.Get(ctx, "f"); return err }},
		} {
			name := tt.op + " " + tt.key
			err := tt.call()
			requireOnly(t, name, err, tt.want...)
			failed, ok := errors.AsType[*caches.OpError](err)
			require.True(t, ok, name)
			require.Equal(t, tt.op, failed.Op)
			require.Equal(t, tt.key, failed.Key)
			start := tt.op + ": "
			if tt.key != "" {
				start = fmt.Sprintf("%s %q: ", tt.op, tt.key)
			}
			require.True(t, strings.HasPrefix(err.Error(), start), err)
			require.Equal(t, 1, strings.Count(err.Error(), tt.op), "wrapped once: %v", err)
		}
	})
}

// The server's own error can be had beside the sentinel.
func TestClassifiedErrorsKeepTheServers(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		value := caches.Cache[string]{Prefix: "e"}.On(conn).Key("a")
		require.NoError(t, value.Set(ctx, "a text"))
		_, err := caches.SetCache[int]{Prefix: "e"}.On(conn).Key("a").Add(ctx, 1)
		refusal, ok := errors.AsType[*caches.ServerError](err)
		require.True(t, ok, err)
		require.Equal(t, "WRONGTYPE", refusal.Code)
		require.NotEmpty(t, refusal.Message())
	})
}

// How errors of a server are classified, whatever the operation.
func TestClassification(t *testing.T) {
	for _, tt := range []struct {
		reply string
		want  []error
		shows string
	}{
		{"WRONGTYPE Operation against a key holding the wrong kind of value", []error{caches.ErrWrongType}, "caches: key holds another data type"},
		{"ERR increment or decrement would overflow", []error{caches.ErrOverflow}, "caches: number out of range"},
		{"ERR increment would produce NaN or Infinity", []error{caches.ErrOverflow}, "caches: number out of range"},
		{"ERR resulting score is not a number (NaN)", []error{caches.ErrOverflow}, "caches: number out of range"},
		{"ERR value is not an integer or out of range", []error{caches.ErrNotNumber}, "caches: not a number"},
		{"ERR value is not a valid float", []error{caches.ErrNotNumber}, "caches: not a number"},
		{"ERR hash value is not an integer", []error{caches.ErrNotNumber}, "caches: not a number"},
		{"ERR hash value is not a float", []error{caches.ErrNotNumber}, "caches: not a number"},
		{"OOM command not allowed when used memory > 'maxmemory'.", nil, "caches: server says OOM command not allowed when used memory > 'maxmemory'."},
		{"READONLY You can't write against a read only replica.", nil, "caches: server says READONLY You can't write against a read only replica."},
		{"ERR syntax error", nil, "caches: server says ERR syntax error"},
		// What may repeat the command's arguments or name a host is not shown.
		{"ERR unknown command 'FOO', with args beginning with: 'hunter2'", nil, "caches: server says ERR"},
		{"ERR user_script:1: hunter2 script: f00, on @user_script:1.", nil, "caches: server says ERR"},
		{"NOPERM this user has no permissions to access the 'hunter2' key", nil, "caches: server says NOPERM"},
		{"WRONGPASS hunter2", nil, "caches: server says WRONGPASS"},
		{"MOVED 3999 hunter2:6381", nil, "caches: server says MOVED"},
		{"ERR unknown command 'would overflow is not an integer'", nil, "caches: server says ERR"},
		{"NOPERM increment or decrement would overflow", nil, "caches: server says NOPERM"},
		{"HUNTER", nil, "caches: server says HUNTER"},
		{"", nil, "caches: server says "},
	} {
		conn := over(t, replying(tt.reply))
		value := caches.Cache[string]{Prefix: "e"}.On(conn).Key("a")
		_, err := value.Get(t.Context())
		requireOnly(t, tt.reply, err, tt.want...)
		require.Equal(t, `Value.Get "e.a": `+tt.shows, err.Error())
		refusal, ok := errors.AsType[*caches.ServerError](err)
		require.True(t, ok)
		require.Equal(t, tt.reply, strings.TrimSuffix(refusal.Code+" "+refusal.Message(), " "))

		_, err = caches.GetMany(t.Context(), caches.Cache[string]{Prefix: "e"}.On(conn), []int{1})
		requireOnly(t, tt.reply, err, tt.want...)
		require.Equal(t, `GetMany "e.1": `+tt.shows, err.Error())
	}
}

// A replying store answers every command with one error.
type replying string

func (s replying) Do(_ context.Context, p *driver.Pipeline) error {
	for range p.Len() {
		p.Replies().Error(string(s))
	}
	return nil
}

func (replying) Close() error { return nil }

// A store that answers less than was asked, or something else, is a fault and
// never a miss.
func TestErrorsOfProtocol(t *testing.T) {
	for name, leave := range map[string]func(*driver.Replies){
		"no reply":     func(*driver.Replies) {},
		"another kind": func(r *driver.Replies) { r.Int(1) },
	} {
		conn := over(t, leaving(leave))
		_, err := caches.Cache[string]{Prefix: "e"}.On(conn).Key("a").Get(t.Context())
		requireOnly(t, name, err, driver.ErrProtocol)
		won, err := gates(conn, time.Minute).Key("a").Once(t.Context())
		requireOnly(t, name, err, driver.ErrProtocol)
		require.False(t, won, name)
	}
}

// A leaving store leaves whatever it is told to, once per pipeline.
type leaving func(*driver.Replies)

func (s leaving) Do(_ context.Context, p *driver.Pipeline) error { s(p.Replies()); return nil }
func (leaving) Close() error                                     { return nil }

// A real server's refusals.
func TestErrorsOfARealServer(t *testing.T) {
	ctx := t.Context()
	server := testutil.Redis(t, &testutil.RedisOptions{Config: []string{"maxmemory 1", "maxmemory-policy noeviction"}})
	conn := open(t, server.DSN())
	value := caches.Cache[string]{Prefix: "e"}.On(conn).Key("a")
	err := value.Set(ctx, "x")
	requireOnly(t, "out of memory", err)
	refusal, ok := errors.AsType[*caches.ServerError](err)
	require.True(t, ok, err)
	require.Equal(t, "OOM", refusal.Code)
	_, err = value.Get(ctx)
	requireOnly(t, "reads go on", err, caches.ErrMiss)
	won, err := gates(conn, time.Minute).Key("a").Once(ctx)
	requireOnly(t, "a gate without memory", err)
	require.False(t, won)
	ran, err := gates(conn, time.Minute).Key("a").Do(ctx, mustNotRun(t))
	requireOnly(t, "a gate without memory", err)
	require.False(t, ran)
}

func TestObjectWithoutAConnection(t *testing.T) {
	value := caches.Cache[string]{Prefix: "e", Connection: "errors_test"}.Key("a")
	_, err := value.Get(t.Context())
	requireOnly(t, "a name that nothing configures", err, caches.ErrNoConnection)
	require.Contains(t, err.Error(), "CACHES_DSN_ERRORS_TEST")
	require.Equal(t, "e.a", value.String(), "the key without what a connection would put in front")
}

func TestOpErrorText(t *testing.T) {
	cause := errors.New("cause")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&caches.OpError{Op: "Value.Get", Key: "a.b", Err: cause}, `Value.Get "a.b": cause`},
		{&caches.OpError{Op: "Value.Get", Key: "a\n\"b", Err: cause}, `Value.Get "a\n\"b": cause`},
		{&caches.OpError{Op: "Value.Get", Err: cause}, `Value.Get: cause`},
		{&caches.KeysError{Op: "GetMany", Keys: []string{"a"}, Err: cause}, `GetMany "a": cause`},
		{&caches.KeysError{Op: "GetMany", Keys: strings.Split("abcde", ""), Err: cause}, `GetMany "a b c d e": cause`},
		{&caches.KeysError{Op: "GetMany", Keys: strings.Split("abcdefg", ""), Err: cause}, `GetMany "a b c d e" and 2 more: cause`},
	} {
		require.Equal(t, tt.want, tt.err.Error())
		require.ErrorIs(t, tt.err, cause)
		require.Equal(t, cause, errors.Unwrap(tt.err))
	}
}
