package caches_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

type (
	userID   int64
	userName string
	userFlag bool
	userHash [4]byte
	userBlob []byte
)

// MarshalText has a value receiver, as it should.
func (h userHash) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", h[:]), nil }

// A tag whose text has a pointer receiver.
type pointerText struct{ s string }

func (p *pointerText) MarshalText() ([]byte, error) { return []byte("pt:" + p.s), nil }

type failingText struct{}

func (failingText) MarshalText() ([]byte, error) { return nil, errors.New("no text today") }

func TestKeyParts(t *testing.T) {
	conn := open(t, "locmem://")
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	noon := time.Date(2024, 2, 29, 12, 0, 0, 500, time.UTC)
	for _, row := range []struct {
		parts []any
		want  string
	}{
		{nil, "p"},
		{[]any{""}, "p."},
		{[]any{"", ""}, "p.."},
		{[]any{"user", 42}, "p.user.42"},
		{[]any{0, false, ""}, "p.0.false."}, // nothing is left out for being zero
		{[]any{int8(-1), int16(2), int32(3), int64(math.MinInt64)}, "p.-1.2.3.-9223372036854775808"},
		{[]any{uint8(1), uint16(2), uint32(3), uint64(math.MaxUint64), uint(5)}, "p.1.2.3.18446744073709551615.5"},
		{[]any{1.5, float32(0.1), 1e21, math.Inf(-1)}, "p.1%2E5.0%2E1.1e+21.-Inf"},
		{[]any{math.Copysign(0, -1), 0.0}, "p.0.0"}, // equal numbers are one part
		{[]any{true}, "p.true"},
		{[]any{[]byte("a.b")}, "p.a%2Eb"},
		{[]any{userID(7), userName("ada"), userFlag(true), userBlob("x")}, "p.7.ada.true.x"},
		{[]any{userHash{1, 2, 3, 255}}, "p.010203ff"},
		{[]any{pointerText{"a.b"}, &pointerText{"c"}}, "p.pt:a%2Eb.pt:c"},
		{[]any{time.Minute}, "p.60000000000"},
		{[]any{noon}, "p.2024-02-29T12:00:00%2E0000005Z"},
		{[]any{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}, "p.10%2E0%2E0%2E1.::1"},
		{[]any{big.NewInt(99), *big.NewInt(98)}, "p.99.98"},
		{[]any{"a.b", "c"}, "p.a%2Eb.c"},
		{[]any{"a", "b.c"}, "p.a.b%2Ec"},
		{[]any{"a%2Eb"}, "p.a%252Eb"},
		{[]any{"{x}"}, "p.%7Bx%7D"},
		{[]any{"a\x00b\r\n\x1f\x7f"}, "p.a%00b%0D%0A%1F%7F"},
		{[]any{"été ☃ \xff", "a:b/c d*?[x]"}, "p.été ☃ \xff.a:b/c d*?[x]"},
		{[]any{caches.RawKey("a.{b}.c%")}, "p.a.{b}.c%"},
		{[]any{"x", caches.RawKey(""), "y"}, "p.x..y"},
		{[]any{caches.HashTag("user:7"), "cart"}, "p.{user:7}.cart"},
		{[]any{caches.HashTag("a}b{c.d")}, "p.{a%7Db%7Bc%2Ed}"},
		{[]any{caches.HashTag(7), caches.HashTag("")}, "p.{7}.{}"},
	} {
		require.Equal(t, row.want, c.Key(row.parts...).String(), "%#v", row.parts)
	}
}

func TestKeyOfEveryType(t *testing.T) {
	conn := open(t, "locmem://")
	o := caches.Options{Prefix: "p"}
	keys := []fmt.Stringer{
		caches.Cache[int](o).On(conn).Key("a.b", 1),
		caches.CounterCache[int](o).On(conn).Key("a.b", 1),
		caches.SentinelCache{Prefix: o.Prefix, TTL: o.TTL, Connection: o.Connection, Version: o.Version}.On(conn).Key("a.b", 1),
	}
	for _, kind := range kinds {
		keys = append(keys, kind.on(conn, o).key("a.b", 1))
	}
	for _, key := range keys {
		require.Equal(t, "p.a%2Eb.1", key.String(), "%T", key)
	}
}

