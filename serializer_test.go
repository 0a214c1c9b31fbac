package caches_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// hexSerializer is what a user might write.
type hexSerializer struct{}

var errNotHex = errors.New("not hex")

func (hexSerializer) Marshal(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("hex of a %T", v)
	}
	return []byte(hex.EncodeToString([]byte(s))), nil
}

func (hexSerializer) Unmarshal(data []byte, v any) error {
	b, err := hex.DecodeString(string(data))
	if err != nil {
		return errNotHex
	}
	*v.(*string) = string(b)
	return nil
}

func TestSerializersStoredForm(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		stored := func(s caches.Serializer, v any) string {
			t.Helper()
			c := caches.Cache[any]{Prefix: "form", Serializer: s}.On(conn).Key("x")
			require.NoError(t, c.Set(ctx, v))
			reply, err := conn.Do(ctx, "GET", c.String())
			require.NoError(t, err)
			return string(reply.([]byte))
		}
		require.Equal(t, `{"Name":"Ada","Roles":null}`, stored(nil, account{Name: "Ada"}))
		require.Equal(t, `"a"`, stored(caches.JSON, "a"))
		require.Equal(t, "a", stored(caches.Raw, "a"))
		require.Equal(t, "42", stored(caches.Raw, 42))
		require.Equal(t, "true", stored(caches.Raw, true))
		require.Equal(t, "61", stored(hexSerializer{}, "a"))
		require.Equal(t, "\x00\"a\"", stored(caches.Compressed(nil, nil), "a"), "small values stay as they are, behind one byte")
	})
}

func TestSerializersRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	small := &caches.CompressOptions{MinSize: 1, Level: 9}
	for name, s := range map[string]caches.Serializer{
		"raw": caches.Raw, "json": caches.JSON, "gob": caches.Gob, "own": hexSerializer{},
		"compressed": caches.Compressed(nil, nil), "compressed raw": caches.Compressed(caches.Raw, small),
		"compressed gob": caches.Compressed(caches.Gob, small), "twice": caches.Compressed(caches.Compressed(nil, small), small),
		"compressed own": caches.Compressed(hexSerializer{}, small),
	} {
		for range 60 {
			n := r.IntN(2000)
			b := make([]byte, n)
			for i := range b {
				b[i] = byte('a' + r.IntN(1+n%26))
			}
			data, err := s.Marshal(string(b))
			require.NoError(t, err, name)
			kept := bytes.Clone(data)
			var got string
			require.NoError(t, s.Unmarshal(data, &got), name)
			require.Equal(t, string(b), got, name)
			require.Equal(t, kept, data, name)
		}
	}
}

// Gob keeps what JSON cannot.
func TestGob(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		type rich struct {
			C complex128
			M map[[2]int]string
			B []byte
			T time.Time
		}
		typ := caches.Cache[*rich]{Prefix: "gob", Serializer: caches.Gob}.On(conn)
		v := rich{1 + 2i, map[[2]int]string{{1, 2}: "a"}, []byte("\xff"), time.Unix(1, 2).UTC()}
		p := typ.Key("p")
		require.ErrorContains(t, p.Set(ctx, nil), "nil *caches_test.rich has no gob", "an error, not a panic")
		require.Error(t, caches.Cache[any](typ).Key("n").Set(ctx, nil))
		exists, err := p.Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists)
		require.NoError(t, p.Set(ctx, &v))
		back, err := p.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, &v, back)
	})
}

