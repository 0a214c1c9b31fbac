package redigo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/gocaches/caches/driver"
)

// Tracking tells which keys change (client-side caching,
// https://redis.io/docs/latest/develop/reference/client-side-caching/).
//
// One connection does all of it. It turns on tracking by prefix (BCAST), redirects
// the messages to itself and subscribes to them. In the usual layout one connection
// subscribes for the others, which read and are tracked. If one of these is lost,
// the server forgets its keys without a message. Here the tracked connection is the
// subscriber, so tracking cannot end unnoticed.

const (
	// pingEvery is the time between two PINGs on a tracking connection. A reply shows
	// that the server is alive and that all earlier messages have come.
	pingEvery = time.Second
	// trackSilence is the longest wait for the reply to a PING.
	trackSilence = 2 * time.Second
	// Lost tracking is resumed after trackFirst, then after twice as long, up to
	// trackLast. Up to half of each pause is random, so that the clients of a lost
	// server do not all return at once.
	trackFirst = 10 * time.Millisecond
	trackLast  = 2 * time.Second

	channel = "__redis__:invalidate"
)

var _ driver.Tracker = (*Store)(nil)

// Track implements [driver.Tracker], over a dedicated connection (CLIENT TRACKING
// with BCAST, SUBSCRIBE). The user needs the rights +client|id, +client|tracking,
// +subscribe, +ping and &__redis__:invalidate. A Store made by [FromPool] cannot
// track, and Track returns nil.
func (s *Store) Track(prefixes []string, tell func(driver.Event)) (stop func()) {
	if s.fromPool {
		return nil
	}
	ctx, cancel := context.WithCancel(s.ctx)
	go s.track(ctx, prefixes, tell)
	return cancel
}

func (s *Store) track(ctx context.Context, prefixes []string, tell func(driver.Event)) {
	pause := trackFirst
	for {
		t := tracking{s: s, tell: tell}
		err := t.run(ctx, prefixes)
		if t.c != nil { // a dial's error already names the server
			err = fmt.Errorf("tracking keys of %s: %w", s.address, err)
		}
		tell(driver.Event{Kind: driver.Lost, Err: err})
		if t.up {
			pause = trackFirst
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, trackLast)
	}
}

// A tracking is one tracking connection. One goroutine uses it.
type tracking struct {
	s    *Store
	tell func(driver.Event)
	c    *conn
	up   bool // it has told that it tracks

	// For Listen: the channel, and the function that gets its messages.
	topic string
	hears func(message []byte)

	framer  framer
	buf     []byte // bytes that have been read
	start   int    // of the bytes not used yet
	current driver.Pipeline

	pinged  time.Time // time of the last PING
	waiting bool      // for the reply to it
}

// run tracks until the connection is lost or ctx is done, and returns the reason.
func (t *tracking) run(ctx context.Context, prefixes []string) error {
	c, era, err := t.s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	c.attach(era)
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer stop()
	t.s.stats.dials.Add(1)
	c.ready(t.s)
	t.c, t.framer.limits = c, t.s.limits
	if t.hears != nil {
		err = t.subscribe(t.topic)
	} else {
		err = t.begin(prefixes)
	}
	for err == nil {
		err = t.listen()
	}
	return c.because(err)
}

// begin turns tracking on, with messages redirected to this connection by its ID.
func (t *tracking) begin(prefixes []string) error {
	t.pinged = time.Now() // later changes are told
	if err := t.write(t.pinged, "CLIENT", "ID"); err != nil {
		return err
	}
	r, err := t.next()
	if err != nil {
		return err
	}
	id, err := r.Int()
	if err != nil {
		return err
	}
	track := []string{"CLIENT", "TRACKING", "ON", "REDIRECT", strconv.FormatInt(id, 10), "BCAST"}
	for _, prefix := range prefixes {
		track = append(track, "PREFIX", prefix)
	}
	t.pinged = time.Now()
	if err := t.write(t.pinged, track...); err != nil {
		return err
	}
	if r, err = t.next(); err == nil {
		err = r.OK()
	}
	if err != nil {
		return err
	}
	return t.subscribe(channel)
}

