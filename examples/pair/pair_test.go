// Package pair_test runs two hosts with the configurations of the example, and runs the commands of its page.
package pair_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const token = "8d97c71e68c2f4eee5fb254fccb49773"

// machine is the main machine or the spare.
type machine struct {
	t           *testing.T
	board       *board.Board
	dir, config string
	env         []string
	pair        []string // for board.Config
	ocems       string   // the tool
}

func newMachine(t *testing.T, b *board.Board, delay string) *machine {
	m := &machine{t: t, board: b, dir: t.TempDir(), env: []string{"OCEMS_DELAY=" + delay}, ocems: filepath.Join(os.Getenv("OCEMS_BIN"), "ocems")}
	board.Write(t, filepath.Join(m.dir, "token"), token)
	m.pair = []string{"/var/lib/ocems", m.dir, "/etc/ocems/public.pem", b.PublicKey, "/etc/ocems/tokens/device_5678", filepath.Join(m.dir, "token")}
	return m
}

func (m *machine) trail() string {
	list, _ := filepath.Glob(filepath.Join(m.dir, "audit.jsonl"))
	more, _ := filepath.Glob(filepath.Join(m.dir, "telegraf", "audit.jsonl"))
	return strings.Join(append(list, more...), "")
}

// outcomes are the final outcomes in the trail, such as "cod 1h0m0s already_stored".
func (m *machine) outcomes(since time.Time) (list []string) {
	text, _ := os.ReadFile(m.trail())
	for line := range bytes.Lines(text) {
		var e audit.Entry
		if json.Unmarshal(line, &e) == nil {
			for _, r := range e.Readings {
				list = append(list, fmt.Sprint(r.Parameter, " ", time.UnixMilli(e.Stamp).Sub(since), " ", e.Outcome))
			}
		}
	}
	slices.Sort(list)
	return list
}

func (m *machine) has(since time.Time, want ...string) {
	m.t.Helper()
	slices.Sort(want)
	board.Until(m.t, fmt.Sprintf("the trail has %q", want), func() bool { return slices.Equal(m.outcomes(since), want) })
}

// reads starts the machine's Telegraf. It gets readings of cod in each slot, and readings of bod if the machine has the link.
func (m *machine) reads(first time.Time, from float64, slots int, bod func(slot int) bool) *board.Program {
	m.t.Helper()
	lines := ""
	for slot := range slots {
		for i := range 3 {
			fields := fmt.Sprintf("cod=%v", from+float64(slot))
			if bod(slot) {
				fields += fmt.Sprintf(",bod=%v", from+10+float64(slot))
			}
			lines += fmt.Sprintf("etp_analyser %s %d\n", fields, first.Add(time.Duration(slot)*spec.SlotLength+time.Duration(i)*time.Minute).UnixNano())
		}
	}
	readings := filepath.Join(m.dir, "readings")
	board.Write(m.t, readings, lines)
	m.config = board.Config(m.t, "telegraf.conf", m.dir, append(m.pair, "192.168.0.10:502", loopback.Addr(m.t),
		"[[inputs.modbus]]", "[[inputs.file]]\n  interval = \"24h\"\n  files = [\""+readings+"\"]\n  data_format = \"influx\"\n[[inputs.modbus]]",
		"[agent]", "[agent]\n  round_interval = false", `flush_interval = "5s"`, `flush_interval = "500ms"`,
		"[[outputs.ocems]]", "[[outputs.ocems]]\n  settle = \"500ms\"\n  grace = \"1s\"\n  spread = \"0s\"\n  endpoint = \""+m.board.URL+`"`)...)
	return board.Start(m.t, m.dir, m.env, board.Built(m.t, "OCEMS_TELEGRAF"), "--config", m.config)
}

func always(int) bool { return true }

