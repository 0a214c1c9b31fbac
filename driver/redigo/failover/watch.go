package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
)

const (
	// grace is the time left to the other Sentinels once one has answered: enough
	// for healthy ones, and the most that an unhealthy one costs.
	grace = 25 * time.Millisecond
	// pollEvery is the time between polls. A random part of up to a tenth is
	// subtracted.
	pollEvery = time.Second
	// doubtAfter is how long the newest answer stays valid while only older ones
	// are given. Sentinels inform each other every two seconds, so one that was
	// merely behind has caught up by then.
	doubtAfter = 5 * time.Second
	// forgetAfter is how long a Sentinel that was not configured may be silent.
	forgetAfter = time.Minute
	// The pauses between attempts to subscribe start at firstPause and double up
	// to lastPause. A random part of up to half is subtracted.
	firstPause = 10 * time.Millisecond
	lastPause  = 2 * time.Second

	// channel is the channel on which Sentinels publish a master's name, its old
	// host and port, and its new host and port.
	channel = "+switch-master"
)

// A watch learns the address of one master from Sentinels.
//
// All answers go through accept, which alone decides whether the master has
// moved. So their order does not matter, and no caller has to wait for all of
// them.
type watch struct {
	name     string
	config   redigo.Config           // of a Sentinel, except its address
	switched func(reason error)      // called after the master has moved
	follow   func(replicas []string) // receives the replicas to read from; may be nil
	ctx      context.Context         // canceled by close
	cancel   context.CancelFunc
	running  sync.WaitGroup // all goroutines
	wake     chan struct{}  // cap 1: the next poll is due at once

	mu        sync.Mutex
	sentinels []*sentinel
	master    belief
	round     *round // the running round, for dials to join; nil if none
	started   bool   // poll and listen are running
	closed    bool
}

// A sentinel is one Sentinel to ask.
type sentinel struct {
	address    string
	configured bool // in Config.Sentinels: never forgotten
	store      *redigo.Store

	// The fields below are guarded by watch.mu.
	id         string // empty if unknown
	saidMaster string // the master's address in its last answer
	replicas   []string
	heardAt    time.Time // time of that answer, or of learning about the Sentinel
}

// A belief is the newest answer about the master.
type belief struct {
	address     string
	epoch       int64
	confirmedAt time.Time // time at which a Sentinel last gave this answer
}

// A round asks all Sentinels once.
type round struct {
	done    chan struct{}
	address string // read only after done is closed
	err     error  // read only after done is closed
}

func newWatch(c *Config) *watch {
	w := &watch{name: c.Master, wake: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	// ConnectTimeout covers the question and the dial that follows. A silent
	// Sentinel may use up half of it.
	answers := cmp.Or(c.Node.ConnectTimeout, defaultTimeout) / 2
	w.config = redigo.Config{
		Username: c.SentinelUsername, Password: c.SentinelPassword,
		DialAddress: c.Node.DialAddress, TLS: c.Node.TLS, ClientName: c.Node.ClientName,
		Timeout: answers, ConnectTimeout: answers, OwnConns: 1,
	}
	// No DB and no Role: a Sentinel has no databases, and proves that it is one by
	// knowing the master.
	return w
}

// open adds the configured Sentinels.
func (w *watch) open(addresses []string) error {
	for _, address := range addresses {
		if err := w.add(address, true); err != nil {
			return err
		}
	}
	return nil
}

// add adds a Sentinel unless its address is known. Only open calls it without
// mu.
func (w *watch) add(address string, configured bool) error {
	if slices.ContainsFunc(w.sentinels, func(s *sentinel) bool { return s.address == address }) {
		return nil
	}
	config := w.config
	config.Address = address
	store, err := redigo.Open(config)
	if err != nil {
		return err
	}
	w.sentinels = append(w.sentinels, &sentinel{address: address, configured: configured, store: store, heardAt: time.Now()})
	return nil
}

var errClosed = errors.New("the store is closed")

// resolve returns the address of the master. Concurrent calls share one round.
func (w *watch) resolve(ctx context.Context) (string, error) {
	r := w.join()
	select {
	case <-r.done:
		return r.address, r.err
	case <-ctx.Done():
		return "", fmt.Errorf("asking the Sentinels for %s: %w", w.name, ctx.Err())
	}
}

// join returns the running round, starting one if necessary.
func (w *watch) join() *round {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		r := &round{done: make(chan struct{}), err: errClosed}
		close(r.done)
		return r
	case w.round != nil:
		return w.round
	}
	// Not in newWatch: an unused Store has no goroutines. Here mu is held and
	// closed is false, so close waits for every goroutine started.
	w.begin()
	r := &round{done: make(chan struct{})}
	w.round = r
	w.running.Go(func() {
		err := w.askAll()
		w.mu.Lock()
		r.address, r.err, w.round = w.master.address, err, nil
		w.mu.Unlock()
		close(r.done)
	})
	return r
}

