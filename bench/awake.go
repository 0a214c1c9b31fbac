package main

import "os"

// stayAwake keeps the processors from sleeping until the process ends, and
// reports whether it may. Linux does so as long as somebody holds this file open
// with the longest wake-up written into it that is still welcome, in µs: none.
// See https://docs.kernel.org/power/pm_qos_interface.html.
//
// In a virtual machine an idle processor is given back to the host. To wake it
// can take 100 µs, ten times as long as the call that it is woken for, and then
// a benchmark of clients is one of the host.
func stayAwake() bool {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	held = f
	_, err = f.Write(make([]byte, 4))
	return err == nil
}

// held is not closed: closing it ends the wish.
var held *os.File
