package driver

import (
	"crypto/sha1"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/gocaches/caches/internal/resp"
)

// keepBuffer is the largest buffer that a freed Pipeline keeps for reuse, so that
// one large value does not stay in memory for ever.
const keepBuffer = 256 << 10

// A Pipeline holds one or more commands that are sent together, and their replies.
//
// The caller adds commands with Cmd and the argument methods, passes the Pipeline
// to [Store.Do] and reads one reply per command with Next, in order:
//
//	p := driver.NewPipeline(driver.ReadOnly)
//	defer p.Free()
//	p.Cmd("GET").Key("profile.42")
//	if err := store.Do(ctx, p); err != nil { … }
//	value, ok, err := p.Next().Bytes()
//
// A Pipeline is not safe for concurrent use. The slices that its methods return
// are views of its buffers, valid until Free or Reset.
type Pipeline struct {
	mode Mode
	req  []byte
	cmds []command
	args int // arguments of the last command so far, including its name

	scripts bool // one of cmds is a script

	replies Replies
	next    int // offset in replies of the next reply for Next
	taken   int // number of replies that Next has returned

	scratch [][]byte // backs Command.Args

	// The buffers of most Pipelines. They are next to the other fields to save
	// cache lines: with 64 calls in progress, 64 Pipelines are in use.
	firstCmd [1]command
	firstReq [96]byte
}

// command is the position of one command in req.
type command struct {
	name   string
	start  int // of its frame
	key    int // start of its first key
	keyEnd int // end of its first key, 0 if it has none
	args   int
	keys   int // number of keys of script
	script *Script
}

var pipelines = sync.Pool{New: func() any {
	p := new(Pipeline)
	p.cmds, p.req = p.firstCmd[:0], p.firstReq[:0]
	return p
}}

// NewPipeline returns an empty Pipeline with the given mode, taken from a pool.
func NewPipeline(mode Mode) *Pipeline {
	p := pipelines.Get().(*Pipeline)
	p.mode = mode
	return p
}

// Free returns p to the pool. The caller must not use p or its views afterwards.
func (p *Pipeline) Free() {
	if cap(p.req) > keepBuffer {
		p.req = nil
	}
	p.replies.raw().Trim(keepBuffer)
	if cap(p.scratch) > keepBuffer/64 {
		p.scratch = nil
	}
	p.Reset(0)
	pipelines.Put(p)
}

// Reset removes the commands and replies, and sets the mode of p.
func (p *Pipeline) Reset(mode Mode) {
	if p.scripts {
		clear(p.cmds) // releases the scripts
		p.scripts = false
	}
	p.mode, p.req, p.cmds, p.args = mode, p.req[:0], p.cmds[:0], 0
	p.ResetReplies()
}

// ResetReplies removes the replies, for a Store that runs the commands again.
func (p *Pipeline) ResetReplies() {
	p.replies.raw().Reset()
	p.next, p.taken = 0, 0
}

// Mode returns the mode of p.
func (p *Pipeline) Mode() Mode { return p.mode }

// Cmd begins a command. The name is in upper case. The methods that append
// arguments apply to this command until the next one begins.
func (p *Pipeline) Cmd(name string) *Pipeline {
	p.finish()
	p.cmds = append(p.cmds, command{name: name, start: len(p.req)})
	p.req = append(p.req, "*0\r\n"...) // finish puts the count in place of the 0
	p.args = 0
	return p.String(name)
}

// CmdKey is Cmd(name) followed by Key(front, key), at half the cost.
func (p *Pipeline) CmdKey(name, front, key string) *Pipeline {
	p.finish()
	start := len(p.req)
	b := slices.Grow(p.req, len("*0\r\n$00\r\n\r\n$00000000000000000000\r\n\r\n")+len(name)+len(front)+len(key))
	b = append(b, "*0\r\n"...)
	b = append(append(appendHeader(b, '$', int64(len(name))), name...), '\r', '\n')
	b = appendHeader(b, '$', int64(len(front)+len(key)))
	at := len(b)
	b = append(append(append(b, front...), key...), '\r', '\n')
	p.req, p.args = b, 2
	p.cmds = append(p.cmds, command{name: name, start: start, key: at, keyEnd: len(b) - 2})
	return p
}

