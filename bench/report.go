package main

import (
	"fmt"
	"io"
	"math"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
)

// A report prints what was measured and remembers it for the bounds.
type report struct {
	w        io.Writer
	measured map[string]float64 // by what stands before the figure in its line
}

func newReport(w io.Writer) *report {
	return &report{w: w, measured: make(map[string]float64)}
}

// header says what was measured where, as far as it can be found out: figures
// without it cannot be compared.
func (r *report) header(addr string) {
	fmt.Fprintf(r.w, "%s, GOMAXPROCS %d, redis-server at %s\n", runtime.Version(), runtime.GOMAXPROCS(0), addr)
	if lo, err := exec.Command("tc", "qdisc", "show", "dev", "lo").Output(); err == nil {
		fmt.Fprintf(r.w, "loopback: %s\n", strings.TrimSpace(string(lo))) // "netem" there means: shaped
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		var deps []string
		for _, m := range info.Deps {
			deps = append(deps, m.Path+" "+m.Version)
		}
		fmt.Fprintf(r.w, "%s\n\n", strings.Join(deps, ", "))
	}
}

// compare runs one case, what, and prints a table of it and, for each contender
// but the first, the ratio of the first's throughput and latency to its own.
func (b bench) compare(lane, what string, all []contender) error {
	results, err := compete(b.settings, all)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b.out.table(lane+" "+what, results)
	ours := results[0]
	// To a tenth, as the table shows them: what a sync.Pool loses to a garbage
	// collection is made again, some thousand allocations a turn.
	b.out.measured[fmt.Sprintf("allocs %s %s %s", lane, what, ours.name)] = math.Round(ours.median(allocs)*10) / 10
	for _, peer := range results[1:] {
		pair := fmt.Sprintf("%s %s %s/%s", lane, what, ours.name, peer.name)
		b.out.line("ratio "+pair, ratio(ours, peer, rate))
		b.out.line("p99 "+pair, ratio(ours, peer, p99))
	}
	fmt.Fprintln(b.out.w)
	return nil
}

// table prints the medians. A ratio of two of them is not the ratio that the
// lines below it give, which compares within a round.
func (r *report) table(what string, results []result) {
	table := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "%s\tops/s\tp50 µs\tp99 µs\tallocs/op\tB/op\t\n", what)
	for _, c := range results {
		fmt.Fprintf(table, "%s\t%.0f\t%.1f\t%.1f\t%s\t%s\t\n", c.name, c.median(rate), c.median(p50), c.median(p99),
			seen("%.1f", c.median(allocs)), seen("%.0f", c.median(size)))
	}
	_ = table.Flush()
}

// seen formats a figure that may not be known.
func seen(format string, figure float64) string {
	if math.IsNaN(figure) {
		return "-"
	}
	return fmt.Sprintf(format, figure)
}

// line prints a figure under the name by which a bound finds it.
func (r *report) line(what string, figure float64) {
	r.measured[what] = figure
	fmt.Fprintf(r.w, "%s %.2f\n", what, figure)
}
