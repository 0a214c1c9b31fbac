package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

const slotCount = 16384

// masters are the servers of a Redis Cluster without replicas, in the order of
// their slots.
type masters []*server

// startCluster starts n masters, which share the slots evenly, and returns once
// each of them has said that it knows who has which, after two to three seconds.
// After an error those that run are the caller's to stop, too.
func (s *servers) startCluster(n int) (all masters, err error) {
	var buses []int
	for range n {
		bus, err := freeAddr() // the default, 10,000 above the other port, may be taken, or be none
		if err != nil {
			return all, err
		}
		one, err := s.start("--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus.Port))
		if err != nil {
			return all, err
		}
		all, buses = append(all, one), append(buses, bus.Port)
	}
	return all, all.join(buses)
}

// join makes one cluster of the masters. Slots and epochs come first: two masters
// of one epoch would have to settle that when they meet. Everyone is introduced
// to everyone: to hear of others from others takes seconds.
func (m masters) join(buses []int) error {
	for i, one := range m {
		if err := errors.Join(
			one.do("CLUSTER", "SET-CONFIG-EPOCH", i+1),
			one.do("CLUSTER", "ADDSLOTSRANGE", i*slotCount/len(m), (i+1)*slotCount/len(m)-1),
		); err != nil {
			return err
		}
	}
	for i, one := range m {
		for j, other := range m[i+1:] {
			host, port, _ := strings.Cut(other.addr, ":")
			if err := one.do("CLUSTER", "MEET", host, port, buses[i+1+j]); err != nil {
				return err
			}
		}
	}
	for _, one := range m {
		if err := one.awaitCluster(); err != nil {
			return err
		}
	}
	return nil
}

// awaitCluster returns once the server takes commands for its slots: it knows a
// master for every slot, and two seconds have passed.
func (s *server) awaitCluster() error {
	conn, err := redis.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	var info string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if info, err = redis.String(conn.Do("CLUSTER", "INFO")); err != nil {
			return err
		}
		if strings.Contains(info, "cluster_state:ok") {
			return nil
		}
	}
	return fmt.Errorf("%s is not ready: %s", s.addr, info)
}

func (s *server) do(command string, args ...any) error {
	conn, err := redis.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Do(command, args...)
	return err
}

func (m masters) addrs() []string {
	var addrs []string
	for _, one := range m {
		addrs = append(addrs, one.addr)
	}
	return addrs
}

func (m masters) stop() {
	for _, one := range m {
		one.stop()
	}
}
