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
	keys, values []string
}

var errWrong = errors.New("not the value that was stored")

// newData also stores the values, and the same number of values at the keys
// that redis-benchmark asks for.
func newData(addr string) (*data, error) {
	d := &data{}
	conn, err := redis.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for i := range keyCount {
		key := fmt.Sprintf("%s.%d", keyPrefix, keyBase+i)
		value := key + strings.Repeat("v", valueSize-len(key))
		d.keys, d.values = append(d.keys, key), append(d.values, value)
		if err := errors.Join(conn.Send("SET", key, value), conn.Send("SET", fmt.Sprintf("key:%012d", i), value)); err != nil {
			return nil, err
		}
	}
	_, err = conn.Do("")
	d.keys, d.values = append(d.keys, d.keys[:batch]...), append(d.values, d.values[:batch]...)
	return d, err
}

// at returns the n-th key to use. Neighbours in time are not neighbours in
// memory, here or in the server.
func (d *data) at(n int) int { return n * 7919 % keyCount }

// id returns what stands in the i-th key behind the prefix.
func (d *data) id(i int) int { return keyBase + i%keyCount }

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
