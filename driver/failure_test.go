package driver_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
)

// A failure that stands for a reply is read as what it was made of, also inside
// an array, and takes no more than its place.
func TestAppendFailure(t *testing.T) {
	other := errors.New("of no kind")
	kinds := []error{driver.ErrUnavailable, driver.ErrUnknownOutcome, driver.ErrTooLarge, driver.ErrProtocol,
		driver.ErrOldServer, context.DeadlineExceeded, context.Canceled}
	for _, err := range []error{
		fmt.Errorf("%w: dial: %w", driver.ErrUnavailable, context.DeadlineExceeded),
		fmt.Errorf("%w: %w", driver.ErrUnknownOutcome, context.Canceled),
		driver.ErrTooLarge, driver.ErrProtocol, driver.ErrOldServer, other, errors.New(""),
	} {
		raw := driver.AppendFailure([]byte("*3\r\n:1\r\n"), err)
		raw = append(raw, ":2\r\n"...)
		raw = driver.AppendFailure(raw, err)
		p := driver.NewPipeline(0)
		p.Replies().Append(raw, 2)
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
			assert.False(t, errors.As(got, &server), "no server has said so")
		}
		n, fault := e.Next().Int()
		assert.NoError(t, fault)
		assert.EqualValues(t, 2, n)
		p.Free()
	}
	// One reply is one line.
	two := string(driver.AppendFailure(nil, errors.Join(driver.ErrUnavailable, errors.New("a\r\n+OK"))))
	first, rest := driver.CutReply([]byte(two))
	assert.Equal(t, two, string(first))
	assert.Empty(t, rest)
}

// CutReply finds the end of a reply of any kind.
func TestCutReply(t *testing.T) {
	replies := []string{"+OK\r\n", "-ERR no\r\n", ":-12\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "$4\r\n\r\n+x\r\n",
		"*0\r\n", "*2\r\n*2\r\n:1\r\n$1\r\na\r\n*-1\r\n"}
	var raw []byte
	for _, r := range replies {
		raw = append(raw, r...)
	}
	for _, want := range replies {
		var got []byte
		got, raw = driver.CutReply(raw)
		assert.Equal(t, want, string(got))
	}
	assert.Empty(t, raw)
}

// A command that is copied is the same command: its key, its number of
// arguments, and its script.
func TestCopy(t *testing.T) {
	script := driver.NewScript("return 1", nil)
	from := driver.NewPipeline(0)
	defer from.Free()
	from.Cmd("PING")
	from.CmdKey("SET", "front.", "key").String("v").Int(12)
	from.Script(script, 2).Key("a").Key("b").String("arg")
	from.Cmd("MGET")
	for i := range 30 { // a count of two digits
		from.Key(fmt.Sprint("k", i))
	}
	to := driver.NewPipeline(0)
	defer to.Free()
	to.Cmd("GET").Key("first")
	for i := range from.Len() {
		to.Copy(from, from.Len()-1-i)
	}
	to.String("more") // behind PING
	to.Cmd("GET").Key("last")
	require.Equal(t, from.Len()+2, to.Len())
	for i := range from.Len() {
		at := from.Len() - i
		want := string(from.Frame(i))
		if i == 0 {
			want = "*2\r\n$4\r\nPING\r\n$4\r\nmore\r\n"
			assert.Equal(t, 2, to.Args(at))
		} else {
			assert.Equal(t, from.Args(i), to.Args(at))
		}
		assert.Equal(t, want, string(to.Frame(at)))
		assert.Equal(t, from.Name(i), to.Name(at))
		assert.Equal(t, string(from.FirstKey(i)), string(to.FirstKey(at)))
	}
	assert.True(t, to.HasScripts())
	cmd := to.Command(2)
	assert.Same(t, script, cmd.Script)
	assert.Equal(t, [][]byte{[]byte("a"), []byte("b")}, cmd.Keys)
	assert.Equal(t, [][]byte{[]byte("arg")}, cmd.Argv)
	assert.Equal(t, "last", string(to.FirstKey(to.Len()-1)))
}