func TestKeyRefusesParts(t *testing.T) {
	ctx := t.Context()
	conn, stores := tripShards(t, 1)
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	const want = "is not a string, bytes, number, bool or encoding.TextMarshaler"
	n := 1
	for _, row := range []struct {
		part any
		text string
	}{
		{nil, "nil " + want},
		{struct{ A int }{1}, "a struct { A int } " + want},
		{[]string{"a"}, "a []string " + want},
		{[2]int{}, "a [2]int " + want},
		{map[string]int{}, "a map[string]int " + want},
		{&n, "a *int " + want},
		{1i, "a complex128 " + want},
		{make(chan int), "a chan int " + want},
		{func() {}, "a func() " + want},
		{errors.New("x"), "a *errors.errorString " + want},
		{math.NaN(), "NaN has no text"},
		{(*pointerText)(nil), "a nil *caches_test.pointerText has no text"},
		{(*url.URL)(nil), want},
		{failingText{}, "caches_test.failingText.MarshalText: no text today"},
		{caches.HashTag(nil), "nil " + want},
	} {
		o := c.Key("fine", row.part)
		_, err := o.Get(ctx)
		require.ErrorContains(t, err, "part 2 of the key: ", "%#v", row.part)
		require.ErrorContains(t, err, row.text)
		require.ErrorContains(t, o.Key("more").Set(ctx, 1), row.text, "an object below it has no key either")
		require.ErrorContains(t, errOf(o.Delete(ctx)), row.text)
		require.Contains(t, o.String(), row.text)
	}
	trips, _ := stores["shard0"].took()
	require.Zero(t, trips)
}

func TestKeyDerives(t *testing.T) {
	conn := open(t, "locmem://")
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	user := c.Key("user", 7)
	require.Equal(t, c.Key("user", 7, "cart", "x.y").String(), user.Key("cart").Key("x.y").String())
	require.Equal(t, user.String(), user.Key().String())
	require.Equal(t, "p.user.7.", user.Key("").String())
	require.Equal(t, "p.user.7", user.String(), "deriving changes nothing")
	require.Equal(t, "p.x", c.Key("x").String())

	bare := caches.Cache[int]{}.On(conn)
	require.Equal(t, "x", bare.Key("x").String())
	require.Equal(t, ".x", bare.Key("", "x").String())
	require.Equal(t, "x.y", bare.Key("x").Key("y").String())
	for _, empty := range []caches.Value[int]{bare.Key(), bare.Key(""), bare.Key(caches.RawKey(""))} {
		_, err := empty.Get(t.Context())
		require.ErrorContains(t, err, "the key is empty")
	}
}

// Objects under one hash tag share a shard; the text of a user has no say in it.
func TestKeyHashTagKeepsTogether(t *testing.T) {
	conn := open(t, "locmem://?node=a", "locmem://?node=b", "locmem://?node=c", "locmem://?node=d")
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	shards := func(key func(i int) caches.Value[int]) map[string]bool {
		all := map[string]bool{}
		for i := range 200 {
			all[conn.ShardOf(key(i).String())] = true
		}
		return all
	}
	require.Len(t, shards(func(i int) caches.Value[int] { return c.Key(caches.HashTag("user:7"), i) }), 1)
	require.Len(t, shards(func(i int) caches.Value[int] { return c.Key(i) }), 4)
	require.Len(t, shards(func(i int) caches.Value[int] { return c.Key("{user:7}", i) }), 4)
	require.Len(t, shards(func(i int) caches.Value[int] { return c.Key("{", i, "}") }), 4)
	tagged := caches.Cache[int]{Prefix: "{p}"}.On(conn)
	require.Len(t, shards(func(i int) caches.Value[int] { return tagged.Key(i) }), 1, "a prefix may be a tag")
}

