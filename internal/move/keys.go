package move

import "github.com/gocaches/caches/driver"

// moves appends a move for each key of p that has another place now and is not
// known to have moved.
func (m *Mover) moves(all []*move, shard int, p *driver.Pipeline) []*move {
	least, namespace := forReaders, ""
	if p.Mode()&driver.ReadOnly == 0 {
		least = forWriters
	}
	first := len(all)
	eachKey(p, func(key []byte) {
		switch m.config.Layout.Kind(key) {
		case Namespace:
			namespace = string(key)
		case Plain:
			if len(all) > first && all[len(all)-1].key == string(key) {
				return // a command and its expiry
			}
			if k := m.moved(string(key), shard, least); k != nil {
				all = append(all, k)
			}
		}
	})
	for _, k := range all[first:] {
		k.namespace = namespace
	}
	return all
}

// eachKey calls visit for the keys of all commands of p.
func eachKey(p *driver.Pipeline, visit func(key []byte)) {
	for i := range p.Len() {
		var keys [][]byte
		switch c := p.Command(i); {
		case c.Script != nil:
			keys = c.Keys
		case ofKeysAlone[p.Name(i)] && p.FirstKey(i) != nil:
			keys = c.Args[1:]
		case p.FirstKey(i) != nil:
			visit(p.FirstKey(i))
		}
		for _, key := range keys {
			visit(key)
		}
	}
}

// ofKeysAlone are the commands of several keys that package caches sends and that
// have no other arguments.
var ofKeysAlone = map[string]bool{
	"MGET": true, "DEL": true, "UNLINK": true, "EXISTS": true, "TOUCH": true,
	"SUNION": true, "SINTER": true, "SDIFF": true, "SUNIONSTORE": true, "SINTERSTORE": true, "SDIFFSTORE": true,
}
