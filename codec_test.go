package caches_test

import (
	"context"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// The one text form of scalars, read back into the same type.
func TestTextOfScalars(t *testing.T) {
	for _, row := range []struct {
		value any
		text  string
		into  any // a pointer
	}{
		{"", "", new(string)},
		{"a\x00\xff", "a\x00\xff", new(string)},
		{[]byte("b\xff"), "b\xff", new([]byte)},
		{userName("ada"), "ada", new(userName)},
		{userBlob("b"), "b", new(userBlob)},
		{true, "true", new(bool)},
		{userFlag(false), "false", new(userFlag)},
		{-5, "-5", new(int)},
		{int8(-128), "-128", new(int8)},
		{int16(-300), "-300", new(int16)},
		{rune(7), "7", new(rune)},
		{int64(math.MinInt64), "-9223372036854775808", new(int64)},
		{userID(9), "9", new(userID)},
		{uint(1), "1", new(uint)},
		{uint8(255), "255", new(uint8)},
		{uint16(1), "1", new(uint16)},
		{uint32(1), "1", new(uint32)},
		{uint64(math.MaxUint64), "18446744073709551615", new(uint64)},
		{uintptr(1), "1", new(uintptr)},
		{0.1, "0.1", new(float64)},
		{float32(0.1), "0.1", new(float32)},
		{math.Inf(1), "+Inf", new(float64)},
		{math.MaxFloat64, "1.7976931348623157e+308", new(float64)},
		{5e-324, "5e-324", new(float64)},
		{time.Second, "1000000000", new(time.Duration)},
		{netip.MustParseAddr("::1"), "::1", new(netip.Addr)},
		{time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC), "2024-01-02T03:04:05.000000006Z", new(time.Time)},
		{big.NewInt(1).Lsh(big.NewInt(1), 70), "1180591620717411303424", new(big.Int)},
	} {
		text, err := caches.Raw.Marshal(row.value)
		require.NoError(t, err, "%T", row.value)
		require.Equal(t, row.text, string(text), "%T", row.value)
		require.NoError(t, caches.Raw.Unmarshal(text, row.into))
		if n, ok := row.into.(*big.Int); ok {
			require.Equal(t, row.text, n.String())
			continue
		}
		again, err := caches.Raw.Marshal(reflect.ValueOf(row.into).Elem().Interface())
		require.NoError(t, err)
		require.Equal(t, row.text, string(again), "%T", row.value)
	}
	zero, err := caches.Raw.Marshal(math.Copysign(0, -1))
	require.NoError(t, err)
	require.Equal(t, "0", string(zero), "both zeros are one")
}

func TestTextRefuses(t *testing.T) {
	for _, v := range []any{nil, 1i, []int{1}, map[string]int{}, struct{ A int }{}, [2]int{}, new(int), func() {}, math.NaN(), failingText{}, (*big.Int)(nil)} {
		_, err := caches.Raw.Marshal(v)
		if v != (*big.Int)(nil) {
			require.ErrorContains(t, err, "the Raw serializer", "%T", v)
		}
	}
	const secret = "hunter2"
	for _, row := range []struct {
		text string
		into any
		want error // nil: any
	}{
		{secret, new(int), caches.ErrNotNumber},
		{secret, new(int64), caches.ErrNotNumber},
		{secret, new(userID), caches.ErrNotNumber},
		{secret, new(uint8), caches.ErrNotNumber},
		{secret, new(float64), caches.ErrNotNumber},
		{secret, new(float32), caches.ErrNotNumber},
		{"-" + secret, new(uint8), caches.ErrNotNumber},
		{"", new(int), caches.ErrNotNumber},
		{"", new(float64), caches.ErrNotNumber},
		{"1.0", new(int), caches.ErrNotNumber},
		{"nan", new(float64), caches.ErrNotNumber},
		{"NaN", new(float32), caches.ErrNotNumber},
		{"128", new(int8), caches.ErrOverflow},
		{"256", new(uint8), caches.ErrOverflow},
		{"-1", new(uint8), caches.ErrOverflow},
		{"-1", new(uint64), caches.ErrOverflow},
		{"-99999999999999999999", new(uint64), caches.ErrOverflow},
		{"9223372036854775808", new(int64), caches.ErrOverflow},
		{"18446744073709551616", new(uint64), caches.ErrOverflow},
		{"1e400", new(float64), caches.ErrOverflow},
		{"1e40", new(float32), caches.ErrOverflow},
		{secret, new(bool), nil},
		{secret, new([]int), nil},
		{secret, new(struct{}), nil},
		{secret, new(any), nil},
		{secret, new(map[string]int), nil},
	} {
		err := caches.Raw.Unmarshal([]byte(row.text), row.into)
		require.Error(t, err, "%q into %T", row.text, row.into)
		require.NotContains(t, err.Error(), secret, "%T", row.into)
		if row.want != nil {
			require.ErrorIs(t, err, row.want, "%q into %T", row.text, row.into)
		}
	}
}

