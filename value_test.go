package caches_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

type account struct {
	Name  string
	Roles []string
}

// The values that a cache must tell from nothing at all. TestValueKinds has more types.
func TestCacheKeepsEmptyValues(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		keepsValue(t, ctx, conn, "", nil)
		keepsValue(t, ctx, conn, "", caches.Raw)
		keepsValue(t, ctx, conn, "", caches.Gob)
		keepsValue(t, ctx, conn, 0, nil)
		keepsValue(t, ctx, conn, 0, caches.Raw)
		keepsValue(t, ctx, conn, 0, caches.Gob)
		keepsValue(t, ctx, conn, []byte{}, nil)
		keepsValue(t, ctx, conn, []byte{}, caches.Raw)
		keepsValue(t, ctx, conn, account{}, nil)
		keepsValue(t, ctx, conn, account{}, caches.Gob)
		keepsValue(t, ctx, conn, any(nil), nil)
		keepsValue(t, ctx, conn, "a\x00b\r\n\xff", caches.Raw)
		keepsValue(t, ctx, conn, account{"Ada", []string{"admin", ""}}, caches.Compressed(nil, nil))
	})
}

func keepsValue[T any](t *testing.T, ctx context.Context, conn *caches.Conn, v T, s caches.Serializer) {
	t.Helper()
	typ := caches.Cache[T]{Prefix: "empty", Serializer: s}.On(conn).Under(fmt.Sprintf("%T %T %v", v, s, s), fmt.Sprint(v))
	c := typ.Key()
	_, err := c.Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	require.NoError(t, c.Set(ctx, v))
	got, err := c.Get(ctx)
	require.NoError(t, err, "%T(%v) is stored, not missing", v, v)
	require.Equal(t, v, got)
	exists, err := c.Exists(ctx)
	require.NoError(t, err)
	require.True(t, exists)
	many, err := caches.GetMany(ctx, typ, []string{"below"})
	require.NoError(t, err)
	require.Empty(t, many)
}

func TestCacheOperations(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[string]{Prefix: "ops", TTL: time.Hour}.On(conn).Key("it")

		// Nothing is there.
		_, err := c.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
		v, err := c.GetOr(ctx, "def")
		require.NoError(t, err)
		require.Equal(t, "def", v)
		exists, err := c.Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists, "GetOr stores nothing")
		replaced, err := c.Replace(ctx, "no")
		require.NoError(t, err)
		require.False(t, replaced)
		_, err = c.Pop(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
		_, err = c.ExpiresIn(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
		require.ErrorIs(t, c.Touch(ctx, time.Minute), caches.ErrMiss)
		require.ErrorIs(t, c.Touch(ctx, 0), caches.ErrMiss)
		require.ErrorIs(t, c.Touch(ctx, caches.Forever), caches.ErrMiss)
		require.ErrorIs(t, c.Persist(ctx), caches.ErrMiss)
		require.False(t, ask(c.Delete(ctx)).ok(t), "deleting nothing is no error")

		// Add stores where there is nothing, once.
		added, err := c.Add(ctx, "one")
		require.NoError(t, err)
		require.True(t, added)
		added, err = c.Add(ctx, "two")
		require.NoError(t, err)
		require.False(t, added)
		v, err = c.GetOr(ctx, "def")
		require.NoError(t, err)
		require.Equal(t, "one", v)

		// Replace stores where there is something.
		replaced, err = c.Replace(ctx, "three")
		require.NoError(t, err)
		require.True(t, replaced)

		// Swap gives back what was there.
		old, loaded, err := c.Swap(ctx, "four")
		require.NoError(t, err)
		require.True(t, loaded)
		require.Equal(t, "three", old)

		// Pop removes what it returns.
		v, err = c.Pop(ctx)
		require.NoError(t, err)
		require.Equal(t, "four", v)
		_, err = c.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)

		old, loaded, err = c.Swap(ctx, "five")
		require.NoError(t, err)
		require.False(t, loaded)
		require.Empty(t, old)
		v, err = c.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, "five", v)

		require.True(t, ask(c.Delete(ctx)).ok(t))
		_, err = c.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)
	})
}

