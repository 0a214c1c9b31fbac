// Tour shows every cache object at work on real input: the standard library of
// the Go that runs here, as go list and go doc tell it.
//
//	go run ./examples/tour
//	go run ./examples/tour net/http sync
//	CACHES_DSN=redis://localhost:6379/0 go run ./examples/tour
//
// Where no CACHES_DSN is set the objects live in this process and need no
// server. The code is the same on a Redis, where what one run has stored serves
// the next.
//
// Read tour.go: it has the objects and all that is done with them. The input is
// in std.go, the output in page.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/gocaches/caches"
)

const usage = `usage: go run ./examples/tour [-fresh] [package ...]

A tour of the cache objects, on the standard library of this machine. It asks
go list for all packages, keeps what it learns in objects of every type, and
looks up the packages that you name (net/http, encoding/json and sync if none).
Each answer has two times: cold, what it takes to find out, and warm, what it
takes to ask the store.

  -fresh   forget what earlier runs have left, and start cold
  -h       print this

  CACHES_DSN   where the objects live. Not set: in this process, until it ends.
               On a Redis a second run is served by the first, and of two that
               start together one does the work:

               CACHES_DSN=redis://localhost:6379/0 go run ./examples/tour
`

func main() {
	// An interrupted tour ends its context instead of dying: if it was indexing
	// the gate opens for the next one at once, not after a lease.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		// One line, though the errors of several shards are joined by newlines.
		fmt.Fprintln(os.Stderr, "tour:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("tour", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints errors, in one line
	fresh := flags.Bool("fresh", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(out, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w (-h explains)", err)
	}
	conn, local, err := connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = caches.Close() }() // all is stored by now
	if *fresh {
		if err := forget(ctx); err != nil {
			return err
		}
	}
	paths := flags.Args()
	if len(paths) == 0 {
		paths = []string{"net/http", "encoding/json", "sync"}
	}
	return tour(ctx, &page{out: out}, conn, local, paths)
}

// connect returns the connection that the objects of the tour use, the default
// one: that of the environment, or else one to the memory of this process,
// which is local.
//
// Objects find their connection by themselves, and it dials when it is first
// needed. A program that wants to know at its start whether it can asks for the
// connection and pings it, as this one does.
func connect(ctx context.Context) (conn *caches.Conn, local bool, err error) {
	if local = len(caches.Default().Names()) == 0; local {
		if err := caches.Configure("locmem://"); err != nil {
			return nil, local, err
		}
	}
	if conn, err = caches.Connection(""); err != nil {
		return nil, local, err
	}
	return conn, local, conn.Ping(ctx)
}
