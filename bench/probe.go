package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A probe asks servers themselves what they have done and what they hold, over
// connections that no contender has.
type probe struct{ conns []redis.Conn }

func newProbe(addrs ...string) (*probe, error) {
	p := &probe{}
	for _, addr := range addrs {
		conn, err := redis.Dial("tcp", addr)
		if err != nil {
			p.close()
			return nil, err
		}
		p.conns = append(p.conns, conn)
	}
	return p, nil
}

// A count is what servers have done since they started, all of them together.
type count struct {
	commands float64 // those of scripts and those of probes included
	// reads from connections of clients, each of what had arrived, up to 16 KiB:
	// commands that are sent together take one, and so do those that arrive
	// together.
	reads float64
}

func (p *probe) count() (sum count, err error) {
	for _, conn := range p.conns {
		info, err := redis.String(conn.Do("INFO", "stats"))
		if err != nil {
			return sum, err
		}
		commands, reads := stat(info, "total_commands_processed"), stat(info, "total_reads_processed")
		if math.IsNaN(commands + reads) {
			return sum, errors.New("the server does not count its commands, or its reads")
		}
		sum.commands += commands
		sum.reads += reads
	}
	return sum, nil
}

// since returns what was done from before on, without what the first of the two
// counts has added to the second: INFO is a command that is counted when it is
// done, and a read that is counted when it begins.
func (c count) since(p *probe, before count) count {
	own := float64(len(p.conns))
	return count{max(c.commands-before.commands-own, 0), max(c.reads-before.reads-own, 0)}
}

// stat returns the number at a name in what INFO says, NaN where it has none.
func stat(info, name string) float64 {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			if n, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return n
			}
		}
	}
	return math.NaN()
}

// keys returns how many keys the servers hold.
func (p *probe) keys() (sum int, err error) {
	for _, conn := range p.conns {
		n, err := redis.Int(conn.Do("DBSIZE"))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// flush removes all keys.
func (p *probe) flush() error {
	for _, conn := range p.conns {
		if _, err := conn.Do("FLUSHALL", "SYNC"); err != nil {
			return err
		}
	}
	return nil
}

// await returns once the servers hold n keys, or hold no more than they did some
// time ago. It returns how many are missing.
func (p *probe) await(n int) (missing int, err error) {
	most, since := -1, time.Now()
	for {
		have, err := p.keys()
		switch {
		case err != nil:
			return 0, fmt.Errorf("waiting for %d keys: %w", n, err)
		case have >= n:
			return 0, nil
		case have > most:
			most, since = have, time.Now()
		case time.Since(since) > patience:
			return n - have, nil
		}
		time.Sleep(time.Millisecond)
	}
}

// patience is for how long a contender may store nothing that it still has to
// store. It is no measure: who is slower loses results, which is said.
const patience = 300 * time.Millisecond

func (p *probe) close() {
	for _, conn := range p.conns {
		_ = conn.Close()
	}
}
