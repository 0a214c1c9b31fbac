//go:build unix

package redigo

import "syscall"

// quiet reports whether the socket fd has nothing to say: no byte, no end, no
// error. A connection that waits for its next call must be quiet. It may take
// a byte away, which does not matter where the answer is no.
func quiet(fd uintptr) bool {
	var b [1]byte
	_, err := syscall.Read(int(fd), b[:]) // never blocks: Go's sockets do not
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK || err == syscall.EINTR
}
