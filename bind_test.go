package caches_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches"
)

// session is an object of a user's own: a struct with a cache object inside.
type session struct {
	caches.DictCache[string, string]
}

func (s session) user(ctx context.Context) (string, error) { return s.Get(ctx, "user") }

type mailGate struct{ caches.SentinelCache }

type userCaches struct {
	Profile caches.Cache[account]         `caches:"profile,ttl=1h"`
	Visits  caches.CounterCache[int]      `caches:"visits,ttl=24h,policy=creation"`
	Prefs   caches.DictCache[string, int] `caches:",ttl=forever,serializer=gob"`
	Roles   caches.SetCache[string]       `caches:"roles,version=v2"`
	Board   caches.SortedSetCache[string] `caches:"a.b,connection=leaderboards"`
	Welcome caches.SentinelCache          `caches:"welcome,ttl=720h,lease=2m"`
	Session session                       `caches:"session,policy=read,ttl=30m"`
	Mail    mailGate                      `caches:"mail,lease=1m"`

	Left   caches.Cache[int] `caches:"-"`
	Name   string
	Plain  struct{ C caches.Cache[int] }
	hidden caches.Cache[int]
}

func TestBind(t *testing.T) {
	conn := open(t, "locmem://")
	u, err := caches.Bind[userCaches]("user", 42)
	require.NoError(t, err)
	for want, key := range map[string]interface{ String() string }{
		"user.42.profile":       u.Profile.On(conn),
		"user.42.visits":        u.Visits.On(conn),
		"user.42.prefs":         u.Prefs.On(conn), // the field's name where the tag has none
		"v2.user.42.roles":      u.Roles.On(conn),
		"user.42.a%2Eb":         u.Board.On(conn),
		"user.42.welcome":       u.Welcome.On(conn),
		"user.42.session":       u.Session.On(conn),
		"user.42.mail":          u.Mail.On(conn),
		"user.42.profile.photo": u.Profile.On(conn).Key("photo"),
	} {
		require.Equal(t, want, key.String())
	}
	require.Equal(t, time.Hour, u.Profile.Options.TTL)
	require.Equal(t, caches.FromCreation, u.Visits.Options.TTLPolicy)
	require.Equal(t, caches.Forever, u.Prefs.Options.TTL)
	require.Equal(t, caches.Gob, u.Prefs.Options.Serializer)
	require.Equal(t, "v2", u.Roles.Options.Version)
	require.Equal(t, "leaderboards", u.Board.Options.Connection)
	require.Equal(t, 2*time.Minute, u.Welcome.Lease)
	require.Equal(t, caches.SlideOnRead, u.Session.Options.TTLPolicy)
	require.Equal(t, time.Minute, u.Mail.Lease, "a struct that embeds a gate is one")
	require.Zero(t, u.Left)
	require.Zero(t, u.Plain)
	require.Zero(t, u.hidden)
}

// Bound objects work, with the options of their tags.
func TestBindObjectsWork(t *testing.T) {
	eachBackend(t, func(t *testing.T, ctx context.Context, conn *caches.Conn) {
		ctx = caches.WithConn(ctx, conn)
		u, err := caches.Bind[userCaches]("user", "a.b")
		require.NoError(t, err)
		require.NoError(t, u.Profile.Set(ctx, account{Name: "Ada"}))
		expires(t, ctx, u.Profile, time.Hour, "ttl=1h")
		_, err = u.Visits.Incr(ctx, 1)
		require.NoError(t, err)
		require.NoError(t, u.Visits.Touch(ctx, touch))
		_, err = u.Visits.Incr(ctx, 1)
		require.NoError(t, err)
		expires(t, ctx, u.Visits, touch, "policy=creation")
		require.NoError(t, u.Prefs.Set(ctx, "theme", 1))
		expires(t, ctx, u.Prefs, caches.Forever, "ttl=forever")
		require.NoError(t, u.Session.Set(ctx, "user", "ada"))
		require.NoError(t, u.Session.Touch(ctx, touch))
		name, err := u.Session.user(ctx)
		require.NoError(t, err)
		require.Equal(t, "ada", name)
		expires(t, ctx, u.Session, 30*time.Minute, "policy=read")
		first, err := u.Welcome.Once(ctx)
		require.NoError(t, err)
		require.True(t, first)

		other, err := caches.Bind[userCaches]("user", "a", "b")
		require.NoError(t, err)
		_, err = other.Profile.Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss, "other parts are another key")

		// Clear of a bound object is of what lies under its own key.
		require.NoError(t, u.Profile.Key("photo").Set(ctx, account{}))
		require.NoError(t, other.Profile.Set(ctx, account{}))
		n, err := u.Profile.Clear(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		_, err = other.Profile.Get(ctx)
		require.NoError(t, err)
	})
}

