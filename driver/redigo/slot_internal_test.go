package redigo

import (
	"testing"
	"time"
	"unsafe"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// TestSlotSize checks that a slot fits into one line of the processor's cache.
func TestSlotSize(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(slot{}), uintptr(64))
}

// TestSlotIsSettledOnce settles entries twice, and earlier entries of a reused
// slot: only the first settlement of the current entry counts.
func TestSlotIsSettledOnce(t *testing.T) {
	now := time.Since(base)
	sl := newSlot()
	old := entry{ticket: sl.ticket(), deadline: now}
	assert.True(t, old.waits())
	old.answer()
	old.answer()
	old.fail(driver.ErrProtocol)
	assert.Len(t, sl.done, 1)
	assert.NoError(t, old.err())
	assert.False(t, old.settle(abandoned))
	<-sl.done

	e := entry{ticket: sl.ticket(), deadline: now}
	assert.False(t, old.waits())
	old.fail(driver.ErrProtocol)
	old.answer()
	next, over := old.expire(now+time.Hour, driver.ErrProtocol)
	assert.Equal(t, never, next)
	assert.False(t, over)
	assert.True(t, e.waits(), "an old entry settles nothing of a new call")
	next, over = e.expire(now-1, driver.ErrProtocol)
	assert.Equal(t, now, next)
	assert.False(t, over)
	_, over = e.expire(now, driver.ErrUnknownOutcome)
	assert.True(t, over)
	<-sl.done
	assert.ErrorIs(t, e.err(), driver.ErrUnknownOutcome)
}
