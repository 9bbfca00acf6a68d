package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority issues the certificates of brokers and clients. A client's user is the certificate's DNS name.
type authority struct {
	dir  string
	own  []net.IP // addresses of all processes
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority and writes its certificate to dir/ca.pem.
func newAuthority(dir string, addresses []net.IP) (*authority, error) {
	a := &authority{dir: dir, own: addresses, cert: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	key, der, err := a.sign(a.cert)
	if err != nil {
		return nil, err
	}
	a.key = key
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, write(filepath.Join(dir, "ca.pem"), "CERTIFICATE", der)
}

// issue writes name.pem and name-key.pem. The certificate has the other names too.
func (a *authority) issue(name string, others ...string) error {
	key, der, err := a.sign(&x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), DNSNames: append([]string{name}, others...), IPAddresses: a.own,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("issuing the certificate of %s: %w", name, err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	return errors.Join(err, write(filepath.Join(a.dir, name+".pem"), "CERTIFICATE", der), write(filepath.Join(a.dir, name+"-key.pem"), "EC PRIVATE KEY", private))
}

func (a *authority) sign(cert *x509.Certificate) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, by)
	return key, der, err
}

func write(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
