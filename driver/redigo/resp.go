package redigo

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/gocaches/caches/driver"
)

// Limits bound what a server may answer. A reply beyond one of them ends its
// call with [driver.ErrTooLarge], names the limit, and costs the connection.
// Memory grows with the bytes that have come, never with a length announced.
// An argument beyond Bulk, which could never be read, is not sent.
type Limits struct {
	Bulk  int // bytes of one string; zero: 64 MiB
	Array int // elements of one array; zero: 1,048,576
	Depth int // arrays inside each other; zero: 32
	Line  int // bytes of a status, an error or a length; zero: 64 KiB
	Reply int // bytes of all that answers one command; zero: 512 MiB
}

func (l Limits) orDefaults() Limits {
	return Limits{
		Bulk:  orDefault(l.Bulk, 64<<20),
		Array: orDefault(l.Array, 1<<20),
		Depth: orDefault(l.Depth, 32),
		Line:  orDefault(l.Line, 64<<10),
		Reply: orDefault(l.Reply, 512<<20),
	}
}

// check refuses limits that are none: a negative one, or one so large that sums
// of two no longer fit an int.
func (l Limits) check() error {
	for _, n := range []int{l.Bulk, l.Array, l.Depth, l.Line, l.Reply} {
		if n < 0 || n > math.MaxInt/16 {
			return errors.New("the Limits are out of range")
		}
	}
	return nil
}

// orDefault returns v, or def where v is zero.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// A framer finds the ends of replies in bytes as they come from a server, and
// refuses what is not RESP2 or is beyond its limits. What it lets through is
// what package driver reads without looking again.
//
// The wire format is https://redis.io/docs/latest/develop/reference/protocol-spec/.
type framer struct {
	limits Limits
	left   int   // whole replies still to come
	pos    int   // what lies before it is framed
	start  int   // of the reply that is under way
	open   []int // elements still missing of each open array, outermost first
	need   int   // bytes that the string at pos lacks, as far as is known
	errs   bool  // one of the replies is an error
}

// begin makes f ready for n replies at the start of a buffer.
func (f *framer) begin(n int) {
	f.left, f.pos, f.start, f.open, f.need, f.errs = n, 0, 0, f.open[:0], 0, false
}

// advance frames as much of buf as it can. buf begins where it did at begin
// and holds more than at the call before. The replies are whole once f.left is
// zero; they end at f.pos.
func (f *framer) advance(buf []byte) error {
	for f.left > 0 {
		f.elements(buf)
		if f.left == 0 {
			return nil
		}
		ok, err := f.item(buf)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
	}
	return nil
}

// whole returns the size of the reply at the start of buf where that is one of
// the usual ones, "+OK", a string, a nil or an integer, within the limits and
// there to its end. Else it returns zero: then begin and advance have to look.
func (f *framer) usual(buf []byte) int {
	const ok, none = "+OK\r\n", "$-1\r\n"
	if len(buf) < len(ok) {
		return 0
	}
	size, n := len(ok), 0
	switch kind := buf[0]; kind {
	case '$', ':':
		at := 1
		for ; at < min(len(buf)-2, len("$1234567")) && buf[at]-'0' <= 9; at++ {
			n = n*10 + int(buf[at]-'0')
		}
		switch {
		case at == 1:
			if string(buf[:len(none)]) != none {
				return 0
			}
		case buf[at] != '\r' || buf[at+1] != '\n':
			return 0
		case kind == ':':
			size, n = at+2, 0
		default:
			size = at + n + 4
			if n > f.limits.Bulk || size > len(buf) || buf[size-2] != '\r' || buf[size-1] != '\n' {
				return 0
			}
		}
	default:
		if string(buf[:len(ok)]) != ok {
			return 0
		}
	}
	if size > f.limits.Reply || size-n > f.limits.Line {
		return 0
	}
	return size
}

// elements frames the usual elements that come next, those of a GetMany say, as
// far as the innermost open array goes.
func (f *framer) elements(buf []byte) {
	inner := len(f.open) - 1
	if inner < 0 {
		return
	}
	left, at := f.open[inner], f.pos
	for left > 0 {
		size := f.usual(buf[at:])
		if size == 0 || at+size-f.start > f.limits.Reply {
			break
		}
		left--
		at += size
	}
	switch {
	case at == f.pos:
		return
	case left > 0:
		f.open[inner], f.pos = left, at
	default:
		f.open[inner] = 1 // the last of them closes it
		f.close(at)
	}
	f.need = 0
}

// item frames one string, number or array header. It is not ok where buf ends
// before the item does; the item is then looked at again from its start.
func (f *framer) item(buf []byte) (ok bool, err error) {
	// The first byte is looked at before the line is whole: what is no reply
	// need not have an end.
	if f.pos < len(buf) && !isKind(buf[f.pos]) {
		return false, fmt.Errorf("%w: a reply begins with byte %#02x", driver.ErrProtocol, buf[f.pos])
	}
	line, ok, err := f.line(buf[f.pos:])
	if !ok || err != nil {
		return false, err
	}
	end := f.pos + len(line) + 2
	if end-f.start > f.limits.Reply {
		return false, tooLarge("reply", f.limits.Reply, "bytes")
	}
	switch text := line[1:]; line[0] {
	case '+', '-':
		f.errs = f.errs || line[0] == '-' && len(f.open) == 0
		f.close(end)
		return true, nil
	case ':':
		f.close(end)
		return true, checkInteger(text)
	case '$':
		return f.bulk(buf, text, end)
	default: // '*'
		return true, f.array(text, end)
	}
}

