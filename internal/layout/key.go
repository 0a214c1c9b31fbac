// Package layout has the names of the keys that this module makes beside those of
// its users, and the format of its entries and tokens.
package layout

import "strings"

// Prefixes and suffixes of this module's own keys. No part of a user's key
// contains a bare percent sign.
const (
	TagFront       = "%tag."
	NamespaceFront = "%all."
	leaseEnd       = "%lease"
	wakeEnd        = "%wake."
	moveEnd        = "%move"
)

// Tag returns the key of a tag's stamp, without the connection's prefix. It
// does not contain the version, because old and new programs share the data
// that they cache.
func Tag(tag string) string {
	return string(Escape([]byte(TagFront), tag))
}

// Lease returns the key of the lease of the entry at front+key.
func Lease(front, key string) string { return side(front, key, leaseEnd) }

// Wake returns the key of the list on which callers wait for a computation, by its
// token.
func Wake(front, key, token string) string { return side(front, key, wakeEnd+token) }

// Move returns the key of the token of a move.
func Move(front, key string) string { return side(front, key, moveEnd) }

// side returns a key in the slot of front+key, on every server that divides
// keys by hash tags. It begins with front as well.
func side(front, key, end string) string {
	full := front + key
	if open := strings.IndexByte(full, '{'); open >= 0 && strings.IndexByte(full[open:], '}') > 1 {
		return full + end
	}
	return front + "{" + full + "}" + end
}

// Escape appends s with '.', '%', '{', '}' and control bytes as %XX.
func Escape(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	from := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.', c == '%', c == '{', c == '}', c < ' ', c == 0x7f:
			dst = append(append(dst, s[from:i]...), '%', hex[c>>4], hex[c&15])
			from = i + 1
		}
	}
	return append(dst, s[from:]...)
}

// Glob returns s with the pattern characters of SCAN's MATCH escaped.
func Glob(s string) string { return globEscaper.Replace(s) }

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)
