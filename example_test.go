package caches_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gocaches/caches"
)

type Profile struct {
	Name string
}

var profiles = caches.Cache[Profile]{Prefix: "profile", TTL: time.Hour}

func ExampleCache() {
	ctx := context.Background()
	ada := profiles.Key(42) // the object at profile.42

	_, err := ada.Get(ctx)
	fmt.Println(errors.Is(err, caches.ErrMiss))

	if err := ada.Set(ctx, Profile{Name: "Ada"}); err != nil {
		fmt.Println(err)
	}
	p, err := ada.Get(ctx)
	fmt.Println(p.Name, err)

	added, err := ada.Add(ctx, Profile{Name: "Grace"}) // only if absent
	fmt.Println(added, err)
	// Output:
	// true
	// Ada <nil>
	// false <nil>
}

func ExampleGetMany() {
	ctx := context.Background()
	squares := caches.Cache[int]{Prefix: "square"}
	if err := caches.SetMany(ctx, squares, map[int]int{1: 1, 2: 4, 3: 9}); err != nil {
		fmt.Println(err)
	}
	found, err := caches.GetMany(ctx, squares, []int{2, 3, 4})
	fmt.Println(found, err)
	// Output: map[2:4 3:9] <nil>
}

func ExampleCounterCache() {
	ctx := context.Background()
	visits := caches.CounterCache[int64]{
		Prefix: "visits", TTL: 24 * time.Hour, TTLPolicy: caches.FromCreation, // the window ends a day after it began
	}
	n, err := visits.Key("home").Incr(ctx, 10)
	fmt.Println(n, err)
	n, err = visits.Key("home").Decr(ctx, 3)
	fmt.Println(n, err)
	// Output:
	// 10 <nil>
	// 7 <nil>
}

func ExampleDictCache() {
	ctx := context.Background()
	prefs := caches.DictCache[string, string]{Prefix: "prefs"}
	d := prefs.Key(42)
	if err := d.Update(ctx, map[string]string{"theme": "dark", "lang": "en"}); err != nil {
		fmt.Println(err)
	}
	theme, err := d.GetOr(ctx, "theme", "light")
	fmt.Println(theme, err)

	all, end := d.All(ctx) // a page at a time
	for field, value := range maps.Collect(all) {
		_, _ = field, value
	}
	fmt.Println(end())
	n, err := d.Len(ctx)
	fmt.Println(n, err)
	// Output:
	// dark <nil>
	// <nil>
	// 2 <nil>
}

func ExampleSetCache() {
	ctx := context.Background()
	online := caches.SetCache[int]{Prefix: "online", TTL: time.Minute}
	eu, us := online.Key("eu"), online.Key("us")
	eu.Add(ctx, 1, 2, 3)
	us.Add(ctx, 3, 4)
	both, err := eu.Intersect(ctx, us) // wherever the two are stored
	fmt.Println(slices.Collect(maps.Keys(both)), err)
	// Output: [3] <nil>
}

func ExampleSortedSetCache() {
	ctx := context.Background()
	board := caches.SortedSetCache[string]{Prefix: "board"}.Key("today")
	board.Add(ctx, caches.Scored[string]{Score: 10, Member: "che"}, caches.Scored[string]{Score: 25, Member: "bar"})
	score, err := board.Incr(ctx, "che", 20)
	fmt.Println(score, err)
	top, err := board.RevRange(ctx, 0, 9)
	fmt.Println(top, err)
	low, err := board.PopMin(ctx)
	fmt.Println(low.Member, err)
	// Output:
	// 30 <nil>
	// [{30 che} {25 bar}] <nil>
	// bar <nil>
}

func ExampleListCache() {
	ctx := context.Background()
	feed := caches.ListCache[string]{Prefix: "feed", TTL: time.Hour}.Key("ada")
	for _, event := range []string{"joined", "posted", "liked", "posted again"} {
		if _, err := feed.PushCapped(ctx, 3, event); err != nil { // the three newest
			fmt.Println(err)
		}
	}
	newest, err := feed.Range(ctx, 0, 1)
	fmt.Printf("%q %v\n", newest, err)

	jobs := caches.ListCache[int]{Prefix: "jobs"}.Key("mail")
	jobs.PushBack(ctx, 1, 2, 3)
	job, err := jobs.PopFront(ctx)
	fmt.Println(job, err)
	all, end := jobs.All(ctx) // a page at a time
	for i, job := range all {
		fmt.Println(i, job)
	}
	fmt.Println(end())
	// Output:
	// ["posted again" "liked"] <nil>
	// 1 <nil>
	// 0 2
	// 1 3
	// <nil>
}

func ExampleSortedSet_AddIf() {
	ctx := context.Background()
	best := caches.SortedSetCache[string]{Prefix: "best"}.Key("level-1")
	best.Add(ctx, caches.Scored[string]{Score: 25, Member: "bar"})
	changed, err := best.AddIf(ctx, caches.IfGreater, caches.Scored[string]{Score: 20, Member: "bar"})
	fmt.Println(changed, err)
	// Output: 0 <nil>
}

func ExampleSentinelCache() {
	ctx := context.Background()
	welcome := caches.SentinelCache{Prefix: "welcome", TTL: 24 * time.Hour}
	for range 2 {
		first, err := welcome.Key("ada").Once(ctx)
		fmt.Println(first, err)
	}
	ran, err := welcome.Key("grace").Do(ctx, func(context.Context) error {
		fmt.Println("welcome, Grace")
		return nil
	})
	fmt.Println(ran, err)
	// Output:
	// true <nil>
	// false <nil>
	// welcome, Grace
	// true <nil>
}

