// Package caches provides typed cache objects that feel like Go's own data
// structures and are stored in Redis: values ([Cache]), counters
// ([CounterCache]), dicts ([DictCache]), sets ([SetCache]), sorted sets
// ([SortedSetCache]), lists ([ListCache]) and gates for one-time work
// ([SentinelCache]). It also makes functions remember their results ([Cached]).
//
// # Objects
//
// A type of objects, such as a [Cache], is usually a package-level variable.
// Its Key method returns the object at a key, such as a [Value], and the object
// has the operations:
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", TTL: time.Hour}
//
//	err := profiles.Key(42).Set(ctx, Profile{Name: "Ada"}) // at profile.42
//	p, err := profiles.Key(42).Get(ctx)
//
// Types and objects are descriptions, not connections: making one contacts no
// server and cannot fail. They are immutable, cheap to copy and safe for
// concurrent use, and hold no stored data. To define your own object, embed one
// in a struct. [Bind] makes a struct of several objects under one key.
// [GetMany], [SetMany] and [DeleteMany] work on many values, in one round trip
// per shard.
//
// # Connections
//
// Connections are configured from the environment on first use. CACHES_DSN is
// the default connection, CACHES_DSN_SESSIONS the one named "sessions". Several
// DSNs with the same name (CACHES_DSN_1, CACHES_DSN_2, …) are the shards of one
// connection. [DSN] describes the syntax. In code, use [Configure], [Open],
// [ConnOptions.OpenPools] or [ConnOptions.OpenStores].
//
// Options.Connection names the connection of a type. On pins a type or an
// object to a connection, and [WithConn] sets the connection of a context.
// Opening a connection never dials. If no connection is configured, operations
// return [ErrNoConnection]; localhost is never assumed.
//
// A connection can also be to a Redis Cluster ("redis+cluster://") or to a
// master monitored by Redis Sentinel ("redis+sentinel://"). If the shards
// change, ConnOptions.Previous lets it find keys on their previous shards.
//
// "locmem://" stores data in this process, so development and tests need no
// server. "dummy://" stores nothing, which turns caching off.
//
// # Functions that remember their results
//
// [Cached] makes a function remember its results. A missing result is computed
// once, however many callers in however many processes ask for it. Results can
// be invalidated by argument, by tag ([InvalidateTags]) or all together, and
// refreshed before they expire. If the server is unavailable, the function is
// called instead. A result that is invalidated during its computation is not
// kept. [Value.Tagged] gives tags to other values.
//
// # Batches
//
// A [Batch] collects operations on any objects and calls of cached functions,
// and sends their commands together. A [Promise] returns each result.
//
// # Near values
//
// Options.Near keeps values, decoded, in this process after they are read,
// until the server reports that they have changed; see [Near].
//
// # Observability
//
// [Conn.Stats] returns counts for each type and shard. [Hooks] observe each
// call; [LogHooks] writes to log/slog.
//
// # Misses and errors
//
// [ErrMiss] reports that there is no value. Any other error is a fault, and a
// fault is never reported as a miss: it is [ErrUnavailable] if nothing was run,
// [ErrUnknownOutcome] if a command may have run, or a *[ServerError] if the
// server replied with an error. GetOr returns a default on a miss. [Cached]
// functions return a result even if the server is unavailable.
//
// Every error of an object's operation is an *[OpError], which names the
// operation and the key, or a *[KeysError] if the operation is on many keys.
//
// # Time to live
//
// The time to live of a type is Options.TTL, or else that of the connection, or
// else unlimited. [TTLPolicy] says when it restarts. A write that can create a
// key sets its expiry in the same command, script or transaction, so a crash
// cannot leave a key that never expires. A failed write leaves the key
// unchanged.
//
// # Keys
//
// A key is the prefix followed by the parts given to Key, joined by dots. A dot
// inside a part is escaped, so that different parts always make different keys,
// and user input can neither name another user's entry nor choose a shard or
// slot. [HashTag] keeps related keys on one shard. [RawKey] is used unescaped.
//
// # Testing
//
// Most tests need only caches.Configure("locmem://") in TestMain. A test with
// its own connection passes it by [WithConn] or On. Package testutil starts
// real Redis servers, breaks connections, and has a conformance suite for
// stores.
package caches
