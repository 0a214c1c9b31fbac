package resp

import "bytes"

// The kinds of replies, by their first byte.
const (
	Status byte = '+'
	Error  byte = '-'
	Int    byte = ':'
	Bulk   byte = '$'
	Array  byte = '*'
	Nil    byte = '_' // an absent bulk or array: "$-1" and "*-1" on the wire
)

// Parse returns the kind, the payload and the size of the first reply in buf,
// which holds whole replies only. The payload of an array is its length, the end
// of that line and its elements. If the reply is the last in buf, its elements
// are the rest of buf, and their end need not be found. Kind is 0, and size that
// of buf, if there is no reply.
func Parse(buf []byte, last bool) (kind byte, data []byte, size int) {
	if len(buf) < 3 {
		return 0, nil, len(buf)
	}
	switch kind := buf[0]; kind {
	case Status, Error, Int:
		line := bytes.IndexByte(buf, '\r')
		if line < 0 || line+2 > len(buf) {
			return 0, nil, len(buf)
		}
		return kind, buf[1:line], line + 2
	case Bulk:
		n, at := Number(buf[1:])
		start, end := 1+at, 1+at+n
		switch {
		case n < 0:
			return Nil, nil, start
		case end+2 > len(buf):
			return 0, nil, len(buf)
		}
		return Bulk, buf[start:end:end], end + 2
	case Array:
		n, at := Number(buf[1:])
		end := 1 + at
		switch {
		case n < 0:
			return Nil, nil, end
		case last:
			return Array, buf[1:], len(buf)
		}
		for range n {
			_, _, size := Parse(buf[end:], false)
			end += size
		}
		return Array, buf[1:end], end
	}
	return 0, nil, len(buf)
}

// Cut splits raw, which holds whole, well-formed replies, behind the first one.
// The elements of an array are such replies behind its first line. Cut takes
// O(n) time for a reply of n elements.
func Cut(raw []byte) (reply, rest []byte) {
	_, _, size := Parse(raw, false)
	return raw[:size:size], raw[size:]
}

// Number returns the decimal at the start of b and the offset of the next line.
// It does not check b: the bytes are this process's own, or the transport has
// checked them.
func Number(b []byte) (n, end int) {
	if b[0] == '-' { // "-1"
		return -1, len("-1\r\n")
	}
	for ; b[end] != '\r'; end++ {
		n = n*10 + int(b[end]-'0')
	}
	return n, end + len("\r\n")
}
