package redigo_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	isMaster  = "*3\r\n$6\r\nmaster\r\n:3129659\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$1\r\n5\r\n"
	isReplica = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$9\r\nconnected\r\n:3167038\r\n"
	isApart   = "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$10\r\nconnecting\r\n:-1\r\n"

	readOnly = "-READONLY You can't write against a read only replica.\r\n"
)

// TestRole dials servers of every role.
func TestRole(t *testing.T) {
	for _, c := range []struct {
		name, reply string
		role        redigo.Role
		want        string // part of the error, empty for none
	}{
		{"master", isMaster, redigo.Master, ""},
		{"replica", isReplica, redigo.Replica, ""},
		{"another", isReplica, redigo.Master, "not a master"},
		{"the other", isMaster, redigo.Replica, "not a replica"},
		{"apart", isApart, redigo.Replica, "not connected to its master"},
		{"short", "*1\r\n$5\r\nslave\r\n", redigo.Replica, "not connected to its master"},
		{"Sentinel", "*2\r\n$8\r\nsentinel\r\n*0\r\n", redigo.Master, "not a master"},
		{"empty", "*0\r\n", redigo.Master, "has no role"},
		{"odd", ":1\r\n", redigo.Master, "has no role"},
		{"odder", "*1\r\n:1\r\n", redigo.Master, "not a master"},
		{"no right", "-NOPERM this user has no permissions to run the 'role' command\r\n", redigo.Master, "ROLE: caches: server says NOPERM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(_ int, cmd []string) string {
				if cmd[0] == "ROLE" {
					return c.reply
				}
				return "+OK\r\n"
			})
			s := open(t, redigo.Config{Address: server.addr, Role: c.role, Timeout: 300 * time.Millisecond})
			for _, mode := range []driver.Mode{0, driver.Own} {
				reply, err := run(s, mode, "GET", "k")
				if c.want == "" {
					require.NoError(t, err)
					assert.Equal(t, "+OK\r\n", reply)
					continue
				}
				require.ErrorIs(t, err, driver.ErrUnavailable)
				assert.ErrorContains(t, err, c.want)
				assert.Zero(t, server.count("GET k"))
			}
		})
	}
	_, err := redigo.Open(redigo.Config{Address: "localhost:6379", Role: 9})
	require.Error(t, err)
	assert.Equal(t, "any master replica unknown", redigo.AnyRole.String()+" "+redigo.Master.String()+" "+redigo.Replica.String()+" "+redigo.Role(9).String())
}

// TestRefusedByFormerMaster has a server refuse writes, once on each connection:
// they are sent again over another one.
func TestRefusedByFormerMaster(t *testing.T) {
	for _, role := range []redigo.Role{redigo.Master, redigo.AnyRole} {
		server := serve(t, func(conn int, cmd []string) string {
			switch {
			case cmd[0] == "ROLE":
				return isMaster
			case conn == 0 && cmd[0] == "INCR":
				return readOnly
			}
			return ":1\r\n"
		})
		s := open(t, redigo.Config{Address: server.addr, Role: role})
		must(t, s, "TTL", "k")
		reply, err := run(s, 0, "INCR", "k")
		require.NoError(t, err)
		if role == redigo.Master {
			assert.Equal(t, ":1\r\n", reply)
			assert.Equal(t, 2, server.count("INCR k"))
			assert.EqualValues(t, 2, s.Stats().Dials)
		} else {
			assert.Equal(t, readOnly, reply, "without a Role the refusal is returned")
		}
	}
}

// TestRefusedInPart has a server refuse part of a Pipeline, and no other server
// to send that part to: the replies say which commands ran.
func TestRefusedInPart(t *testing.T) {
	server := serve(t, func(conn int, cmd []string) string {
		switch {
		case cmd[0] == "ROLE" && conn == 0:
			return isMaster
		case cmd[0] == "ROLE":
			return isReplica
		case cmd[0] == "INCR":
			return readOnly
		}
		return ":7\r\n"
	})
	s := open(t, redigo.Config{Address: server.addr, Role: redigo.Master, Timeout: 200 * time.Millisecond})
	p := driver.NewPipeline(0)
	defer p.Free()
	add(p, "TTL", "k")
	add(p, "INCR", "k")
	require.NoError(t, s.Do(t.Context(), p))
	assert.Equal(t, ":7\r\n"+readOnly, string(p.Replies().Raw()))
}

// TestResolve checks that each dial asks Resolve.
func TestResolve(t *testing.T) {
	a := serve(t, func(int, []string) string { return bulk("a") })
	b := serve(t, func(int, []string) string { return bulk("b") })
	at := make(chan string, 2)
	at <- a.addr
	at <- b.addr
	s := open(t, redigo.Config{Resolve: func(context.Context) (string, error) { return <-at, nil }})
	assert.Equal(t, "redis (resolved)", s.String())
	assert.Equal(t, bulk("a"), must(t, s, "GET", "k"))
	s.Drop(errors.New("it has moved"))
	assert.Equal(t, bulk("b"), must(t, s, "GET", "k"))
}

// TestResolveFails checks that the error of Resolve is returned.
func TestResolveFails(t *testing.T) {
	s := open(t, redigo.Config{Address: "somewhere", Resolve: func(ctx context.Context) (string, error) {
		_, timed := ctx.Deadline()
		assert.True(t, timed)
		return "", errors.New("nobody knows")
	}})
	assert.Equal(t, "redis somewhere", s.String())
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "nobody knows")
}

// TestResolveTLS checks that TLS verifies the name of the resolved host.
func TestResolveTLS(t *testing.T) {
	r := testutil.Redis(t, &testutil.RedisOptions{TLS: true})
	config := r.TLSConfig()
	config.ServerName = ""
	s := open(t, redigo.Config{TLS: config, Resolve: func(context.Context) (string, error) { return r.Addr(), nil }})
	must(t, s, "PING")
}

func TestResolveConfig(t *testing.T) {
	resolve := func(context.Context) (string, error) { return "", nil }
	for _, c := range []redigo.Config{
		{Resolve: resolve, Network: "unix"},
		{Resolve: resolve, Address: "redis://user:hunter2@host"},
	} {
		_, err := redigo.Open(c)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "hunter2")
		assert.NotContains(t, c.String(), "hunter2")
	}
}
