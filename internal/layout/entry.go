package layout

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/gocaches/caches/internal/corrupt"
)

// An Entry is a stored result of a cached function, or a value with tags. Numbers
// are big-endian:
//
//	 0  2  magic, 0xCA 0x5E
//	 2  1  version of the format, 1
//	 3  1  flags: 1, the payload is the text of an error;
//	         2, the entry is kept for longer than it is fresh (CachedOptions.Stale)
//	 4  8  random, so that no two entries begin with the same 12 bytes
//	12  8  FNV-1a hash of the full key: another key's value is never served
//	20  8  time of creation, by the clock of its process, in Unix milliseconds
//	28  8  how long it is fresh from then on, in milliseconds, 0 for ever
//	36  8  how long the computation took, in microseconds
//	44  2  n, the number of stamps
//	46 16n the stamps: of the namespace, then of the tags in their order
//	       the payload, as the serializer made it
type Entry struct {
	Negative bool // the payload is the text of an error
	Kept     bool // for longer than TTL
	Created  time.Time
	TTL      time.Duration
	Cost     time.Duration
	Stamps   []Stamp
	Payload  []byte // a view of the decoded data

	random [8]byte
}

// MaxTags is the maximum number of tags of an entry.
const MaxTags = math.MaxUint16 - 1

// ID returns the first bytes of the data of an entry. No two entries have the same.
func ID(data []byte) string { return string(data[:min(len(data), 12)]) }

// forever is the longest duration.
const forever time.Duration = math.MaxInt64

const (
	entryHead    = 46
	entryVersion = 1

	flagNegative = 1
	flagKept     = 2
)

// Append appends the stored form of e, with payload, as the entry of the key
// front+key.
func (e *Entry) Append(dst []byte, front, key string, payload []byte) []byte {
	rand.Read(e.random[:])
	dst = slices.Grow(dst, entryHead+len(e.Stamps)*len(Stamp{})+len(payload))
	flags := byte(0)
	if e.Negative {
		flags = flagNegative
	}
	if e.Kept {
		flags |= flagKept
	}
	dst = append(append(dst, 0xCA, 0x5E, entryVersion, flags), e.random[:]...)
	dst = binary.BigEndian.AppendUint64(dst, keyHash(front, key))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.Created.UnixMilli()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.TTL.Milliseconds()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.Cost.Microseconds()))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.Stamps)))
	for i := range e.Stamps {
		dst = append(dst, e.Stamps[i][:]...)
	}
	return append(dst, payload...)
}

// IsEntry reports whether data looks like an entry, of any key.
func IsEntry(data []byte) bool {
	return len(data) >= entryHead && data[0] == 0xCA && data[1] == 0x5E
}

// The errors of [Open].
const (
	ErrFormat = corrupt.Reason("an entry of another format")
	ErrShort  = corrupt.Reason("an entry is cut short")
	ErrOther  = corrupt.Reason("the entry of another key")
)

// Open decodes the entry of the key front+key in data, for which IsEntry returned
// true.
func Open(front, key string, data []byte) (e Entry, err error) {
	if binary.BigEndian.Uint64(data[12:]) != keyHash(front, key) {
		return e, ErrOther
	}
	if data[2] != entryVersion || data[3] > flagNegative|flagKept {
		return e, ErrFormat
	}
	millis := func(at int) int64 { return int64(binary.BigEndian.Uint64(data[at:])) }
	e.Negative, e.Kept = data[3]&flagNegative != 0, data[3]&flagKept != 0
	copy(e.random[:], data[4:12])
	e.Created = time.UnixMilli(millis(20))
	e.TTL = time.Duration(min(max(millis(28), 0), forever.Milliseconds())) * time.Millisecond
	e.Cost = time.Duration(min(max(millis(36), 0), forever.Microseconds())) * time.Microsecond
	n := int(binary.BigEndian.Uint16(data[44:]))
	if data = data[entryHead:]; len(data) < n*len(Stamp{}) {
		return e, ErrShort
	}
	e.Stamps = make([]Stamp, n)
	for i := range e.Stamps {
		data = data[copy(e.Stamps[i][:], data):]
	}
	e.Payload = data
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
