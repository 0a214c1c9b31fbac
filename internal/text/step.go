package text

import (
	"fmt"
	"math"
	"reflect"
	"strconv"

	"github.com/gocaches/caches/internal/corrupt"
)

// Step returns the text of sign × delta, and reports whether it is a float. A
// delta that is not a number is an error.
func Step(delta any, sign int64) (text []byte, float bool, err error) {
	switch v := reflect.ValueOf(delta); v.Kind() {
	case reflect.Float32, reflect.Float64:
		f := v.Float() * float64(sign)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, true, fmt.Errorf("%w: %v cannot be added", corrupt.ErrOverflow, f)
		}
		text, err = AppendFloat(nil, f, v.Type().Bits())
		return text, true, err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if sign < 0 && v.Int() == math.MinInt64 {
			return nil, false, ErrInt64
		}
		return strconv.AppendInt(nil, v.Int()*sign, 10), false, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if v.Uint() > math.MaxInt64 {
			return nil, false, ErrInt64
		}
		return strconv.AppendInt(nil, int64(v.Uint())*sign, 10), false, nil
	}
	return nil, false, fmt.Errorf("%w: a %T cannot be added", corrupt.ErrNotNumber, delta)
}

// ErrInt64 reports a step beyond the range of the server.
var ErrInt64 = fmt.Errorf("%w: the server counts in int64", corrupt.ErrOverflow)
