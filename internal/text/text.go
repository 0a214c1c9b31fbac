// Package text has the text forms of values.
//
// Scalars have one text form everywhere: in keys, as members of sets, as fields of
// dicts, as counters and under the Raw serializer. It is canonical, because Redis
// compares members by their bytes: equal values have equal text. Members that are
// structs or arrays are JSON, which is canonical for the types that are accepted.
package text

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"

	"github.com/gocaches/caches/internal/corrupt"
)

// Append appends the text of a scalar or an encoding.TextMarshaler.
func Append(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) { // the builtin types, without reflection
	case string:
		return append(dst, v...), nil
	case []byte:
		return append(dst, v...), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case float64:
		return AppendFloat(dst, v, 64)
	case encoding.TextMarshaler:
		return appendMarshaled(dst, v)
	}
	return appendKind(dst, reflect.ValueOf(v))
}

// appendKind is Append for named types, such as type UserID int64. It also
// uses a MarshalText with a pointer receiver, because UnmarshalText will read
// the text.
func appendKind(dst []byte, v reflect.Value) ([]byte, error) {
	if v.IsValid() && reflect.PointerTo(v.Type()).Implements(textMarshaler) {
		return appendMarshaled(dst, addressed(v).Addr().Interface().(encoding.TextMarshaler))
	}
	switch v.Kind() {
	case reflect.String:
		return append(dst, v.String()...), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.Float32, reflect.Float64:
		return AppendFloat(dst, v.Float(), v.Type().Bits())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(dst, v.Bytes()...), nil
		}
	case reflect.Invalid:
		return nil, fmt.Errorf("nil is not a %s", Scalars)
	}
	return nil, fmt.Errorf("a %v is not a %s", v.Type(), Scalars)
}

// addressed returns an addressable copy of v.
func addressed(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

// Scalars names the types of scalars in messages.
const Scalars = "string, bytes, number, bool or encoding.TextMarshaler"

// AppendFloat rejects NaN, which is not equal to itself, and gives both zeros,
// which are equal, the same text.
func AppendFloat(dst []byte, f float64, bits int) ([]byte, error) {
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

// Parse decodes the text of a scalar into dst, a pointer, and does not
// retain text. Its errors do not show the text, which may be any user data.
func Parse(text []byte, dst any) error {
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

// parseKind is Parse for named types and the less common builtin ones.
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
			return corrupt.Reason("the text is not a valid bool")
		}
		dst.SetBool(b)
	case reflect.Slice:
		if dst.Type().Elem().Kind() == reflect.Uint8 {
			dst.SetBytes(append([]byte{}, text...))
			return nil
		}
		return corrupt.Reason(fmt.Sprintf("a %v is not a %s", dst.Type(), Scalars))
	default:
		return corrupt.Reason(fmt.Sprintf("a %v is not a %s", dst.Type(), Scalars))
	}
	return textError(err, dst.Type().String())
}

// parseFloat rejects NaN, as AppendFloat does.
func parseFloat(text []byte, bits int) (float64, error) {
	f, err := strconv.ParseFloat(string(text), bits)
	if math.IsNaN(f) {
		return 0, strconv.ErrSyntax
	}
	return f, err
}

// parseUint reports a negative number as out of range, because a counter may
// have become negative; strconv reports a syntax error.
func parseUint(text []byte, bits int) (uint64, error) {
	n, err := strconv.ParseUint(string(text), 10, bits)
	if i, _ := strconv.ParseInt(string(text), 10, 64); i < 0 {
		return 0, strconv.ErrRange
	}
	return n, err
}

// textError replaces an error of strconv, which repeats the text.
func textError(err error, want string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%w: the text is beyond %s", corrupt.ErrOverflow, want)
	}
	return fmt.Errorf("%w: the text is not a valid %s", corrupt.ErrNotNumber, want)
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// marshals reports whether values of type t have a MarshalText method.
func marshals(t reflect.Type) bool {
	return t.Implements(textMarshaler) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(textMarshaler)
}
