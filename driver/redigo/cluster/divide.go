package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// A server refuses a command with keys of several slots even if it has all
// these slots, so commands are divided by slot, not by server. The pieces for
// one server travel together and cost it little more than the undivided
// command.

// A divider divides the keys of commands by slot. It reuses its memory, so that
// dividing a command of a thousand keys allocates nothing in the steady state.
type divider struct {
	units []int32 // by slot: the position, from 1, of its unit in the current command; 0 means none
	links []link
	elems [][]byte // the elements of the array being gathered

	args [][]byte // the arguments of the command read last
	cmd  int      // the index of that command; valid if args is not nil
}

// A link is one key of a piece: its index among the arguments, and the index of
// the link of the next key.
type link struct{ arg, next int }

func (d *divider) emptied() divider {
	clear(d.elems)
	return divider{units: d.units, links: d.links[:0], elems: d.elems[:0]}
}

// divide makes one unit for each slot of command i, in the order in which the
// slots first appear. It runs in time linear in the number of keys.
func (c *call) divide(i int) {
	d := &c.divider
	if d.units == nil {
		d.units = make([]int32, slotCount)
	}
	first := len(c.units)
	for arg, key := range c.p.Command(i).Args[1:] {
		slot, at := slotOf(key), len(d.links)
		d.links = append(d.links, link{arg, noLink})
		if known := d.units[slot]; known > 0 {
			u := &c.units[first+int(known)-1]
			d.links[u.last].next, u.last = at, at
			continue
		}
		c.units = append(c.units, unit{cmd: i, slot: slot, keys: at, last: at, open: true})
		d.units[slot] = int32(len(c.units) - first)
	}
	for _, u := range c.units[first:] {
		d.units[u.slot] = 0
	}
}

// writePiece appends the command of u with the keys of u.
func (c *call) writePiece(p *driver.Pipeline, u *unit) {
	d := &c.divider
	if d.args == nil || d.cmd != u.cmd {
		d.args, d.cmd = c.p.Command(u.cmd).Args[1:], u.cmd
	}
	p.Cmd(c.p.Name(u.cmd))
	for at := u.keys; at != noLink; at = d.links[at].next {
		p.Bytes(d.args[d.links[at].arg])
	}
}

// conclude stores the replies in the caller's Pipeline, or returns the error of
// a call without any reply.
func (c *call) conclude() error {
	failed := 0
	for i := range c.units {
		if c.units[i].err != nil {
			failed++
		}
	}
	switch {
	case failed > 0 && failed == len(c.units):
		return c.worst(c.units) // no reply at all: the whole call has failed
	case len(c.units) == 0 || c.units[0].cmd == wholePipeline:
		return nil // the replies are already in the caller's Pipeline
	}
	c.assemble()
	return nil
}

// worst returns the units' error that promises least. ErrUnavailable promises
// that nothing has run, which holds for all units only if no unit has another
// error.
func (c *call) worst(units []unit) (err error) {
	for _, is := range []func(error) bool{isUnknown, isOther, isUnavailable} {
		for i := range units {
			if units[i].err != nil && is(units[i].err) {
				return units[i].err
			}
		}
	}
	return nil
}

// assemble joins the replies in the order of the commands.
func (c *call) assemble() {
	out := c.out[:0]
	for first, next := 0, 0; first < len(c.units); first = next {
		u := &c.units[first]
		for next = first + 1; next < len(c.units) && c.units[next].cmd == u.cmd; next++ {
		}
		switch {
		case u.keys == noLink:
			out = u.appendTo(out)
		case spreadOf(c.p.Name(u.cmd)) == gather:
			out = c.gather(out, c.units[first:next])
		default:
			out = c.sum(out, c.units[first:next])
		}
	}
	c.p.ResetReplies()
	c.out = (*resp.Replies)(c.p.Replies()).Swap(out, c.p.Len())
}

func (u *unit) appendTo(out []byte) []byte {
	if u.err != nil {
		return resp.AppendFailure(out, u.err)
	}
	return append(out, u.reply...)
}

// sum appends the sum of the pieces' integer replies, or the error of a piece.
func (c *call) sum(out []byte, pieces []unit) []byte {
	total, failed := int64(0), 0
	var refusal []byte
	for i := range pieces {
		u := &pieces[i]
		switch {
		case u.err != nil:
			failed++
		case u.reply[0] != ':':
			refusal = u.reply
		default:
			n, _ := strconv.ParseInt(string(u.reply[1:len(u.reply)-2]), 10, 64) // the reply was validated on receipt
			total += n
		}
	}
	switch {
	case failed > 0:
		return resp.AppendFailure(out, c.inPart(pieces, failed < len(pieces)))
	case refusal != nil:
		return append(out, refusal...)
	}
	return append(strconv.AppendInt(append(out, ':'), total, 10), "\r\n"...)
}

// inPart returns the error of a command of which some pieces failed. If others
// have run, ErrUnavailable would be wrong, unless the command only reads.
func (c *call) inPart(pieces []unit, ran bool) error {
	err := c.worst(pieces)
	if ran && isUnavailable(err) && c.p.Mode()&driver.ReadOnly == 0 {
		return fmt.Errorf("%w: for some of the keys: %v", driver.ErrUnknownOutcome, err)
	}
	return err
}

// gather appends one array of the pieces' elements, in the order of the keys.
// The error of a piece replaces the element of each of its keys.
func (c *call) gather(out []byte, pieces []unit) []byte {
	d := &c.divider
	n, good := 0, false
	for i := range pieces {
		for at := pieces[i].keys; at != noLink; at = d.links[at].next {
			n++
		}
		good = good || pieces[i].err == nil && pieces[i].reply[0] == '*'
	}
	if !good {
		return pieces[0].appendTo(out)
	}
	d.elems = slices.Grow(d.elems[:0], n)[:n]
	for i := range pieces {
		c.scatter(&pieces[i])
	}
	size := 16
	for _, elem := range d.elems {
		size += len(elem)
	}
	out = slices.Grow(out, size)
	out = append(strconv.AppendInt(append(out, '*'), int64(n), 10), "\r\n"...)
	for _, elem := range d.elems {
		out = append(out, elem...)
	}
	return out
}

// scatter stores the element of each key of u in elems.
func (c *call) scatter(u *unit) {
	d := &c.divider
	var fault, rest []byte
	if u.err != nil || u.reply[0] != '*' {
		fault = u.appendTo(nil)
	} else {
		rest = u.reply[bytes.IndexByte(u.reply, '\n')+1:]
	}
	for at := u.keys; at != noLink; at = d.links[at].next {
		elem := fault
		switch {
		case fault != nil:
		case len(rest) == 0:
			elem = resp.AppendFailure(nil, errShort)
		default:
			elem, rest = resp.Cut(rest)
		}
		d.elems[d.links[at].arg] = elem
	}
}

var errShort = fmt.Errorf("%w: MGET did not answer every key", driver.ErrProtocol)

func isUnknown(err error) bool     { return errors.Is(err, driver.ErrUnknownOutcome) }
func isUnavailable(err error) bool { return errors.Is(err, driver.ErrUnavailable) }
func isOther(err error) bool       { return !isUnavailable(err) }
