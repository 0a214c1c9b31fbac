package redigo

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/gocaches/caches/driver"
)

// A link is a connection as one call uses it.
type link interface {
	// exchange writes frames and returns the n replies as they came, checked, in a
	// buffer that belongs to the link until reuse.
	exchange(c *call, frames []byte, n int) ([]byte, error)
	// reuse gives the link a buffer in place of the one that exchange returned.
	reuse(buf []byte)
}

// scripts are the digests of the scripts whose source was sent to the server. A
// wrong entry costs one more round trip, see resendScripts. So entries are never
// removed, and connections share them without waiting for each other's replies.
type scripts struct {
	mu  sync.RWMutex
	sha map[string]struct{} // guarded by mu
}

func (s *scripts) has(script *driver.Script) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.sha[script.SHA()]
	return ok
}

func (s *scripts) add(script *driver.Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sha == nil {
		s.sha = make(map[string]struct{})
	}
	s.sha[script.SHA()] = struct{}{}
}

// serve runs the call's commands over l and leaves their replies in p.
func (c *call) serve(l link) error {
	frames, n := c.encode()
	// From here on an error means that l is out of step: replies are still unread, or
	// do not match the commands. The owner of l then closes it.
	raw, err := l.exchange(c, frames, n)
	if err != nil {
		return err
	}
	if c.asking {
		raw = c.stripAsking(raw)
	}
	if c.atomic() {
		if raw, err = c.untransact(raw); err != nil {
			return err
		}
	}
	// The replies move to p without a copy, and p's old buffer to the link. In the
	// steady state the two buffers go back and forth.
	l.reuse(repliesOf(c.p).Swap(raw, c.p.Len()))
	if err := c.resendScripts(l); err != nil {
		return err
	}
	return c.checkVersion(l)
}

func (c *call) atomic() bool { return c.p.Mode()&driver.Atomic != 0 }

// encode returns the bytes to send for p, and the number of replies.
//
// A script is sent as its source the first time, and later by its digest. In a
// transaction, and after ASKING, it is always sent as its source: a single command
// cannot be sent again there.
func (c *call) encode() (frames []byte, replies int) {
	p := c.p
	if !c.atomic() && !p.HasScripts() && !c.asking {
		return p.Frames(), p.Len()
	}
	c.out = c.out[:0]
	if !c.atomic() {
		for i := range p.Len() {
			c.appendAsking()
			c.append(i, c.asking)
		}
		return c.out, p.Len() + c.askCount()
	}
	c.appendAsking()
	c.out = append(c.out, "*1\r\n$5\r\nMULTI\r\n"...)
	for i := range p.Len() {
		c.append(i, true)
	}
	c.out = append(c.out, "*1\r\n$4\r\nEXEC\r\n"...)
	return c.out, p.Len() + 2 + c.askCount()
}

// appendAsking appends ASKING to c.out if the call needs it.
func (c *call) appendAsking() {
	if c.asking {
		c.out = append(c.out, "*1\r\n$6\r\nASKING\r\n"...)
	}
}

// askCount returns the number of ASKING commands for all of p.
func (c *call) askCount() int {
	switch {
	case !c.asking:
		return 0
	case c.atomic():
		return 1 // it holds until the end of the transaction
	}
	return c.p.Len()
}

// stripAsking returns raw without the replies to ASKING. A command that the server
// redirects because it has refused ASKING gets that refusal: the redirect leads back
// to the server that sent the call here. Any other reply is the command's own, since
// a server that has got the slot meanwhile needs no ASKING.
func (c *call) stripAsking(raw []byte) []byte {
	left, apart := raw[:0], false
	for range c.askCount() {
		var asked []byte
		asked, raw = split(raw)
		refused := asked[0] == '-'
		if refused && !apart {
			left, apart = slices.Clone(left), true // in raw it would grow over replies not read yet
		}
		for range c.answersPerAsk() {
			var reply []byte
			if reply, raw = split(raw); refused && isCode(string(reply[1:]), "MOVED") {
				reply = asked
			}
			left = append(left, reply...)
		}
	}
	return left
}

// answersPerAsk returns the number of replies that follow the reply to each ASKING.
func (c *call) answersPerAsk() int {
	if c.atomic() {
		return c.p.Len() + 2 // MULTI and EXEC
	}
	return 1
}