func TestBindIntoKeepsPresets(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	own := hexSerializer{}
	type set struct {
		Value caches.Cache[string] `caches:"value,ttl=1h,policy=creation,connection=x,version=v1,serializer=json"`
		Gate  caches.SentinelCache `caches:"gate,lease=1h,ttl=1h"`
		Plain caches.Cache[string] `caches:"plain,ttl=1h"`
	}
	s := set{
		Value: caches.Cache[string]{Options: caches.Options{
			Prefix: "app", TTL: time.Minute, TTLPolicy: caches.SlideOnRead, Connection: "y", Version: "v9", Serializer: own,
		}}.On(conn),
		Gate: caches.SentinelCache{Lease: time.Minute, Options: caches.Options{TTL: caches.Forever}},
	}
	require.NoError(t, caches.BindInto(&s, "user", 1))
	o := s.Value.Options
	require.Equal(t, time.Minute, o.TTL)
	require.Equal(t, caches.SlideOnRead, o.TTLPolicy)
	require.Equal(t, "y", o.Connection)
	require.Equal(t, "v9", o.Version)
	require.Equal(t, own, o.Serializer)
	require.Equal(t, time.Minute, s.Gate.Lease)
	require.Equal(t, caches.Forever, s.Gate.Options.TTL)
	require.Equal(t, time.Hour, s.Plain.Options.TTL, "what is not set is the tag's")
	require.Equal(t, "v9.app.user.1.value", s.Value.String(), "pinned, and under its own prefix")
	require.NoError(t, s.Value.Set(ctx, "x"))
	reply, err := conn.Do(ctx, "GET", "v9.app.user.1.value")
	require.NoError(t, err)
	require.Equal(t, []byte("78"), reply)
}

func TestBindErrors(t *testing.T) {
	type one struct {
		C caches.Cache[int] `caches:"c"`
	}
	fails := func(err error, want string) {
		t.Helper()
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "Bind")
	}
	_, err := caches.Bind[one]()
	fails(err, "the key is empty")
	_, err = caches.Bind[one]("user", nil)
	fails(err, "part 2 of the key")
	_, err = caches.Bind[int]("x")
	fails(err, "wants a struct, not a int")
	_, err = caches.Bind[*one]("x")
	fails(err, "wants a struct, not a *caches_test.one")
	fails(caches.BindInto[one](nil, "x"), "nil *caches_test.one")
	_, err = caches.Bind[struct{ Name string }]("x")
	fails(err, "no exported field of a cache type")

	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,ttl=soon"`
	}]("x")
	fails(err, `field C: the option ttl: "soon" is not a duration such as 90s, 1h30m or forever`)
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,ttl=0"`
	}]("x")
	fails(err, "leave it out")
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,ttl=-1h"`
	}]("x")
	fails(err, "leave it out")
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,ttl"`
	}]("x")
	fails(err, "is not a duration")
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,policy=sliding"`
	}]("x")
	fails(err, `"sliding" is not one of write, creation, read`)
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,serializer=xml"`
	}]("x")
	fails(err, `"xml" is not one of json, raw, gob`)
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,size=3"`
	}]("x")
	fails(err, `"size" is not one of ttl, policy, connection, version, serializer, lease`)
	_, err = caches.Bind[struct {
		C caches.Cache[int] `caches:"c,lease=1m"`
	}]("x")
	fails(err, "lease is for a SentinelCache")
	_, err = caches.Bind[struct {
		C caches.SentinelCache `caches:"c,lease=forever"`
	}]("x")
	fails(err, "lease")
}

// Two fields must not be one object without anybody having said so.
func TestBindRefusesOneKeyTwice(t *testing.T) {
	type twice struct {
		URL caches.Cache[int]
		Url caches.SetCache[int]
	}
	_, err := caches.Bind[twice]("x")
	require.ErrorContains(t, err, "fields URL and Url have the same key, x.url")
	type apart struct {
		A caches.Cache[int] `caches:"c,connection=a"`
		B caches.Cache[int] `caches:"c,connection=b"`
		C caches.Cache[int] `caches:"c,version=v2"`
	}
	_, err = caches.Bind[apart]("x")
	require.NoError(t, err, "on other connections, and in other versions, it is another")
}

func TestBindIntoRefusesBoundFields(t *testing.T) {
	u, err := caches.Bind[userCaches]("user", 42)
	require.NoError(t, err)
	require.ErrorContains(t, caches.BindInto(&u, "user", 43), "bound already")
	type one struct{ C caches.Cache[int] }
	o := one{caches.Cache[int]{Options: caches.Options{Prefix: "p"}}.Key("mine")}
	require.ErrorContains(t, caches.BindInto(&o, "x"), "field C")
	bad := one{caches.Cache[int]{}.Key(nil)}
	require.ErrorContains(t, caches.BindInto(&bad, "x"), "field C")
}
