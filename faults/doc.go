// Package faults shows what caches does while servers and connections fail, on
// real redis-server processes and real connections. It has tests only:
//
//	go test ./...                      the short forms, as CI runs them
//	CACHES_FAULTS=full go test ./...   the full counts; make faults
//
// Every random choice follows from one seed, which is printed first and set by
// CACHES_TEST_SEED. The figures of the full run are in RELIABILITY.md, which
// that run writes.
package faults
