module github.com/gocaches/caches/faults

go 1.26.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/gocaches/caches v0.0.0
	github.com/gomodule/redigo v1.9.3
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
)

require (
	github.com/alicebob/miniredis/v2 v2.40.0 // indirect
	github.com/kelseyhightower/envconfig v1.4.0 // indirect
	github.com/maypok86/otter/v2 v2.4.0 // indirect
	github.com/tidwall/btree v1.8.2 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/gocaches/caches => ../
