package flight

import (
	"context"
	"slices"
	"sync"
)

// A link is a run, or another owner's work, that a context is within. A context
// carries the innermost one; nil is the end of the chain. Links of runs are also
// the nodes of the graph of which run waits for which.
type link struct {
	outer *link
	owner any           // the Group of a run, or the argument of Enter
	key   Key           // of a run
	done  chan struct{} // of a run: closed at its end, which its context may outlive; else nil

	// The runs that this one waits for, because its function called them. It may
	// call several at once. Guarded by waiting.
	waits []*link
}

type chainKey struct{}

func chainOf(ctx context.Context) *link {
	chain, _ := ctx.Value(chainKey{}).(*link)
	return chain
}

// Enter returns a context within owner, which is of a comparable type: work that
// is not a run, such as a batch, and must not wait for itself either.
func Enter(ctx context.Context, owner any) context.Context {
	return context.WithValue(ctx, chainKey{}, &link{outer: chainOf(ctx), owner: owner})
}

// Within reports whether ctx is within owner, which is the argument of [Enter] or
// a *[Group]. It does not matter how many runs or other owners are between them.
func Within(ctx context.Context, owner any) bool { return chainOf(ctx).within(owner) }

func (l *link) within(owner any) bool {
	for ; l != nil; l = l.outer {
		if l.owner == owner {
			return true
		}
	}
	return false
}

// runs reports whether a run of key, of any group, is in the chain and not over.
func (l *link) runs(key Key) bool {
	for ; l != nil; l = l.outer {
		if l.done != nil && l.key == key && !l.over() {
			return true
		}
	}
	return false
}

// innermost returns the first run of the chain, nil if there is none.
func (l *link) innermost() *link {
	for l != nil && l.done == nil {
		l = l.outer
	}
	return l
}

// over reports whether the run is done.
func (l *link) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// waiting guards the waits of all links, of all groups. Only calls from within a
// run take it.
var waiting sync.Mutex

// await notes that l waits for other. It notes nothing and reports false if other
// waits for l, directly or over other runs: they would wait for each other for
// ever.
func (l *link) await(other *link) bool {
	waiting.Lock()
	defer waiting.Unlock()
	if other.reaches(l, make(map[*link]bool)) {
		return false
	}
	l.waits = append(l.waits, other)
	return true
}

// awaited takes back await.
func (l *link) awaited(other *link) {
	waiting.Lock()
	defer waiting.Unlock()
	at := slices.Index(l.waits, other)
	l.waits = slices.Delete(l.waits, at, at+1)
}

// reaches reports whether l waits for other, or is other. The caller holds
// waiting.
func (l *link) reaches(other *link, seen map[*link]bool) bool {
	if l == other {
		return true
	}
	seen[l] = true
	return slices.ContainsFunc(l.waits, func(next *link) bool { return !seen[next] && next.reaches(other, seen) })
}
