package cluster_test

import (
	"context"
	"fmt"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/cluster"
)

func ExampleOpen() {
	store, err := cluster.Open(cluster.Config{
		Seeds: []string{"cache01:6379", "cache02:6379"},
		Node:  redigo.Config{Username: "app", Password: "secret", Timeout: 500 * time.Millisecond},
	})
	if err != nil {
		panic(err)
	}
	defer func() { _ = store.Close() }()
	fmt.Println(store)
	fmt.Println(store.Slot("", "{user:7}.cart") == store.Slot("", "{user:7}.orders"))
	// Output:
	// redis cluster cache01:6379 cache02:6379
	// true
}

// Each server is asked for the number of its keys.
func ExampleStore_Masters() {
	store, err := cluster.Open(cluster.Config{Seeds: []string{"127.0.0.1:1"}, Node: redigo.Config{Timeout: 50 * time.Millisecond}})
	if err != nil {
		panic(err)
	}
	defer func() { _ = store.Close() }()
	masters, err := store.Masters(context.Background())
	if err != nil {
		fmt.Println("no server answers")
	}
	for _, m := range masters {
		p := driver.NewPipeline(driver.ReadOnly)
		p.Cmd("DBSIZE")
		if err := m.Do(context.Background(), p); err == nil {
			n, _ := p.Next().Int()
			fmt.Println(m, n)
		}
		p.Free()
	}
	// Output: no server answers
}
