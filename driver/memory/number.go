package memory

// This file parses and formats numbers exactly as Redis does, so that all stores
// accept the same values and write the same bytes. Redis uses the C library for
// most of this, so these functions follow the C library.

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// parseInt parses an integer as Redis does (string2ll): in canonical form, without a
// plus sign, leading zeros or spaces.
func parseInt(b []byte) (n int64, ok bool) {
	digits := bytes.TrimPrefix(b, []byte{'-'})
	if len(digits) == 0 || digits[0] < '0' || digits[0] > '9' || digits[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// parseFloat parses a double as Redis does, by strtod of the C library. It rejects a
// partial number, NaN, and numbers that overflow or that underflow to zero.
func parseFloat(b []byte) (f float64, ok bool) {
	text, ok := floatText(b)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f == 0 && !isZero(text) {
		return 0, false
	}
	return f + 0, true // -0 + 0 is 0
}

// floatText converts a number from the syntax of the C library to that of Go.
func floatText(b []byte) (text string, ok bool) {
	if len(b) == 0 || bytes.IndexByte(b, '_') >= 0 {
		return "", false
	}
	text = strings.ToLower(string(b))
	if isHex(text) && !strings.Contains(text, "p") {
		text += "p0" // Go requires the exponent, C does not
	}
	return text, true
}

// isHex reports whether text, in lower case, is a hexadecimal number of C.
func isHex(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, "+-"), "0x")
}

// isZero reports whether text, which was parsed as zero, denotes zero and not a
// number that is too small.
func isZero(text string) bool {
	digits, exponent := "123456789", "e"
	if isHex(text) {
		digits, exponent = "123456789abcdef", "p"
	}
	mantissa, _, _ := strings.Cut(text, exponent)
	return !strings.ContainsAny(mantissa, digits)
}

// C's long double on x86-64: the bits of its mantissa, and the range of its
// exponents as big.Float defines them, including subnormal numbers.
const (
	longDoubleBits = 64
	longDoubleMin  = -16445
	longDoubleMax  = 16384
)

// parseLongDouble parses a number as INCRBYFLOAT does (string2ld, by strtold of the C
// library). It accepts infinity; only the sum must be finite.
func parseLongDouble(b []byte) (f *big.Float, ok bool) {
	text, ok := floatText(b)
	if !ok {
		return nil, false
	}
	sign, rest := text[:len(text)-len(strings.TrimLeft(text, "+-"))], strings.TrimLeft(text, "+-")
	if rest == "infinity" {
		text = sign + "inf"
	}
	base := 10
	if isHex(text) {
		base = 0
	}
	f, _, err := big.ParseFloat(text, base, longDoubleBits, big.ToNearestEven)
	if err != nil || f.Sign() == 0 && !isZero(text) {
		return nil, false
	}
	if e := f.MantExp(nil); f.Sign() != 0 && !f.IsInf() && (e < longDoubleMin || e > longDoubleMax) {
		return nil, false
	}
	return f, true
}

// addLongDouble adds as INCRBYFLOAT does: with a mantissa of 64 bits, rounding to
// nearest even. ok is false if the sum is not finite.
func addLongDouble(a, b *big.Float) (sum *big.Float, ok bool) {
	if a.IsInf() || b.IsInf() {
		return nil, false // Inf-Inf, NaN in Redis, would make big.Float panic
	}
	sum = new(big.Float).SetPrec(longDoubleBits).Add(a, b)
	return sum, sum.MantExp(nil) <= longDoubleMax
}

// appendLongDouble formats f as INCRBYFLOAT does (ld2string of Redis 7.0 in its human
// mode): "%.17Lf" without trailing zeros or negative zero.
func appendLongDouble(dst []byte, f *big.Float) []byte {
	start := len(dst)
	dst = f.Append(dst, 'f', 17)
	dst = bytes.TrimRight(dst, "0")
	dst = bytes.TrimSuffix(dst, []byte{'.'})
	if string(dst[start:]) == "-0" {
		return append(dst[:start], '0')
	}
	return dst
}

// appendScore formats a score as Redis 7.0 does for RESP2 clients (addReplyDouble):
// "%.17g", which is exact but writes 0.1 as 0.10000000000000001.
func appendScore(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	}
	return strconv.AppendFloat(dst, f, 'g', 17, 64)
}

// appendStored formats a score as ZSCAN does for a small sorted set, which Redis
// stores as text (d2string): integers with all their digits, up to half the range
// of an int64. For a large one Redis writes 1e+17 instead of 100000000000000000;
// no reply depends on the size here.
func appendStored(dst []byte, f float64) []byte {
	if math.Abs(f) < math.MaxInt64/2 && f == math.Trunc(f) {
		return strconv.AppendInt(dst, int64(f), 10)
	}
	return appendScore(dst, f)
}