// What Raw gives out is the caller's own: not a view of what it was made of.
func TestTextIsCopied(t *testing.T) {
	data := []byte("abc")
	var b []byte
	var blob userBlob
	require.NoError(t, caches.Raw.Unmarshal(data, &b))
	require.NoError(t, caches.Raw.Unmarshal(data, &blob))
	data[0] = 'x'
	require.Equal(t, "abc", string(b))
	require.Equal(t, "abc", string(blob))
	text, err := caches.Raw.Marshal(b)
	require.NoError(t, err)
	b[0] = 'y'
	require.Equal(t, "abc", string(text))
}

type (
	plainMember struct {
		Name  string
		Score float64 `json:"s,omitempty"`
		Inner struct{ A, B int8 }
		List  [2]bool
	}
	base         struct{ ID int }
	Base         struct{ ID int }
	timedMember  struct{ At time.Time }
	embedsMember struct{ Base }
	hiddenMember struct{ name string }
	leftMember   struct {
		Name string `json:"-"`
	}
	BaseToo     struct{ ID int }
	twiceMember struct {
		Base
		BaseToo
	}
	shadowMember struct {
		Base
		ID string
	}
	twoBases struct {
		Base
		Other struct{ ID int }
	}
	pointerMember struct{ P *int }
	anyMember     struct{ V any }
	privateBase   struct{ base }
)

// Members of sets and fields of dicts come back as they were put in, and equal
// ones are one.
func TestMembersRoundTrip(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		holds(t, ctx, conn, "", "a.b", "\xff\x00")
		holds(t, ctx, conn, userName("a"))
		holds(t, ctx, conn, 0, -1, math.MaxInt)
		holds(t, ctx, conn, userID(3))
		holds(t, ctx, conn, uint8(0), uint8(255))
		holds(t, ctx, conn, true, false)
		holds(t, ctx, conn, 0.1, math.Inf(-1), 1e-300)
		holds(t, ctx, conn, float32(0.1))
		holds(t, ctx, conn, netip.MustParseAddr("::1"), netip.MustParseAddr("10.0.0.1"))
		holds(t, ctx, conn, time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC))
		holds(t, ctx, conn, [2]int{1, 2}, [2]int{2, 1})
		holds(t, ctx, conn, [0]int{})
		holds(t, ctx, conn, [16]byte{1, 255})
		holds(t, ctx, conn, [2]netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("::2")})
		holds(t, ctx, conn, struct{}{})
		holds(t, ctx, conn, plainMember{}, plainMember{Name: "<&>\u2028\ufffd", Score: 1}, plainMember{List: [2]bool{true, false}})
		holds(t, ctx, conn, timedMember{time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)})
		holds(t, ctx, conn, embedsMember{Base{1}}, embedsMember{Base{2}})
		holds(t, ctx, conn, twoBases{Base{1}, struct{ ID int }{2}}, twoBases{Base{2}, struct{ ID int }{1}})
	})
}

