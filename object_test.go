package caches_test

import (
	"cmp"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/testutil"
)

// What is common to the collections: their expiry, their errors, and the
// methods of Object that they embed. What each of them does besides is in the
// file of its name.

const (
	ownTTL   = time.Hour        // of the types under test
	otherTTL = 10 * time.Minute // what Touch gave, to be told from ownTTL
)

// A collection is what the kinds of collections have in common.
type collection interface {
	Len(context.Context) (int, error)
	Exists(context.Context) (bool, error)
	Delete(context.Context) (bool, error)
	ExpiresIn(context.Context) (time.Duration, error)
	Touch(context.Context, time.Duration) error
	Persist(context.Context) error
	String() string
}

// An effect is what an operation may do to the time to live.
type effect int

const (
	stores  effect = iota // may create the object
	reads                 // may slide
	leaves                // touches no expiry, under any policy
	removes               // leaves the expiry of what is left
)

// An act is one operation of a collection.
type act struct {
	name   string
	effect effect
	run    func(ctx context.Context) error
}

// A subject is a collection under test.
type subject struct {
	collection
	fill  func(context.Context) error            // puts three elements in
	empty func(context.Context) error            // takes them out one by one
	acts  []act                                  // all operations, and most in each way that they may end
	idle  []act                                  // calls without elements
	bulk  func(ctx context.Context, n int) error // puts n elements in with one call
}

// A kind is a type of collection, as most tests of this file run over all of them.
type kind struct {
	name string
	on   func(conn *caches.Conn, o caches.Options) kindOn
}

// A kindOn is a kind with its options on a connection.
type kindOn struct {
	key   func(key ...any) subject
	zero  subject // without a key
	clear func(context.Context) (int, error)
}

var kinds = []kind{{"dict", dictKind}, {"set", setKind}, {"sorted set", sortedSetKind}, {"list", listKind}}

func (k kind) make(conn *caches.Conn, o caches.Options, key ...any) (c collection, fill, empty func(context.Context) error, acts []act) {
	s := k.on(conn, o).key(key...)
	return s.collection, s.fill, s.empty, s.acts
}

// numerals returns the numbers below n as text.
func numerals(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}

// none is err, or an error if there is a result.
func none[T any](result T, err error) error {
	if n := reflect.ValueOf(result); err == nil && (n.Kind() == reflect.Int && n.Int() != 0 || n.Kind() != reflect.Int && n.Len() != 0) {
		return fmt.Errorf("%v where nothing was asked for", result)
	}
	return err
}

// Nothing is left out: each type of collection of the package is among kinds, each
// of its operations among the acts, the random plans and the row of README, and
// the type in the documentation of the package.
func TestKindsAreComplete(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	object := reflect.TypeFor[caches.Object]()
	found := []string{"Value", "Counter", "Sentinel"} // objects that are not collections
	for _, kind := range kinds {
		c := kind.on(nil, caches.Options{}).zero
		of := reflect.TypeOf(c.collection)
		name, _, _ := strings.Cut(of.Name(), "[")
		found = append(found, name)
		assert.Contains(t, string(doc), "["+name+"Cache]")
		_, row, _ := strings.Cut(string(readme), "→ `"+name+"[")
		row, _, _ = strings.Cut(row, "\n")
		for method := range of.Methods() {
			if _, common := object.MethodByName(method.Name); common || method.Type.NumIn() < 2 || method.Type.In(1) != reflect.TypeFor[context.Context]() {
				continue
			}
			assert.Regexp(t, `\b`+method.Name+`\b`, row, "the row of %s in README.md", name)
			assert.True(t, planned(kind, method.Name), "differential_test.go has no %s of a %s", method.Name, kind.name)
			assert.True(t, strings.HasPrefix(method.Name, "Store") || slices.ContainsFunc(c.acts, func(a act) bool { // those write to another set
				return strings.Fields(a.name)[0] == method.Name
			}), "a %s has no act %s", kind.name, method.Name)
		}
	}
	assert.ElementsMatch(t, objectTypes(t), found)
}

