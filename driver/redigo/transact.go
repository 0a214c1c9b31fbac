package redigo

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/gocaches/caches/driver"
)

// A link is a connection that a call has for itself.
type link interface {
	// exchange writes frames and returns the n replies to them as they came,
	// checked, in a buffer of the link's.
	exchange(c *call, frames []byte, n int) ([]byte, error)
	// reuse gives the link a buffer in place of the one that exchange returned.
	reuse(buf []byte)
}

// scripts are those that were sent to the server as their source, by digest.
//
// Being wrong about one costs a round trip and nothing else: recall puts it
// right. So nothing is taken out, and connections share it without waiting for
// each other's answers.
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
	// From here on an error means that l is out of step: its replies are not
	// read to the end, or are not what was asked for. Its owner gives it up.
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
	// The replies go to p without being copied; the link gets p's old buffer
	// for the next ones. In the steady state the two pass back and forth.
	l.reuse(c.p.Replies().Swap(raw, c.p.Len()))
	if err := c.resendScripts(l); err != nil {
		return err
	}
	return c.checkVersion(l)
}

func (c *call) atomic() bool { return c.p.Mode()&driver.Atomic != 0 }

// encode returns what goes over the wire for p, and the number of replies.
//
// A script goes as its source the first time, and by its digest afterwards.
// Inside a transaction it always goes as its source: there is no second chance
// for one command of a transaction. Nor is there behind ASKING, which holds for
// one command only.
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

// ask appends ASKING to c.out, if it is due.
func (c *call) appendAsking() {
	if c.asking {
		c.out = append(c.out, "*1\r\n$6\r\nASKING\r\n"...)
	}
}

// asks returns how many times ask appends it for all of p.
func (c *call) askCount() int {
	switch {
	case !c.asking:
		return 0
	case c.atomic():
		return 1 // it holds to the end of the transaction
	}
	return c.p.Len()
}

// unasked returns raw without the replies to ASKING. What those say does not
// matter: where it is no, the commands themselves say what they met.
func (c *call) stripAsking(raw []byte) []byte {
	left := raw[:0]
	for range c.askCount() {
		_, raw = split(raw)
		reply := raw
		if !c.atomic() {
			reply, raw = split(raw)
		}
		left = append(left, reply...)
	}
	return left
}

// append appends command i to c.out; a script as its source where that is asked
// for, or where it was never sent.
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
	// It may fail to load, or its answer may be lost: then the digest is
	// answered by NOSCRIPT, and recall sends the source again.
	c.s.loaded.add(cmd.Script)
}

func appendBulk[T string | []byte](dst []byte, s T) []byte {
	dst = append(strconv.AppendInt(append(dst, '$'), int64(len(s)), 10), "\r\n"...)
	return append(append(dst, s...), "\r\n"...)
}

// recall sends the scripts again, as their source, that the server did not
// know by their digest: it was restarted, or its scripts were flushed. The
// other commands of p have run by then, so such a script runs after commands
// that stand behind it; who minds makes p Atomic.
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
		// Of this exchange nothing has run, but of the first: nothing of the
		// Pipeline may be taken for not run. So the cause is shown only.
		return fmt.Errorf("%w: %v", driver.ErrUnknownOutcome, err)
	}
	if err != nil {
		return err
	}
	c.p.Replies().Swap(replace(first, second, forgotten), c.p.Len())
	l.reuse(first)
	return nil
}

// forgotten returns the places of the commands that are scripts and whose replies in raw say
// that the server does not know them.
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

// replace returns the replies in first with those at the given places, in
// order, replaced by the ones in second.
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

// untransact makes of the replies to MULTI, the commands and EXEC those that
// the commands would have got one by one.
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
		return queued, nil // all were refused for one reason, such as NOAUTH
	case multi[0] == '-':
		// The commands ran, one by one: that is not what was asked for.
		return nil, fmt.Errorf("%w: without a transaction: %w", driver.ErrUnknownOutcome, errorOf(multi))
	case exec[0] == '-':
		return discarded(queued, exec, n), nil
	case refused > 0:
		return nil, fmt.Errorf("%w: EXEC ran a transaction with a refused command", driver.ErrProtocol)
	}
	return execResults(raw, exec, n)
}

// results moves the elements of EXEC's array to the front of raw: a slice of
// its end would lose the room in front of it, a bit more with each call.
func execResults(raw, exec []byte, n int) ([]byte, error) {
	header := append(strconv.AppendInt([]byte{'*'}, int64(n), 10), "\r\n"...)
	if len(exec) < len(header) || string(exec[:len(header)]) != string(header) {
		return nil, fmt.Errorf("%w: EXEC did not answer every command", driver.ErrProtocol)
	}
	return raw[:copy(raw, exec[len(header):])], nil
}

// discarded returns the replies of a transaction that did not run: a refused
// command's own error, and EXEC's for the others.
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
