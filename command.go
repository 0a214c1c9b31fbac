package caches

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gocaches/caches/driver"
)

// Do runs a command and returns its reply. It is for commands that the objects
// do not have. The reply is an int64 for an integer, a []byte for a string, a
// string for a status such as "OK", a []any of these for an array, or nil for a
// null. An error reply is returned as a *[ServerError]; in an array, it is an
// element.
//
// Arguments are strings, []byte, integers, floats and bools (sent as 1 and 0).
// Keys must be complete: no prefix is added. The command is sent to the shard
// of its first key. With several servers, keys on the others are not found (a
// Redis Cluster replies with CROSSSLOT), and a command without a key, such as
// DBSIZE, is an error. A single server receives every command.
//
// Connections are shared, so Do refuses commands that would change one for all
// callers (SELECT, MULTI, SUBSCRIBE, CLIENT REPLY, …) or block it (BLPOP, …). A
// command whose reply is lost is not sent again: Do returns
// [ErrUnknownOutcome].
func (c *Conn) Do(ctx context.Context, cmd string, args ...any) (any, error) {
	p := driver.NewPipeline(0)
	defer p.Free()
	cmd = strings.ToUpper(cmd)
	words, err := writeCommand(p, cmd, args)
	if err != nil {
		return nil, fmt.Errorf("caches: Do: %w", err)
	}
	key, shard := firstKey(cmd, words), 0
	if _, divided := c.shards[0].store.(driver.Cluster); key < 0 && (divided || len(c.shards) > 1) {
		return nil, fmt.Errorf("caches: Do: %q names no key, and the connection has several servers", cmd)
	}
	if key >= 0 {
		shard = c.shardOf("", words[key])
	}
	if err := c.do(ctx, shard, p); err != nil {
		return nil, err
	}
	return boxed(p.Next())
}

// writeCommand writes a command to p and returns its arguments as text. It
// marks the first key, for stores that route by it.
func writeCommand(p *driver.Pipeline, cmd string, args []any) (words []string, err error) {
	words = make([]string, len(args))
	for i, arg := range args {
		if words[i], err = word(arg); err != nil {
			return nil, fmt.Errorf("argument %d of the command: %w", i+1, err)
		}
	}
	if cmd == "" || strings.ContainsFunc(cmd, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the command's name is not a single word: pass its arguments one by one")
	}
	if refused(cmd, words) {
		return nil, fmt.Errorf("%s would change or block a shared connection", cmd)
	}
	p.Cmd(cmd)
	key := firstKey(cmd, words)
	for i, w := range words {
		if i == key {
			p.Key(w)
		} else {
			p.String(w)
		}
	}
	return words, nil
}

// word returns the text of an argument of [Conn.Do]. It refuses other types: a
// time.Duration, say, would be sent as nanoseconds to commands that expect
// seconds.
func word(arg any) (string, error) {
	switch v := arg.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case bool:
		if v {
			return "1", nil
		}
		return "0", nil
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(v), nil
	case float32:
		return shortest(float64(v), 32), nil
	case float64:
		return shortest(v, 64), nil
	}
	return "", fmt.Errorf("a %T is not a string, bytes, integer, float or bool", arg)
}

// shortest is [driver.AppendFloat] for floats of both sizes.
func shortest(f float64, bits int) string {
	if math.IsInf(f, 0) || f == 0 {
		return string(driver.AppendFloat(nil, f))
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}

// refused reports whether a command must not run on a shared connection,
// because it would change the connection for other callers or make them wait.
func refused(cmd string, words []string) bool {
	switch cmd {
	case "AUTH", "HELLO", "SELECT", "QUIT", "RESET", "ASKING", "READONLY", "READWRITE",
		"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH",
		"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
		"MONITOR", "SYNC", "PSYNC", "REPLCONF",
		"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF":
		return true
	case "SCRIPT":
		return len(words) > 0 && strings.EqualFold(words[0], "DEBUG")
	case "CLIENT":
		return len(words) > 0 && slices.Contains(clientState, strings.ToUpper(words[0]))
	case "XREAD", "XREADGROUP":
		return slices.ContainsFunc(words[:max(0, keyAfter("STREAMS", words))], func(w string) bool {
			return strings.EqualFold(w, "BLOCK")
		})
	}
	return false
}

// clientState lists the subcommands of CLIENT that change the connection.
var clientState = []string{"REPLY", "TRACKING", "CACHING", "SETNAME", "SETINFO", "NO-EVICT", "NO-TOUCH"}

// firstKey returns the index of the argument that is the first key of a
// command, or -1. It is 0 for most commands. The exceptions are from the key
// specifications of Redis 7
// (https://redis.io/docs/latest/develop/reference/key-specs/).
func firstKey(cmd string, words []string) int {
	key := 0
	switch cmd {
	case "PING", "ECHO", "INFO", "TIME", "DBSIZE", "FLUSHDB", "FLUSHALL", "SCAN", "KEYS", "RANDOMKEY", "WAIT",
		"CONFIG", "CLIENT", "COMMAND", "CLUSTER", "SCRIPT", "FUNCTION", "ACL", "LATENCY", "SLOWLOG", "MODULE",
		"ROLE", "LASTSAVE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "REPLICAOF", "SLAVEOF", "FAILOVER",
		"SWAPDB", "LOLWUT", "PUBLISH", "PUBSUB":
		return -1
	case "EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO":
		if key = 2; len(words) > 1 && words[1] == "0" {
			return -1
		}
	case "XREAD", "XREADGROUP":
		if key = keyAfter("STREAMS", words); key < 0 {
			return -1
		}
	case "OBJECT", "XGROUP", "XINFO", "BITOP", "MEMORY", "DEBUG",
		"SINTERCARD", "ZDIFF", "ZINTER", "ZUNION", "ZINTERCARD", "ZMPOP", "LMPOP":
		key = 1
	case "MIGRATE":
		key = 2
	}
	if key >= len(words) {
		return -1
	}
	return key
}

// keyAfter returns the index behind a keyword, or -1 if words does not have it.
func keyAfter(keyword string, words []string) int {
	i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, keyword) })
	if i < 0 {
		return -1
	}
	return i + 1
}

// boxed returns a reply as Do returns it. It copies all bytes.
func boxed(r driver.Reply) (any, error) {
	switch r.Kind() {
	case driver.KindNil:
		return nil, nil
	case driver.KindInt:
		return r.Int()
	case driver.KindStatus:
		text, _, err := r.Bytes()
		return string(text), err
	case driver.KindBulk:
		data, _, err := r.Bytes()
		return append([]byte{}, data...), err
	case driver.KindArray:
		return boxedAll(r)
	}
	return nil, r.Err()
}

func boxedAll(r driver.Reply) (any, error) {
	elems, err := r.Elems()
	all := make([]any, 0, elems.Len())
	for err == nil && elems.Len() > 0 {
		var v any
		if v, err = boxed(elems.Next()); err == nil {
			all = append(all, v)
		} else if refusal, ok := errors.AsType[*ServerError](err); ok {
			all, err = append(all, refusal), nil // an error of one element, not of the reply
		}
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}
