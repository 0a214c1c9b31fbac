package caches

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/gocaches/caches/driver"
)

// writeMember appends a member of a set or a field of a dict. It rejects all
// pointer and interface types: a pointer is equal only to itself, and an
// interface does not say which type to decode into.
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

// readMember decodes a reply as a member.
func readMember[T any](r driver.Reply) (T, error) {
	var zero T
	data, err := present(r)
	if err != nil {
		return zero, err
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

// readSlice decodes an array, each element with read.
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

// appendMember appends the stored form of a member of a set or a field of a
// dict: text for scalars, JSON for structs and arrays whose JSON is canonical.
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
		return fmt.Errorf("a %v cannot be (part of) a member: members are compared by their bytes, use scalars, structs and arrays of them", t)
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

// writeScalar appends v if it is of one of the most common types, and reports
// whether it did. v does not escape.
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

// readScalar decodes data into a type whose bytes are its value, and reports
// whether T is one. v does not escape.
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
