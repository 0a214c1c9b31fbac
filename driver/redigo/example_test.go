package redigo_test

import (
	"fmt"

	"github.com/gocaches/caches/driver/redigo"
)

// A Config prints its address but no credentials.
func ExampleConfig() {
	c := redigo.Config{Address: "cache.example:6379", DB: 2, Username: "app", Password: "secret"}
	fmt.Println(c)
	fmt.Printf("%+v\n", &c)
	// Output:
	// redigo.Config(tcp cache.example:6379/2)
	// redigo.Config(tcp cache.example:6379/2)
}

// Open does not dial: an unreachable server is reported by the first call.
func ExampleOpen() {
	store, err := redigo.Open(redigo.Config{Address: "localhost"})
	fmt.Println(store, err)
	store, err = redigo.Open(redigo.Config{Address: "localhost:6379"})
	fmt.Println(store, err)
	// Output:
	// <nil> caches: redigo.Config: the Address is not host:port
	// redis localhost:6379 <nil>
}
