package failover_test

import (
	"fmt"

	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/failover"
)

func ExampleOpen() {
	store, err := failover.Open(failover.Config{
		Sentinels:    []string{"s1:26379", "s2:26379", "s3:26379"},
		Master:       "mymaster",
		Node:         redigo.Config{Username: "app", Password: "from the environment"},
		ReadReplicas: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	fmt.Println(store)
	// Output: redis mymaster (failover)
}
