package caches

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Bind returns a struct of objects under one key, which is joined from parts as
// in [Cache.Key]. The tags of the struct configure its fields:
//
//	type UserCaches struct {
//		Profile caches.Value[Profile]    `caches:"profile,ttl=1h"`
//		Board   caches.SortedSet[string] `caches:"board,connection=leaderboards"`
//	}
//	u, err := caches.Bind[UserCaches]("user", 42) // user.42.profile, user.42.board
//
// The first word of a tag is the last part of the field's key; the default is
// the field's name in lower case. The options after it are ttl (a duration, or
// "forever"), policy ("write", "creation" or "read"), connection, version,
// serializer ("json", "raw" or "gob") and, for a [Sentinel], lease. The tag "-"
// excludes a field. Bind sets the exported fields of the object types ([Value],
// [Dict], ...), and of structs that embed one. A tag on any other field is an
// error; other fields without a tag are left alone.
//
// Bound objects are ready for use; their own Key returns objects below them.
func Bind[S any](parts ...any) (S, error) {
	var s S
	err := BindInto(&s, parts...)
	return s, err
}

// BindInto is like Bind but fills the struct that s points to. A field may
// already hold the options of a type, set by its Key without parts. These
// options take precedence over the tag, and a Prefix among them precedes the
// key. A field whose object has a key is an error.
//
//	u := UserCaches{Profile: caches.Cache[Profile]{Serializer: proto}.Key()}
//	err := caches.BindInto(&u, "user", 42)
func BindInto[S any](s *S, parts ...any) error {
	if s == nil {
		return fmt.Errorf("caches: Bind needs a struct, not a nil %T", s)
	}
	v := reflect.ValueOf(s).Elem()
	if v.Kind() != reflect.Struct {
		return fmt.Errorf("caches: Bind needs a struct, not a %v", v.Type())
	}
	root, err := makeKey("", parts)
	if err != nil {
		return fmt.Errorf("caches: Bind %v: %w", v.Type(), err)
	}
	bound := make(map[location]string)
	for field, value := range v.Fields() {
		object, err := bindable(field, value)
		if object == nil && err == nil {
			continue
		}
		if err == nil {
			err = bindField(object, field, root)
		}
		if err != nil {
			return fmt.Errorf("caches: Bind %v: field %s: %w", v.Type(), field.Name, err)
		}
		at := locate(object)
		if other, taken := bound[at]; taken {
			return fmt.Errorf("caches: Bind %v: fields %s and %s have the same key, %s", v.Type(), other, field.Name, at.key)
		}
		bound[at] = field.Name
	}
	if len(bound) == 0 {
		return fmt.Errorf("caches: Bind %v: it has no exported field of a cache type", v.Type())
	}
	return nil
}

// A location is the place of an object. Two fields with one location would
// share a key, usually with different types.
type location struct {
	conn                     *Conn
	connection, version, key string
}

func locate(object binder) location {
	o := object.binding()
	return location{o.opts.conn, o.opts.Connection, o.opts.Version, o.key}
}

// A binder is a pointer to a cache object, or to a struct that embeds one.
type binder interface {
	binding() *Object
}

func (o *Object) binding() *Object { return o }

// A leaser is a pointer to a [Sentinel], or to a struct that embeds one.
type leaser interface {
	leaseTime() *time.Duration
}

func (s *Sentinel) leaseTime() *time.Duration { return &s.lease }

// bindable returns the object in a field, or nil if the field is not to be
// bound.
func bindable(field reflect.StructField, value reflect.Value) (binder, error) {
	tag, tagged := field.Tag.Lookup("caches")
	if tag == "-" {
		return nil, nil
	}
	if field.IsExported() {
		if object, ok := value.Addr().Interface().(binder); ok {
			return object, nil
		}
	}
	if tagged {
		return nil, fmt.Errorf("it has a caches tag but is not an exported field of an object type such as caches.Value[T]")
	}
	return nil, nil
}

// bindField sets the options of an object from its tag, and its key under root.
func bindField(object binder, field reflect.StructField, root string) error {
	name, options, _ := strings.Cut(field.Tag.Get("caches"), ",")
	if name == "" {
		name = strings.ToLower(field.Name)
	}
	o := object.binding()
	if !o.unbound() {
		return fmt.Errorf("it is bound already, or its Key was called with parts: %v", o)
	}
	for option := range strings.SplitSeq(options, ",") {
		if option == "" {
			continue
		}
		if err := bindOption(object, &o.opts, option); err != nil {
			return err
		}
	}
	base := root
	if o.opts.Prefix != "" {
		base = o.opts.Prefix + "." + root
	}
	o.opts.field = dotted(o.opts.Prefix) + name
	key, err := makeKey(base, []any{name})
	if err != nil {
		return err
	}
	o.opts.Prefix = key
	o.key, o.err = key, nil
	return nil
}

// unbound reports whether o is the zero Object or comes from a Key without
// parts, which only carries options.
func (o *Object) unbound() bool {
	return o.opts.field == "" && (o.err == nil || o.err == errEmptyKey) && o.key == o.opts.Prefix
}

// bindOption applies one option of a tag, such as ttl=1h, unless it is already
// set.
func bindOption(object binder, opts *Options, option string) error {
	name, value, _ := strings.Cut(option, "=")
	var err error
	switch name {
	case "ttl":
		err = bindDuration(&opts.TTL, value)
	case "policy":
		i := slices.Index(policyNames[:], value)
		if i < 0 {
			return fmt.Errorf("the policy %q is not one of %s", value, strings.Join(policyNames[:], ", "))
		}
		if opts.TTLPolicy == RefreshOnWrite {
			opts.TTLPolicy = TTLPolicy(i)
		}
	case "connection":
		setEmpty(&opts.Connection, value)
	case "version":
		setEmpty(&opts.Version, value)
	case "serializer":
		err = bindSerializer(opts, value)
	case "lease":
		gate, ok := object.(leaser)
		if !ok {
			return fmt.Errorf("the option lease is for a Sentinel")
		}
		if value == "forever" {
			return fmt.Errorf("the option lease: a lease that never expires would outlive a crash")
		}
		err = bindDuration(gate.leaseTime(), value)
	default:
		return fmt.Errorf("the option %q is not one of ttl, policy, connection, version, serializer, lease", name)
	}
	if err != nil {
		return fmt.Errorf("the option %s: %w", name, err)
	}
	return nil
}

func setEmpty(dst *string, value string) {
	if *dst == "" {
		*dst = value
	}
}

func bindDuration(dst *time.Duration, value string) error {
	d := Forever
	if value != "forever" {
		var err error
		if d, err = time.ParseDuration(value); err != nil {
			return fmt.Errorf("%q is not a duration such as 90s, 1h30m or forever", value)
		}
		if d <= 0 {
			return fmt.Errorf("%q is not positive: leave it out for the default", value)
		}
	}
	if *dst == 0 {
		*dst = d
	}
	return nil
}

func bindSerializer(opts *Options, value string) error {
	s, ok := map[string]Serializer{"json": JSON, "raw": Raw, "gob": Gob}[value]
	if !ok {
		return fmt.Errorf("%q is not one of json, raw, gob: set others in the field (caches.Cache[T]{Serializer: …}.Key()) and use BindInto", value)
	}
	if opts.Serializer == nil {
		opts.Serializer = s
	}
	return nil
}
