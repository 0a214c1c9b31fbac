package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// slow is how long the function of a stampede takes.
const slow = 50 * time.Millisecond

// stampede has many callers, of one client and of several, ask at once for one
// result that nobody holds. An operation is a round, on a key that was not there
// before, and takes until the last caller has the value. What matters is the
// column of runs, and how much longer than the function's 50 ms a round takes.
//
// Each client is as good as a process: they share nothing but the server.
func stampede(b bench) error {
	p, err := newProbe(b.addr)
	if err != nil {
		return err
	}
	defer p.close()
	var ids atomic.Int64 // never the same twice
	for _, clients := range []int{1, 4} {
		for _, g := range b.callersOr(250) {
			if err := stampedeOf(b, p, clients, g, &ids); err != nil {
				return err
			}
		}
	}
	return nil
}

func stampedeOf(b bench, p *probe, clients, g int, ids *atomic.Int64) error {
	l := newLoad(1, b.cancel)
	var contenders []contender
	for _, peer := range b.loaderPeersOf(loaderNames()...) {
		w := &watch{probe: p, source: &source{takes: slow}, promise: math.Inf(1), cold: true, note: peer.notes[asComes]}
		s := &crowd{watch: w, callers: g, promise: peer.promise(clients, clients*g)}
		defer s.close()
		for range clients {
			c, err := peer.open(b.addr, w.source, asComes)
			if err != nil {
				return fmt.Errorf("%s: %w", peer.name, err)
			}
			s.clients = append(s.clients, c)
		}
		contenders = append(contenders, w.contender(l, peer.name, func(ctx context.Context, _ int) error {
			return s.round(ctx, int(ids.Add(1)))
		}))
	}
	return b.compare("stampede", fmt.Sprintf("clients=%d g=%d", clients, g), contenders)
}

// A crowd is the callers of one contender.
type crowd struct {
	watch   *watch
	clients []loader
	callers int // of each client
	promise int // how often the function may run in a round
}

// round has all callers ask for id. Runs that are too many are counted round by
// round: one round in which a client had no need to run lends nothing to the next.
func (c *crowd) round(ctx context.Context, id int) error {
	before := c.watch.source.runs.Load()
	var running sync.WaitGroup
	gate, errs := make(chan struct{}), make([]error, len(c.clients)*c.callers)
	for i := range errs {
		running.Go(func() {
			<-gate
			u, err := c.clients[i%len(c.clients)].get(ctx, id)
			errs[i] = sameUser(u, id, err)
		})
	}
	close(gate)
	running.Wait()
	c.watch.extra += max(int(c.watch.source.runs.Load()-before)-c.promise, 0)
	return errors.Join(errs...)
}

func (c *crowd) close() {
	for _, l := range c.clients {
		l.close()
	}
}
