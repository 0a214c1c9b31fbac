package caches

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gocaches/caches/driver"
)

// writeValue appends v as an argument. Under Raw the commonest types skip the
// serializer, and with it two allocations.
func writeValue[T any](p *driver.Pipeline, s Serializer, v T) error {
	if _, raw := s.(rawSerializer); raw && writeScalar(p, v) {
		return nil
	}
	data, err := s.Marshal(v)
	if err != nil {
		return err
	}
	p.Bytes(data)
	return nil
}

// writeScalar appends v where it is of one of the commonest types. Nothing of v
// escapes it.
func writeScalar[T any](p *driver.Pipeline, v T) bool {
	switch v := any(v).(type) {
	case string:
		p.String(v)
	case []byte:
		p.Bytes(v)
	case int:
		p.Int(int64(v))
	case int64:
		p.Int(v)
	default:
		return false
	}
	return true
}

// readValue decodes what is stored. An error of it is an ErrCorrupt, but for
// values beyond a bound.
func readValue[T any](s Serializer, data []byte) (T, error) {
	if _, raw := s.(rawSerializer); raw {
		if v, ok := readScalar[T](data); ok {
			return v, nil
		}
	}
	var v T
	if err := s.Unmarshal(data, &v); err != nil {
		var zero T // v may be half filled
		return zero, corrupt(err)
	}
	return v, nil
}

// readScalar decodes into one of the types whose bytes are their value. Nothing
// of v escapes it.
func readScalar[T any](data []byte) (v T, ok bool) {
	switch dst := any(&v).(type) {
	case *string:
		*dst = string(data)
	case *[]byte:
		*dst = append([]byte{}, data...)
	default:
		return v, false
	}
	return v, true
}

func corrupt(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	return &corruption{err}
}

// A corruption is ErrCorrupt with the decoder's error. Decoders repeat what they
// cannot read, and errors are logged where values must not be: so Error shows
// those only that are known not to. All can be had by errors.As.
type corruption struct{ cause error }

func (e *corruption) Error() string {
	return ErrCorrupt.Error() + ": " + discreet(e.cause)
}

func (e *corruption) Unwrap() []error { return []error{ErrCorrupt, e.cause} }

// A reason is an error of our own that repeats nothing of a value.
type reason string

func (r reason) Error() string { return string(r) }

// discreet returns what can be told of a decoder's error.
func discreet(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return mistyped(wrong)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Error() // it shows one character at most
	}
	if ours, ok := errors.AsType[reason](err); ok {
		return ours.Error()
	}
	for _, known := range []error{ErrNotNumber, ErrOverflow, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return err.Error()
		}
	}
	return fmt.Sprintf("the decoder's error, a %T, may repeat it and is not shown", err)
}

// mistyped is the text of e without the number that it shows.
func mistyped(e *json.UnmarshalTypeError) string {
	kind, _, _ := strings.Cut(e.Value, " ") // of "number 4711"
	text := fmt.Sprintf("json: a %s where a Go %v is wanted", kind, e.Type)
	if e.Field != "" {
		text += ", at " + e.Field
	}
	return text
}

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
