package caches

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/route"
)

// A shard is one store of a connection, with its name for the router.
type shard struct {
	name  string
	store driver.Store
}

// The shards of a connection are in byte order of their names, the order in which a
// Router counts them.
type shards []shard

// names returns a new slice of the names.
func (all shards) names() []string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.name
	}
	return names
}

// named returns the index of a shard, or -1.
func (all shards) named(name string) int {
	return slices.IndexFunc(all, func(s shard) bool { return s.name == name })
}

// route returns the routing function of r, or of CRC32 if r is nil.
func (all shards) route(r Router) func(front, key string) int {
	names := all.names()
	if r == nil {
		r = CRC32
	}
	if r, ok := r.(routing); ok {
		return r.route(names)
	}
	find := r.Route(names)
	return func(front, key string) int {
		a, b := route.Text(front, key)
		return find(a + b)
	}
}

// sort sorts shards by name in byte order. It refuses two with the same name.
func (all shards) sort() error {
	slices.SortFunc(all, func(a, b shard) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(all); i++ {
		if all[i].name == all[i-1].name {
			return fmt.Errorf("caches: two shards are named %q: name them apart with ?node=", all[i].name)
		}
	}
	return nil
}

// do runs ps[i] on shard i; see [Conn.doEach]. It starts all Starters, runs the
// other stores, each but the first on its own goroutine, and then waits for the
// Starters.
func (all shards) do(ctx context.Context, ps []*driver.Pipeline) []error {
	errs, asked := make([]error, len(ps)), 0
	for _, p := range ps {
		if p != nil {
			asked++
		}
	}
	var started []driver.Pending // nil for one shard
	if asked > 1 {
		started = make([]driver.Pending, len(ps))
		for i, p := range ps {
			if s, ok := all[i].store.(driver.Starter); ok && p != nil {
				started[i] = s.Start(ctx, p)
			}
		}
	}
	all.each(func(i int) bool { return i < len(ps) && ps[i] != nil && (started == nil || started[i] == nil) }, func(i int) {
		errs[i] = all[i].store.Do(ctx, ps[i])
	})
	for i, s := range started {
		if s != nil {
			errs[i] = s.Finish()
		}
	}
	if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return errs
	}
	return nil
}

// each calls f for each wanted shard, all at once, and returns when all are done.
// The first runs on the caller's goroutine, so a call for one shard starts no
// goroutine. If f panics, so does each.
func (all shards) each(wanted func(i int) bool, f func(i int)) {
	first := -1
	var others struct {
		sync.WaitGroup
		once sync.Once
		fell any // the value of the first panic
	}
	for i := range all {
		switch {
		case !wanted(i):
		case first < 0:
			first = i
		default:
			others.Go(func() {
				defer func() {
					if r := recover(); r != nil { // from a user's Store; only the caller of each can handle it
						others.once.Do(func() { others.fell = r })
					}
				}()
				f(i)
			})
		}
	}
	func() {
		defer others.Wait() // even if f panics: the caller then frees pipelines that the others use
		if first >= 0 {
			f(first)
		}
	}()
	if others.fell != nil {
		panic(others.fell)
	}
}

// every calls f for all shards at once and joins the errors in the order of the
// shards, each with the name of its shard.
func (all shards) every(f func(shard int) error) error {
	errs := make([]error, len(all))
	all.each(func(int) bool { return true }, func(i int) {
		if err := f(i); err != nil {
			errs[i] = fmt.Errorf("shard %s: %w", all[i].name, err)
		}
	})
	return errors.Join(errs...)
}

// close closes the stores of shards that no connection uses: nothing has been
// written, and there is no error to report.
func (all shards) close() {
	for _, s := range all {
		_ = s.store.Close()
	}
}

// unlink removes a key from the shard, even if it is routed to another (UNLINK).
func (s shard) unlink(ctx context.Context, key string) error {
	p := driver.NewPipeline(driver.Repeatable)
	defer p.Free()
	p.CmdKey("UNLINK", "", key)
	if err := s.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().Err()
}

// simple runs a command without arguments, whose reply is a status.
func (s shard) simple(ctx context.Context, mode driver.Mode, name string) error {
	p := driver.NewPipeline(mode)
	defer p.Free()
	p.Cmd(name)
	if err := s.store.Do(ctx, p); err != nil {
		return err
	}
	return p.Next().OK()
}

// chunk is the maximum number of keys in one command of an operation on many
// keys: a server runs nothing else during a command.
const chunk = 1000