func TestCacheGetOrSet(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[string]{Prefix: "gos", TTL: time.Hour}.On(conn)
		loads := 0
		load := func(context.Context) (string, error) { loads++; return "loaded", nil }

		v, err := c.Key("a").GetOrSet(ctx, load)
		require.NoError(t, err)
		require.Equal(t, "loaded", v)
		v, err = c.Key("a").GetOrSet(ctx, load)
		require.NoError(t, err)
		require.Equal(t, "loaded", v)
		require.Equal(t, 1, loads, "the second call reads")

		// Whoever stores first wins, and all callers see the winner's value.
		b := c.Key("b")
		v, err = b.GetOrSet(ctx, func(ctx context.Context) (string, error) {
			require.NoError(t, b.Set(ctx, "theirs"))
			return "mine", nil
		})
		require.NoError(t, err)
		require.Equal(t, "theirs", v)
		v, err = b.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, "theirs", v)

		// An error of load is the caller's as it is, and leaves nothing.
		failure := errors.New("no database")
		_, err = c.Key("c").GetOrSet(ctx, func(context.Context) (string, error) { return "", failure })
		require.Equal(t, failure, err)
		exists, err := c.Key("c").Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists)
	})
}

// What does not decode, and what is of another data type, is an error that says
// where, and not what.
func TestCacheCorruptAndWrongType(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		text := caches.Cache[string]{Prefix: "bad", Serializer: caches.Raw}.On(conn)
		c := caches.Cache[account]{Prefix: "bad", TTL: time.Hour}.On(conn)
		spoil := func(key string) caches.Value[account] {
			require.NoError(t, text.Key(key).Set(ctx, `{"Name":"hunter2`))
			return c.Key(key)
		}
		check := func(err error, op string) {
			t.Helper()
			require.ErrorIs(t, err, caches.ErrCorrupt)
			require.ErrorContains(t, err, `"bad.x"`, "the error names the key")
			require.NotContains(t, err.Error(), "hunter2", "and does not show the value")
			var at *caches.OpError
			require.ErrorAs(t, err, &at)
			require.Equal(t, op, at.Op)
			require.Equal(t, "bad.x", at.Key)
		}

		v, err := spoil("x").Get(ctx)
		check(err, "Value.Get")
		require.Zero(t, v, "nothing half filled")
		def := account{Name: "def"}
		v, err = c.Key("x").GetOr(ctx, def)
		check(err, "Value.Get")
		require.Equal(t, def, v)
		_, err = c.Key("x").GetOrSet(ctx, func(context.Context) (account, error) {
			t.Error("a corrupt value is not a miss")
			return account{}, nil
		})
		check(err, "Value.Get")
		_, loaded, err := c.Key("x").Swap(ctx, def)
		check(err, "Value.Swap")
		require.True(t, loaded)
		v, err = c.Key("x").Get(ctx)
		require.NoError(t, err, "Swap replaces what does not decode")
		require.Equal(t, def, v)
		_, err = spoil("x").Pop(ctx)
		check(err, "Value.Pop")
		_, err = c.Key("x").Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss)

		// What is of the wrong JSON type is named without being shown.
		require.NoError(t, text.Key("x").Set(ctx, `{"Name":4711}`))
		_, err = c.Key("x").Get(ctx)
		check(err, "Value.Get")
		require.NotContains(t, err.Error(), "4711")

		// Another data type is an error of every operation that reads …
		_, err = caches.SetCache[string](c).Key("set").Add(ctx, "member")
		require.NoError(t, err)
		other := c.Key("set")
		_, err = other.Get(ctx)
		require.ErrorIs(t, err, caches.ErrWrongType)
		_, err = other.GetOr(ctx, def)
		require.ErrorIs(t, err, caches.ErrWrongType)
		_, err = other.Pop(ctx)
		require.ErrorIs(t, err, caches.ErrWrongType)
		_, _, err = other.Swap(ctx, def)
		require.ErrorIs(t, err, caches.ErrWrongType)
		require.ErrorContains(t, err, `"bad.set"`)
		slide := c
		slide.TTLPolicy = caches.SlideOnRead
		_, err = slide.Key("set").Get(ctx)
		require.ErrorIs(t, err, caches.ErrWrongType)
		// … and Set replaces it, as SET does.
		require.NoError(t, other.Set(ctx, def))
		v, err = other.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, def, v)
	})
}

