package seal

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	separator  = "$*"
	timeLayout = "2006-01-02 15:04:05.000"
)

// message is the plaintext of the signature header (spec 2.3.2). The time is Indian Standard Time.
func message(token string, at time.Time) []byte {
	return []byte(strings.TrimSpace(token) + separator + at.In(spec.IST).Format(timeLayout))
}

// Sign makes the `signature` header of one attempt: the token and the time of sending, encrypted with the industry's public
// key (spec 2.3.2). Every attempt needs a new one.
func Sign(key *rsa.PublicKey, token string, at time.Time) (string, error) {
	if strings.TrimSpace(token) == "" {
		return "", ErrToken
	}
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, message(token, at), nil)
	if err != nil {
		return "", fmt.Errorf("encrypting the signature: %w", err)
	}
	return base64.StdEncoding.EncodeToString(sealed), nil
}

// Unsign decrypts a `signature` header with the industry's private key and returns the token and the time of sending.
// The errors show nothing of the token.
func Unsign(key *rsa.PrivateKey, signature string) (token string, at time.Time, err error) {
	sealed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(signature))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("opening a signature: not base64: %w", err)
	}
	plain, err := rsa.DecryptOAEP(sha256.New(), nil, key, sealed, nil)
	if err != nil {
		return "", time.Time{}, errors.New("opening a signature: it was not made with this industry's public key")
	}
	text := string(plain)
	cut := strings.LastIndex(text, separator)
	if cut < 0 {
		return "", time.Time{}, fmt.Errorf("opening a signature: no %q between token and time", separator)
	}
	// Python's str(datetime.now()), in the spec's example, writes microseconds, and no fraction on a whole second.
	at, err = time.ParseInLocation("2006-01-02 15:04:05", text[cut+len(separator):], spec.IST)
	if err != nil {
		return "", time.Time{}, errors.New("opening a signature: the time is not YYYY-MM-DD HH:MM:SS.mmm")
	}
	return text[:cut], at, nil
}

// CheckKey returns an error if the key is too small to encrypt the token with the time. OAEP with SHA-256 can encrypt 66
// bytes less than the key's size.
func CheckKey(key *rsa.PublicKey, token string) error {
	need := len(message(token, time.Now()))
	if room := key.Size() - 2*sha256.Size - 2; need > room {
		return fmt.Errorf("the public key of %d bits is too small: the signature needs %d bytes and the key takes %d: ask the board for a key of at least 2048 bits",
			key.N.BitLen(), need, max(room, 0))
	}
	return nil
}
