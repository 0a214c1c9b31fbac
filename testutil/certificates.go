package testutil

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificates are a certificate authority for one test and one certificate
// signed by it. The certificate serves the server, for 127.0.0.1 and localhost,
// and clients.
type certificates struct {
	dir                       string
	ca                        *x509.Certificate
	pair                      tls.Certificate
	caFile, certFile, keyFile string
}

// file returns the path of one of the files, or "" without certificates.
func (c *certificates) file(name string) string {
	if c == nil {
		return ""
	}
	return filepath.Join(c.dir, name)
}

func newCertificates(t testing.TB, dir string) *certificates {
	t.Helper()
	caKey, leafKey := newKey(t), newKey(t)
	ca := sign(t, authority(), nil, caKey, caKey)
	leaf := sign(t, identity(), ca, leafKey, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificates{
		dir: dir,
		ca:  ca,
		pair: tls.Certificate{
			Certificate: [][]byte{leaf.Raw},
			PrivateKey:  leafKey,
			Leaf:        leaf,
		},
	}
	c.caFile = writePEM(t, c.file("ca.pem"), "CERTIFICATE", ca.Raw)
	c.certFile = writePEM(t, c.file("cert.pem"), "CERTIFICATE", leaf.Raw)
	c.keyFile = writePEM(t, c.file("key.pem"), "PRIVATE KEY", keyDER)
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func authority() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "caches test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

func identity() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "caches test"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// sign makes a certificate from template for key, signed by parent, or
// self-signed if parent is nil. It is valid for an hour before and after now.
func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(time.Hour)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func writePEM(t testing.TB, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
