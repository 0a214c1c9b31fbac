package testutil

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	moveSlots   = 50               // slots moving at once
	moveKeys    = 100              // keys in one MIGRATE
	moveTimeout = 10 * time.Second // of one MIGRATE
)

// MoveSlots moves slots with their keys to the master at address to, from the
// masters that own them, while clients keep running. It reshards as redis-cli
// does, but fifty slots at a time. Clients get ASK while a slot is moving,
// MOVED afterwards, and TRYAGAIN if only some keys of a command have arrived.
// MoveSlots returns once all nodes agree.
//
// A master left without slots becomes a replica of the master that took the
// last one (cluster-allow-replica-migration).
func (c *ClusterServers) MoveSlots(to string, slots ...int) {
	c.t.Helper()
	dst, owners := c.node(to), c.look().owners()
	held := make(map[*clusterNode][]int)
	for _, slot := range slots {
		if owners[slot] == nil {
			c.t.Fatalf("no master owns slot %d", slot)
		}
		held[owners[slot]] = append(held[owners[slot]], slot)
	}
	delete(held, dst)
	for _, src := range c.nodes {
		for batch := range slices.Chunk(held[src], moveSlots) {
			if err := c.newMove(src, dst).run(batch); err != nil {
				c.t.Fatalf("moving slots from %s to %s: %v\n%s", src.addr, to, err, dst.log())
			}
		}
	}
	c.Wait()
}

// A move moves slots from one node to another.
type move struct {
	src, dst *clusterNode
	others   []*clusterNode // other masters to inform
}

func (c *ClusterServers) newMove(src, dst *clusterNode) *move {
	m := &move{src: src, dst: dst}
	for n, v := range c.look() {
		if v[n.id].master == "" && n != src && n != dst {
			m.others = append(m.others, n)
		}
	}
	return m
}

// run moves slots in the order described at redis.io/commands/cluster-setslot.
// The destination imports before the source migrates, so they never redirect to
// each other. The destination owns the slots before the source gives them up.
func (m *move) run(slots []int) error {
	if err := m.dst.setSlots(slots, "IMPORTING", m.src.id); err != nil {
		return err
	}
	if err := m.src.setSlots(slots, "MIGRATING", m.dst.id); err != nil {
		return err
	}
	if err := m.migrate(slots); err != nil {
		return err
	}
	for _, n := range append([]*clusterNode{m.dst, m.src}, m.others...) {
		err := n.setSlots(slots, "NODE", m.dst.id)
		if n == m.src && err != nil && strings.Contains(err.Error(), "only with masters") {
			continue // it learned of the new owner and gave up its last slot
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setSlots runs CLUSTER SETSLOT for all slots.
func (n *clusterNode) setSlots(slots []int, state, id string) error {
	conn, err := n.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = eachSlot(conn, slots, "SETSLOT", state, id)
	return err
}

// eachSlot runs CLUSTER sub slot args… for each slot in one pipeline.
func eachSlot(conn redis.Conn, slots []int, sub string, args ...any) ([]any, error) {
	for _, slot := range slots {
		if err := conn.Send("CLUSTER", append([]any{sub, slot}, args...)...); err != nil {
			return nil, err
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	replies := make([]any, len(slots))
	for i, slot := range slots {
		var err error
		if replies[i], err = conn.Receive(); err != nil {
			return nil, fmt.Errorf("CLUSTER %s %d %v: %w", sub, slot, args, err)
		}
	}
	return replies, nil
}

// migrate moves keys until the slots are empty. They stay empty: the source
// accepts no new keys for a slot that is MIGRATING.
func (m *move) migrate(slots []int) error {
	conn, err := m.src.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for len(slots) > 0 {
		if slots, err = m.migrateSome(conn, slots); err != nil {
			return err
		}
	}
	return nil
}

// migrateSome moves some keys of each slot and returns the slots that had any.
func (m *move) migrateSome(conn redis.Conn, slots []int) ([]int, error) {
	replies, err := eachSlot(conn, slots, "GETKEYSINSLOT", moveKeys)
	if err != nil {
		return nil, err
	}
	var left []int
	for i, slot := range slots {
		keys, err := redis.Strings(replies[i], nil)
		if err != nil {
			return nil, err
		}
		if len(keys) == 0 {
			continue
		}
		if _, err := conn.Do("MIGRATE", m.args(keys)...); err != nil {
			return nil, fmt.Errorf("keys of slot %d: %w", slot, err)
		}
		left = append(left, slot)
	}
	return left, nil
}

// args returns the arguments of MIGRATE for keys. There is no REPLACE: a key in
// both places is a fault that a test must see.
func (m *move) args(keys []string) []any {
	host, port := split(m.dst.addr)
	args := []any{host, port, "", 0, moveTimeout.Milliseconds()}
	switch user, password := m.dst.login(); {
	case user != "":
		args = append(args, "AUTH2", user, password)
	case password != "":
		args = append(args, "AUTH", password)
	}
	return append(args, redis.Args{"KEYS"}.AddFlat(keys)...)
}
