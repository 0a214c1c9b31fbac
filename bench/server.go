package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
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

// startRedis starts a server and waits until it answers.
func startRedis() (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "caches-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{addr: addr.String(), dir: dir}
	s.cmd = exec.Command("redis-server", "--port", strconv.Itoa(addr.Port), "--bind", "127.0.0.1",
		"--dir", dir, "--save", "", "--appendonly", "no")
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

// stopOnSignal ends the process on an interrupt, and the server with it.
func (s *server) stopOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		s.stop()
		os.Exit(1)
	}()
}

// stop ends the server and removes its directory.
func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.dir)
}