// begin starts poll and listen unless they run. The caller holds mu.
func (w *watch) begin() {
	if !w.started {
		w.started = true
		w.running.Go(w.poll)
		w.running.Go(w.listen)
	}
}

// known returns a copy of the list of Sentinels.
func (w *watch) known() []*sentinel {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sentinels)
}

// askAll asks all Sentinels at once. It returns nil at most grace after the
// first answer, or an error if there is none. Later answers are accepted too.
func (w *watch) askAll() error {
	all := w.known()
	answers := make(chan error, len(all))
	for _, s := range all {
		// A slow Sentinel may answer after this round: accept still hears it.
		w.running.Go(func() { answers <- w.askOne(s) })
	}
	var failures []string
	var enough <-chan time.Time
	for range all {
		select {
		case err := <-answers:
			if err != nil {
				failures = append(failures, err.Error())
			} else if enough == nil {
				enough = time.After(grace)
			}
		case <-enough:
			return nil
		}
	}
	if enough == nil {
		// Only the texts: the outcome of a question is not the outcome of the call.
		return fmt.Errorf("%w: no Sentinel knows the address of %s: %s", driver.ErrUnavailable, w.name, strings.Join(failures, "; "))
	}
	return nil
}

// askOne asks one Sentinel and accepts its answer.
func (w *watch) askOne(s *sentinel) error {
	a, err := ask(w.ctx, s.store, w.name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.address, err)
	}
	w.accept(s, a)
	return nil
}

// accept processes an answer.
func (w *watch) accept(s *sentinel, a answer) {
	now := time.Now()
	w.mu.Lock()
	s.id, s.saidMaster, s.replicas, s.heardAt = a.id, a.address, a.replicas, now
	was, moved := w.believe(a, now)
	w.learn(a.peers)
	w.forget(now)
	w.mu.Unlock()
	// Only after master has changed: a dial that begins after switched has closed
	// the connections gets the new address. A dial that got the old address is
	// aborted by switched, at any stage.
	if moved {
		w.switched(fmt.Errorf("the master %s moved from %s to %s", w.name, was, a.address))
	}
}

// believe adopts a as the belief if it is news. It reports whether the master
// has moved, and its previous address. The caller holds mu.
func (w *watch) believe(a answer, now time.Time) (was string, moved bool) {
	b := w.master
	// An epoch has one master. Another address in the same epoch is a second name
	// of that master or comes from Sentinels that were set up anew: not a move.
	older := a.epoch >= 0 && (a.epoch < b.epoch || a.epoch == b.epoch && a.address != b.address)
	if b.address != "" && older && !w.doubted(a.address, now) {
		return "", false
	}
	w.master = belief{a.address, a.epoch, now}
	return b.address, b.address != "" && b.address != a.address
}

// doubted reports whether the belief has not been confirmed for doubtAfter
// while most Sentinels have answered address. Then they were set up anew, and
// their epochs start from zero. The caller holds mu.
func (w *watch) doubted(address string, now time.Time) bool {
	if now.Sub(w.master.confirmedAt) < doubtAfter {
		return false
	}
	say := 0
	for _, s := range w.sentinels {
		if s.saidMaster == address && now.Sub(s.heardAt) < doubtAfter {
			say++
		}
	}
	return 2*say > len(w.sentinels)
}

