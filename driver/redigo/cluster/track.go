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

// watchEvery is how often the servers are asked who has which slot while
// somebody tracks. A master that was replaced and does not know it goes on
// telling what changes on itself; this is how long nobody may notice.
const watchEvery = 5 * time.Second

// learnLast is the longest pause between two attempts to hear of any master.
const learnLast = 2 * time.Second

var errMasters = errors.New("the cluster has another master")

// A tracker tracks on all masters at once, and makes one story of what they
// tell: it tracks while all of them do, and they are all that there are.
type tracker struct {
	s        *Store
	prefixes []string
	wake     chan struct{} // cap 1: the table is another one

	// Guarded by s.mu:
	members map[*node]*memberTrack
	up      bool
	synced  time.Time      // the last that was told
	queue   []driver.Event // to be told, in this order

	telling sync.Mutex // held while tell runs
	tell    func(driver.Event)
}

// A memberTrack is the tracking of one master.
type memberTrack struct {
	stop   func()
	up     bool
	synced time.Time // every change before it was told
}

// Track does what [driver.Tracker] says, on all masters at once. It is begun
// again, and told lost, also where a call is sent to a master that is not
// tracked yet, before that call has its answer.
//
// While it tracks it asks the cluster every 5 seconds who its masters are. tell
// must not call the Store.
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

// kick has the members looked after. It does not wait.
func (tr *tracker) kick() {
	select {
	case tr.wake <- struct{}{}:
	default: // it is about to be
	}
}

// run looks after the members until ctx ends.
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

// learn waits until a server has said who the masters are, and tells of each
// time that none did. It is false where ctx has ended.
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

// align makes the members those that the masters are now.
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
	tr.rise(wanted)
	tr.s.mu.Unlock()
	tr.deliver()
}

// begin tracks one more master. It is called with s.mu held, which what is told
// waits for: stop is there before.
func (tr *tracker) begin(n *node) {
	m := new(memberTrack)
	m.stop = n.store.Track(tr.prefixes, func(e driver.Event) { tr.hear(n, m, e) })
	tr.members[n] = m
}

// hear takes what one master tells.
func (tr *tracker) hear(n *node, m *memberTrack, e driver.Event) {
	if e.Kind != driver.Changed { // which come by the thousand, and change nothing here
		tr.s.mu.Lock()
		if tr.members[n] == m {
			tr.note(m, e)
		}
		tr.s.mu.Unlock()
	}
	if e.Kind == driver.Lost {
		tr.s.refresher.ask() // it may have been replaced
	}
	tr.telling.Lock()
	defer tr.telling.Unlock()
	tr.drain()
	if e.Kind == driver.Changed {
		tr.tell(e)
	}
}

// note does what an event of one master means for the whole. It is called with
// s.mu held.
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

// rise tells that the tracking has begun, if it has. It is called with s.mu
// held, under which tables are replaced: so no call reads from a master, from
// here on, that is not among wanted.
func (tr *tracker) rise(wanted map[*node]bool) {
	if tr.up || len(wanted) == 0 || tr.lacks(wanted) {
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

// sync tells up to when every master has told all. It is called with s.mu held.
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

// lacks reports whether one of nodes is not tracked. It is called with s.mu held.
func (tr *tracker) lacks(nodes map[*node]bool) bool {
	for n := range nodes {
		if tr.members[n] == nil {
			return true
		}
	}
	return false
}

// warn tells those who track that a master is there which they do not track, of
// those that nodes returns. It is called with mu held, and lets go of it while it
// tells: nodes is asked again afterwards. It returns when nobody claims to track
// them all who does not.
func (s *Store) warn(nodes func() map[*node]bool) {
	for {
		all := nodes()
		var fallen []*tracker
		for tr := range s.trackers {
			if tr.up && tr.lacks(all) {
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

// deliver tells what is queued. When it returns, what its caller has queued is
// told, by whomever.
func (tr *tracker) deliver() {
	tr.telling.Lock()
	defer tr.telling.Unlock()
	tr.drain()
}

// drain is called with telling held.
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
