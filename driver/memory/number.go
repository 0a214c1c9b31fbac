package memory

// This file reads and writes numbers as Redis does, to the byte: what INCR takes
// for an integer decides whether two processes agree on a counter, and a value
// written by one store may be read by another. Redis leaves most of it to the C
// library, so this is where that library is imitated.

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// parseInt reads an integer as Redis does (string2ll): the one canonical form,
// without a plus sign, leading zeros or spaces.
func parseInt(b []byte) (n int64, ok bool) {
	digits := bytes.TrimPrefix(b, []byte{'-'})
	if len(digits) == 0 || digits[0] < '0' || digits[0] > '9' || digits[0] == '0' && len(b) > 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// parseFloat reads a double as Redis does (strtod of the C library, all of the
// argument, no NaN, and nothing that is too large or too small to be told from
// infinity or zero).
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

// floatText turns what the C library reads as a number into what Go reads.
func floatText(b []byte) (text string, ok bool) {
	if len(b) == 0 || bytes.IndexByte(b, '_') >= 0 {
		return "", false
	}
	text = strings.ToLower(string(b))
	if isHex(text) && !strings.Contains(text, "p") {
		text += "p0" // Go asks for the exponent, C does not
	}
	return text, true
}

// isHex reports whether text, in lower case, is in C's hexadecimal notation.
func isHex(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, "+-"), "0x")
}

// isZero reports whether a number that was read as zero was written as zero,
// rather than as something too small.
func isZero(text string) bool {
	digits, exponent := "123456789", "e"
	if isHex(text) {
		digits, exponent = "123456789abcdef", "p"
	}
	mantissa, _, _ := strings.Cut(text, exponent)
	return !strings.ContainsAny(mantissa, digits)
}

// C's long double on x86-64: the bits of its mantissa and the range of its
// exponents, subnormal numbers included, as big.Float counts them.
const (
	longDoubleBits = 64
	longDoubleMin  = -16445
	longDoubleMax  = 16384
)

// parseLongDouble reads a number as INCRBYFLOAT does (string2ld, which is strtold
// of the C library). Infinity is a number here; it is the sum that must be
// finite.
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

// addLongDouble adds as INCRBYFLOAT does: in a mantissa of 64 bits, rounded to
// nearest even. It is not ok where the sum is not finite.
func addLongDouble(a, b *big.Float) (sum *big.Float, ok bool) {
	if a.IsInf() || b.IsInf() {
		return nil, false // big.Float panics where Redis gets NaN
	}
	sum = new(big.Float).SetPrec(longDoubleBits).Add(a, b)
	return sum, sum.MantExp(nil) <= longDoubleMax
}

// appendLongDouble writes f as INCRBYFLOAT stores it (ld2string of Redis 7.0 in
// its human mode): "%.17Lf" without trailing zeros, and no negative zero.
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

// appendScore writes a score as Redis 7.0 does to RESP2 clients
// (addReplyDouble): "%.17g", which is exact, if not pretty: 0.1 is
// 0.10000000000000001.
func appendScore(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	}
	return strconv.AppendFloat(dst, f, 'g', 17, 64)
}

// appendStored writes a score as ZSCAN does for a small sorted set, which has
// it as text (d2string): integers with all their digits up to half the range of
// an int64. For a large one Redis says 1e+17 where this says
// 100000000000000000: no reply depends on size here.
func appendStored(dst []byte, f float64) []byte {
	if math.Abs(f) < math.MaxInt64/2 && f == math.Trunc(f) {
		return strconv.AppendInt(dst, int64(f), 10)
	}
	return appendScore(dst, f)
}
