package driver

// A Meter is a Store that counts what it does.
type Meter interface {
	// Stats returns the counts since the Store was opened.
	Stats() Stats
}

// Stats counts what a Store that has connections to a server has done since it
// was opened.
type Stats struct {
	Calls     int64 // of Do
	Errors    int64 // of Do
	Dials     int64 // that led to a connection
	Retries   int64 // attempts after the first of a call
	Commands  int64 // written to shared connections, heartbeats included
	Writes    int64 // to shared connections: Commands/Writes travelled together
	InFlight  int64 // calls whose replies have not come: now, not since
	Abandoned int64 // calls that were cancelled, or whose time was up, while they waited for replies
	Refused   int64 // calls turned away: too many under way, or the server at rest
	Desyncs   int64 // shared connections given up because replies were not right
	BytesIn   int64 // of replies
	BytesOut  int64 // of commands
}

// Plus returns the counts of two Stores together.
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

// A State is what became of a connection that calls share.
type State uint8

const (
	// Connected says that a connection was made.
	Connected State = iota + 1
	// Disconnected says that one was lost, or closed with its Store.
	Disconnected
	// Resting says that a server failed repeatedly: for a moment, calls that
	// need a new connection fail at once. Connected ends it.
	Resting
	// TrackingOn says that the server tells what changes, and TrackingOff that it
	// does not any more, or not yet: nothing is kept near then. See [Tracker].
	TrackingOn
	TrackingOff
)

// String returns the state in words.
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
