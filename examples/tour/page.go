package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A page is where the tour prints: blocks of rows, each an object, what it
// answered, and the two times. It has 80 columns and no colours.
type page struct {
	out  io.Writer
	err  error         // the first one, of a question or of out; then nothing more happens
	cold time.Duration // of the row above, in the same block
}

const (
	objectWidth = 14
	answerWidth = 44
	timeWidth   = 9
)

// ask puts a question to an object and prints its answer as say puts it. It
// asks twice and prints the time of the second answer: the first one may have
// to be computed, or the server dialled.
func ask[T any](ctx context.Context, p *page, object string, cold time.Duration, read func(context.Context) (T, error), say func(T) string) {
	var start time.Time
	var answer T
	for range 2 {
		if p.err == nil {
			start = time.Now()
			answer, p.err = read(ctx)
		}
	}
	if warm := time.Since(start); p.err == nil {
		p.row(object, say(answer), cold, warm)
	}
}

// block begins a block of rows.
func (p *page) block(title string) {
	p.cold = 0
	p.printf("\n%-*s%*s%*s\n", objectWidth+answerWidth+4, title, timeWidth, "cold", timeWidth, "warm")
}

// row prints a row. A time of zero is left out, and a cold time like the one
// above it, which is then the same call's, is ditto.
func (p *page) row(object, answer string, cold, warm time.Duration) {
	text := short(cold)
	if cold != 0 && cold == p.cold {
		text = `"  `
	}
	p.cold = cold
	line := fmt.Sprintf("  %-*s  %-*s%*s%*s", objectWidth, object, answerWidth, clip(answer),
		timeWidth, text, timeWidth, short(warm))
	p.printf("%s\n", strings.TrimRight(line, " "))
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

// fail notes an error; the first one counts.
func (p *page) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// clip shortens an answer to whole words within its column.
func clip(answer string) string {
	runes := []rune(answer)
	if len(runes) <= answerWidth {
		return answer
	}
	text := string(runes[:answerWidth-1])
	if space := strings.LastIndexByte(text, ' '); space > 0 {
		text = text[:space+1]
	}
	return text + "…"
}

// short writes a duration in three digits and a unit.
func short(d time.Duration) string {
	f, unit := d.Seconds(), "s"
	switch {
	case d == 0:
		return ""
	case d < time.Millisecond:
		f, unit = f*1e6, "µs"
	case d < time.Second:
		f, unit = f*1e3, "ms"
	}
	decimals := 2
	for limit := 9.995; f >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(f, 'f', decimals, 64) + " " + unit
}

// rough writes a duration without the units that nobody wants to know: 23h59m.
func rough(d time.Duration) string {
	d = d.Round(time.Second)
	if d < time.Hour {
		return d.String()
	}
	text := strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	if d.Round(time.Minute)%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// count writes a number of things: 1 import, 17 imports.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
