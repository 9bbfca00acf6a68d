package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

func decodeCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "decode [FILE]", Short: "decrypt a request body and list its faults",
		Long: "ocems decode decrypts the body of a request from a file or standard input, prints its JSON, and lists what the board would\nrefuse in it.",
		Example: `  ocems decode --token-file /etc/ocems/tokens/device_5678 body.txt
  ocems decode --token-file token --private-key private.pem --signature "$SIGNATURE" <body.txt`,
		Args: cli.AtMost(1, "file"),
	}
	tokenFile := c.Flags().String("token-file", "", "`file` of the device's token; by default the environment variable OCEMS_TOKEN")
	keyFile := c.Flags().String("private-key", "", "PEM `file` of the industry's private key, for --signature")
	signature := c.Flags().String("signature", "", "`value` of the request's signature header, to check it too")
	c.RunE = func(_ *cobra.Command, args []string) error {
		return decode(s, strings.Join(args, ""), *tokenFile, *keyFile, *signature)
	}
	return c
}

func decode(s std, path, tokenFile, keyFile, signature string) error {
	if (keyFile == "") != (signature == "") {
		return errors.New("--private-key and --signature go together")
	}
	token, err := readToken(tokenFile)
	if err != nil {
		return err
	}
	faulty := false
	if signature != "" {
		key, err := readPrivateKey(keyFile)
		if err != nil {
			return err
		}
		signed, at, err := seal.Unsign(key, signature)
		if err != nil {
			fmt.Fprintln(s.out, "signature:", err)
			faulty = true
		} else {
			matches := subtle.ConstantTimeCompare([]byte(signed), []byte(token)) == 1
			fmt.Fprintf(s.out, "signature: made %s, its token is the device's: %t\n", spec.ISTString(at), matches)
			faulty = !matches
		}
	}
	in := s.in
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	text, err := seal.Open(token, body)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if json.Indent(&indented, text, "", "  ") == nil {
		fmt.Fprintln(s.out, indented.String())
	}
	for _, fault := range payload.Validate(text, payload.Rules{Now: time.Now()}) {
		fmt.Fprintln(s.out, "fault:", fault.Error())
		faulty = true
	}
	if faulty {
		return errFaults
	}
	return nil
}

func readToken(path string) (string, error) {
	text, source := os.Getenv("OCEMS_TOKEN"), "OCEMS_TOKEN"
	if path != "" {
		file, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		text, source = string(file), path
	}
	if strings.TrimSpace(text) == "" {
		return "", fmt.Errorf("no token: %s is empty: give --token-file or set OCEMS_TOKEN", source)
	}
	return strings.TrimSpace(text), nil
}
