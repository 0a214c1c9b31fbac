package caches

import (
	"context"
	"sync"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/layout"
)

const (
	defaultLease = 30 * time.Second
	minLease     = 10 * time.Millisecond
	// settleTimeout is the limit for closing or opening the gate after the work of
	// Do, and for concluding a lease. The caller's context may have ended by then.
	settleTimeout = 5 * time.Second
)

// A renewal keeps the claim of a lease or a gate alive. It renews the claim three
// times per life. After a fault it tries again sooner, so that an outage shorter
// than the life costs nothing. It ends when it is stopped, when the claim is gone,
// and when no renewal has succeeded for a whole life: by then the key may have
// expired.
type renewal struct {
	life  time.Duration
	renew func(ctx context.Context) (held bool, err error)
	lost  func() // called if the claim is gone, or may be

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex // held during a step
	timer  *time.Timer
	end    time.Time // no renewal after it can succeed
}

// start begins the renewal. The claim outlives the end of ctx.
func (r *renewal) start(ctx context.Context) {
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = time.Now().Add(r.life)
	r.timer = time.AfterFunc(r.life/3, r.step)
}

// stop ends the renewal, and waits for a step in progress, which it cancels.
func (r *renewal) stop() {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer.Stop()
}

func (r *renewal) step() {
	r.mu.Lock()
	defer r.mu.Unlock()
	goes := false
	defer func() { // also if a hook ends the goroutine
		if !goes && r.ctx.Err() == nil {
			r.lost()
		}
	}()
	sent, pause := time.Now(), r.life/3
	ctx, cancel := context.WithDeadline(r.ctx, r.end)
	defer cancel()
	switch held, err := r.renew(ctx); {
	case r.ctx.Err() != nil:
		return
	case err == nil && held:
		r.end = sent.Add(r.life) // no later than on the server, which counts from the arrival
	case err == nil, !time.Now().Before(r.end):
		return
	default:
		pause = r.life / 12
	}
	goes = true
	r.timer.Reset(min(pause, time.Until(r.end)))
}

// renew sets the TTL of a claim to ARGV[2] milliseconds, if the token still holds
// it. The lease of an entry may have a mark behind the token.
var renew = driver.NewScript(`
local holder = redis.call('GET', KEYS[1])
if not holder or string.sub(holder, 1, 34) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`, func(tx driver.Tx, keys, args [][]byte, reply *driver.Replies) {
	holder, _, err := tx.Call("GET", keys[0]).Bytes()
	switch {
	case err != nil:
		replyError(reply, err)
	case layout.TokenOf(holder) != string(args[0]):
		reply.Int(0)
	default:
		passOn(reply, tx.Call("PEXPIRE", keys[0], args[1]))
	}
})
