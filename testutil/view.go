package testutil

import (
	"fmt"
	"iter"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"
)

// A view is what one node believes of all nodes of its cluster, by their names.
type view map[string]belief

// A belief is what one node believes of another, or knows of itself.
type belief struct {
	master string   // whose replica it is; "" for a master
	epoch  int      // of its claim to slots; of two claims the later one holds
	slots  []string // "0-5460", "7"
	failed bool     // it does not answer, or so others say
}

// same reports whether two beliefs of one node are no different to a client.
func (b belief) same(o belief) bool {
	return b.master == o.master && slices.Equal(b.slots, o.slots) && !b.failed && !o.failed
}

// view asks the node for its view (CLUSTER NODES). Those that it is about to
// meet, and whose names it does not know yet, are not in it.
func (n *clusterNode) view() (view, error) {
	text, err := redis.String(n.Do("CLUSTER", "NODES"))
	if err != nil {
		return nil, err
	}
	v := make(view)
	for line := range strings.Lines(text) {
		// id addr flags master ping pong epoch link slot…
		f := strings.Fields(line)
		if len(f) < 8 || strings.Contains(f[2], "handshake") {
			continue
		}
		v[f[0]] = newBelief(f)
	}
	return v, nil
}

func newBelief(f []string) belief {
	b := belief{failed: strings.Contains(f[2], "fail")}
	b.epoch, _ = strconv.Atoi(f[6])
	if strings.Contains(f[2], "slave") {
		b.master = f[3] // "-" while it is not known whose
	}
	for _, s := range f[8:] {
		if !strings.HasPrefix(s, "[") { // a slot on its way
			b.slots = append(b.slots, s)
		}
	}
	return b
}

// each calls f for each slot of b.
func (b belief) each(f func(slot int)) {
	for _, s := range b.slots {
		first, last, ok := strings.Cut(s, "-")
		if !ok {
			last = first
		}
		from, _ := strconv.Atoi(first)
		to, _ := strconv.Atoi(last)
		for slot := from; slot <= to; slot++ {
			f(slot)
		}
	}
}

// views are the views of the nodes that can answer.
type views map[*clusterNode]view

func (c *ClusterServers) look() views {
	seen := make(views)
	for _, n := range c.up() {
		if v, err := n.view(); err == nil {
			seen[n] = v
		}
	}
	c.note(seen)
	return seen
}

// ordered yields the views in the order of nodes.
func (s views) ordered(nodes []*clusterNode) iter.Seq2[*clusterNode, view] {
	return func(yield func(*clusterNode, view) bool) {
		for _, n := range nodes {
			if v, ok := s[n]; ok && !yield(n, v) {
				return
			}
		}
	}
}

// owners returns who holds each slot, by what nodes say of themselves: nil
// where nobody does.
func (s views) owners() []*clusterNode {
	owners, epochs := make([]*clusterNode, clusterSlots), make([]int, clusterSlots)
	for n, v := range s {
		self := v[n.id]
		if self.master != "" {
			continue
		}
		self.each(func(slot int) {
			if owners[slot] == nil || self.epoch > epochs[slot] {
				owners[slot], epochs[slot] = n, self.epoch
			}
		})
	}
	return owners
}

// whole is nil if every slot has an owner.
func (s views) whole() error {
	if slot := slices.Index(s.owners(), nil); slot >= 0 {
		return fmt.Errorf("nobody holds slot %d", slot)
	}
	return nil
}

// A pair is two nodes of which x knows y otherwise than y itself.
type pair struct{ x, y *clusterNode }

// disagree returns all such pairs.
func (s views) disagree() []pair {
	var pairs []pair
	for x, v := range s {
		for y, own := range s {
			if believed, ok := v[y.id]; !ok || !believed.same(own[y.id]) {
				pairs = append(pairs, pair{x, y})
			}
		}
	}
	return pairs
}

// introduced is nil once all nodes know all.
func (c *ClusterServers) introduced() error {
	for _, n := range c.nodes {
		v, err := n.view()
		if err != nil {
			return err
		}
		if len(v) < len(c.nodes) {
			return fmt.Errorf("%s knows %d of %d", n.addr, len(v), len(c.nodes))
		}
	}
	return nil
}

// linked is nil if the node takes commands and, where it is a replica, gets
// those of its master.
func (n *clusterNode) linked() error {
	info, err := redis.String(n.Do("CLUSTER", "INFO"))
	if err != nil {
		return err
	}
	if infoField(info, "cluster_state") != "ok" {
		return fmt.Errorf("%s says that the cluster is down", n.addr)
	}
	if info, err = redis.String(n.Do("INFO", "replication")); err != nil {
		return err
	}
	if infoField(info, "role") == "slave" && infoField(info, "master_link_status") != "up" {
		return fmt.Errorf("%s has no link to its master", n.addr)
	}
	return nil
}

// split returns the two halves of host:port.
func split(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}
