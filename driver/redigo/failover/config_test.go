package failover_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOpenRefuses checks that the error names the invalid field and repeats no
// secret.
func TestOpenRefuses(t *testing.T) {
	good := failover.Config{Sentinels: []string{"s1:26379"}, Master: "mymaster"}
	for want, change := range map[string]func(c *failover.Config){
		"there are no Sentinels": func(c *failover.Config) { c.Sentinels = nil },
		"one of the Sentinels":   func(c *failover.Config) { c.Sentinels = append(c.Sentinels, "redis://:hunter2@s2:26379") },
		"not host:port":          func(c *failover.Config) { c.Sentinels = []string{"hunter2"} },
		"there is no Master":     func(c *failover.Config) { c.Master = "" },
		"Master may contain":     func(c *failover.Config) { c.Master = "hunter2@" },
		"Network, Address":       func(c *failover.Config) { c.Node.Address = "hunter2:1" },
		"Resolve, Role":          func(c *failover.Config) { c.Node.Role = redigo.Replica },
		"ReadOnly and":           func(c *failover.Config) { c.Node.ReadOnly = true },
		"and Refusals":           func(c *failover.Config) { c.Node.Refusals = true },
		"must be empty": func(c *failover.Config) {
			c.Node.Resolve = func(context.Context) (string, error) { return "", nil }
		},
		"Credentials": func(c *failover.Config) {
			c.Node.Password = "hunter2"
			c.Node.Credentials = func(context.Context) (redigo.Credentials, error) { return redigo.Credentials{}, nil }
		},
		"negative":   func(c *failover.Config) { c.Node.DB = -1 },
		"ClientName": func(c *failover.Config) { c.Node.ClientName = "a b" },
	} {
		c := good
		change(&c)
		_, err := failover.Open(c)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

// TestPrintsNoSecret prints a Config and a Store in every way.
func TestPrintsNoSecret(t *testing.T) {
	c := failover.Config{
		Sentinels: []string{"s1:26379", "s2:26379"}, Master: "mymaster",
		SentinelUsername: "hunter2", SentinelPassword: "hunter2",
		Node: redigo.Config{Username: "hunter2", Password: "hunter2", DB: 3},
	}
	bad := c
	bad.Sentinels = []string{"redis://:hunter2@s1"}
	s := open(t, failover.Config{Sentinels: c.Sentinels, SentinelPassword: "hunter2", Node: c.Node})
	text, err := json.Marshal([]any{c, &c, bad})
	require.NoError(t, err)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "config", c, "store", s)
	all := fmt.Sprintf("%v %+v %#v %s %q %d %v %+v %#v %s %x %v", c, c, c, c, c, c, &c, s, s, s, s, bad) + string(text) + log.String()
	assert.NotContains(t, all, "hunter2")
	assert.Contains(t, all, "failover.Config(mymaster by s1:26379,s2:26379/3)")
	assert.Contains(t, all, "redis mymaster (failover)")
}

// TestCredentials checks that Sentinels and nodes get only their own
// credentials.
func TestCredentials(t *testing.T) {
	m := master(t)
	answers := m.answer
	m.say(func(cmd []string) string {
		if cmd[0] == "AUTH" || cmd[0] == "CLIENT" || cmd[0] == "SELECT" {
			return "+OK\r\n"
		}
		return answers(cmd)
	})
	one := serve(t, func(cmd []string) string {
		if cmd[0] == "AUTH" || cmd[0] == "CLIENT" {
			return "+OK\r\n"
		}
		return says{master: m.addr, epoch: 1}.answer(cmd)
	})
	s := open(t, failover.Config{
		Sentinels: []string{one.addr}, SentinelUsername: "watcher", SentinelPassword: "ours",
		Node: redigo.Config{Username: "app", Password: "theirs", ClientName: "shop", DB: 2},
	})
	must(t, s, "GET", "k")
	assert.Positive(t, one.count("auth watcher ours"))
	assert.Positive(t, one.count("client setname shop"))
	assert.Zero(t, one.count("auth app theirs")+one.count("select 2"))
	assert.Equal(t, 1, m.count("auth app theirs"))
	assert.Equal(t, 1, m.count("select 2"))
	assert.Zero(t, m.count("auth watcher ours"))
}
