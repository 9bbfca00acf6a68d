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

// ParsePublicKey reads the industry's public key in any form in which the board's e-mail is pasted: PEM (PKIX or
// PKCS#1), PEM on one line with literal \n, or bare base64 without the PEM armour.
func ParsePublicKey(text string) (*rsa.PublicKey, error) {
	der, kind, err := keyBytes(text)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	if strings.Contains(kind, "PRIVATE") {
		return nil, errPrivate
	}
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		if key, ok := key.(*rsa.PublicKey); ok {
			return key, nil
		}
		return nil, fmt.Errorf("reading the public key: it is a %T, the API needs RSA", key)
	}
	if key, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return key, nil
	}
	if _, err := ParsePrivateKey(text); err == nil { // bare base64 has no armour that says so
		return nil, errPrivate
	}
	if kind == "CERTIFICATE" {
		return nil, errors.New("reading the public key: this is a certificate; the key from the board's e-mail is needed")
	}
	return nil, errors.New("reading the public key: neither a PKIX nor a PKCS#1 RSA key: paste the whole key from the board's e-mail")
}

// ParsePrivateKey reads the private half, for a server that checks signatures: PEM, PKCS#8 or PKCS#1.
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

func keyBytes(text string) (der []byte, kind string, err error) {
	text = strings.Trim(strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")), `"'`)
	text = strings.NewReplacer(`\r`, "", `\n`, "\n", "\r", "").Replace(text)
	if text == "" {
		return nil, "", errors.New("it is empty")
	}
	if block, _ := pem.Decode([]byte(text)); block != nil {
		return block.Bytes, block.Type, nil
	}
	// Armour whose line breaks were lost, or none at all: what remains is base64.
	bare := text
	if i := strings.Index(bare, "-----BEGIN "); i >= 0 {
		kind, bare, _ = strings.Cut(bare[i+len("-----BEGIN "):], "-----")
		bare, _, _ = strings.Cut(bare, "-----END")
	}
	bare = strings.Join(strings.Fields(bare), "")
	der, err = base64.StdEncoding.DecodeString(bare)
	if err != nil {
		return nil, "", errors.New("neither PEM nor base64")
	}
	return der, kind, nil
}
