package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gomodule/redigo/redis"
)

const (
	keyCount  = 10_000
	batch     = 100 // keys of an MGET
	keyBase   = 10_000_000
	keyPrefix = "bench"
	valueSize = 100
)

// data are the keys, 14 bytes each, and what is stored at them. The first batch
// stands again behind the last one, so that a batch can begin anywhere. Each
// value begins with its key: a reply that is another's does not pass.
type data struct {
	count        int // without the batch that stands again
	ids          []int
	keys, values []string
	bytes        [][]byte // the values
}

var errWrong = errors.New("not the value that was stored")

// makeData returns the data of the keys whose numbers are those of order, in
// batches of the given size, and stores nothing.
func makeData(order []int, batch int) *data {
	d := &data{count: len(order)}
	for _, i := range append(slices.Clone(order), order[:batch]...) {
		key := fmt.Sprintf("%s.%d", keyPrefix, keyBase+i)
		d.ids, d.keys = append(d.ids, keyBase+i), append(d.keys, key)
		d.values = append(d.values, key+strings.Repeat("v", valueSize-len(key)))
	}
	for _, v := range d.values {
		d.bytes = append(d.bytes, []byte(v))
	}
	return d
}

// newData also stores the values, and the same number of values at the keys
// that redis-benchmark asks for.
func newData(addr string) (*data, error) {
	conn, err := redis.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	order := make([]int, keyCount)
	for i := range order {
		order[i] = i
	}
	d := makeData(order, batch)
	for i := range keyCount {
		if err := errors.Join(conn.Send("SET", d.keys[i], d.values[i]),
			conn.Send("SET", fmt.Sprintf("key:%012d", i), d.values[i])); err != nil {
			return nil, err
		}
	}
	_, err = conn.Do("")
	return d, err
}

// at returns the n-th key to use. Neighbours in time are not neighbours in
// memory, here or in the server.
func (d *data) at(n int) int { return n * 7919 % d.count }

// op returns the operation of the given name, one of rawOps, on c.
func (d *data) op(name string, c client) op {
	switch name {
	case "get":
		return d.get(c)
	case "set":
		return d.set(c)
	case "mget":
		return d.mget(c)
	}
	return d.mix(c)
}

func (d *data) get(c client) op {
	return func(ctx context.Context, n int) error {
		i := d.at(n)
		return c.get(ctx, d.keys[i], d.values[i])
	}
}

func (d *data) set(c client) op {
	return func(ctx context.Context, n int) error {
		i := d.at(n)
		return c.set(ctx, d.keys[i], d.values[i])
	}
}

func (d *data) mget(c client) op {
	return func(ctx context.Context, n int) error {
		i := d.at(n)
		return c.mget(ctx, d.keys[i:i+batch], d.values[i:i+batch])
	}
}

// mix is nine reads and one write.
func (d *data) mix(c client) op {
	get, set := d.get(c), d.set(c)
	return func(ctx context.Context, n int) error {
		if n%10 == 0 {
			return set(ctx, n)
		}
		return get(ctx, n)
	}
}

// same is what every client ends with: the reply, then whether it is right.
func same(got, want string, err error) error {
	if err == nil && got != want {
		err = errWrong
	}
	return err
}

// sameAll is same for a batch.
func sameAll(got, want []string, err error) error {
	if err == nil && !slices.Equal(got, want) {
		err = errWrong
	}
	return err
}