// planned reports whether a plan may draw a method. Some it draws as another
// method that does the same.
func planned(k kind, method string) bool {
	prefix := strings.Fields(k.name)[0] + "."
	name := cmp.Or(map[string]string{"dict.GetOr": "dict.Get", "dict.Incr": "tallies.Incr", "set.Update": "set.Add", "sorted.Update": "sorted.Add"}[prefix+method], prefix+method)
	return slices.ContainsFunc(operations, func(op operation) bool { return op.name == name })
}

// objectTypes returns the names of the types of the package that embed Object.
func objectTypes(t *testing.T) (names []string) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			spec, _ := n.(*ast.TypeSpec)
			if spec == nil {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
				id, _ := f.Type.(*ast.Ident)
				return f.Names == nil && id != nil && id.Name == "Object"
			}) {
				names = append(names, spec.Name.Name)
			}
			return false
		})
	}
	return names
}

// errOf drops all results but the error.
func errOf[T any](_ T, err error) error        { return err }
func err3[A, B any](_ A, _ B, err error) error { return err }

// errEnd runs through an iterator and returns how it ended.
func errEnd[T any](all iter.Seq[T], end func() error) error {
	for range all {
	}
	return end()
}

func errEnd2[K, V any](all iter.Seq2[K, V], end func() error) error {
	for range all {
	}
	return end()
}

// requireTTL requires about the time to live that want says; Forever exactly.
func requireTTL(t *testing.T, ctx context.Context, c collection, want time.Duration, msg ...any) {
	t.Helper()
	got, err := c.ExpiresIn(ctx)
	require.NoError(t, err, msg...)
	if want == caches.Forever {
		require.Equal(t, want, got, msg...)
		return
	}
	require.InDelta(t, want, got, float64(2*time.Minute), msg...)
}

// expect is the time to live after an operation under a policy, of an object
// that had before.
func (e effect) expect(policy caches.TTLPolicy, before time.Duration) time.Duration {
	switch {
	case e == stores && policy != caches.FromCreation,
		e == stores && before == caches.Forever, // a window that nobody opened
		e == reads && policy == caches.SlideOnRead:
		return ownTTL
	}
	return before
}

func TestCollectionsExpiry(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
				c, fill, empty, acts := kind.make(conn, caches.Options{Prefix: "expiry", TTL: ownTTL, TTLPolicy: policy}, kind.name, policy.String())
				for _, act := range acts {
					name := kind.name + " " + policy.String() + " " + act.name
					for _, before := range []time.Duration{otherTTL, caches.Forever} {
						require.NoError(t, errOf(c.Delete(ctx)), name)
						require.NoError(t, fill(ctx), name)
						require.NoError(t, c.Touch(ctx, before), name)
						require.NoError(t, act.run(ctx), name)
						requireTTL(t, ctx, c, act.effect.expect(policy, before), "%s of what had %v", name, before)
					}
					if act.effect != stores {
						continue
					}
					require.NoError(t, errOf(c.Delete(ctx)), name)
					require.NoError(t, act.run(ctx), name)
					requireTTL(t, ctx, c, ownTTL, "%s creates with an expiry", name)

					require.NoError(t, errOf(c.Delete(ctx)), name)
					require.NoError(t, fill(ctx), name)
					require.NoError(t, empty(ctx), name)
					_, err := c.ExpiresIn(ctx)
					require.ErrorIs(t, err, caches.ErrMiss, "%s: an empty collection does not exist", name)
					require.NoError(t, act.run(ctx), name)
					requireTTL(t, ctx, c, ownTTL, "%s after the last element went", name)
				}
			}
		}
	})
}

// Without a time to live nothing begins one, and nothing ends one.
func TestCollectionsWithoutTTL(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			for _, ttl := range []time.Duration{0, caches.Forever} {
				c, fill, _, acts := kind.make(conn, caches.Options{Prefix: "without", TTL: ttl, TTLPolicy: caches.SlideOnRead}, kind.name, ttl.String())
				for _, act := range acts {
					for _, before := range []time.Duration{otherTTL, caches.Forever} {
						require.NoError(t, errOf(c.Delete(ctx)))
						require.NoError(t, fill(ctx))
						requireTTL(t, ctx, c, caches.Forever)
						require.NoError(t, c.Touch(ctx, before))
						require.NoError(t, act.run(ctx))
						requireTTL(t, ctx, c, before, "%s %s", kind.name, act.name)
					}
				}
			}
		}
	})
}

