package caches

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEnvelope(t *testing.T) {
	made := envelope{
		negative: true, kept: true, created: time.UnixMilli(1_700_000_000_123), ttl: time.Hour, cost: 17 * time.Microsecond,
		stamps: []stamp{newStamp(), newStamp(), newStamp()},
	}
	data := made.append(nil, "p.", "k", []byte("payload"))
	require.True(t, enveloped(data))
	got, err := openEnvelope("p.", "k", data)
	require.NoError(t, err)
	made.payload = []byte("payload")
	require.Equal(t, made, got)
	_, err = openEnvelope("p.k", "", data)
	require.NoError(t, err, "the hash is of the full key")
	_, err = openEnvelope("p.", "other", data)
	require.Equal(t, errOther, err, "another key's value is never served")

	for n := range len(data) - len("payload") {
		if short := data[:n]; enveloped(short) {
			_, err := openEnvelope("p.", "k", short)
			require.Equal(t, errShort, err)
		}
	}
	future := bytes.Clone(data)
	future[2]++
	_, err = openEnvelope("p.", "k", future)
	require.Equal(t, errFormat, err)
}

// FuzzEnvelope holds that whatever is stored is opened or refused, and that what
// is opened holds no more than there was.
func FuzzEnvelope(f *testing.F) {
	e := envelope{created: time.UnixMilli(1), ttl: time.Second, stamps: []stamp{{1}, {2}}}
	f.Add(e.append(nil, "", "k", []byte("payload")))
	f.Add(e.append(nil, "", "k", nil)[:envelopeHead])
	f.Add([]byte{0xCA, 0x5E})
	f.Fuzz(func(t *testing.T, data []byte) {
		if !enveloped(data) {
			return
		}
		e, err := openEnvelope("", "k", data)
		if err != nil {
			require.Zero(t, e.payload)
			return
		}
		require.Equal(t, len(data), envelopeHead+len(e.stamps)*len(stamp{})+len(e.payload))
		require.GreaterOrEqual(t, e.ttl, time.Duration(0))
		require.GreaterOrEqual(t, e.cost, time.Duration(0))
	})
}

// Side keys live in the slot of their key, for who divides keys by hash tags.
func TestSideKeys(t *testing.T) {
	conn, err := Open("locmem://?node=a", "locmem://?node=b", "locmem://?node=c", "locmem://?node=d", "locmem://?node=e")
	require.NoError(t, err)
	defer conn.Close()
	for _, key := range []string{"profile.42", "{user:7}.cart", "a{b}c", "plain", "x.{t}"} {
		for _, front := range []string{"", "app.", "app.{v}."} {
			side := sideKey(front, key, leaseEnd)
			require.Equal(t, conn.ShardOf(front+key), conn.ShardOf(side), "%s and %s", front+key, side)
			require.NotEqual(t, front+key, side)
			require.True(t, len(side) > len(front) && side[:len(front)] == front, "behind the same front")
		}
	}
}
