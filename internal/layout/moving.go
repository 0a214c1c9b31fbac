package layout

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/gocaches/caches/internal/move"
)

// A Moving is the layout of a connection, for package move.
type Moving struct {
	Prefix string // of the connection, with its dot, or empty
}

// Kind returns the kind of a key.
func (Moving) Kind(key []byte) move.Kind {
	switch {
	case bytes.IndexByte(key, '%') < 0:
		return move.Plain
	case bytes.Contains(key, []byte(NamespaceFront)):
		return move.Namespace
	case bytes.HasSuffix(key, []byte(leaseEnd)), bytes.Contains(key, []byte(wakeEnd)), bytes.HasSuffix(key, []byte(moveEnd)):
		return move.Side
	}
	return move.Plain
}

// TokenKey returns the key of the token beside a key.
func (l Moving) TokenKey(key string) string {
	front := l.Prefix
	own, ok := strings.CutPrefix(key, front)
	if !ok {
		front = ""
	}
	return Move(front, own)
}

// NewStamp returns a new stamp of a namespace.
func (Moving) NewStamp() []byte {
	s := NewStamp()
	return s[:]
}

// Restamp replaces the first stamp of an entry, which is that of its namespace.
func (Moving) Restamp(data, previous, current []byte) []byte {
	was, is := StampOf(previous), StampOf(current)
	if !IsEntry(data) || was == (Stamp{}) || is == (Stamp{}) {
		return nil
	}
	stamps := data[entryHead:]
	if binary.BigEndian.Uint16(data[44:]) == 0 || len(stamps) < len(was) || StampOf(stamps[:len(was)]) != was {
		return nil
	}
	copy(stamps, is[:])
	return data
}