// append appends command i to c.out; a script as its source if source is set or the
// server is not known to have it.
func (c *call) append(i int, source bool) {
	cmd := c.p.Command(i)
	if cmd.Script == nil || !source && c.s.loaded.has(cmd.Script) {
		c.out = append(c.out, c.p.Frame(i)...)
		return
	}
	c.out = append(strconv.AppendInt(append(c.out, '*'), int64(len(cmd.Args)), 10), "\r\n"...)
	c.out = appendBulk(c.out, "EVAL")
	c.out = appendBulk(c.out, cmd.Script.Lua())
	for _, arg := range cmd.Args[2:] { // after EVALSHA and the digest
		c.out = appendBulk(c.out, arg)
	}
	// If the script fails to load, or its reply is lost, the digest gets NOSCRIPT
	// later, and resendScripts sends the source.
	c.s.loaded.add(cmd.Script)
}

func appendBulk[T string | []byte](dst []byte, s T) []byte {
	dst = append(strconv.AppendInt(append(dst, '$'), int64(len(s)), 10), "\r\n"...)
	return append(append(dst, s...), "\r\n"...)
}

// resendScripts sends scripts again as their source if the server did not know
// their digests, after a restart or SCRIPT FLUSH. The other commands of p have run
// by then, so a script may run after commands that follow it, unless p is Atomic.
func (c *call) resendScripts(l link) error {
	if c.atomic() || !c.errs || !c.p.HasScripts() {
		return nil
	}
	first := c.p.Replies().Raw()
	forgotten := c.forgotten(first)
	if len(forgotten) == 0 {
		return nil
	}
	c.out = c.out[:0]
	for _, i := range forgotten {
		c.append(i, true)
	}
	second, err := l.exchange(c, c.out, len(forgotten))
	if errors.Is(err, driver.ErrUnavailable) {
		// This exchange ran nothing, but the first one did: the Pipeline must not count
		// as not run. So err is shown, not wrapped.
		return fmt.Errorf("%w: %v", driver.ErrUnknownOutcome, err)
	}
	if err != nil {
		return err
	}
	repliesOf(c.p).Swap(replace(first, second, forgotten), c.p.Len())
	l.reuse(first)
	return nil
}

// forgotten returns the indexes of the scripts with a NOSCRIPT reply in raw.
func (c *call) forgotten(raw []byte) []int {
	var found []int
	for i, reply := 0, []byte(nil); len(raw) > 0; i++ {
		reply, raw = split(raw)
		if reply[0] == '-' && errorOf(reply).Code == "NOSCRIPT" && c.p.Command(i).Script != nil {
			found = append(found, i)
		}
	}
	return found
}

// replace returns the replies in first; the ones at the given indexes are replaced,
// in order, by the replies in second.
func replace(first, second []byte, places []int) []byte {
	out := make([]byte, 0, len(first)+len(second))
	for i := 0; len(first) > 0; i++ {
		var reply []byte
		reply, first = split(first)
		if len(places) > 0 && places[0] == i {
			reply, second = split(second)
			places = places[1:]
		}
		out = append(out, reply...)
	}
	return out
}

// untransact turns the replies to MULTI, the commands and EXEC into the replies
// that the commands would have got one by one.
func (c *call) untransact(raw []byte) ([]byte, error) {
	n := c.p.Len()
	multi, rest := split(raw)
	queued, refused := rest, 0
	for range n {
		var reply []byte
		if reply, rest = split(rest); reply[0] == '-' {
			refused++
		}
	}
	exec := rest
	queued = queued[:len(queued)-len(exec)]
	switch {
	case multi[0] == '-' && refused == n:
		return queued, nil // all refused for one reason, such as NOAUTH
	case multi[0] == '-':
		// The commands ran one by one, although the caller asked for a transaction.
		return nil, fmt.Errorf("%w: the commands ran outside a transaction: %w", driver.ErrUnknownOutcome, errorOf(multi))
	case exec[0] == '-':
		return discarded(queued, exec, n), nil
	case refused > 0:
		return nil, fmt.Errorf("%w: EXEC ran a transaction that contains a refused command", driver.ErrProtocol)
	}
	return execResults(raw, exec, n)
}

// execResults moves the elements of EXEC's array to the front of raw: as a slice of
// raw they would lose the capacity before them, a little more with each call.
func execResults(raw, exec []byte, n int) ([]byte, error) {
	header := append(strconv.AppendInt([]byte{'*'}, int64(n), 10), "\r\n"...)
	if len(exec) < len(header) || string(exec[:len(header)]) != string(header) {
		return nil, fmt.Errorf("%w: the reply to EXEC does not match the commands", driver.ErrProtocol)
	}
	return raw[:copy(raw, exec[len(header):])], nil
}

// discarded returns the replies to a transaction that did not run: its own error
// for each refused command, and EXEC's error for the others.
func discarded(queued, exec []byte, n int) []byte {
	out := make([]byte, 0, len(queued)+n*len(exec))
	for range n {
		var reply []byte
		if reply, queued = split(queued); reply[0] != '-' {
			reply = exec
		}
		out = append(out, reply...)
	}
	return out
}
