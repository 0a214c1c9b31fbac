package main

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// A source is the function whose results are remembered, and counts its runs.
// Each contender has one of its own.
type source struct {
	takes time.Duration
	runs  atomic.Int64
}

// load returns the user of an id, whom nobody else has: a value that is
// another's does not pass.
func (s *source) load(_ context.Context, id int) (User, error) {
	s.runs.Add(1)
	if s.takes > 0 {
		time.Sleep(s.takes)
	}
	return userOf(id), nil
}

// loadMany is load for contenders that have a function of many ids. Each id is
// a run.
func (s *source) loadMany(ctx context.Context, ids []int) (map[int]User, error) {
	users := make(map[int]User, len(ids))
	for _, id := range ids {
		users[id], _ = s.load(ctx, id)
	}
	return users, nil
}

// userOf returns the user of an id.
func userOf(id int) User {
	u := user
	u.ID, u.Visits = id, int64(id)
	return u
}

// sameUser checks that u is the user of id, in each of its fields.
func sameUser(u User, id int, err error) error {
	if err == nil && (u.ID != id || u.Visits != int64(id) || u.Name != user.Name || u.Email != user.Email || u.Active != user.Active ||
		u.Score != user.Score || !slices.Equal(u.Tags, user.Tags) || !u.Created.Equal(user.Created)) {
		err = errWrong
	}
	return err
}
