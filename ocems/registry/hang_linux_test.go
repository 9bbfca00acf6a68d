package registry

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fifo makes a file whose reader waits forever, as on a network mount that does not answer.
func fifo(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "fifo.csv")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // ends its readers
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	return path
}

func TestReadThatHangs(t *testing.T) {
	t.Parallel()
	path := fifo(t)
	if _, err := New(Config{PublicKeyFile: keyFile, DevicesFile: path}); err == nil || err.Error() != "devices_file: "+path+" is not a regular file; name one" {
		t.Error(err)
	}
	const hangs = "cannot be read within 10s: check its disk or network mount"
	for _, name := range []string{"start", "reload"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "d.csv")
			secret := filepath.Join(t.TempDir(), "token")
			write(t, secret, token)
			row := func(id, file string) string { return "s," + id + "," + file + "\n" }
			good := "station_id,device_id,token_id_file\n" + row("d1", secret)
			bad := good + row("d2", fifo(t))
			var err error
			if begun := time.Now(); name == "start" {
				write(t, path, bad)
				_, err = New(Config{PublicKeyFile: keyFile, DevicesFile: path})
				if time.Since(begun) > answerWithin+5*time.Second {
					t.Error("after", time.Since(begun))
				}
			} else {
				write(t, path, good)
				r := mustNew(t, Config{PublicKeyFile: keyFile, DevicesFile: path})
				write(t, path, bad)
				_, err = reload(t, r)
				if len(r.Devices()) != 1 {
					t.Error(r.Devices())
				}
			}
			if err == nil || !strings.HasSuffix(err.Error(), hangs) {
				t.Error(err)
			}
		})
	}
}
