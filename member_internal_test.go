package caches

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/text"
)

// All objects encode through a few functions, which are tested here with every
// kind of type. The objects are tested with few types: for each more of them the
// compiler makes a thousand functions.

// A tripped is a value after it has been encoded as an argument and decoded again.
type tripped struct {
	in, out any
	text    string
	err     error
}

// encoded takes v through write and read.
func encoded[T any](v T, write func(*driver.Pipeline, T) error, read func(driver.Reply) (T, error)) tripped {
	p := driver.NewPipeline(0)
	defer p.Free()
	r := tripped{in: v}
	if r.err = write(p.Cmd("X"), v); r.err == nil {
		r.text = string(p.Command(0).Args[1])
		p.Replies().String(r.text)
		r.out, r.err = read(p.Next())
	}
	return r
}

// member takes v through the encoding of members.
func member[T any](v T) tripped { return encoded(v, writeMember[T], readMember[T]) }

func members[T any](vs ...T) (all []tripped) {
	for _, v := range vs {
		all = append(all, member(v))
	}
	return all
}

type (
	memberName string
	memberID   int64
	memberFlag bool
	memberHash [4]byte
	pointed    struct{ s string }
	memberPair struct{ X, Y float64 }
	memberAll  struct {
		Name  string
		Score float64 `json:"s,omitempty"`
		Open  bool    `json:"open,omitempty"`
		Inner struct{ A, B int8 }
		At    [2]float64
		List  [2]bool
	}
	memberBase struct{ ID int }
	MemberBase struct{ ID int }
	MemberToo  struct{ ID int }
	twoBases   struct {
		MemberBase
		Other struct{ ID int }
	}
)

func (h memberHash) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", h[:]), nil }

func (h *memberHash) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "%02x%02x%02x%02x", &h[0], &h[1], &h[2], &h[3])
	return err
}

func (p *pointed) MarshalText() ([]byte, error) { return []byte(p.s), nil }

// Members of every kind come back as they were, and different ones have
// different texts.
func TestMemberKinds(t *testing.T) {
	noon := time.Date(2024, 2, 29, 12, 30, 0, 1, time.UTC)
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1%eth0")
	for _, kind := range [][]tripped{
		members("", "a", "a b", "a.b", "a%2Eb", "{a}", "\x00", "\xff", "\xfe", "\xff\xfe", "a.b%{}", "1", "ü"),
		members(memberName(""), memberName("a")),
		members(0, 1, -1, math.MinInt, math.MaxInt),
		members(memberID(0), memberID(3), memberID(math.MinInt64)),
		members[int8](0, math.MinInt8, math.MaxInt8),
		members[int64](0, math.MinInt64, math.MaxInt64),
		members[uint8](0, 255),
		members[uint64](0, math.MaxUint64),
		members(true, false),
		members(memberFlag(true), memberFlag(false)),
		members(0, 0.1, 0.5, -1.0, -1.5, 1e300, 1e-300, 5e-324, math.MaxFloat64, math.Inf(1), math.Inf(-1), 1<<53+2),
		members[float32](0, 0.1, math.MaxFloat32, float32(math.Inf(-1))),
		members(noon, time.Time{}, time.Unix(0, 0).UTC(), time.Unix(0, 1).UTC()),
		members(time.Second, -time.Hour),
		members(four, six, netip.Addr{}),
		members(memberHash{1, 2, 3, 255}, memberHash{2}),
		members([2]netip.Addr{}, [2]netip.Addr{four}, [2]netip.Addr{four, six}),
		members([2]int{1, 2}, [2]int{2, 1}, [2]int{}),
		members([0]int{}),
		members([16]byte{1, 255}, [16]byte{}),
		members([2]string{"a", "b,c"}, [2]string{"a,b", "c"}, [2]string{`a","b`, ""}),
		members(struct{}{}),
		members(memberAll{}, memberAll{Name: "<&>\u2028\ufffd", Score: 1}, memberAll{List: [2]bool{true, false}},
			memberAll{Name: "Köln", At: [2]float64{50.9, -6.9}, Open: true}, memberAll{Name: "Köln"}),
		members(struct{ At time.Time }{noon}),
		members(struct{ MemberBase }{MemberBase{1}}, struct{ MemberBase }{MemberBase{2}}),
		members(twoBases{MemberBase{1}, struct{ ID int }{2}}, twoBases{MemberBase{2}, struct{ ID int }{1}}),
	} {
		texts := make(map[string]any)
		for _, m := range kind {
			require.NoError(t, m.err, "%T %v", m.in, m.in)
			require.Equal(t, m.in, m.out)
			require.NotContains(t, texts, m.text, "%T %v", m.in, m.in)
			texts[m.text] = m.in
		}
	}
}

