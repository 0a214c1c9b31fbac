package flight

import (
	"fmt"
	"runtime/debug"
)

// A Panic carries the panic of a function to the goroutines that wait for it.
type Panic struct {
	Value any    // the argument of panic; nil for runtime.Goexit
	Stack []byte // of the goroutine that panicked
}

// Caught returns the Panic of value, which is the result of recover. It is called
// by the deferred function that recovers.
func Caught(value any) *Panic { return &Panic{value, debug.Stack()} }

// Error returns the value and the stack.
func (p *Panic) Error() string {
	if p.Value == nil { // panic(nil) panics with a *runtime.PanicNilError
		return "caches: the function ended its goroutine (runtime.Goexit)"
	}
	return fmt.Sprintf("caches: the function panicked: %v\n\n%s", p.Value, p.Stack)
}

// Unwrap returns the value if it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}