// learn adds Sentinels named by another one. Peers with a known ID are skipped:
// a configured Sentinel is often named by another address. The caller holds mu.
func (w *watch) learn(peers []peer) {
	for _, p := range peers {
		same := func(s *sentinel) bool { return s.id != "" && s.id == p.id }
		if len(w.sentinels) < maxListed && !w.closed && !slices.ContainsFunc(w.sentinels, same) {
			_ = w.add(p.address, false) // malformed addresses are skipped
		}
	}
}

// forget drops Sentinels that were not configured if they are silent or
// duplicate a configured one. The caller holds mu.
func (w *watch) forget(now time.Time) {
	w.sentinels = slices.DeleteFunc(w.sentinels, func(s *sentinel) bool {
		gone := !s.configured && (now.Sub(s.heardAt) > forgetAfter || w.twin(s))
		if gone {
			w.running.Go(func() { _ = s.store.Close() })
		}
		return gone
	})
}

// twin reports whether a configured Sentinel has the ID of s.
func (w *watch) twin(s *sentinel) bool {
	return slices.ContainsFunc(w.sentinels, func(o *sentinel) bool {
		return o != s && o.configured && o.id != "" && o.id == s.id
	})
}

// poll asks at intervals, because a subscription may be lost without notice or
// lead to a Sentinel that is cut off.
func (w *watch) poll() {
	for {
		// Not join: a round in progress may be older than the message that woke poll.
		_ = w.askAll() // ignored: a call that needs the master reports it
		if w.follow != nil {
			w.follow(w.upReplicas(time.Now()))
		}
		timer := time.NewTimer(pollEvery - rand.N(pollEvery/10))
		select {
		case <-timer.C:
		case <-w.wake:
			timer.Stop()
		case <-w.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// upReplicas returns the replicas that are up according to most of the
// Sentinels with a recent answer and the right master. They are sorted by
// address, so that taking turns goes on in the same order after an update.
func (w *watch) upReplicas(now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	say, of := make(map[string]int), 0
	for _, s := range w.sentinels {
		if s.saidMaster != w.master.address || now.Sub(s.heardAt) > 2*pollEvery {
			continue
		}
		of++
		for _, address := range s.replicas {
			say[address]++
		}
	}
	var up []string
	for address, n := range say {
		if 2*n > of && address != w.master.address {
			up = append(up, address)
		}
	}
	slices.Sort(up)
	return up
}

// listen subscribes to one Sentinel after the other.
func (w *watch) listen() {
	pause := firstPause
	for turn := 0; w.ctx.Err() == nil; turn++ {
		all := w.known()
		if w.listenTo(all[turn%len(all)]) {
			pause = firstPause // and try the next Sentinel at once
			continue
		}
		// Pause after a turn over all Sentinels, not after each: while one of them is
		// reachable, listen is subscribed.
		if (turn+1)%len(all) == 0 {
			w.sleep(pause/2 + rand.N(pause/2))
			pause = min(2*pause, lastPause)
		}
	}
}

// listenTo listens to one Sentinel until the subscription is lost. It reports
// whether the subscription lasted.
func (w *watch) listenTo(s *sentinel) (well bool) {
	begun, heard := time.Now(), false
	_ = s.store.Listen(w.ctx, channel, func(message []byte) {
		heard = true
		if message == nil || strings.HasPrefix(string(message), w.name+" ") {
			w.pollNow() // the message only prompts a poll, which learns the address and the epoch
		}
	})
	return heard && time.Since(begun) > pollEvery
}

// pollNow makes the next poll begin at once.
func (w *watch) pollNow() {
	select {
	case w.wake <- struct{}{}:
	default: // already requested
	}
}

func (w *watch) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.ctx.Done():
	}
}

// close stops the watch and waits for its goroutines.
func (w *watch) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	// Forgotten Sentinels are closed by forget.
	for _, s := range w.known() {
		_ = s.store.Close()
	}
	w.running.Wait()
}
