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

// A view is the state of all nodes, by node ID, as seen by one node.
type view map[string]belief

// A belief is the state of one node as seen by another, or by itself.
type belief struct {
	master   string   // node ID of its master; "" for a master
	hostname string   // announced to clients; "" if there is none
	epoch    int      // of its claim to slots; the later of two claims wins
	slots    []string // such as "0-5460" or "7"
	failed   bool     // unreachable, possibly according to others only
}

// same reports whether a client would see no difference between two beliefs.
func (b belief) same(o belief) bool {
	return b.master == o.master && b.hostname == o.hostname && slices.Equal(b.slots, o.slots) && !b.failed && !o.failed
}

// view asks n for its view (CLUSTER NODES). Nodes that n is still about to meet
// have no ID yet and are left out.
func (n *clusterNode) view() (view, error) {
	text, err := redis.String(n.Do("CLUSTER", "NODES"))
	if err != nil {
		return nil, err
	}
	v := make(view)
	for line := range strings.Lines(text) {
		// Fields: id addr flags master ping pong epoch link slot…
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
	if address := strings.Split(f[1], ","); len(address) > 1 { // ip:port@bus,hostname,shard-id=…
		b.hostname = address[1]
	}
	if strings.Contains(f[2], "slave") {
		b.master = f[3] // "-" while unknown
	}
	for _, s := range f[8:] {
		if !strings.HasPrefix(s, "[") { // a moving slot
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

// owners returns the owner of each slot according to the nodes' beliefs about
// themselves, or nil.
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

// whole returns nil if every slot has an owner.
func (s views) whole() error {
	if slot := slices.Index(s.owners(), nil); slot >= 0 {
		return fmt.Errorf("no master owns slot %d", slot)
	}
	return nil
}

// A pair is two nodes of which x has a belief about y that y does not share.
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

// introduced returns nil once every node knows every other.
func (c *ClusterServers) introduced() error {
	for _, n := range c.nodes {
		v, err := n.view()
		if err != nil {
			return err
		}
		if len(v) < len(c.nodes) {
			return fmt.Errorf("%s knows %d of %d nodes", n.addr, len(v), len(c.nodes))
		}
	}
	return nil
}

// linked returns nil if the node accepts commands and, as a replica, is linked
// to its master.
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

// split returns the two parts of host:port.
func split(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}
