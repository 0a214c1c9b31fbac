package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// A call is a Do that needs more than one exchange with one server, or a Start.
// It proceeds in rounds. A round assigns each open unit to a server, sends all
// servers their units at once, and learns from the replies which units are
// still open.
type call struct {
	s      *Store
	ctx    context.Context
	cancel context.CancelFunc // cancels ctx; set once limit has replaced ctx
	p      *driver.Pipeline
	home   *node         // for commands without a key; nil means any
	begun  time.Duration // time since base
	turn   uint32        // chooses replicas, and servers for commands without a key

	units  []unit
	parts  []part             // of the current round
	used   []*driver.Pipeline // Pipelines of parts, freed at the end because replies are views of them
	single bool               // a Start whose one part has no units yet
	err    error              // why the call cannot be made

	masters   bool // read only from masters: a replica has failed
	mustPause bool // a server has asked for a pause
	redirects int
	pauses    int

	divider divider
	out     []byte // the assembled replies
}

// A unit is sent, and sent again, as a whole: one command, one piece of a
// divided command, or a whole Pipeline.
type unit struct {
	cmd  int // index of the command, or wholePipeline
	slot int
	// The first and the last key of a piece, as indexes of divider.links, or
	// noLink.
	keys, last int

	open     bool   // has no outcome yet
	asking   bool   // must be sent behind ASKING
	to       *node  // named by a redirect; nil means the table decides
	failedAt *node  // the server that failed in the last round
	reply    []byte // a view of a Pipeline's replies
	err      error  // replaces the reply; while open, the error of an earlier attempt
}

const (
	wholePipeline = -1
	noLink        = -1
)

// A part is everything sent to one server in one round.
type part struct {
	route
	asking  bool
	p       *driver.Pipeline // the caller's Pipeline, or one from call.used
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

const keepBuffer = 256 << 10 // the largest buffer, in bytes, that free keeps

// free empties c and returns it to the pool. It keeps the memory of the lists.
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

// Do runs the commands of p as [driver.Store] specifies. The package
// documentation says which server runs each command.
func (s *Store) Do(ctx context.Context, p *driver.Pipeline) error { return s.do(ctx, p, nil) }

// do tries the common case first: the whole Pipeline goes unchanged to one
// server. It creates a call only if that is impossible or the replies require
// another round.
func (s *Store) do(ctx context.Context, p *driver.Pipeline, home *node) error {
	begun := time.Since(base)
	a := s.routeOf(p, home)
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
	return c.finish()
}

// served reports whether the outcome from the one server of p is final.
func (a route) served(p *driver.Pipeline, err error) bool {
	switch {
	case p.Len() == 0:
		return true
	case err != nil || anyNotFinal(p.Replies().Raw()):
		return false
	}
	a.node.markUp()
	return true
}

// Start begins the call that Do makes, as [driver.Starter] specifies.
func (s *Store) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	return s.start(ctx, p, nil)
}

func (s *Store) start(ctx context.Context, p *driver.Pipeline, home *node) driver.Pending {
	c := s.newCall(ctx, p, home, time.Since(base))
	if a := s.routeOf(p, home); a.node != nil {
		c.single = true
		c.addWhole(a).pending = a.store().Start(ctx, p)
		return c
	}
	c.plan()
	if c.err == nil {
		c.err = c.refusal()
	}
	if c.err == nil {
		c.place() // places nothing if no table is known yet: Finish waits for it
		for i := range c.parts {
			c.parts[i].start(ctx)
		}
	}
	return c
}

// Finish ends the call begun by Start. Usually the single part sent by Start is
// all there is. Units are made only if its replies require another round.
func (c *call) Finish() error {
	c.finishParts()
	if pt := c.onlyPart(); pt != nil {
		if err := pt.err; pt.served(c.p, err) {
			c.free()
			return err
		}
		c.plan()
		pt.addAll(len(c.units))
	}
	return c.finish()
}

func (c *call) onlyPart() *part {
	if !c.single {
		return nil
	}
	return &c.parts[0]
}

// addWhole adds a part that sends the caller's Pipeline itself.
func (c *call) addWhole(a route) *part {
	pt := c.newPart()
	pt.route, pt.p = a, c.p
	pt.addAll(len(c.units))
	return pt
}

// addAll adds all n units of the call to pt.
func (pt *part) addAll(n int) {
	for i := range n {
		pt.units = append(pt.units, i)
	}
}

