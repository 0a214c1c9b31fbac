package main

import (
	"context"
	"fmt"
	"sync/atomic"
)

var cachedOps = []string{"hit", "miss"}

// cached sets a Cached function beside other caches in front of a function: what
// a call costs whose result Redis holds, and one whose result nobody holds. The
// function takes no time, so all of it is the cache's.
func cached(b bench) error {
	p, err := newProbe(b.addr)
	if err != nil {
		return err
	}
	defer p.close()
	for _, name := range chosen(b.ops, cachedOps...) { // hits are of keys that no miss has
		run := cachedHit
		if name == "miss" {
			run = cachedMiss
		}
		if err := run(b, p); err != nil {
			return err
		}
	}
	return nil
}

// cachedHit asks for results that are on the server. No function may run.
func cachedHit(b bench, p *probe) error {
	all, closeAll, err := openLoaders(b.addr, p, fromServer, b.loaderPeersOf(loaderNames()...))
	if err != nil {
		return err
	}
	defer closeAll()
	for _, c := range all {
		if err := warmUp(c.loader, p, keys); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, g := range b.callersOr(1, 64) {
		l := newLoad(g, b.cancel)
		var contenders []contender
		for _, c := range all {
			contenders = append(contenders, c.watch.contender(l, c.name, func(ctx context.Context, n int) error {
				return c.ask(ctx, scatter(n))
			}))
		}
		if err := b.compare("cached", fmt.Sprintf("hit g=%d", g), contenders); err != nil {
			return err
		}
	}
	return nil
}

// scatter returns the n-th of the ids that are asked for in turn: neighbours in
// time are none in memory.
func scatter(n int) int { return n * 7919 % keys }

// warmUp has the first n results stored, none of which was.
func warmUp(l loader, p *probe, n int) error {
	before, err := p.keys()
	if err != nil {
		return err
	}
	if err := each(n, func(id int) error {
		u, err := l.get(context.Background(), id)
		return sameUser(u, id, err)
	}); err != nil {
		return err
	}
	missing, err := p.await(before + n)
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d results were not stored", missing)
	}
	return err
}

// cachedMiss asks for each result once, so that each is computed and stored. All
// of them stay until the end of the lane.
func cachedMiss(b bench, p *probe) error {
	all, closeAll, err := openLoaders(b.addr, p, asComes, b.loaderPeersOf(loaderNames()...))
	if err != nil {
		return err
	}
	defer closeAll()
	var ids atomic.Int64 // never the same twice
	ids.Store(keys)      // nor one of those that are hit
	for _, g := range b.callersOr(1, 64) {
		l := newLoad(g, b.cancel)
		var contenders []contender
		for _, c := range all {
			c.watch.promise, c.watch.cold, c.watch.stores = 1, true, true
			contenders = append(contenders, c.watch.contender(l, c.name, func(ctx context.Context, _ int) error {
				return c.ask(ctx, int(ids.Add(1)))
			}))
		}
		if err := b.compare("cached", fmt.Sprintf("miss g=%d", g), contenders); err != nil {
			return err
		}
	}
	return nil
}
