package cluster

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
)

// watchEvery is the time between questions for the masters while a tracker
// runs. A replaced master that does not know of it goes on telling its own
// changes; this bounds how long that goes unnoticed.
const watchEvery = 5 * time.Second

// learnLast is the longest pause between two attempts to learn the masters.
const learnLast = 2 * time.Second

var errMasters = errors.New("the masters of the cluster have changed")

// A tracker tracks all masters and merges their events. It is up while all
// masters are being tracked.
type tracker struct {
	s        *Store
	prefixes []string
	wake     chan struct{} // cap 1: the table has changed

	// members, up, synced and queue are guarded by s.mu.
	members map[*node]*memberTrack
	up      bool
	synced  time.Time      // At of the latest Tracking or Synced
	queue   []driver.Event // events to tell, in this order

	telling sync.Mutex // held while tell runs
	tell    func(driver.Event)
}

// A memberTrack is the tracking of one master.
type memberTrack struct {
	stop   func()
	up     bool
	synced time.Time // every change before this time has been told
}

// Track implements [driver.Tracker] on all masters together. If a call is sent
// to a master not tracked yet, tell gets Lost before the call returns, and
// tracking starts again.
//
// While tracking, the Store asks the cluster for its masters every 5 seconds.
// tell must not call the Store.
func (s *Store) Track(prefixes []string, tell func(driver.Event)) (stop func()) {
	tr := &tracker{s: s, prefixes: prefixes, tell: tell, wake: make(chan struct{}, 1), members: make(map[*node]*memberTrack)}
	ctx, cancel := context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.spawnLocked(func() { tr.run(ctx) }) {
		cancel()
		return cancel
	}
	s.trackers[tr] = struct{}{}
	return cancel
}

// kick makes run align the members soon. It does not wait.
func (tr *tracker) kick() {
	select {
	case tr.wake <- struct{}{}:
	default: // already requested
	}
}

// run keeps the members aligned with the masters until ctx is done.
func (tr *tracker) run(ctx context.Context) {
	defer tr.end()
	if !tr.learn(ctx) {
		return
	}
	timer := time.NewTicker(watchEvery)
	defer timer.Stop()
	for {
		tr.align()
		select {
		case <-tr.wake:
		case <-timer.C:
			tr.s.refresher.ask()
		case <-ctx.Done():
			return
		}
	}
}

// learn waits until a server has named the masters, and tells Lost after each
// failed attempt. It reports false if ctx is done.
func (tr *tracker) learn(ctx context.Context) bool {
	for pause := refreshEvery; tr.s.table.Load() == nil; pause = min(2*pause, learnLast) {
		err := tr.s.refresher.wait(ctx, time.Since(base), func() bool { return tr.s.table.Load() != nil })
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			tr.s.mu.Lock()
			tr.queue = append(tr.queue, driver.Event{Kind: driver.Lost, Err: err})
			tr.s.mu.Unlock()
			tr.deliver()
			sleep(ctx, pause/2+rand.N(pause/2))
		}
	}
	return ctx.Err() == nil
}

// align makes the members match the current masters.
func (tr *tracker) align() {
	tr.s.mu.Lock()
	t := tr.s.table.Load()
	wanted := tr.s.masters(t)
	for n, m := range tr.members {
		if !wanted[n] {
			m.stop()
			delete(tr.members, n)
		}
	}
	for n := range wanted {
		if tr.members[n] == nil {
			tr.begin(n)
		}
	}
	tr.announce(wanted)
	tr.s.mu.Unlock()
	tr.deliver()
}

// begin starts to track n. The caller holds s.mu, so that events wait in
// receive until m.stop is set.
func (tr *tracker) begin(n *node) {
	m := new(memberTrack)
	m.stop = n.store.Track(tr.prefixes, func(e driver.Event) { tr.receive(n, m, e) })
	tr.members[n] = m
}

