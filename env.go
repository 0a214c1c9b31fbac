package caches

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kelseyhightower/envconfig"
)

// The environment. CACHES_DSN and CACHES_DSN_<suffix> are connections; a few
// scalar variables are their defaults.

// A source is one DSN and where it came from, for errors.
type source struct {
	from   string // "CACHES_DSN_2", or "DSN 2" of those given in code
	suffix string // of the variable
	text   string
}

// name returns the connection that a DSN of s belongs to.
func (s source) name(d *DSN) string {
	if d.Name != "" || allIn(s.suffix, digits) {
		return d.Name
	}
	return strings.ToLower(s.suffix)
}

// variables reads an environment. As for a command that is run with it, the
// last value of a name counts, and an empty one is none.
func variables(environ []string) map[string]string {
	vars := make(map[string]string)
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "CACHES_") {
			continue
		}
		if value = strings.TrimSpace(value); value == "" {
			delete(vars, name)
			continue
		}
		vars[name] = value
	}
	return vars
}

// envSources returns the DSNs among vars: CACHES_DSN, then the numbered ones by
// number, gaps or not, then the named ones.
func envSources(vars map[string]string) []source {
	var all []source
	for name, value := range vars {
		if name == "CACHES_DSN" {
			all = append(all, source{from: name, text: value})
		} else if suffix, ok := strings.CutPrefix(name, "CACHES_DSN_"); ok {
			all = append(all, source{name, suffix, value})
		}
	}
	slices.SortFunc(all, func(a, b source) int {
		return cmp.Or(cmp.Compare(number(a.suffix), number(b.suffix)), strings.Compare(a.from, b.from))
	})
	return all
}

// number is where a suffix stands: none, then numbers, then names.
func number(suffix string) uint64 {
	n, err := strconv.ParseUint(suffix, 10, 64)
	switch {
	case suffix == "":
		return 0
	case err != nil || n == math.MaxUint64:
		return math.MaxUint64
	}
	return n + 1
}

// settings are the scalar variables, as text: each is an option of a DSN and is
// read by the option's own rules. (A typed field would also have envconfig
// repeat the value in its error.)
type settings struct {
	TTL            string
	Prefix         string
	Version        string
	Timeout        string
	ConnectTimeout string `split_words:"true"`
	Conns          string
}

// processSettings reads the scalars of this process's environment. It panics
// only if a field of settings is of a type that envconfig cannot set.
func processSettings() (s settings) {
	envconfig.MustProcess("caches", &s)
	return s
}

// environSettings reads the scalars of an environment that was handed in, which
// envconfig cannot: it asks the process.
func environSettings(vars map[string]string) settings {
	return settings{
		TTL:            vars["CACHES_TTL"],
		Prefix:         vars["CACHES_PREFIX"],
		Version:        vars["CACHES_VERSION"],
		Timeout:        vars["CACHES_TIMEOUT"],
		ConnectTimeout: vars["CACHES_CONNECT_TIMEOUT"],
		Conns:          vars["CACHES_CONNS"],
	}
}

// fill sets in the DSNs of one connection what they leave out. What is said of
// the connection on one shard counts for all; timeouts and the like are each
// shard's own.
func (s settings) fill(dsns []*DSN) error {
	for _, v := range []struct {
		option, value string
		shared        bool
	}{
		{"ttl", s.TTL, true}, {"prefix", s.Prefix, true}, {"version", s.Version, true},
		{"timeout", s.Timeout, false}, {"connect_timeout", s.ConnectTimeout, false}, {"conns", s.Conns, false},
	} {
		given := func(d *DSN) bool { _, ok := d.option(v.option); return ok }
		if v.value = strings.TrimSpace(v.value); v.value == "" || v.shared && slices.ContainsFunc(dsns, given) {
			continue
		}
		for _, d := range dsns {
			if given(d) {
				continue
			}
			if err := d.fill(v.option, v.value); err != nil {
				return fmt.Errorf("caches: CACHES_%s %w", strings.ToUpper(v.option), err)
			}
		}
	}
	return nil
}

// fill sets an option where the scheme has it.
func (d *DSN) fill(option, value string) error {
	o := optionNamed(option)
	if o.in&d.of.scope == 0 {
		return nil
	}
	return o.set(&d.options, value)
}