func TestCompressed(t *testing.T) {
	text := strings.Repeat("all work and no play ", 1000)
	s := caches.Compressed(caches.Raw, nil)
	data, err := s.Marshal(text)
	require.NoError(t, err)
	require.Less(t, len(data), len(text)/20)
	var got string
	require.NoError(t, s.Unmarshal(data, &got))
	require.Equal(t, text, got)

	// What does not shrink is not blown up.
	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	data, err = s.Marshal(noise)
	require.NoError(t, err)
	require.Len(t, data, len(noise)+1)

	// MinSize is where compressing begins.
	for size, first := range map[int]byte{255: 0, 256: 1} {
		data, err = s.Marshal(strings.Repeat("a", size))
		require.NoError(t, err)
		require.Equal(t, first, data[0], size)
	}
	data, err = caches.Compressed(caches.Raw, &caches.CompressOptions{MinSize: 100}).Marshal(strings.Repeat("a", 100))
	require.NoError(t, err)
	require.EqualValues(t, 1, data[0])

	// Levels are those of compress/flate; one is told of at use.
	_, err = caches.Compressed(caches.Raw, &caches.CompressOptions{Level: 42}).Marshal(text)
	require.ErrorContains(t, err, "CompressOptions.Level")
	fast, err := caches.Compressed(caches.Raw, &caches.CompressOptions{Level: 1}).Marshal(text)
	require.NoError(t, err)
	best, err := caches.Compressed(caches.Raw, &caches.CompressOptions{Level: 9}).Marshal(text)
	require.NoError(t, err)
	require.Less(t, len(best), len(fast))

	// The inner serializer's refusal is the wrapper's.
	_, err = caches.Compressed(nil, nil).Marshal(make(chan int))
	require.Error(t, err)
}

func TestCompressedIsConcurrent(t *testing.T) {
	s := caches.Compressed(caches.Raw, nil)
	var wrong atomic.Int64
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			text := strings.Repeat(fmt.Sprint(w), 5000)
			for range 50 {
				var got string
				data, err := s.Marshal(text)
				if err != nil || s.Unmarshal(data, &got) != nil || got != text {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, wrong.Load())
}

// zeros returns DEFLATE's form of n zero bytes, a thousandth of them.
func zeros(t *testing.T, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 1)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// A small stored value cannot fill the memory, whatever it says of itself.
func TestCompressedBomb(t *testing.T) {
	const maxSize, size = 16 << 20, 40 << 20
	s := caches.Compressed(caches.Raw, nil)
	body := zeros(t, size)
	for _, row := range []struct {
		name string
		says uint64
		body []byte
		want error // nil: any but ErrTooLarge
	}{
		{"says what it is", size, body, caches.ErrTooLarge},
		{"says just too much", maxSize + 1, body, caches.ErrTooLarge},
		{"says all there is", math.MaxUint64, body, caches.ErrTooLarge},
		{"says less", 100, body, nil},
		{"says the most", maxSize, body, nil},
		{"has nothing", maxSize, nil, nil},
	} {
		data := append(binary.AppendUvarint([]byte{1}, row.says), row.body...)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var got []byte
		err := s.Unmarshal(data, &got)
		runtime.ReadMemStats(&after)
		require.Error(t, err, row.name)
		require.Nil(t, got, row.name)
		if row.want != nil {
			require.ErrorIs(t, err, row.want, row.name)
		} else {
			require.NotErrorIs(t, err, caches.ErrTooLarge, row.name)
		}
		// All that was allocated, which is no less than the heap grew by.
		require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(maxSize+8<<20), row.name)
	}
}

func TestCompressedMaxSize(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		o := func(s caches.Serializer) caches.Options { return caches.Options{Prefix: "max", Serializer: s} }
		wide := caches.Cache[string](o(caches.Compressed(caches.Raw, nil))).On(conn).Key("x")
		narrow := caches.Cache[string](o(caches.Compressed(caches.Raw, &caches.CompressOptions{MaxSize: 1000}))).On(conn).Key("x")
		require.NoError(t, narrow.Set(ctx, strings.Repeat("a", 1000)), "MaxSize itself is fine")
		v, err := narrow.Get(ctx)
		require.NoError(t, err)
		require.Len(t, v, 1000)
		require.ErrorIs(t, narrow.Set(ctx, strings.Repeat("b", 1001)), caches.ErrTooLarge)
		v, err = narrow.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, byte('a'), v[0], "what is refused is not stored")

		for _, big := range []string{strings.Repeat("a", 1001), strings.Repeat("0123456789abcdef", 1<<10)} {
			require.NoError(t, wide.Set(ctx, big))
			_, err = narrow.Get(ctx)
			require.ErrorIs(t, err, caches.ErrTooLarge, "a bound holds for what others stored")
			require.NotErrorIs(t, err, caches.ErrCorrupt)
			require.ErrorContains(t, err, `"max.x"`)
		}
		plain := caches.Compressed(caches.Raw, &caches.CompressOptions{MinSize: 1 << 20})
		require.NoError(t, caches.Cache[string](o(plain)).On(conn).Key("x").Set(ctx, strings.Repeat("a", 1001)))
		_, err = narrow.Get(ctx)
		require.ErrorIs(t, err, caches.ErrTooLarge, "and for what is not compressed")
	})
}

