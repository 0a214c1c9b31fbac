package resp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gocaches/caches/internal/resp"
)

// TestFailed checks that Failed finds errors among the replies, but not inside
// arrays and strings.
func TestFailed(t *testing.T) {
	for _, c := range []struct {
		wire string
		n    int
		want bool
	}{
		{"", 0, false},
		{"+OK\r\n", 1, false},
		{"-ERR no\r\n", 1, true},
		{"$4\r\n-ERR\r\n", 1, false},
		{"*1\r\n-ERR no\r\n", 1, false},
		{"*2\r\n:1\r\n-ERR no\r\n+OK\r\n", 2, false},
		{"*0\r\n$-1\r\n-ERR no\r\n", 3, true},
		{":1\r\n*1\r\n-ERR no\r\n:2\r\n", 3, false},
		{"-ERR no\r\n:2\r\n", 2, true},
	} {
		var r resp.Replies
		r.Append([]byte(c.wire), c.n)
		assert.Equal(t, c.want, r.Failed(), "%q", c.wire)
	}
}
