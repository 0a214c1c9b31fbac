package main

import "fmt"

var (
	rawOps     = []string{"get", "set", "mget", "mix"}
	rawCallers = []int{1, 8, 64, 256, 1024}
)

// raw sets the transport beside other Redis clients: one process, one server,
// the same keys and values, each case by itself.
func raw(b bench) error {
	d, err := newData(b.addr)
	if err != nil {
		return err
	}
	clients, closeAll, err := openAll(b.addr, chosen(b.peers, peerNames()...)...)
	if err != nil {
		return err
	}
	defer closeAll()
	for _, name := range chosen(b.ops, rawOps...) {
		for _, g := range b.callersOr(rawCallers...) {
			if err := b.compare("raw", fmt.Sprintf("%s g=%d", name, g), contenders(b, d, clients, name, g)); err != nil {
				return err
			}
		}
	}
	return nil
}

// contenders are the clients, each doing the operation from g goroutines. They
// share the load: only one of them runs at a time.
func contenders(b bench, d *data, clients []named, name string, g int) []contender {
	var all []contender
	l := newLoad(g, b.cancel)
	l.warm = true
	for _, c := range clients {
		all = append(all, l.contender(c.name, d.op(name, c.client)))
	}
	return all
}