func TestCollectionsErrors(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			for _, ttl := range []time.Duration{0, ownTTL} {
				o := caches.Options{Prefix: "errors", TTL: ttl, TTLPolicy: caches.SlideOnRead}
				c, _, _, acts := kind.make(conn, o, "text")
				text := caches.Cache[string](o).On(conn).Key("text")
				require.NoError(t, text.Set(ctx, "a string"))
				require.NoError(t, text.Persist(ctx))
				for _, act := range acts {
					err := act.run(ctx)
					if !onFake(t) || act.name != "GetOrAdd" && act.name != "PopItem" { // scripts
						require.ErrorIs(t, err, caches.ErrWrongType, "%s %s", kind.name, act.name)
					}
					var op *caches.OpError
					require.ErrorAs(t, err, &op)
					require.Equal(t, c.String(), op.Key, "%s %s", kind.name, act.name)
					require.Contains(t, op.Op, ".", "%s %s", kind.name, act.name)
				}
				_, err := c.Len(ctx)
				require.ErrorIs(t, err, caches.ErrWrongType)
				requireTTL(t, ctx, c, caches.Forever, "%s: what is not one's own is left as it is", kind.name)
			}
			bad := caches.Options{Prefix: "errors", TTL: -time.Second}
			_, _, _, acts := kind.make(conn, bad, "negative")
			for _, act := range acts {
				require.ErrorContains(t, act.run(ctx), "negative", "%s %s", kind.name, act.name)
			}
			_, _, _, acts = kind.make(conn, caches.Options{Prefix: "errors"}, struct{ x int }{})
			for _, act := range acts {
				require.ErrorContains(t, act.run(ctx), "part 1 of the key", "%s %s", kind.name, act.name)
			}
		}
	})
}

// A Swap that finds a collection leaves it as it is, and for ever.
func TestSwapOfACollection(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.FromCreation, caches.SlideOnRead} {
			c := setKind(conn, caches.Options{Prefix: "swap"}).key(policy.String())
			require.NoError(t, c.fill(ctx))
			value := caches.Cache[string]{Prefix: "swap", TTL: ownTTL, TTLPolicy: policy}.On(conn).Key(policy.String())
			require.ErrorIs(t, err3(value.Swap(ctx, "text")), caches.ErrWrongType)
			requireTTL(t, ctx, c, caches.Forever)
			requireLen(t, ctx, c, 3)
		}
	})
}

// An ended context, and a closed connection, are definite: nothing ran.
func TestCollectionsUnavailable(t *testing.T) {
	for _, kind := range kinds {
		conn := open(t, "locmem://")
		c, fill, _, acts := kind.make(conn, caches.Options{Prefix: "closed"}, kind.name)
		require.NoError(t, fill(t.Context()))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, act := range acts {
			err := act.run(ended)
			require.ErrorIs(t, err, caches.ErrUnavailable, act.name)
			require.ErrorIs(t, err, context.Canceled, act.name)
		}
		n, err := c.Len(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, n, "nothing ran")
		require.NoError(t, conn.Close())
		for _, act := range acts {
			require.ErrorIs(t, act.run(t.Context()), caches.ErrUnavailable, act.name)
		}
	}
}

func TestCollectionsNoKey(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	for _, kind := range kinds {
		c := kind.on(conn, caches.Options{}).zero
		for _, act := range c.acts {
			require.ErrorIs(t, act.run(ctx), caches.ErrNoKey, "%s %s", kind.name, act.name)
		}
		require.ErrorIs(t, errOf(c.Exists(ctx)), caches.ErrNoKey)
		require.ErrorIs(t, errOf(c.Len(ctx)), caches.ErrNoKey)
		require.ErrorIs(t, errOf(c.ExpiresIn(ctx)), caches.ErrNoKey)
		require.ErrorIs(t, errOf(c.Delete(ctx)), caches.ErrNoKey)
		require.ErrorIs(t, c.Touch(ctx, time.Minute), caches.ErrNoKey)
		require.ErrorIs(t, c.Touch(ctx, caches.Forever), caches.ErrNoKey)
		require.ErrorIs(t, c.Persist(ctx), caches.ErrNoKey)
		require.Equal(t, caches.ErrNoKey.Error(), c.String())
	}
}