func holds[T comparable](t *testing.T, ctx context.Context, conn *caches.Conn, members ...T) {
	t.Helper()
	want := map[T]struct{}{}
	for _, m := range members {
		want[m] = struct{}{}
	}
	o := caches.Options{Prefix: "members"}
	set := caches.SetCache[T](o).On(conn).Key(fmt.Sprintf("set %T", members[0]))
	for range 2 { // the second time they are there
		_, err := set.Add(ctx, members...)
		require.NoError(t, err)
	}
	got, err := set.Copy(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got)
	dict := caches.DictCache[T, int](o).On(conn).Key(fmt.Sprintf("dict %T", members[0]))
	for i, m := range members {
		require.NoError(t, dict.Set(ctx, m, i))
		v, err := dict.Get(ctx, m)
		require.NoError(t, err)
		require.Equal(t, i, v)
	}
	n, err := dict.Len(ctx)
	require.NoError(t, err)
	require.Equal(t, len(members), n)
}

// Values that are equal to Go are one member, also inside structs.
func TestMembersOfBothZeros(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		set := caches.SetCache[plainMember]{Prefix: "zero"}.On(conn).Key("s")
		type pair struct{ F [1]float32 }
		n, err := caches.SetCache[pair]{Prefix: "zero"}.On(conn).Key("p").
			Add(ctx, pair{[1]float32{0}}, pair{[1]float32{float32(math.Copysign(0, -1))}})
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		n, err = set.Add(ctx, plainMember{Score: 0}, plainMember{Score: math.Copysign(0, -1)})
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

func TestMembersRefused(t *testing.T) {
	conn := open(t, "locmem://")
	n := 1
	refuses(t, conn, hiddenMember{"a"}, "field name is not in its JSON")
	refuses(t, conn, privateBase{base{1}}, "field base is not in its JSON")
	refuses(t, conn, leftMember{"a"}, "field Name is not in its JSON")
	refuses(t, conn, twiceMember{Base{1}, BaseToo{2}}, "field ID is not in its JSON")
	refuses(t, conn, shadowMember{Base{1}, "a"}, "field ID is not in its JSON")
	refuses(t, conn, pointerMember{&n}, "a *int cannot be (part of) a member")
	refuses(t, conn, anyMember{1}, "a interface {} cannot be (part of) a member")
	refuses(t, conn, [1]any{1}, "a interface {} cannot be (part of) a member")
	refuses(t, conn, struct{ C complex64 }{}, "a complex64 cannot be (part of) a member")
	refuses(t, conn, struct{ F chan int }{}, "a chan int cannot be (part of) a member")
	refuses(t, conn, &n, "a *int is not a")
	refuses(t, conn, &pointerText{"a"}, "a *caches_test.pointerText is not a")
	refuses(t, conn, 1i, "a complex128 is not a string")
	refuses(t, conn, math.NaN(), "NaN has no text")
	refuses(t, conn, struct{ F float64 }{math.NaN()}, "NaN")
	refuses(t, conn, any(nil), "a interface {} is not a") // it says not what to read
	refuses(t, conn, any("a"), "a interface {} is not a")
	// JSON would make two different strings one.
	refuses(t, conn, plainMember{Name: "\xff"}, "not UTF-8")
	refuses(t, conn, [1]string{"a\xff"}, "not UTF-8")
}

func refuses[T comparable](t *testing.T, conn *caches.Conn, member T, want string) {
	t.Helper()
	ctx := t.Context()
	set := caches.SetCache[T]{Prefix: "refused"}.On(conn).Key("s")
	_, err := set.Add(ctx, member)
	require.ErrorContains(t, err, want, "%T", member)
	require.ErrorContains(t, err, `"refused.s"`)
	exists, err := set.Exists(ctx)
	require.NoError(t, err)
	require.False(t, exists)
}
