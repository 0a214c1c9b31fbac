package testutil

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	startTimeout = 20 * time.Second // of one start; a loaded machine is slow
	startTries   = 5                // a free port may be taken before the server has it
	logTail      = 20               // lines of a server's log that go into an error

	programVariable = "CACHES_TEST_SERVER"
)

// RedisOptions say what kind of server [Redis] starts. The zero value, and a
// nil pointer, mean one on a free TCP port of 127.0.0.1, without a password.
type RedisOptions struct {
	Unix           bool   // listen on a unix socket instead of TCP
	TLS            bool   // speak TLS, with certificates made for this test
	TLSAuthClients bool   // refuse clients without a certificate; implies TLS
	Password       string // of the default user (requirepass)

	// ACL has lines of Redis's own form: "user app on >secret ~* +@all".
	ACL []string
	// Config has further lines of redis.conf: "maxmemory 1mb".
	Config []string
	// Port to listen on; zero takes a free one.
	Port int
}

// A RedisServer is a redis-server process of one test. It keeps nothing on
// disk: a restart empties it. Its methods are for one goroutine at a time;
// they end the test where the server does not do as told.
type RedisServer struct {
	t       testing.TB
	options RedisOptions
	dir     string
	addr    string
	certs   *certificates
	part    part

	mu      sync.Mutex
	process *process // nil while killed
	paused  bool
}

// A part is what a server has that is one of several: a node of a cluster, a
// master, a replica, a Sentinel. Each field may be nil.
type part struct {
	args  []string               // of the command line, behind the file
	lines func() []string        // of redis.conf, asked anew at each try to find free ports
	ready func(redis.Conn) error // done at each start before anybody else hears of it
}

// A process is one run of redis-server.
type process struct {
	*os.Process
	ended chan struct{} // closed once it is gone
}

// Redis starts a private redis-server, waits until it answers, and stops it
// when the test ends. Where redis-server is not installed the test is skipped,
// or fails if the environment has CACHES_TEST_REDIS=require.
func Redis(t testing.TB, o *RedisOptions) *RedisServer {
	t.Helper()
	needRedis(t)
	s := &RedisServer{t: t, dir: t.TempDir()}
	if o != nil {
		s.options = *o
	}
	s.options.TLS = s.options.TLS || s.options.TLSAuthClients
	if s.options.TLS {
		s.certs = newCertificates(t, s.dir)
	}
	s.startSomewhere()
	return s
}

// startPart starts a server that is one of several, which share certificates.
func startPart(t testing.TB, o RedisOptions, certs *certificates, p part) *RedisServer {
	t.Helper()
	s := &RedisServer{t: t, options: o, dir: t.TempDir(), certs: certs, part: p}
	s.startSomewhere()
	return s
}

func needRedis(t testing.TB) {
	t.Helper()
	_, err := exec.LookPath(program())
	if err == nil {
		return
	}
	how := "redis-server is not installed (apt-get install redis-server, brew install redis)"
	named := os.Getenv(programVariable) != ""
	if named {
		how = programVariable + " names no program: " + err.Error()
	}
	if named || os.Getenv("CACHES_TEST_REDIS") == "require" {
		t.Fatal(how)
	}
	t.Skip(how)
}

// program returns the name or the path of the server's program.
func program() string { return cmp.Or(os.Getenv(programVariable), "redis-server") }

