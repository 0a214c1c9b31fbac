package memory

// This file has the table of commands, and the errors for those that are not in it
// or are called in a wrong way.

import (
	"bytes"
	"strings"

	"github.com/gocaches/caches/driver"
)

// A spec says what a command needs. The zero spec is that of no command.
type spec struct {
	arity int  // as in Redis: the number of arguments, name included; negative: at least that many
	write bool // needs the space alone, and reclaims what has expired
	run   func(t *turn)
}

// commands has every command there is, by name. It is never written to. The
// arities are those that COMMAND INFO of Redis 7.0 gives; the second column is
// Redis's "write" flag, and that of FLUSHALL and its like.
var commands = map[string]spec{
	// The server. It has one database, so FLUSHDB and FLUSHALL are the same.
	"PING":     {-1, false, (*turn).ping},
	"ECHO":     {2, false, (*turn).echo},
	"TIME":     {1, false, (*turn).time},
	"FLUSHDB":  {-1, true, (*turn).flush},
	"FLUSHALL": {-1, true, (*turn).flush},
	"DBSIZE":   {1, false, (*turn).dbSize},

	// Keys of any type. UNLINK frees no more lazily than DEL: the garbage
	// collector does it for both.
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

	// Strings. GETEX may change a deadline, GETDEL removes: they write.
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

	// Sets. SPOP draws at random; everything else has one right answer, if not
	// one order.
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

	// Sorted sets. Of the many forms of range only ZRANGE, which has them all
	// since Redis 6.2.
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

// script is the spec of every [driver.Script]: nobody knows what it does, so it
// has the space alone.
var script = spec{write: true}

// find returns what is known of c. Names are looked up as they are first:
// Pipelines have them in upper case.
func find(c driver.Command) (s spec, known bool) {
	if c.Script != nil {
		return script, true
	}
	if s, known = commands[string(c.Args[0])]; !known {
		s, known = commands[strings.ToUpper(string(c.Args[0]))]
	}
	return s, known
}

// refusal returns the error with which Redis turns a command away before
// running it, "" where it does not. Only such errors abort a transaction; what
// is wrong with options and values is found when the command runs.
func refusal(s spec, known bool, args [][]byte) string {
	switch {
	case !known:
		return unknownCommand(args)
	case s.run == nil, s.arity == len(args), s.arity < 0 && len(args) >= -s.arity:
		return ""
	}
	return wrongArity(args)
}

// wrongArity is the refusal of a command with too few or too many arguments.
func wrongArity(args [][]byte) string {
	return "ERR wrong number of arguments for '" + strings.ToLower(string(args[0])) + "' command"
}

// unknownCommand repeats the command, up to 128 bytes of its name and of its
// arguments, as Redis does.
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

// printable is b as Redis puts it into an error reply: C ends it at a zero
// byte, and line ends would end the reply.
func printable(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(string(b))
}

// is reports whether an argument is that option, given in upper case. Nothing
// is allocated: the length is looked at first, and the conversion stays here.
func is(arg []byte, option string) bool {
	return len(arg) == len(option) && strings.EqualFold(string(arg), option)
}
