package caches

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"
)

// ConnOptions are what code says about a connection. It wins over the DSN. The
// zero value, like nil, says nothing.
type ConnOptions struct {
	// Name is what the connection is called. Empty means the DSN's name.
	Name string

	// Prefix and Version stand before every key, with a dot behind each: the
	// options "prefix" and "version". Empty means the DSN's.
	Prefix, Version string

	// Previous are the shards among which keys were divided before the shards
	// of this connection were added or removed, and PreviousRouter by what: nil
	// means Router. Each is the name of a shard, or "host:port" of a server that
	// is none any more and is reached as the others are: the option "previous".
	// What is still where it was is found, and moved, with what is left of its
	// time to live, when somebody asks for it: a read of a key whose place has
	// changed first asks the old one, once in each process. Deletes and
	// invalidations concern both. All processes should change at about the same
	// time: one that does not know the new shards goes on writing to the old ones.
	// Drop the option when what was stored before has expired, or been moved: while
	// it is there, keys that may be at a server that does not answer fail. It needs
	// Redis, and the rights +dump and +restore. None means that nothing has changed.
	Previous       []string
	PreviousRouter Router

	// TTL is the time to live of objects that do not say their own. Zero means
	// the DSN's, [Forever] none. Less than zero is an error.
	TTL time.Duration

	// Router divides the keys among several shards. Nil means the DSN's, else
	// [CRC32].
	Router Router

	// Credentials is asked for user and password at each dial, so that they
	// can change while the program runs. The DSN's own are then not used. Nil
	// means the DSN's.
	Credentials func(ctx context.Context) (username, password string, err error) `json:"-"`

	// TLS is for rediss instead of the options tls_*. It is an error with
	// redis, which would go without; other schemes have no use for it.
	TLS *tls.Config `json:"-"`

	// Timeout is of one call whose context has no nearer deadline,
	// ConnectTimeout of dialling. Zero means the DSN's, else 1 s. Less than
	// zero is an error.
	Timeout, ConnectTimeout time.Duration

	// Conns is the number of connections to one server that calls share. Zero
	// means the DSN's ("conns"), else 1, which is the fastest where the server
	// is what limits. Less than zero is an error.
	Conns int

	// OwnConns is the most connections to one server that calls have for
	// themselves: those that send more than 1 MiB, or block, and all of them
	// for half a second after this process was found to be short of
	// processors. Zero means the DSN's ("maxsize"), else 64. Less than zero is
	// an error.
	OwnConns int

	// ClientName is what CLIENT LIST shows of the connections. Empty means the
	// DSN's.
	ClientName string

	// Replicas has replicas answer what only reads: the option "replicas" of
	// Redis Cluster and Redis Sentinel. They may be behind the last write. What
	// slides a time to live and what vouches for a result is asked of masters.
	Replicas bool

	// Map, if it is not nil, gives the address to dial for one that a server of
	// a Redis Cluster or a Sentinel has named, both host:port: behind NAT, servers
	// know themselves by other addresses. Many goroutines call it at once.
	Map func(address string) string `json:"-"`

	// Hooks hear of what goes on. Nil means none; [LogHooks] makes some that
	// write to a log.
	Hooks *Hooks `json:"-"`

	observer *observer // of Hooks, made before the stores that tell it their state
	own      int       // most connections of their own that calls get, zero for the default
}

const defaultOwn = 64

func deref(o *ConnOptions) ConnOptions {
	if o == nil {
		return ConnOptions{}
	}
	return *o
}

// check refuses what no DSN could say either.
func (o *ConnOptions) check() error {
	switch {
	case o.TTL < 0:
		return errors.New("caches: ConnOptions.TTL is negative: use caches.Forever for none")
	case o.Timeout < 0, o.ConnectTimeout < 0:
		return errors.New("caches: a timeout in ConnOptions is negative")
	case o.Conns < 0:
		return errors.New("caches: ConnOptions.Conns is negative")
	case o.OwnConns < 0:
		return errors.New("caches: ConnOptions.OwnConns is negative")
	case strings.ContainsFunc(o.Prefix+o.Version, control):
		return errors.New("caches: Prefix or Version in ConnOptions has a control character")
	}
	return nil
}
