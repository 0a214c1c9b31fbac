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
)

// A Registry is a set of connections by name. The zero Registry is empty and
// ready to use. It is safe for concurrent use; objects look their connection up
// at every operation, in some 20 ns and without a lock.
type Registry struct {
	mu sync.Mutex // held by writers
	// entries is replaced whole, never changed: readers take no lock.
	entries atomic.Pointer[map[string]entry]
}

// An entry is what a name stands for: a connection, or why there is none.
type entry struct {
	conn *Conn
	err  error
}

// The default registry. It is not made at import: the environment is read when
// the first object asks for its connection.
var (
	standard   atomic.Pointer[Registry]
	standardMu sync.Mutex // held while standard is made, so that it is made once
)

// Default returns the registry of objects that are not pinned to a connection:
// the one given to [SetDefault], else FromEnv(nil), read once, now if need be.
func Default() *Registry {
	if r := standard.Load(); r != nil {
		return r
	}
	standardMu.Lock()
	defer standardMu.Unlock()
	if r := standard.Load(); r != nil {
		return r
	}
	r := FromEnv(nil)
	standard.Store(r)
	return r
}

// SetDefault makes r the default registry. Nil has the environment read anew
// when the default is next asked for. The registry that r replaces stays open.
func SetDefault(r *Registry) {
	standardMu.Lock()
	defer standardMu.Unlock()
	standard.Store(r)
}

// FromEnv returns a registry of the connections in environ, "NAME=value" each,
// as [os.Environ] has them. Nil means the environment of this process.
//
// CACHES_DSN and every CACHES_DSN_<suffix> is a [DSN]. Its connection is named
// by the DSN's fragment, else by the suffix in lower case (CACHES_DSN_SESSIONS
// is "sessions") unless that is a number (CACHES_DSN_2), else it is the default
// one, "". DSNs of one name are the shards of one connection. An empty value is
// none; of a name that is there twice the last counts.
//
// CACHES_TTL, CACHES_PREFIX, CACHES_VERSION, CACHES_TIMEOUT,
// CACHES_CONNECT_TIMEOUT and CACHES_CONNS stand in for the options of the same
// names where a connection's DSNs leave them out.
//
// FromEnv dials nothing and does not fail: a connection whose DSN is wrong has
// the error for whoever asks for it, and the others work. A program that wants
// to know at its start calls [Registry.Ping].
func FromEnv(environ []string) *Registry {
	if environ == nil {
		return fromVariables(variables(os.Environ()), processSettings())
	}
	vars := variables(environ)
	return fromVariables(vars, environSettings(vars))
}

// fromVariables opens what there is now, rather than at the first use of a name:
// opening dials nothing, and a wrong DSN is then in Ping's report at the start.
func fromVariables(vars map[string]string, defaults settings) *Registry {
	entries := make(map[string]entry)
	for name, g := range groupSources(envSources(vars)) {
		conn, err := g.open(ConnOptions{Name: name}, defaults)
		entries[name] = entry{conn, err}
	}
	r := &Registry{}
	r.entries.Store(&entries)
	return r
}

// NewRegistry returns a registry of the connections that dsns describe: DSNs of
// one name are the shards of one connection. It dials nothing and reads no
// environment. Its error joins those of all DSNs that are wrong.
func NewRegistry(dsns ...string) (*Registry, error) {
	r := &Registry{}
	if err := r.Configure(dsns...); err != nil {
		return nil, err
	}
	return r, nil
}

// Configure configures the connections that dsns describe, in place of those
// that had the same names, which it closes. Connections of other names stay. On
// an error nothing has changed.
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

// replace puts entries in place of those of the same names and returns those
// that are then in use no more. A connection may have several names.
func (r *Registry) replace(entries map[string]entry) (unused map[string]entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all()
	next := maps.Clone(all)
	if next == nil {
		next = make(map[string]entry)
	}
	maps.Copy(next, entries)
	r.entries.Store(&next)
	used := slices.Collect(maps.Values(next))
	unused = maps.Clone(all)
	maps.DeleteFunc(unused, func(_ string, e entry) bool {
		return slices.ContainsFunc(used, func(u entry) bool { return u.conn == e.conn })
	})
	return unused
}