// subscribe subscribes to redirected or published messages. Earlier ones are lost,
// so the time in which every message is told begins here.
func (t *tracking) subscribe(channel string) error {
	t.pinged = time.Now()
	if err := t.write(t.pinged, "SUBSCRIBE", channel); err != nil {
		return err
	}
	r, err := t.next()
	if err == nil {
		_, err = r.Elems()
	}
	if err != nil {
		return err
	}
	t.up = true
	t.tell(driver.Event{Kind: driver.Tracking, At: t.pinged})
	return nil
}

// listen takes one message, or sends a PING if one is due.
func (t *tracking) listen() error {
	now := time.Now()
	switch due := t.pinged.Add(pingEvery); {
	case t.waiting && now.Sub(t.pinged) > trackSilence:
		return errSilent
	case !t.waiting && !now.Before(due):
		t.pinged, t.waiting = now, true
		return t.write(now, "PING")
	}
	r, err := t.next()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // no message: time for a PING, or to give up
	}
	if err != nil {
		return err
	}
	return t.hear(r)
}

// hear takes a message: "message", the channel and the keys, or "pong" and the text
// of the PING. A nil instead of keys means every key.
func (t *tracking) hear(r driver.Reply) error {
	e, err := r.Elems()
	if err != nil {
		return err
	}
	kind, _, err := e.Next().Bytes()
	switch {
	case err != nil:
		return err
	case string(kind) == "pong":
		t.waiting = false
		t.tell(driver.Event{Kind: driver.Synced, At: t.pinged})
		return nil
	case string(kind) != "message":
		return fmt.Errorf("%w: an unexpected kind of message on a tracking connection", driver.ErrProtocol)
	}
	e.Next() // the channel: there is only one
	keys := e.Next()
	if t.hears != nil {
		message, _, err := keys.Bytes()
		if err == nil {
			t.hears(message)
		}
		return err
	}
	if keys.Kind() == driver.KindNil {
		t.tell(driver.Event{Kind: driver.Flushed})
		return nil
	}
	return t.changed(keys)
}

func (t *tracking) changed(r driver.Reply) error {
	keys, err := r.Elems()
	if err != nil {
		return err
	}
	for keys.Len() > 0 {
		key, _, err := keys.Next().Bytes()
		if err != nil {
			return err
		}
		t.tell(driver.Event{Kind: driver.Changed, Key: key})
	}
	return nil
}

func (t *tracking) write(now time.Time, words ...string) error {
	b := append(strconv.AppendInt([]byte{'*'}, int64(len(words)), 10), "\r\n"...)
	for _, word := range words {
		b = appendBulk(b, word)
	}
	err := t.c.nc.SetWriteDeadline(now.Add(trackSilence))
	if err == nil {
		_, err = t.c.nc.Write(b)
	}
	t.s.stats.out.Add(int64(len(b)))
	return err
}

// next returns the next reply or message, which is valid until the following call.
// It waits until a PING, or the reply to one, is due. The error is then
// [os.ErrDeadlineExceeded], and bytes of an unfinished message are kept.
func (t *tracking) next() (driver.Reply, error) {
	t.framer.begin(1)
	for {
		if err := t.framer.advance(t.buf[t.start:]); err != nil {
			return driver.Reply{}, err
		}
		if t.framer.left == 0 {
			break
		}
		if err := t.fill(); err != nil {
			return driver.Reply{}, err
		}
	}
	end := t.start + t.framer.pos
	t.current.ResetReplies()
	repliesOf(&t.current).Append(t.buf[t.start:end], 1)
	t.start = end
	return t.current.Next(), nil
}

// fill reads at least one byte.
func (t *tracking) fill() error {
	t.buf = t.buf[:copy(t.buf, t.buf[t.start:])]
	t.start = 0
	t.buf = slices.Grow(t.buf, max(minRead, min(t.framer.need, maxAhead)))
	until := t.pinged.Add(pingEvery)
	if t.waiting {
		until = t.pinged.Add(trackSilence)
	}
	err := t.c.nc.SetReadDeadline(until)
	if err != nil {
		return err
	}
	n, err := t.c.nc.Read(t.buf[len(t.buf):cap(t.buf)])
	t.buf = t.buf[:len(t.buf)+n]
	t.s.stats.in.Add(int64(n))
	if n > 0 {
		return nil // an error will come again
	}
	return noEOF(err)
}
