//go:build !unix

package testutil

import (
	"errors"
	"os"
)

var errNoSignals = errors.New("testutil: this system cannot pause a process")

func pause(*os.Process) error  { return errNoSignals }
func resume(*os.Process) error { return errNoSignals }
