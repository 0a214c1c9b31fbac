package caches

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// The server refuses prefixes of which one begins with another.
func TestPrefixFree(t *testing.T) {
	for _, test := range []struct{ topics, want []string }{
		{[]string{"b", "a"}, []string{"a", "b"}},
		{[]string{"user", "user.team", "users", "use"}, []string{"use"}},
		{[]string{"a", "a"}, []string{"a"}},
		{[]string{"x", ""}, []string{""}},
		{[]string{"a.b", "a-b", "a"}, []string{"a"}},
	} {
		assert.Equal(t, test.want, prefixFree(test.topics), "%q", test.topics)
	}
}
