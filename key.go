package caches

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const digits = "0123456789"

// unescape decodes percent escapes; a plus is a plus. The error of package url
// repeats the text.
func unescape(part, s string) (string, error) {
	text, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("the %s has a %% that begins no escape: a percent sign is written %%25", part)
	}
	return text, nil
}

// escape writes what would end a host or path in a DSN as %XX.
func escape(s string) string { return dsnEscaper.Replace(s) }

var dsnEscaper = strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "@", "%40")

func control(r rune) bool { return r < ' ' || r == 0x7f }

// allIn reports whether s has no bytes but those of set.
func allIn(s, set string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) })
}

// RawKey is a part of a key that is used as it stands: a ready-made key, or a
// piece of one. The parts around it are joined to it with dots. It is for keys
// that something else named; text of users does not belong in it, for it could
// name another user's key.
type RawKey string

// HashTag makes a part "{part}". Keys with the same tag live on one shard, and
// in one slot of a Redis Cluster, so that commands over several of them are
// atomic. The first tag of a key counts.
func HashTag(part any) any { return hashTag{part} }

type hashTag struct{ part any }

// joinKey appends prefix and parts, joined by dots, to dst.
//
// The join is injective in the parts: what could be taken for a joint or a
// hash tag inside a part is escaped as %XX, so ("a.b", "c") and ("a", "b.c")
// differ, and the text of a user can neither name another key nor choose a
// slot. Ordinary parts stay as they are.
func joinKey(dst []byte, prefix string, parts []any) ([]byte, error) {
	dst = append(dst, prefix...)
	for i, part := range parts {
		if i > 0 || prefix != "" {
			dst = append(dst, '.')
		}
		var err error
		if dst, err = appendPart(dst, part); err != nil {
			return nil, fmt.Errorf("caches: part %d of the key: %w", i+1, err)
		}
	}
	return dst, nil
}

func appendPart(dst []byte, part any) ([]byte, error) {
	switch part := part.(type) {
	case string:
		return appendEscaped(dst, part), nil
	case int:
		return appendInt(dst, int64(part)), nil // the commonest, and nothing in it to escape
	case RawKey:
		return append(dst, part...), nil
	case hashTag:
		dst, err := appendPart(append(dst, '{'), part.part)
		return append(dst, '}'), err
	}
	var buf [64]byte
	text, err := appendText(buf[:0], part)
	if err != nil {
		return nil, err
	}
	return appendEscaped(dst, string(text)), nil
}

// appendEscaped appends s with '.', '%', '{', '}' and control bytes as %XX.
func appendEscaped(dst []byte, s string) []byte {
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

// errEmptyKey is the error of a key without any text: Redis has it as a legal
// key, but one that every type without a prefix would share.
var errEmptyKey = errors.New("caches: the key is empty: give the type a Prefix, or Key a part")

// makeKey joins the key of an object.
func makeKey(prefix string, parts []any) (string, error) {
	var buf [128]byte
	key, err := joinKey(buf[:0], prefix, parts)
	switch {
	case err != nil:
		return "", err
	case len(key) == 0:
		return "", errEmptyKey
	}
	return string(key), nil
}

// globEscaper escapes what SCAN's MATCH would take for a pattern.
var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// What stands before the keys that are ours. No part of a user's key has a bare
// percent sign.
const (
	tagFront       = "%tag."
	namespaceFront = "%all."
	leaseEnd       = "%lease"
	wakeEnd        = "%wake."
	moveEnd        = "%move"
)

// tagKey returns the key of a tag's stamp, without the connection's prefix. The
// version is no part of it: old and new programs share the data that they cache.
func tagKey(tag string) string {
	return string(appendEscaped([]byte(tagFront), tag))
}

// sideKey returns a key that lives in the slot of front+key, on every server that
// divides keys by hash tags, and behind the same front.
func sideKey(front, key, end string) string {
	full := front + key
	if open := strings.IndexByte(full, '{'); open >= 0 && strings.IndexByte(full[open:], '}') > 1 {
		return full + end
	}
	return front + "{" + full + "}" + end
}
