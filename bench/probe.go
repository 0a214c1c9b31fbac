package main

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A probe asks the server itself what it has done and what it holds, over a
// connection that no contender has.
type probe struct{ conn redis.Conn }

func newProbe(addr string) (*probe, error) {
	conn, err := redis.Dial("tcp", addr)
	return &probe{conn}, err
}

// commands returns how many commands the server has run, those of scripts and
// those of probes included.
func (p *probe) commands() (float64, error) {
	info, err := redis.String(p.conn.Do("INFO", "stats"))
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(strings.NewReader(info))
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "total_commands_processed:"); ok {
			return strconv.ParseFloat(n, 64)
		}
	}
	return 0, errors.New("the server does not count its commands")
}

// keys returns how many keys the server holds.
func (p *probe) keys() (int, error) { return redis.Int(p.conn.Do("DBSIZE")) }

// flush removes all keys.
func (p *probe) flush() error {
	_, err := p.conn.Do("FLUSHALL", "SYNC")
	return err
}

// await returns once the server holds n keys, or holds no more than it did some
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

func (p *probe) close() { _ = p.conn.Close() }
