// Package caches is a set of typed cache objects that feel like Go's own data
// structures and live in Redis: a value ([Cache]), a counter ([CounterCache]), a
// dict ([DictCache]), a set ([SetCache]), a sorted set ([SortedSetCache]), a gate
// for one-time work ([SentinelCache]), and functions that remember their results
// ([Cached]).
//
// # Objects
//
// A type of object is a value, usually in a package-level variable. Key makes
// the object at a key, and the operations are on that object:
//
//	var profiles = caches.Cache[Profile]{Prefix: "profile", TTL: time.Hour}
//
//	err := profiles.Key(42).Set(ctx, Profile{Name: "Ada"}) // at profile.42
//	p, err := profiles.Key(42).Get(ctx)
//
// Types and objects are descriptions, not connections: making one reads nothing,
// touches no server and cannot fail. They are immutable, cheap to copy, safe for
// concurrent use, and hold nothing of what is stored. An object of one's own is a
// struct that embeds one, and [Bind] makes a struct of many objects under one
// key. [GetMany], [SetMany] and [DeleteMany] work on many values in one round
// trip per shard.
//
// # Connections
//
// Connections configure themselves from the environment, on first use: CACHES_DSN
// is the default one, CACHES_DSN_SESSIONS the one named "sessions", and several
// DSNs of one name (CACHES_DSN_1, CACHES_DSN_2, …) are shards of one connection.
// [DSN] has the grammar. In code they come from [Configure], [Open], [OpenPool] and [NewConn];
// Options.Connection names the connection of a type, On pins an object to one,
// and [WithConn] all objects of a context. Opening never dials. Without any
// configuration, operations return [ErrNoConnection]; there is no silent
// localhost.
//
// Several servers are one connection as shards, as a Redis Cluster
// ("redis+cluster://") or as a master that Sentinels name ("redis+sentinel://"). A
// connection that names the shards of before a change of them finds what is
// still there.
//
// "locmem://" is a store in this process: development and tests need no server.
// "dummy://" stores nothing, which turns caching off.
//
// # Functions that remember
//
// [Cached] makes a function remember its results: computed once however many
// callers in however many processes miss one, invalidated by argument, by tag
// ([InvalidateTags]) or all together, refreshed before they expire, and answered
// by the function itself while the server cannot be asked. A result that was
// invalidated while it was computed is not kept. [Cache.Tagged] gives tags to
// values of one's own.
//
// # Batches
//
// A [Batch] collects operations of any objects, and calls of cached functions;
// they travel together, and each gives its result to a [Promise].
//
// # Near values
//
// Options.Near keeps what was read in this process, decoded, until the server
// says that it has changed; see [Near].
//
// # What is going on
//
// [Conn.Stats] has counts of each type and shard. [Hooks] hear of each call;
// [LogHooks] writes to log/slog.
//
// # Misses and errors
//
// [ErrMiss] is the answer that there is nothing. Any other error is a fault, and a
// fault is never disguised as a miss: [ErrUnavailable] when nothing was run,
// [ErrUnknownOutcome] when it is not known, *[ServerError] when the server
// refused. GetOr has a default for a miss, [Cached] answers even when the server
// does not. Every error of an object's operation is an *[OpError] that
// names the operation and the key; of an operation on many keys, a *[KeysError].
//
// # Time to live
//
// Every type has one: Options.TTL, else the connection's, else none. [TTLPolicy]
// says when it starts again. A write that can create a key carries its expiry in
// the same command, script or transaction, so that no crash leaves a key that
// lives for ever, and a write that fails leaves the key as it was.
//
// # Keys
//
// A key is the prefix and the parts given to Key, joined by dots. The join is
// injective: a dot inside a part is escaped, so the text of a user can never name
// somebody else's entry, nor choose a shard or slot. [HashTag] keeps related keys
// together, [RawKey] passes a ready-made key through.
//
// # Testing
//
// caches.Configure("locmem://") in TestMain is all that most tests need; a test
// of its own connection opens one and passes it by [WithConn] or On. Package
// testutil starts real Redis servers, breaks connections, and has the conformance
// suite for stores of one's own.
package caches
