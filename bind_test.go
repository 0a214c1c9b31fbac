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
	caches.Dict[string, string]
}

func (s session) user(ctx context.Context) (string, error) { return s.Get(ctx, "user") }

type mailGate struct{ caches.Sentinel }

type userCaches struct {
	Profile caches.Value[account]    `caches:"profile,ttl=1h"`
	Visits  caches.Counter[int]      `caches:"visits,ttl=24h,policy=creation"`
	Prefs   caches.Dict[string, int] `caches:",ttl=forever,serializer=gob"`
	Roles   caches.Set[string]       `caches:"roles,version=v2"`
	Board   caches.SortedSet[string] `caches:"a.b,connection=leaderboards"`
	Events  caches.List[string]      `caches:"events,ttl=1h"`
	Welcome caches.Sentinel          `caches:"welcome,ttl=720h,lease=2m"`
	Session session                  `caches:"session,policy=read,ttl=30m"`
	Mail    mailGate                 `caches:"mail,lease=1m"`

	Left   caches.Value[int] `caches:"-"`
	Name   string
	Plain  struct{ C caches.Value[int] }
	hidden caches.Value[int]
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
		"user.42.events":        u.Events.On(conn),
		"user.42.welcome":       u.Welcome.On(conn),
		"user.42.session":       u.Session.On(conn),
		"user.42.mail":          u.Mail.On(conn),
		"user.42.profile.photo": u.Profile.On(conn).Key("photo"),
	} {
		require.Equal(t, want, key.String())
	}
	require.Equal(t, time.Hour, caches.OptionsOf(&u.Profile).TTL)
	require.Equal(t, caches.FromCreation, caches.OptionsOf(&u.Visits).TTLPolicy)
	require.Equal(t, caches.Forever, caches.OptionsOf(&u.Prefs).TTL)
	require.Equal(t, caches.Gob, caches.OptionsOf(&u.Prefs).Serializer)
	require.Equal(t, "v2", caches.OptionsOf(&u.Roles).Version)
	require.Equal(t, "leaderboards", caches.OptionsOf(&u.Board).Connection)
	require.Equal(t, 2*time.Minute, caches.LeaseOf(&u.Welcome))
	require.Equal(t, caches.SlideOnRead, caches.OptionsOf(&u.Session).TTLPolicy)
	require.Equal(t, time.Minute, caches.LeaseOf(&u.Mail), "a struct that embeds a gate is one")
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

		require.NoError(t, u.Profile.Key("photo").Set(ctx, account{}))
		_, err = other.Profile.Key("photo").Get(ctx)
		require.ErrorIs(t, err, caches.ErrMiss, "objects under a bound object are its own")
	})
}

func TestBindIntoKeepsPresets(t *testing.T) {
	ctx, conn := t.Context(), open(t, "locmem://")
	own := hexSerializer{}
	type set struct {
		Value caches.Value[string] `caches:"value,ttl=1h,policy=creation,connection=x,version=v1,serializer=json"`
		Gate  caches.Sentinel      `caches:"gate,lease=1h,ttl=1h"`
		Plain caches.Value[string] `caches:"plain,ttl=1h"`
	}
	s := set{
		Value: caches.Cache[string]{
			Prefix: "app", TTL: time.Minute, TTLPolicy: caches.SlideOnRead, Connection: "y", Version: "v9", Serializer: own,
		}.On(conn).Key(),
		Gate: caches.SentinelCache{Lease: time.Minute, TTL: caches.Forever}.Key(),
	}
	require.NoError(t, caches.BindInto(&s, "user", 1))
	o := caches.OptionsOf(&s.Value)
	require.Equal(t, time.Minute, o.TTL)
	require.Equal(t, caches.SlideOnRead, o.TTLPolicy)
	require.Equal(t, "y", o.Connection)
	require.Equal(t, "v9", o.Version)
	require.Equal(t, own, o.Serializer)
	require.Equal(t, time.Minute, caches.LeaseOf(&s.Gate))
	require.Equal(t, caches.Forever, caches.OptionsOf(&s.Gate).TTL)
	require.Equal(t, time.Hour, caches.OptionsOf(&s.Plain).TTL, "what is not set is the tag's")
	require.Equal(t, "v9.app.user.1.value", s.Value.String(), "pinned, and under its own prefix")
	require.NoError(t, s.Value.Set(ctx, "x"))
	reply, err := conn.Do(ctx, "GET", "v9.app.user.1.value")
	require.NoError(t, err)
	require.Equal(t, []byte("78"), reply)
}

func TestBindErrors(t *testing.T) {
	type one struct {
		C caches.Value[int] `caches:"c"`
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
	fails(err, "needs a struct, not a int")
	_, err = caches.Bind[*one]("x")
	fails(err, "needs a struct, not a *caches_test.one")
	fails(caches.BindInto[one](nil, "x"), "nil *caches_test.one")
	_, err = caches.Bind[struct{ Name string }]("x")
	fails(err, "no exported field of a cache type")

	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,ttl=soon"`
	}]("x")
	fails(err, `field C: the option ttl: "soon" is not a duration such as 90s, 1h30m or forever`)
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,ttl=0"`
	}]("x")
	fails(err, "leave it out")
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,ttl=-1h"`
	}]("x")
	fails(err, "leave it out")
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,ttl"`
	}]("x")
	fails(err, "is not a duration")
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,policy=sliding"`
	}]("x")
	fails(err, `"sliding" is not one of write, creation, read`)
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,serializer=xml"`
	}]("x")
	fails(err, `"xml" is not one of json, raw, gob`)
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,size=3"`
	}]("x")
	fails(err, `"size" is not one of ttl, policy, connection, version, serializer, lease`)
	_, err = caches.Bind[struct {
		C caches.Value[int] `caches:"c,lease=1m"`
	}]("x")
	fails(err, "lease is for a Sentinel")
	_, err = caches.Bind[struct {
		C caches.Sentinel `caches:"c,lease=forever"`
	}]("x")
	fails(err, "lease")
}

// Two fields must not be one object without anybody having said so.
func TestBindRefusesOneKeyTwice(t *testing.T) {
	type twice struct {
		URL caches.Value[int]
		Url caches.Set[int]
	}
	_, err := caches.Bind[twice]("x")
	require.ErrorContains(t, err, "fields URL and Url have the same key, x.url")
	type apart struct {
		A caches.Value[int] `caches:"c,connection=a"`
		B caches.Value[int] `caches:"c,connection=b"`
		C caches.Value[int] `caches:"c,version=v2"`
	}
	_, err = caches.Bind[apart]("x")
	require.NoError(t, err, "on other connections, and in other versions, it is another")
}

func TestBindIntoRefusesBoundFields(t *testing.T) {
	u, err := caches.Bind[userCaches]("user", 42)
	require.NoError(t, err)
	require.ErrorContains(t, caches.BindInto(&u, "user", 43), "bound already")
	type one struct{ C caches.Value[int] }
	o := one{caches.Cache[int]{Prefix: "p"}.Key("mine")}
	require.ErrorContains(t, caches.BindInto(&o, "x"), "field C")
	bad := one{caches.Cache[int]{}.Key(nil)}
	require.ErrorContains(t, caches.BindInto(&bad, "x"), "field C")
}
