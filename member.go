package caches

import (
	"fmt"
	"reflect"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/corrupt"
	"github.com/gocaches/caches/internal/text"
)

// writeMember appends a member of a set or a field of a dict. It rejects all
// pointer and interface types: a pointer is equal only to itself, and an
// interface does not say which type to decode into.
func writeMember[T any](p *driver.Pipeline, v T) error {
	switch t := reflect.TypeFor[T](); t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return fmt.Errorf("caches: a member: a %v is not a %s", t, text.Scalars)
	}
	if writeScalar(p, v) {
		return nil
	}
	var buf [64]byte
	encoded, err := text.AppendMember(buf[:0], v)
	if err != nil {
		return fmt.Errorf("caches: a member: %w", err)
	}
	p.Bytes(encoded)
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
	if err := text.ParseMember(data, &v); err != nil {
		return zero, corrupt.Value(err)
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
