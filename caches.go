package caches

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gocaches/caches/internal/snapshot"
)

// A Registry is a set of named connections. The zero Registry is empty and
// ready to use. It is safe for concurrent use. Objects look up their
// connection at every operation, which takes some 20 ns and no lock.
type Registry struct {
	entries snapshot.Of[map[string]entry]
}

// An entry is the connection of a name, or the error in its place.
type entry struct {
	conn *Conn
	err  error
}

// The default registry. It is not made at import: the environment is read when
// an object first looks up its connection.
var standard struct {
	atomic.Pointer[Registry]
	mu sync.Mutex // held while it is made, so that it is made once
}

// Default returns the registry in which objects look up their connections: the
// one passed to [SetDefault], or else FromEnv(nil), which is made on first use.
func Default() *Registry {
	if r := standard.Load(); r != nil {
		return r
	}
	standard.mu.Lock()
	defer standard.mu.Unlock()
	if r := standard.Load(); r != nil {
		return r
	}
	r := FromEnv(nil)
	standard.Store(r)
	return r
}

// SetDefault makes r the default registry. If r is nil, the next call of
// [Default] reads the environment again. The previous default registry stays
// open.
func SetDefault(r *Registry) {
	standard.mu.Lock()
	defer standard.mu.Unlock()
	standard.Store(r)
}

// FromEnv returns a registry of the connections configured by environ, a list
// of "NAME=value" strings such as [os.Environ] returns. Nil means the
// environment of this process.
//
// CACHES_DSN and every CACHES_DSN_<suffix> hold a [DSN]. The name of its
// connection is the DSN's fragment, or else the suffix in lower case
// (CACHES_DSN_SESSIONS is "sessions"), or "", the default connection, if there
// is no suffix or it is a number (CACHES_DSN_2). DSNs with the same name are
// the shards of one connection. An empty variable counts as not set. If a
// variable occurs twice, the last value is used.
//
// CACHES_TTL, CACHES_PREFIX, CACHES_VERSION, CACHES_TIMEOUT,
// CACHES_CONNECT_TIMEOUT and CACHES_CONNS are defaults for the DSN options of
// the same names.
//
// FromEnv does not dial or fail. If a DSN is invalid, [Registry.Connection]
// returns its error for that connection, and the others work. Call
// [Registry.Ping] to check all of them when the program starts.
func FromEnv(environ []string) *Registry {
	if environ == nil {
		return fromVariables(variables(os.Environ()), processSettings())
	}
	vars := variables(environ)
	return fromVariables(vars, environSettings(vars))
}

// fromVariables opens all connections now, not at their first use: opening does
// not dial, and Ping can report every invalid DSN when the program starts.
func fromVariables(vars map[string]string, defaults settings) *Registry {
	entries := make(map[string]entry)
	for name, g := range groupSources(envSources(vars)) {
		conn, err := g.open(ConnOptions{Name: name}, defaults)
		entries[name] = entry{conn, err}
	}
	r := &Registry{}
	r.replace(entries)
	return r
}

// NewRegistry returns a registry of the connections that dsns describe. DSNs
// with the same name are the shards of one connection. NewRegistry does not
// dial or read the environment. Its error joins the errors of all invalid DSNs.
func NewRegistry(dsns ...string) (*Registry, error) {
	r := &Registry{}
	if err := r.Configure(dsns...); err != nil {
		return nil, err
	}
	return r, nil
}

// Configure adds the connections that dsns describe. It replaces and closes
// connections with the same names, and keeps all others. If it returns an
// error, nothing has changed.
func (r *Registry) Configure(dsns ...string) error {
	opened := make(map[string]entry)
	var errs []error
	for name, g := range groupSources(codeSources(dsns)) {
		conn, err := g.open(ConnOptions{Name: name}, settings{})
		opened[name] = entry{conn: conn}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		closeAll(opened)
		return err
	}
	closeAll(r.replace(opened))
	return nil
}

// replace sets entries and returns the replaced entries whose connections have
// no name left: a connection may have several names.
func (r *Registry) replace(entries map[string]entry) (unused map[string]entry) {
	r.change(func(all map[string]entry) {
		unused = maps.Clone(all)
		maps.Copy(all, entries)
		used := slices.Collect(maps.Values(all))
		maps.DeleteFunc(unused, func(_ string, e entry) bool {
			return slices.ContainsFunc(used, func(u entry) bool { return u.conn == e.conn })
		})
	})
	return unused
}

