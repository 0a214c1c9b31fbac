package testutil_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gocaches/caches/testutil"
	"github.com/stretchr/testify/require"
)

// A test process that ends without cleaning up takes its servers along.
func TestServersDieWithTheProcess(t *testing.T) {
	if os.Getenv("CACHES_TEST_ORPHAN") != "" {
		r := testutil.Redis(t, nil)
		_, _ = os.Stdout.WriteString("orphan " + r.Addr() + "\n")
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestServersDieWithTheProcess$")
	cmd.Env = append(os.Environ(), "CACHES_TEST_ORPHAN=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	addr := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if after, ok := strings.CutPrefix(lines.Text(), "orphan "); ok {
			addr = after
		}
	}
	require.Error(t, cmd.Wait(), "it exits with 1")
	require.NotEmpty(t, addr)
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, 10*time.Second, 5*time.Millisecond)
}