// receive handles an event from one master.
func (tr *tracker) receive(n *node, m *memberTrack, e driver.Event) {
	if e.Kind != driver.Changed { // Changed is frequent and needs no state
		tr.s.mu.Lock()
		if tr.members[n] == m {
			tr.note(m, e)
		}
		tr.s.mu.Unlock()
	}
	if e.Kind == driver.Lost {
		tr.s.refresher.ask() // the master may have been replaced
	}
	tr.telling.Lock()
	defer tr.telling.Unlock()
	tr.drain()
	if e.Kind == driver.Changed {
		tr.tell(e)
	}
}

// note applies an event of one master to the tracker. The caller holds s.mu.
func (tr *tracker) note(m *memberTrack, e driver.Event) {
	switch e.Kind {
	case driver.Tracking:
		m.up, m.synced = true, e.At
		tr.kick()
	case driver.Synced:
		m.synced = e.At
		tr.sync()
	case driver.Flushed:
		tr.queue = append(tr.queue, driver.Event{Kind: driver.Flushed})
	case driver.Lost:
		m.up, tr.up = false, false
		tr.queue = append(tr.queue, e)
	}
}

// announce tells Tracking once all of wanted are up. The caller holds s.mu,
// under which tables are replaced, so no call reads from a master outside
// wanted before Lost is told.
func (tr *tracker) announce(wanted map[*node]bool) {
	if tr.up || len(wanted) == 0 || tr.misses(wanted) {
		return
	}
	for _, m := range tr.members {
		if !m.up {
			return
		}
	}
	tr.up, tr.synced = true, time.Now()
	tr.queue = append(tr.queue, driver.Event{Kind: driver.Tracking, At: tr.synced})
}

// sync tells the time before which all masters have told all changes. The
// caller holds s.mu.
func (tr *tracker) sync() {
	first := time.Now()
	for _, m := range tr.members {
		if m.synced.Before(first) {
			first = m.synced
		}
	}
	if tr.up && first.After(tr.synced) {
		tr.synced = first
		tr.queue = append(tr.queue, driver.Event{Kind: driver.Synced, At: first})
	}
}

// misses reports whether one of nodes is not tracked. The caller holds s.mu.
func (tr *tracker) misses(nodes map[*node]bool) bool {
	for n := range nodes {
		if tr.members[n] == nil {
			return true
		}
	}
	return false
}

// warnTrackers tells Lost to each tracker that is up but misses one of nodes.
// The caller holds mu. It is released while tell runs, so nodes is called again
// afterwards. On return no tracker that is up misses one of them.
func (s *Store) warnTrackers(nodes func() map[*node]bool) {
	for {
		all := nodes()
		var fallen []*tracker
		for tr := range s.trackers {
			if tr.up && tr.misses(all) {
				tr.up = false
				tr.queue = append(tr.queue, driver.Event{Kind: driver.Lost, Err: errMasters})
				tr.kick()
				fallen = append(fallen, tr)
			}
		}
		if len(fallen) == 0 {
			return
		}
		s.mu.Unlock()
		for _, tr := range fallen {
			tr.deliver()
		}
		s.mu.Lock()
	}
}

// deliver tells the queued events. On return every event queued by the caller
// has been told, by this goroutine or another.
func (tr *tracker) deliver() {
	tr.telling.Lock()
	defer tr.telling.Unlock()
	tr.drain()
}

// drain tells the queued events. The caller holds telling.
func (tr *tracker) drain() {
	tr.s.mu.Lock()
	events := tr.queue
	tr.queue = nil
	tr.s.mu.Unlock()
	for _, e := range events {
		tr.tell(e)
	}
}

// end stops all members.
func (tr *tracker) end() {
	tr.s.mu.Lock()
	members := maps.Clone(tr.members)
	clear(tr.members)
	delete(tr.s.trackers, tr)
	tr.s.mu.Unlock()
	for _, m := range members {
		m.stop()
	}
}
