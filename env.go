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

// The environment: CACHES_DSN and CACHES_DSN_<suffix> are connections, and a
// few scalar variables are defaults for their options.

// A source is the text of one DSN, and its origin for errors.
type source struct {
	from   string // "CACHES_DSN_2", or "DSN 2" if given in code
	suffix string // of the variable's name
	text   string
}

// name returns the name of the connection of d, which is the DSN of s.
func (s source) name(d *DSN) string {
	if d.Name != "" || allIn(s.suffix, digits) {
		return d.Name
	}
	return strings.ToLower(s.suffix)
}

// variables returns the CACHES_ variables of an environment. If a name occurs
// twice, the last value is used, as in package os/exec. An empty value means
// that the variable is not set.
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

// envSources returns the DSNs in vars: CACHES_DSN, then the numbered ones by
// number, with or without gaps, then the named ones.
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

// number is the sort key of a suffix: no suffix first, then numbers, then
// names.
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

// settings are the scalar variables. They stay text, since each is parsed as
// the DSN option of its name, and since envconfig's errors repeat the values of
// typed fields.
type settings struct {
	TTL            string
	Prefix         string
	Version        string
	Timeout        string
	ConnectTimeout string `split_words:"true"`
	Conns          string
}

// processSettings reads the settings from this process's environment. It panics
// only if settings has a field that envconfig cannot set.
func processSettings() (s settings) {
	envconfig.MustProcess("caches", &s)
	return s
}

// environSettings reads the settings from vars, which envconfig cannot do: it
// reads only the environment of the process.
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

// fill sets the options that the DSNs of one connection omit. A shared option
// applies to the whole connection, so it is left alone if any DSN sets it; the
// others belong to each shard.
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

// fill sets an option if the scheme has it.
func (d *DSN) fill(option, value string) error {
	o := optionNamed(option)
	if o.in&d.of.scope == 0 {
		return nil
	}
	return o.set(&d.options, value)
}
