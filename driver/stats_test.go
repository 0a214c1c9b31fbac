package driver_test

import (
	"reflect"
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// TestPlus checks that Plus adds every count.
func TestPlus(t *testing.T) {
	var a, b driver.Stats
	for i := range reflect.TypeFor[driver.Stats]().NumField() {
		reflect.ValueOf(&a).Elem().Field(i).SetInt(int64(i + 1))
		reflect.ValueOf(&b).Elem().Field(i).SetInt(1000)
	}
	sum := reflect.ValueOf(a.Plus(b))
	for i := range sum.NumField() {
		assert.Equal(t, int64(i+1+1000), sum.Field(i).Int(), sum.Type().Field(i).Name)
	}
}
