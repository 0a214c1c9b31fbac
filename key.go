package caches

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gocaches/caches/driver"
)

// RawKey is a part of a key that is used as it stands: a ready-made key, or a
// piece of one. The parts around it are joined to it with dots. It is for keys
// that something else named; text of users does not belong in it, for it could
// name another user's key.
type RawKey string

// HashTag makes a part "{part}". Keys with the same tag live on one shard, and
// in one slot of a Redis Cluster, so that commands over several of them are
// atomic. The first tag of a key counts.
func HashTag(part any) any { return hashTag{part} }

type hashTag struct{ part any }

// joinKey appends prefix and parts, joined by dots, to dst.
//
// The join is injective in the parts: what could be taken for a joint or a
// hash tag inside a part is escaped as %XX, so ("a.b", "c") and ("a", "b.c")
// differ, and the text of a user can neither name another key nor choose a
// slot. Ordinary parts stay as they are.
func joinKey(dst []byte, prefix string, parts []any) ([]byte, error) {
	dst = append(dst, prefix...)
	for i, part := range parts {
		if i > 0 || prefix != "" {
			dst = append(dst, '.')
		}
		var err error
		if dst, err = appendPart(dst, part); err != nil {
			return nil, fmt.Errorf("caches: part %d of the key: %w", i+1, err)
		}
	}
	return dst, nil
}

func appendPart(dst []byte, part any) ([]byte, error) {
	switch part := part.(type) {
	case string:
		return appendEscaped(dst, part), nil
	case int:
		return appendInt(dst, int64(part)), nil // the commonest, and nothing in it to escape
	case RawKey:
		return append(dst, part...), nil
	case hashTag:
		dst, err := appendPart(append(dst, '{'), part.part)
		return append(dst, '}'), err
	}
	var buf [64]byte
	text, err := appendText(buf[:0], part)
	if err != nil {
		return nil, err
	}
	return appendEscaped(dst, string(text)), nil
}

// appendEscaped appends s with '.', '%', '{', '}' and control bytes as %XX.
func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	from := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.', c == '%', c == '{', c == '}', c < ' ', c == 0x7f:
			dst = append(append(dst, s[from:i]...), '%', hex[c>>4], hex[c&15])
			from = i + 1
		}
	}
	return append(dst, s[from:]...)
}

// errEmptyKey is the error of a key without any text: Redis has it as a legal
// key, but one that every type without a prefix would share.
var errEmptyKey = errors.New("caches: the key is empty: give the type a Prefix, or Key a part")

// makeKey joins the key of an object.
func makeKey(prefix string, parts []any) (string, error) {
	var buf [128]byte
	key, err := joinKey(buf[:0], prefix, parts)
	switch {
	case err != nil:
		return "", err
	case len(key) == 0:
		return "", errEmptyKey
	}
	return string(key), nil
}

// globEscaper escapes what SCAN's MATCH would take for a pattern.
var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// writeMember appends a member of a set or a field of a dict. Pointers and
// interfaces are refused whatever they hold: the first are equal only to
// themselves, the second do not say what to decode into.
func writeMember[T any](p *driver.Pipeline, v T) error {
	switch t := reflect.TypeFor[T](); t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return fmt.Errorf("caches: a member: a %v is not a %s", t, scalars)
	}
	if writeScalar(p, v) {
		return nil
	}
	var buf [64]byte
	text, err := appendMember(buf[:0], v)
	if err != nil {
		return fmt.Errorf("caches: a member: %w", err)
	}
	p.Bytes(text)
	return nil
}

// writeMembers appends all of vs.
func writeMembers[T any](p *driver.Pipeline, vs []T) error {
	for _, v := range vs {
		if err := writeMember(p, v); err != nil {
			return err
		}
	}
	return nil
}

// readMember decodes a reply that is a member.
func readMember[T any](r driver.Reply) (T, error) {
	var zero T
	data, ok, err := r.Bytes()
	switch {
	case err != nil:
		return zero, err
	case !ok:
		return zero, ErrMiss
	}
	if v, ok := readScalar[T](data); ok {
		return v, nil
	}
	var v T
	if err := parseMember(data, &v); err != nil {
		return zero, corrupt(err)
	}
	return v, nil
}

// readMembers decodes an array of members into a set.
func readMembers[T comparable](r driver.Reply) (map[T]struct{}, error) {
	e, err := r.Elems()
	if err != nil {
		return nil, err
	}
	set := make(map[T]struct{}, e.Len())
	for e.Len() > 0 {
		member, err := readMember[T](e.Next())
		if err != nil {
			return nil, err
		}
		set[member] = struct{}{}
	}
	return set, nil
}

// readSlice decodes an array of elements, each by read.
func readSlice[T any](r driver.Reply, read func(driver.Reply) (T, error)) ([]T, error) {
	e, err := r.Elems()
	if err != nil {
		return nil, err
	}
	all := make([]T, 0, e.Len())
	for e.Len() > 0 {
		v, err := read(e.Next())
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Scalars have one text form everywhere: in keys, as members of sets, as fields
// of dicts, as counters and under the [Raw] serializer. It is canonical, since
// Redis compares members by their bytes: equal values have equal text.

func appendInt(dst []byte, i int64) []byte { return strconv.AppendInt(dst, i, 10) }

// appendText appends the text of a scalar or an encoding.TextMarshaler.
func appendText(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) { // the builtin types, without reflection
	case string:
		return append(dst, v...), nil
	case []byte:
		return append(dst, v...), nil
	case int:
		return appendInt(dst, int64(v)), nil
	case int64:
		return appendInt(dst, v), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case float64:
		return appendFloat(dst, v, 64)
	case encoding.TextMarshaler:
		return appendMarshaled(dst, v)
	}
	return appendKind(dst, reflect.ValueOf(v))
}

// appendKind is appendText for named types: type UserID int64. One whose
// MarshalText has a pointer receiver has a text all the same, as its
// UnmarshalText is what will read it.
func appendKind(dst []byte, v reflect.Value) ([]byte, error) {
	if v.IsValid() && reflect.PointerTo(v.Type()).Implements(textMarshaler) {
		return appendMarshaled(dst, addressed(v).Addr().Interface().(encoding.TextMarshaler))
	}
	switch v.Kind() {
	case reflect.String:
		return append(dst, v.String()...), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt(dst, v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.Float32, reflect.Float64:
		return appendFloat(dst, v.Float(), v.Type().Bits())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(dst, v.Bytes()...), nil
		}
	case reflect.Invalid:
		return nil, fmt.Errorf("nil is not a %s", scalars)
	}
	return nil, fmt.Errorf("a %v is not a %s", v.Type(), scalars)
}

// addressed returns a copy of v that has an address.
func addressed(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

const scalars = "string, bytes, number, bool or encoding.TextMarshaler"

// appendFloat refuses what is not equal to itself, and gives both zeros, which
// are equal, one text.
func appendFloat(dst []byte, f float64, bits int) ([]byte, error) {
	switch {
	case math.IsNaN(f):
		return nil, fmt.Errorf("NaN has no text: it equals nothing")
	case f == 0:
		return append(dst, '0'), nil
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits), nil
}

func appendMarshaled(dst []byte, v encoding.TextMarshaler) ([]byte, error) {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, fmt.Errorf("a nil %T has no text", v)
	}
	text, err := v.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("%T.MarshalText: %w", v, err)
	}
	return append(dst, text...), nil
}

// parseText reads the text of a scalar into dst, a pointer. The bytes are only
// borrowed. Its errors do not show the text: it may be anything.
func parseText(text []byte, dst any) error {
	switch dst := dst.(type) {
	case *string:
		*dst = string(text)
		return nil
	case *[]byte:
		*dst = append([]byte{}, text...)
		return nil
	case *int:
		n, err := strconv.ParseInt(string(text), 10, strconv.IntSize)
		*dst = int(n)
		return textError(err, "int")
	case *int64:
		n, err := strconv.ParseInt(string(text), 10, 64)
		*dst = n
		return textError(err, "int64")
	case *float64:
		f, err := parseFloat(text, 64)
		*dst = f
		return textError(err, "float64")
	case encoding.TextUnmarshaler:
		return dst.UnmarshalText(text)
	}
	return parseKind(text, reflect.ValueOf(dst).Elem())
}

// parseKind is parseText for named types and the rarer builtin ones.
func parseKind(text []byte, dst reflect.Value) error {
	var err error
	switch dst.Kind() {
	case reflect.String:
		dst.SetString(string(text))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		n, err = strconv.ParseInt(string(text), 10, dst.Type().Bits())
		dst.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		var n uint64
		n, err = parseUint(text, dst.Type().Bits())
		dst.SetUint(n)
	case reflect.Float32, reflect.Float64:
		var f float64
		f, err = parseFloat(text, dst.Type().Bits())
		dst.SetFloat(f)
	case reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(string(text)); err != nil {
			return reason("the text is not a valid bool")
		}
		dst.SetBool(b)
	case reflect.Slice:
		if dst.Type().Elem().Kind() == reflect.Uint8 {
			dst.SetBytes(append([]byte{}, text...))
			return nil
		}
		return reason(fmt.Sprintf("a %v is not a %s", dst.Type(), scalars))
	default:
		return reason(fmt.Sprintf("a %v is not a %s", dst.Type(), scalars))
	}
	return textError(err, dst.Type().String())
}