// Script begins a call of s (EVALSHA) with the given number of keys. The keys are
// appended first, by [Pipeline.Key], followed by the other arguments.
func (p *Pipeline) Script(s *Script, keys int) *Pipeline {
	p.Cmd("EVALSHA").String(s.sha).Int(int64(keys))
	last := &p.cmds[len(p.cmds)-1]
	last.script, last.keys, p.scripts = s, keys, true
	return p
}

// Key appends a key, the concatenation of parts. The first key of a command
// determines the server that it is sent to.
func (p *Pipeline) Key(parts ...string) *Pipeline {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	p.bulk(n)
	start := len(p.req)
	for _, part := range parts {
		p.req = append(p.req, part...)
	}
	if last := &p.cmds[len(p.cmds)-1]; last.keyEnd == 0 {
		last.key, last.keyEnd = start, len(p.req)
	}
	return p.end()
}

// Copy appends a copy of command i of q, which must not be p.
func (p *Pipeline) Copy(q *Pipeline, i int) *Pipeline {
	p.finish()
	frame := q.Frame(i)
	c := q.cmds[i]
	moved := len(p.req) - c.start
	if c.start += moved; c.keyEnd > 0 {
		c.key, c.keyEnd = c.key+moved, c.keyEnd+moved
	}
	p.req = append(p.req, frame...)
	p.cmds, p.args, p.scripts = append(p.cmds, c), c.args, p.scripts || c.script != nil
	return p
}

// String appends s as an argument.
func (p *Pipeline) String(s string) *Pipeline {
	p.bulk(len(s))
	p.req = append(p.req, s...)
	return p.end()
}

// Bytes appends a copy of b as an argument.
func (p *Pipeline) Bytes(b []byte) *Pipeline {
	p.bulk(len(b))
	p.req = append(p.req, b...)
	return p.end()
}

// Int appends i in decimal as an argument.
func (p *Pipeline) Int(i int64) *Pipeline {
	var digits [20]byte
	return p.Bytes(strconv.AppendInt(digits[:0], i, 10))
}

// Float appends f as an argument, in the form of [AppendFloat].
func (p *Pipeline) Float(f float64) *Pipeline {
	var digits [32]byte
	return p.Bytes(AppendFloat(digits[:0], f))
}

// AppendFloat appends f in a form that Redis accepts: the shortest decimal that
// parses to f, "inf" or "-inf". Negative zero is written as zero.
func AppendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	case f == 0:
		return append(dst, '0')
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}

// bulk begins an argument of n bytes. The caller appends them and calls end.
func (p *Pipeline) bulk(n int) {
	p.req = appendHeader(p.req, '$', int64(n))
}

func (p *Pipeline) end() *Pipeline {
	p.req = append(p.req, '\r', '\n')
	p.args++
	return p
}

// finish writes the number of arguments of the last command into its frame.
// Numbers of ten and more need room for their digits: the rest of the frame moves
// up by one or more bytes, once.
func (p *Pipeline) finish() {
	if len(p.cmds) == 0 {
		return
	}
	last := &p.cmds[len(p.cmds)-1]
	switch {
	case last.args == p.args:
		return
	case last.args == 0 && p.args < 10: // nearly always
		p.req[last.start+1] = byte('0' + p.args)
		last.args = p.args
		return
	}
	var digits [20]byte
	count := strconv.AppendInt(digits[:0], int64(p.args), 10)
	old := 1
	if last.args > 0 { // arguments were appended after an earlier finish
		old = len(strconv.AppendInt(nil, int64(last.args), 10))
	}
	at := last.start + 1
	if grow := len(count) - old; grow > 0 {
		p.req = slices.Insert(p.req, at, count[:grow]...)
		if last.keyEnd > 0 {
			last.key, last.keyEnd = last.key+grow, last.keyEnd+grow
		}
	}
	copy(p.req[at:], count)
	last.args = p.args
}