// startSomewhere starts the server on a port that nobody else got first, and
// sees to its end.
func (s *RedisServer) startSomewhere() {
	s.t.Helper()
	s.t.Cleanup(s.Kill)
	var err error
	for range startTries {
		s.addr = s.place()
		if err = s.configure(); err == nil {
			err = s.start()
		}
		if err == nil || s.options.Port != 0 {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("redis-server does not start: %v\n%s", err, s.log())
	}
}

// place chooses where to listen. A socket's path has a directory of its own:
// 108 bytes are all that a path may have, and names of tests are long.
func (s *RedisServer) place() string {
	switch {
	case s.options.Unix:
		dir, err := os.MkdirTemp("", "caches")
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return filepath.Join(dir, "redis.sock")
	case s.options.Port != 0:
		return fmt.Sprintf("127.0.0.1:%d", s.options.Port)
	}
	return fmt.Sprintf("127.0.0.1:%d", freePort(s.t))
}

// freePort returns a port of 127.0.0.1 that nobody listens on. It lies below
// those that systems give to outgoing connections: one of those could take the
// port while its server is down, and the server could not start again.
func freePort(t testing.TB) int {
	t.Helper()
	const low, high = 10_000, 32_768
	var err error
	for range 100 {
		port := low + rand.IntN(high-low)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("no port is free: %v", err)
	return 0
}

// configure writes the configuration, once: what the server writes into it
// later, a Sentinel its state or a replica its master, a restart shall find.
// It is a file, not arguments: a password on a command line is for all to see.
func (s *RedisServer) configure() error {
	return os.WriteFile(s.confFile(), []byte(s.conf()), 0o600)
}

func (s *RedisServer) confFile() string { return filepath.Join(s.dir, "redis.conf") }

// start runs the process and waits for its first answer.
func (s *RedisServer) start() error {
	p, err := run(exec.Command(program(), append([]string{s.confFile()}, s.part.args...)...))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.process, s.paused = p, false
	s.mu.Unlock()
	if err = s.awaitAnswer(p); err == nil {
		err = s.prepare()
	}
	if err != nil {
		s.Kill()
	}
	return err
}

// run starts cmd. The thread that starts it waits for its end, for the system
// counts a process as its parent's only while that thread lives: see dieWithUs.
func run(cmd *exec.Cmd) (*process, error) {
	dieWithUs(cmd)
	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.Process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // "signal: killed" is what was asked for
		}
	}()
	return p, <-started
}

// prepare does what the server's part asks for.
func (s *RedisServer) prepare() error {
	if s.part.ready == nil {
		return nil
	}
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return s.part.ready(c)
}

func (s *RedisServer) conf() string {
	lines := []string{
		`save ""`, "appendonly no", "daemonize no",
		"dir " + s.dir, "logfile " + filepath.Join(s.dir, "redis.log"),
	}
	lines = append(lines, s.listen()...)
	if s.options.Password != "" {
		lines = append(lines, "requirepass "+s.options.Password)
	}
	lines = append(lines, s.options.ACL...)
	if s.part.lines != nil {
		lines = append(lines, s.part.lines()...)
	}
	lines = append(lines, s.options.Config...)
	return strings.Join(lines, "\n") + "\n"
}

// listen returns the lines that say where and how the server listens.
func (s *RedisServer) listen() []string {
	if s.options.Unix {
		return []string{"port 0", "unixsocket " + s.addr}
	}
	_, port, _ := net.SplitHostPort(s.addr)
	if !s.options.TLS {
		return []string{"bind 127.0.0.1", "port " + port}
	}
	clients := "no"
	if s.options.TLSAuthClients {
		clients = "yes"
	}
	return []string{
		"bind 127.0.0.1", "port 0", "tls-port " + port, "tls-auth-clients " + clients,
		"tls-ca-cert-file " + s.certs.caFile,
		"tls-cert-file " + s.certs.certFile, "tls-key-file " + s.certs.keyFile,
	}
}

func (s *RedisServer) awaitAnswer(p *process) error {
	var err error
	for end := time.Now().Add(startTimeout); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err = s.answers(p.Pid); err == nil {
			return nil
		}
		var refused redis.Error
		if errors.As(err, &refused) && !strings.HasPrefix(refused.Error(), "LOADING") {
			return nil // an ACL may forbid even this: the server is there
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %w", err)
		default:
		}
	}
	return err
}

// answers is nil once the server that answers is the process pid and not one
// that took the port first.
func (s *RedisServer) answers(pid int) error {
	info, err := redis.String(s.do("INFO", "server"))
	if err != nil {
		return err
	}
	if got := infoField(info, "process_id"); got != strconv.Itoa(pid) {
		return fmt.Errorf("process %s answers at %s", got, s.addr)
	}
	return nil
}

// infoField returns one value of what INFO or CLUSTER INFO says, or "".
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// log returns the end of the server's log.
func (s *RedisServer) log() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "redis.log"))
	if err != nil {
		return "(no log)"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n")
}

// Addr returns host:port, or the path of the unix socket.
func (s *RedisServer) Addr() string { return s.addr }

// CAFile returns the path of the certificate that signed the server's and the
// clients', in PEM; "" without TLS.
func (s *RedisServer) CAFile() string { return s.certs.file("ca.pem") }