func TestCacheRefusesValues(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[any]{Prefix: "refuse", TTL: time.Hour}.On(conn)
		raw := caches.Cache[any]{Prefix: "refuse", TTL: time.Hour, Serializer: caches.Raw}.On(conn)
		for i, key := range []caches.Value[any]{c.Key("json"), raw.Key("raw")} {
			bad := []any{make(chan int), nil}[i]
			require.Error(t, key.Set(ctx, bad))
			_, err := key.Add(ctx, bad)
			require.Error(t, err)
			_, err = key.Replace(ctx, bad)
			require.Error(t, err)
			_, _, err = key.Swap(ctx, bad)
			require.Error(t, err)
			_, err = key.GetOrSet(ctx, func(context.Context) (any, error) { return bad, nil })
			require.ErrorContains(t, err, fmt.Sprintf("%q", key))
			exists, err := key.Exists(ctx)
			require.NoError(t, err)
			require.False(t, exists, "a value that does not serialize leaves nothing")
		}
	})
}

func TestCacheNoKey(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	c := caches.Value[string]{}.On(conn)
	load := func(context.Context) (string, error) { return "x", nil }
	for name, op := range map[string]func() error{
		"Get":       func() error { _, err := c.Get(ctx); return err },
		"GetOr":     func() error { _, err := c.GetOr(ctx, ""); return err },
		"GetOrSet":  func() error { _, err := c.GetOrSet(ctx, load); return err },
		"Set":       func() error { return c.Set(ctx, "") },
		"Add":       func() error { _, err := c.Add(ctx, ""); return err },
		"Replace":   func() error { _, err := c.Replace(ctx, ""); return err },
		"Swap":      func() error { _, _, err := c.Swap(ctx, ""); return err },
		"Pop":       func() error { _, err := c.Pop(ctx); return err },
		"Exists":    func() error { _, err := c.Exists(ctx); return err },
		"Delete":    func() error { return errOf(c.Delete(ctx)) },
		"ExpiresIn": func() error { _, err := c.ExpiresIn(ctx); return err },
		"Touch":     func() error { return c.Touch(ctx, time.Hour) },
		"Persist":   func() error { return c.Persist(ctx) },
	} {
		assert.ErrorIs(t, op(), caches.ErrNoKey, name)
	}
	require.Contains(t, c.String(), "no key")
}

// A state is what stands at a key before an operation.
type state string

const (
	absent    state = "absent"
	touched   state = "touched" // expires in touch
	persisted state = "persisted"

	life  = time.Hour        // of the type
	touch = 10 * time.Minute // given to one object by hand
	gone  = time.Duration(-1)
)

// expires checks what is left of an object's time to live: gone for no object,
// Forever for no end. No two durations that are told apart are less than a
// minute apart.
func expires(t *testing.T, ctx context.Context, o interface {
	ExpiresIn(context.Context) (time.Duration, error)
}, want time.Duration, why string) {
	t.Helper()
	left, err := o.ExpiresIn(ctx)
	switch want {
	case gone:
		assert.ErrorIs(t, err, caches.ErrMiss, why)
	case caches.Forever:
		assert.NoError(t, err, why)
		assert.Equal(t, caches.Forever, left, why)
	default:
		assert.NoError(t, err, why)
		assert.LessOrEqual(t, left, want, why)
		assert.Greater(t, left, want-time.Minute, why)
	}
}

type expiryRow struct {
	op  string
	run func(ctx context.Context, typ caches.CounterCache[int64], o caches.Counter[int64]) error
	// The expiry after it, by policy: write, creation, read.
	absent, touched, persisted [3]time.Duration
	// The same for a type without a time to live.
	endless [3]time.Duration // touched
}

func each(d time.Duration) [3]time.Duration { return [3]time.Duration{d, d, d} }