// Values that are equal to Go are one member: both zeros are, also inside
// structs and arrays.
func TestMemberZeros(t *testing.T) {
	minus := math.Copysign(0, -1)
	small := float32(minus)
	for _, same := range [][]tripped{
		members(0, minus),
		members(0, small),
		members(memberPair{}, memberPair{0, minus}, memberPair{minus, 0}, memberPair{minus, minus}),
		members([2]float32{}, [2]float32{small, 0}),
		members(struct{ F [1]float32 }{}, struct{ F [1]float32 }{[1]float32{small}}),
		members(memberAll{}, memberAll{Score: minus, At: [2]float64{0, minus}}),
	} {
		for _, m := range same {
			require.NoError(t, m.err)
			require.Equal(t, same[0].text, m.text, "%T", m.in)
		}
	}
}

// A value that could not come back as it was, or that does not equal itself, is
// rejected.
func TestMemberRefused(t *testing.T) {
	n, name := 1, "a"
	for _, row := range []struct {
		member tripped
		want   string
	}{
		{member(struct{ name string }{"a"}), "field name is not in its JSON"},
		{member(struct{ memberBase }{memberBase{1}}), "field memberBase is not in its JSON"},
		{member(struct {
			Name string `json:"-"`
		}{"a"}), "field Name is not in its JSON"},
		{member(struct {
			Kept, Dropped int `json:"-"`
		}{1, 2}), "field Kept is not in its JSON"},
		{member(struct {
			MemberBase
			MemberToo
		}{MemberBase{1}, MemberToo{2}}), "field ID is not in its JSON"},
		{member(struct {
			MemberBase
			ID string
		}{MemberBase{1}, "a"}), "field ID is not in its JSON"},
		{member(struct{ P *int }{&n}), "a *int cannot be (part of) a member"},
		{member(struct{ P *int }{}), "a *int cannot be (part of) a member"},
		{member(struct{ T *time.Time }{new(time.Time)}), "a *time.Time cannot be (part of) a member"},
		{member(struct{ V any }{1}), "a interface {} cannot be (part of) a member"},
		{member(struct{ S fmt.Stringer }{time.Second}), "a fmt.Stringer cannot be (part of) a member"},
		{member([1]any{1}), "a interface {} cannot be (part of) a member"},
		{member(struct{ C complex64 }{}), "a complex64 cannot be (part of) a member"},
		{member(struct{ F chan int }{}), "a chan int cannot be (part of) a member"},
		{member(&n), "a *int is not a"},
		{member(&name), "a *string is not a"},
		{member(&pointed{"a"}), "a *caches.pointed is not a"},
		{member(new(time.Time)), "a *time.Time is not a"},
		{member(make(chan int)), "a chan int is not a"},
		{member(1i), "a complex128 is not a"},
		{member(math.NaN()), "NaN has no text"},
		{member(struct{ F float64 }{math.NaN()}), "NaN"},
		{member(struct{ F float64 }{math.Inf(1)}), "Inf"},
		{member(any(nil)), "a interface {} is not a"}, // it does not say what to read
		{member(any("a")), "a interface {} is not a"},
		{member(any(1)), "a interface {} is not a"},
		{member[fmt.Stringer](time.Second), "a fmt.Stringer is not a"},
		// JSON would make two different strings one.
		{member(memberAll{Name: "\xff"}), "not UTF-8"},
		{member([1]string{"a\xff"}), "not UTF-8"},
		{member([1]string{"a\xc0"}), "not UTF-8"},
	} {
		require.ErrorContains(t, row.member.err, row.want, "%T %v", row.member.in, row.member.in)
		require.NotErrorIs(t, row.member.err, ErrCorrupt)
	}
	// The argument of a cached function is an any by then.
	for _, arg := range []any{&n, struct{ name string }{"a"}, math.NaN()} {
		_, err := text.AppendMember(nil, arg)
		require.Error(t, err, "%T", arg)
	}
}

