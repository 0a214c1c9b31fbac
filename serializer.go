package caches

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/gocaches/caches/driver"
	"github.com/gocaches/caches/internal/corrupt"
	"github.com/gocaches/caches/internal/layout"
	"github.com/gocaches/caches/internal/text"
)

// A Serializer turns values into bytes and back. It must be safe for concurrent
// use. Marshal receives the value itself; its result belongs to the caller.
// Unmarshal receives a pointer to fill and must not retain data.
type Serializer interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// A KeySerializer is a Serializer that binds values to their keys. A value that a
// writer of the server copies to another key then does not decode there, as with an
// encryption that authenticates the key.
//
// ForKey returns the Serializer of the value at key, which must not be nil. The key is
// the one that the server has, with its prefixes and version. ForKey is called for
// each operation on a [Value], a [Tagged] value or a result of [Cached], and must be
// safe for concurrent use. [Compressed] returns a KeySerializer if inner is one.
//
// Values of a [Dict] and elements of a [List] have no key of their own: for them
// Marshal and Unmarshal of the KeySerializer itself are called. They may refuse with
// an error. Members of a [Set] or a [SortedSet] and fields of a [Dict] use no
// Serializer at all.
type KeySerializer interface {
	Serializer
	ForKey(key string) Serializer
}

const (
	// JSON is encoding/json, the default. Any language can read it, and stored
	// values stay readable when a struct gains fields. JSON is Unicode text:
	// encoding/json replaces bytes of a string that are not UTF-8 with U+FFFD.
	// For such strings use [Raw] or []byte.
	JSON format = iota + 1

	// Raw stores strings, byte slices, numbers, bools and encoding.TextMarshalers
	// as text, which redis-cli shows as it is. Other types are an error.
	Raw

	// Gob is encoding/gob. Only Go can read it, each value carries its type, and
	// it is slow for small values. It keeps values that JSON cannot, such as
	// complex numbers and maps with struct keys. Do not decode data that
	// untrusted writers could have stored; see the security section of
	// encoding/gob.
	Gob
)

// A format is a Serializer of this package. The formats are constants, which no
// importer can overwrite.
type format uint8

// String returns "JSON", "Raw" or "Gob".
func (f format) String() string { return wordOf(f, "", "JSON", "Raw", "Gob") }

// Marshal implements [Serializer].
func (f format) Marshal(v any) ([]byte, error) {
	switch f {
	case Raw:
		encoded, err := text.Append(nil, v)
		if err != nil {
			return nil, fmt.Errorf("caches: the Raw serializer: %w; use caches.JSON for it", err)
		}
		return encoded, nil
	case Gob:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
			return nil, fmt.Errorf("caches: the Gob serializer: a nil %T has no gob", v) // Encode would panic
		}
		var buf bytes.Buffer
		err := gob.NewEncoder(&buf).Encode(v)
		return buf.Bytes(), err
	}
	return json.Marshal(v)
}

// Unmarshal implements [Serializer].
func (f format) Unmarshal(data []byte, v any) error {
	switch f {
	case Raw:
		return text.Parse(data, v)
	case Gob:
		return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
	}
	return json.Unmarshal(data, v)
}

// CompressOptions configure [Compressed]. Nil and the zero value mean the
// defaults.
type CompressOptions struct {
	// Level is a level of compress/flate, from 1 (fast) to 9 (small). Zero means
	// 1.
	Level int
	// MinSize is the size in bytes from which a value is compressed. Zero means
	// 256; smaller values gain little.
	MinSize int
	// MaxSize is the maximum size in bytes of an uncompressed value, so that a
	// small stored value cannot fill the memory. Zero means 16 MiB. A larger
	// value is [ErrTooLarge], both when it is stored and when it is read.
	MaxSize int
}

const (
	defaultMinCompress = 256
	defaultMaxDecoded  = 16 << 20
)

// Compressed returns a Serializer that compresses the output of inner with
// DEFLATE (RFC 1951). A nil inner means [JSON]. The first byte says whether the
// rest is compressed, so that compressed and plain values can coexist. If it
// is, the uncompressed size follows as a uvarint (encoding/binary).
func Compressed(inner Serializer, o *CompressOptions) Serializer {
	c := &compressed{inner: inner, level: 1, minSize: defaultMinCompress, maxSize: defaultMaxDecoded}
	if inner == nil {
		c.inner = JSON
	}
	if o != nil && o.Level != 0 {
		c.level = o.Level
	}
	if o != nil && o.MinSize != 0 {
		c.minSize = o.MinSize
	}
	if o != nil && o.MaxSize != 0 {
		c.maxSize = o.MaxSize
	}
	c.writers = &sync.Pool{}
	if inner, ok := c.inner.(KeySerializer); ok {
		return compressedForKey{c, inner}
	}
	return c
}

