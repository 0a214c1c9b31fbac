package resp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/resp"
)

// TestAppendFailure checks that a failure is read as the error it was made of, even
// as an element of an array, and that the replies behind it are read correctly.
func TestAppendFailure(t *testing.T) {
	other := errors.New("of no kind")
	kinds := []error{driver.ErrUnavailable, driver.ErrUnknownOutcome, driver.ErrTooLarge, driver.ErrProtocol,
		driver.ErrOldServer, context.DeadlineExceeded, context.Canceled}
	for _, err := range []error{
		fmt.Errorf("%w: dial: %w", driver.ErrUnavailable, context.DeadlineExceeded),
		fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, context.Canceled),
		driver.ErrTooLarge, driver.ErrProtocol, driver.ErrOldServer, other, errors.New(""),
	} {
		raw := resp.AppendFailure([]byte("*3\r\n:1\r\n"), err)
		raw = append(raw, ":2\r\n"...)
		raw = resp.AppendFailure(raw, err)
		p := driver.NewPipeline(0)
		(*resp.Replies)(p.Replies()).Append(raw, 2)
		e, fault := p.Next().Elems()
		require.NoError(t, fault)
		e.Next()
		for _, r := range []driver.Reply{e.Next(), p.Next()} {
			got := r.Err()
			assert.EqualError(t, got, err.Error())
			for _, kind := range kinds {
				assert.Equal(t, errors.Is(err, kind), errors.Is(got, kind), "%v of %v", kind, err)
			}
			_, _, fault := r.Bytes()
			assert.Equal(t, got, fault)
			var server *driver.ServerError
			assert.False(t, errors.As(got, &server), "it is not an error of the server")
		}
		n, fault := e.Next().Int()
		assert.NoError(t, fault)
		assert.EqualValues(t, 2, n)
		p.Free()
	}
	// The text of a failure stays one line, so the failure stays one reply.
	two := string(resp.AppendFailure(nil, errors.Join(driver.ErrUnavailable, errors.New("a\r\n+OK"))))
	first, rest := resp.Cut([]byte(two))
	assert.Equal(t, two, string(first))
	assert.Empty(t, rest)
}
