package caches

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/move"
)

// A previousRing is the shards among which keys were divided before: a connection
// that names them (the option "previous") finds the keys that are still there, and
// moves each when a command names it; see package move.
type previousRing struct {
	*move.Mover
	shards shards // in the order of the router
	gone   shards // of shards, without the connection's own
}

// A previousShard is a shard by its name in the previous ring.
type previousShard struct {
	shard
	same int // its index among the connection's shards, -1 if it is none of them
}

// newPreviousRing returns the ring of all, for a connection over current whose keys
// begin with prefix; nil if all is empty.
func newPreviousRing(all []previousShard, current shards, prefix string, o ConnOptions) (*previousRing, error) {
	if len(all) == 0 {
		return nil, nil
	}
	slices.SortFunc(all, func(a, b previousShard) int { return strings.Compare(a.name, b.name) })
	ring, same := &previousRing{}, make([]int, len(all))
	for i, s := range all {
		if i > 0 && s.name == all[i-1].name {
			return nil, fmt.Errorf("caches: previous: %q is named twice", s.name)
		}
		ring.shards, same[i] = append(ring.shards, s.shard), s.same
		if s.same < 0 {
			ring.gone = append(ring.gone, s.shard)
		}
	}
	on := func(all shards) func(context.Context, []*driver.Pipeline) []error {
		return func(ctx context.Context, ps []*driver.Pipeline) []error { return all.do(ctx, ps) }
	}
	config := move.Config{
		Previous: on(ring.shards), Current: on(current), Shards: len(current), Same: same,
		Layout: layout.Moving{Prefix: prefix}, Unanswered: unanswered,
	}
	if len(all) > 1 {
		r := o.PreviousRouter
		if r == nil {
			r = o.Router
		}
		route := ring.shards.route(r)
		config.Route = func(key string) int { return route("", key) }
	}
	ring.Mover = move.New(config)
	return ring, nil
}

// others returns the shards that are only in the previous ring.
func (r *previousRing) others() shards {
	if r == nil {
		return nil
	}
	return r.gone
}

// forget removes the stamp of a namespace from all previous shards. It must be
// called before the stamps of the current shards are removed: an entry that moves
// meanwhile has been given one of these.
func (r *previousRing) forget(ctx context.Context, key string) error {
	if r == nil {
		return nil
	}
	return r.shards.every(func(i int) error { return r.shards[i].unlink(ctx, key) })
}
