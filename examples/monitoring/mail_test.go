package monitoring_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const mailPassword = "pa55word-of-the-plant"

// letter is a message that the mail server has received.
type letter struct {
	to            []string
	subject, body string
}

// mailServer accepts messages from a client with the password.
func mailServer(t *testing.T) (address string, letters <-chan letter) {
	t.Helper()
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listening.Close() })
	got := make(chan letter, 10)
	go func() {
		for {
			connection, err := listening.Accept()
			if err != nil {
				return
			}
			go receive(t, textproto.NewConn(connection), got)
		}
	}()
	return listening.Addr().String(), got
}

func receive(t *testing.T, c *textproto.Conn, got chan<- letter) {
	defer c.Close()
	say := func(line string) { _ = c.PrintfLine("%s", line) }
	secret := base64.StdEncoding.EncodeToString([]byte("\x00ocems@plant.example\x00" + mailPassword))
	var l letter
	known := false
	say("220 mail")
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		switch verb, rest, _ := strings.Cut(line, " "); verb {
		case "EHLO":
			say("250-mail")
			say("250 AUTH PLAIN")
		case "AUTH":
			if known = rest == "PLAIN "+secret; !known {
				say("535 wrong password")
				continue
			}
			say("235 welcome")
		case "RCPT":
			l.to = append(l.to, strings.Trim(strings.TrimPrefix(rest, "TO:"), "<>"))
			say("250 ok")
		case "DATA":
			if !known {
				say("530 who are you")
				continue
			}
			say("354 go on")
			message, err := mail.ReadMessage(c.DotReader())
			if err != nil {
				t.Errorf("the message: %v", err)
				return
			}
			l.subject, l.body = decode(t, message)
			got <- l
			l = letter{}
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// decode gives the subject and the text of a message with a single plain text part.
func decode(t *testing.T, m *mail.Message) (subject, body string) {
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		t.Errorf("the subject: %v", err)
	}
	_, with, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Errorf("Content-Type: %v", err)
	}
	for parts := multipart.NewReader(m.Body, with["boundary"]); ; {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			return subject, body
		}
		if err != nil {
			t.Errorf("the message: %v", err)
			return subject, body
		}
		if kind := part.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("a part of the message is %s", kind)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Errorf("the message: %v", err)
		}
		body += string(text)
	}
}

// A real Alertmanager sends the rules' texts to the configured receivers, and another message when the alert is over.
func TestMail(t *testing.T) {
	alertmanager, amtool := prometheus(t, "prometheus-alertmanager"), prometheus(t, "amtool")
	if out, err := exec.Command(alertmanager, "--version").CombinedOutput(); err != nil {
		t.Skipf("Alertmanager does not start here, which in a test needs a namespace of its own: %v\n%s", err, out)
	}
	dir, address := t.TempDir(), loopback.Addr(t)
	server, letters := mailServer(t)
	board.Write(t, filepath.Join(dir, "password"), mailPassword) // without a newline, as README.md says
	config := board.Config(t, "alertmanager.yml", dir, "mail.plant.example:587 ", server+" ", "/etc/prometheus/smtp_password", filepath.Join(dir, "password"),
		// No TLS and shorter waits for the test.
		"smtp_require_tls: true", "smtp_require_tls: false", "group_wait: 30s", "group_wait: 100ms", "group_interval: 5m", "group_interval: 200ms")
	for _, file := range []string{"alertmanager.yml", config} {
		if out, err := exec.Command(amtool, "check-config", file).CombinedOutput(); err != nil {
			t.Fatalf("amtool check-config %s: %v\n%s", file, err, out)
		}
	}
	program := board.Start(t, dir, nil, alertmanager, "--config.file="+config, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	board.Listens(t, address)
	w := &watched{T: t}

	to := map[string][]string{"warning": {"ems@plant.example"}, "critical": {"ems@plant.example", "manager@plant.example"}}
	for _, host := range hosts {
		for _, severity := range []string{"warning", "critical"} {
			all := rules(t, host)
			r := all[slices.IndexFunc(all, func(r rule) bool { return r.Labels["severity"] == severity })]
			instance := host + ":1"
			for _, subject := range []string{"", "Over: "} {
				type m = map[string]any
				alert := m{"labels": m{"alertname": r.Alert, "severity": severity, "instance": instance}, "annotations": r.Annotations, "startsAt": time.Now().Add(-time.Hour)}
				if subject != "" {
					alert["endsAt"] = time.Now()
				}
				text, err := json.Marshal([]m{alert})
				if err != nil {
					t.Fatal(err)
				}
				board.Until(t, "Alertmanager takes the alert", func() bool { return w.post(address, "/api/v2/alerts", "application/json", string(text)) == nil })
				select {
				case l := <-letters:
					if want := subject + severity + ", " + r.Alert + " " + instance; l.subject != want {
						t.Errorf("the subject is %q, want %q", l.subject, want)
					}
					if !slices.Equal(l.to, to[severity]) {
						t.Errorf("%s goes to %q, want %q", r.Alert, l.to, to[severity])
					}
					if !strings.Contains(l.body, r.Annotations["summary"]) || !strings.Contains(l.body, r.Annotations["description"]) ||
						!strings.Contains(l.body, "Since ") || strings.Contains(l.body, "over at ") != (subject != "") {
						t.Errorf("the message is\n%s", l.body)
					}
				case <-time.After(deadline):
					t.Fatalf("no message of %s within %s", r.Alert, deadline)
				}
			}
		}
	}

	// The README's test message.
	_, command, found := strings.Cut(read(t, "README.md"), "\namtool --alertmanager.url=http://localhost:9093 ")
	if command, _, _ = strings.Cut(command, "\n```"); !found {
		t.Fatal("README.md has no test message")
	}
	if out, err := exec.Command("sh", "-c", amtool+" --alertmanager.url=http://"+address+" "+command).CombinedOutput(); err != nil {
		t.Fatalf("amtool %s: %v\n%s", command, err, out)
	}
	select {
	case l := <-letters:
		if l.subject != "critical, OcemsTest test" || !slices.Equal(l.to, to["critical"]) || !strings.HasPrefix(l.body, "a test\n") {
			t.Errorf("the README's test message is %+v", l)
		}
	case <-time.After(deadline):
		t.Fatalf("no test message within %s", deadline)
	}
	if strings.Contains(program.Log(), mailPassword) {
		t.Error("the password is in Alertmanager's log")
	}
}
