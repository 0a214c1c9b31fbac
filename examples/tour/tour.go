package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gocaches/caches"
)

// The objects. Each variable is a type of cache object: how its keys begin and
// how long its entries live. None is connected to anything, so they can be
// package variables; every operation looks the connection up.
var (
	// The gate of the indexing lets one tour in, and then none for a day. A
	// tour that dies inside holds it for its lease, ten seconds.
	gate = caches.SentinelCache{Version: runtime.Version(), Prefix: "tour.gate", TTL: day, Lease: 10 * time.Second}

	// What is known of the index as a whole: one value.
	index = caches.Cache[Index](options("index", 2*day))

	// What go list says of each package: a value under each import path, here
	// a struct, as JSON.
	packages = caches.Cache[Package](options("package", 2*day))

	// The imports of each package: a set under each import path.
	imports = caches.SetCache[string](options("imports", 2*day))

	// All packages, ranked by how many others import them: one sorted set.
	ranking = caches.SortedSetCache[string](options("ranking", 2*day))

	// A sentence about each package: one dict from import paths to sentences.
	synopses = caches.DictCache[string, string](options("synopses", 2*day))

	// How often each package was asked for: a counter under each import path.
	// Its day begins with the first question; further ones do not prolong it.
	queries = caches.CounterCache[int64](fromCreation(options("queries", day)))

	// The packages that were asked for last, the newest first: one list.
	recent = caches.ListCache[string](options("recent", day))

	// goDoc, remembered: Get runs it only where its result is not among apis.
	apis     = caches.Cache[API](options("api", 2*day))
	describe = caches.Cached(apis, goDoc, &caches.CachedOptions[string, API]{Name: "go-doc"})
)

// The index outlives the gate: while the gate is shut, what it stands for is
// there. The other way round, tours would find the gate shut and no index.
const day = 24 * time.Hour

// options are what the objects have in common. The version stands in front of
// every key: tours of another Go see entries of their own.
func options(name string, ttl time.Duration) caches.Options {
	return caches.Options{Version: runtime.Version(), Prefix: "tour." + name, TTL: ttl}
}

func fromCreation(o caches.Options) caches.Options {
	o.TTLPolicy = caches.FromCreation
	return o
}

// Index is the record of one indexing.
type Index struct {
	Packages, Imports int

	At   time.Time
	Took time.Duration // go list, and storing what it says
}

// makeIndex asks go list for all packages and stores what it says. Should it
// fail on its way, the gate opens again and the next tour begins anew.
func makeIndex(ctx context.Context) error {
	made := Index{At: time.Now()}
	all, err := goList(ctx)
	if err != nil {
		return err
	}
	records := make(map[string]Package, len(all))
	sentences := make(map[string]string, len(all))
	importers := make(map[string]float64, len(all))
	for _, p := range all {
		records[p.ImportPath] = p
		sentences[p.ImportPath] = p.Synopsis()
		importers[p.ImportPath] += 0 // also where nobody imports it
		for _, path := range p.Imports {
			importers[path]++
		}
		made.Imports += len(p.Imports)
		if _, err := imports.Key(p.ImportPath).Add(ctx, p.Imports...); err != nil {
			return err
		}
	}
	delete(importers, "C") // is cgo, not a package

	// Many values, or many elements of an object, are one call and one trip.
	if err := caches.SetMany(ctx, packages, records); err != nil {
		return err
	}
	if err := synopses.Key().Update(ctx, sentences); err != nil {
		return err
	}
	if _, err := ranking.Key().Update(ctx, importers); err != nil {
		return err
	}
	// Last: whoever finds this record takes the index to be whole.
	made.Packages, made.Took = len(all), time.Since(made.At)
	return index.Key().Set(ctx, made)
}

// enter goes through the gate.
func enter(ctx context.Context) (ran bool, err error) { return gate.Key().Do(ctx, makeIndex) }

