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
	pairs    []pair
}

// A pair is what a case came to beside one peer.
type pair struct {
	what, peer string
	rate, p99  float64 // ours divided by the peer's
	remark     string  // of the peer
}

func newReport(w io.Writer) *report {
	return &report{w: w, measured: make(map[string]float64)}
}

// header says what was measured where, as far as it can be found out: figures
// without it cannot be compared.
func (r *report) header(addr string, awake bool) {
	idle := "may sleep"
	if awake {
		idle = "are kept awake"
	}
	fmt.Fprintf(r.w, "%s, GOMAXPROCS %d, idle processors %s, redis-server at %s\n",
		runtime.Version(), runtime.GOMAXPROCS(0), idle, addr)
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
	if ours.faulty {
		return fmt.Errorf("%s: %s %s", what, ours.name, ours.remark)
	}
	b.out.note("runs", lane+" "+what, ours.name, ours.median(runs))
	b.out.note("cmds", lane+" "+what, ours.name, ours.median(cmds))
	b.out.note("reads", lane+" "+what, ours.name, ours.median(reads))
	// To a tenth, as the table shows them: what a sync.Pool loses to a garbage
	// collection is made again, some thousand allocations a turn.
	b.out.measured[fmt.Sprintf("allocs %s %s %s", lane, what, ours.name)] = math.Round(ours.median(allocs)*10) / 10
	for _, peer := range results[1:] {
		name := fmt.Sprintf("%s %s %s/%s", lane, what, ours.name, peer.name)
		p := pair{lane + " " + what, peer.name, ratio(ours, peer, rate), ratio(ours, peer, p99), peer.remark}
		b.out.line("ratio "+name, p.rate)
		b.out.line("p99 "+name, p.p99)
		b.out.pairs = append(b.out.pairs, p)
	}
	fmt.Fprintln(b.out.w)
	return nil
}

// table prints the medians. A ratio of two of them is not the ratio that the
// lines below it give, which compares within a round.
func (r *report) table(what string, results []result) {
	table := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	watched := !math.IsNaN(results[0].median(cmds))
	fmt.Fprintf(table, "%s\tops/s\tp50 µs\tp99 µs\tallocs/op\tB/op\t", what)
	if watched {
		fmt.Fprint(table, "runs/op\tcmds/op\treads/op\t")
	}
	fmt.Fprintln(table)
	for _, c := range results {
		fmt.Fprintf(table, "%s\t%.0f\t%.1f\t%.1f\t%s\t%s\t", c.name, c.median(rate), c.median(p50), c.median(p99),
			seen("%.1f", c.median(allocs)), seen("%.0f", c.median(size)))
		if watched {
			fmt.Fprintf(table, "%s\t%s\t%s\t", seen("%.2f", c.median(runs)), seen("%.2f", c.median(cmds)),
				seen("%.2f", c.median(reads)))
		}
		fmt.Fprintln(table, prefixed("  ", c.remark))
	}
	_ = table.Flush()
}

// prefixed returns text behind prefix, if there is any.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// note remembers for the bounds a figure that the table shows.
func (r *report) note(figure, what, name string, v float64) {
	if !math.IsNaN(v) {
		r.measured[fmt.Sprintf("%s %s %s", figure, what, name)] = v
	}
}

// summary prints all ratios in one table. Where we lose, to another than
// ourselves, it says so.
func (r *report) summary() {
	if len(r.pairs) == 0 {
		return
	}
	table := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ours ÷ theirs\tpeer\tops/s\tp99\t")
	for _, p := range r.pairs {
		verdict := ""
		if round(p.rate) < 1 && !strings.HasPrefix(p.peer, "ours-") {
			verdict = "loses"
		}
		fmt.Fprintf(table, "%s\t%s\t%.2f\t%.2f\t%s\t%s\n", p.what, p.peer, p.rate, p.p99, verdict, p.remark)
	}
	_ = table.Flush()
	fmt.Fprintln(r.w)
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
