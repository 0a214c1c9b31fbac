package caches

import (
	"fmt"
	"math"
	"time"
)

// Forever is a time to live without end.
const Forever time.Duration = math.MaxInt64

// A TTLPolicy says when an object's time to live starts again.
type TTLPolicy uint8

const (
	// RefreshOnWrite starts the time to live again with every write that
	// succeeds, also where it changes nothing: a set is asked to hold a member
	// that it holds. Writes on a condition that does not hold (Add of a Cache,
	// Replace, GetOrAdd) leave it. It is the zero value and the default.
	RefreshOnWrite TTLPolicy = iota
	// FromCreation counts from the write that created the object; later
	// writes leave it. A counter of visits per day is one. An object that has
	// no end, after Persist, gets one with the next write.
	FromCreation
	// SlideOnRead starts it again with every read of the content as well: not
	// with Len, Exists and ExpiresIn, nor with the operations between sets.
	// Such reads write, so they go to masters only.
	SlideOnRead
)

// String returns the policy's name in a struct tag of [Bind].
func (p TTLPolicy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("TTLPolicy(%d)", uint8(p))
}

var policyNames = [...]string{RefreshOnWrite: "write", FromCreation: "creation", SlideOnRead: "read"}

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
	conn  *Conn  // set by On
	field string // set by Bind, whose prefixes are those of single objects
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

// milliseconds is how Redis counts: it has nothing smaller, and 0 would delete.
func milliseconds(ttl time.Duration) (int64, error) {
	if ttl < 0 {
		return 0, fmt.Errorf("caches: a time to live of %v is negative: use caches.Forever for none", ttl)
	}
	ms := ttl.Milliseconds()
	if ms == 0 && ttl > 0 {
		ms = 1
	}
	return ms, nil
}

func (o *Options) serializer() Serializer {
	if o.Serializer == nil {
		return JSON
	}
	return o.Serializer
}
