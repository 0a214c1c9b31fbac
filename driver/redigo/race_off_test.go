//go:build !race

package redigo_test

const raceEnabled = false
