package layout

import "crypto/rand"

// A Stamp is the value of one key on the server, the key of a tag or a namespace:
// 128 random bits. An entry carries the stamps under which it was made, and is
// valid only while each of them is the current one. To invalidate is to remove the
// stamp, at the same cost however many entries carry it.
//
// Stamps are created only when an entry is stored, and never twice the same: a
// stamp that was invalidated, evicted or flushed does not come back, and no entry
// under it becomes valid again.
//
// The stamp of a tag is one key for the whole connection. The stamp of a namespace,
// which every read asks for, is on each shard, next to the entry.
type Stamp [16]byte

// NewStamp returns a new Stamp.
func NewStamp() (s Stamp) {
	rand.Read(s[:]) // never fails: it ends the process instead
	return s
}

// StampOf returns the stamp in text, or the zero stamp if text is not 16 bytes
// long.
func StampOf(text []byte) (s Stamp) {
	if len(text) == len(s) {
		copy(s[:], text)
	}
	return s
}
