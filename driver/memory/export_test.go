package memory

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Stored returns the number of keys in memory, including expired ones.
func Stored(s *Store) int {
	s.space.mu.RLock()
	defer s.space.mu.RUnlock()
	return len(s.space.order)
}

// SetMaxString sets the length limit of APPEND.
func SetMaxString(s *Store, n int) { s.space.maxString = n }

// Commands returns the names of all commands.
func Commands() []string { return slices.Sorted(maps.Keys(commands)) }

// Check checks that the fields of the space are consistent with each other.
func Check(t testing.TB, st *Store) {
	t.Helper()
	s := st.space
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	require.Len(t, s.order, len(s.keys))
	bounded, expiring := 0, 0
	for i, e := range s.order {
		require.Same(t, e, s.keys[e.key])
		require.Equal(t, i, e.at)
		require.Equal(t, e.deadline != 0, e.slot >= 0)
		if e.slot >= 0 {
			require.Same(t, e, s.expiring[e.slot])
			expiring++
		}
		in, ok := s.policy.GetEntryQuietly(e.key)
		require.Equal(t, !e.kept, ok, "%q is in the policy unless it is kept", e.key)
		if ok {
			require.Same(t, e, in.Value)
			bounded++
		}
		checkObject(t, e)
	}
	require.Len(t, s.expiring, expiring)
	require.Equal(t, bounded, s.bounded)
	require.Equal(t, bounded, s.policy.EstimatedSize())
	require.LessOrEqual(t, bounded, s.max)
	for i := 1; i < len(s.expiring); i++ {
		require.LessOrEqual(t, s.expiring[(i-1)/2].deadline, s.expiring[i].deadline, "the heap is none")
	}
}

func checkObject(t testing.TB, e *entry) {
	t.Helper()
	switch object := e.object.(type) {
	case nil: // a string
	case *hash:
		checkTable(t, &object.table)
	case *set:
		checkTable(t, &object.table)
	case *list:
		require.NotZero(t, object.len(), "a collection without elements has no key")
		require.LessOrEqual(t, object.len(), len(object.ring))
		require.True(t, len(object.ring) <= 64 || object.len() >= len(object.ring)/4, "%d of %d", object.len(), len(object.ring))
		for i := object.len(); i < len(object.ring); i++ {
			require.Empty(t, *object.slot(i), "released")
		}
	case *zset:
		checkTable(t, &object.table)
		require.Equal(t, object.len(), object.tree.Len())
		for _, it := range object.items {
			_, ok := object.tree.Get(scored{it.value, it.name})
			require.True(t, ok, it.name)
		}
	default:
		t.Fatalf("no check of a %T", object)
	}
}

func checkTable[V any](t testing.TB, tb *table[V]) {
	t.Helper()
	require.NotZero(t, tb.len(), "a collection without elements has no key")
	require.Len(t, tb.at, tb.len())
	for i, it := range tb.items {
		require.Equal(t, i, tb.at[it.name])
	}
}
