package testutil

import (
	"os/exec"
	"syscall"
)

// dieWithUs has the system kill cmd's process when this one ends in a way that
// runs no cleanup: a panic of another goroutine, the time limit of go test.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
