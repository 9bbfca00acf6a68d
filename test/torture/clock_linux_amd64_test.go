package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestClock sets off the clock of a process that shows its time in each answer.
func TestClock(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN is not set: make torture sets it")
	}
	address, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(file, []byte(registry), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(filepath.Join(bin, "ocems"), "simulate", "--listen", address, "--registry", file)
	k, err := startWithClock(c, -3*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		k.close()
	})
	var shown time.Time
	ask := func() bool {
		resp, err := http.Get("http://" + address + "/received")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		shown, err = http.ParseTime(resp.Header.Get("Date"))
		return err == nil
	}
	for _, offset := range []time.Duration{-3 * time.Hour, 5 * time.Hour, 0} {
		k.set(offset)
		if err := until(10*time.Second, ask); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(shown) - offset; off.Abs() > time.Minute {
			t.Errorf("the process's clock is at %s, %s from where it was set", shown, off)
		}
	}
}
