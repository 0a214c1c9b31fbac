package redigo

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gocaches/caches/driver"
)

// A Role is the replication role of a server. If Config.Role is set, the server's
// role is checked on each new connection.
//
// With [Master], the Store also handles a server that has been demoted. It refuses
// writes with READONLY and does not run them, so they are sent again, within the
// call's deadline, over a new connection, for which Config.Resolve should return
// the new master. A transaction is sent again as a whole, because the server ran
// none of its writes. Of any other Pipeline only the refused commands are sent
// again, so they run after the commands that follow them.
type Role uint8

const (
	// AnyRole disables the check.
	AnyRole Role = iota
	// Master requires a server that accepts writes from clients.
	Master
	// Replica requires a server that follows a master and is connected to it.
	Replica
)

// String returns "any", "master" or "replica".
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
	errDemoted = errors.New("the server is no longer a master")
)

// check checks the reply to ROLE, see https://redis.io/docs/latest/commands/role/.
func (r Role) check(reply any) error {
	words, ok := reply.([]any)
	if !ok || len(words) == 0 {
		return fmt.Errorf("%w: the reply to ROLE has no role", driver.ErrProtocol)
	}
	is, _ := words[0].([]byte)
	switch {
	case r == Master && string(is) != "master":
		return fmt.Errorf("%w: not a master", errRole)
	case r == Replica && string(is) != "slave":
		return fmt.Errorf("%w: not a replica", errRole)
	case r == Replica && !follows(words):
		return fmt.Errorf("%w: a replica that is not connected to its master", errRole)
	}
	return nil
}

// follows reports whether a replica is connected to its master. words is its reply
// to ROLE: "slave", the master's host and port, the state of the link, an offset.
func follows(words []any) bool {
	if len(words) < 4 {
		return false
	}
	link, _ := words[3].([]byte)
	return string(link) == "connected"
}

// wireSize returns the length on the wire of a reply that redigo has decoded.
func wireSize(reply any) int {
	var r driver.Replies
	_ = encode(&r, reply) // the types are redigo's own: no error
	return r.Size()
}

// readOnly is the text by which a replica refuses a write. It is part of the error
// reply to the command, or of EXEC's reply, which quotes that error.
var readOnly = []byte("READONLY You can't write against a read only replica")

// demoted reports whether the last attempt reached a server that should be a master
// and refused a write because it is not.
func (c *call) demoted() bool {
	return (c.errs || c.atomic()) && c.s.dialer != nil && c.s.dialer.role == Master && len(c.unwritten()) > 0
}

// unwritten returns the indexes of the commands that were refused as readOnly.
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

// rerun sends the commands at the given indexes again, which did not run, and puts
// their replies in place. If they cannot be sent, the existing replies are kept:
// they say which commands ran.
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
	repliesOf(p).Swap(replace(p.Replies().Raw(), rest.Replies().Raw(), places), p.Len())
	return nil
}

func appendCommand(to *driver.Pipeline, cmd driver.Command) {
	args := cmd.Args[1:]
	if cmd.Script != nil {
		to.Script(cmd.Script, len(cmd.Keys))
		args = args[2:] // without the digest and the number of keys
	} else {
		to.Cmd(cmd.Name())
	}
	for _, arg := range args {
		to.Bytes(arg)
	}
}
