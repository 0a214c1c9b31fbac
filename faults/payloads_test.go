package faults

import (
	"strings"
	"time"
)

// A kind is what a payload is to a client that reads RESP2 within its limits.
type kind int

const (
	malformed  kind = iota // not a reply: the connection must go at once
	flood                  // malformed, and there is no end of it
	surplus                // one reply too many, whatever it is
	legal                  // a reply to each command, if not to this one
	unfinished             // the begin of a reply, and no more
	lineless               // malformed, but nobody need see that before the line's end
	hangUp                 // the begin of a reply, and then the end of the connection
)

// waits reports whether who asked may wait for more until the deadline.
func (k kind) waits() bool { return k == unfinished || k == lineless }

// hostileLimits are small, so that what goes beyond them is sent quickly.
var hostileLimits = struct{ bulk, array, depth, line, reply int }{1 << 20, 4096, 32, 64 << 10, 4 << 20}

// hostileTimeout is that of calls that get no whole reply.
const hostileTimeout = 100 * time.Millisecond

// A payload is what a hostile server answers to whatever it is asked.
type payload struct {
	kind kind
	text string
}

// payloads are by what is wrong about them. Where a client has a limit, there
// is something beyond it, and something just within.
var payloads = []payload{
	// Lengths of strings.
	{malformed, "$-2\r\n"},
	{malformed, "$-9223372036854775808\r\n"},
	{malformed, "$9223372036854775807\r\n"},
	{malformed, "$9223372036854775808\r\n"},
	{malformed, "$18446744073709551615\r\n"}, // -1 to who lets it wrap
	{malformed, "$99999999999999999999999999\r\n"},
	{malformed, "$536870912\r\nabc"},
	{malformed, "$1048577\r\nabc"},
	{malformed, "$ 3\r\nabc\r\n"},
	{malformed, "$+3\r\nabc\r\n"},
	{malformed, "$0x3\r\nabc\r\n"},
	{malformed, "$3.0\r\nabc\r\n"},
	{malformed, "$\r\n\r\n"},
	{malformed, "$3\r\nabcd\r\n"},
	{malformed, "$3\r\nabc\n\n"},
	{malformed, "$3\nabc\n"},
	{malformed, "$-1\n"},
	{malformed, "$" + strings.Repeat("1", 80<<10)},
	// Lengths of arrays.
	{malformed, "*-2\r\n"},
	{malformed, "*1000000000000\r\n"},
	{malformed, "*9223372036854775807\r\n"},
	{malformed, "*4097\r\n:1\r\n"},
	{malformed, "*\r\n"},
	{malformed, "*a\r\n"},
	{malformed, "*2\r\n:1\r\n?\r\n"},
	{malformed, strings.Repeat("*1\r\n", 5000)},
	{malformed, strings.Repeat("*1\r\n", 1_000_000)}, // redigo's stack ends before
	{malformed, strings.Repeat("*4096\r\n", 33)},
	// Integers.
	{malformed, ":\r\n"},
	{malformed, ":abc\r\n"},
	{malformed, ":1.5\r\n"},
	{malformed, ": 1\r\n"},
	{malformed, ":99999999999999999999\r\n"},
	{malformed, ":-9223372036854775809\r\n"},
	// RESP3, which nobody has asked for.
	{malformed, "_\r\n"},
	{malformed, "#t\r\n"},
	{malformed, ",1.5\r\n"},
	{malformed, "(3492890328409238509324850943850943825024385\r\n"},
	{malformed, "!5\r\nERR x\r\n"},
	{malformed, "=7\r\ntxt:abc\r\n"},
	{malformed, "%1\r\n+a\r\n+b\r\n"},
	{malformed, "~1\r\n+a\r\n"},
	{malformed, ">2\r\n+message\r\n+x\r\n"},
	{malformed, "|1\r\n+a\r\n+b\r\n"},
	{malformed, "$?\r\n;3\r\nabc\r\n;0\r\n"},
	{malformed, "*?\r\n:1\r\n.\r\n"},
	// Other protocols, and none.
	{malformed, "HTTP/1.1 400 Bad Request\r\n\r\n"},
	{malformed, "SSH-2.0-OpenSSH_9.6\r\n"},
	{malformed, "220 mail.example.com ESMTP\r\n"},
	{malformed, "\x15\x03\x01\x00\x02\x02\x0a\x00\x00"}, // a TLS alert
	{malformed, strings.Repeat("\x00", 1000) + "\r\n"},
	{malformed, "\xff\xfe\xfd\r\n"},
	{malformed, "\x00\x00\x00\x00"},
	{malformed, "\x15\x03\x01\x00\x02\x02"},
	{lineless, "$-22"},
	{malformed, "\r\n"},
	{malformed, "\n"},
	{malformed, " +OK\r\n"},
	{malformed, "OK\r\n"},
	// Lines.
	{malformed, "+" + strings.Repeat("x", 80<<10) + "\r\n"},
	{malformed, "+OK\n"},
	{malformed, "+O\rK\r\n"},
	{flood, "+xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
	{flood, "-ERR xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
	{flood, "*2\r\n"},
	{flood, "*4096\r\n$1000\r\n" + strings.Repeat("x", 1000) + "\r\n"},
	// More than was asked for.
	{surplus, "+OK\r\n"},
	{surplus, ":1\r\n"},
	{surplus, "$-1\r\n"},
	{surplus, "*2\r\n$1\r\na\r\n$1\r\nb\r\n"},
	{surplus, "-ERR no\r\n"},
	{flood, "+OK\r\n"},
	// Replies to something else.
	{legal, "+\r\n"},
	{legal, "+QUEUED\r\n"},
	{legal, "-\r\n"},
	{legal, "-ERR unknown command\r\n"},
	{legal, "-MOVED 3999 127.0.0.1:1\r\n"},
	{legal, "-ASK 3999 127.0.0.1:1\r\n"},
	{legal, "-LOADING Redis is loading the dataset in memory\r\n"},
	{legal, "-NOSCRIPT No matching script\r\n"},
	{legal, "-EXECABORT Transaction discarded\r\n"},
	{legal, "$-1\r\n"},
	{legal, "*-1\r\n"},
	{legal, "*0\r\n"},
	{legal, "$0\r\n\r\n"},
	{legal, ":0\r\n"},
	{legal, ":-9223372036854775808\r\n"},
	{legal, "$5\r\nwrong\r\n"},
	{legal, "$3\r\n\x00\r\n\r\n"},
	{legal, "*1\r\n$1\r\na\r\n"}, // an odd number where pairs are due
	{legal, "*3\r\n:1\r\n$-1\r\n*0\r\n"},
	{legal, "*2\r\n-ERR a\r\n-ERR b\r\n"},
	{legal, "*2\r\n*2\r\n:1\r\n:2\r\n*-1\r\n"},
	{legal, "*4096\r\n" + strings.Repeat(":1\r\n", 4096)},
	{legal, strings.Repeat("*1\r\n", 32) + ":1\r\n"},
	{legal, "$1048576\r\n" + strings.Repeat("x", 1<<20) + "\r\n"},
	// Parts of replies.
	{unfinished, ""},
	{unfinished, "$"},
	{unfinished, "$5"},
	{unfinished, "$5\r\nab"},
	{unfinished, "$5\r\nabcde"},
	{unfinished, "$5\r\nabcde\r"},
	{unfinished, "*2\r\n:1\r\n"},
	{unfinished, "+OK"},
	{unfinished, ":12"},
	{unfinished, "*4096\r\n$1048576\r\nx"},
	{hangUp, ""},
	{hangUp, "+OK"},
	{hangUp, "$5\r\nab"},
	{hangUp, "*2\r\n:1\r\n"},
}
