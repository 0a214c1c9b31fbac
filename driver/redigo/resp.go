package redigo

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// Limits bound the replies of a server. A reply beyond a limit fails its call with
// [driver.ErrTooLarge], which names the limit, and closes the connection. Memory
// grows with the bytes received, not with the lengths announced. An argument longer
// than Bulk is not sent, because it could not be read back.
type Limits struct {
	Bulk  int // bytes of one string; zero: 64 MiB
	Array int // elements of one array; zero: 1,048,576
	Depth int // levels of nested arrays; zero: 32
	Line  int // bytes of a status, an error or a length; zero: 64 KiB
	Reply int // bytes of the reply to one command; zero: 512 MiB
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

// check refuses limits that are negative, or of which two may not add up to an int.
func (l Limits) check() error {
	for _, n := range []int{l.Bulk, l.Array, l.Depth, l.Line, l.Reply} {
		if n < 0 || n > math.MaxInt/16 {
			return errors.New("the Limits are out of range")
		}
	}
	return nil
}

// orDefault returns v, or def if v is zero.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// A framer finds the ends of replies in the bytes from a server. It refuses bytes
// that are not RESP2 and replies beyond its limits, so that package driver can read
// the others unchecked. For the wire format see
// https://redis.io/docs/latest/develop/reference/protocol-spec/.
type framer struct {
	limits Limits
	left   int   // replies not yet whole
	pos    int   // bytes before it are framed
	start  int   // of the current reply
	open   []int // missing elements of each open array, outermost first
	need   int   // missing bytes of the string at pos, if known
	errs   bool  // one of the replies is an error
}

// begin prepares f for n replies at the start of a buffer.
func (f *framer) begin(n int) {
	f.left, f.pos, f.start, f.open, f.need, f.errs = n, 0, 0, f.open[:0], 0, false
}

// advance frames as much of buf as it can. buf starts at the same byte in each call
// after begin, and grows. Once f.left is zero the replies are whole, up to f.pos.
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

// usual returns the size of the reply at the start of buf if it is whole, within
// the limits and of a common form: "+OK", a string, a nil or an integer. Otherwise
// it returns zero, and begin and advance must decide.
func (f *framer) usual(buf []byte) int {
	const ok, none = "+OK\r\n", "$-1\r\n"
	if len(buf) < len(ok) {
		return 0
	}
	size, n := len(ok), 0
	switch kind := buf[0]; kind {
	case '$', ':':
		var at int
		n, at = digits(buf)
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

// digits reads the number behind the first byte of buf, of at most seven digits and
// with at least two bytes behind it. It ends before at.
func digits(buf []byte) (n, at int) {
	for at = 1; at < min(len(buf)-2, len("$1234567")) && buf[at]-'0' <= 9; at++ {
		n = n*10 + int(buf[at]-'0')
	}
	return n, at
}

// elements frames the next elements of the innermost open array, as long as they
// have a common form, such as the values of an MGET.
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
		f.open[inner] = 1 // the last element closes it
		f.close(at)
	}
	f.need = 0
}

// item frames one string, number or array header. ok is false if buf ends first;
// the item is then read again from its start.
func (f *framer) item(buf []byte) (ok bool, err error) {
	// Checked before the line is whole: bytes that are not a reply may never form one.
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

// isKind reports whether a RESP2 reply can begin with b.
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
	// The driver looks for the first '\r', so there must be no other.
	if i < 2 || bytes.IndexByte(b[:i], '\r') != i-1 {
		return nil, false, fmt.Errorf("%w: a line does not end in CR LF", driver.ErrProtocol)
	}
	return b[:i-1], true, nil
}

// bulk frames the string whose header ends at end and announces length.
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
	// pos stays at the header, which is read again with more bytes: that costs less
	// than remembering a position inside an item.
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
		return tooLarge("depth", f.limits.Depth, "nested arrays")
	}
	f.open = append(f.open, n) // no room for n elements yet: they have not come
	f.pos = end
	return nil
}

// close ends the item at end, and the arrays of which it is the last element.
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

// parseLength reads a length: -1, or digits. For a number beyond limit it returns
// some number beyond limit, however many digits there are.
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

// checkInteger refuses text that is not an int64 in decimal.
func checkInteger(text []byte) error {
	digits, most := text, uint64(1<<63-1)
	if len(text) > 0 && text[0] == '-' {
		digits, most = text[1:], 1<<63
	}
	n, bad := uint64(0), len(digits) == 0
	for _, digit := range digits {
		// Checked first: ten times 1<<63/10, plus nine, still fits.
		if digit < '0' || digit > '9' || n > most/10 {
			bad = true
			break
		}
		n = n*10 + uint64(digit-'0')
	}
	if bad || n > most {
		return fmt.Errorf("%w: an integer reply is not an integer", driver.ErrProtocol)
	}
	return nil
}

// checkArguments refuses an argument that could be stored but not read back.
func (l Limits) checkArguments(p *driver.Pipeline) error {
	if len(p.Frames()) <= l.Bulk { // nearly always
		return nil
	}
	for i := range p.Len() {
		for _, arg := range p.Command(i).Args {
			if len(arg) > l.Bulk {
				return fmt.Errorf("%w: an argument of %d bytes exceeds the limit %q of %d bytes", driver.ErrTooLarge, len(arg), "bulk", l.Bulk)
			}
		}
	}
	return nil
}

func tooLarge(limit string, n int, unit string) error {
	return fmt.Errorf("%w: a reply exceeds the limit %q of %d %s", driver.ErrTooLarge, limit, n, unit)
}

// split returns the first of the framed replies in raw, and the rest.
func split(raw []byte) (reply, rest []byte) {
	f := framer{limits: Limits{Bulk: len(raw), Array: len(raw), Depth: len(raw), Line: len(raw), Reply: len(raw)}}
	f.begin(1)
	if err := f.advance(raw); err != nil || f.left > 0 {
		return raw, nil // cannot happen: a framer has accepted raw
	}
	return raw[:f.pos], raw[f.pos:]
}

// repliesOf returns the replies of p, to place bytes of the connection in.
func repliesOf(p *driver.Pipeline) *resp.Replies { return (*resp.Replies)(p.Replies()) }