// Len returns the number of commands.
func (p *Pipeline) Len() int { return len(p.cmds) }

// Frames returns all commands in wire format.
func (p *Pipeline) Frames() []byte {
	p.finish()
	return p.req
}

// Frame returns command i in wire format.
func (p *Pipeline) Frame(i int) []byte {
	p.finish()
	if i+1 < len(p.cmds) {
		return p.req[p.cmds[i].start:p.cmds[i+1].start]
	}
	return p.req[p.cmds[i].start:]
}

// FirstKey returns the first key of command i, or nil if it has none.
func (p *Pipeline) FirstKey(i int) []byte {
	p.finish()
	if c := &p.cmds[i]; c.keyEnd > 0 {
		return p.req[c.key:c.keyEnd]
	}
	return nil
}

// Name returns the name of command i, which is "EVALSHA" for a [Script].
func (p *Pipeline) Name(i int) string { return p.cmds[i].name }

// Args returns the number of arguments of command i, including its name.
func (p *Pipeline) Args(i int) int {
	p.finish()
	return p.cmds[i].args
}

// HasScripts reports whether one of the commands is a [Script].
func (p *Pipeline) HasScripts() bool { return p.scripts }

// A Command is one command of a [Pipeline], decoded for a [Store]. It is valid
// until the next call of [Pipeline.Command].
type Command struct {
	Args   [][]byte // the name, followed by the arguments
	Script *Script  // the script, or nil for any other command
	Keys   [][]byte // the keys of Script
	Argv   [][]byte // the other arguments of Script
}

// Name returns the name of the command, in upper case.
func (c Command) Name() string { return string(c.Args[0]) }

// Command returns command i.
func (p *Pipeline) Command(i int) Command {
	frame, n := p.Frame(i), p.cmds[i].args
	p.scratch = slices.Grow(p.scratch[:0], n)
	_, at := resp.Number(frame[1:]) // the count
	frame = frame[1+at:]
	for range n {
		size, at := resp.Number(frame[1:])
		arg := frame[1+at:]
		p.scratch = append(p.scratch, arg[:size:size])
		frame = arg[size+2:]
	}
	c := Command{Args: p.scratch, Script: p.cmds[i].script}
	if c.Script != nil {
		c.Keys, c.Argv = c.Args[3:3+p.cmds[i].keys], c.Args[3+p.cmds[i].keys:]
	}
	return c
}

// Replies returns the replies of p, for a Store to add to.
func (p *Pipeline) Replies() *Replies { return &p.replies }

// Next returns the reply of the next command. After the last reply it returns
// the zero Reply, whose methods fail with [ErrProtocol].
func (p *Pipeline) Next() Reply {
	replies := p.replies.raw()
	if p.taken >= replies.Len() {
		return Reply{}
	}
	p.taken++
	kind, data, size := resp.Parse(replies.Raw()[p.next:], p.taken == replies.Len())
	p.next += size
	return Reply{Kind(kind), data}
}

// appendHeader appends kind, n and the end of the line, such as "$12\r\n".
func appendHeader(dst []byte, kind byte, n int64) []byte {
	switch { // most lengths have one or two digits
	case 0 <= n && n < 10:
		return append(dst, kind, byte('0'+n), '\r', '\n')
	case 10 <= n && n < 100:
		return append(dst, kind, byte('0'+n/10), byte('0'+n%10), '\r', '\n')
	}
	dst = strconv.AppendInt(append(dst, kind), n, 10)
	return append(dst, '\r', '\n')
}

func sha1Hex(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}