// Bytes that are not of the serializer's own making are ErrCorrupt, never
// another value.
func TestSerializersOnGarbage(t *testing.T) {
	whole, err := caches.Compressed(caches.Raw, nil).Marshal(strings.Repeat("abcdefgh", 100))
	require.NoError(t, err)
	gob, err := caches.Gob.Marshal(account{Name: "Ada"})
	require.NoError(t, err)
	garbage := map[string][]struct {
		s    caches.Serializer
		data string
	}{
		"json": {{caches.JSON, ""}, {caches.JSON, "{"}, {caches.JSON, "{} x"}, {caches.JSON, "[]"}, {caches.JSON, "\x00"}},
		"gob":  {{caches.Gob, ""}, {caches.Gob, "{}"}, {caches.Gob, string(gob[:len(gob)/2])}, {caches.Gob, "\xff\xff\xff\xff"}},
	}
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		put := caches.Cache[string]{Prefix: "garbage", Serializer: caches.Raw}.On(conn).Key("x")
		for name, rows := range garbage {
			for _, row := range rows {
				require.NoError(t, put.Set(ctx, row.data))
				_, err := caches.Cache[account]{Prefix: "garbage", Serializer: row.s}.On(conn).Key("x").Get(ctx)
				require.ErrorIs(t, err, caches.ErrCorrupt, "%s %q", name, row.data)
			}
		}
		c := caches.Cache[string]{Prefix: "garbage", Serializer: caches.Compressed(caches.Raw, nil)}.On(conn).Key("x")
		bad := []string{"", "\x01", "\x02abc", "abc", string(whole) + "x", string(whole[:1]) + "\x05" + string(whole[3:])}
		for cut := 1; cut < len(whole); cut++ {
			bad = append(bad, string(whole[:cut]))
		}
		for _, data := range bad {
			require.NoError(t, put.Set(ctx, data))
			v, err := c.Get(ctx)
			require.ErrorIs(t, err, caches.ErrCorrupt, "%q", data)
			require.Empty(t, v)
		}
	})
}

func TestOwnSerializer(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[string]{Prefix: "own", Serializer: hexSerializer{}}.On(conn)
		require.NoError(t, caches.SetMany(ctx, c, map[int]string{1: "a", 2: ""}))
		got, err := caches.GetMany(ctx, c, []int{1, 2})
		require.NoError(t, err)
		require.Equal(t, map[int]string{1: "a", 2: ""}, got)
		raw := caches.Cache[string]{Prefix: "own", Serializer: caches.Raw}.On(conn)
		require.NoError(t, raw.Key(1).Set(ctx, "zz"))
		_, err = c.Key(1).Get(ctx)
		require.ErrorIs(t, err, caches.ErrCorrupt)
		require.ErrorIs(t, err, errNotHex)
		err = caches.Cache[int](c).Key(1).Set(ctx, 1)
		require.ErrorContains(t, err, "hex of a int")
	})
}

