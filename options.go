package caches

import (
	"fmt"
	"time"

	"github.com/gocaches/caches/internal/near"
	"github.com/gocaches/caches/internal/tally"
)

// nearSpace returns the near space of a type, or nil if its values are not kept
// near.
func (c *Conn) nearSpace(o *Options) *near.Space {
	if o.Near == nil || o.TTLPolicy == SlideOnRead || o.field != "" {
		return nil
	}
	kind := near.Type{Version: o.Version, Prefix: o.Prefix, MaxEntries: o.Near.MaxEntries, MaxAge: o.Near.MaxAge}
	s, room := c.near.Space(kind)
	if s != nil || !room || o.Near.check() != nil {
		return s
	}
	hits := c.tallies.Of(o.typeName())
	return c.near.Add(kind, c.front(o.Version), func() { hits.Add(tally.NearHit, 1) })
}

// Options describe a type of cache object. The zero value is valid: keys
// without a prefix, on the default connection, with the connection's TTL. The
// connection is looked up at every operation, so it may be configured after the
// variable that holds the Options is made.
type Options struct {
	// Prefix is the first part of every key. It is used verbatim: dots in it
	// separate parts, and braces mark a hash tag.
	Prefix string

	// TTL is how long an object lives. It is rounded down to milliseconds, with a
	// minimum of one. Zero means the connection's default (its "ttl" option, or
	// else no expiry). [Forever] means no expiry. A negative TTL is an error.
	TTL time.Duration

	// TTLPolicy says which operations restart the TTL.
	TTLPolicy TTLPolicy

	// Connection is the name of the connection, as in "#name" of its DSN or
	// CACHES_DSN_NAME. Empty means the default connection.
	Connection string

	// Version precedes Prefix in every key, so that each version has its own
	// entries. Empty means the connection's version.
	Version string

	// Serializer turns values into bytes and back. Nil means [JSON].
	Serializer Serializer

	// Near keeps values in this process as well, until the server reports that
	// they have changed. Nil disables it; &Near{} enables it with its defaults.
	Near *NearOptions

	fresh bool   // set by Fresh
	err   error  // set by Under
	conn  *Conn  // set by On
	field string // the name in statistics, set by Bind and Under, whose prefixes include an object's key
}

// typeName returns the name of the type in statistics.
func (o *Options) typeName() string {
	if o.field != "" {
		return o.field
	}
	return o.Prefix
}

// ttl returns the TTL on conn in milliseconds, 0 for no expiry.
func (o *Options) ttl(conn *Conn) (int64, error) {
	if err := o.Near.check(); err != nil {
		return 0, err
	}
	if o.TTLPolicy > SlideOnRead {
		return 0, fmt.Errorf("caches: unknown %v", o.TTLPolicy)
	}
	ttl := o.TTL
	if ttl == 0 {
		ttl = conn.defaultTTL()
	}
	if ttl == Forever {
		return 0, nil
	}
	return milliseconds(ttl)
}

// serializer returns the serializer of elements of the objects.
func (o *Options) serializer() Serializer {
	if o.Serializer == nil {
		return JSON
	}
	return o.Serializer
}

// serializerAt returns the serializer of the value at front and key.
func (o *Options) serializerAt(front, key string) Serializer {
	switch s := o.Serializer.(type) {
	case nil:
		return JSON
	case format: // the usual ones, first
		return s
	case KeySerializer:
		return s.ForKey(front + key)
	}
	return o.Serializer
}
