package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// A call is one Do that takes more than one exchange with one server, or one
// Start. It goes in rounds: each open unit is given to the server that is to
// have it, all those servers are sent theirs at once, and the replies say which
// units are still open.
type call struct {
	s      *Store
	ctx    context.Context
	cancel context.CancelFunc // of ctx, once that is ours
	p      *driver.Pipeline
	home   *node         // of commands without a key; nil: any
	begun  time.Duration // after base
	turn   uint32        // of replicas, and of servers for commands without a key

	units []unit
	parts []part             // of the round
	used  []*driver.Pipeline // of parts: replies are views of them
	lone  bool               // a Start of one part that has no units yet
	err   error              // why nothing can be sent

	masters   bool // replicas have failed: not again
	wait      bool // a server has said: later
	redirects int
	pauses    int

	divider divider
	out     []byte // the replies in the end
}

// A unit is what goes to one server, and is sent again, as one: a command, one
// piece of a command that is divided, or a Pipeline that is whole.
type unit struct {
	cmd  int // of the Pipeline, or all of it
	slot int
	// The first and the last key of a piece, in divider.links; else noLink.
	keys, last int

	open  bool   // it has no outcome yet
	asks  bool   // the next server is to be told ASKING
	to    *node  // which a redirect has named; nil: the table says
	tried *node  // which was not there
	reply []byte // a view
	err   error  // in place of the reply, or of an earlier attempt that may have run
}

const (
	all    = -1
	noLink = -1
)

// A part is what one server is sent in one round.
type part struct {
	aim
	asks    bool
	p       *driver.Pipeline // the call's own, or one of ours
	units   []int
	pending driver.Pending
	err     error
}

func (s *Store) newCall(ctx context.Context, p *driver.Pipeline, home *node, begun time.Duration) *call {
	c, ok := s.calls.Get().(*call)
	if !ok {
		c = &call{s: s}
	}
	c.ctx, c.p, c.home, c.begun = ctx, p, home, begun
	return c
}

const keepBuffer = 256 << 10 // the largest buffer that a call keeps for the next

// free gives the call back, with the memory that its lists have grown to, and
// nothing in it.
func (c *call) free() {
	if c.cancel != nil {
		c.cancel()
	}
	for _, p := range c.used {
		p.Free()
	}
	clear(c.units)
	clear(c.used)
	c.newParts()
	if cap(c.out) > keepBuffer {
		c.out = nil
	}
	*c = call{s: c.s, units: c.units[:0], parts: c.parts, used: c.used[:0], divider: c.divider.emptied(), out: c.out}
	c.s.calls.Put(c)
}

// Do runs the commands of p as [driver.Store] says, and the package's own words
// about where they go.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error { return s.do(ctx, p, nil) }

// do is the way of nearly every call: to one server, as it is. A call is made of
// it only where that is not all.
func (s *Store) do(ctx context.Context, p *driver.Pipeline, home *node) error {
	begun := time.Since(base)
	a := s.aim(p, home)
	if a.node == nil {
		c := s.newCall(ctx, p, home, begun)
		c.plan()
		return c.run()
	}
	err := a.store().Do(ctx, p)
	if a.served(p, err) {
		return err
	}
	c := s.newCall(ctx, p, home, begun)
	c.plan()
	c.addWhole(a).err = err
	return c.goOn()
}

// served reports whether p has its end with what its one server has said.
func (a aim) served(p *driver.Pipeline, err error) bool {
	switch {
	case p.Len() == 0:
		return true
	case err != nil || troubled(p.Replies().Raw()):
		return false
	}
	a.node.well()
	return true
}

// Start is Do as [driver.Starter] says.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	return s.start(ctx, p, nil)
}

func (s *Store) start(ctx context.Context, p *driver.Pipeline, home *node) driver.Pending {
	c := s.newCall(ctx, p, home, time.Since(base))
	if a := s.aim(p, home); a.node != nil {
		c.lone = true
		c.addWhole(a).pending = a.store().Start(ctx, p)
		return c
	}
	c.plan()
	if c.err == nil {
		c.err = c.impossible()
	}
	if c.err == nil {
		c.place() // nowhere, where nobody has said yet who has which slot: Finish waits for that
		for i := range c.parts {
			c.parts[i].start(ctx)
		}
	}
	return c
}

// Finish ends what Start has begun. Most calls end with the one part that Start
// has sent; units are made where that part's replies say more.
func (c *call) Finish() error {
	c.finishParts()
	if pt := c.theLone(); pt != nil {
		if err := pt.err; pt.served(c.p, err) {
			c.free()
			return err
		}
		c.plan()
		pt.addAll(len(c.units))
	}
	return c.goOn()
}

func (c *call) theLone() *part {
	if !c.lone {
		return nil
	}
	return &c.parts[0]
}

// addWhole adds the part that is the caller's Pipeline itself.
func (c *call) addWhole(a aim) *part {
	pt := c.newPart()
	pt.aim, pt.p = a, c.p
	pt.addAll(len(c.units))
	return pt
}

// addAll gives a part the first n units, which are all that there are.
func (pt *part) addAll(n int) {
	for i := range n {
		pt.units = append(pt.units, i)
	}
}

