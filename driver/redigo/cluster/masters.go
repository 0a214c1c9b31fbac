package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/gocaches/caches/driver"
)

// A masterStore is the cluster with a fixed server for commands without a key.
type masterStore struct {
	s *Store
	n *node
}

var _ driver.Starter = masterStore{}

func (m masterStore) Do(ctx context.Context, p *driver.Pipeline) error { return m.s.do(ctx, p, m.n) }

func (m masterStore) Start(ctx context.Context, p *driver.Pipeline) driver.Pending {
	return m.s.start(ctx, p, m.n)
}

// Close does nothing: the Store owns the server's connections.
func (m masterStore) Close() error { return nil }

// String returns the address of the server.
func (m masterStore) String() string { return "redis " + m.n.address }

// Masters implements [driver.Cluster]. The String of each Store has its
// address. A caller that visits all masters in turn may see a key twice or not
// at all if the key moves meanwhile.
func (s *Store) Masters(ctx context.Context) ([]driver.Store, error) {
	if s.ctx.Err() != nil {
		return nil, unavailable(errClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	known := func() bool { return s.table.Load() != nil }
	if err := s.refresher.wait(ctx, time.Since(base), known); err != nil {
		return nil, unavailable(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var nodes []*node
	for _, sh := range s.table.Load().shards {
		nodes = append(nodes, sh.master)
	}
	for _, h := range s.hints {
		if !slices.Contains(nodes, h.to) {
			nodes = append(nodes, h.to)
		}
	}
	all := make([]driver.Store, len(nodes))
	for i, n := range nodes {
		all[i] = masterStore{s, n}
	}
	return all, nil
}
