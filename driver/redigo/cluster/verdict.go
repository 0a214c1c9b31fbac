package cluster

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// A verdict classifies a reply by the outcome of its command.
type verdict uint8

const (
	final      verdict = iota // the reply is the result
	moved                     // not run: another server has the slot
	ask                       // not run: the keys are moving to another server
	retryLater                // not run: may succeed later, perhaps elsewhere
	aborted                   // not run: another command of the transaction was refused
)

// verdictOf classifies one whole reply. A redirect also has a slot and an
// address; see
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding.
func verdictOf(reply []byte) (v verdict, slot int, address string) {
	if reply[0] != '-' {
		return final, 0, ""
	}
	code, text, _ := strings.Cut(string(bytes.TrimSuffix(reply[1:], []byte("\r\n"))), " ")
	switch code {
	case "MOVED", "ASK":
		slot, address, ok := parseTarget(text)
		switch {
		case !ok:
			return final, 0, ""
		case code == "ASK":
			return ask, slot, address
		}
		return moved, slot, address
	case "EXECABORT":
		return aborted, 0, ""
	}
	if isTransient(code, text) {
		return retryLater, 0, ""
	}
	return final, 0, ""
}

// isTransient reports whether an error says that nothing has run, for a reason
// that passes.
func isTransient(code, text string) bool {
	switch code {
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY":
		return true
	}
	return code == "ERR" && strings.HasPrefix(text, "max number of clients reached")
}

// parseTarget parses the target of a redirect, such as "3999 127.0.0.1:6381".
// An IPv6 host has no brackets. An empty host means the server that replied.
func parseTarget(text string) (slot int, address string, ok bool) {
	number, address, _ := strings.Cut(text, " ")
	slot, err := strconv.Atoi(number)
	colon := strings.LastIndexByte(address, ':')
	return slot, address, err == nil && 0 <= slot && slot < slotCount && colon >= 0 && colon+1 < len(address)
}

// resolved returns the address that n named in a redirect.
func resolved(address string, n *node) string {
	colon := strings.LastIndexByte(address, ':')
	host, port := address[:colon], address[colon+1:]
	if host == "" || host == "?" {
		host, _, _ = net.SplitHostPort(n.address)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

var atLineStart = []byte("\r\n-")

// anyNotFinal reports whether a reply in raw is neither final nor aborted.
// Usually one search shows that raw contains no error at all.
func anyNotFinal(raw []byte) bool {
	if len(raw) == 0 || raw[0] != '-' && !bytes.Contains(raw, atLineStart) {
		return false
	}
	for reply := []byte(nil); len(raw) > 0; {
		reply, raw = resp.Cut(raw)
		if v, _, _ := verdictOf(reply); v != final && v != aborted {
			return true
		}
	}
	return false
}

// verdictOfAll is verdictOf for a Pipeline that runs on one connection as a
// unit. The verdict is final if any command has run.
func verdictOfAll(raw []byte) (v verdict, slot int, address string) {
	v = final
	for reply := []byte(nil); len(raw) > 0; {
		reply, raw = resp.Cut(raw)
		switch one, itsSlot, its := verdictOf(reply); {
		case one == final:
			return final, 0, ""
		case one == aborted:
		case v == final || one == retryLater:
			// TRYAGAIN for keys split between both servers takes precedence over a
			// redirect: the transaction can run once all keys have moved.
			v, slot, address = one, itsSlot, its
		}
	}
	return v, slot, address
}

// isTransientRefusal reports whether err is a server's refusal of the
// connection for a reason that passes.
func isTransientRefusal(err error) bool {
	e, ok := errors.AsType[*driver.ServerError](err)
	return ok && isTransient(e.Code, e.Message())
}