// splitKey undoes what Key does to texts: that it can be undone is why no two
// lists of parts share a key.
func splitKey(key string) []string {
	parts := strings.Split(key, ".")
	for i, part := range parts {
		if text, err := url.PathUnescape(part); err == nil {
			parts[i] = text
		}
	}
	return parts
}

// nasty is what parts are made of: all that could be taken for a joint, an
// escape or a tag, whole and in pieces.
var nasty = []string{"", ".", "%", "2E", "%2E", "%25", "{", "}", "{}", "7B", "a", "0", "1", "-", "\x00", "\n", "\x7f", "\xff", "é", "*", ":", "true", "+"}

// A lister makes lists of parts. Its buffers are used again for the next list.
type lister struct {
	r        *rand.Rand
	parts    []any
	text     []byte
	identity []byte // the same for the same parts only, where 1 and "1" are the same
}

func (l *lister) next() {
	l.parts, l.identity = l.parts[:0], l.identity[:0]
	for range 1 + l.r.IntN(3) {
		l.text = l.text[:0]
		for range l.r.IntN(4) {
			l.text = append(l.text, nasty[l.r.IntN(len(nasty))]...)
		}
		part, same, tag := any(nil), string(l.text), byte(0)
		switch l.r.IntN(8) {
		case 0:
			part = []byte(same)
		case 1:
			n := l.r.IntN(20) - 10
			part, same = n, strconv.Itoa(n)
		case 2:
			yes := l.r.IntN(2) == 0
			part, same = yes, strconv.FormatBool(yes)
		case 3:
			part = userName(same)
		case 4:
			part, tag = caches.HashTag(same), 1
		default:
			part = same
		}
		l.parts = append(l.parts, part)
		l.identity = append(append(l.identity, byte(len(same)), tag), same...)
	}
}

// No two lists of parts share a key.
func TestKeyIsInjective(t *testing.T) {
	lists := fullOr(1_000_000, 150_000) // each is paired with all others of its batch
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := lister{r: rand.New(rand.NewPCG(seed, 0))}
	conn := open(t, "locmem://")
	types := []caches.Cache[int]{
		caches.Cache[int]{Prefix: "p"}.On(conn),
		caches.Cache[int]{}.On(conn),
	}
	same := 0
	for kind, c := range types {
		seen := make(map[string]string, 1<<16)
		for i := range lists / len(types) {
			if i%(1<<16) == 0 {
				clear(seen)
			}
			l.next()
			if kind == 1 && string(l.identity) == "\x00\x00" {
				continue // no key at all
			}
			key := c.Key(l.parts...).String()
			if before, ok := seen[key]; !ok {
				seen[key] = string(l.identity)
			} else if same++; before != string(l.identity) {
				t.Fatalf("list %d: %#v has the key %q, and so has another: %q, not %q", i, l.parts, key, before, l.identity)
			}
		}
	}
	require.Greater(t, same, 1000, "the plan makes equal lists as well")
}

// Equal lists have equal keys, whatever types their parts have.
func TestKeyIsCanonical(t *testing.T) {
	conn := open(t, "locmem://")
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	for _, same := range [][]any{
		{1, int8(1), uint64(1), "1", []byte("1"), 1.0, float32(1), userID(1), userName("1"), big.NewInt(1)},
		{true, "true", userFlag(true), []byte("true")},
		{"", []byte{}, []byte(nil), userName("")},
		{0, 0.0, math.Copysign(0, -1), "0"},
	} {
		keys := map[string]bool{}
		for _, part := range same {
			keys[c.Key("x", part).String()] = true
		}
		require.Len(t, keys, 1, "%v", same)
	}
}
