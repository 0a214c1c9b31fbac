package cluster

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/gocaches/caches/driver"
)

// A verdict is what a reply says about where its command stands.
type verdict uint8

const (
	final   verdict = iota // it is the reply
	moved                  // not run: the slot is another server's
	ask                    // not run: the keys are on their way to another server
	again                  // not run: later, perhaps elsewhere
	aborted                // not run, because of another command of its transaction
)

// verdictOf reads one whole reply. Those that redirect have a slot and an
// address; see
// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding.
func verdictOf(reply []byte) (v verdict, slot int, address string) {
	if reply[0] != '-' {
		return final, 0, ""
	}
	code, text, _ := strings.Cut(string(bytes.TrimSuffix(reply[1:], []byte("\r\n"))), " ")
	switch code {
	case "MOVED", "ASK":
		slot, address, ok := target(text)
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
	if isAgain(code, text) {
		return again, 0, ""
	}
	return final, 0, ""
}

// isAgain reports whether an error says that nothing has run, for a reason that
// goes away.
func isAgain(code, text string) bool {
	switch code {
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY":
		return true
	}
	return code == "ERR" && strings.HasPrefix(text, "max number of clients reached")
}

// target reads "3999 127.0.0.1:6381". The address comes without brackets also
// where its host is of IPv6; an empty host stands for the server that answers.
func target(text string) (slot int, address string, ok bool) {
	number, address, _ := strings.Cut(text, " ")
	slot, err := strconv.Atoi(number)
	colon := strings.LastIndexByte(address, ':')
	return slot, address, err == nil && 0 <= slot && slot < slotCount && colon >= 0 && colon+1 < len(address)
}

// resolved returns the address to dial for one that n has named in a redirect.
func (s *Store) resolved(address string, n *node) string {
	colon := strings.LastIndexByte(address, ':')
	host, port := address[:colon], address[colon+1:]
	if host == "" || host == "?" {
		host, _, _ = net.SplitHostPort(n.address)
	}
	return s.mapped(net.JoinHostPort(strings.Trim(host, "[]"), port))
}

var atLineStart = []byte("\r\n-")

// troubled reports whether one of the replies is not final. Nearly always one
// look shows that there is no error among them.
func troubled(raw []byte) bool {
	if len(raw) == 0 || raw[0] != '-' && !bytes.Contains(raw, atLineStart) {
		return false
	}
	for reply := []byte(nil); len(raw) > 0; {
		reply, raw = driver.CutReply(raw)
		if v, _, _ := verdictOf(reply); v != final && v != aborted {
			return true
		}
	}
	return false
}

// verdictOfAll is verdictOf for a Pipeline that is one step, or goes over one
// connection. It is final unless nothing has run.
func verdictOfAll(raw []byte) (v verdict, slot int, address string) {
	v = final
	for reply := []byte(nil); len(raw) > 0; {
		reply, raw = driver.CutReply(raw)
		switch one, itsSlot, its := verdictOf(reply); {
		case one == final:
			return final, 0, ""
		case one == aborted:
		case v == final || one == again:
			// Keys of which some are here and others on their way: their turn
			// comes when all are there.
			v, slot, address = one, itsSlot, its
		}
	}
	return v, slot, address
}

// isForNow reports whether a server that was reached has turned the connection
// away for a reason that goes away.
func isForNow(err error) bool {
	e, ok := errors.AsType[*driver.ServerError](err)
	return ok && isAgain(e.Code, e.Message())
}
