package redigo

import (
	"context"
	"fmt"

	"github.com/gocaches/caches/driver"
)

// Listen subscribes to a channel over a dedicated connection (SUBSCRIBE). It calls
// tell with nil once the subscription is confirmed, and then with each message
// published to the channel; earlier messages are not seen. A message is valid until
// tell returns.
//
// Listen returns an error when the connection is lost, ctx is done or the Store is
// closed or dropped. A connection counts as lost if the server leaves a PING
// unanswered for two seconds. A Store made by [FromPool] cannot listen.
func (s *Store) Listen(ctx context.Context, channel string, tell func(message []byte)) error {
	if s.fromPool {
		return fmt.Errorf("%w: a Store made by FromPool cannot listen", driver.ErrUnavailable)
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
