package near

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
)

// The server refuses prefixes of which one begins with another.
func TestPrefixFree(t *testing.T) {
	for _, test := range []struct{ topics, want []string }{
		{[]string{"b", "a"}, []string{"a", "b"}},
		{[]string{"user", "user.team", "users", "use"}, []string{"use"}},
		{[]string{"a", "a"}, []string{"a"}},
		{[]string{"x", ""}, []string{""}},
		{[]string{"a.b", "a-b", "a"}, []string{"a"}},
	} {
		assert.Equal(t, test.want, prefixFree(test.topics), "%q", test.topics)
	}
}

// Invariant 6. A fill is put off until the epoch that it has read is over: values
// that others have kept since depend on the stamp that the server's report reaches.
func TestLateFillTakesNoStamp(t *testing.T) {
	n := New(Config{Stores: make([]driver.Store, 1)})
	n.spaces.Replace(func([]*Space) []*Space { return []*Space{} })
	s := &n.shards[0]
	s.until.Store(int64(time.Hour))
	s.epoch.Store(5) // FLUSHDB, or another connection: it was 3
	key := stampKey{s, "%tag.x"}
	kept := ground{shard: s, epoch: 5, until: int64(time.Hour), stamps: []*stamp{n.stamps.of(key, 5)}}
	late := ground{shard: s, epoch: 3, until: int64(time.Hour), stamps: []*stamp{n.stamps.of(key, 3)}}
	require.True(t, kept.valid(n.now()))
	require.False(t, late.valid(n.now()))
	n.changed(s, []byte("%tag.x"))
	require.False(t, kept.valid(n.now()))
}
