package main

import (
	"errors"
	"fmt"
	"math"
)

// A bound is what a figure of the report must reach, or must not exceed.
type bound struct {
	what  string
	limit float64
	most  bool // limit is the most that is allowed; else the least
}

func (b bound) holds(figure float64) bool {
	if b.most {
		return figure <= b.limit
	}
	return figure >= b.limit
}

func (b bound) sign() string {
	if b.most {
		return "<="
	}
	return ">="
}

// bounds returns all that the transport was built to reach, on two cores shared
// with the server, how many runs and commands functions and tags may
// cost, and how many reads a batch in a cluster.
// "The better of two peers" is one bound for each of them.
func bounds() []bound {
	var all boundList
	all.ofTransport()
	all.most(1, "runs stampede clients=1 g=250 ours") // as many as rounds
	all.most(1, "runs stampede clients=4 g=250 ours")
	for _, n := range []int{10, 1000} {
		all.most(1, "cmds tags invalidate n=%d ours", n)
	}
	for _, g := range []int{1, 64} {
		all.most(0, "allocs near get g=%d caches", g)
		all.most(1, "cmds tags read tags=3 g=%d ours", g)
	}
	for _, what := range []string{"get-many n=1000", "set-many n=100"} { // one pipeline for each master
		all.most(clusterMasters, "reads cluster %s g=1 ours", what)
	}
	all.least(0.85, "ratio object get g=64 object/transport")
	return all
}

type boundList []bound

func (all *boundList) least(limit float64, format string, args ...any) {
	*all = append(*all, bound{what: fmt.Sprintf(format, args...), limit: limit})
}

func (all *boundList) most(limit float64, format string, args ...any) {
	*all = append(*all, bound{what: fmt.Sprintf(format, args...), limit: limit, most: true})
}

// ofTransport appends the bounds of the lanes raw, c and hogs.
func (all *boundList) ofTransport() {
	for _, op := range []string{"get", "set"} {
		all.least(1.00, "ratio raw %s g=1 ours/redigo", op)
		all.least(1.05, "ratio raw %s g=1 ours/go-redis", op)
		all.least(0.85, "ratio c %s g=64 ours/redis-benchmark-P64", op)
		all.least(0.85, "ratio c %s g=256 ours/redis-benchmark-P256", op)
	}
	for _, op := range []string{"get", "set", "mix"} {
		all.least(1.5, "ratio raw %s g=8 ours/rueidis", op)
		all.least(1.5, "ratio raw %s g=8 ours/rueidis-delay", op)
		all.least(3.5, "ratio raw %s g=64 ours/rueidis", op)
		all.least(3.5, "ratio raw %s g=256 ours/rueidis", op)
		all.least(2.5, "ratio raw %s g=1024 ours/rueidis", op)
		for _, g := range []int{64, 256, 1024} {
			all.least(1.3, "ratio raw %s g=%d ours/rueidis-delay", op, g)
			all.least(1.3, "ratio raw %s g=%d ours/go-redis-auto", op, g)
		}
	}
	// What the transport's duties may cost it, on whatever machine: where the
	// bounds beside rueidis come from, a bare multiplexer exceeded them by as much.
	for _, op := range []string{"get", "set", "mix"} {
		for _, g := range []int{8, 64, 256, 1024} {
			all.least(0.8, "ratio raw %s g=%d ours/bare", op, g)
		}
	}
	for _, g := range rawCallers {
		all.least(1.2, "ratio raw mget g=%d ours/redigo", g)
		all.least(1.15, "ratio raw mget g=%d ours/rueidis", g)
		all.most(1, "allocs raw get g=%d ours", g) // the value
		all.most(0, "allocs raw set g=%d ours", g)
	}
	for _, op := range rawOps {
		for _, g := range []int{64, 256} {
			all.most(1, "p99 raw %s g=%d ours/rueidis", op, g)
			all.most(1, "p99 raw %s g=%d ours/rueidis-delay", op, g)
		}
	}
	for _, g := range []int{8, 64} {
		all.least(0.7, "ratio hogs get g=%d ours/redigo", g)
	}
}

// check prints each bound beside its figure and fails if one is missed. What
// the run left out is counted, not held against it.
func (r *report) check(all []bound) error {
	missed, absent := 0, 0
	for _, b := range all {
		figure, ok := r.measured[b.what]
		if !ok {
			absent++
			continue
		}
		verdict := "ok"
		if !b.holds(round(figure)) {
			verdict = "FAILS"
			missed++
		}
		fmt.Fprintf(r.w, "bound %s %.2f %s %.2f %s\n", b.what, figure, b.sign(), b.limit, verdict)
	}
	fmt.Fprintf(r.w, "%d bounds, %d not measured, %d missed\n", len(all), absent, missed)
	if absent == len(all) {
		return errors.New("nothing was measured that has a bound")
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d bounds missed", missed, len(all)-absent)
	}
	return nil
}

// round rounds to the two digits that are printed: what is shown is what is
// judged.
func round(figure float64) float64 { return math.Round(figure*100) / 100 }
