package caches_test

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/gocaches/caches"
)

// modelOf has the model of every operation.
var modelOf = map[string]func(*modelStep) string{
	"Exists": func(x *modelStep) string { return result(x.e != nil, nil).text },
	"Delete": modelDelete,
	"ExpiresIn": func(x *modelStep) string {
		if x.e == nil {
			return "false" + class(caches.ErrMiss)
		}
		return fmt.Sprint(x.e.end.IsZero())
	},
	"Touch":      modelTouch,
	"Persist":    modelPersist,
	"GetMany":    modelGetMany,
	"SetMany":    modelSetMany,
	"DeleteMany": modelDeleteMany,
	"Clear": func(x *modelStep) string {
		n := 0
		for key := range maps.Clone(x.m.entries) {
			if x.m.at(key) != nil {
				n++
			}
		}
		clear(x.m.entries)
		return result(n, nil).text
	},

	"Get": func(x *modelStep) string { return x.modelGet("", asText) },
	"GetOr": func(x *modelStep) string {
		if x.e == nil {
			return "def"
		}
		return x.modelGet("def", asText)
	},
	"GetOrSet": func(x *modelStep) string {
		if x.e != nil {
			return x.modelGet("", asText)
		}
		x.store(x.v[0], true)
		return x.v[0]
	},
	"Set": func(x *modelStep) string { x.store(x.v[0], false); return failure(nil).text },
	"Add": func(x *modelStep) string {
		absent := x.e == nil
		if absent {
			x.store(x.v[0], true)
		}
		return result(absent, nil).text
	},
	"Replace": func(x *modelStep) string {
		present := x.e != nil
		if present {
			x.store(x.v[0], false)
		}
		return result(present, nil).text
	},
	"Swap": func(x *modelStep) string { return x.modelSwap(x.v[0], "", asText) },
	"Pop":  func(x *modelStep) string { return x.modelPop("", asText) },

	"counter.Incr": func(x *modelStep) string { return x.count(x.step.delta) },
	"counter.Decr": func(x *modelStep) string { return x.count(-x.step.delta) },
	"counter.Get":  func(x *modelStep) string { return x.modelGet("0", asInt) },
	"counter.Set":  func(x *modelStep) string { x.store(fmt.Sprint(x.delta), false); return failure(nil).text },
	"counter.Swap": func(x *modelStep) string { return x.modelSwap(fmt.Sprint(x.delta), "0", asInt) },
	"counter.Pop":  func(x *modelStep) string { return x.modelPop("0", asInt) },
	"meter.Incr":   func(x *modelStep) string { return x.measure(float64(x.n[0]) / 4) },
	"meter.Get":    func(x *modelStep) string { return x.modelGet("0", asFloat) },

	"dict.Get": onDict("", false, func(x *modelStep, d map[string]string) (any, error) {
		v, ok := d[x.f[0]]
		return v, missing(ok)
	}),
	"dict.GetMany": onDict(map[string]string(nil), false, func(x *modelStep, d map[string]string) (any, error) {
		found := map[string]string{}
		for _, f := range x.f {
			if v, ok := d[f]; ok {
				found[f] = v
			}
		}
		return found, nil
	}),
	"dict.Set": onDict("done", true, func(x *modelStep, d map[string]string) (any, error) {
		d[x.f[0]] = x.v[0]
		return "done", nil
	}),
	"dict.Update": onDict("done", true, func(x *modelStep, d map[string]string) (any, error) {
		maps.Copy(d, x.items())
		return "done", nil
	}),
	"dict.Update of many": onDict("done", true, func(x *modelStep, d map[string]string) (any, error) {
		for _, f := range x.bulk() {
			d[f] = x.v[0]
		}
		return "done", nil
	}),
	"dict.GetOrAdd": modelGetOrAdd,
	"dict.Remove":   still(onDict(0, false, func(x *modelStep, d map[string]string) (any, error) { return removed(d, x.f[:]), nil })),
	"dict.Contains": onDict(false, false, func(x *modelStep, d map[string]string) (any, error) {
		_, ok := d[x.f[0]]
		return ok, nil
	}),
	"dict.Len": still(onDict(0, false, func(x *modelStep, d map[string]string) (any, error) { return len(d), nil })),
	"dict.Pop": still(onDict("", false, func(x *modelStep, d map[string]string) (any, error) {
		v, ok := d[x.f[0]]
		delete(d, x.f[0])
		return v, missing(ok)
	})),
	"dict.PopItem": still(onDict(0, false, func(x *modelStep, d map[string]string) (any, error) {
		return removed(d, x.drawn), missing(len(x.drawn) > 0)
	})),
	"dict.Keys": onDict("[]", false, func(x *modelStep, d map[string]string) (any, error) {
		return fmt.Sprintf("%q", slices.Sorted(maps.Keys(d))), nil
	}),
	"dict.Values": onDict("[]", false, func(x *modelStep, d map[string]string) (any, error) {
		return fmt.Sprintf("%q", slices.Sorted(maps.Values(d))), nil
	}),
	"dict.Copy": onDict(map[string]string(nil), false, func(x *modelStep, d map[string]string) (any, error) { return d, nil }),
	"dict.All": onDict("[]", false, func(x *modelStep, d map[string]string) (any, error) {
		all, _ := pairs(maps.All(d), func() error { return nil })
		slices.Sort(all)
		return fmt.Sprintf("%q", all), nil
	}),
	"tallies.Incr": onDict(0, true, func(x *modelStep, d map[string]string) (any, error) {
		old, ok := d[x.f[0]]
		if !ok {
			old = "0"
		}
		n, err := added(old, x.delta)
		if err == nil {
			d[x.f[0]] = fmt.Sprint(n)
		}
		return n, err
	}),
	"tallies.Get": onDict(0, false, func(x *modelStep, d map[string]string) (any, error) {
		text, ok := d[x.f[0]]
		if !ok {
			return 0, caches.ErrMiss
		}
		return asInt(text)
	}),
	"tallies.Copy": onDict(map[string]int64(nil), false, func(x *modelStep, d map[string]string) (any, error) {
		all := map[string]any{}
		for f, text := range d {
			n, err := asInt(text)
			if err != nil {
				return map[string]int64(nil), err
			}
			all[f] = n
		}
		return all, nil
	}),

	"set.Add": onSet(0, true, func(x *modelStep, s map[string]struct{}) (any, error) { return addAll(s, x.f[:]), nil }),
	"set.Add of many": onSet(0, true, func(x *modelStep, s map[string]struct{}) (any, error) {
		return addAll(s, x.bulk()), nil
	}),
	"set.Remove": still(onSet(0, false, func(x *modelStep, s map[string]struct{}) (any, error) { return removed(s, x.f[:]), nil })),
	"set.Contains": onSet(false, false, func(x *modelStep, s map[string]struct{}) (any, error) {
		_, ok := s[x.f[0]]
		return ok, nil
	}),
	"set.ContainsMany": onSet(map[string]struct{}(nil), false, func(x *modelStep, s map[string]struct{}) (any, error) {
		return meet(setOf(x.f[:]...), s), nil
	}),
	"set.Len":  still(onSet(0, false, func(x *modelStep, s map[string]struct{}) (any, error) { return len(s), nil })),
	"set.Copy": onSet(map[string]struct{}(nil), false, func(x *modelStep, s map[string]struct{}) (any, error) { return s, nil }),
	"set.All": onSet("[]", false, func(x *modelStep, s map[string]struct{}) (any, error) {
		return fmt.Sprintf("%q", slices.Sorted(maps.Keys(s))), nil
	}),
	"set.Pop": still(onSet(0, false, func(x *modelStep, s map[string]struct{}) (any, error) {
		return removed(s, x.drawn), missing(len(x.drawn) > 0)
	})),
	"set.PopN": still(func(x *modelStep) string {
		if x.n[0] <= 0 { // nothing, or an error, before anything is asked
			return x.noTrip("Set.PopN", "0")
		}
		return onSet(0, false, func(x *modelStep, s map[string]struct{}) (any, error) {
			if n := min(len(s), x.n[0]); n != len(x.drawn) {
				return fmt.Sprint("not ", n), nil
			}
			return removed(s, x.drawn), nil
		})(x)
	}),
	"set.Random": onSet(0, false, func(x *modelStep, s map[string]struct{}) (any, error) {
		return len(meet(setOf(x.drawn...), s)), missing(len(s) > 0)
	}),
	"set.Union":           modelAlgebra(join),
	"set.Intersect":       modelAlgebra(meet),
	"set.Difference":      modelAlgebra(without),
	"set.StoreUnion":      modelStore(join),
	"set.StoreIntersect":  modelStore(meet),
	"set.StoreDifference": modelStore(without),

	"sorted.Add": onBoard(0, true, func(x *modelStep, b map[string]float64) (any, error) {
		n := len(b)
		for _, item := range x.scored() {
			b[item.Member] = item.Score
		}
		return len(b) - n, nil
	}),
	"sorted.Add of many": onBoard(0, true, func(x *modelStep, b map[string]float64) (any, error) {
		n := len(b)
		for i, member := range x.bulk() {
			b[member] = float64(i / 100)
		}
		return len(b) - n, nil
	}),
	"sorted.AddIf": modelAddIf,
	"sorted.Incr": onBoard(0, true, func(x *modelStep, b map[string]float64) (any, error) {
		sum := b[x.f[0]] + x.s[0]
		if math.IsNaN(sum) {
			return 0, caches.ErrOverflow
		}
		b[x.f[0]] = sum
		return sum, nil
	}),
	"sorted.Score": onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) {
		score, ok := b[x.f[0]]
		return score, missing(ok)
	}),
	"sorted.Contains": onBoard(false, false, func(x *modelStep, b map[string]float64) (any, error) {
		_, ok := b[x.f[0]]
		return ok, nil
	}),
	"sorted.Rank":    onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) { return rankOf(ranked(b), x.f[0]) }),
	"sorted.RevRank": onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) { return rankOf(reversed(ranked(b)), x.f[0]) }),
	"sorted.Len":     still(onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) { return len(b), nil })),
	"sorted.Count": onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) {
		return len(between(ranked(b), x.s[0], x.s[1])), nil
	}),
	"sorted.Range": onBoard(noItems, false, func(x *modelStep, b map[string]float64) (any, error) {
		return slice(ranked(b), x.n[0], x.n[1]), nil
	}),
	"sorted.RevRange": onBoard(noItems, false, func(x *modelStep, b map[string]float64) (any, error) {
		return slice(reversed(ranked(b)), x.n[0], x.n[1]), nil
	}),
	"sorted.RangeByScore": onBoard(noItems, false, func(x *modelStep, b map[string]float64) (any, error) {
		return between(ranked(b), x.s[0], x.s[1]), nil
	}),
	"sorted.RevRangeByScore": onBoard(noItems, false, func(x *modelStep, b map[string]float64) (any, error) {
		return reversed(between(ranked(b), x.s[0], x.s[1])), nil
	}),
	"sorted.PopMin":  modelPop(ranked),
	"sorted.PopMax":  modelPop(func(b map[string]float64) []caches.Scored[string] { return reversed(ranked(b)) }),
	"sorted.PopMinN": modelPopN("SortedSet.PopMinN", ranked),
	"sorted.PopMaxN": modelPopN("SortedSet.PopMaxN", func(b map[string]float64) []caches.Scored[string] { return reversed(ranked(b)) }),
	"sorted.Remove":  still(onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) { return removed(b, x.f[:]), nil })),
	"sorted.RemoveRange": still(onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) {
		return removed(b, membersOf(slice(ranked(b), x.n[0], x.n[1]))), nil
	})),
	"sorted.RemoveRangeByScore": still(onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) {
		return removed(b, membersOf(between(ranked(b), x.s[0], x.s[1]))), nil
	})),
	"sorted.Trim": still(func(x *modelStep) string {
		if x.n[0] < 0 {
			return x.noTrip("SortedSet.Trim", "0")
		}
		return onBoard(0, false, func(x *modelStep, b map[string]float64) (any, error) {
			all := ranked(b)
			return removed(b, membersOf(all[:max(0, len(all)-x.n[0])])), nil
		})(x)
	}),
	"sorted.Copy": onBoard(map[string]float64{}, false, func(x *modelStep, b map[string]float64) (any, error) { return b, nil }),
	"sorted.All":  onBoard([]string(nil), false, func(x *modelStep, b map[string]float64) (any, error) { return listed(ranked(b)), nil }),
	"sorted.Backward": onBoard([]string(nil), false, func(x *modelStep, b map[string]float64) (any, error) {
		return listed(reversed(ranked(b))), nil
	}),
	"sorted.Chunk": modelChunk,

	"list.PushFront": onList(0, true, func(x *modelStep, l []string) ([]string, any, error) {
		l = inFront(l, x.f[:2]...)
		return l, len(l), nil
	}),
	"list.PushBack": onList(0, true, func(x *modelStep, l []string) ([]string, any, error) {
		l = append(l, x.f[:]...)
		return l, len(l), nil
	}),
	"list.PushBack of many": onList(0, true, func(x *modelStep, l []string) ([]string, any, error) {
		l = append(l, x.bulk()...)
		return l, len(l), nil
	}),
	"list.PushCapped": func(x *modelStep) string {
		if x.n[0] < 0 {
			return x.noTrip("List.PushCapped", "0")
		}
		return onList(0, true, func(x *modelStep, l []string) ([]string, any, error) {
			l = inFront(l, x.f[:2]...)
			l = l[:min(len(l), x.n[0])]
			return l, len(l), nil
		})(x)
	},
	"list.PopFront":  modelListPop("", false),
	"list.PopBack":   modelListPop("", true),
	"list.PopFrontN": modelListPop("List.PopFrontN", false),
	"list.PopBackN":  modelListPop("List.PopBackN", true),
	"list.Len":       still(onList(0, false, func(x *modelStep, l []string) ([]string, any, error) { return l, len(l), nil })),
	"list.At": onList("", false, func(x *modelStep, l []string) ([]string, any, error) {
		i := x.n[0]
		if i < 0 {
			i += len(l)
		}
		if i < 0 || i >= len(l) {
			return l, "", caches.ErrMiss
		}
		return l, l[i], nil
	}),
	"list.Range": onList([]string(nil), false, func(x *modelStep, l []string) ([]string, any, error) {
		low, high := bounds(x.n[0], x.n[1], len(l))
		return l, l[low:high], nil
	}),
	"list.Copy":     onList([]string(nil), false, func(x *modelStep, l []string) ([]string, any, error) { return l, l, nil }),
	"list.Contains": onList(false, false, func(x *modelStep, l []string) ([]string, any, error) { return l, slices.Contains(l, x.f[0]), nil }),
	"list.Remove": still(onList(0, false, func(x *modelStep, l []string) ([]string, any, error) {
		return modelListRemove(x, l, len(l), x.f[:2]...)
	})),
	"list.RemoveN": still(func(x *modelStep) string {
		if x.n[0] <= 0 {
			return x.noTrip("List.RemoveN", "0")
		}
		return onList(0, false, func(x *modelStep, l []string) ([]string, any, error) {
			return modelListRemove(x, l, x.n[0], x.f[0])
		})(x)
	}),
	"list.Trim": still(func(x *modelStep) string {
		if x.n[0] < 0 {
			return x.noTrip("List.Trim", "0")
		}
		return onList(0, false, func(x *modelStep, l []string) ([]string, any, error) {
			kept := l[:min(len(l), x.n[0])]
			return kept, len(l) - len(kept), nil
		})(x)
	}),
	"list.KeepRange": still(onList(0, false, func(x *modelStep, l []string) ([]string, any, error) {
		low, high := bounds(x.n[0], x.n[1], len(l))
		return l[low:high], len(l) - (high - low), nil
	})),
	"list.All": onList([]string(nil), false, func(x *modelStep, l []string) ([]string, any, error) { return l, indexed(slices.All(l)), nil }),
	"list.Backward": onList([]string(nil), false, func(x *modelStep, l []string) ([]string, any, error) {
		return l, indexed(slices.Backward(l)), nil
	}),

	"gate.Once": func(x *modelStep) string {
		open := x.e == nil
		if open {
			x.store("", true)
		}
		return result(open, nil).text
	},
	"gate.Do": func(x *modelStep) string {
		open := x.e == nil
		if open {
			x.store("", true)
		}
		return result(open, nil).text
	},
	"gate.Exists": func(x *modelStep) string { return result(x.e != nil, nil).text },
	"gate.Delete": modelDelete,
	"gate.ExpiresIn": func(x *modelStep) string {
		if x.e == nil {
			return "false" + class(caches.ErrMiss)
		}
		return fmt.Sprint(x.e.end.IsZero())
	},
	"gate.Touch": modelTouch,
}
