package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/ocems/operator"
)

// shortestPassword is the minimum length of the page's password, in bytes.
const shortestPassword = 8

func serveCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "serve [DIRECTORY]", Short: "show status and the last 8 days of each device on a page",
		Long: `ocems serve is the operator's page. It shows in one colour and one sentence whether the host reports, and for each device its
parameters, what waits and why, and the outcome of each slot of the last 8 days. It reads the files *.status.json beside the
host's state and the audit trail, and changes nothing. Name the state directory or the host's configuration.

The page is at http://127.0.0.1:8790/, for this machine only. For other machines give an address, a password and a certificate.
/status.json has the same for other programs. For a screen on a wall that must stay light at night, open /?theme=light.`,
		Example: `  ocems serve /var/lib/ocems
  sudo -u telegraf ocems serve --config /etc/telegraf/telegraf.conf
  ocems serve --listen 0.0.0.0:8790 --password-file /etc/ocems/page-password --tls-cert page.pem --tls-key page-key.pem /var/lib/ocems`,
		Args: cli.AtMost(1, "directory"),
	}
	flags := c.Flags()
	host := newHostFlags(c)
	listen := flags.String("listen", "127.0.0.1:8790", "`address` to listen on; one that other machines reach needs --password-file")
	passwordFile := flags.String("password-file", "", fmt.Sprintf("`file` whose first line is the password of the page, of at least %d characters", shortestPassword))
	hosts := flags.String("hosts", "", "`names` of this machine, comma-separated, under which a browser may open the page; addresses and names without a dot are always allowed")
	cert := flags.String("tls-cert", "", "PEM `file` of the server's certificate")
	tlsKey := flags.String("tls-key", "", "PEM `file` of the certificate's key")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if (*cert == "") != (*tlsKey == "") {
			return errors.New("--tls-cert and --tls-key go together")
		}
		password, err := readPassword(*passwordFile)
		if err != nil {
			return err
		}
		open, err := reachable(*listen)
		switch {
		case err != nil:
			return fmt.Errorf("--listen: %w", err)
		case open && password == "":
			return fmt.Errorf("--listen: other machines can reach %s, so the page needs --password-file: nearest 127.0.0.1:8790", *listen)
		case open && *cert == "":
			fmt.Fprintln(s.err, "ocems: serve: the password and the page cross the network unencrypted: give --tls-cert and --tls-key")
		}
		handler, err := operator.New(operator.Config{
			Sources:  func() ([]operator.Source, error) { return host.statusFiles(strings.Join(args, "")) },
			Hosts:    strings.FieldsFunc(strings.ToLower(*hosts), func(r rune) bool { return r == ',' || r == ' ' }),
			Password: password,
		})
		if err != nil {
			return err
		}
		log := slog.NewLogLogger(slog.NewTextHandler(s.err, nil), slog.LevelWarn)
		return listenAndServe(c.Context(), s, &http.Server{Handler: handler, ErrorLog: log}, *listen, *cert, *tlsKey, "page")
	}
	return c
}

// reachable reports whether other machines can connect to a listen address.
func reachable(listen string) (bool, error) {
	name, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false, err
	}
	ip := net.ParseIP(name)
	return name != "localhost" && (ip == nil || !ip.IsLoopback()), nil
}

func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("--password-file: %s: %w", path, err)
	}
	password := strings.TrimSpace(lines.Text())
	if len(password) < shortestPassword {
		return "", fmt.Errorf("--password-file: the first line of %s has %d characters; at least %d are needed", path, len(password), shortestPassword)
	}
	return password, nil
}
