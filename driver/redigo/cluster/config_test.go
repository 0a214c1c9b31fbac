package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

// Open rejects an invalid Config without dialling.
func TestOpenChecks(t *testing.T) {
	seeds := []string{"127.0.0.1:1"}
	for want, c := range map[string]cluster.Config{
		"there are no Seeds":     {},
		"not host:port":          {Seeds: []string{"127.0.0.1:1", "u:hunter2@h"}},
		"Seeds is not host:port": {Seeds: []string{"h@x:1"}},
		"Network and Node.Addr":  {Seeds: seeds, Node: redigo.Config{Address: "x:1"}},
		"DB must be 0":           {Seeds: seeds, Node: redigo.Config{DB: 1}},
		"the cluster sets them":  {Seeds: seeds, Node: redigo.Config{ReadOnly: true}},
		"must not be negative":   {Seeds: seeds, Node: redigo.Config{Timeout: -1}},
		"Credentials":            {Seeds: seeds, Node: redigo.Config{Password: "hunter2", Credentials: func(context.Context) (redigo.Credentials, error) { return redigo.Credentials{}, nil }}},
	} {
		_, err := cluster.Open(c)
		require.ErrorContains(t, err, "cluster.Config")
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	s, err := cluster.Open(cluster.Config{Seeds: seeds})
	require.NoError(t, err)
	assert.Equal(t, driver.Stats{}, s.Stats())
	assert.NoError(t, s.Close())
}

// No way of printing a Config or a Store shows the password.
func TestNoSecretIsShown(t *testing.T) {
	c := cluster.Config{Seeds: []string{"127.0.0.1:1", "127.0.0.1:2"}, Node: redigo.Config{Username: "u", Password: "hunter2"}}
	s := open(t, c)
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "config", c, "store", s)
	encoded, err := json.Marshal(c)
	require.NoError(t, err)
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v %s %q %d", c, c, c, c, c, c), fmt.Sprintf("%v %+v %#v %s", &c, &c, &c, &c),
		fmt.Sprintf("%v %+v %#v %s", s, s, s, s), logged.String(), string(encoded), c.GoString(),
	} {
		assert.NotContains(t, text, "hunter2")
		assert.Contains(t, text, "127.0.0.1:1 127.0.0.1:2")
	}
	c.Seeds = []string{"redis://u:hunter2@h"}
	assert.Equal(t, "cluster.Config(invalid seeds)", c.String())
}
