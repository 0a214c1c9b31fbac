package driver

// A Meter is a [Store] that keeps statistics. It is optional.
type Meter interface {
	// Stats returns the current counts.
	Stats() Stats
}

// Stats holds the counts of a [Store] that has connections to a server, since it
// was opened.
type Stats struct {
	Calls     int64 // calls of Do
	Errors    int64 // calls of Do that failed
	Dials     int64 // connections established
	Retries   int64 // attempts after the first attempt of a call
	Commands  int64 // commands written to shared connections, including heartbeats
	Writes    int64 // writes to shared connections, of Commands/Writes commands on average
	InFlight  int64 // calls that are waiting for replies at present
	Abandoned int64 // calls canceled or timed out while waiting for replies
	Refused   int64 // calls refused: too many in progress, or the server Resting
	Desyncs   int64 // shared connections closed because of wrong replies
	BytesIn   int64 // bytes of replies
	BytesOut  int64 // bytes of commands
}

// Plus returns the sums of the counts of s and o.
func (s Stats) Plus(o Stats) Stats {
	return Stats{
		Calls:     s.Calls + o.Calls,
		Errors:    s.Errors + o.Errors,
		Dials:     s.Dials + o.Dials,
		Retries:   s.Retries + o.Retries,
		Commands:  s.Commands + o.Commands,
		Writes:    s.Writes + o.Writes,
		InFlight:  s.InFlight + o.InFlight,
		Abandoned: s.Abandoned + o.Abandoned,
		Refused:   s.Refused + o.Refused,
		Desyncs:   s.Desyncs + o.Desyncs,
		BytesIn:   s.BytesIn + o.BytesIn,
		BytesOut:  s.BytesOut + o.BytesOut,
	}
}

// A State is the state of a shared connection.
type State uint8

const (
	// Connected means that the connection was established.
	Connected State = iota + 1
	// Disconnected means that the connection was lost, or closed with its Store.
	Disconnected
	// Resting means that the server failed repeatedly: calls that need a new
	// connection fail immediately for a short time. Connected ends it.
	Resting
	// TrackingOn means that changes of keys are reported; see [Tracker].
	// TrackingOff means that they are no longer reported, or not yet, so the near
	// cache is not used.
	TrackingOn
	TrackingOff
)

// String returns the name of the state, such as "tracking on".
func (s State) String() string {
	switch s {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case Resting:
		return "resting"
	case TrackingOn:
		return "tracking on"
	case TrackingOff:
		return "tracking off"
	}
	return "unknown"
}