// TestKeySerializer stores values under every operation with a serializer that is
// given the key. Each reads back at its key, and at no other.
func TestKeySerializer(t *testing.T) {
	t.Parallel()
	for name, serializer := range map[string]caches.Serializer{
		"plain":      signed{[]byte("k")},
		"compressed": caches.Compressed(signed{[]byte("k")}, &caches.CompressOptions{MinSize: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, conn := t.Context(), open(t, "locmem://?prefix=app&version=2")
			typ := caches.Cache[string]{Prefix: "v", TTL: time.Hour, Serializer: serializer}.On(conn)
			results := caches.Cached(caches.Cache[string]{Prefix: "r", TTL: time.Hour, Serializer: serializer}.On(conn),
				func(_ context.Context, id string) (string, error) { return "of " + id, nil }, &caches.CachedOptions[string, string]{Name: "signed"})
			tagged := typ.Key("tagged").Tagged("t")
			require.NoError(t, typ.Key("set").Set(ctx, "set"))
			added, err := typ.Key("add").Add(ctx, "add")
			require.NoError(t, err)
			require.True(t, added)
			require.NoError(t, caches.SetMany(ctx, typ, map[string]string{"many": "many", "swap": "old"}))
			old, loaded, err := typ.Key("swap").Swap(ctx, "swap")
			require.NoError(t, err)
			require.True(t, loaded)
			require.Equal(t, "old", old)
			require.NoError(t, tagged.Set(ctx, "tagged"))

			raw := typ.Key(caches.RawKey("app.2.raw"))
			batch := new(caches.Batch)
			batch.Do(func(ctx context.Context) error { return raw.Set(ctx, "raw") })
			require.NoError(t, batch.Run(ctx))
			later := caches.Later(batch, raw.Get)
			require.NoError(t, batch.Run(ctx))
			got, err := later.Value(ctx)
			require.NoError(t, err)
			require.Equal(t, "raw", got)

			values := map[string]string{"set": "set", "add": "add", "many": "many", "swap": "swap"}
			found, err := caches.GetMany(ctx, typ, []string{"set", "add", "many", "swap"})
			require.NoError(t, err)
			require.Equal(t, values, found)
			for key, want := range values {
				got, err := typ.Key(key).Get(ctx)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			got, err = tagged.Get(ctx)
			require.NoError(t, err)
			require.Equal(t, "tagged", got)
			for range 2 { // the second is read
				got, err = results.Get(ctx, "1")
				require.NoError(t, err)
				require.Equal(t, "of 1", got)
			}

			stored, err := conn.Do(ctx, "GET", typ.Key("set").String())
			require.NoError(t, err)
			_, err = conn.Do(ctx, "SET", typ.Key("add").String(), stored)
			require.NoError(t, err)
			_, err = typ.Key("add").Get(ctx)
			require.ErrorIs(t, err, caches.ErrCorrupt)
			_, err = typ.Key("add").Pop(ctx)
			require.ErrorIs(t, err, caches.ErrCorrupt)
			got, err = typ.Key("set").Pop(ctx)
			require.NoError(t, err)
			require.Equal(t, "set", got)

			dict := caches.DictCache[string, string]{Prefix: "d", Serializer: serializer}.On(conn).Key()
			require.ErrorIs(t, dict.Set(ctx, "field", "v"), errNoKey)
			list := caches.ListCache[string]{Prefix: "l", Serializer: serializer}.On(conn).Key()
			_, err = list.PushBack(ctx, "v")
			require.ErrorIs(t, err, errNoKey)
		})
	}
}

// TestCompressedIsAKeySerializer only over another one: no key is made for the rest.
func TestCompressedIsAKeySerializer(t *testing.T) {
	t.Parallel()
	for _, ordinary := range []caches.Serializer{nil, caches.JSON, hexSerializer{}, caches.Compressed(hexSerializer{}, nil)} {
		require.NotImplements(t, (*caches.KeySerializer)(nil), caches.Compressed(ordinary, nil))
	}
	for _, bound := range []caches.Serializer{signed{}, caches.Compressed(signed{}, nil)} {
		require.Implements(t, (*caches.KeySerializer)(nil), caches.Compressed(bound, nil))
	}
}

// TestKeySerializerGetsTheStoredKey gives the key as the server has it.
func TestKeySerializerGetsTheStoredKey(t *testing.T) {
	t.Parallel()
	var given atomic.Pointer[string]
	conn := open(t, "locmem://?prefix=app&version=2")
	typ := caches.Cache[string]{Prefix: "v", Serializer: keyNoter{caches.Raw, &given}}.On(conn)
	require.NoError(t, typ.Key("a", 1).Set(t.Context(), "x"))
	kept, err := conn.Do(t.Context(), "EXISTS", *given.Load())
	require.NoError(t, err)
	require.Equal(t, int64(1), kept)
	require.Equal(t, typ.Key("a", 1).String(), *given.Load())
	require.Contains(t, *given.Load(), "app.2.")
}

type keyNoter struct {
	caches.Serializer
	given *atomic.Pointer[string]
}

func (n keyNoter) ForKey(key string) caches.Serializer {
	n.given.Store(&key)
	return n.Serializer
}
