package caches

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/gocaches/caches/internal/corrupt"
)

// An envelope is an entry as [Cached] and [Value.Tagged] store it. Numbers are
// big-endian:
//
//	 0  2  magic, 0xCA 0x5E
//	 2  1  version of the format, 1
//	 3  1  flags: 1, the payload is the text of an error of CachedOptions.Negative;
//	         2, the entry is kept for longer than it is fresh (CachedOptions.Stale)
//	 4  8  random, so that no two entries begin with the same 12 bytes
//	12  8  FNV-1a hash of the full key: another key's value is never served
//	20  8  time of creation, by the clock of its process, in Unix milliseconds
//	28  8  how long it is fresh from then on, in milliseconds, 0 for ever
//	36  8  how long the computation took, in microseconds
//	44  2  n, the number of stamps
//	46 16n the stamps: of the namespace, then of the tags in their order
//	       the payload, as the serializer made it
type envelope struct {
	negative bool
	kept     bool // for longer than ttl
	random   [8]byte
	created  time.Time
	ttl      time.Duration
	cost     time.Duration
	stamps   []stamp
	payload  []byte // a view of the decoded data
}

const (
	envelopeHead    = 46
	envelopeVersion = 1
	entryID         = 12 // bytes that identify an entry
	maxTags         = math.MaxUint16 - 1

	flagNegative = 1
	flagKept     = 2
)

func (e *envelope) append(dst []byte, front, key string, payload []byte) []byte {
	rand.Read(e.random[:])
	dst = slices.Grow(dst, envelopeHead+len(e.stamps)*len(stamp{})+len(payload))
	flags := byte(0)
	if e.negative {
		flags = flagNegative
	}
	if e.kept {
		flags |= flagKept
	}
	dst = append(append(dst, 0xCA, 0x5E, envelopeVersion, flags), e.random[:]...)
	dst = binary.BigEndian.AppendUint64(dst, keyHash(front, key))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.created.UnixMilli()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.ttl.Milliseconds()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.cost.Microseconds()))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.stamps)))
	for i := range e.stamps {
		dst = append(dst, e.stamps[i][:]...)
	}
	return append(dst, payload...)
}

// enveloped reports whether data looks like an entry, of any key.
func enveloped(data []byte) bool {
	return len(data) >= envelopeHead && data[0] == 0xCA && data[1] == 0x5E
}

// The errors of a decode.
const (
	errFormat = corrupt.Reason("an entry of another format")
	errShort  = corrupt.Reason("an entry is cut short")
	errOther  = corrupt.Reason("the entry of another key")

	// errEnveloped is the error of a plain read that finds an entry.
	errEnveloped = corrupt.Reason("an entry of Cached or Tagged: read it by the function, or by Tagged with the same tags")
)

// openEnvelope decodes the envelope in data, for which enveloped returned true.
func openEnvelope(front, key string, data []byte) (e envelope, err error) {
	if binary.BigEndian.Uint64(data[12:]) != keyHash(front, key) {
		return e, errOther
	}
	if data[2] != envelopeVersion || data[3] > flagNegative|flagKept {
		return e, errFormat
	}
	millis := func(at int) int64 { return int64(binary.BigEndian.Uint64(data[at:])) }
	e.negative, e.kept = data[3]&flagNegative != 0, data[3]&flagKept != 0
	copy(e.random[:], data[4:12])
	e.created = time.UnixMilli(millis(20))
	e.ttl = time.Duration(min(max(millis(28), 0), Forever.Milliseconds())) * time.Millisecond
	e.cost = time.Duration(min(max(millis(36), 0), Forever.Microseconds())) * time.Microsecond
	n := int(binary.BigEndian.Uint16(data[44:]))
	if data = data[envelopeHead:]; len(data) < n*len(stamp{}) {
		return e, errShort
	}
	e.stamps = make([]stamp, n)
	for i := range e.stamps {
		data = data[copy(e.stamps[i][:], data):]
	}
	e.payload = data
	return e, nil
}

// keyHash is the 64-bit FNV-1a hash of front and key
// (http://www.isthe.com/chongo/tech/comp/fnv/).
func keyHash(front, key string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [2]string{front, key} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	return h
}

// stampOf returns the stamp in text, or the zero stamp if text is not 16 bytes
// long.
func stampOf(text []byte) (s stamp) {
	if len(text) == len(s) {
		copy(s[:], text)
	}
	return s
}

// A stamp is the value of one key on the server, the key of a tag or a namespace:
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
type stamp [16]byte

func newStamp() (s stamp) {
	rand.Read(s[:]) // never fails: it ends the process instead
	return s
}
