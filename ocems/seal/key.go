package seal

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

var errPrivate = errors.New("reading the public key: this is a private key; it does not belong here")

// ParsePublicKey reads the industry's public key in all forms in which it is copied from the board's e-mail: PEM (PKIX or
// PKCS#1), PEM on one line with literal \n, base64 without the PEM lines, or DER. For other input the error says what it is.
func ParsePublicKey(text string) (*rsa.PublicKey, error) {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return nil, errPrivate
	}
	der, kind, err := keyBytes(text)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		if key, ok := key.(*rsa.PublicKey); ok {
			return key, nil
		}
		return nil, fmt.Errorf("reading the public key: it is a %T; the API needs an RSA key", key)
	}
	if key, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return key, nil
	}
	if _, err := ParsePrivateKey(text); err == nil { // base64 without PEM lines does not name its type
		return nil, errPrivate
	}
	if _, err := x509.ParseCertificate(der); err == nil || kind == "CERTIFICATE" {
		return nil, errors.New("reading the public key: this is a certificate; the key from the board's e-mail is needed")
	}
	if kind != "" && !strings.HasSuffix(kind, "PUBLIC KEY") {
		return nil, fmt.Errorf("reading the public key: this is a %q; the key from the board's e-mail is needed", kind)
	}
	if there, whole := lengths(der); there < whole {
		return nil, fmt.Errorf("reading the public key: it is truncated: %d of %d bytes; copy the whole key from the board's e-mail", there, whole)
	}
	return nil, errors.New("reading the public key: neither a PKIX nor a PKCS#1 RSA key: paste the whole key from the board's e-mail")
}

// ParsePrivateKey reads the private key, for a server that checks signatures: PEM, PKCS#8 or PKCS#1.
func ParsePrivateKey(text string) (*rsa.PrivateKey, error) {
	der, _, err := keyBytes(text)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return key, nil
		}
		return nil, errors.New("reading the private key: it is not an RSA key")
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, errors.New("reading the private key: neither a PKCS#8 nor a PKCS#1 RSA key")
	}
	return key, nil
}

// lengths returns the actual length of DER and the length in its header, in bytes. For other input both are the same.
func lengths(der []byte) (there, whole int) {
	if len(der) < 4 || der[0] != 0x30 || der[1] != 0x82 { // a sequence of 256 bytes or more, as every RSA key of the board is
		return len(der), len(der)
	}
	return len(der), 4 + int(der[2])<<8 + int(der[3])
}

func keyBytes(text string) (der []byte, kind string, err error) {
	if strings.HasPrefix(text, "\x30\x82") {
		return []byte(text), "", nil
	}
	if strings.ContainsRune(text, 0) {
		return nil, "", errors.New("it is UTF-16; save it as UTF-8, or as plain text")
	}
	text = strings.Trim(strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")), `"'`)
	text = strings.NewReplacer(`\r`, "", `\n`, "\n", "\r", "").Replace(text)
	if text == "" {
		return nil, "", errors.New("it is empty")
	}
	if block, _ := pem.Decode([]byte(text)); block != nil {
		return block.Bytes, block.Type, nil
	}
	switch {
	case strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "---- BEGIN SSH2"):
		return nil, "", errors.New("this is an SSH key; the key from the board's e-mail is needed, as PEM (ssh-keygen -e -m PKCS8 -f FILE turns it)")
	case strings.HasPrefix(text, "{"):
		return nil, "", errors.New("this is JSON, such as a JWK; the key from the board's e-mail is needed, as PEM")
	}
	// PEM without line breaks, or without PEM lines: the rest is base64.
	bare := text
	if i := strings.Index(bare, "-----BEGIN "); i >= 0 {
		kind, bare, _ = strings.Cut(bare[i+len("-----BEGIN "):], "-----")
		bare, _, _ = strings.Cut(bare, "-----END")
	}
	bare = strings.Join(strings.Fields(bare), "")
	der, err = base64.StdEncoding.DecodeString(bare)
	if err != nil && len(bare) > 64 {
		der, err = base64.StdEncoding.DecodeString(bare[:len(bare)/4*4]) // may be truncated within four characters
	}
	if err != nil {
		return nil, "", errors.New("neither PEM nor base64")
	}
	return der, kind, nil
}
