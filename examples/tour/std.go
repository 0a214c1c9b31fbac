package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Package is what go list knows of a package: those of its fields that the tour
// keeps. Whatever encoding/json can store is a cache value.
type Package struct {
	ImportPath string
	Doc        string // the first sentence of its documentation
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// Synopsis is Doc without the words that begin it by custom: "Package http".
func (p Package) Synopsis() string {
	text, custom := strings.CutPrefix(p.Doc, "Package ")
	if custom {
		_, text, _ = strings.Cut(text, " ")
	}
	return cmp.Or(text, "no documentation")
}

// goList returns the packages of the standard library. It takes a second or so:
// this is what the index saves.
func goList(ctx context.Context) ([]Package, error) {
	out, err := goCommand(ctx, "list", "-json", "std")
	if err != nil {
		return nil, err
	}
	var all []Package
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var p Package
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, p)
	}
}

// API is what a package exports, in numbers.
type API struct {
	Types, Funcs int

	At   time.Time     // when they were counted; a reader sees how old they are
	Took time.Duration // how long that took
}

// goDoc counts what a package exports. It is the slow function that the tour
// has remembered, and knows nothing of caches itself.
func goDoc(ctx context.Context, path string) (API, error) {
	start := time.Now()
	out, err := goCommand(ctx, "doc", "-short", path)
	api := API{At: start, Took: time.Since(start)}
	for line := range strings.Lines(out) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "type":
			api.Types++
		case "func":
			api.Funcs++
		}
	}
	return api, err
}

// goCommand returns what a subcommand of go prints. Its error has the first line
// of what go says is wrong.
func goCommand(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case err == nil:
		return string(out), nil
	case ctx.Err() != nil:
		err = context.Cause(ctx) // and not that a signal killed go
	case ok:
		said, _, _ := strings.Cut(string(exit.Stderr), "\n")
		err = fmt.Errorf("%w: %s", err, said)
	}
	return "", fmt.Errorf("go %s: %w", args[0], err)
}
