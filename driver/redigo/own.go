package redigo

import "github.com/gocaches/caches/driver"

// A need is what kind of connection a Pipeline needs.
type need uint8

const (
	shareable  need = iota
	exclusive       // one that nobody waits behind
	disposable      // one that nobody uses afterwards
)

// needOf returns what p needs. It looks at the names of the commands also where
// the Mode says nothing: one SUBSCRIBE or BLPOP on a shared connection would be
// everybody's.
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
	// initials has a bit for each letter that one of them begins with.
	initials = uint32(1<<('A'&31) | 1<<('B'&31) | 1<<('C'&31) | 1<<('D'&31) | 1<<('E'&31) | 1<<('H'&31) | 1<<('M'&31) |
		1<<('P'&31) | 1<<('Q'&31) | 1<<('R'&31) | 1<<('S'&31) | 1<<('U'&31) | 1<<('W'&31) | 1<<('X'&31))
)

// needOfName returns what one command needs; see
// https://redis.io/docs/latest/commands/ (the blocking ones by their ACL
// category; the others change what the connection is to later commands).
func needOfName(name string) need {
	if len(name) < shortestName || len(name) > longestName || initials>>(name[0]&31)&1 == 0 {
		return shareable // most are decided here
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
