package cluster_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo/cluster"
	"github.com/gocaches/caches/internal/resp"
	"github.com/gocaches/caches/testutil"
)

// The suite's keys share no slot, and its commands without a key expect the
// server that has the keys. So all keys get one hash tag here, and commands
// without a key run on the server of its slot.
func TestStore(t *testing.T) {
	t.Parallel()
	c := testutil.Cluster(t, 3, 0)
	testutil.TestStore(t, func(t *testing.T) driver.Store {
		for _, addr := range c.Addrs() {
			_, err := c.Node(addr).Do("FLUSHALL")
			require.NoError(t, err)
		}
		s := open(t, cluster.Config{Seeds: c.Addrs()})
		masters, err := s.Masters(t.Context())
		require.NoError(t, err)
		owner := c.Owner(s.Slot(tag, ""))
		for _, m := range masters {
			if strings.HasSuffix(m.(interface{ String() string }).String(), owner) {
				return &tagged{s, m.(driver.Starter)}
			}
		}
		t.Fatal("the owner of the slot is not among the masters")
		return nil
	})
}

const tag = "{tag}"

// tagged is a cluster in which all keys share one slot.
type tagged struct {
	*cluster.Store
	owner driver.Starter
}

func (s *tagged) Do(ctx context.Context, p *driver.Pipeline) error {
	q := s.rewritten(p)
	defer q.Free()
	err := s.owner.Do(ctx, q)
	s.back(p, q)
	return err
}

func (s *tagged) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	q := s.rewritten(p)
	return &taggedPending{s, p, q, s.owner.Start(ctx, q)}
}

type taggedPending struct {
	s       *tagged
	p, q    *driver.Pipeline
	pending driver.Pending
}

func (c *taggedPending) Finish() error {
	defer c.q.Free()
	err := c.pending.Finish()
	c.s.back(c.p, c.q)
	return err
}

// rewritten returns p with the tag in front of all keys.
func (s *tagged) rewritten(p *driver.Pipeline) *driver.Pipeline {
	q := driver.NewPipeline(p.Mode())
	for i := range p.Len() {
		cmd := p.Command(i)
		if cmd.Script != nil {
			q.Script(cmd.Script, len(cmd.Keys))
			for _, key := range cmd.Keys {
				q.Key(tag, string(key))
			}
			for _, arg := range cmd.Argv {
				q.Bytes(arg)
			}
			continue
		}
		isKey := keysOf(cmd)
		q.Cmd(cmd.Name())
		for at, arg := range cmd.Args[1:] {
			if isKey(at + 1) {
				q.Key(tag, string(arg))
			} else {
				q.Bytes(arg)
			}
		}
	}
	return q
}

// keysOf reports which arguments of a command of the suite are keys.
func keysOf(cmd driver.Command) func(i int) bool {
	upTo := func(n int) func(int) bool { return func(i int) bool { return i <= n } }
	switch name := cmd.Name(); name {
	case "PING", "ECHO", "DBSIZE", "FLUSHDB", "NOSUCH":
		return upTo(0)
	case "SCAN":
		return func(i int) bool { return string(cmd.Args[i-1]) == "MATCH" }
	case "SINTERCARD":
		return func(i int) bool {
			return i > 1 && string(cmd.Args[i]) != "LIMIT" && string(cmd.Args[i-1]) != "LIMIT"
		}
	case "MSET":
		return func(i int) bool { return i%2 == 1 }
	case "MGET", "DEL", "UNLINK", "EXISTS", "TOUCH", "SUNION", "SINTER", "SDIFF", "SUNIONSTORE", "SINTERSTORE", "SDIFFSTORE":
		return upTo(len(cmd.Args))
	case "RENAME", "COPY", "SMOVE":
		return upTo(2)
	}
	return upTo(1)
}

// back copies the replies of q to p and removes the tag from the keys in them.
func (s *tagged) back(p, q *driver.Pipeline) {
	p.ResetReplies()
	(*resp.Replies)(p.Replies()).Append(tags.ReplaceAllFunc(q.Replies().Raw(), func(head []byte) []byte {
		n, _ := strconv.Atoi(string(tags.FindSubmatch(head)[1]))
		return fmt.Appendf(nil, "$%d\r\n", n-len(tag))
	}), q.Replies().Len())
}

var tags = regexp.MustCompile(`\$(\d+)\r\n` + regexp.QuoteMeta(tag))
