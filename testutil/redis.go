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
	startTimeout = 20 * time.Second // for one start, even on a loaded machine
	startTries   = 5                // another process may take a free port first
	logTail      = 20               // number of log lines shown in an error

	programVariable = "CACHES_TEST_SERVER"
)

// RedisOptions configure the server that [Redis] starts. The zero value and a
// nil pointer mean a free TCP port of 127.0.0.1 and no password.
type RedisOptions struct {
	Unix           bool   // listen on a unix socket instead of TCP
	TLS            bool   // use TLS, with certificates made for this test
	TLSAuthClients bool   // refuse clients without a certificate; implies TLS
	Password       string // of the default user (requirepass)

	// ACL are lines in Redis's form, such as "user app on >secret ~* +@all".
	ACL []string
	// Config are further lines of redis.conf, such as "maxmemory 1mb".
	Config []string
	// Port is the port to listen on; zero means a free one.
	Port int
}

// A RedisServer is a redis-server process that belongs to one test. It stores
// nothing on disk: a restart empties it. Its methods must be called by one
// goroutine at a time. They fail the test if the server does not comply.
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

// A part customizes a server that is one of several: a cluster node, a master,
// a replica or a Sentinel. Each field may be nil.
type part struct {
	args  []string               // on the command line, after the configuration file
	lines func() []string        // of redis.conf, recomputed for each attempt to find free ports
	ready func(redis.Conn) error // runs at each start, before the start returns
}

// A process is one run of redis-server.
type process struct {
	*os.Process
	ended chan struct{} // closed when the process has ended
}

// Redis starts a private redis-server, waits until it answers, and stops it
// when the test ends. If redis-server is not installed, the test is skipped, or
// fails if the environment has CACHES_TEST_REDIS=require.
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

// startPart starts one of several servers. They share certs.
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

// program returns the name or path of the server's program.
func program() string { return cmp.Or(os.Getenv(programVariable), "redis-server") }

// startSomewhere starts the server, on a new port if another process took the
// first one, and registers its cleanup.
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
		s.t.Fatalf("redis-server did not start: %v\n%s", err, s.log())
	}
}

// place returns the address to listen on. A socket gets a short directory of
// its own: paths of sockets are limited to 108 bytes, and test names are long.
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

// freePort returns an unused port of 127.0.0.1. It is below the ports that
// systems use for outgoing connections: such a connection could take the port
// during a restart of the server.
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

// configure writes the configuration file once. Sentinels and replicas later
// add their state to it, and a restart must find that. It is a file because
// other users can read a command line, and with it the password.
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

// run starts cmd on a thread that also waits for its end, because the death
// signal of dieWithUs comes when the starting thread ends, not the process.
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
			_ = cmd.Wait() // the error "signal: killed" is expected
		}
	}()
	return p, <-started
}

// prepare runs the ready function of the server's part.
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

// listen returns the lines that configure the server's address.
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
	for end := time.Now().Add(startTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = s.answers(p.Pid); err == nil {
			return nil
		}
		var refused redis.Error
		if errors.As(err, &refused) && !strings.HasPrefix(refused.Error(), "LOADING") {
			return nil // the server runs, but an ACL forbids INFO
		}
		select {
		case <-p.ended:
			return fmt.Errorf("the process ended: %w", err)
		default:
		}
	}
	return err
}

// answers returns nil if the process pid answers, and not another server that
// took the port first.
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

// infoField returns one field of the reply to INFO or CLUSTER INFO, or "".
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

// CAFile returns the path of the CA certificate, in PEM, which signed the
// certificates of server and clients; "" without TLS.
func (s *RedisServer) CAFile() string { return s.certs.file("ca.pem") }

// CertFile returns the path of a client certificate, in PEM; "" without TLS. It
// is the server's own certificate, valid for 127.0.0.1 and localhost.
func (s *RedisServer) CertFile() string { return s.certs.file("cert.pem") }

// KeyFile returns the path of the private key for CertFile, in PEM; "" without
// TLS.
func (s *RedisServer) KeyFile() string { return s.certs.file("key.pem") }

// DSN returns the server's address in the form that caches accepts: redis://,
// rediss:// with tls_ca (and tls_cert and tls_key if clients need a
// certificate), or redis+unix://. It includes Password if set, or else the
// first user of ACL with a password.
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

// userinfo returns the part of a DSN before the host.
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

// credentials returns the user and password for DSN.
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

// TLSConfig returns a new client configuration that trusts the server and has a
// certificate for it; nil without TLS.
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

// Kill ends the process at once (SIGKILL), like a crash. Killing a killed
// server does nothing.
func (s *RedisServer) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	_ = s.process.Kill() // fails only if the process has ended
	<-s.process.ended
	s.process, s.paused = nil, false
}

// Restart kills the server if it is running and starts it again, empty, at the
// same address. It returns once the server answers.
func (s *RedisServer) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("redis-server did not restart: %v\n%s", err, s.log())
	}
}

// Pause stops the process (SIGSTOP): connections stay open without answers.
func (s *RedisServer) Pause() { s.signal(pause, true) }

// Resume continues a paused process (SIGCONT).
func (s *RedisServer) Resume() { s.signal(resume, false) }

func (s *RedisServer) signal(send func(*os.Process) error, paused bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.t.Fatal("redis-server is not running")
	}
	if err := send(s.process.Process); err != nil {
		s.t.Fatal(err)
	}
	s.paused = paused
}

// up reports whether the server can answer: it is neither killed nor paused.
func (s *RedisServer) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.paused
}

// Do runs one command on a new connection, bypassing the client under test. It
// returns the reply as redigo does. It uses the default user, or the user of
// DSN if ACL has a line for the default user.
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

// login returns the user and password for Do.
func (s *RedisServer) login() (user, password string) {
	for _, line := range s.options.ACL {
		if strings.HasPrefix(line, "user default ") {
			return s.credentials()
		}
	}
	return "", s.options.Password
}
