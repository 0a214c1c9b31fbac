package memory

// This file has the table of commands, and the errors for unknown commands and
// wrong numbers of arguments.

import (
	"bytes"
	"strings"

	"github.com/gocaches/caches/driver"
)

// A spec describes a command. The zero spec describes an unknown one.
type spec struct {
	arity int  // as in Redis: the number of arguments with the name, negative for a minimum
	write bool // needs the space exclusively, and removes expired keys
	run   func(t *turn)
}

// commands has all commands by name and is never changed. The arities are from
// COMMAND INFO of Redis 7.0. The second column is Redis's "write" flag, and true for
// FLUSHDB and FLUSHALL.
var commands = map[string]spec{
	// The server. FLUSHDB and FLUSHALL are the same, as there is one database.
	"PING":     {-1, false, (*turn).ping},
	"ECHO":     {2, false, (*turn).echo},
	"TIME":     {1, false, (*turn).time},
	"FLUSHDB":  {-1, true, (*turn).flush},
	"FLUSHALL": {-1, true, (*turn).flush},
	"DBSIZE":   {1, false, (*turn).dbSize},

	// Keys of any type. DEL and UNLINK are the same: the garbage collector frees
	// the values.
	"DEL":         {-2, true, (*turn).del},
	"UNLINK":      {-2, true, (*turn).del},
	"EXISTS":      {-2, false, (*turn).exists},
	"TOUCH":       {-2, false, (*turn).exists},
	"TYPE":        {2, false, (*turn).typeOf},
	"EXPIRE":      {-3, true, (*turn).expire},
	"PEXPIRE":     {-3, true, (*turn).pexpire},
	"EXPIREAT":    {-3, true, (*turn).expireAt},
	"PEXPIREAT":   {-3, true, (*turn).pexpireAt},
	"TTL":         {2, false, (*turn).ttl},
	"PTTL":        {2, false, (*turn).pttl},
	"EXPIRETIME":  {2, false, (*turn).expireTime},
	"PEXPIRETIME": {2, false, (*turn).pexpireTime},
	"PERSIST":     {2, true, (*turn).persist},
	"SCAN":        {-2, false, (*turn).scan},
	"RENAME":      {3, true, (*turn).rename},
	"COPY":        {-3, true, (*turn).copy},

	// Strings. GETEX and GETDEL write, as they may change a deadline or delete.
	"GET":         {2, false, (*turn).get},
	"SET":         {-3, true, (*turn).set},
	"SETNX":       {3, true, (*turn).setNX},
	"GETSET":      {3, true, (*turn).getSet},
	"GETDEL":      {2, true, (*turn).getDel},
	"GETEX":       {-2, true, (*turn).getEx},
	"MGET":        {-2, false, (*turn).mget},
	"MSET":        {-3, true, (*turn).mset},
	"STRLEN":      {2, false, (*turn).strlen},
	"APPEND":      {3, true, (*turn).append},
	"INCR":        {2, true, (*turn).incr},
	"DECR":        {2, true, (*turn).decr},
	"INCRBY":      {3, true, (*turn).incrBy},
	"DECRBY":      {3, true, (*turn).decrBy},
	"INCRBYFLOAT": {3, true, (*turn).incrByFloat},

	// Hashes.
	"HGET":         {3, false, (*turn).hget},
	"HSET":         {-4, true, (*turn).hset},
	"HSETNX":       {4, true, (*turn).hsetNX},
	"HDEL":         {-3, true, (*turn).hdel},
	"HEXISTS":      {3, false, (*turn).hexists},
	"HLEN":         {2, false, (*turn).hlen},
	"HKEYS":        {2, false, (*turn).hkeys},
	"HVALS":        {2, false, (*turn).hvals},
	"HGETALL":      {2, false, (*turn).hgetAll},
	"HMGET":        {-3, false, (*turn).hmget},
	"HINCRBY":      {4, true, (*turn).hincrBy},
	"HINCRBYFLOAT": {4, true, (*turn).hincrByFloat},
	"HSCAN":        {-3, false, (*turn).hscan},
	"HRANDFIELD":   {-2, false, (*turn).hrandField},
	"HSTRLEN":      {3, false, (*turn).hstrlen},

	// Lists.
	"LPUSH":  {-3, true, (*turn).lpush},
	"RPUSH":  {-3, true, (*turn).rpush},
	"LPUSHX": {-3, true, (*turn).lpushX},
	"RPUSHX": {-3, true, (*turn).rpushX},
	"LPOP":   {-2, true, (*turn).lpop},
	"RPOP":   {-2, true, (*turn).rpop},
	"LLEN":   {2, false, (*turn).llen},
	"LINDEX": {3, false, (*turn).lindex},
	"LRANGE": {4, false, (*turn).lrange},
	"LTRIM":  {4, true, (*turn).ltrim},
	"LREM":   {4, true, (*turn).lrem},
	"LPOS":   {-3, false, (*turn).lpos},

	// Sets. Except for SPOP and SRANDMEMBER, which choose at random, each command
	// has one correct reply up to its order.
	"SADD":        {-3, true, (*turn).sadd},
	"SREM":        {-3, true, (*turn).srem},
	"SISMEMBER":   {3, false, (*turn).sisMember},
	"SMISMEMBER":  {-3, false, (*turn).smisMember},
	"SCARD":       {2, false, (*turn).scard},
	"SMEMBERS":    {2, false, (*turn).smembers},
	"SPOP":        {-2, true, (*turn).spop},
	"SRANDMEMBER": {-2, false, (*turn).srandMember},
	"SSCAN":       {-3, false, (*turn).sscan},
	"SMOVE":       {4, true, (*turn).smove},
	"SUNION":      {-2, false, (*turn).sunion},
	"SINTER":      {-2, false, (*turn).sinter},
	"SDIFF":       {-2, false, (*turn).sdiff},
	"SUNIONSTORE": {-3, true, (*turn).sunionStore},
	"SINTERSTORE": {-3, true, (*turn).sinterStore},
	"SDIFFSTORE":  {-3, true, (*turn).sdiffStore},
	"SINTERCARD":  {-3, false, (*turn).sinterCard},

	// Sorted sets. ZRANGE is the only range command: since Redis 6.2 it covers the
	// others.
	"ZADD":             {-4, true, (*turn).zadd},
	"ZINCRBY":          {4, true, (*turn).zincrBy},
	"ZSCORE":           {3, false, (*turn).zscore},
	"ZMSCORE":          {-3, false, (*turn).zmscore},
	"ZRANK":            {3, false, (*turn).zrank},
	"ZREVRANK":         {3, false, (*turn).zrevRank},
	"ZCARD":            {2, false, (*turn).zcard},
	"ZCOUNT":           {4, false, (*turn).zcount},
	"ZLEXCOUNT":        {4, false, (*turn).zlexCount},
	"ZRANGE":           {-4, false, (*turn).zrange},
	"ZPOPMIN":          {-2, true, (*turn).zpopMin},
	"ZPOPMAX":          {-2, true, (*turn).zpopMax},
	"ZREM":             {-3, true, (*turn).zrem},
	"ZREMRANGEBYRANK":  {4, true, (*turn).zremRangeByRank},
	"ZREMRANGEBYSCORE": {4, true, (*turn).zremRangeByScore},
	"ZSCAN":            {-3, false, (*turn).zscan},
	"ZRANDMEMBER":      {-2, false, (*turn).zrandMember},
}