func TestTwoTelegrafs(t *testing.T) {
	board.Built(t, "OCEMS_BIN")
	b := board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: token}}})
	first := time.Now().Truncate(spec.SlotLength).Add(-5 * spec.SlotLength)
	main, spare := newMachine(t, b, "0s"), newMachine(t, b, "5m")

	// In its second slot the main machine lacks bod. From the third slot on it is off.
	program := main.reads(first, 100, 2, func(slot int) bool { return slot == 0 })
	main.has(first, "cod 15m0s delivered", "bod 15m0s delivered", "cod 30m0s delivered")
	program.Stop()
	program = spare.reads(first, 200, 3, always)
	spare.has(first, "cod 15m0s already_stored", "bod 15m0s already_stored", "cod 30m0s already_stored", "bod 30m0s delivered", "cod 45m0s delivered", "bod 45m0s delivered")
	spare.follow(t, main)
	program.Stop()
	if log := program.Log(); strings.Contains(log, "contradicts") {
		t.Error(log)
	}

	// It starts again with the readings that it has of that slot.
	main.reads(first, 100, 3, always)
	board.Until(t, "the main machine is told 111", func() bool {
		return slices.Contains(main.outcomes(first), "cod 45m0s already_stored") && slices.Contains(main.outcomes(first), "bod 45m0s already_stored")
	})
	want := map[string]float64{}
	for slot, values := range [][2]float64{{100, 110}, {101, 211}, {202, 212}} {
		stamp := first.Add(time.Duration(slot+1) * spec.SlotLength)
		want[board.Key("cod", stamp, "U")], want[board.Key("bod", stamp, "U")] = values[0], values[1]
	}
	if got := b.Values(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the board has %v, want %v", got, want)
	}
}

// follow runs the commands of the page on the spare, which must be healthy.
func (m *machine) follow(t *testing.T, main *machine) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^(?: {4,})?ocems (.*)$`).FindAllStringSubmatch(string(page), -1)
	if len(commands) != 3 {
		t.Fatalf("the page has the commands %q", commands)
	}
	said := map[string]string{}
	for _, c := range commands {
		args := strings.Fields(strings.NewReplacer("telegraf.conf", m.config, "main/audit.jsonl", main.trail(), "spare/audit.jsonl", m.trail()).Replace(c[1]))
		board.Until(t, "ocems "+c[1], func() bool {
			command := exec.Command(m.ocems, args...)
			command.Env = append(os.Environ(), m.env...)
			out, err := command.CombinedOutput()
			said[args[0]] = string(out)
			return err == nil
		})
		t.Logf("ocems %s\n%s", c[1], said[args[0]])
	}
	for _, words := range [][2]string{{"status", "Reporting 2 parameters of 1 device"}, {"report", "100.00 %"}} {
		if !strings.Contains(said[words[0]], words[1]) {
			t.Errorf("ocems %s does not say %q", words[0], words[1])
		}
	}
}

// A collector can be the spare too.
func TestCollectorStandsBy(t *testing.T) {
	t.Parallel()
	b := board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: token}}})
	first := time.Now().Truncate(spec.SlotLength).Add(-5 * spec.SlotLength)
	for _, delay := range []string{"0s", "5m"} {
		m := newMachine(t, b, delay)
		address := loopback.Addr(t)
		config := board.Config(t, "collector.yaml", m.dir, append(m.pair, "127.0.0.1:4318", address)...)
		board.Start(t, m.dir, m.env, board.Built(t, "OCEMS_COLLECTOR"), "--config", config, "--config", "yaml:exporters::ocems::settle: 500ms",
			"--config", "yaml:exporters::ocems::spread: 0s", "--config", "yaml:exporters::ocems::endpoint: "+b.URL)
		board.Listens(t, address)
		body := fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"etp_analyser.cod","gauge":{"dataPoints":[{"timeUnixNano":"%d","asDouble":81.5}]}}]}]}]}`,
			first.Add(time.Minute).UnixNano())
		resp, err := board.Client.Post("http://"+address+"/v1/metrics", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		m.has(first, map[string]string{"0s": "cod 15m0s delivered", "5m": "cod 15m0s already_stored"}[delay])
	}
}
