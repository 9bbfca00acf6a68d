package docs_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/loopback"
)

// TestTroubleshooting causes each trouble. The programs must then write every line that the page shows.
func TestTroubleshooting(t *testing.T) {
	t.Parallel()
	var said []string
	keep := func(text string) { said = append(said, slices.Collect(strings.Lines(text))...) }
	server := httptest.NewServer(board(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: testToken}}}))
	t.Cleanup(server.Close)
	parameter := "[[outputs.ocems.device.parameter]]\nmetric = \"etp\"\nfield = \"cod\"\nunit = \"mg/L\"\n"
	config := fmt.Sprintf("endpoint = %q\nsettle = \"1s\"\n", server.URL+"/v1.0/industry/data") + deviceTable("device_5678") + parameter

	// Readings that are refused.
	dir, now := t.TempDir(), time.Now()
	past := now.Truncate(spec.SlotLength).Add(-20 * time.Minute)
	p := startIn(t, dir, config)
	p.write(fmt.Sprintf("etp cod=110.5 %d\n", past.UnixNano()))
	if !until(patience, func() bool { return len(p.trail()) == 1 }) {
		t.Fatalf("the slot was not delivered:\n%s", p.log())
	}
	p.write(fmt.Sprintf("etp cod=110.5 %d\netp cod=110.5 %d\netp cod=110.5 %d\netp cod=\"n/a\" %d\netp,ocems_flag=X cod=1 %d\netp codd=1 %d\n", past.Add(time.Second).UnixNano(),
		now.Add(330*time.Minute).UnixNano(), now.Add(-8*24*time.Hour).UnixNano(), now.UnixNano(), now.UnixNano(), now.UnixNano()))
	if !until(patience, func() bool {
		return len(p.trail()) >= 4 && strings.Contains(p.log(), "codd") && strings.Contains(p.log(), `\"X\"`)
	}) {
		t.Errorf("not all are refused:\n%s%s", p.log(), p.read("state/audit.jsonl"))
	}

	// A second process on the same state, and a damaged state.
	second := startIn(t, dir, config)
	if !until(patience, func() bool { return strings.Contains(second.log(), "in use") }) {
		t.Errorf("the second is not refused:\n%s", second.log())
	}
	second.stop()
	keep(second.log())
	p.stop()
	keep(p.log() + p.read("state/audit.jsonl"))
	if err := os.WriteFile(filepath.Join(dir, "state", "state.db"), []byte(strings.Repeat("damaged ", 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	p = startIn(t, dir, config)
	if !until(patience, func() bool { return strings.Contains(p.log(), "damaged-") }) {
		t.Errorf("the damage is not in the log:\n%s", p.log())
	}
	if err := os.Remove(filepath.Join(dir, "state", "state.db")); err != nil {
		t.Fatal(err)
	}
	if !until(patience, func() bool { return strings.Contains(p.log(), "written there again") }) {
		t.Errorf("it is not told that the state is gone:\n%s", p.log())
	}
	p.stop()
	keep(p.log())

	// A wrong id: it is taken out, and then named.
	dir = t.TempDir()
	for _, life := range []struct{ id, formerly, says string }{
		{"device_5679", "", "refuses the device"}, {"device_5678", "", "not configured"}, {"device_5678", `formerly = ["device_5679"]`, "waiting slots from former names"}} {
		p = startIn(t, dir, strings.Replace(config, `device_id = "device_5678"`, fmt.Sprintf("device_id = %q\n%s\n", life.id, life.formerly), 1))
		if life.id == "device_5679" {
			p.write(fmt.Sprintf("etp cod=110.5 %d\n", past.UnixNano()))
		}
		if !until(patience, func() bool { return strings.Contains(p.log(), life.says) }) {
			t.Errorf("it does not say %q:\n%s", life.says, p.log())
		}
		p.stop()
		keep(p.log())
	}

	// A time that is not on a slot.
	p = start(t, "align = false\n"+config)
	p.write(fmt.Sprintf("etp cod=110.5 %d\n", past.Add(time.Second).UnixNano()))
	if !until(patience, func() bool { return strings.Contains(p.log(), "grid") }) {
		t.Errorf("it is not refused:\n%s", p.log())
	}
	p.stop()
	keep(p.log())

	// Mistakes in the configuration, and the doctor's checks of the network and the server.
	for _, change := range [][2]string{{`unit = "mg/L"`, `unit = "mgl"`}, {`field = "cod"`, `field = "cod"` + "\nparameter = \"codd\""}, {"settle", "setle"},
		{`token_id = "` + testToken + `"`, `token_id = "${OCEMS_TOKEN_OF_NOBODY}"`}} {
		p := start(t, strings.Replace(config, change[0], change[1], 1))
		if err := p.command.Wait(); err == nil {
			t.Errorf("%s is accepted", change[1])
		}
		p.command = nil
		keep(p.log())
	}
	closed := loopback.Addr(t)
	for _, endpoint := range []string{"https://cems.example.invalid/v1.0/industry/data", "https://" + closed, strings.Replace(server.URL, "http:", "https:", 1)} {
		dir := t.TempDir()
		key, _ := filepath.Abs(testKeys + "industry_test_public.pem")
		text := fmt.Sprintf("[[outputs.ocems]]\nendpoint = %q\nstate_directory = %q\npublic_key_file = %q\n", endpoint, filepath.Join(dir, "state"), key) + deviceTable("device_5678")
		if err := os.WriteFile(filepath.Join(dir, "ocems.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program(t, "ocems"), "doctor", "--config", filepath.Join(dir, "ocems.conf")).CombinedOutput()
		if err == nil {
			t.Errorf("the doctor finds nothing at %s:\n%s", endpoint, out)
		}
		keep(string(out))
	}

	page, err := os.ReadFile(docs + "troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	shownLines := 0
	for _, m := range regexp.MustCompile("(?s)```text\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(m[1]) {
			shownLines++
			if !slices.ContainsFunc(said, func(l string) bool { return like(line, l) }) {
				t.Errorf("no program has written the line: %s", line)
			}
		}
	}
	if shownLines == 0 || t.Failed() {
		t.Logf("the page shows %d lines of this output:\n%s", shownLines, strings.Join(said, ""))
	}
}
