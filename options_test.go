package caches_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

func TestTTLPolicyString(t *testing.T) {
	require.Equal(t, "write", caches.RefreshOnWrite.String())
	require.Equal(t, "creation", caches.FromCreation.String())
	require.Equal(t, "read", caches.SlideOnRead.String())
	require.Equal(t, "TTLPolicy(9)", caches.TTLPolicy(9).String())
}

// Options in code are read at each operation: a connection may be configured
// after the variable that names it was made.
func TestOptionsConnectionByName(t *testing.T) {
	const name = "options-test"
	c := caches.Cache[int]{Prefix: "late", Connection: name}.Key("x")
	_, err := c.Get(t.Context())
	require.ErrorIs(t, err, caches.ErrNoConnection)
	require.ErrorContains(t, err, name)
	conn := open(t, "locmem://")
	caches.Default().SetConnection(name, conn)
	t.Cleanup(func() { caches.Default().SetConnection(name, nil) })
	require.NoError(t, c.Set(t.Context(), 1))
	v, err := caches.Cache[int]{Prefix: "late"}.On(conn).Key("x").Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, v)
}

func TestVersionsAreSets(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://?version=v1&prefix=app")
	version := func(v string) caches.Value[int] {
		return caches.Cache[int]{Prefix: "p", Version: v, TTL: time.Hour}.On(conn).Key("x")
	}
	require.Equal(t, "app.v1.p.x", version("").String(), "the connection's")
	require.Equal(t, "app.v2.p.x", version("v2").String())
	require.NoError(t, version("").Set(ctx, 1))
	require.NoError(t, version("v2").Set(ctx, 2))
	v, err := version("v1").Get(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, v)
	many, err := caches.GetMany(ctx, caches.Cache[int]{Prefix: "p", Version: "v2"}.On(conn), []string{"x"})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"x": 2}, many)
}
