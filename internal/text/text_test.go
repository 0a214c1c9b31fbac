package text_test

import (
	"errors"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/internal/corrupt"
	"github.com/gocaches/caches/internal/text"
)

type (
	name   string
	id     int8
	count  uint16
	flag   bool
	ratio  float32
	blob   []byte
	marked struct{ s string } // has the methods of pointers only
)

func (m *marked) MarshalText() ([]byte, error) {
	if m.s == "" {
		return nil, errors.New("no mark")
	}
	return []byte("<" + m.s + ">"), nil
}

func (m *marked) UnmarshalText(b []byte) error {
	m.s = string(b[1 : len(b)-1])
	return nil
}

// Every scalar has one text, from which it is read again.
func TestScalars(t *testing.T) {
	check := func(want string, v, dst any, got func() any) {
		t.Helper()
		encoded, err := text.Append([]byte("+"), v)
		require.NoError(t, err)
		require.Equal(t, "+"+want, string(encoded))
		require.NoError(t, text.Parse([]byte(want), dst))
		require.Equal(t, v, got())
	}
	roundTrip(check, "a", "a")
	roundTrip(check, "ab", []byte("ab"))
	roundTrip(check, "-5", -5)
	roundTrip(check, "-6", int64(-6))
	roundTrip(check, "18446744073709551615", uint64(math.MaxUint64))
	roundTrip(check, "true", true)
	roundTrip(check, "1.5", 1.5)
	roundTrip(check, "0", 0.0)
	roundTrip(check, "+Inf", math.Inf(1))
	roundTrip(check, "n", name("n"))
	roundTrip(check, "-7", id(-7))
	roundTrip(check, "8", count(8))
	roundTrip(check, "false", flag(false))
	roundTrip(check, "0.1", ratio(0.1))
	roundTrip(check, "bl", blob("bl"))
	roundTrip(check, "<m>", marked{"m"})
	roundTrip(check, "10.0.0.1", netip.MustParseAddr("10.0.0.1"))
	zero, err := text.Append(nil, math.Copysign(0, -1))
	require.NoError(t, err)
	require.Equal(t, "0", string(zero), "both zeros are equal")
}

func roundTrip[T any](check func(want string, v, dst any, got func() any), want string, v T) {
	var dst T
	check(want, v, &dst, func() any { return dst })
}

func TestAppendRefuses(t *testing.T) {
	for what, v := range map[string]any{
		"nil": nil, "NaN": math.NaN(), "a struct": struct{}{}, "numbers": []int{1}, "a nil pointer": (*time.Time)(nil),
		"a method that fails": marked{}, "a channel": make(chan int),
	} {
		_, err := text.Append(nil, v)
		require.Error(t, err, what)
	}
}

// Texts that are no number of the type are errors that do not repeat the text.
func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		text string
		dst  any
		want error
	}{
		{"x7", new(int), corrupt.ErrNotNumber}, {"x7", new(int64), corrupt.ErrNotNumber}, {"x7", new(float64), corrupt.ErrNotNumber},
		{"NaN", new(float64), corrupt.ErrNotNumber}, {"x7", new(count), corrupt.ErrNotNumber}, {"x7", new(ratio), corrupt.ErrNotNumber},
		{"700", new(id), corrupt.ErrOverflow}, {"-7", new(count), corrupt.ErrOverflow}, {"70000", new(count), corrupt.ErrOverflow},
		{"x7", new(flag), nil}, {"x7", new(struct{ A int }), nil}, {"x7", new([]int), nil},
	} {
		err := text.Parse([]byte(tt.text), tt.dst)
		require.Error(t, err, "%T", tt.dst)
		require.NotContains(t, err.Error(), tt.text)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, "%T", tt.dst)
		}
	}
}

type (
	point struct {
		X, Y float64
		Name string
	}
	placed struct {
		point2
		At netip.Addr
	}
	point2 struct{ Y [2]float64 }
)

// Members that are equal have one stored form.
func TestMembers(t *testing.T) {
	for want, v := range map[string]any{
		"a": "a", `{"X":0,"Y":1,"Name":"n"}`: point{math.Copysign(0, -1), 1, "n"}, "[0,2]": [2]float64{math.Copysign(0, -1), 2},
		`{"At":"10.0.0.1"}`: struct{ At netip.Addr }{netip.MustParseAddr("10.0.0.1")},
	} {
		encoded, err := text.AppendMember(nil, v)
		require.NoError(t, err)
		require.Equal(t, want, string(encoded))
	}
	var p point
	require.NoError(t, text.ParseMember([]byte(`{"X":0,"Y":1,"Name":"n"}`), &p))
	require.Equal(t, point{0, 1, "n"}, p)
	var s string
	require.NoError(t, text.ParseMember([]byte("a"), &s))
	require.Equal(t, "a", s)
}

func TestMembersRefused(t *testing.T) {
	type Shared struct{ A int }
	for what, v := range map[string]any{
		"a pointer in it": struct{ P *int }{}, "a map in it": struct{ M map[int]int }{}, "an interface in it": struct{ I any }{},
		"an unexported field": placed{}, "a field that is left out": struct {
			A int `json:"-"`
		}{},
		"two fields of one name": struct {
			Shared
			B int `json:"A"`
		}{},
		"not UTF-8": point{Name: "\xff"}, "not UTF-8, in an array": [1]string{"\xff"},
		"slices": [1][]int{},
	} {
		_, err := text.AppendMember(nil, v)
		require.Error(t, err, what)
	}
}

func TestStep(t *testing.T) {
	for _, tt := range []struct {
		delta any
		sign  int64
		want  string
		float bool
	}{{3, -1, "-3", false}, {id(-3), -1, "3", false}, {uint(4), -1, "-4", false}, {1.5, 1, "1.5", true}, {ratio(0.1), 1, "0.1", true}} {
		encoded, float, err := text.Step(tt.delta, tt.sign)
		require.NoError(t, err)
		require.Equal(t, tt.want, string(encoded))
		require.Equal(t, tt.float, float)
	}
	for _, delta := range []any{math.NaN(), math.Inf(-1), uint64(math.MaxUint64), int64(math.MinInt64)} {
		_, _, err := text.Step(delta, -1)
		require.ErrorIs(t, err, corrupt.ErrOverflow, delta)
	}
	_, _, err := text.Step("1", 1)
	require.ErrorIs(t, err, corrupt.ErrNotNumber)
}
