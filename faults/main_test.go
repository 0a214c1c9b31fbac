package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// full reports whether the full counts are to be run.
var full = os.Getenv("CACHES_FAULTS") == "full"

// count is how often something is done: short in CI, all in the full run.
func count(short, all int) int {
	if full {
		return all
	}
	return short
}

var seed = func() uint64 {
	if s := os.Getenv("CACHES_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			panic("CACHES_TEST_SEED: " + err.Error())
		}
		return n
	}
	return uint64(time.Now().UnixNano())
}()

// random returns a source that follows from the seed and from a name and number
// of its user.
func random(name string, n int) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h+uint64(n)))
}

func TestMain(m *testing.M) {
	fmt.Printf("seed %d (CACHES_TEST_SEED), full %v (CACHES_FAULTS=full)\n", seed, full)
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	if code == 0 {
		code = publish()
	}
	os.Exit(code)
}

// figures are the rows of the table in RELIABILITY.md, in the order in which
// the tests ended.
var figures struct {
	sync.Mutex
	rows []string
}

// report adds a row: what was done, and what came of it. It does so for a test
// that has passed only; what a test reports it has asserted.
func report(t *testing.T, what, outcome string, args ...any) {
	t.Helper()
	if t.Failed() {
		return
	}
	row := fmt.Sprintf("| %s | %s |", what, fmt.Sprintf(outcome, args...))
	t.Log(row)
	figures.Lock()
	defer figures.Unlock()
	figures.rows = append(figures.rows, row)
}

const (
	begin = "<!-- figures: written by make faults -->\n"
	end   = "<!-- end of figures -->\n"
)

// publish writes the table into the file that CACHES_FAULTS_OUT names.
func publish() (code int) {
	name := os.Getenv("CACHES_FAULTS_OUT")
	if name == "" {
		return 0
	}
	old, err := os.ReadFile(name)
	if err == nil {
		head, rest, found := strings.Cut(string(old), begin)
		_, tail, ended := strings.Cut(rest, end)
		if !found || !ended {
			err = fmt.Errorf("%s has no place for the figures", name)
		} else {
			table := fmt.Sprintf("\nSeed %d.\n\n| what | outcome |\n|---|---|\n%s\n\n", seed, strings.Join(figures.rows, "\n"))
			err = os.WriteFile(name, []byte(head+begin+table+end+tail), 0o644)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// percentile returns the q-th part (0 to 1) of ds, which it sorts.
func percentile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(int(q*float64(len(ds))), len(ds)-1)]
}
