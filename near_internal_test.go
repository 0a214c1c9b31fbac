package caches

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

// TestLateFillTakesNoStamp puts a fill off until the epoch that it has read is
// over: what another one has made since stands on the stamp that the server's
// word reaches.
func TestLateFillTakesNoStamp(t *testing.T) {
	n := &nearConn{shards: make([]nearShard, 1), base: time.Now()}
	n.spaces.Store(&[]*nearSpace{})
	s := &n.shards[0]
	s.until.Store(int64(time.Hour))
	s.epoch.Store(5) // FLUSHDB, or another connection: it was 3
	key := nearStampKey{s, "%tag.x"}
	kept := nearGround{shard: s, epoch: 5, until: int64(time.Hour), stamps: []*nearStamp{n.stamp(key, 5)}}
	late := nearGround{shard: s, epoch: 3, until: int64(time.Hour), stamps: []*nearStamp{n.stamp(key, 3)}}
	require.True(t, kept.valid(n.now()))
	require.False(t, late.valid(n.now()))
	n.changed(s, []byte("%tag.x"))
	require.False(t, kept.valid(n.now()))
}