// script is the spec of all scripts. A script may run any command, so it needs the
// space exclusively.
var script = spec{write: true}

// find returns the spec of c. It looks the name up unchanged first, as it is in
// upper case in most Pipelines.
func find(c driver.Command) (s spec, known bool) {
	if c.Script != nil {
		return script, true
	}
	if s, known = commands[string(c.Args[0])]; !known {
		s, known = commands[strings.ToUpper(string(c.Args[0]))]
	}
	return s, known
}

// refusal returns the error with which Redis refuses to queue or run a command, or
// "". Only such errors abort a transaction. Wrong options and values are errors of
// the running command.
func refusal(s spec, known bool, args [][]byte) string {
	switch {
	case !known:
		return unknownCommand(args)
	case s.run == nil, s.arity == len(args), s.arity < 0 && len(args) >= -s.arity:
		return ""
	}
	return wrongArity(args)
}

// wrongArity returns the error for a wrong number of arguments.
func wrongArity(args [][]byte) string {
	return "ERR wrong number of arguments for '" + strings.ToLower(string(args[0])) + "' command"
}

// unknownCommand returns the error for an unknown command. As in Redis it repeats up
// to 128 bytes of the name and of the arguments.
func unknownCommand(args [][]byte) string {
	var rest []byte
	for _, arg := range args[1:] {
		if len(rest) >= 128 {
			break
		}
		shown := arg[:min(len(arg), 128-len(rest))]
		rest = append(append(append(rest, '\''), printable(shown)...), "' "...)
	}
	name := args[0][:min(len(args[0]), 128)]
	return "ERR unknown command '" + printable(name) + "', with args beginning with: " + string(rest)
}

// printable returns b as Redis puts it into an error reply: cut at a zero byte, which
// ends a C string, and without line ends, which would end the reply.
func printable(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(string(b))
}

// is reports whether arg is option, in any case. It compares the lengths first and
// does not allocate.
func is(arg []byte, option string) bool {
	return len(arg) == len(option) && strings.EqualFold(string(arg), option)
}
