package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// AppendMember appends the stored form of a member of a set or a field of a
// dict: text for Scalars, JSON for structs and arrays whose JSON is canonical.
func AppendMember(dst []byte, v any) ([]byte, error) {
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
	return Append(dst, v)
}

// ParseMember decodes the stored form of a member into dst, a pointer.
func ParseMember(text []byte, dst any) error {
	if composite(reflect.TypeOf(dst).Elem()) {
		return json.Unmarshal(text, dst)
	}
	return Parse(text, dst)
}

// composite reports whether members of type t are stored as JSON.
func composite(t reflect.Type) bool {
	return t != nil && (t.Kind() == reflect.Struct || t.Kind() == reflect.Array) && !marshals(t)
}

// canonical rejects types whose equal values could have different JSON, or
// whose different values could have the same JSON: pointers, interfaces and
// channels, unexported fields, omitted fields, and fields that share a name.
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
		return fmt.Errorf("a %v cannot be (part of) a member: members are compared by their bytes, use Scalars, structs and arrays of them", t)
	}
	return nil
}

// canonicalFields is canonical for a struct whose fields share one JSON object
// with the fields in names, which belong to the structs that embed it.
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

// normalize changes v so that equal values have one JSON: both zeros become 0.
// It rejects strings that are not UTF-8, because encoding/json could make
// different ones equal.
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