// isKind reports whether a reply of RESP2 can begin with b.
func isKind(b byte) bool { return b == '$' || b == '*' || b == '+' || b == ':' || b == '-' }

// line returns the first line of b without its end.
func (f *framer) line(b []byte) (line []byte, ok bool, err error) {
	i := bytes.IndexByte(b, '\n')
	if i > f.limits.Line || i < 0 && len(b) > f.limits.Line {
		return nil, false, tooLarge("line", f.limits.Line, "bytes")
	}
	if i < 0 {
		return nil, false, nil
	}
	// The driver looks for the first '\r', so there must be no other one.
	if i < 2 || bytes.IndexByte(b[:i], '\r') != i-1 {
		return nil, false, fmt.Errorf("%w: a line does not end in CR LF", driver.ErrProtocol)
	}
	return b[:i-1], true, nil
}

// bulk frames the string whose header, with the given length, ends at end.
func (f *framer) bulk(buf, length []byte, end int) (ok bool, err error) {
	n, err := parseLength(length, f.limits.Bulk)
	switch {
	case err != nil:
		return false, err
	case n > f.limits.Bulk:
		return false, tooLarge("bulk", f.limits.Bulk, "bytes")
	case end+n-f.start > f.limits.Reply:
		return false, tooLarge("reply", f.limits.Reply, "bytes")
	case n < 0:
		f.close(end)
		return true, nil
	}
	// pos stays at the header, which is read again when more has come: that
	// costs less than to remember where in an item one is.
	if f.need = end + n + 2 - len(buf); f.need > 0 {
		return false, nil
	}
	f.need = 0
	if buf[end+n] != '\r' || buf[end+n+1] != '\n' {
		return false, fmt.Errorf("%w: a string does not end in CR LF", driver.ErrProtocol)
	}
	f.close(end + n + 2)
	return true, nil
}

func (f *framer) array(length []byte, end int) error {
	n, err := parseLength(length, f.limits.Array)
	switch {
	case err != nil:
		return err
	case n > f.limits.Array:
		return tooLarge("array", f.limits.Array, "elements")
	case n <= 0:
		f.close(end)
		return nil
	case len(f.open) == f.limits.Depth:
		return tooLarge("depth", f.limits.Depth, "arrays inside each other")
	}
	f.open = append(f.open, n) // no room is made for n elements: they have not come
	f.pos = end
	return nil
}

// close ends the item at end, and with it the arrays whose last element it is.
func (f *framer) close(end int) {
	f.pos = end
	for i := len(f.open) - 1; i >= 0; i-- {
		if f.open[i]--; f.open[i] > 0 {
			return
		}
		f.open = f.open[:i]
	}
	f.left--
	f.start = end
}

// parseLength reads a length: -1, or digits. A number beyond limit comes back
// as some number beyond limit, however many digits it has.
func parseLength(text []byte, limit int) (int, error) {
	if string(text) == "-1" {
		return -1, nil
	}
	if len(text) == 0 {
		return 0, fmt.Errorf("%w: a length is missing", driver.ErrProtocol)
	}
	n := int64(0)
	for _, digit := range text {
		if digit < '0' || digit > '9' {
			return 0, fmt.Errorf("%w: a length is not a number", driver.ErrProtocol)
		}
		if n <= int64(limit) {
			n = n*10 + int64(digit-'0')
		}
	}
	return int(min(n, int64(limit)+1)), nil
}

// checkInteger refuses what is not an int64 in decimal.
func checkInteger(text []byte) error {
	digits, most := text, uint64(1<<63-1)
	if len(text) > 0 && text[0] == '-' {
		digits, most = text[1:], 1<<63
	}
	n, bad := uint64(0), len(digits) == 0
	for _, digit := range digits {
		// 1<<63/10 times ten and nine more still fits: the check comes first.
		if digit < '0' || digit > '9' || n > most/10 {
			bad = true
			break
		}
		n = n*10 + uint64(digit-'0')
	}
	if bad || n > most {
		return fmt.Errorf("%w: an integer reply that is none", driver.ErrProtocol)
	}
	return nil
}

// checkArguments refuses an argument that could be stored, and never be read.
func (l Limits) checkArguments(p *driver.Pipeline) error {
	if len(p.Frames()) <= l.Bulk { // nearly always
		return nil
	}
	for i := range p.Len() {
		for _, arg := range p.Command(i).Args {
			if len(arg) > l.Bulk {
				return fmt.Errorf("%w: an argument of %d bytes is beyond the limit %q of %d bytes", driver.ErrTooLarge, len(arg), "bulk", l.Bulk)
			}
		}
	}
	return nil
}

func tooLarge(limit string, n int, unit string) error {
	return fmt.Errorf("%w: a reply is beyond the limit %q of %d %s", driver.ErrTooLarge, limit, n, unit)
}

// split returns the first of the whole, checked replies in raw, and the rest.
func split(raw []byte) (reply, rest []byte) {
	f := framer{limits: Limits{Bulk: len(raw), Array: len(raw), Depth: len(raw), Line: len(raw), Reply: len(raw)}}
	f.begin(1)
	if err := f.advance(raw); err != nil || f.left > 0 {
		return raw, nil // cannot be: a framer let raw through before
	}
	return raw[:f.pos], raw[f.pos:]
}
