package caches_test

import (
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
