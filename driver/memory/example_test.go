package memory_test

import (
	"context"
	"fmt"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/memory"
)

// A Store runs commands like a Redis server.
func ExampleStore() {
	store, err := memory.Open(memory.Options{MaxEntries: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	p := driver.NewPipeline(driver.Atomic)
	defer p.Free()
	p.Cmd("INCRBY").Key("visits").Int(41)
	p.Cmd("INCR").Key("visits")
	p.Cmd("SADD").Key("visits").String("ada")
	if err := store.Do(context.Background(), p); err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		fmt.Println(p.Next().Int())
	}
	fmt.Println(p.Next().Err())
	// Output:
	// 41 <nil>
	// 42 <nil>
	// caches: server says WRONGTYPE Operation against a key holding the wrong kind of value
}

// All Stores of a name have the same data.
func ExampleShared() {
	a, _ := memory.Shared("sessions", memory.Options{})
	b, _ := memory.Shared("sessions", memory.Options{})
	defer a.Close()
	defer b.Close()

	p := driver.NewPipeline(0)
	defer p.Free()
	a.Do(context.Background(), p.Cmd("SET").Key("ada").String("1"))
	fmt.Println(b.Len())
	// Output: 1
}
