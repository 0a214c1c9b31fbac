package redigo

import (
	"context"
	"fmt"

	"github.com/gocaches/caches/driver"
)

// Listen subscribes to a channel, over a connection of its own, and has tell
// called with each message that comes there (SUBSCRIBE); first, once the
// subscription stands, with nil: what was published before then went unheard. It
// returns when the connection is lost, with the reason, or when ctx or the Store
// has ended. A connection on which nothing is heard for two seconds, not even an
// answer to PING, is lost.
//
// A message is valid until tell returns. A Store over a foreign pool cannot
// listen.
func (s *Store) Listen(ctx context.Context, channel string, tell func(message []byte)) error {
	if s.fromPool {
		return fmt.Errorf("%w: a foreign pool has no connection to listen on", driver.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	t := tracking{s: s, topic: channel, hears: tell, tell: func(e driver.Event) {
		if e.Kind == driver.Tracking {
			tell(nil)
		}
	}}
	err := t.run(ctx, nil)
	if ctx.Err() != nil {
		return fmt.Errorf("listening at %s: %w", s.address, ctx.Err())
	}
	return fmt.Errorf("listening at %s: %w", s.address, err)
}
