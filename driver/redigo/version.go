package redigo

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/gocaches/caches/driver"
)

const (
	leastMajor = 7 // SET NX GET, EXPIRE NX and others came with Redis 7.0
	infoServer = "*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"
)

// A version records whether the server is too old, once it was asked.
type version struct {
	mu    sync.Mutex
	asked bool
	err   error
}

// An oldServerError is [driver.ErrOldServer] with the address and the version.
type oldServerError struct{ address, version string }

func (e *oldServerError) Error() string {
	return fmt.Sprintf("caches: the server at %s is Redis %s; caches needs %d.0 or newer", e.address, e.version, leastMajor)
}

func (e *oldServerError) Unwrap() error { return driver.ErrOldServer }

// checkVersion returns an oldServerError if the server is too old and a reply
// suggests it, by an unknown command or option. It asks for the version after the
// first such reply; other calls cost nothing.
func (c *call) checkVersion(l link) error {
	if !c.errs && !c.atomic() || !unfamiliar(c.p.Replies().Raw()) {
		return nil
	}
	v := &c.s.server
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked {
		return v.err
	}
	raw, err := l.exchange(c, []byte(infoServer), 1)
	if err != nil {
		return nil // the replies are whole and valid; the next such reply asks again
	}
	v.asked = true
	if version, old := oldVersion(raw); old {
		v.err = &oldServerError{c.s.address, version}
	}
	return v.err
}

// unfamiliar reports whether a reply suggests that the server is too old.
func unfamiliar(raw []byte) bool {
	for reply := []byte(nil); len(raw) > 0; {
		reply, raw = split(raw)
		for _, text := range []string{"-ERR syntax error", "-ERR unknown command", "-ERR Unsupported option"} {
			if bytes.HasPrefix(reply, []byte(text)) {
				return true
			}
		}
	}
	return false
}

// oldVersion finds the version in the reply to INFO. Without one the server is not
// old.
func oldVersion(info []byte) (version string, old bool) {
	_, rest, _ := strings.Cut(string(info), "redis_version:")
	end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		return "", false
	}
	first, _, _ := strings.Cut(rest[:end], ".")
	major, err := strconv.Atoi(first)
	return rest[:end], err == nil && major < leastMajor
}