// all returns the entries of this moment, which nobody changes; nil while there
// is none.
func (r *Registry) all() map[string]entry {
	if p := r.entries.Load(); p != nil {
		return *p
	}
	return nil
}

// closeAll closes connections that nobody will use. Closing gives nothing back
// that could be lost, so that its errors are of no use to the caller.
func closeAll(entries map[string]entry) {
	for _, e := range entries {
		if e.conn != nil {
			_ = e.conn.Close()
		}
	}
}

// Connection returns the connection of a name; "" is the default one. Its error
// says what is wrong with the connection's DSN, or is [ErrNoConnection], which
// names the variable to set.
func (r *Registry) Connection(name string) (*Conn, error) {
	e, ok := r.all()[name]
	if !ok {
		return nil, r.missing(name)
	}
	return e.conn, e.err
}

// SetConnection makes c the connection of a name. Nil takes the name away. The
// connection that had the name stays open, so that a test can put it back.
func (r *Registry) SetConnection(name string, c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.all())
	if next == nil {
		next = make(map[string]entry)
	}
	if next[name] = (entry{conn: c}); c == nil {
		delete(next, name)
	}
	r.entries.Store(&next)
}

// missing says what to do about a name that nothing configures. The variable is
// spelled out, since that is where most look first.
func (r *Registry) missing(name string) error {
	var set, others string
	switch {
	case name == "":
		set = "CACHES_DSN"
	case allIn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") && !allIn(name, digits):
		set = "CACHES_DSN_" + strings.ToUpper(name)
	default: // no variable can be called that
		set = "CACHES_DSN_1, or any other number, to a DSN that ends in #" + name + ","
	}
	if names := r.Names(); len(names) > 0 {
		others = "; there are: " + quoteAll(names)
	}
	return fmt.Errorf("%w %s: set %s or call Configure%s", ErrNoConnection, title(name), set, others)
}

// Names returns the names of all connections in order, also of those whose DSN
// is wrong.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.all())) }

// Ping asks every shard of every connection for an answer (PING), all at once.
// Its error joins those of all that gave none, each with the name of its
// connection and shard, and those of DSNs that are wrong.
func (r *Registry) Ping(ctx context.Context) error {
	return r.each(func(e entry) error {
		if e.err != nil {
			return e.err
		}
		return e.conn.Ping(ctx)
	})
}

// Close closes all connections, also those that were set. They keep their
// names, and operations on them fail with [ErrUnavailable].
func (r *Registry) Close() error {
	return r.each(func(e entry) error {
		if e.conn == nil {
			return nil
		}
		return e.conn.Close()
	})
}

// each calls f for all entries at once and joins the errors in the order of
// the names.
func (r *Registry) each(f func(entry) error) error {
	entries := r.all() // once: a name that came since has no entry here
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

// GoString returns String.
func (r *Registry) GoString() string { return r.String() }

// LogValue returns the names to package log/slog.
func (r *Registry) LogValue() slog.Value { return slog.AnyValue(r.Names()) }

// Configure is [Registry.Configure] on the default registry.
func Configure(dsns ...string) error { return Default().Configure(dsns...) }

// Connection is [Registry.Connection] on the default registry.
func Connection(name string) (*Conn, error) { return Default().Connection(name) }

// SetConnection is [Registry.SetConnection] on the default registry.
func SetConnection(name string, c *Conn) { Default().SetConnection(name, c) }

// Names is [Registry.Names] on the default registry.
func Names() []string { return Default().Names() }

// Ping is [Registry.Ping] on the default registry.
func Ping(ctx context.Context) error { return Default().Ping(ctx) }

// Close is [Registry.Close] on the default registry.
func Close() error { return Default().Close() }

// connKey is the key of a Conn in a context.
type connKey struct{}

// WithConn returns a context under which operations go to c, whatever
// connection their objects name, unless they are pinned to one. Nil takes an
// outer c back.
func WithConn(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// resolve finds the connection of an operation: pinned, else the context's,
// else the default registry's of that name.
func resolve(ctx context.Context, pinned *Conn, name string) (*Conn, error) {
	if pinned != nil {
		return pinned, nil
	}
	if c, _ := ctx.Value(connKey{}).(*Conn); c != nil {
		return c, nil
	}
	return Default().Connection(name)
}
