package driver_test

import (
	"testing"

	"github.com/gocaches/caches/driver"
	"github.com/stretchr/testify/assert"
)

// TestFailed looks for an error among replies, and not inside them.
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
		p := driver.NewPipeline(0)
		p.Replies().Append([]byte(c.wire), c.n)
		assert.Equal(t, c.want, p.Replies().Failed(), "%q", c.wire)
		p.Free()
	}
}
