package caches_test

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// Two lists of parts never share a key, since the parts can be read from it.
func FuzzKey(f *testing.F) {
	f.Add("a.b", "c", "p")
	f.Add("", "", "")
	f.Add("%2E", "{x}", "a.{b}")
	f.Add("\x00\x7f", "été\xff", "p")
	conn := open(f, "locmem://")
	c := caches.Cache[int]{Prefix: "p"}.On(conn)
	f.Fuzz(func(t *testing.T, a, b, prefix string) {
		key := func(parts ...any) string { return strings.TrimPrefix(c.Key(parts...).String(), "p.") }
		require.Equal(t, []string{a, b}, splitKey(key(a, b)), "the parts can be read from the key")
		require.Equal(t, []string{a}, splitKey(key([]byte(a))))
		require.Equal(t, key(a, b) == key(b, a), a == b)
		require.NotEqual(t, key(a+b), key(a, b))
		require.NotEqual(t, key(a), key(caches.HashTag(a)))
		require.False(t, strings.ContainsAny(key(a, b), "{}\x00\r\n"), "no part makes a tag or a line")
		if prefix != "" {
			under := caches.Cache[int]{Prefix: prefix}.On(conn)
			require.Equal(t, prefix+"."+key(a, b), under.Key(a, b).String(), "a prefix stands as it is")
		}
		for _, plain := range []string{a, b} {
			if !strings.ContainsAny(plain, ".%{}") && !slices.ContainsFunc([]byte(plain), func(c byte) bool { return c < ' ' || c == 0x7f }) {
				require.Equal(t, plain, key(plain), "ordinary text is unchanged")
			}
		}
	})
}

// What one serializer writes it reads back; what it is given to read, it reads
// or refuses, and never falls over.

func FuzzJSON(f *testing.F) { fuzzSerializer(f, caches.JSON, true) }

func FuzzGob(f *testing.F) { fuzzSerializer(f, caches.Gob, false) }

func FuzzCompressed(f *testing.F) {
	fuzzSerializer(f, caches.Compressed(caches.Raw, &caches.CompressOptions{MinSize: 8, MaxSize: 1 << 20}), false)
}

// fuzzSerializer takes text as a value, and as what is stored. Of the text in
// JSON, what is not UTF-8 is lost.
func fuzzSerializer(f *testing.F, s caches.Serializer, utf8 bool) {
	for _, seed := range []string{"", "a", "null", `"x"`, "{}", "\x00", "\x01\x00", "\x01\xff\xff\xff\xff\x0f", "été\xff", strings.Repeat("ab", 100)} {
		f.Add([]byte(seed))
		if data, err := s.Marshal(seed); err == nil {
			f.Add(data)
			f.Add(data[:len(data)/2])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v := string(data)
		if utf8 {
			v = strings.ToValidUTF8(v, "?")
		}
		text, err := s.Marshal(v)
		require.NoError(t, err)
		var back string
		require.NoError(t, s.Unmarshal(text, &back))
		require.Equal(t, v, back)

		read := bytes.Clone(data)
		var got string
		if err := s.Unmarshal(read, &got); err != nil {
			require.NotEmpty(t, err.Error())
		} else {
			text, err := s.Marshal(got)
			require.NoError(t, err)
			require.NoError(t, s.Unmarshal(text, &back))
			require.Equal(t, got, back, "what could be read once can be written and read again")
		}
		require.Equal(t, data, read, "reading changes nothing")
	})
}

// FuzzText holds that text is canonical: what reads as a value is written in
// one form, which reads as the same value.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"", "0", "-0", "1", "-1", "+1", "01", "1.5", "1e400", "0x1p-2", "inf", "-Inf", "nan", "true", "T", "9223372036854775808", "255", "256", " 1", "1_0"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		canonical[string](t, text)
		canonical[userName](t, text)
		canonical[int](t, text)
		canonical[int8](t, text)
		canonical[uint16](t, text)
		canonical[uint64](t, text)
		canonical[userID](t, text)
		canonical[bool](t, text)
		canonical[float32](t, text)
		canonical[float64](t, text)
	})
}

func canonical[T comparable](t *testing.T, text []byte) {
	t.Helper()
	var v, again T
	if err := caches.Raw.Unmarshal(text, &v); err != nil {
		return
	}
	form, err := caches.Raw.Marshal(v)
	require.NoError(t, err, "%T of %q", v, text)
	require.NoError(t, caches.Raw.Unmarshal(form, &again))
	require.Equal(t, v, again)
	twice, err := caches.Raw.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, form, twice)
	if f, ok := any(v).(float64); ok {
		require.False(t, math.IsNaN(f), "nothing that is not equal to itself")
	}
}

type point struct {
	Name string
	X, Y float64
	At   [2]int8
}

// FuzzMember holds that fields of a dict are equal when their values are, and
// only then.
func FuzzMember(f *testing.F) {
	f.Add("a", "b", 0.0, math.Copysign(0, -1), int8(1))
	f.Add("\xff", "\xfe", 1.5, -1.5, int8(-1))
	f.Add("<&>", "\u2028", math.Inf(1), math.MaxFloat64, int8(0))
	dict := caches.DictCache[point, int]{Prefix: "d"}.On(open(f, "locmem://"))
	f.Fuzz(func(t *testing.T, a, b string, x, y float64, n int8) {
		ctx, d := t.Context(), dict.Key("points")
		require.NoError(t, errOf(d.Delete(ctx)))
		want := map[point]int{}
		for i, p := range []point{{a, x, y, [2]int8{n, 0}}, {b, x, y, [2]int8{n, 0}}, {a, y, x, [2]int8{0, n}}} {
			if err := d.Set(ctx, p, i); err == nil {
				want[p] = i
			}
		}
		got, err := d.Copy(ctx)
		require.NoError(t, err)
		require.Equal(t, want, got)
		n2, err := d.Len(ctx)
		require.NoError(t, err)
		require.Equal(t, len(want), n2, "as many fields as there are values")
	})
}