var loadProfile = caches.Cached(profiles, func(ctx context.Context, id int) (Profile, error) {
	fmt.Println("loading", id)
	return Profile{Name: fmt.Sprint("user ", id)}, nil
}, &caches.CachedOptions[int, Profile]{
	Key: func(id int) []any { return []any{"by-id", id} },
})

func ExampleCached() {
	ctx := context.Background()
	for range 2 {
		p, err := loadProfile.Get(ctx, 7)
		fmt.Println(p.Name, err)
	}
	// Output:
	// loading 7
	// user 7 <nil>
	// user 7 <nil>
}

func ExampleInvalidateTags() {
	ctx := context.Background()
	price := 10
	quote := caches.Cached(caches.Cache[int]{Prefix: "quote"},
		func(_ context.Context, item string) (int, error) { return price, nil },
		&caches.CachedOptions[string, int]{
			Name: "price",
			Tags: func(item string) []string { return []string{"prices", "item:" + item} },
		})
	before, err := quote.Get(ctx, "tea")
	fmt.Println(before, err)
	price = 12
	remembered, err := quote.Get(ctx, "tea")
	fmt.Println(remembered, err)

	err = caches.InvalidateTags(ctx, "prices") // everything that depends on them, O(1)
	after, _ := quote.Get(ctx, "tea")
	fmt.Println(after, err)
	// Output:
	// 10 <nil>
	// 10 <nil>
	// 12 <nil>
}

func ExampleValue_Tagged() {
	ctx := context.Background()
	ada := profiles.Key("ada").Tagged("team:7")
	err := ada.Set(ctx, Profile{Name: "Ada"})
	p, _ := ada.Get(ctx)
	fmt.Println(p.Name, err)

	err = caches.InvalidateTags(ctx, "team:7")
	_, miss := ada.Get(ctx)
	fmt.Println(errors.Is(miss, caches.ErrMiss), err)
	// Output:
	// Ada <nil>
	// true <nil>
}

var errNoSuchUser = errors.New("no such user")

func ExampleNegative() {
	ctx := context.Background()
	find := caches.Cached(profiles, func(_ context.Context, id int) (Profile, error) {
		fmt.Println("looking for", id)
		return Profile{}, errNoSuchUser
	}, &caches.CachedOptions[int, Profile]{
		Name:     "find",
		Negative: caches.NegativeOptions{Errors: []error{errNoSuchUser}, TTL: time.Minute},
	})
	for range 2 {
		_, err := find.Get(ctx, 7)
		fmt.Println(err)
	}
	// Output:
	// looking for 7
	// no such user
	// no such user
}

func ExampleCachedFunc_GetMany() {
	ctx := context.Background()
	square := caches.Cached(caches.Cache[int]{Prefix: "squares"},
		func(_ context.Context, n int) (int, error) { return n * n, nil },
		&caches.CachedOptions[int, int]{Name: "square", Stale: time.Hour})
	found, err := square.GetMany(ctx, []int{1, 2, 3}) // one round trip per shard, only the missing are computed
	fmt.Println(found, err)
	fmt.Println(square.Invalidate(ctx, 2), square.InvalidateAll(ctx))
	// Output:
	// map[1:1 2:4 3:9] <nil>
	// <nil> <nil>
}

// An object of one's own is a struct with a cache object inside.
type Session struct {
	caches.Dict[string, string]
}

func (s Session) User(ctx context.Context) (string, error) { return s.Get(ctx, "user") }

func Example_embedding() {
	ctx := context.Background()
	sessions := caches.DictCache[string, string]{Prefix: "session", TTL: time.Hour}
	s := Session{sessions.Key("c0ffee")}
	s.Set(ctx, "user", "ada")
	user, err := s.User(ctx)
	fmt.Println(s.Object, user, err)
	// Output: session.c0ffee ada <nil>
}

type UserCaches struct {
	Profile caches.Value[Profile]    `caches:"profile,ttl=1h"`
	Roles   caches.Set[string]       `caches:"roles,ttl=24h"`
	Board   caches.SortedSet[string] `caches:"board"`
	Welcome caches.Sentinel          `caches:"welcome,ttl=720h"`
}

func ExampleBind() {
	u, err := caches.Bind[UserCaches]("user", 42)
	fmt.Println(u.Profile, err)
	fmt.Println(u.Roles)
	// Output:
	// user.42.profile <nil>
	// user.42.roles
}

func ExampleCompressed() {
	ctx := context.Background()
	pages := caches.Cache[string]{
		Prefix: "page", Serializer: caches.Compressed(caches.Raw, &caches.CompressOptions{MaxSize: 1 << 20}),
	}
	pages.Key("/").Set(ctx, "<html>")
	page, err := pages.Key("/").Get(ctx)
	fmt.Println(page, err)
	// Output: <html> <nil>
}

func ExampleHashTag() {
	room := caches.SetCache[string]{Prefix: "room"}
	fmt.Println(room.Key(caches.HashTag("eu"), "online"))
	fmt.Println(room.Key("{eu}", "online")) // what a user writes is no tag
	// Output:
	// room.{eu}.online
	// room.%7Beu%7D.online
}

func ExampleOpen() {
	conn, err := caches.Open("locmem://")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ctx := caches.WithConn(context.Background(), conn) // all objects used with ctx are on conn
	fmt.Println(profiles.Key(1).Set(ctx, Profile{Name: "Ada"}))
	// Output: <nil>
}

func ExampleWithConn() {
	tenant, err := caches.Open("locmem://")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tenant.Close()
	_, err = profiles.Key(42).Get(caches.WithConn(context.Background(), tenant))
	fmt.Println(errors.Is(err, caches.ErrMiss))
	// Output: true
}
