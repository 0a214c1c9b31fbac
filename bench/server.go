package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A server is a redis-server of the run's own, without persistence.
type server struct {
	addr string
	dir  string
	cmd  *exec.Cmd
}

// startRedis starts a server with further arguments and waits until it answers.
func startRedis(args ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "caches-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{addr: addr.String(), dir: dir}
	s.cmd = exec.Command("redis-server", append([]string{"--port", strconv.Itoa(addr.Port), "--bind", "127.0.0.1",
		"--dir", dir, "--save", "", "--appendonly", "no"}, args...)...)
	if err := s.cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("redis-server is needed (Debian: apt-get install redis-server): %w", err)
	}
	if err := s.wait(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// freeAddr returns a port that was free a moment ago.
func freeAddr() (*net.TCPAddr, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return l.Addr().(*net.TCPAddr), l.Close()
}

// wait returns once the server takes connections, after two seconds at most.
func (s *server) wait() (err error) {
	for range 200 {
		var conn redis.Conn
		if conn, err = redis.Dial("tcp", s.addr); err == nil {
			return conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("redis-server did not answer: %w", err)
}

// flush empties the server. Nobody is connected then: a client of rueidisaside
// may hang for ever when the server is emptied under it.
func (s *server) flush() error {
	p, err := newProbe(s.addr)
	if err != nil {
		return err
	}
	defer p.close()
	return p.flush()
}

// stop ends the server and removes its directory. A second stop does nothing.
func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.dir)
}

// servers are all that a run has started, so that none outlives it.
type servers struct {
	mu  sync.Mutex // held while one starts: who stops them all waits for it
	all []*server  // guarded by mu
}

// start is startRedis whose server ends with the others.
func (s *servers) start(args ...string) (*server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	started, err := startRedis(args...)
	if err == nil {
		s.all = append(s.all, started)
	}
	return started, err
}

func (s *servers) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		one.stop()
	}
	s.all = nil
}

// stopOnSignal ends the process on an interrupt, and the servers with it.
func (s *servers) stopOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		s.stop()
		os.Exit(1)
	}()
}
