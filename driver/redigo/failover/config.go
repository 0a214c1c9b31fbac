package failover

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/gocaches/caches/driver/redigo"
)

// Config says where Sentinels are, which master they are asked for, and how to
// talk to it. Sentinels and Master are required. Printing a Config shows those
// two and no more; but in an unexported field of another struct fmt passes its
// methods by, and shows the passwords.
type Config struct {
	// Sentinels are some of them, host:port each. Those that they know of are
	// asked as well.
	Sentinels []string
	// Master is the name by which the Sentinels know the master.
	Master string

	// SentinelUsername and SentinelPassword are sent to Sentinels with AUTH, as
	// [redigo.Config] says of its Username and Password. Those of Node are never
	// sent to a Sentinel, nor these to a node.
	SentinelUsername, SentinelPassword string

	// Node says how to talk to the master, and to replicas. Its Network, Address,
	// Resolve, Role, ReadOnly and Refusals must be empty, for they follow from
	// what the Sentinels say. Whom they name gets the password: where the network is not
	// to be trusted, TLS is what verifies that it is one of ours. Its TLS and ClientName are for the Sentinels, too; as Sentinels name
	// nodes by their IP addresses, as a rule, certificates must hold those, or
	// TLS.ServerName a name that they all have. Its OnState is told of the
	// connections to the master.
	Node redigo.Config

	// ReadReplicas has replicas answer Pipelines that are [driver.ReadOnly],
	// one after the other. What they answer may lag behind what the master has
	// acknowledged, by as much as their link does. See [Store.Do].
	ReadReplicas bool

	// Map, if it is not nil, gives for an address of a node or Sentinel, as
	// Sentinels know it, the one that it has from here, as behind a NAT. It is
	// called by several goroutines.
	Map func(address string) string
}

func (c *Config) check() error {
	switch n := &c.Node; {
	case len(c.Sentinels) == 0:
		return errors.New("the Sentinels are missing")
	case !c.addressesFit():
		return errors.New("one of the Sentinels is not host:port") // it may be a DSN: do not repeat it
	case c.Master == "":
		return errors.New("the Master is missing: the name by which the Sentinels know it")
	case !c.nameFits():
		return errors.New("the Master is a name of letters, digits, dots, dashes and underscores")
	case n.Network != "" || n.Address != "" || n.Resolve != nil || n.Role != redigo.AnyRole || n.ReadOnly || n.Refusals:
		return errors.New("the Node's Network, Address, Resolve, Role, ReadOnly and Refusals must be empty: the Sentinels say where it is")
	}
	return nil
}

func (c *Config) addressesFit() bool {
	for _, address := range c.Sentinels {
		if _, _, err := net.SplitHostPort(address); err != nil || strings.ContainsAny(address, "@/?#") {
			return false
		}
	}
	return true
}

// nameFits reports whether Sentinel would take the name of the master.
func (c *Config) nameFits() bool {
	return !strings.ContainsFunc(c.Master, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_", r))
	})
}

// mapped returns the address that a node or Sentinel has from here.
func (c *Config) mapped(address string) string {
	if c.Map == nil {
		return address
	}
	return c.Map(address)
}

// String returns the name of the master, the Sentinels and the number of the
// database.
func (c Config) String() string {
	if !c.addressesFit() || !c.nameFits() {
		return "failover.Config(invalid)"
	}
	return fmt.Sprintf("failover.Config(%s by %s/%d)", c.Master, strings.Join(c.Sentinels, ","), c.Node.DB)
}

// GoString returns what String does.
func (c Config) GoString() string { return c.String() }

// Format writes what String returns, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns what String does.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns what String does; it is also what encoding/json shows.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }
