//go:build unix

package redigo

import "syscall"

// quiet reports whether the socket fd has nothing to read: no byte, no end, no
// error. An idle connection must be quiet. If quiet returns false it may have read
// a byte, but then the connection is closed anyway.
func quiet(fd uintptr) bool {
	var b [1]byte
	_, err := syscall.Read(int(fd), b[:]) // never blocks: Go's sockets are non-blocking
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK || err == syscall.EINTR
}
