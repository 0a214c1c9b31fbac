package caches

import (
	"fmt"
	"time"
)

// nearSpace returns the space of a type, nil where its values are not kept near.
func (c *Conn) nearSpace(o *Options) *nearSpace {
	if o.TTLPolicy == SlideOnRead || o.field != "" {
		return nil
	}
	spaces := c.near.all()
	for _, s := range spaces {
		if s.is(o) {
			return s
		}
	}
	if len(spaces) >= nearSpaces || !c.tracks() {
		return nil
	}
	return c.addNearSpace(o)
}

// Options describe a type of cache object. The zero value is valid: keys
// without a prefix, on the default connection, that expire as the connection
// says. Options are read at every operation, so a connection may be configured
// after the variable that holds them was made.
type Options struct {
	// Prefix is the first part of every key. It is used as it stands: dots in
	// it make it several parts, braces a hash tag.
	Prefix string

	// TTL is how long an object lives, in steps of a millisecond; less than
	// one counts as one. Zero means the connection's default (its "ttl"
	// option, none where it has none), [Forever] means no end. Less than zero
	// is an error.
	TTL time.Duration

	// TTLPolicy says when the time to live starts again.
	TTLPolicy TTLPolicy

	// Connection is the name of the connection ("#name" in its DSN, or
	// CACHES_DSN_NAME). Empty means the default one.
	Connection string

	// Version stands in every key, before Prefix: another version is another
	// set of entries. Empty means the connection's.
	Version string

	// Serializer turns values into bytes. Nil means [JSON].
	Serializer Serializer

	// Near keeps values in this process as well, and has the server tell when
	// one is no longer true. Nil means not to; &Near{} is usable.
	Near *Near

	fresh bool   // set by Fresh
	err   error  // of Under
	conn  *Conn  // set by On
	field string // the name for statistics, set by Bind and Under, whose prefixes are those of single objects
}

// typeName is what statistics call the type.
func (o *Options) typeName() string {
	if o.field != "" {
		return o.field
	}
	return o.Prefix
}

// ttl returns the time to live in milliseconds on conn, 0 for none.
func (o *Options) ttl(conn *Conn) (int64, error) {
	if err := o.Near.check(); err != nil {
		return 0, err
	}
	if o.TTLPolicy > SlideOnRead {
		return 0, fmt.Errorf("caches: there is no %v", o.TTLPolicy)
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

func (o *Options) serializer() Serializer {
	if o.Serializer == nil {
		return JSON
	}
	return o.Serializer
}