// plan makes the units in the order of the commands. The pieces of one command
// are adjacent: assemble relies on it.
func (c *call) plan() {
	c.turn = c.s.turn.Add(1)
	whole := unit{cmd: wholePipeline, slot: noSlot, keys: noLink, open: true}
	for i := range c.p.Len() {
		r, err := reachOf(c.p, i)
		switch {
		case err != nil:
			c.err = err
			return
		case !needsOneConnection(c.p) && r.cross:
			c.divide(i)
		case !needsOneConnection(c.p):
			c.units = append(c.units, unit{cmd: i, slot: r.slot, keys: noLink, open: true})
		case r.cross || whole.slot != noSlot && r.slot != noSlot && r.slot != whole.slot:
			c.err = errCross("an Atomic or Own Pipeline")
			return
		case r.slot != noSlot:
			whole.slot = r.slot
		}
	}
	if needsOneConnection(c.p) && c.p.Len() > 0 {
		c.units = append(c.units, whole)
	}
}

// run makes a planned call.
func (c *call) run() error {
	if c.err == nil {
		c.err = c.refusal()
	}
	if c.err == nil {
		c.round()
	}
	return c.finish()
}

// refusal returns the reason not to begin the call, or nil.
func (c *call) refusal() error {
	if err := c.ctx.Err(); err != nil {
		return unavailable(err)
	}
	if c.s.ctx.Err() != nil {
		return unavailable(errClosed)
	}
	return nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", driver.ErrUnavailable, err) }

// finish collects the replies of the first round, makes further rounds until no
// unit is open, and ends the call.
func (c *call) finish() error {
	defer c.free()
	if c.err == nil {
		c.collect()
		for c.prepareRound() {
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

// round sends all open units and waits for the replies. Parts that need ASKING
// are sent first. If two commands have the same key, the earlier one was
// redirected by ASK while the slot was moving and the later one by MOVED after
// the move: the earlier one must run first.
func (c *call) round() {
	c.place()
	last := -1 // the part sent last, by Do, since it is waited for at once
	for i := range c.parts {
		if pt := &c.parts[i]; pt.asking {
			pt.err = pt.node.store.Ask(c.ctx, pt.p)
		} else {
			last = i
		}
	}
	for i := range c.parts {
		if i != last && !c.parts[i].asking {
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

// place assigns the open units to servers in the order of the commands, so
// commands with the same key stay in order. A unit whose server is unknown
// stays unplaced. place does not wait.
func (c *call) place() {
	c.newParts()
	c.divider.args = nil // drop the view: the Pipeline has been used by others since
	for i := range c.units {
		u := &c.units[i]
		if !u.open {
			continue
		}
		if a := c.pick(u); a.node != nil {
			pt := c.partFor(a, u.asking)
			pt.units = append(pt.units, i)
			c.write(pt, u)
		}
	}
}

// pick returns the destination of u. A redirect is newer than the table and
// takes precedence.
func (c *call) pick(u *unit) route {
	t := c.s.table.Load()
	switch {
	case u.to != nil:
		return route{node: u.to}
	case t == nil:
		return route{}
	case u.slot == noSlot:
		return route{node: t.anyone(c.home, c.turn)}
	}
	sh := t.slots[u.slot].Load()
	switch {
	case sh == nil:
		return route{}
	case !c.masters && c.s.readsReplicas(c.p):
		return sh.reader(c.turn)
	}
	return route{node: sh.master}
}

// write adds u to pt. It sends the caller's Pipeline itself only if that is a
// single unit: otherwise its replies may be views that other units still need.
func (c *call) write(pt *part, u *unit) {
	if u.cmd == wholePipeline {
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

// partFor returns the part for a destination, adding one if necessary.
func (c *call) partFor(a route, asking bool) *part {
	i := slices.IndexFunc(c.parts, func(pt part) bool { return pt.route == a && pt.asking == asking })
	if i >= 0 {
		return &c.parts[i]
	}
	pt := c.newPart()
	pt.route, pt.asking = a, asking
	return pt
}

// newPart adds an empty part, reusing the memory of an earlier round.
func (c *call) newPart() *part {
	if n := len(c.parts); n < cap(c.parts) {
		c.parts = c.parts[:n+1]
	} else {
		c.parts = append(c.parts, part{})
	}
	return &c.parts[len(c.parts)-1]
}

// newParts empties the list of parts and keeps its memory.
func (c *call) newParts() {
	for i := range c.parts {
		c.parts[i] = part{units: c.parts[i].units[:0]}
	}
	c.parts = c.parts[:0]
}
