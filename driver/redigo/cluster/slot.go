package cluster

import "bytes"

const (
	slotCount = 16384
	noSlot    = -1
)

// crcTable has the CRC of each byte. The cluster specification requires
// CRC-16/XMODEM: polynomial 0x1021, not reflected, initial value 0; see
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#appendix-a-crc16-reference-implementation-in-ansi-c
var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()

// crc16 extends crc by s.
func crc16[T string | []byte](crc uint16, s T) uint16 {
	for i := range len(s) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^s[i]]
	}
	return crc
}

// slotOf returns the slot of key. If the first "{…}" in key is not empty, its
// content is the hash tag, and only the tag counts.
func slotOf(key []byte) int {
	if open := bytes.IndexByte(key, '{'); open >= 0 {
		if size := bytes.IndexByte(key[open+1:], '}'); size > 0 {
			key = key[open+1 : open+1+size]
		}
	}
	return int(crc16(0, key) % slotCount)
}

// Slot implements [driver.Cluster]. It runs in O(n) of the length of the key.
func (s *Store) Slot(front, key string) int {
	// Most keys have no tag. Then the two parts need not be joined.
	for _, part := range []string{front, key} {
		for i := range len(part) {
			if part[i] == '{' {
				return slotOf([]byte(front + key))
			}
		}
	}
	return int(crc16(crc16(0, front), key) % slotCount)
}
