package flight

import (
	"context"
	"fmt"
	"time"
)

// Ended reports whether ctx has ended, or its deadline has passed and its timer is
// late: stores see a deadline before the context does, and the error that they
// return then is no fault of the server's.
func Ended(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(end)
}

// Reason returns why ctx has ended: its error, and its cause if that is another.
func Reason(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil { // the deadline has passed, and the timer is late
		return context.DeadlineExceeded
	}
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
