package redigo_test

import (
	"fmt"

	"github.com/gocaches/caches/driver/redigo"
)

// A Config shows where it leads and never what lets it in.
func ExampleConfig() {
	c := redigo.Config{Address: "cache.example:6379", DB: 2, Username: "app", Password: "secret"}
	fmt.Println(c)
	fmt.Printf("%+v\n", &c)
	// Output:
	// redigo.Config(tcp cache.example:6379/2)
	// redigo.Config(tcp cache.example:6379/2)
}

// Open dials nothing: a server that is not there is found out by the first call.
func ExampleOpen() {
	store, err := redigo.Open(redigo.Config{Address: "localhost"})
	fmt.Println(store, err)
	store, err = redigo.Open(redigo.Config{Address: "localhost:6379"})
	fmt.Println(store, err)
	// Output:
	// <nil> caches: redigo.Config: the Address is not host:port
	// redis localhost:6379 <nil>
}
