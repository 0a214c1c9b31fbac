package corrupt_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/corrupt"
)

// Errors of decoders are shown only if they are known not to repeat the value.
func TestValue(t *testing.T) {
	var number struct{ N struct{ M int8 } }
	var small int8
	for _, tt := range []struct {
		cause error
		want  string
	}{
		{corrupt.Reason("it is cut short"), "it is cut short"},
		{fmt.Errorf("a wrapped one: %w", corrupt.Reason("it is cut short")), "it is cut short"},
		{fmt.Errorf("%w: of int", corrupt.ErrNotNumber), "caches: not a number: of int"},
		{corrupt.ErrOverflow, "caches: number out of range"},
		{io.ErrUnexpectedEOF, "unexpected EOF"},
		{json.Unmarshal([]byte(`{"N":{"M":4711}}`), &number), "json: a number where a Go int8 is wanted, at N.M"},
		{json.Unmarshal([]byte("4711"), &small), "json: a number where a Go int8 is wanted"},
		{json.Unmarshal([]byte("{4711"), &small), "invalid character '4' looking for beginning of object key string"},
		{errors.New("4711"), "the decoder's error, a *errors.errorString, may repeat it and is not shown"},
	} {
		err := corrupt.Value(tt.cause)
		require.Equal(t, "caches: corrupt value: "+tt.want, err.Error())
		require.ErrorIs(t, err, corrupt.Err)
		require.ErrorIs(t, err, tt.cause)
	}
	large := fmt.Errorf("%w: 4711 bytes", driver.ErrTooLarge)
	require.Equal(t, large, corrupt.Value(large))
}
