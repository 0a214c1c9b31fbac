package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// cClient sets the transport, called from g goroutines, beside redis-benchmark
// with one connection and g commands in a pipeline: the same depth, in C,
// without checking a reply or waking a caller.
func cClient(b bench) error {
	d, err := newData(b.addr)
	if err != nil {
		return err
	}
	ours, closeAll, err := openAll(b.addr)
	if err != nil {
		return err
	}
	defer closeAll()
	for _, name := range chosen(b.ops, "get", "set") {
		for _, g := range b.callersOr(64, 256) {
			all := append(contenders(b, d, ours, name, g), redisBenchmark(b.addr, name, g))
			if err := b.compare("c", fmt.Sprintf("%s g=%d", name, g), all); err != nil {
				return err
			}
		}
	}
	return nil
}

// redisBenchmark is redis-benchmark as a contender. It is told a number of
// requests, not a time: as many as the rate of its last turn fills one with.
func redisBenchmark(addr, name string, depth int) contender {
	rate := 250_000.0
	return contender{name: fmt.Sprint("redis-benchmark-P", depth), turn: func(length time.Duration) (turn, error) {
		requests := max(int(rate*length.Seconds()), 100*depth)
		t, err := runRedisBenchmark(addr, name, depth, requests)
		if err == nil {
			rate = t.rate
		}
		return t, err
	}}
}

// runRedisBenchmark runs it once. The time that the process takes to start is
// not in the rate that it reports.
func runRedisBenchmark(addr, name string, depth, requests int) (turn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return turn{}, err
	}
	out, err := exec.Command("redis-benchmark", "-h", host, "-p", port, "-t", name, "-n", strconv.Itoa(requests),
		"-d", strconv.Itoa(valueSize), "-r", strconv.Itoa(keyCount), "-c", "1", "-P", strconv.Itoa(depth), "-q", "--csv").Output()
	if err != nil {
		return turn{}, fmt.Errorf("redis-benchmark (it comes with redis-server): %w", err)
	}
	return parseRedisBenchmark(string(out))
}

// parseRedisBenchmark reads the two lines that it prints, names and figures.
func parseRedisBenchmark(out string) (turn, error) {
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 2 {
		return turn{}, fmt.Errorf("redis-benchmark printed %q", out)
	}
	figures := make(map[string]float64)
	for i, name := range rows[0] {
		figures[name], _ = strconv.ParseFloat(rows[1][i], 64) // the first is a word
	}
	t := turn{rate: figures["rps"], allocs: math.NaN(), bytes: math.NaN(), runs: math.NaN(), commands: math.NaN(), reads: math.NaN()}
	t.p50, t.p99 = figures["p50_latency_ms"]*1e3, figures["p99_latency_ms"]*1e3
	if t.rate <= 0 {
		return turn{}, fmt.Errorf("redis-benchmark printed %q", out)
	}
	return t, nil
}
