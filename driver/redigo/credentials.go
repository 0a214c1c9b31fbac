package redigo

import (
	"context"
	"fmt"
	"log/slog"
)

// Credentials are the username and the password of a dial. They are sent as
// described for Username and Password of [Config]; the zero value sends none.
// Credentials print as a fixed text. In an unexported field of another struct,
// however, fmt does not call their methods and shows them.
type Credentials struct {
	Username, Password string
}

// String returns a fixed text.
func (c Credentials) String() string { return "redigo.Credentials(hidden)" }

// GoString returns the same as String.
func (c Credentials) GoString() string { return c.String() }

// Format writes the result of String for every verb.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue returns the result of String.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText returns the result of String. Package encoding/json uses it too.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func credentialsOf(c *Config) func(context.Context) (Credentials, error) {
	if c.Credentials != nil {
		return c.Credentials
	}
	fixed := Credentials{c.Username, c.Password} // a closure's variables are not printed
	return func(context.Context) (Credentials, error) { return fixed, nil }
}
