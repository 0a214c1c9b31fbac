package failover

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/gocaches/caches/driver/redigo"
)

// Config configures a Store. Sentinels and Master are required. A printed
// Config shows only these and Node.DB. In an unexported field of another
// struct, however, fmt bypasses its methods and shows the passwords.
type Config struct {
	// Sentinels are some of the Sentinels, as host:port. Other Sentinels that they
	// name are asked too.
	Sentinels []string
	// Master is the name of the master in the Sentinels' configuration.
	Master string

	// SentinelUsername and SentinelPassword are sent to Sentinels with AUTH, as
	// described for Username and Password of [redigo.Config]. Sentinels never get
	// the credentials of Node, and nodes never get these.
	SentinelUsername, SentinelPassword string

	// Node is the configuration of the master and its replicas. Network, Address,
	// Resolve, Role, ReadOnly and Refusals must be zero. Any server that the
	// Sentinels name gets the password: on an untrusted network, use TLS to verify
	// it. TLS and ClientName apply to Sentinels too. Sentinels usually name nodes
	// by IP address, so certificates must contain the addresses, or TLS.ServerName
	// must be a name that all of them contain. DialAddress is called with the
	// addresses of all Sentinels and nodes. OnState reports the connections to the
	// master.
	Node redigo.Config

	// ReadReplicas lets replicas, in turn, answer [driver.ReadOnly] Pipelines. A
	// replica may lack writes that the master has acknowledged. See [Store.Do].
	ReadReplicas bool
}

func (c *Config) check() error {
	switch n := &c.Node; {
	case len(c.Sentinels) == 0:
		return errors.New("there are no Sentinels")
	case !c.addressesFit():
		return errors.New("one of the Sentinels is not host:port") // do not repeat it: it may be a DSN with a password
	case c.Master == "":
		return errors.New("there is no Master: it must be the master's name in the Sentinels' configuration")
	case !c.nameFits():
		return errors.New("the Master may contain only letters, digits, dots, dashes and underscores")
	case n.Network != "" || n.Address != "" || n.Resolve != nil || n.Role != redigo.AnyRole || n.ReadOnly || n.Refusals:
		return errors.New("Node.Network, Address, Resolve, Role, ReadOnly and Refusals must be empty: the Sentinels determine them")
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

// nameFits reports whether Redis Sentinel accepts Master as a name.
func (c *Config) nameFits() bool {
	return !strings.ContainsFunc(c.Master, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_", r))
	})
}

// String returns the name of the master, the Sentinels and the database number.
func (c Config) String() string {
	if !c.addressesFit() || !c.nameFits() {
		return "failover.Config(invalid)"
	}
	return fmt.Sprintf("failover.Config(%s by %s/%d)", c.Master, strings.Join(c.Sentinels, ","), c.Node.DB)
}

// GoString returns the result of String.
func (c Config) GoString() string { return c.String() }

// Format writes the result of String for every verb.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns the result of String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns the result of String. Package encoding/json uses it too.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }
