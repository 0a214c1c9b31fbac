package failover_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/driver/redigo"
	"github.com/gocaches/caches/driver/redigo/failover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAnswers asks useless Sentinels of every kind together with a good one,
// whose answer is used. Without the good one, the error names all of them with
// their reasons.
func TestAnswers(t *testing.T) {
	m := master(t)
	good := sentinel(t, says{master: m.addr, epoch: 1})
	for name, c := range map[string]struct {
		answer string
		why    string
	}{
		"unknown name":  {"*-1\r\n", "does not know the master"},
		"no right":      {"-NOPERM this user has no permissions\r\n", "NOPERM"},
		"no password":   {"-NOAUTH Authentication required.\r\n", "NOAUTH"},
		"old":           {"-IDONTKNOW\r\n", "IDONTKNOW"},
		"an integer":    {":1\r\n", "protocol error"},
		"empty":         {"*0\r\n", "protocol error"},
		"half":          {bulks("127.0.0.1"), "protocol error"},
		"port of words": {bulks("127.0.0.1", "redis"), "invalid address"},
		"port too big":  {bulks("127.0.0.1", "65536"), "invalid address"},
		"port zero":     {bulks("127.0.0.1", "0"), "invalid address"},
		"no host":       {bulks("", "6379"), "invalid address"},
		"odd host":      {bulks("a@b", "6379"), "invalid address"},
		"nested":        {array(array(), array()), "protocol error"},
		"nils":          {array("$-1\r\n", "$-1\r\n"), "invalid address"},
		"hangs up":      {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bad := serve(t, func(cmd []string) string {
				if cmd[1] == "GET-MASTER-ADDR-BY-NAME" {
					return c.answer
				}
				return "-ERR No such master with that name\r\n"
			})
			s := open(t, failover.Config{Sentinels: []string{bad.addr, good.addr}})
			assert.Equal(t, bulk(m.addr), must(t, s, "GET", "k"))

			alone := open(t, failover.Config{Sentinels: []string{bad.addr}})
			_, err := run(alone, 0, "GET", "k")
			require.ErrorIs(t, err, driver.ErrUnavailable)
			assert.ErrorContains(t, err, bad.addr)
			assert.ErrorContains(t, err, "mymaster")
			assert.ErrorContains(t, err, c.why)
		})
	}
}

// TestNoSentinel checks that the error of a call names all unreachable
// Sentinels and no password.
func TestNoSentinel(t *testing.T) {
	addrs := []string{closedPort(t), closedPort(t)}
	s := open(t, failover.Config{Sentinels: addrs, SentinelPassword: "hunter2", Node: redigo.Config{Password: "hunter2"}})
	_, err := run(s, 0, "SET", "k", "v")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	for _, addr := range addrs {
		assert.ErrorContains(t, err, addr)
	}
	assert.NotContains(t, err.Error(), "hunter2")
}

// leadsTo waits until calls go to m.
func leadsTo(t *testing.T, s driver.Store, m *fake) {
	t.Helper()
	require.Eventually(t, func() bool {
		reply, err := run(s, driver.ReadOnly, "GET", "k")
		return err == nil && reply == bulk(m.addr)
	}, patience, time.Millisecond)
}

func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// TestSilentSentinel finds the master at once although a Sentinel does not
// answer.
func TestSilentSentinel(t *testing.T) {
	m := master(t)
	mute := serve(t, nil)
	mute.mute()
	good := sentinel(t, says{master: m.addr})
	s := open(t, failover.Config{Sentinels: []string{mute.addr, good.addr}})
	start := time.Now()
	must(t, s, "GET", "k")
	assert.Less(t, time.Since(start), 400*time.Millisecond, "less than the timeout of a Sentinel")
}

// TestNewestAnswer uses the answer of the latest failover, whichever Sentinel
// gives it.
func TestNewestAnswer(t *testing.T) {
	old, now := master(t), master(t)
	behind := sentinel(t, says{master: old.addr, epoch: 1})
	ahead := sentinel(t, says{master: now.addr, epoch: 2})
	for range 10 {
		s := open(t, failover.Config{Sentinels: []string{behind.addr, ahead.addr}})
		leadsTo(t, s, now)
		for range 20 {
			require.Equal(t, bulk(now.addr), must(t, s, "GET", "k"))
		}
		_ = s.Close()
	}
}

// TestNoWayBack silences the Sentinel that is ahead. The one that is behind
// does not lead calls back to the previous master.
func TestNoWayBack(t *testing.T) {
	t.Parallel()
	old, now := master(t), master(t)
	behind := sentinel(t, says{master: old.addr, epoch: 1})
	ahead := sentinel(t, says{master: now.addr, epoch: 2})
	s := open(t, failover.Config{Sentinels: []string{behind.addr, ahead.addr}})
	leadsTo(t, s, now)
	ahead.say(func([]string) string { return "" })
	polls := behind.count("sentinel myid")
	require.Eventually(t, func() bool { return behind.count("sentinel myid") > polls+2 }, patience, 10*time.Millisecond)
	assert.Equal(t, bulk(now.addr), must(t, s, "GET", "k"))
}

// TestSwitch moves the master. The store learns of it at once if a Sentinel
// publishes it, otherwise with the next poll. Calls in progress end, even if
// the previous master does not answer.
func TestSwitch(t *testing.T) {
	for _, published := range []bool{true, false} {
		t.Run(fmt.Sprint("published ", published), func(t *testing.T) {
			t.Parallel()
			switchMaster(t, published)
		})
	}
}

func switchMaster(t *testing.T, published bool) {
	old, now := master(t), master(t)
	one := sentinel(t, says{master: old.addr, epoch: 1})
	s := open(t, failover.Config{Sentinels: []string{one.addr}})
	must(t, s, "GET", "k")
	require.Eventually(t, func() bool { return one.subscribers() == 1 }, patience, time.Millisecond)

	old.mute()
	stuck := make(chan error)
	go func() {
		_, err := run(s, 0, "INCR", "n")
		stuck <- err
	}()
	read := make(chan string)
	go func() {
		reply, _ := run(s, driver.ReadOnly, "GET", "k")
		read <- reply
	}()
	require.Eventually(t, func() bool { return old.count("incr n")+old.count("get k") == 3 }, patience, time.Millisecond)
	one.say(says{master: now.addr, epoch: 2}.answer)
	start := time.Now()
	if published {
		one.publish("+switch-master", "another 127.0.0.1 1 127.0.0.1 2")
		one.publish("+switch-master", "mymaster 127.0.0.1 1 127.0.0.1 2")
	}
	err := <-stuck
	require.ErrorIs(t, err, driver.ErrUnknownOutcome)
	assert.ErrorContains(t, err, "moved from "+old.addr+" to "+now.addr)
	assert.Equal(t, bulk(now.addr), <-read, "a read is sent again")
	if published {
		assert.Less(t, time.Since(start), 500*time.Millisecond)
	}
	assert.Equal(t, bulk(now.addr), must(t, s, "GET", "k"))
	require.NoError(t, s.Close())
}

// TestSubscriptionMovesOn loses the subscription at one Sentinel: the other one
// gets it.
func TestSubscriptionMovesOn(t *testing.T) {
	m := master(t)
	one, two := sentinel(t, says{master: m.addr}), sentinel(t, says{master: m.addr})
	s := open(t, failover.Config{Sentinels: []string{one.addr, two.addr}})
	must(t, s, "GET", "k")
	sum := func() int { return one.subscribers() + two.subscribers() }
	require.Eventually(t, func() bool { return sum() == 1 }, patience, time.Millisecond)
	first, second := one, two
	if two.subscribers() == 1 {
		first, second = two, one
	}
	first.hangUp()
	require.Eventually(t, func() bool { return second.subscribers() == 1 }, patience, time.Millisecond)
}

// TestDiscovery asks a Sentinel that was only named by another one, after that
// one is gone.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	old, now := master(t), master(t)
	two := sentinel(t, says{master: old.addr, epoch: 1, id: "two"})
	down := sentinel(t, says{master: old.addr, epoch: 1, id: "down"})
	one := sentinel(t, says{master: old.addr, epoch: 1, id: "one", peers: []string{
		entry(two.addr, "sentinel", "runid", "two"),
		entry(down.addr, "sentinel,s_down", "runid", "down"),
		entry("", "sentinel"), "*0\r\n", ":1\r\n",
	}})
	s := open(t, failover.Config{Sentinels: []string{one.addr}})
	must(t, s, "GET", "k")
	require.Eventually(t, func() bool { return two.count("sentinel myid") > 0 }, patience, time.Millisecond)
	one.say(func([]string) string { return "" })
	two.say(says{master: now.addr, epoch: 2}.answer)
	leadsTo(t, s, now)
	assert.Zero(t, down.count("sentinel myid"), "a Sentinel that is down is not asked")
}

