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
)

// A Serializer turns values into the bytes that are stored, and back. It is
// safe for concurrent use. Marshal gets the value itself; its result belongs to
// the caller. Unmarshal gets a pointer to fill and may not keep data.
type Serializer interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

var (
	// JSON is encoding/json, the default. Any language reads it, and a struct
	// may gain fields without its stored values becoming unreadable. JSON is
	// Unicode text: bytes of a string that are not UTF-8 become U+FFFD, as
	// encoding/json has it; use [Raw] or []byte for those.
	JSON Serializer = jsonSerializer{}

	// Raw stores strings, bytes, numbers, bools and encoding.TextMarshalers as
	// the text that redis-cli shows. Other types are an error.
	Raw Serializer = rawSerializer{}

	// Gob is encoding/gob. Only Go reads it, each value carries its type, and
	// it is slow for small values; it keeps what JSON cannot, such as
	// map[int]T or complex numbers. Do not decode what untrusted writers could
	// have stored (see the security section of that package).
	Gob Serializer = gobSerializer{}
)

type jsonSerializer struct{}

func (jsonSerializer) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonSerializer) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

type rawSerializer struct{}

func (rawSerializer) Marshal(v any) ([]byte, error) {
	text, err := appendText(nil, v)
	if err != nil {
		return nil, fmt.Errorf("caches: the Raw serializer: %w; use caches.JSON for it", err)
	}
	return text, nil
}

func (rawSerializer) Unmarshal(data []byte, v any) error { return parseText(data, v) }

type gobSerializer struct{}

func (gobSerializer) Marshal(v any) ([]byte, error) {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, fmt.Errorf("caches: the Gob serializer: a nil %T has no gob", v) // Encode would panic
	}
	var buf bytes.Buffer
	err := gob.NewEncoder(&buf).Encode(v)
	return buf.Bytes(), err
}

func (gobSerializer) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// CompressOptions tune [Compressed]. The zero value, and nil, mean the defaults.
type CompressOptions struct {
	// Level is a level of compress/flate, 1 (fast) to 9 (small). Zero means 1.
	Level int
	// MinSize is the size in bytes from which a value is compressed. Zero
	// means 256: below it there is little to gain.
	MinSize int
	// MaxSize bounds the size in bytes of a decompressed value, so that a
	// small stored value cannot fill the memory. Zero means 16 MiB. A larger
	// value is [ErrTooLarge], when it is stored as well as when it is read.
	MaxSize int
}

const (
	defaultMinCompress = 256
	defaultMaxDecoded  = 16 << 20
)

// Compressed returns a Serializer that compresses what inner makes (nil means
// [JSON]) with DEFLATE (RFC 1951). One byte in front says whether the rest is
// compressed, so values of both kinds can stand beside each other; where it is,
// its size follows as a uvarint (encoding/binary).
func Compressed(inner Serializer, o *CompressOptions) Serializer {
	c := compressed{inner: inner, level: 1, minSize: defaultMinCompress, maxSize: defaultMaxDecoded}
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
	return c
}

type compressed struct {
	inner   Serializer
	level   int
	minSize int
	maxSize int
	writers *sync.Pool // of *flate.Writer: one is 600 KiB to make
}

// The first byte of what Compressed stores.
const (
	storedPlain   = 0
	storedDeflate = 1
)

func (c compressed) Marshal(v any) ([]byte, error) {
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

func (c compressed) deflate(out io.Writer, data []byte) error {
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

func (c compressed) Unmarshal(data []byte, v any) error {
	if len(data) == 0 {
		return reason("a compressed value has at least one byte")
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
	return reason(fmt.Sprintf("the first byte is %#x: not a value of caches.Compressed", data[0]))
}

// maxRatio is the most that DEFLATE shrinks anything: 258 bytes to two bits
// (https://zlib.net/zlib_tech.html, "Maximum Compression Factor").
const maxRatio = 1032

// inflate makes room for what the value says of its size, once. One that says
// more than MaxSize, or more than its bytes can hold, gets none.
func (c compressed) inflate(data []byte) ([]byte, error) {
	size, n := binary.Uvarint(data)
	if n <= 0 {
		return nil, reason("a compressed value without its size")
	}
	data = data[n:]
	switch {
	case size > uint64(max(c.maxSize, 0)):
		return nil, c.tooLarge()
	case size > uint64(len(data))*maxRatio:
		return nil, reason("a compressed value is cut short")
	}
	rest := bytes.NewReader(data)
	r := flate.NewReader(rest)
	plain := make([]byte, size)
	if _, err := io.ReadFull(r, plain); err != nil {
		return nil, err
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 || err != io.EOF || rest.Len() > 0 {
		return nil, reason("a compressed value does not end where it says")
	}
	return plain, r.Close()
}

func (c compressed) tooLarge() error {
	return fmt.Errorf("%w: more than %d bytes decompressed (CompressOptions.MaxSize)", ErrTooLarge, c.maxSize)
}

// writeValue appends v as an argument. Under Raw the commonest types skip the
// serializer, and with it two allocations.
func writeValue[T any](p *driver.Pipeline, s Serializer, v T) error {
	if _, raw := s.(rawSerializer); raw && writeScalar(p, v) {
		return nil
	}
	data, err := s.Marshal(v)
	if err != nil {
		return err
	}
	p.Bytes(data)
	return nil
}

// readValue decodes what is stored. An error of it is an ErrCorrupt, but for
// values beyond a bound.
func readValue[T any](s Serializer, data []byte) (T, error) {
	if _, raw := s.(rawSerializer); raw {
		if v, ok := readScalar[T](data); ok {
			return v, nil
		}
	}
	var v T
	if err := s.Unmarshal(data, &v); err != nil {
		var zero T // v may be half filled
		if enveloped(data) {
			err = errEnveloped
		}
		return zero, corrupt(err)
	}
	return v, nil
}