// parseFloat refuses NaN, as appendFloat does.
func parseFloat(text []byte, bits int) (float64, error) {
	f, err := strconv.ParseFloat(string(text), bits)
	if math.IsNaN(f) {
		return 0, strconv.ErrSyntax
	}
	return f, err
}

// parseUint says of a number below zero that it is out of range, where strconv
// says that it is none: a counter may have gone there.
func parseUint(text []byte, bits int) (uint64, error) {
	n, err := strconv.ParseUint(string(text), 10, bits)
	if i, _ := strconv.ParseInt(string(text), 10, 64); i < 0 {
		return 0, strconv.ErrRange
	}
	return n, err
}

// textError drops strconv's error, which repeats the text.
func textError(err error, want string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%w: the text is beyond %s", ErrOverflow, want)
	}
	return fmt.Errorf("%w: the text is not a valid %s", ErrNotNumber, want)
}

// appendMember appends the form of a member of a set or a field of a dict:
// text for scalars, JSON for structs and arrays whose JSON is canonical.
func appendMember(dst []byte, v any) ([]byte, error) {
	if t := reflect.TypeOf(v); composite(t) {
		if err := canonical(t); err != nil {
			return nil, err
		}
		c := addressed(reflect.ValueOf(v))
		if err := normalize(c); err != nil {
			return nil, err
		}
		text, err := json.Marshal(c.Addr().Interface())
		return append(dst, text...), err
	}
	return appendText(dst, v)
}

func parseMember(text []byte, dst any) error {
	if composite(reflect.TypeOf(dst).Elem()) {
		return json.Unmarshal(text, dst)
	}
	return parseText(text, dst)
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// marshals reports whether values of type t have a text of their own making.
func marshals(t reflect.Type) bool {
	return t.Implements(textMarshaler) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(textMarshaler)
}

// composite reports whether members of type t are kept as JSON.
func composite(t reflect.Type) bool {
	return t != nil && (t.Kind() == reflect.Struct || t.Kind() == reflect.Array) && !marshals(t)
}

// canonical refuses types whose equal values could differ in JSON, or whose
// unequal values could not: pointers, interfaces and channels, unexported
// fields, fields left out and fields that share a name.
func canonical(t reflect.Type) error {
	if marshals(t) && t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface {
		return nil
	}
	switch t.Kind() {
	case reflect.Array:
		return canonical(t.Elem())
	case reflect.Struct:
		return canonicalFields(t, make(map[string]bool))
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice, reflect.Chan, reflect.Func,
		reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Errorf("a %v cannot be (part of) a member: members are compared by their bytes, use scalars, structs and arrays of them", t)
	}
	return nil
}

// canonicalFields is canonical for a struct whose fields stand in one JSON
// object with those that are in names already: those of the structs that it is
// embedded in.
func canonicalFields(t reflect.Type, names map[string]bool) error {
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		promoted := f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && !marshals(f.Type)
		if name == "" {
			name = f.Name
		}
		if !f.IsExported() || tag == "-" || !promoted && names[name] {
			return fmt.Errorf("a %v as a member: its field %s is not in its JSON, so members that differ would be one", t, f.Name)
		}
		check := canonical
		if promoted {
			check = func(t reflect.Type) error { return canonicalFields(t, names) }
		} else {
			names[name] = true
		}
		if err := check(f.Type); err != nil {
			return err
		}
	}
	return nil
}

// normalize gives equal values one JSON, in place: both zeros are 0. It refuses
// strings that JSON cannot hold, which encoding/json would change until they are
// the same.
func normalize(v reflect.Value) error {
	if marshals(v.Type()) {
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return errors.New("a string in it is not UTF-8, which JSON cannot hold")
		}
	case reflect.Float32, reflect.Float64:
		if v.Float() == 0 {
			v.SetFloat(0)
		}
	case reflect.Array:
		for i := range v.Len() {
			if err := normalize(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			if err := normalize(field); err != nil {
				return err
			}
		}
	}
	return nil
}