func TestCollectionsCommon(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			c, fill, empty, _ := kind.make(conn, caches.Options{Prefix: "common", TTL: ownTTL}, kind.name)
			requireNothing(t, ctx, c)

			require.NoError(t, fill(ctx))
			requireLen(t, ctx, c, 3)
			require.NoError(t, c.Touch(ctx, otherTTL))
			requireTTL(t, ctx, c, otherTTL)
			require.Error(t, c.Touch(ctx, -time.Second), "never deletes")
			requireTTL(t, ctx, c, otherTTL)
			require.NoError(t, c.Touch(ctx, 0), "the type's own")
			requireTTL(t, ctx, c, ownTTL)
			require.NoError(t, c.Persist(ctx))
			requireTTL(t, ctx, c, caches.Forever)
			require.NoError(t, c.Persist(ctx), "again")
			require.NoError(t, c.Touch(ctx, otherTTL))
			require.NoError(t, c.Touch(ctx, caches.Forever))
			requireTTL(t, ctx, c, caches.Forever)
			requireLen(t, ctx, c, 3)

			require.NoError(t, empty(ctx))
			requireNothing(t, ctx, c)
			require.NoError(t, fill(ctx))
			require.NoError(t, errOf(c.Delete(ctx)))
			requireNothing(t, ctx, c)
		}
	})
}

func requireLen(t *testing.T, ctx context.Context, c collection, want int) {
	t.Helper()
	n, err := c.Len(ctx)
	require.NoError(t, err)
	require.Equal(t, want, n)
	exists, err := c.Exists(ctx)
	require.NoError(t, err)
	require.Equal(t, want > 0, exists, "what is empty does not exist")
}

// requireNothing requires that no object is there, and that nothing makes one
// of nothing.
func requireNothing(t *testing.T, ctx context.Context, c collection) {
	t.Helper()
	requireLen(t, ctx, c, 0)
	require.ErrorIs(t, errOf(c.ExpiresIn(ctx)), caches.ErrMiss)
	require.ErrorIs(t, c.Touch(ctx, 0), caches.ErrMiss)
	require.ErrorIs(t, c.Touch(ctx, time.Minute), caches.ErrMiss)
	require.ErrorIs(t, c.Touch(ctx, caches.Forever), caches.ErrMiss)
	require.ErrorIs(t, c.Persist(ctx), caches.ErrMiss)
	require.NoError(t, errOf(c.Delete(ctx)))
	requireLen(t, ctx, c, 0)
}

// Collections end on time, whole. The bubble's clock is locmem's.
func TestCollectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, conn := t.Context(), open(t, "locmem://")
		for _, kind := range kinds {
			c, fill, _, acts := kind.make(conn, caches.Options{Prefix: "end", TTL: ownTTL, TTLPolicy: caches.SlideOnRead}, kind.name)
			require.NoError(t, fill(ctx))
			time.Sleep(ownTTL - time.Second)
			requireLen(t, ctx, c, 3)
			time.Sleep(2 * time.Second) // Len and Exists slide nothing
			requireNothing(t, ctx, c)
			for _, act := range acts {
				if act.effect != reads {
					continue
				}
				require.NoError(t, fill(ctx))
				time.Sleep(ownTTL - time.Second)
				require.NoError(t, act.run(ctx))
				time.Sleep(ownTTL - time.Second)
				requireLen(t, ctx, c, 3) // read in time
				time.Sleep(2 * time.Second)
				requireNothing(t, ctx, c)
			}
		}
	})
}

