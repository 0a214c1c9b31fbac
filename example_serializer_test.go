package caches_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/gocaches/caches"
)

// signed stores values with a signature of the value and its key.
type signed struct{ secret []byte }

func (s signed) ForKey(key string) caches.Serializer { return signedAt{s, key} }

var errNoKey = errors.New("a signature needs a key of its own: store the object as a value")

func (signed) Marshal(any) ([]byte, error) { return nil, errNoKey }
func (signed) Unmarshal([]byte, any) error { return errNoKey }

type signedAt struct {
	signed
	key string
}

func (s signedAt) sign(data []byte) []byte {
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "%d %s", len(s.key), s.key)
	mac.Write(data)
	return mac.Sum(nil)
}

func (s signedAt) Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return append(s.sign(data), data...), err
}

func (s signedAt) Unmarshal(data []byte, v any) error {
	if len(data) < sha256.Size || !hmac.Equal(data[:sha256.Size], s.sign(data[sha256.Size:])) {
		return errors.New("the signature is not of this value at this key")
	}
	return json.Unmarshal(data[sha256.Size:], v)
}

// A value that was copied to another key does not decode there.
func ExampleKeySerializer() {
	ctx := context.Background()
	conn, err := caches.Open("locmem://")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	roles := caches.Cache[string]{Prefix: "role", TTL: time.Hour, Serializer: signed{[]byte("secret")}}.On(conn)
	fmt.Println(roles.Key("root").Set(ctx, "admin"))

	stored, err := conn.Do(ctx, "GET", "role.root")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := conn.Do(ctx, "SET", "role.eve", stored); err != nil {
		log.Fatal(err)
	}
	fmt.Println(roles.Key("root").Get(ctx))
	_, err = roles.Key("eve").Get(ctx)
	fmt.Println(errors.Is(err, caches.ErrCorrupt))
	// Output:
	// <nil>
	// admin <nil>
	// true
}