// change changes a copy of the entries and replaces them with it.
func (r *Registry) change(change func(all map[string]entry)) {
	r.entries.Replace(func(current map[string]entry) map[string]entry {
		next := maps.Clone(current)
		if next == nil {
			next = make(map[string]entry)
		}
		change(next)
		return next
	})
}

// closeAll closes connections that are no longer used. It ignores errors, since
// closing a connection loses no data.
func closeAll(entries map[string]entry) {
	for _, e := range entries {
		if e.conn != nil {
			_ = e.conn.Close()
		}
	}
}

// Connection returns the connection with the given name; "" is the default one.
// The error is that of an invalid DSN, or [ErrNoConnection] with a message that
// names the variable to set.
func (r *Registry) Connection(name string) (*Conn, error) {
	e, ok := r.entries.Load()[name]
	if !ok {
		return nil, r.missing(name)
	}
	return e.conn, e.err
}

// SetConnection gives a name to c, or removes the name if c is nil. The
// connection that had the name stays open, so that a test can restore it.
func (r *Registry) SetConnection(name string, c *Conn) {
	r.change(func(all map[string]entry) {
		if all[name] = (entry{conn: c}); c == nil {
			delete(all, name)
		}
	})
}

// missing returns the error for an unconfigured name. It names the variable to
// set.
func (r *Registry) missing(name string) error {
	var set, others string
	switch {
	case name == "":
		set = "CACHES_DSN"
	case allIn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") && !allIn(name, digits):
		set = "CACHES_DSN_" + strings.ToUpper(name)
	default: // no variable can have that name
		set = "CACHES_DSN_1, or any other number, to a DSN that ends in #" + name + ","
	}
	if names := r.Names(); len(names) > 0 {
		others = "; there are: " + quoteAll(names)
	}
	return fmt.Errorf("%w %s: set %s or call Configure%s", ErrNoConnection, title(name), set, others)
}

// Names returns the sorted names of all connections, including any with an
// invalid DSN.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.entries.Load())) }

// Ping sends PING to every shard of every connection, all at once. Its error
// joins the errors of all shards that failed, each with the names of its
// connection and shard, and of all invalid DSNs.
func (r *Registry) Ping(ctx context.Context) error {
	return r.each(func(e entry) error {
		if e.err != nil {
			return e.err
		}
		return e.conn.Ping(ctx)
	})
}

// Close closes all connections, including connections added by SetConnection.
// They keep their names, and operations on them fail with [ErrUnavailable].
func (r *Registry) Close() error {
	return r.each(func(e entry) error {
		if e.conn == nil {
			return nil
		}
		return e.conn.Close()
	})
}

// each calls f for all entries at once and joins the errors, sorted by name.
func (r *Registry) each(f func(entry) error) error {
	entries := r.entries.Load() // read once, so that every name has its entry
	names := slices.Sorted(maps.Keys(entries))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if err := f(entries[name]); err != nil {
				errs[i] = fmt.Errorf("connection %s: %w", title(name), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// String returns the names of the connections.
func (r *Registry) String() string { return "caches.Registry(" + quoteAll(r.Names()) + ")" }

// GoString returns the same as String.
func (r *Registry) GoString() string { return r.String() }

// LogValue implements [slog.LogValuer]. It returns the names.
func (r *Registry) LogValue() slog.Value { return slog.AnyValue(r.Names()) }

// Configure calls [Registry.Configure] on the default registry.
func Configure(dsns ...string) error { return Default().Configure(dsns...) }

// Connection calls [Registry.Connection] on the default registry.
func Connection(name string) (*Conn, error) { return Default().Connection(name) }

// Ping calls [Registry.Ping] on the default registry.
func Ping(ctx context.Context) error { return Default().Ping(ctx) }

// Close calls [Registry.Close] on the default registry.
func Close() error { return Default().Close() }

// connKey is the context key of a *Conn.
type connKey struct{}

// WithConn returns a context in which operations use c instead of the
// connection that their objects name, unless On pins the objects to another. A
// nil c cancels an outer WithConn.
func WithConn(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// resolve returns the connection of an operation: pinned, or else that of the
// context, or else the one with the given name in the default registry.
func resolve(ctx context.Context, pinned *Conn, name string) (*Conn, error) {
	if pinned != nil {
		return pinned, nil
	}
	if c, _ := ctx.Value(connKey{}).(*Conn); c != nil {
		return c, nil
	}
	return Default().Connection(name)
}
