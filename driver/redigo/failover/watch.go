package failover

import (
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
	// askTime is what a Sentinel gets for its answer, at most.
	askTime = 500 * time.Millisecond
	// grace is how long the others are waited for once one has answered: long
	// enough for those that are well, and one that is not costs no more.
	grace = 25 * time.Millisecond
	// pollEvery is the time between two rounds of questions that nobody waits
	// for. One in ten of it is chance.
	pollEvery = time.Second
	// doubt is how long the newest answer holds while only older ones are given.
	// Sentinels tell each other every two seconds, so one that is merely behind
	// has caught up by then.
	doubt = 5 * time.Second
	// forget is how long a Sentinel that others have named may be silent.
	forget = time.Minute
	// Where no Sentinel can be listened to, it is tried again after firstPause,
	// then after twice as long, up to lastPause; half of each is chance.
	firstPause = 10 * time.Millisecond
	lastPause  = 2 * time.Second

	// channel is where Sentinels publish the name of a master, the host and port
	// where it was, and those where it is now.
	channel = "+switch-master"
)

// A watch knows where one master is, from what Sentinels say.
//
// Every answer, to whomever it was given, goes through take, which decides by
// itself whether the master has moved; so it does not matter in which order
// answers come, and nobody has to wait for all of them.
type watch struct {
	name     string
	config   redigo.Config // of a Sentinel, without its address
	mapped   func(address string) string
	switched func(reason error)      // called when the master has moved
	follow   func(replicas []string) // told which may be read from; may be nil
	ctx      context.Context         // ends with close
	cancel   context.CancelFunc
	running  sync.WaitGroup // all goroutines
	wake     chan struct{}  // has the next poll begin at once; cap 1

	mu        sync.Mutex
	sentinels []*sentinel
	master    belief
	round     *round // that who dials may join
	begun     bool   // poll and listen run
	closed    bool
}

// A sentinel is one of those that are asked.
type sentinel struct {
	address    string
	configured bool // it is never forgotten
	store      *redigo.Store

	// Guarded by watch.mu:
	id       string // empty where it is not known
	said     string // where the master is, by its last answer, …
	replicas []string
	at       time.Time // … and when that came, or the Sentinel became known
}

// A belief is where the master is, by the newest answer so far.
type belief struct {
	address string
	epoch   int64
	at      time.Time // when that answer was last given
}

// A round is one question to all Sentinels.
type round struct {
	done    chan struct{}
	address string // read after done is closed
	err     error  // so is this
}

func newWatch(c *Config) *watch {
	w := &watch{name: c.Master, mapped: c.mapped, wake: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	// A dial has its ConnectTimeout for the question and for all that follows, so
	// a Sentinel that does not answer may cost half of it.
	answers := askTime
	if c.Node.ConnectTimeout > 0 {
		answers = min(answers, c.Node.ConnectTimeout/2)
	}
	w.config = redigo.Config{
		Username: c.SentinelUsername, Password: c.SentinelPassword,
		TLS: c.Node.TLS, ClientName: c.Node.ClientName,
		Timeout: answers, ConnectTimeout: answers, OwnConns: 1,
	}
	// A Sentinel has no database, and no role to check: it says itself that it is
	// one, by knowing the master.
	return w
}

// open makes the Sentinels that are configured known.
func (w *watch) open(addresses []string) error {
	for _, address := range addresses {
		if err := w.add(address, true); err != nil {
			return err
		}
	}
	return nil
}

// add makes a Sentinel known. It is called with mu held, or by open.
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
	w.sentinels = append(w.sentinels, &sentinel{address: address, configured: configured, store: store, at: time.Now()})
	return nil
}

var errClosed = errors.New("the store is closed")

// resolve returns where the master is. Who asks at the same time gets the same
// answer.
func (w *watch) resolve(ctx context.Context) (string, error) {
	r := w.join()
	select {
	case <-r.done:
		return r.address, r.err
	case <-ctx.Done():
		return "", fmt.Errorf("asking the Sentinels for %s: %w", w.name, ctx.Err())
	}
}

// join returns the round that is under way, or begins one.
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
	// Here, and not in newWatch: a Store that is opened and not used has no
	// goroutine. Whoever gets here holds mu with closed unset, so that close
	// waits for what is begun.
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

// begin starts what runs until close. It is called with mu held.
func (w *watch) begin() {
	if !w.begun {
		w.begun = true
		w.running.Go(w.poll)
		w.running.Go(w.listen)
	}
}

// known returns the Sentinels that are known now.
func (w *watch) known() []*sentinel {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sentinels)
}

// askAll asks all Sentinels at once. It returns a moment after the first answer,
// and an error where none came; later ones count as well.
func (w *watch) askAll() error {
	all := w.known()
	answers := make(chan error, len(all))
	for _, s := range all {
		// One that is slow goes on after this round, and is still heard by take.
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
		// Only their texts: what became of a question is not what became of a call.
		return fmt.Errorf("%w: no Sentinel says where %s is: %s", driver.ErrUnavailable, w.name, strings.Join(failures, "; "))
	}
	return nil
}

// askOne asks one Sentinel and takes in what it says.
func (w *watch) askOne(s *sentinel) error {
	a, err := ask(w.ctx, s.store, w.name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.address, err)
	}
	a.address = w.mapped(a.address)
	w.take(s, a)
	return nil
}