func expiryRows() []expiryRow {
	const forever = caches.Forever
	reads := expiryRow{absent: each(gone), touched: [3]time.Duration{touch, touch, life},
		persisted: [3]time.Duration{forever, forever, life}, endless: each(touch)}
	// A write that stores: FromCreation leaves an end that there is.
	writes := expiryRow{absent: each(life), touched: [3]time.Duration{life, touch, life},
		persisted: each(life), endless: [3]time.Duration{forever, touch, forever}}
	leaves := expiryRow{absent: each(gone), touched: each(touch), persisted: each(forever), endless: each(touch)}
	removes := expiryRow{absent: each(gone), touched: each(gone), persisted: each(gone), endless: each(gone)}
	creates := leaves
	creates.absent = each(life)
	loads := reads
	loads.absent = each(life)
	replaces := writes
	replaces.absent = each(gone)
	counts := writes // but INCRBY never takes an end away
	counts.endless = each(touch)
	renews := expiryRow{absent: each(gone), touched: each(life), persisted: each(life), endless: each(touch)}
	persists := expiryRow{absent: each(gone), touched: each(forever), persisted: each(forever), endless: each(forever)}
	moves := expiryRow{absent: each(gone), touched: each(20 * time.Minute), persisted: each(20 * time.Minute), endless: each(20 * time.Minute)}

	type (
		c  = caches.Counter[int64]
		ct = caches.CounterCache[int64]
	)
	row := func(r expiryRow, op string, run func(ctx context.Context, typ ct, o c) error) expiryRow {
		r.op, r.run = op, run
		return r
	}
	one := func(context.Context) (int64, error) { return 1, nil }
	return []expiryRow{
		row(reads, "Get", func(ctx context.Context, _ ct, o c) error { _, err := o.Get(ctx); return err }),
		row(reads, "GetOr", func(ctx context.Context, _ ct, o c) error { _, err := o.GetOr(ctx, 1); return err }),
		row(reads, "GetMany", func(ctx context.Context, typ ct, _ c) error {
			_, err := caches.GetMany(ctx, typ.Cache(), []string{"k"})
			return err
		}),
		row(loads, "GetOrSet", func(ctx context.Context, _ ct, o c) error { _, err := o.GetOrSet(ctx, one); return err }),
		row(writes, "Set", func(ctx context.Context, _ ct, o c) error { return o.Set(ctx, 1) }),
		row(writes, "Swap", func(ctx context.Context, _ ct, o c) error { _, _, err := o.Swap(ctx, 1); return err }),
		row(writes, "SetMany", func(ctx context.Context, typ ct, _ c) error {
			return caches.SetMany(ctx, typ.Cache(), map[string]int64{"k": 1})
		}),
		row(counts, "Incr", func(ctx context.Context, _ ct, o c) error { _, err := o.Incr(ctx, 1); return err }),
		row(counts, "Decr", func(ctx context.Context, _ ct, o c) error { _, err := o.Decr(ctx, 1); return err }),
		row(replaces, "Replace", func(ctx context.Context, _ ct, o c) error { _, err := o.Replace(ctx, 1); return err }),
		row(creates, "Add", func(ctx context.Context, _ ct, o c) error { _, err := o.Add(ctx, 1); return err }),
		row(removes, "Pop", func(ctx context.Context, _ ct, o c) error { _, err := o.Pop(ctx); return err }),
		row(removes, "Delete", func(ctx context.Context, _ ct, o c) error { return errOf(o.Delete(ctx)) }),
		row(removes, "DeleteMany", func(ctx context.Context, typ ct, _ c) error {
			_, err := caches.DeleteMany(ctx, typ.Cache(), []string{"k"})
			return err
		}),
		row(leaves, "Exists", func(ctx context.Context, _ ct, o c) error { _, err := o.Exists(ctx); return err }),
		row(leaves, "ExpiresIn", func(ctx context.Context, _ ct, o c) error { _, err := o.ExpiresIn(ctx); return err }),
		row(renews, "Touch(0)", func(ctx context.Context, _ ct, o c) error { return o.Touch(ctx, 0) }),
		row(moves, "Touch(20m)", func(ctx context.Context, _ ct, o c) error { return o.Touch(ctx, 20*time.Minute) }),
		row(persists, "Touch(Forever)", func(ctx context.Context, _ ct, o c) error { return o.Touch(ctx, caches.Forever) }),
		row(persists, "Persist", func(ctx context.Context, _ ct, o c) error { return o.Persist(ctx) }),
	}
}

// What every operation does to the time to live, under every policy, from every
// state of the key.
func TestExpiryOfEveryOperation(t *testing.T) {
	policies := []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead}
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, row := range expiryRows() {
			for i, policy := range policies {
				check := func(ttl time.Duration, from state, want time.Duration) {
					t.Helper()
					why := fmt.Sprintf("%s of a type with %v, policy %v, %s before", row.op, ttl, policy, from)
					o := caches.Options{Prefix: fmt.Sprintf("%s.%v.%v.%s", row.op, policy, ttl, from), TTL: ttl, TTLPolicy: policy}
					typ := caches.CounterCache[int64](o).On(conn)
					object := typ.Key("k")
					prepare(t, ctx, object, from)
					err := row.run(ctx, typ, object)
					if !errors.Is(err, caches.ErrMiss) {
						require.NoError(t, err, why)
					}
					expires(t, ctx, object, want, why)
				}
				check(life, absent, row.absent[i])
				check(life, touched, row.touched[i])
				check(life, persisted, row.persisted[i])
				check(caches.Forever, touched, row.endless[i])
				check(0, touched, row.endless[i])
			}
		}
	})
}

