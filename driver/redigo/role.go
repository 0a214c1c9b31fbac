package redigo

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gocaches/caches/driver"
)

// A Role is what a server is to the data that it holds. Where a Config asks for
// one, each connection is checked when it is made.
//
// With [Master], a write that a server refuses because it is a master no longer
// (READONLY) has not run: it is sent again, within the call's deadline, over a
// new connection, which Config.Resolve then leads to the new master. So is a
// transaction, of which such a server runs nothing that writes, and of any other
// Pipeline the part that was refused, after what stands behind it.
type Role uint8

const (
	// AnyRole asks for nothing.
	AnyRole Role = iota
	// Master asks for a server that takes writes from clients.
	Master
	// Replica asks for a server that follows a master, and is connected to it.
	Replica
)

// String returns the role in a word.
func (r Role) String() string {
	switch r {
	case AnyRole:
		return "any"
	case Master:
		return "master"
	case Replica:
		return "replica"
	}
	return "unknown"
}

var (
	errRole    = errors.New("the server has another role")
	errDemoted = errors.New("the server is a master no longer")
)

// check looks at the answer to ROLE; see https://redis.io/docs/latest/commands/role/.
func (r Role) check(reply any) error {
	words, ok := reply.([]any)
	if !ok || len(words) == 0 {
		return fmt.Errorf("%w: ROLE was answered by something else than a role", driver.ErrProtocol)
	}
	is, _ := words[0].([]byte)
	switch {
	case r == Master && string(is) != "master":
		return fmt.Errorf("%w: not a master", errRole)
	case r == Replica && string(is) != "slave":
		return fmt.Errorf("%w: not a replica", errRole)
	case r == Replica && !follows(words):
		return fmt.Errorf("%w: a replica without its master", errRole)
	}
	return nil
}

// follows reports whether a replica, whose words these are, has its master:
// "slave", where that is, its port, the state of the link, and an offset.
func follows(words []any) bool {
	if len(words) < 4 {
		return false
	}
	link, _ := words[3].([]byte)
	return string(link) == "connected"
}

// wireSize returns the length on the wire of a reply that redigo has read.
func wireSize(reply any) int {
	var r driver.Replies
	_ = encode(&r, reply) // of redigo's own types only
	return r.Size()
}

// readOnly is how a server refuses to write because it is a replica: the reply
// itself, or, of a transaction, what EXEC quotes.
var readOnly = []byte("READONLY You can't write against a read only replica")

// demoted reports whether the server of the last attempt was to be a master, and
// says that it is none.
func (c *call) demoted() bool {
	return (c.errs || c.atomic()) && c.s.dialer != nil && c.s.dialer.role == Master && len(c.unwritten()) > 0
}

// unwritten returns the places of the commands that were refused for that.
func (c *call) unwritten() []int {
	raw := c.p.Replies().Raw()
	if !bytes.Contains(raw, readOnly) {
		return nil
	}
	var found []int
	for i, reply := 0, []byte(nil); len(raw) > 0; i++ {
		if reply, raw = split(raw); reply[0] == '-' && bytes.Contains(reply, readOnly) {
			found = append(found, i)
		}
	}
	return found
}

// rerun sends again the commands at the given places, which did not run, and
// puts their replies in place. Where they cannot be sent, the replies that are
// there stand: they say what ran and what did not.
func (c *call) rerun(places []int) error {
	p, rest := c.p, driver.NewPipeline(c.p.Mode())
	defer rest.Free()
	for _, i := range places {
		appendCommand(rest, p.Command(i))
	}
	c.s.stats.retries.Add(1)
	c.p = rest
	err := c.try()
	c.p = p
	switch {
	case errors.Is(err, driver.ErrUnavailable):
		return nil
	case err != nil:
		return err
	}
	p.Replies().Swap(replace(p.Replies().Raw(), rest.Replies().Raw(), places), p.Len())
	return nil
}

func appendCommand(to *driver.Pipeline, cmd driver.Command) {
	args := cmd.Args[1:]
	if cmd.Script != nil {
		to.Script(cmd.Script, len(cmd.Keys))
		args = args[2:] // the digest and the number of keys
	} else {
		to.Cmd(cmd.Name())
	}
	for _, arg := range args {
		to.Bytes(arg)
	}
}
