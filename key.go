package caches

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/text"
)

const digits = "0123456789"

// unescape decodes percent escapes; a plus stays a plus. Its error does not
// repeat the text, unlike that of package url.
func unescape(part, s string) (string, error) {
	text, err := url.PathUnescape(s)
	if err != nil {
		return "", fmt.Errorf("the %s has a %% that begins no escape: a percent sign is written %%25", part)
	}
	return text, nil
}

// escape percent-encodes the characters that would end a host or path in a DSN.
func escape(s string) string { return dsnEscaper.Replace(s) }

var dsnEscaper = strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "@", "%40")

func control(r rune) bool { return r < ' ' || r == 0x7f }

// allIn reports whether s consists only of characters in set.
func allIn(s, set string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) })
}

// RawKey is a part of a key that is used verbatim: a ready-made key, or a piece
// of one. Dots join it to the parts around it. It is for keys made elsewhere;
// do not use it for user input, which could then name another user's key.
type RawKey string

// HashTag returns part in braces, "{part}". Keys with the same tag are on one
// shard, and in one slot of a Redis Cluster, so commands over several of them
// are atomic. Only the first tag of a key counts.
func HashTag(part any) any { return hashTag{part} }

type hashTag struct{ part any }

// joinKey appends prefix and parts, joined by dots, to dst.
//
// The join is injective in the parts: characters in a part that could be taken
// for a separator or a hash tag are escaped as %XX. So ("a.b", "c") and ("a",
// "b.c") differ, and user input can neither name another key nor choose a slot.
// Ordinary parts are unchanged.
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
		return layout.Escape(dst, part), nil
	case int:
		return strconv.AppendInt(dst, int64(part), 10), nil // the most common type, with nothing to escape
	case RawKey:
		return append(dst, part...), nil
	case hashTag:
		dst, err := appendPart(append(dst, '{'), part.part)
		return append(dst, '}'), err
	}
	var buf [64]byte
	encoded, err := text.Append(buf[:0], part)
	if err != nil {
		return nil, err
	}
	return layout.Escape(dst, string(encoded)), nil
}

// errEmptyKey is the error of a key without any text. Redis allows it, but all
// types without a prefix would share it.
var errEmptyKey = errors.New("caches: the key is empty: give the type a Prefix, or Key a part")

// makeKey returns the key of an object.
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
