package resp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gocaches/caches/internal/resp"
)

// TestCut checks that Cut finds the end of each kind of reply.
func TestCut(t *testing.T) {
	replies := []string{"+OK\r\n", "-ERR no\r\n", ":-12\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "$4\r\n\r\n+x\r\n",
		"*0\r\n", "*2\r\n*2\r\n:1\r\n$1\r\na\r\n*-1\r\n"}
	var raw []byte
	for _, r := range replies {
		raw = append(raw, r...)
	}
	for _, want := range replies {
		var got []byte
		got, raw = resp.Cut(raw)
		assert.Equal(t, want, string(got))
	}
	assert.Empty(t, raw)
}
