package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
)

// leastBits is an RSA key size with enough room for a token and a time under OAEP with SHA-256.
const leastBits = 2048

func keygenCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "keygen", Short: "make a key pair for tests",
		Long:    "ocems keygen makes the key pair of an industry, for tests with ocems simulate. The key of the real board comes from the board.",
		Example: "  ocems keygen --out keys",
		Args:    cli.AtMost(0, ""),
	}
	dir := c.Flags().String("out", "", "`directory` for private.pem and public.pem (required)")
	bits := c.Flags().Int("bits", leastBits, "size of the RSA key in `bits`, 2048 or more")
	c.RunE = func(*cobra.Command, []string) error { return keygen(s, *dir, *bits) }
	return c
}

func keygen(s std, dir string, bits int) error {
	if dir == "" {
		return errors.New("--out: missing")
	}
	if bits < leastBits || bits > 16384 {
		return fmt.Errorf("--bits: %d is outside %d to 16384: nearest %d", bits, leastBits, max(leastBits, min(bits, 16384)))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	private, public := filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")
	for _, path := range []string{private, public} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--out: %s exists already and is not overwritten; give another directory", path)
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return fmt.Errorf("making the key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("writing the private key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("writing the public key: %w", err)
	}
	if err := writePEM(private, "PRIVATE KEY", privateDER, 0o600); err != nil {
		return err
	}
	if err := writePEM(public, "PUBLIC KEY", publicDER, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "wrote %s and %s\n", private, public)
	return nil
}

// writePEM writes a new file. It fails if the file exists.
func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