// indexed makes the index if there is none, and returns its record; mine says
// that this tour made it. However many start together, one does: the gate lets
// one in, and the others wait for its record. Should that one fail or die, the
// gate opens and lets in one of those who wait.
func indexed(ctx context.Context, waiting func()) (record Index, mine bool, err error) {
	patience := time.After(2 * time.Minute)
	for tries := 0; ; tries++ {
		if mine, err = enter(ctx); err != nil {
			return Index{}, mine, err
		}
		record, err = index.Key().Get(ctx)
		switch {
		case !errors.Is(err, caches.ErrMiss): // a miss is an answer, not a fault
			return record, mine, err
		case mine:
			return Index{}, mine, errors.New("the index is gone as soon as it is stored: this store keeps nothing")
		case tries == 0:
			waiting()
		}
		select {
		case <-ctx.Done():
			return Index{}, mine, context.Cause(ctx)
		case <-patience:
			return Index{}, mine, errors.New("the gate is shut and there is no index: try -fresh")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tour is the whole of it: the index, then each package.
func tour(ctx context.Context, p *page, conn *caches.Conn, local bool, paths []string) error {
	store := strings.Join(conn.Shards(), ", ")
	if local {
		store = "locmem://, the memory of this process (no CACHES_DSN is set)"
	}
	p.printf("The standard library of %s, kept in cache objects\nstore: %s\n", runtime.Version(), store)
	record := showIndex(ctx, p)
	if p.err != nil {
		return p.err
	}
	var unknown []string
	for _, path := range paths {
		known, err := packages.Key(path).Exists(ctx)
		if p.fail(err); !known {
			unknown = append(unknown, path)
			continue
		}
		show(ctx, p, path, record)
	}
	showEnd(ctx, p, local)
	if p.err == nil && unknown != nil {
		return fmt.Errorf("not in the standard library of %s: %s", runtime.Version(), strings.Join(unknown, ", "))
	}
	return p.err
}

// showIndex has the index made, or finds it, and shows what is known of it.
func showIndex(ctx context.Context, p *page) Index {
	p.block("the index")
	record, mine, err := indexed(ctx, func() {
		p.row("SentinelCache", "shut: waiting for a tour that is indexing", 0, 0)
	})
	p.fail(err)
	found := "shut: a tour indexed " + rough(time.Since(record.At)) + " ago"
	if mine {
		found = "open: this tour went in and ran go list"
	}
	ask(ctx, p, "SentinelCache", record.Took, enter, func(bool) string { return found })
	ask(ctx, p, "Cache", record.Took, index.Key().Get, func(r Index) string {
		return fmt.Sprintf("%d packages, %d imports", r.Packages, r.Imports)
	})
	ask(ctx, p, "SortedSetCache", record.Took, func(ctx context.Context) ([]caches.Scored[string], error) {
		return ranking.Key().RevRange(ctx, 0, 2) // the three highest scores
	}, func(top []caches.Scored[string]) string {
		var names []string
		for _, s := range top {
			names = append(names, fmt.Sprintf("%s %.0f", s.Member, s.Score))
		}
		return "most imported: " + strings.Join(names, ", ")
	})
	return record
}

// show looks one package up in every object. The first four answers come of the
// index: cold, each costs what it did.
func show(ctx context.Context, p *page, path string, from Index) {
	p.block(path)
	ask(ctx, p, "Cache", from.Took, packages.Key(path).Get, func(r Package) string {
		return fmt.Sprintf("%s, %s", count(len(r.GoFiles), "file"), count(len(r.Deps), "dep"))
	})
	ask(ctx, p, "SetCache", from.Took, imports.Key(path).Copy, func(set map[string]struct{}) string {
		names := strings.Join(slices.Sorted(maps.Keys(set)), ", ")
		return strings.TrimSuffix(count(len(set), "import")+": "+names, ": ")
	})
	ask(ctx, p, "SortedSetCache", from.Took, func(ctx context.Context) (int, error) {
		return ranking.Key().RevRank(ctx, path) // 0 is the highest score
	}, func(rank int) string {
		return fmt.Sprintf("rank %d of %d by importers", rank+1, from.Packages)
	})
	ask(ctx, p, "DictCache", from.Took, func(ctx context.Context) (string, error) {
		return synopses.Key().Get(ctx, path)
	}, func(sentence string) string { return sentence })
	if p.err != nil {
		return
	}
	start := time.Now()
	api, err := describe.Get(ctx, path)
	p.fail(err)
	ask(ctx, p, "Cached", api.Took, func(ctx context.Context) (API, error) {
		return describe.Get(ctx, path)
	}, func(api API) string {
		found := fmt.Sprintf("exports %s, %s", count(api.Types, "type"), count(api.Funcs, "func"))
		if api.At.Before(start) {
			found += " (" + rough(time.Since(api.At)) + " ago)"
		}
		return found
	})

	start = time.Now()
	_, err = recent.Key().PushCapped(ctx, 5, path) // adds, and keeps five
	p.fail(err)
	last, err := recent.Key().Copy(ctx)
	p.fail(err)
	p.row("ListCache", "asked last: "+strings.Join(last, ", "), 0, time.Since(start))

	start = time.Now()
	n, err := queries.Key(path).Incr(ctx, 1)
	p.fail(err)
	p.row("CounterCache", "asked "+count(int(n), "time")+" today", 0, time.Since(start))
}

// showEnd says what the times are, and what is left for the next run.
func showEnd(ctx context.Context, p *page, local bool) {
	p.printf("\ncold: go list or go doc, and storing what it says.  warm: asking the store.\n")
	if local {
		p.printf("On a Redis, the next run starts warm:\n" +
			"CACHES_DSN=redis://localhost:6379/0 go run ./examples/tour\n")
		return
	}
	left, err := gate.Key().ExpiresIn(ctx)
	p.fail(err)
	p.printf("Further runs find this index for %s; -fresh forgets it.\n", rough(left))
}

// forget removes what earlier runs have left. Clear removes all objects of a
// type. It walks all keys of the server, so it is for occasions like this one.
func forget(ctx context.Context) error {
	for _, clear := range []func(context.Context) (int, error){
		gate.Clear, index.Clear, packages.Clear, imports.Clear,
		ranking.Clear, synopses.Clear, queries.Clear, recent.Clear, apis.Clear,
	} {
		if _, err := clear(ctx); err != nil {
			return err
		}
	}
	return nil
}
