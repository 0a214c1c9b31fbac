package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// hogs sets the transport beside redigo's pool in a process short of CPU: four
// goroutines spin all the time. A transport that hands a call from goroutine to
// goroutine waits behind them at each hop; a pool's caller keeps its time slice.
func hogs(b bench) error {
	d, err := newData(b.addr)
	if err != nil {
		return err
	}
	clients, closeAll, err := openAll(b.addr, "redigo")
	if err != nil {
		return err
	}
	defer closeAll()
	defer spin(4)()
	for _, g := range b.callersOr(8, 64) {
		if err := b.compare("hogs", fmt.Sprintf("get g=%d", g), contenders(b, d, clients, "get", g)); err != nil {
			return err
		}
	}
	return nil
}

// spin lets n goroutines use all the CPU that they can get.
func spin(n int) (stop func()) {
	var stopped atomic.Bool
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for !stopped.Load() {
			}
		})
	}
	return func() {
		stopped.Store(true)
		running.Wait()
	}
}
