package redigo

import (
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// TestSlotSize: a slot is handed over between processors in one piece.
func TestSlotSize(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(slot{}), uintptr(64))
}

// TestSlotIsSettledOnce settles entries twice, and old ones of a slot that is
// used again: only the first settlement of the present entry counts.
func TestSlotIsSettledOnce(t *testing.T) {
	now := time.Now()
	old := newEntry(now, 1)
	assert.True(t, old.waits())
	old.answer()
	old.answer()
	old.fail(driver.ErrProtocol)
	assert.Len(t, old.slot.done, 1)
	assert.NoError(t, old.err())
	assert.False(t, old.settle(abandoned))
	<-old.slot.done
	slots.Put(old.slot)

	e := newEntry(now, 1)
	for e.slot != old.slot { // the pool may have lost it, under the race detector
		slots.Put(old.slot)
		e = newEntry(now, 1)
	}
	assert.False(t, old.waits())
	old.fail(driver.ErrProtocol)
	old.answer()
	assert.EqualValues(t, math.MaxInt64, old.expire(after(now.Add(time.Hour)), driver.ErrProtocol))
	assert.True(t, e.waits(), "an old entry settles nothing of a new call")
	assert.Equal(t, after(now), e.expire(after(now.Add(-1)), driver.ErrProtocol))
	e.expire(after(now), driver.ErrUnknownOutcome)
	<-e.slot.done
	assert.ErrorIs(t, e.err(), driver.ErrUnknownOutcome)
}
