// Command bench measures caches beside other ways to do the same.
//
//	go run . -lane raw                              # the transport beside its peers
//	go run . -lane raw -ops get,set -g 1,64 -peers rueidis,redigo
//	go run . -lane raw,c,hogs,object -check         # all bounds; exit status 1 if one fails
//
// It starts the redis-server that it needs, on a free port, and keeps the
// processors from sleeping, where it may (Linux, as root): to wake one can take
// longer than a call. What is compared
// takes turns within one run, and only ratios are worth quoting: the machine is
// shared, and its speed changes from one second to the next.
//
// The lanes:
//
//	raw      the transport beside redigo, go-redis, rueidis and radix, and beside a
//	         bare multiplexer, which is what this machine allows
//	c        the transport beside redis-benchmark at the same depth
//	hogs     the transport beside redigo's pool in a process short of CPU
//	object   a Cache's Get beside the transport under it
//	near     values kept in this process beside other clients' and caches' memories
//	objects  objects beside the same written by hand, one goroutine
//	cached   a function that remembers beside go-redis/cache, jetcache-go, gocache, sturdyc, rueidisaside
//	batch    a batch beside other clients' pipelines, and beside bulk loaders
//	tags     tagged values beside gocache's
//	stampede a cold key that many ask for at once, in one client and in several
//	cluster  objects in a Redis Cluster of three masters beside go-redis and rueidis
//
// All peers have the same codec (JSON), time to live and number of connections,
// where these can be chosen; where not, their row says so. So it does where a
// value was wrong, where a function ran more often than is promised, or where a
// result was lost. Columns of those lanes: runs/op of the function, cmds/op that
// the servers ran, reads/op that they took to receive them. Results that are stored later are waited for, in the time of
// the turn.
//
// Each case prints a table of medians over the rounds, and lines to grep for:
//
//	ratio raw get g=64 ours/rueidis 4.40   throughput: more is better
//	p99 raw get g=64 ours/rueidis 0.21     latency: less is better
//
// both the median over the rounds of the ratio within a round, and at the end a
// table of all ratios. (The lane
// objects prints time per operation instead: there less is better.) Callers do
// nothing between calls, so at many goroutines p50 is mostly their number
// divided by the throughput; it says little about a server at half its load.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A lane is something to measure: contenders are compared inside a lane only.
type lane struct {
	run    func(bench) error
	rounds int           // unless -rounds says otherwise
	turn   time.Duration // unless -turn says otherwise
}

var lanes = map[string]lane{
	"raw":     {raw, 5, 200 * time.Millisecond},
	"c":       {cClient, 7, 250 * time.Millisecond},
	"hogs":    {hogs, 5, time.Second}, // the scheduler hands out 10 ms at a time
	"object":  {object, 11, 200 * time.Millisecond},
	"near":    {near, 5, 150 * time.Millisecond},
	"objects": {objects, 151, 15 * time.Millisecond},

	"cached":   {cached, 5, 120 * time.Millisecond},
	"batch":    {batches, 5, 80 * time.Millisecond},
	"tags":     {tags, 5, 200 * time.Millisecond},
	"stampede": {stampede, 3, 500 * time.Millisecond},

	"cluster": {cluster, 5, 150 * time.Millisecond},
}

// settings are the command's flags. What is zero is the lane's to choose.
type settings struct {
	rounds  int
	turn    time.Duration
	ops     []string
	callers []int
	peers   []string
	cancel  bool
	asleep  bool
}

// A bench is what a lane is given. Lanes share the server, which each finds
// empty, and the report; each opens its own clients and closes them, so that no lane runs
// beside another's idle connections. A lane that starts further servers stops them.
type bench struct {
	settings
	addr    string // of the redis-server
	servers *servers
	out     *report
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(w)
	names := flags.String("lane", "raw", "what to measure, by commas: "+strings.Join(slices.Sorted(maps.Keys(lanes)), ", "))
	check := flags.Bool("check", false, "hold what was measured against its bounds, and fail if one is missed")
	flags.IntVar(&s.rounds, "rounds", 0, "how often each contender has its turn (default: the lane's)")
	flags.DurationVar(&s.turn, "turn", 0, "how long a turn is (default: the lane's)")
	flags.BoolVar(&s.cancel, "cancel", false, "give every caller a context that can be cancelled, not only a lone one")
	ops, peers := allOps(), allPeers()
	flags.Func("ops", "operations, by commas: "+strings.Join(ops, ", ")+" (default: all of the lane)", words(&s.ops, ops))
	flags.Func("peers", "peers, by commas: "+strings.Join(peers, ", ")+" (default: all of the lane)", words(&s.peers, peers))
	flags.BoolVar(&s.asleep, "asleep", false, "let idle processors sleep, as a machine with little to do would")
	profile := flags.String("profile", "", "write a CPU profile of the whole run to this file")
	flags.Func("g", "numbers of goroutines, by commas (default: the lane's)", numbers(&s.callers))
	if err := flags.Parse(args); err != nil {
		return err
	}
	stopProfile, err := startProfile(*profile)
	if err != nil {
		return err
	}
	defer stopProfile()
	all := &servers{}
	defer all.stop()
	all.stopOnSignal()
	server, err := all.start()
	if err != nil {
		return err
	}
	out := newReport(w)
	out.header(server.addr, !s.asleep && stayAwake())
	for _, name := range strings.Split(*names, ",") {
		l, ok := lanes[name]
		if !ok {
			return fmt.Errorf("there is no lane %q; there are %v", name, slices.Sorted(maps.Keys(lanes)))
		}
		if err := server.flush(); err != nil {
			return err
		}
		if err := l.run(bench{s.or(l), server.addr, all, out}); err != nil {
			return fmt.Errorf("lane %s: %w", name, err)
		}
	}
	out.summary()
	if *check {
		return out.check(bounds())
	}
	return nil
}

// startProfile profiles the process, peers and all: -lane, -ops, -peers and -g
// narrow down what it does.
func startProfile(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, pprof.StartCPUProfile(f)
}

// or fills in what l has as defaults.
func (s settings) or(l lane) settings {
	if s.rounds <= 0 {
		s.rounds = l.rounds
	}
	if s.turn <= 0 {
		s.turn = l.turn
	}
	return s
}

// callersOr returns the numbers of goroutines to measure with.
func (s settings) callersOr(defaults ...int) []int {
	if len(s.callers) > 0 {
		return s.callers
	}
	return defaults
}

// chosen returns, in the order of all, those of all that were asked for: all of them if nothing was.
func chosen(asked []string, all ...string) []string {
	if len(asked) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !slices.Contains(asked, name) })
}

// allOps returns what -ops may name, allPeers what -peers may.
func allOps() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(rawOps, cachedOps, batchOps, nearOps, tagsOps, clusterOps))))
}

func allPeers() []string {
	names := slices.Concat(peerNames(), loaderNames(), []string{"ours"})
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// words reads a list of known words. A misspelt one is an error: it would
// select nothing, and a check of nothing finds no fault.
func words(to *[]string, known []string) func(string) error {
	return func(arg string) error {
		for word := range strings.SplitSeq(arg, ",") {
			if !slices.Contains(known, word) {
				return fmt.Errorf("there is no %q; there are %s", word, strings.Join(known, ", "))
			}
			*to = append(*to, word)
		}
		return nil
	}
}

// numbers reads a list of positive numbers.
func numbers(to *[]int) func(string) error {
	return func(arg string) error {
		for word := range strings.SplitSeq(arg, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 {
				return errors.New("not a number of goroutines: " + word)
			}
			*to = append(*to, n)
		}
		return nil
	}
}
