package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ocems-io/ocems/ocems/status"
)

// terminal returns a terminal, and a function that closes it and returns what was written to it.
func terminal(t *testing.T) (tty *os.File, written func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&text, master) // ends with EIO when the terminal is closed
	}()
	return tty, func() string {
		tty.Close()
		<-done
		master.Close()
		return text.String()
	}
}

func TestColours(t *testing.T) {
	path := hostStatusOf(t, func(h *status.Host) { h.Devices[0].Parameters[0].Slot.Stamp = h.Started })
	for _, noColour := range []string{"", "1"} {
		t.Setenv("NO_COLOR", noColour)
		tty, written := terminal(t)
		run(context.Background(), std{nil, tty, tty}, []string{"status", path})
		if shown := written(); strings.Contains(shown, "\x1b[31mFAILED \x1b[0m") != (noColour == "") || strings.Contains(shown, "\x1b") != (noColour == "") {
			t.Errorf("NO_COLOR=%q: %q", noColour, shown)
		}
		if _, out, _ := ocems("", "status", path); strings.Contains(out, "\x1b") {
			t.Errorf("colours without a terminal: %q", out)
		}
	}
}

// The server accepts connections and never answers.
func TestProgress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("OCEMS_TOKEN", token)
	config := write(t, "telegraf.conf", fmt.Sprintf(`
[[outputs.ocems]]
  endpoint = "http://%s/"
  public_key_file = %q
  [[outputs.ocems.device]]
    station_id = "station_1"
    device_id = "dev_1"
    token_id = "${OCEMS_TOKEN}"
`, listener.Addr(), publicPath))
	args := []string{"doctor", "--timeout", "1500ms", "--config", config}
	tty, written := terminal(t)
	var out bytes.Buffer
	code := run(context.Background(), std{nil, &out, tty}, args)
	shown := written()
	if code != 1 || !strings.Contains(out.String(), "answer") || !strings.Contains(shown, "\routputs.ocems: asking the endpoint (1s)") || !strings.HasSuffix(shown, "\r\x1b[K") {
		t.Errorf("exit %d, the terminal has %q:\n%s", code, shown, &out)
	}
	if _, out, errs := ocems("", args...); errs != "" || strings.Contains(out, "\x1b") {
		t.Errorf("without a terminal: %q:\n%s", errs, out)
	}
}