// prepare brings an object into a state.
func prepare(t *testing.T, ctx context.Context, o caches.Counter[int64], s state) {
	t.Helper()
	if s == absent {
		return
	}
	require.NoError(t, o.Set(ctx, 10))
	if s == touched {
		require.NoError(t, o.Touch(ctx, touch))
	} else {
		require.NoError(t, o.Persist(ctx))
	}
}

// Where the time to live comes from: the type, else the connection, else none.
func TestExpiryFromConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		dsn  func(t *testing.T) string
	}{
		{"locmem", func(*testing.T) string { return "locmem://?ttl=30m" }},
		{"redis", func(t *testing.T) string { return realRedis(t) + "&ttl=30m" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, conn := t.Context(), open(t, c.dsn(t))
			for _, row := range []struct {
				ttl, want time.Duration
			}{
				{0, 30 * time.Minute},
				{life, life},
				{caches.Forever, caches.Forever},
			} {
				o := caches.Options{Prefix: "conn." + row.ttl.String(), TTL: row.ttl}
				v := caches.Cache[string](o).On(conn)
				require.NoError(t, v.Key("set").Set(ctx, "x"))
				expires(t, ctx, v.Key("set"), row.want, "Set")
				require.NoError(t, caches.SetMany(ctx, v, map[string]string{"many": "x"}))
				expires(t, ctx, v.Key("many"), row.want, "SetMany")
				n := caches.CounterCache[int](o).On(conn).Key("count")
				_, err := n.Incr(ctx, 1)
				require.NoError(t, err)
				expires(t, ctx, n, row.want, "Incr")
				require.NoError(t, v.Key("set").Touch(ctx, touch))
				require.NoError(t, v.Key("set").Touch(ctx, 0))
				want := row.want
				if want == caches.Forever {
					want = touch // Touch(0) of a type without an end changes nothing
				}
				expires(t, ctx, v.Key("set"), want, "Touch(0)")
			}
		})
	}
}

func TestExpiryNegative(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[string]{Prefix: "neg", TTL: -time.Second}.On(conn)
		o := c.Key("x")
		for name, err := range map[string]error{
			"Set":     o.Set(ctx, "v"),
			"SetMany": caches.SetMany(ctx, c, map[string]string{"x": "v"}),
			"Touch":   o.Touch(ctx, 0),
		} {
			assert.ErrorContains(t, err, "a TTL of -1s is negative", name)
		}
		_, err := o.Add(ctx, "v")
		require.ErrorContains(t, err, "negative")
		good := caches.Cache[string]{Prefix: "neg"}.On(conn).Key("x")
		exists, err := good.Exists(ctx)
		require.NoError(t, err)
		require.False(t, exists, "nothing was stored")

		require.NoError(t, good.Set(ctx, "v"))
		require.ErrorContains(t, good.Touch(ctx, -1), "negative")
		v, err := good.Get(ctx)
		require.NoError(t, err, "Touch never deletes")
		require.Equal(t, "v", v)
		expires(t, ctx, good, caches.Forever, "a refused Touch changes nothing")
	})
}

// Redis has nothing shorter than a millisecond, and for 0 it would delete or
// fail: what is shorter lives one.
func TestExpirySubMillisecond(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			o := caches.Options{Prefix: "short." + policy.String(), TTL: time.Nanosecond, TTLPolicy: policy}
			c := caches.Cache[string](o).On(conn)
			require.NoError(t, c.Key("set").Set(ctx, "v"))
			added, err := c.Key("add").Add(ctx, "v")
			require.NoError(t, err)
			require.True(t, added)
			require.NoError(t, caches.SetMany(ctx, c, map[string]string{"many": "v"}))
			_, err = caches.CounterCache[int](o).On(conn).Key("count").Incr(ctx, 1)
			require.NoError(t, err)
			for _, key := range []string{"set", "add", "many", "count"} {
				require.Eventually(t, func() bool {
					exists, err := c.Key(key).Exists(ctx)
					return err == nil && !exists
				}, 20*time.Second, 5*time.Millisecond, key)
			}
		}
	})
}