type compressed struct {
	inner   Serializer
	level   int
	minSize int
	maxSize int
	writers *sync.Pool // of *flate.Writer: one is 600 KiB to make
}

// The first byte of a value stored by Compressed.
const (
	storedPlain   = 0
	storedDeflate = 1
)

// compressedForKey is a type of its own, so that with other serializers no key is
// made for compressed.
type compressedForKey struct {
	*compressed
	inner KeySerializer
}

// ForKey implements [KeySerializer] by that of inner.
func (c compressedForKey) ForKey(key string) Serializer {
	bound := *c.compressed
	bound.inner = c.inner.ForKey(key)
	return &bound
}

func (c *compressed) Marshal(v any) ([]byte, error) {
	data, err := c.inner.Marshal(v)
	switch {
	case err != nil:
		return nil, err
	case len(data) > c.maxSize:
		return nil, fmt.Errorf("%w: %d bytes, MaxSize is %d", ErrTooLarge, len(data), c.maxSize)
	case len(data) < c.minSize:
		return append([]byte{storedPlain}, data...), nil
	}
	head := append(make([]byte, 0, len(data)/2+binary.MaxVarintLen64+1), storedDeflate)
	out := bytes.NewBuffer(binary.AppendUvarint(head, uint64(len(data))))
	if err := c.deflate(out, data); err != nil {
		return nil, err
	}
	if out.Len() > len(data) {
		return append([]byte{storedPlain}, data...), nil
	}
	return out.Bytes(), nil
}

func (c *compressed) deflate(out io.Writer, data []byte) error {
	w, _ := c.writers.Get().(*flate.Writer)
	if w == nil {
		var err error
		if w, err = flate.NewWriter(out, c.level); err != nil {
			return fmt.Errorf("caches: CompressOptions.Level: %w", err)
		}
	} else {
		w.Reset(out)
	}
	defer c.writers.Put(w)
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Close()
}

func (c *compressed) Unmarshal(data []byte, v any) error {
	if len(data) == 0 {
		return corrupt.Reason("a compressed value has at least one byte")
	}
	switch kind, data := data[0], data[1:]; kind {
	case storedPlain:
		if len(data) > c.maxSize {
			return c.tooLarge()
		}
		return c.inner.Unmarshal(data, v)
	case storedDeflate:
		plain, err := c.inflate(data)
		if err != nil {
			return err
		}
		return c.inner.Unmarshal(plain, v)
	}
	return corrupt.Reason(fmt.Sprintf("the first byte is %#x: not a value of caches.Compressed", data[0]))
}

// maxRatio is the maximum compression factor of DEFLATE, 258 bytes in two bits
// (https://zlib.net/zlib_tech.html, "Maximum Compression Factor").
const maxRatio = 1032

// inflate allocates the size that the value declares, once. It allocates
// nothing if the size is larger than MaxSize, or than the value's bytes can
// hold.
func (c *compressed) inflate(data []byte) ([]byte, error) {
	size, n := binary.Uvarint(data)
	if n <= 0 {
		return nil, corrupt.Reason("a compressed value without its size")
	}
	data = data[n:]
	switch {
	case size > uint64(max(c.maxSize, 0)):
		return nil, c.tooLarge()
	case size > uint64(len(data))*maxRatio:
		return nil, corrupt.Reason("a compressed value is cut short")
	}
	rest := bytes.NewReader(data)
	r := flate.NewReader(rest)
	plain := make([]byte, size)
	if _, err := io.ReadFull(r, plain); err != nil {
		return nil, err
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 || err != io.EOF || rest.Len() > 0 {
		return nil, corrupt.Reason("a compressed value does not end where it says")
	}
	return plain, r.Close()
}

func (c *compressed) tooLarge() error {
	return fmt.Errorf("%w: more than %d bytes decompressed (CompressOptions.MaxSize)", ErrTooLarge, c.maxSize)
}

// writeValue appends v as an argument. Under Raw, the most common types bypass
// the serializer, which saves two allocations.
func writeValue[T any](p *driver.Pipeline, s Serializer, v T) error {
	if s == Raw && writeScalar(p, v) {
		return nil
	}
	data, err := s.Marshal(v)
	if err != nil {
		return err
	}
	p.Bytes(data)
	return nil
}

// readValue decodes a stored value. Its error is an ErrCorrupt, except for
// values beyond a limit.
func readValue[T any](s Serializer, data []byte) (T, error) {
	if s == Raw {
		if v, ok := readScalar[T](data); ok {
			return v, nil
		}
	}
	var v T
	if err := s.Unmarshal(data, &v); err != nil {
		var zero T // v may be partly filled
		if layout.IsEntry(data) {
			err = corrupt.Reason("an entry of Cached or Tagged: read it by the function, or by Tagged with the same tags")
		}
		return zero, corrupt.Value(err)
	}
	return v, nil
}