// CertFile returns the path of a certificate that the server accepts from
// clients, in PEM; "" without TLS. It is the server's own, good for 127.0.0.1
// and localhost.
func (s *RedisServer) CertFile() string { return s.certs.file("cert.pem") }

// KeyFile returns the path of the private key of CertFile, in PEM; "" without
// TLS.
func (s *RedisServer) KeyFile() string { return s.certs.file("key.pem") }

// DSN returns the address as caches takes it: redis://, rediss:// with tls_ca
// (and tls_cert and tls_key where clients need a certificate), or
// redis+unix://. It holds Password where that is set, else the first user of
// ACL that has a password.
func (s *RedisServer) DSN() string {
	user := s.userinfo()
	switch {
	case s.options.Unix:
		return "redis+unix://" + user + s.addr
	case s.options.TLS:
		return "rediss://" + user + s.addr + "/0?" + s.tlsQuery()
	}
	return "redis://" + user + s.addr + "/0"
}

// userinfo returns what a DSN has before the host.
func (s *RedisServer) userinfo() string {
	name, password := s.credentials()
	if password == "" {
		return ""
	}
	return url.UserPassword(name, password).String() + "@"
}

func (s *RedisServer) tlsQuery() string {
	q := "tls_ca=" + url.QueryEscape(s.CAFile())
	if s.options.TLSAuthClients {
		q += "&tls_cert=" + url.QueryEscape(s.CertFile()) + "&tls_key=" + url.QueryEscape(s.KeyFile())
	}
	return q
}

// credentials returns whom DSN names.
func (s *RedisServer) credentials() (user, password string) {
	if s.options.Password != "" {
		return "", s.options.Password
	}
	for _, line := range s.options.ACL {
		words := strings.Fields(line)
		for _, word := range words {
			if len(words) > 1 && strings.HasPrefix(word, ">") {
				return words[1], word[1:]
			}
		}
	}
	return "", ""
}

// TLSConfig returns a client's configuration that trusts the server and shows
// it a certificate; nil without TLS. Each call returns a new one.
func (s *RedisServer) TLSConfig() *tls.Config {
	if s.certs == nil {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.certs.ca)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		ServerName:   "127.0.0.1",
		RootCAs:      roots,
		Certificates: []tls.Certificate{s.certs.pair},
	}
}

// Kill ends the process at once (SIGKILL), as a crash does. Killing a killed
// server does nothing.
func (s *RedisServer) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	_ = s.process.Kill() // fails only where it is gone already
	<-s.process.ended
	s.process, s.paused = nil, false
}

// Restart kills the server if it runs and starts it again, empty, at the same
// address. It returns once the server answers.
func (s *RedisServer) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("redis-server does not start again: %v\n%s", err, s.log())
	}
}

// Pause stops the process (SIGSTOP): connections stay open and nobody answers.
func (s *RedisServer) Pause() { s.signal(pause, true) }

// Resume lets a paused server go on.
func (s *RedisServer) Resume() { s.signal(resume, false) }

func (s *RedisServer) signal(send func(*os.Process) error, paused bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.t.Fatal("redis-server does not run")
	}
	if err := send(s.process.Process); err != nil {
		s.t.Fatal(err)
	}
	s.paused = paused
}

// up reports whether the server can answer: neither killed nor paused.
func (s *RedisServer) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.paused
}

// Do runs one command on a connection of its own, for a look behind a client's
// back. Replies are as redigo returns them. It speaks as the default user, or,
// where an ACL line says something of that one, as DSN does.
func (s *RedisServer) Do(cmd string, args ...any) (any, error) {
	return s.do(cmd, args...)
}

func (s *RedisServer) do(cmd string, args ...any) (any, error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.Do(cmd, args...)
}

func (s *RedisServer) dial() (redis.Conn, error) {
	network := "tcp"
	if s.options.Unix {
		network = "unix"
	}
	user, password := s.login()
	return redis.Dial(network, s.addr,
		redis.DialUseTLS(s.options.TLS), redis.DialTLSConfig(s.TLSConfig()),
		redis.DialUsername(user), redis.DialPassword(password),
		redis.DialConnectTimeout(startTimeout), redis.DialReadTimeout(startTimeout))
}

// login returns as whom Do speaks.
func (s *RedisServer) login() (user, password string) {
	for _, line := range s.options.ACL {
		if strings.HasPrefix(line, "user default ") {
			return s.credentials()
		}
	}
	return "", s.options.Password
}
