package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrToken means that the token is empty after trimming.
var ErrToken = errors.New("the token is empty")

// Body seals and opens request bodies under one token. It is safe for concurrent use.
type Body struct{ block cipher.Block }

// NewBody derives the AES-256 key from a token: the SHA-256 of its UTF-8 bytes without surrounding white space.
func NewBody(token string) (*Body, error) {
	token = strings.TrimSpace(token)
	if token == "" {
		return nil, ErrToken
	}
	key := sha256.Sum256([]byte(token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("making the AES cipher: %w", err)
	}
	return &Body{block}, nil
}

// Seal encrypts a payload and returns the request body (spec 2.4).
func (b *Body) Seal(payload []byte) []byte {
	const n = aes.BlockSize
	pad := n - len(payload)%n
	text := make([]byte, len(payload)+pad)
	copy(text, payload)
	for i := len(payload); i < len(text); i++ {
		text[i] = byte(pad)
	}
	for i := 0; i < len(text); i += n {
		b.block.Encrypt(text[i:i+n], text[i:i+n])
	}
	return base64.StdEncoding.AppendEncode(nil, text)
}

// Open decrypts a request body. The error says which step failed, and shows nothing of the body or the token.
func (b *Body) Open(body []byte) ([]byte, error) {
	const n = aes.BlockSize
	text, err := base64.StdEncoding.AppendDecode(nil, bytes.TrimSpace(body))
	if err != nil {
		return nil, fmt.Errorf("opening a body: not base64: %w", err)
	}
	if len(text) == 0 {
		return nil, errors.New("opening a body: it is empty")
	}
	if len(text)%n != 0 {
		return nil, fmt.Errorf("opening a body: %d bytes are not a whole number of %d-byte blocks", len(text), n)
	}
	for i := 0; i < len(text); i += n {
		b.block.Decrypt(text[i:i+n], text[i:i+n])
	}
	pad := int(text[len(text)-1])
	if pad == 0 || pad > n || !bytes.Equal(text[len(text)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errors.New("opening a body: wrong padding: it was encrypted with another token")
	}
	return text[:len(text)-pad], nil
}

// Seal encrypts one payload with a token. Use NewBody for many payloads.
func Seal(token string, payload []byte) ([]byte, error) {
	b, err := NewBody(token)
	if err != nil {
		return nil, err
	}
	return b.Seal(payload), nil
}

// Open decrypts one request body with a token. Use NewBody for many bodies.
func Open(token string, body []byte) ([]byte, error) {
	b, err := NewBody(token)
	if err != nil {
		return nil, err
	}
	return b.Open(body)
}
