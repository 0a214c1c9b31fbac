package caches

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"github.com/gocaches/caches/driver/redigo"
)

// ConnOptions are options of a connection that are given in code. They override
// those of the DSN. The zero value, like nil, overrides nothing.
type ConnOptions struct {
	// Name is the name of the connection. Empty means the DSN's.
	Name string

	// Prefix and Version precede every key, each followed by a dot: the options
	// "prefix" and "version". Empty means the DSN's.
	Prefix, Version string

	// Previous lists the shards that the connection had before shards were added
	// or removed: the option "previous". Each is the name of a shard, or the
	// "host:port" of a server that is no longer a shard, which is contacted with
	// the options of the first DSN. PreviousRouter is the router they had; nil
	// means Router.
	//
	// A key that is still on its previous shard is moved, with the rest of its
	// time to live, when an operation asks for it. If the shard of a key has
	// changed, its first read in each process asks the previous shard first.
	// Deletes and invalidations apply to both shards. Change all processes at
	// about the same time: a process without the new shards keeps writing to the
	// old ones. Drop the option once all old keys have expired or moved: until
	// then, operations on keys that may be on an unresponsive server fail.
	// Previous needs Redis and the permissions +dump and +restore. Empty means
	// that the shards have not changed.
	Previous       []string
	PreviousRouter Router

	// TTL is the time to live of objects whose type sets none. Zero means the
	// DSN's, [Forever] no expiry. A negative TTL is an error.
	TTL time.Duration

	// Router divides the keys among several shards. Nil means the DSN's, or else
	// [CRC32].
	Router Router

	// Credentials, if not nil, supplies the username and password for each dial,
	// so that they can change while the program runs. The DSN's are then ignored.
	// An error fails the dial and is shown in the error of the call.
	Credentials func(ctx context.Context) (Credentials, error) `json:"-"`

	// TLS replaces the options tls_* of a scheme with TLS. It is an error with
	// redis, redis+cluster and redis+sentinel. Other schemes ignore it.
	TLS *tls.Config `json:"-"`

	// Timeout limits one call whose context has no earlier deadline.
	// ConnectTimeout limits dialing. Zero means the DSN's, or else 1 s. A negative
	// timeout is an error.
	Timeout, ConnectTimeout time.Duration

	// Conns is the number of shared connections to one server. Zero means the
	// DSN's ("conns"), or else 1, which is the fastest if the server is the
	// bottleneck. A negative number is an error.
	Conns int

	// OwnConns is the maximum number of dedicated connections to one server, for
	// calls that send more than 1 MiB or block, and for all calls during half a
	// second after this process was found to be short of processors. Zero means
	// the DSN's ("maxsize"), or else 64. A negative number is an error.
	OwnConns int

	// ClientName is the name that CLIENT LIST shows. Empty means the DSN's.
	ClientName string

	// ReadReplicas sends commands that only read to replicas: the option "replicas" of
	// Redis Cluster and Redis Sentinel. Replicas may lag behind the last write.
	// Reads that restart a time to live or validate a result use masters.
	ReadReplicas bool

	// DialAddress, if not nil, returns the address to dial for the address of a
	// server, both host:port. It is called for each dial with an address of the DSN,
	// or with one that a server of a Redis Cluster or a Sentinel has announced:
	// behind NAT, servers announce addresses that cannot be reached. An error refuses
	// the dial and is shown in the error of the call, for example to bound where a
	// redirect may lead with the password. With TLS, the certificate must be for the
	// host that is returned, unless the DSN or TLS sets a server name. DialAddress must
	// be safe for concurrent use. Unix sockets are dialed without it.
	DialAddress func(ctx context.Context, address string) (string, error) `json:"-"`

	// Hooks observe the connection. Nil means none. [LogHooks] returns Hooks that
	// write to a log.
	Hooks *Hooks `json:"-"`

	observer *observer // of Hooks; made before the stores, which report their state to it
	own      int       // maximum number of dedicated connections, zero for the default
}

// Credentials are the username and the password of [ConnOptions.Credentials], with
// the fields Username and Password. They print as a fixed text.
type Credentials = redigo.Credentials

const defaultOwn = 64

// check reports values that a DSN could not have either.
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
