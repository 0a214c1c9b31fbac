package layout

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/internal/move"
	"github.com/gocaches/caches/internal/route"
)

func TestEntry(t *testing.T) {
	made := Entry{
		Negative: true, Kept: true, Created: time.UnixMilli(1_700_000_000_123), TTL: time.Hour, Cost: 17 * time.Microsecond,
		Stamps: []Stamp{NewStamp(), NewStamp(), NewStamp()},
	}
	data := made.Append(nil, "p.", "k", []byte("payload"))
	require.True(t, IsEntry(data))
	require.Equal(t, string(data[:12]), ID(data))
	require.Equal(t, "ab", ID([]byte("ab")))
	got, err := Open("p.", "k", data)
	require.NoError(t, err)
	made.Payload = []byte("payload")
	require.Equal(t, made, got)
	_, err = Open("p.k", "", data)
	require.NoError(t, err, "the hash is of the full key")
	_, err = Open("p.", "other", data)
	require.Equal(t, ErrOther, err, "another key's value is never served")

	for n := range len(data) - len("payload") {
		if short := data[:n]; IsEntry(short) {
			_, err := Open("p.", "k", short)
			require.Equal(t, ErrShort, err)
		}
	}
	future := bytes.Clone(data)
	future[2]++
	_, err = Open("p.", "k", future)
	require.Equal(t, ErrFormat, err)
}

// FuzzEntry holds that whatever is stored is opened or refused, and that what
// is opened holds no more than there was.
func FuzzEntry(f *testing.F) {
	e := Entry{Created: time.UnixMilli(1), TTL: time.Second, Stamps: []Stamp{{1}, {2}}}
	f.Add(e.Append(nil, "", "k", []byte("payload")))
	f.Add(e.Append(nil, "", "k", nil)[:entryHead])
	f.Add([]byte{0xCA, 0x5E})
	f.Fuzz(func(t *testing.T, data []byte) {
		if !IsEntry(data) {
			return
		}
		e, err := Open("", "k", data)
		if err != nil {
			require.Zero(t, e.Payload)
			return
		}
		require.Equal(t, len(data), entryHead+len(e.Stamps)*len(Stamp{})+len(e.Payload))
		require.GreaterOrEqual(t, e.TTL, time.Duration(0))
		require.GreaterOrEqual(t, e.Cost, time.Duration(0))
	})
}

// routed returns the text by which a key is routed.
func routed(key string) string {
	front, own := route.Text("", key)
	return front + own
}

// Side keys are in the slot of their key, on every server that divides keys by hash
// tags.
func TestSideKeys(t *testing.T) {
	for _, key := range []string{"profile.42", "{user:7}.cart", "a{b}c", "plain", "x.{t}"} {
		for _, front := range []string{"", "app.", "app.{v}."} {
			for _, side := range []string{Lease(front, key), Wake(front, key, "c:0"), Move(front, key)} {
				require.Equal(t, routed(front+key), routed(side), "%s and %s", front+key, side)
				require.NotEqual(t, front+key, side)
				require.True(t, len(side) > len(front) && side[:len(front)] == front, "behind the same front")
			}
		}
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, "%tag.team:7%2E1", Tag("team:7.1"))
	require.Equal(t, "a%2Eb%25%7Bc%7D%0A", string(Escape(nil, "a.b%{c}\n")))
	require.Equal(t, `a\*\?\[b\]\\c`, Glob(`a*?[b]\c`))
}

// Keys of users move, this module's own do not.
func TestMoving(t *testing.T) {
	l := Moving{Prefix: "app."}
	for key, want := range map[string]move.Kind{
		"app.profile.1": move.Plain, "app.a%2Eb": move.Plain, "app.v1.%all.profile": move.Namespace,
		"app.%tag.x": move.Plain, Lease("app.", "k"): move.Side, Wake("app.", "k", "c:0"): move.Side, l.TokenKey("app.k"): move.Side,
	} {
		require.Equal(t, want, l.Kind([]byte(key)), key)
	}
	require.Equal(t, "app.{app.k}%move", l.TokenKey("app.k"))
	require.Equal(t, "{other}%move", l.TokenKey("other"))
}

// An entry that moves is valid under the current shard's stamp, if it was valid.
func TestRestamp(t *testing.T) {
	var l Moving
	was, is := l.NewStamp(), l.NewStamp()
	e := Entry{Created: time.UnixMilli(1), Stamps: []Stamp{StampOf(was), {7}}}
	data := func() []byte { return e.Append(nil, "", "k", []byte("payload")) }
	moved, err := Open("", "k", l.Restamp(data(), was, is))
	require.NoError(t, err)
	require.Equal(t, []Stamp{StampOf(is), {7}}, moved.Stamps)
	require.Equal(t, "payload", string(moved.Payload))
	require.Nil(t, l.Restamp(data(), is, was), "it was not valid")
	require.Nil(t, l.Restamp(data(), was, nil), "no stamp here")
	require.Nil(t, l.Restamp(data(), []byte("short"), is), "no stamp there")
	require.Nil(t, l.Restamp([]byte("a plain value"), was, is))
	require.Nil(t, l.Restamp(data()[:entryHead+3], was, is), "cut short")
}