func TestExpiryEnds(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		c := caches.Cache[string]{Prefix: "ends", TTL: 60 * time.Millisecond}.On(conn).Key("x")
		require.NoError(t, c.Set(ctx, "v"))
		require.Eventually(t, func() bool {
			_, err := c.Get(ctx)
			return errors.Is(err, caches.ErrMiss)
		}, 20*time.Second, 5*time.Millisecond)
		added, err := c.Add(ctx, "again")
		require.NoError(t, err)
		require.True(t, added, "what has expired is not there for Add")
	})
}

func TestClear(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		typ := func(prefix string) caches.Cache[int] {
			return caches.Cache[int]{Prefix: prefix, TTL: time.Hour}.On(conn)
		}
		fill := func(c caches.Cache[int]) {
			items := map[int]int{}
			for i := range 50 {
				items[i] = i
			}
			require.NoError(t, caches.SetMany(ctx, c, items))
			require.NoError(t, c.Key().Set(ctx, 1), "the prefix alone is a key, too")
		}
		count := func(c caches.Cache[int]) int {
			keys := make([]int, 50)
			for i := range keys {
				keys[i] = i
			}
			found, err := caches.GetMany(ctx, c, keys)
			require.NoError(t, err)
			exists, err := c.Key().Exists(ctx)
			require.NoError(t, err)
			if exists {
				return len(found) + 1
			}
			return len(found)
		}
		// What each prefix would take along if it were read as a pattern, or as
		// the mere beginning of a key.
		for _, row := range [][]string{
			{"profile", "profiles", "profile2", "other.profile", "PROFILE"},
			{"p*", "pp", "p", "p**"},
			{"p?", "pq", "p"},
			{"p[ab]", "pa", "pb"},
			{`p\*`, `p\x`, "p*", "px"},
			{"p[^a]", "px", "p^"},
			{"p.q", "pxq", "p"},
			{"{tag}", "tag"},
		} {
			prefix, others := row[0], row[1:]
			fill(typ(prefix))
			for _, other := range others {
				fill(typ(other))
			}
			n, err := typ(prefix).Clear(ctx)
			require.NoError(t, err)
			require.EqualValues(t, 51, n, prefix)
			require.Zero(t, count(typ(prefix)), prefix)
			for _, other := range others {
				require.Equal(t, 51, count(typ(other)), "Clear of %q left %q alone", prefix, other)
			}
			require.NoError(t, conn.UnsafeFlush(ctx))
		}
		n, err := typ("nothing").Clear(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
		_, err = typ("").Clear(ctx)
		require.ErrorContains(t, err, "Prefix", "a type without a prefix owns no keys")
	})
}

// Versions and the connection's prefix divide the keys, for Clear as well.
func TestClearOfOneVersion(t *testing.T) {
	ctx := t.Context()
	conn, err := caches.ConnOptions{Prefix: "app", Version: "v1"}.Open("locmem://")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	c1 := caches.Cache[int]{Prefix: "p"}.On(conn)
	c2 := caches.Cache[int]{Prefix: "p", Version: "v2"}.On(conn)
	require.Equal(t, "app.v1.p.x", c1.Key("x").String())
	require.Equal(t, "app.v2.p.x", c2.Key("x").String())
	require.NoError(t, c1.Key("x").Set(ctx, 1))
	_, err = c2.Key("x").Get(ctx)
	require.ErrorIs(t, err, caches.ErrMiss)
	require.ErrorContains(t, err, `"app.v2.p.x"`)
	require.NoError(t, c2.Key("x").Set(ctx, 2))
	n, err := c2.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	v, err := c1.Key("x").Get(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, v)
}

func TestConnOfAnObject(t *testing.T) {
	ctx := t.Context()
	first, second := open(t, "locmem://"), open(t, "locmem://")
	c := caches.Cache[string]{Prefix: "pin"}
	require.NoError(t, c.Key("x").On(first).Set(ctx, "first"))
	require.NoError(t, c.On(second).Key("x").Set(ctx, "second"))
	v, err := c.Key("x").Get(caches.WithConn(ctx, first))
	require.NoError(t, err)
	require.Equal(t, "first", v)
	v, err = c.Key("x").On(second).Get(caches.WithConn(ctx, first))
	require.NoError(t, err)
	require.Equal(t, "second", v, "a pinned object stays with its connection")
	many, err := caches.GetMany(caches.WithConn(ctx, first), c, []string{"x"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"x": "first"}, many)

	named := caches.Cache[string]{Prefix: "pin", Connection: "nobody-configured-this"}
	_, err = named.Key("x").Get(ctx)
	require.ErrorIs(t, err, caches.ErrNoConnection)
	require.Equal(t, "pin.x", named.Key("x").String())
}