// plan makes the units, in the order of the commands, the pieces of one command
// next to each other: assemble relies on it.
func (c *call) plan() {
	c.turn = c.s.turn.Add(1)
	whole := unit{cmd: all, slot: noSlot, keys: noLink, open: true}
	for i := range c.p.Len() {
		r, err := reachOf(c.p, i)
		switch {
		case err != nil:
			c.err = err
			return
		case !isWhole(c.p) && r.cross:
			c.divide(i)
		case !isWhole(c.p):
			c.units = append(c.units, unit{cmd: i, slot: r.slot, keys: noLink, open: true})
		case r.cross || whole.slot != noSlot && r.slot != noSlot && r.slot != whole.slot:
			c.err = errCross("a Pipeline that is Atomic or has a connection of its own")
			return
		case r.slot != noSlot:
			whole.slot = r.slot
		}
	}
	if isWhole(c.p) && c.p.Len() > 0 {
		c.units = append(c.units, whole)
	}
}

// run makes a call that was planned.
func (c *call) run() error {
	if c.err == nil {
		c.err = c.impossible()
	}
	if c.err == nil {
		c.round()
	}
	return c.goOn()
}

// impossible returns why the call cannot even be begun with.
func (c *call) impossible() error {
	if err := c.ctx.Err(); err != nil {
		return unavailable(err)
	}
	if c.s.ctx.Err() != nil {
		return unavailable(errClosed)
	}
	return nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", driver.ErrUnavailable, err) }

// goOn takes what the first round has brought, makes the others, and ends the
// call.
func (c *call) goOn() error {
	defer c.free()
	if c.err == nil {
		c.collect()
		for c.settle() {
			c.s.retries.Add(1)
			c.round()
			c.collect()
		}
		c.err = c.conclude()
	}
	if c.err != nil {
		c.p.ResetReplies()
	}
	return c.err
}

// round sends all open units, and waits for the replies. What is sent behind
// ASKING comes first: of two commands for one key, it is the earlier one that
// met the slot on its way, and the later one that found it gone.
func (c *call) round() {
	c.place()
	last := -1 // it needs no start: it is the one to wait for first
	for i := range c.parts {
		if pt := &c.parts[i]; pt.asks {
			pt.err = pt.node.store.Ask(c.ctx, pt.p)
		} else {
			last = i
		}
	}
	for i := range c.parts {
		if i != last && !c.parts[i].asks {
			c.parts[i].start(c.ctx)
		}
	}
	if last >= 0 {
		pt := &c.parts[last]
		pt.err = pt.store().Do(c.ctx, pt.p)
	}
	c.finishParts()
}

func (pt *part) start(ctx context.Context) { pt.pending = pt.store().Start(ctx, pt.p) }

func (c *call) finishParts() {
	for i := range c.parts {
		if pt := &c.parts[i]; pt.pending != nil {
			pt.err, pt.pending = pt.pending.Finish(), nil
		}
	}
}

// place gives the open units to servers, as far as there are any, in the order of
// the commands: so two for one key keep theirs. It does not wait.
func (c *call) place() {
	c.newParts()
	c.divider.args = nil // a view of the Pipeline that others have used meanwhile
	for i := range c.units {
		u := &c.units[i]
		if !u.open {
			continue
		}
		if a := c.pick(u); a.node != nil {
			pt := c.partFor(a, u.asks)
			pt.units = append(pt.units, i)
			c.write(pt, u)
		}
	}
}

// pick returns where a unit is to go: a server's word before the table's, for it
// is newer.
func (c *call) pick(u *unit) aim {
	t := c.s.table.Load()
	switch {
	case u.to != nil:
		return aim{node: u.to}
	case t == nil:
		return aim{}
	case u.slot == noSlot:
		return aim{node: t.anyone(c.home, c.turn)}
	}
	sh := t.slots[u.slot].Load()
	switch {
	case sh == nil:
		return aim{}
	case !c.masters && c.s.readsReplicas(c.p):
		return sh.reader(c.turn)
	}
	return aim{node: sh.master}
}

// write adds a unit to a part. The caller's Pipeline is sent as it is only where
// it is one unit: else its replies may be views that are still needed.
func (c *call) write(pt *part, u *unit) {
	if u.cmd == all {
		pt.p = c.p
		pt.p.ResetReplies()
		return
	}
	if pt.p == nil {
		pt.p = driver.NewPipeline(c.p.Mode())
		c.used = append(c.used, pt.p)
	}
	if u.keys == noLink {
		pt.p.Copy(c.p, u.cmd)
		return
	}
	c.writePiece(pt.p, u)
}

// partFor returns the part of a server.
func (c *call) partFor(a aim, asks bool) *part {
	i := slices.IndexFunc(c.parts, func(pt part) bool { return pt.aim == a && pt.asks == asks })
	if i >= 0 {
		return &c.parts[i]
	}
	pt := c.newPart()
	pt.aim, pt.asks = a, asks
	return pt
}

// newPart adds an empty part, with the memory of one of an earlier round.
func (c *call) newPart() *part {
	if n := len(c.parts); n < cap(c.parts) {
		c.parts = c.parts[:n+1]
	} else {
		c.parts = append(c.parts, part{})
	}
	return &c.parts[len(c.parts)-1]
}

// newParts begins a round, with the memory of the last one.
func (c *call) newParts() {
	for i := range c.parts {
		c.parts[i] = part{units: c.parts[i].units[:0]}
	}
	c.parts = c.parts[:0]
}
