package main

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func TestShortHasThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "",
		1:                        "0.00 µs",
		950:                      "0.95 µs",
		9994:                     "9.99 µs",
		9996:                     "10.0 µs",
		99_960:                   "100 µs",
		123_456:                  "123 µs",
		4560 * time.Microsecond:  "4.56 ms",
		932 * time.Millisecond:   "932 ms",
		1234 * time.Millisecond:  "1.23 s",
		61*time.Second + 5*1e8:   "61.5 s",
		1000 * time.Microsecond:  "1.00 ms",
		10000 * time.Millisecond: "10.0 s",
	} {
		assert.Equal(t, want, short(d), "%d ns", d)
	}
}

func TestRoughDropsSmallUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		400 * time.Millisecond:           "0s",
		72*time.Second + 3*1e8:           "1m12s",
		time.Hour:                        "1h",
		24*time.Hour - time.Millisecond:  "24h",
		2*time.Hour + 5*time.Minute + 31: "2h5m",
		10*time.Hour + 20*time.Minute:    "10h20m",
		time.Hour - 100*time.Millisecond: "1h",
		20*time.Minute + 10*time.Second:  "20m10s",
	} {
		assert.Equal(t, want, rough(d), "%v", d)
	}
}

func TestClipKeepsWholeWords(t *testing.T) {
	fits := "a sentence of exactly forty-four characters!"
	assert.Equal(t, fits, clip(fits))
	assert.Equal(t, "a sentence of exactly forty-four …", clip(fits+"!"))
	words := "日本語 日本語 日本語 日本語 日本語 日本語 日本語 日本語 日本語 日本語 日本語 日本語"
	assert.LessOrEqual(t, utf8.RuneCountInString(clip(words)), answerWidth)
	assert.True(t, utf8.ValidString(clip(words)))
}

func TestCountIsPlural(t *testing.T) {
	assert.Equal(t, "0 types", count(0, "type"))
	assert.Equal(t, "1 type", count(1, "type"))
	assert.Equal(t, "2 types", count(2, "type"))
}

func TestSynopsisDropsTheCustomaryWords(t *testing.T) {
	for doc, want := range map[string]string{
		"Package http provides clients.": "provides clients.",
		"Tour shows objects.":            "Tour shows objects.",
		"Package":                        "Package",
		"":                               "no documentation",
	} {
		assert.Equal(t, want, Package{Doc: doc}.Synopsis())
	}
}
