package caches

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Bind makes a struct of objects under one key, which is joined from parts as
// by [Cache.Key]. The struct's fields say what they are by their tags:
//
//	type UserCaches struct {
//		Profile caches.Cache[Profile]         `caches:"profile,ttl=1h"`
//		Board   caches.SortedSetCache[string] `caches:"board,connection=leaderboards"`
//	}
//	u, err := caches.Bind[UserCaches]("user", 42) // user.42.profile, user.42.board
//
// The first word of a tag is the last part of the field's key; without one it is
// the field's name in lower case. The options behind it are ttl (a duration, or
// "forever"), policy ("write", "creation" or "read"), connection, version,
// serializer ("json", "raw" or "gob") and, for a [SentinelCache], lease. The tag
// "-" leaves a field out. Exported fields of cache types, and of structs that
// embed one, are bound; others are left alone.
//
// Bound objects are ready for use; their own Key makes objects below them.
func Bind[S any](parts ...any) (S, error) {
	var s S
	err := BindInto(&s, parts...)
	return s, err
}

// BindInto is Bind for a struct that exists, given by a pointer. An option that
// is set in a field already stays; the tag sets the others. A Prefix stands
// before the key. A field that has a key already is an error.
func BindInto[S any](s *S, parts ...any) error {
	if s == nil {
		return fmt.Errorf("caches: Bind wants a struct, not a nil %T", s)
	}
	v := reflect.ValueOf(s).Elem()
	if v.Kind() != reflect.Struct {
		return fmt.Errorf("caches: Bind wants a struct, not a %v", v.Type())
	}
	root, err := makeKey("", parts)
	if err != nil {
		return fmt.Errorf("caches: Bind %v: %w", v.Type(), err)
	}
	bound := make(map[location]string)
	for field, value := range v.Fields() {
		object, ok := bindable(field, value)
		if !ok {
			continue
		}
		if err := bindField(object, field, root); err != nil {
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

// A location is where an object lives. Two fields in one would be one object, of
// two types mostly.
type location struct {
	conn                     *Conn
	connection, version, key string
}

func locate(object binder) location {
	opts, o := object.binding()
	return location{opts.conn, opts.Connection, opts.Version, o.key}
}

// A binder is a pointer to a cache object, or to a struct that embeds one.
type binder interface {
	binding() (*Options, *Object)
}

func (c *Cache[T]) binding() (*Options, *Object) { return &c.Options, &c.Object }

func (c *CounterCache[N]) binding() (*Options, *Object) { return &c.Options, &c.Object }

func (d *DictCache[K, V]) binding() (*Options, *Object) { return &d.Options, &d.Object }

func (s *SetCache[T]) binding() (*Options, *Object) { return &s.Options, &s.Object }

func (s *SortedSetCache[T]) binding() (*Options, *Object) { return &s.Options, &s.Object }

func (s *SentinelCache) binding() (*Options, *Object) { return &s.Options, &s.Object }

// A leaser is a pointer to a [SentinelCache], or to a struct that embeds one.
type leaser interface {
	lease() *time.Duration
}

func (s *SentinelCache) lease() *time.Duration { return &s.Lease }

func bindable(field reflect.StructField, value reflect.Value) (binder, bool) {
	if !field.IsExported() || field.Tag.Get("caches") == "-" {
		return nil, false
	}
	object, ok := value.Addr().Interface().(binder)
	return object, ok
}

// bindField gives an object what its tag says, and its key under root.
func bindField(object binder, field reflect.StructField, root string) error {
	name, options, _ := strings.Cut(field.Tag.Get("caches"), ",")
	if name == "" {
		name = strings.ToLower(field.Name)
	}
	opts, o := object.binding()
	if o.key != "" || o.err != nil {
		return fmt.Errorf("it is bound already, or its Key was called: %v", o)
	}
	for option := range strings.SplitSeq(options, ",") {
		if option == "" {
			continue
		}
		if err := bindOption(object, opts, option); err != nil {
			return err
		}
	}
	base := root
	if opts.Prefix != "" {
		base = opts.Prefix + "." + root
	}
	opts.field = dotted(opts.Prefix) + name
	key, err := makeKey(base, []any{name})
	if err != nil {
		return err
	}
	opts.Prefix = key
	*o = Object{opts: *opts, key: key}
	return nil
}

// bindOption applies one option of a tag, "ttl=1h", unless it is set already.
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
			return fmt.Errorf("the option lease is for a SentinelCache")
		}
		if value == "forever" {
			return fmt.Errorf("the option lease: a lease without end would outlive a crash")
		}
		err = bindDuration(gate.lease(), value)
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
			return fmt.Errorf("%q is not more than nothing: leave it out for the default", value)
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
		return fmt.Errorf("%q is not one of json, raw, gob: set others in the field and use BindInto", value)
	}
	if opts.Serializer == nil {
		opts.Serializer = s
	}
	return nil
}
