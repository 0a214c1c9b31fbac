package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocaches/caches"
)

// object sets a Cache's Get beside the transport under it, on the same keys:
// with the object made for each call, as most code does, and with objects made
// before, "get-held".
func object(b bench) error {
	d, err := newData(b.addr)
	if err != nil {
		return err
	}
	transport, closeAll, err := openAll(b.addr)
	if err != nil {
		return err
	}
	defer closeAll()
	conn, err := caches.Open("redis://" + b.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, g := range b.callersOr(64) {
		l := newLoad(g, b.cancel)
		l.warm = true
		under := l.contender("transport", d.get(transport[0].client))
		if err := errors.Join(
			b.compare("object", fmt.Sprintf("get g=%d", g), []contender{l.contender("object", getObject(conn, d)), under}),
			b.compare("object", fmt.Sprintf("get-held g=%d", g), []contender{l.contender("object", getHeld(conn, d)), under}),
		); err != nil {
			return err
		}
	}
	return nil
}

// benchCache describes the objects whose keys are those of the data.
func benchCache(conn *caches.Conn) caches.Cache[string] {
	return caches.Cache[string]{Prefix: keyPrefix, TTL: time.Hour, Serializer: caches.Raw}.On(conn)
}

func getObject(conn *caches.Conn, d *data) op {
	c := benchCache(conn)
	return func(ctx context.Context, n int) error {
		i := d.at(n)
		v, err := c.Key(keyBase + i).Get(ctx)
		return same(v, d.values[i], err)
	}
}

func getHeld(conn *caches.Conn, d *data) op {
	var held []caches.Value[string]
	for i := range keyCount {
		held = append(held, benchCache(conn).Key(keyBase+i))
	}
	return func(ctx context.Context, n int) error {
		i := d.at(n)
		v, err := held[i].Get(ctx)
		return same(v, d.values[i], err)
	}
}