// A value that a reader could take for none comes back as it was, and has a
// stored form that is not empty, unless it is raw.
func TestValueKinds(t *testing.T) {
	for _, s := range []Serializer{JSON, Raw, Gob, Compressed(nil, nil)} {
		all := []tripped{value(s, false), value(s, 0), value(s, "")}
		switch s {
		case JSON:
			all = append(all, value[any](s, nil), value[*int](s, nil), value[[]string](s, nil), value[map[string]int](s, nil),
				value(s, []byte{}), value(s, struct{}{}), value(s, memberAll{}))
		case Raw:
			all = append(all, value(s, []byte{}), value(s, "a\x00b\r\n\xff"))
		default:
			all = append(all, value(s, memberAll{}), value(s, memberAll{Name: "Ada"}))
		}
		for _, v := range all {
			require.NoError(t, v.err, "%T %T", s, v.in)
			require.Equal(t, v.in, v.out, "%T", s)
			require.True(t, s == Raw || v.text != "", "%T", v.in)
		}
	}
}

// value takes v through a serializer.
func value[T any](s Serializer, v T) tripped {
	return encoded(v, func(p *driver.Pipeline, v T) error { return writeValue(p, s, v) }, func(r driver.Reply) (T, error) {
		data, err := present(r)
		if err != nil {
			var zero T
			return zero, err
		}
		return readValue[T](s, data)
	})
}

// A numeral is a number of one type, in each direction in which a counter takes
// it.
type numeral struct {
	stored  tripped // by the counter's serializer
	step    string  // of an increment
	stepErr error
	reply   tripped // to an increment
	beyond  error   // of the reply one beyond it
}

func numeralOf[N Number](n N, beyond string) numeral {
	step, _, err := text.Step(n, 1)
	send := func(text string) func(*driver.Pipeline, N) error {
		return func(p *driver.Pipeline, _ N) error { p.String(text); return nil }
	}
	return numeral{
		stored: value(numberText[N](), n),
		step:   string(step), stepErr: err,
		reply:  encoded(n, send(string(step)), parseNumber[N]),
		beyond: encoded(n, send(beyond), parseNumber[N]).err,
	}
}

// Every type that a counter may count in is stored, added and read up to both
// ends, and a count beyond them is an error.
func TestNumberKinds(t *testing.T) {
	type visits int32
	const below, above = "-9223372036854775809", "9223372036854775808"
	for _, n := range []numeral{
		numeralOf[int](math.MinInt, below), numeralOf[int](math.MaxInt, above),
		numeralOf[int8](math.MinInt8, "-129"), numeralOf[int8](math.MaxInt8, "128"),
		numeralOf[int16](math.MinInt16, "-32769"), numeralOf[int16](math.MaxInt16, "32768"),
		numeralOf[int32](math.MinInt32, "-2147483649"), numeralOf[int32](math.MaxInt32, "2147483648"),
		numeralOf[int64](math.MinInt64, below), numeralOf[int64](math.MaxInt64, above),
		numeralOf[uint](0, "-1"), numeralOf[uint](math.MaxInt64, "18446744073709551616"),
		numeralOf[uint8](0, "-1"), numeralOf[uint8](math.MaxUint8, "256"),
		numeralOf[uint16](0, "-1"), numeralOf[uint16](math.MaxUint16, "65536"),
		numeralOf[uint32](0, "-1"), numeralOf[uint32](math.MaxUint32, "4294967296"),
		numeralOf[uint64](0, "-1"), numeralOf[uint64](math.MaxInt64, "18446744073709551616"),
		numeralOf[float32](-1<<24, "-1e40"), numeralOf[float32](1<<24, "1e40"), numeralOf[float32](0.1, "1e40"),
		numeralOf[float64](-1<<53, "-1e400"), numeralOf[float64](1<<53, "1e400"), numeralOf(0.1, "1e400"),
		numeralOf[visits](math.MinInt32, "-2147483649"), numeralOf[visits](math.MaxInt32, "2147483648"),
		numeralOf[time.Duration](math.MinInt64, below), numeralOf[time.Duration](math.MaxInt64, above),
	} {
		v := n.stored.in
		require.NoError(t, n.stored.err, "%T %v", v, v)
		require.Equal(t, v, n.stored.out)
		require.NoError(t, n.stepErr, "%T %v", v, v)
		require.Equal(t, n.stored.text, n.step, "%T: the server counts on in the text that is stored", v)
		require.NoError(t, n.reply.err, "%T %v", v, v)
		require.Equal(t, v, n.reply.out)
		require.ErrorIs(t, n.beyond, ErrOverflow, "%T", v)
	}
	// The server counts in int64: it could not add to what is beyond.
	for _, refused := range []numeral{numeralOf[uint](math.MaxInt64+1, ""), numeralOf[uint64](math.MaxUint64, "")} {
		require.ErrorIs(t, refused.stored.err, ErrOverflow)
		require.ErrorIs(t, refused.stepErr, ErrOverflow)
	}
}