// TestTwin knows a Sentinel by its configured name and by the address that
// others give. It is polled once in the end.
func TestTwin(t *testing.T) {
	t.Parallel()
	m := master(t)
	two := sentinel(t, says{master: m.addr, id: "two"})
	_, port, _ := net.SplitHostPort(two.addr)
	one := sentinel(t, says{master: m.addr, id: "one", peers: []string{entry(two.addr, "sentinel", "runid", "two")}})
	s := open(t, failover.Config{Sentinels: []string{one.addr, "localhost:" + port}})
	must(t, s, "GET", "k")
	require.Eventually(t, func() bool { return one.count("sentinel myid") > 3 }, patience, 10*time.Millisecond)
	// The first rounds may ask it twice.
	ones, twos := one.count("sentinel myid"), two.count("sentinel myid")
	require.Eventually(t, func() bool { return one.count("sentinel myid") > ones+2 }, patience, 10*time.Millisecond)
	assert.LessOrEqual(t, two.count("sentinel myid")-twos, one.count("sentinel myid")-ones+1)
}

// TestDialAddress dials the addresses returned by DialAddress, of Sentinels,
// masters and replicas.
func TestDialAddress(t *testing.T) {
	m, r := master(t), replica(t, "connected")
	replicas := []string{entry("10.0.0.3:6379", "slave", "master-link-status", "ok")}
	two := sentinel(t, says{master: "10.0.0.1:6379", epoch: 2, id: "two", replicas: replicas})
	one := sentinel(t, says{
		master: "10.0.0.1:6379", epoch: 1, id: "one", replicas: replicas,
		peers: []string{entry("10.0.0.2:26379", "sentinel", "runid", "two")},
	})
	dialed := map[string]string{"10.0.0.1:6379": m.addr, "10.0.0.2:26379": two.addr, "10.0.0.3:6379": r.addr, "one:26379": one.addr}
	s := open(t, failover.Config{Sentinels: []string{"one:26379"}, ReadReplicas: true, Node: redigo.Config{DialAddress: func(_ context.Context, address string) (string, error) {
		return dialed[address], nil
	}}})
	assert.Equal(t, bulk(m.addr), must(t, s, "GET", "k"))
	require.Eventually(t, func() bool { return two.count("sentinel myid") > 0 }, patience, time.Millisecond)
	require.Eventually(t, func() bool { return isRead(t, s, r) }, patience, time.Millisecond)
}

// TestDialAddressRefusesTheMaster returns the refusal from the call. The password
// goes to no other server.
func TestDialAddressRefusesTheMaster(t *testing.T) {
	m := master(t)
	one := sentinel(t, says{master: m.addr, epoch: 1})
	refused := errors.New("not ours")
	s := open(t, failover.Config{Sentinels: []string{one.addr}, Node: redigo.Config{
		Timeout: 200 * time.Millisecond, Password: "hunter2",
		DialAddress: func(_ context.Context, address string) (string, error) {
			if address == m.addr {
				return "", refused
			}
			return address, nil
		},
	}})
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	require.ErrorIs(t, err, refused)
	assert.ErrorContains(t, err, "DialAddress of "+m.addr)
	assert.Zero(t, m.count("auth hunter2")+one.count("auth hunter2"))
}

// TestNotAMaster is led to a server that is not a master. No command is sent
// there. The call waits up to its timeout, and succeeds if the Sentinels give a
// better answer by then.
func TestNotAMaster(t *testing.T) {
	m := master(t)
	replica := serve(t, func(cmd []string) string {
		if cmd[0] == "ROLE" {
			return array(bulk("slave"), bulk("127.0.0.1"), ":1\r\n", bulk("connected"), ":0\r\n")
		}
		return bulk("wrong")
	})
	one := sentinel(t, says{master: replica.addr, epoch: 1})
	short := open(t, failover.Config{Sentinels: []string{one.addr}, Node: redigo.Config{Timeout: 100 * time.Millisecond}})
	_, err := run(short, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.ErrorContains(t, err, "not a master")

	s := open(t, failover.Config{Sentinels: []string{one.addr}})
	time.AfterFunc(50*time.Millisecond, func() { one.say(says{master: m.addr, epoch: 2}.answer) })
	assert.Equal(t, bulk(m.addr), must(t, s, "GET", "k"))
	assert.Zero(t, replica.count("get k"))
}

// TestNothingBeforeUse opens and closes a store without a goroutine or a
// connection.
func TestNothingBeforeUse(t *testing.T) {
	one := sentinel(t, says{})
	s := open(t, failover.Config{Sentinels: []string{one.addr}, ReadReplicas: true})
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err := run(s, 0, "GET", "k")
	require.ErrorIs(t, err, driver.ErrUnavailable)
	assert.Zero(t, one.count("sentinel myid"))
}