// Real time, on every backend.
func TestCollectionsExpire(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			c, fill, _, _ := kind.make(conn, caches.Options{Prefix: "expire", TTL: 100 * time.Millisecond}, kind.name)
			require.NoError(t, fill(ctx))
			require.Eventually(t, func() bool {
				exists, err := c.Exists(ctx)
				return err == nil && !exists
			}, 10*time.Second, 10*time.Millisecond)
			requireNothing(t, ctx, c)
		}
	})
}

// onFake reports whether a test runs on the fake Redis, for those few that are
// about what miniredis does otherwise than Redis:
//
//   - HSCAN gives a hash whole, and SSCAN counts members from the first one, so
//     that one which goes hides another;
//   - a set operation that stores an empty result leaves an empty set;
//   - an error within a script loses its code;
//   - HINCRBY goes around beyond int64, and ZINCRBY makes a NaN.
func onFake(t *testing.T) bool { return strings.HasSuffix(t.Name(), "/fake") }

// A trips counts the pipelines that go to a store, and their commands.
type trips struct {
	driver.Store
	pipelines, commands atomic.Int64
}

func (s *trips) Do(ctx context.Context, p *driver.Pipeline) error {
	s.pipelines.Add(1)
	s.commands.Add(int64(p.Len()))
	return s.Store.Do(ctx, p)
}

// countingConn returns a connection whose trips are counted.
func countingConn(t *testing.T) (*caches.Conn, *trips) {
	t.Helper()
	store := &trips{Store: testutil.Memory(t)}
	conn, err := caches.ConnOptions{}.OpenStores(map[string]driver.Store{"counted": store})
	require.NoError(t, err)
	return conn, store
}

// Every operation is one round trip, iterations aside, and with an expiry no
// more than two commands and those of a transaction's one.
func TestCollectionsOneTrip(t *testing.T) {
	ctx := t.Context()
	conn, store := countingConn(t)
	for _, kind := range kinds {
		for _, policy := range []caches.TTLPolicy{caches.RefreshOnWrite, caches.SlideOnRead} {
			c, fill, _, acts := kind.make(conn, caches.Options{Prefix: "trip", TTL: ownTTL, TTLPolicy: policy}, kind.name, policy.String())
			for _, act := range acts {
				require.NoError(t, errOf(c.Delete(ctx)))
				require.NoError(t, fill(ctx))
				store.pipelines.Store(0)
				store.commands.Store(0)
				require.NoError(t, act.run(ctx))
				require.EqualValues(t, 1, store.pipelines.Load(), "%s %s", kind.name, act.name)
				require.LessOrEqual(t, store.commands.Load(), int64(2), "%s %s", kind.name, act.name)
			}
		}
	}
}

// A call without elements is none: it goes nowhere, whatever the state of the
// connection.
func TestCollectionsEmptyCalls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	conn, store := countingConn(t)
	for _, kind := range kinds {
		for _, act := range kind.on(conn, caches.Options{}).key(kind.name).idle {
			require.NoError(t, act.run(ctx), "%s %s", kind.name, act.name)
		}
	}
	require.Zero(t, store.pipelines.Load())
}

// Clear takes the collections under the prefix and no others.
func TestCollectionsClear(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		for _, kind := range kinds {
			for _, prefix := range []string{"clear", "clearer", "cle?r"} {
				for _, key := range []string{"a", "b", "c"} {
					_, fill, _, _ := kind.make(conn, caches.Options{Prefix: prefix}, key)
					require.NoError(t, fill(ctx))
				}
			}
			clearAll := func(prefix string) (int, error) {
				return kind.on(conn, caches.Options{Prefix: prefix}).clear(ctx)
			}
			for prefix, want := range map[string]int{"clear": 3, "cle?r": 3, "clea": 0} {
				n, err := clearAll(prefix)
				require.NoError(t, err)
				require.Equal(t, want, n, prefix)
			}
			_, err := clearAll("")
			require.ErrorContains(t, err, "Prefix")
			for _, key := range []string{"a", "b", "c"} {
				other, _, _, _ := kind.make(conn, caches.Options{Prefix: "clearer"}, key)
				requireLen(t, ctx, other, 3)
				require.NoError(t, errOf(other.Delete(ctx)))
			}
		}
	})
}
