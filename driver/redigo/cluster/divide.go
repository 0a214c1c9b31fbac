package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/gocaches/caches/driver"
)

// Keys of several slots are refused by a server also where it has all of those
// slots, so a command is divided by slots and not by servers. The pieces for one
// server travel together: they cost it little more than the whole would.

// A divider divides the keys of commands by their slots. Its memory is used
// again: a command of a thousand keys allocates nothing in the steady state.
type divider struct {
	units []int32 // by slot: of the command being divided, the unit after base; 0 where there is none
	links []link
	elems [][]byte // of an array that is put together

	args [][]byte // of the command that was looked at last …
	cmd  int      // … which this is, if args is not nil
}

// A link is one key of a piece: its place among the arguments, and the link of
// the next key of the same piece.
type link struct{ arg, next int }

func (d *divider) emptied() divider {
	clear(d.elems)
	return divider{units: d.units, links: d.links[:0], elems: d.elems[:0]}
}

// divide makes of command i one unit for each slot, in the order of their first
// keys. Linear in the number of keys.
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

// writePiece appends a command with the keys of one slot.
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

// conclude leaves the replies in the caller's Pipeline, or says why they are not
// all there.
func (c *call) conclude() error {
	failed := 0
	for i := range c.units {
		if c.units[i].err != nil {
			failed++
		}
	}
	switch {
	case failed > 0 && failed == len(c.units):
		return c.worst(c.units) // no reply at all: the call has failed, and not some commands
	case len(c.units) == 0 || c.units[0].cmd == all:
		return nil // they are there
	}
	c.assemble()
	return nil
}

// worst returns the error that says the least about what has run: that nothing
// has is true of all units only where none has another error.
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

// assemble puts the replies together, in the order of the commands.
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
	c.out = c.p.Replies().Swap(out, c.p.Len())
}

func (u *unit) appendTo(out []byte) []byte {
	if u.err != nil {
		return driver.AppendFailure(out, u.err)
	}
	return append(out, u.reply...)
}

// sum appends the sum of the numbers of the pieces, or the error of one.
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
			n, _ := strconv.ParseInt(string(u.reply[1:len(u.reply)-2]), 10, 64) // checked when it came
			total += n
		}
	}
	switch {
	case failed > 0:
		return driver.AppendFailure(out, c.inPart(pieces, failed < len(pieces)))
	case refusal != nil:
		return append(out, refusal...)
	}
	return append(strconv.AppendInt(append(out, ':'), total, 10), "\r\n"...)
}

// inPart returns the error of a command of whose pieces some have failed: where
// others have run, it can no longer be said that nothing has, unless that
// changes nothing.
func (c *call) inPart(pieces []unit, ran bool) error {
	err := c.worst(pieces)
	if ran && isUnavailable(err) && c.p.Mode()&driver.ReadOnly == 0 {
		return fmt.Errorf("%w: for some of the keys: %v", driver.ErrUnknownOutcome, err)
	}
	return err
}

// gather appends the array of what the pieces have for each key. A key whose
// piece has an error has that in its place.
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

// scatter notes what a piece has for each of its keys.
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
			elem = driver.AppendFailure(nil, errShort)
		default:
			elem, rest = driver.CutReply(rest)
		}
		d.elems[d.links[at].arg] = elem
	}
}

var errShort = fmt.Errorf("%w: MGET did not answer every key", driver.ErrProtocol)

func isUnknown(err error) bool     { return errors.Is(err, driver.ErrUnknownOutcome) }
func isUnavailable(err error) bool { return errors.Is(err, driver.ErrUnavailable) }
func isOther(err error) bool       { return !isUnavailable(err) }
