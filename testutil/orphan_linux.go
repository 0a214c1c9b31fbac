package testutil

import (
	"os/exec"
	"syscall"
)

// dieWithUs makes the system kill cmd's process if this one ends without
// cleanup: by a panic in another goroutine, or by the timeout of go test.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
