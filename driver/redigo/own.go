package redigo

import "github.com/gocaches/caches/driver"

// A need is the kind of connection that a Pipeline needs.
type need uint8

const (
	shareable  need = iota
	exclusive       // dedicated: no other call waits behind it
	disposable      // dedicated, and closed after the call
)

// needOf returns the need of p, by its Mode and by the names of its commands: one
// SUBSCRIBE or BLPOP on a shared connection would affect every call.
func needOf(p *driver.Pipeline) need {
	n := shareable
	if len(p.Frames()) > maxShared || p.Mode()&driver.Own != 0 {
		n = exclusive
	}
	for i := range p.Len() {
		n = max(n, needOfName(p.Name(i)))
	}
	return n
}

const (
	// The bounds of the names below.
	shortestName = len("SYNC")
	longestName  = len("PUNSUBSCRIBE")
	// initials has a bit for each first letter of these names.
	initials = uint32(1<<('A'&31) | 1<<('B'&31) | 1<<('C'&31) | 1<<('D'&31) | 1<<('E'&31) | 1<<('H'&31) | 1<<('M'&31) |
		1<<('P'&31) | 1<<('Q'&31) | 1<<('R'&31) | 1<<('S'&31) | 1<<('U'&31) | 1<<('W'&31) | 1<<('X'&31))
)

// needOfName returns the need of one command; see
// https://redis.io/docs/latest/commands/ (exclusive: the ACL category of blocking
// commands; disposable: commands that change how the connection treats later ones).
func needOfName(name string) need {
	if len(name) < shortestName || len(name) > longestName || initials>>(name[0]&31)&1 == 0 {
		return shareable // decides most
	}
	var upper [longestName]byte
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	switch string(upper[:len(name)]) {
	case "BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX", "BZMPOP",
		"XREAD", "XREADGROUP", "WAIT", "WAITAOF":
		return exclusive
	case "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
		"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "MONITOR", "SYNC", "PSYNC", "REPLCONF",
		"AUTH", "HELLO", "RESET", "QUIT", "SELECT", "CLIENT", "READONLY", "READWRITE", "ASKING":
		return disposable
	}
	return shareable
}