// take takes in an answer.
func (w *watch) take(s *sentinel, a answer) {
	now := time.Now()
	w.mu.Lock()
	s.id, s.said, s.replicas, s.at = a.id, a.address, a.replicas, now
	was, moved := w.believe(a, now)
	w.learn(a.peers)
	w.forget(now)
	w.mu.Unlock()
	// After the belief: a dial that begins once the connections are closed asks
	// again, and is told of the new master. One that was told of the former one
	// before is ended with them, wherever it has come to.
	if moved {
		w.switched(fmt.Errorf("the master %s was at %s and is at %s", w.name, was, a.address))
	}
}

// believe decides whether an answer is news. It reports whether the master has
// moved, and from where. It is called with mu held.
func (w *watch) believe(a answer, now time.Time) (was string, moved bool) {
	b := w.master
	// Of one epoch there is one master, so that two addresses are two names of it,
	// or a set of Sentinels that was set up anew. Neither is a reason to move.
	older := a.epoch >= 0 && (a.epoch < b.epoch || a.epoch == b.epoch && a.address != b.address)
	if b.address != "" && older && !w.doubted(a.address, now) {
		return "", false
	}
	w.master = belief{a.address, a.epoch, now}
	return b.address, b.address != "" && b.address != a.address
}

// doubted reports whether most Sentinels say something else than what was the
// newest answer, and nobody has given that one for long: they were set up anew,
// and count from the beginning. It is called with mu held.
func (w *watch) doubted(address string, now time.Time) bool {
	if now.Sub(w.master.at) < doubt {
		return false
	}
	say := 0
	for _, s := range w.sentinels {
		if s.said == address && now.Sub(s.at) < doubt {
			say++
		}
	}
	return 2*say > len(w.sentinels)
}

// learn makes Sentinels known that another one has named. A configured one has
// one name more there, often: what tells it is its ID. It is called with mu
// held.
func (w *watch) learn(peers []peer) {
	for _, p := range peers {
		same := func(s *sentinel) bool { return s.id != "" && s.id == p.id }
		if len(w.sentinels) < maxListed && !w.closed && !slices.ContainsFunc(w.sentinels, same) {
			_ = w.add(w.mapped(p.address), false) // one that is no address is left out
		}
	}
}

// forget drops those who were named by others and are silent, or turned out to
// be known by another address. It is called with mu held.
func (w *watch) forget(now time.Time) {
	w.sentinels = slices.DeleteFunc(w.sentinels, func(s *sentinel) bool {
		gone := !s.configured && (now.Sub(s.at) > forget || w.twin(s))
		if gone {
			w.running.Go(func() { _ = s.store.Close() })
		}
		return gone
	})
}

// twin reports whether a configured Sentinel is the same as s.
func (w *watch) twin(s *sentinel) bool {
	return slices.ContainsFunc(w.sentinels, func(o *sentinel) bool {
		return o != s && o.configured && o.id != "" && o.id == s.id
	})
}

// poll asks from time to time, in case nobody tells: a subscription may have
// been lost without a sign, or be to a Sentinel that is cut off.
func (w *watch) poll() {
	for {
		// Not the round that others may have begun: it may be older than what
		// woke us.
		_ = w.askAll() // a call that needs the master says so
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

// upReplicas returns those that most of the Sentinels say are up, of the
// Sentinels that have answered lately and know the master. Their order is that
// of their addresses: who asks them in turn goes on where it was.
func (w *watch) upReplicas(now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	say, of := make(map[string]int), 0
	for _, s := range w.sentinels {
		if s.said != w.master.address || now.Sub(s.at) > 2*pollEvery {
			continue
		}
		of++
		for _, address := range s.replicas {
			say[w.mapped(address)]++
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

// listen has one Sentinel after the other tell when a master moves.
func (w *watch) listen() {
	pause := firstPause
	for turn := 0; w.ctx.Err() == nil; turn++ {
		all := w.known()
		if w.listenTo(all[turn%len(all)]) {
			pause = firstPause // and the next one at once
			continue
		}
		// A pause after each turn, not after each Sentinel: while one of them can
		// be listened to, somebody is.
		if (turn+1)%len(all) == 0 {
			w.sleep(pause/2 + rand.N(pause/2))
			pause = min(2*pause, lastPause)
		}
	}
}

// listenTo listens to one Sentinel until that is lost. It reports whether there
// was a subscription worth the name.
func (w *watch) listenTo(s *sentinel) (well bool) {
	begun, heard := time.Now(), false
	_ = s.store.Listen(w.ctx, channel, func(message []byte) {
		heard = true
		if message == nil || strings.HasPrefix(string(message), w.name+" ") {
			w.hurry() // what it says, the Sentinels say, too, and since when
		}
	})
	return heard && time.Since(begun) > pollEvery
}

// hurry has the next poll begin at once.
func (w *watch) hurry() {
	select {
	case w.wake <- struct{}{}:
	default: // it is to begin already
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

// close ends the watch, and waits for all of it.
func (w *watch) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	// Those that were forgotten are being closed already.
	for _, s := range w.known() {
		_ = s.store.Close()
	}
	w.running.Wait()
}
