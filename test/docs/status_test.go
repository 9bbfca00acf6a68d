package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

const (
	testToken = "0123456789abcdef0123456789abcdef"
	testKeys  = root + "ocems/seal/testdata/"
)

// answer is one case of the page: the board's behaviour, and the section and row that say the outcome.
type answer struct {
	section, row string
	fault        string              // JSON of a simulator.Fault without its device; "" is a board without a fault
	flag         string              // flag of ph
	parameters   map[string][]string // parameters that the board accepts from the device; nil accepts all
	before       string              // cod of the same slot in an earlier delivery
	shared       bool                // another sender has sent the slot
	old          bool                // a slot older than 7 days; it is sent first, when no clock is known
	last         bool                // sent after all others, because it moves the board's clock
}

func answers() (list []answer) {
	for _, code := range spec.Statuses() {
		a := answer{section: fmt.Sprint(int(code)), row: "the product", flag: "U"}
		switch code {
		case spec.StatusSuccess:
		case spec.StatusInvalidUnit:
			a.parameters = map[string][]string{"cod": {"mg/L"}, "ph": {"ratio"}}
		case spec.StatusInvalidParameter:
			a.parameters = map[string][]string{"cod": {"mg/L"}}
		case spec.StatusNoCalibration:
			list = append(list, answer{section: a.section, row: "other flag", flag: "U", fault: `{"status":112,"count":1}`})
			a.flag, a.fault = "C", `{"status":112,"count":1}`
		case spec.StatusNotSlot:
			list = append(list,
				answer{section: a.section, row: "after a lost answer", flag: "U", fault: `{"close":true,"after_store":true,"count":1}`},
				answer{section: a.section, row: "the trail has the same value", flag: "U", before: "110.5"},
				answer{section: a.section, row: "the trail has another value", flag: "U", before: "99"},
				answer{section: a.section, row: "with shared_device", flag: "U", shared: true})
			a.fault = `{"status":111,"count":3}`
		case spec.StatusTooOld:
			list = append(list, answer{section: a.section, row: "both clocks say so", flag: "U", old: true})
			a.fault = `{"status":117,"count":1}`
		case spec.StatusFuture:
			list = append(list, answer{section: a.section, row: "both clocks have passed the slot", flag: "U", fault: `{"status":118,"count":1}`})
			a.fault, a.last = `{"clock_offset":"-1h","count":1}`, true
		default:
			a.fault = fmt.Sprintf(`{"status":%d,"count":1}`, int(code))
		}
		list = append(list, a)
	}
	for section, faults := range map[string][]string{
		"HTTP 401 and 403":  {`{"http_status":401,"count":1}`, `{"http_status":403,"count":1}`},
		"HTTP 413":          {`{"http_status":413,"count":1}`},
		"HTTP 429":          {`{"http_status":429,"retry_after":3,"count":1}`},
		"HTTP 5xx":          {`{"http_status":500,"count":1}`, `{"http_status":503,"count":1}`},
		"A page of HTML":    {`{"html":true,"count":1}`},
		"Half an answer":    {`{"half":true,"status":1,"count":1}`},
		"No answer":         {`{"close":true,"count":1}`},
		"An unknown status": {`{"status":101,"count":1}`},
		"A redirect":        {`{"http_status":302,"count":1}`},
	} {
		for _, f := range faults {
			list = append(list, answer{section: section, row: "the product", fault: f, flag: "U"})
		}
	}
	return list
}

// ends returns the number of lines in the trail for it.
func (a answer) ends() int {
	switch {
	case a.old:
		return 0
	case a.before == "99", a.shared: // the stored and the rejected reading, and the readings that are sent one by one
		return 3
	case a.before != "" || a.flag == "C":
		return 2
	}
	return 1
}

// TestStatusCodes runs the output as a program against each answer, and compares the page with the outcome.
func TestStatusCodes(t *testing.T) {
	t.Parallel()
	const page = "status-codes.md"
	sections := map[string]string{}
	var order []string
	text, err := os.ReadFile(docs + page)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		name, _, _ := strings.Cut(title, ": ")
		sections[name] = body
		order = append(order, name)
	}
	var codes, want []string
	for _, name := range order {
		if regexp.MustCompile(`^\d+$`).MatchString(name) {
			codes = append(codes, name)
		}
	}
	for _, code := range spec.Statuses() {
		want = append(want, fmt.Sprint(int(code)))
		if says := cell(sections[fmt.Sprint(int(code))], "the document"); says != code.Description() {
			t.Errorf("%s: section %d: the spec says %q, the page %q", page, int(code), code.Description(), says)
		}
	}
	slices.Sort(codes)
	slices.Sort(want)
	if !slices.Equal(codes, want) {
		t.Errorf("%s has the codes %v, the spec %v", page, codes, want)
	}
	listed := map[string]bool{}
	overview, _, _ := strings.Cut(string(text), "\n## ")
	for _, row := range regexp.MustCompile(`(?m)^\| (\[.*\)) \| (.*) \|$`).FindAllStringSubmatch(overview, -1) {
		for _, m := range regexp.MustCompile(`\[([^]]+)\]`).FindAllStringSubmatch(row[1], -1) {
			listed[m[1]] = true
			if says := cell(sections[m[1]], "the product"); says == "" || row[2] != says && !strings.HasPrefix(row[2], says+". ") {
				t.Errorf("%s: %s is %q in the overview and %q in its section", page, m[1], row[2], says)
			}
		}
	}
	for name := range sections {
		if !listed[name] {
			t.Errorf("%s: section %s is not in the overview", page, name)
		}
	}
	list := answers()
	said := report(t, list)
	said["TLS failure"] = untrusted(t)
	if says := cell(sections["TLS failure"], "the product"); says != outcome("device_tls", said["TLS failure"], nil) {
		t.Errorf("%s: section TLS failure: the product does %q, the page says %q", page, outcome("device_tls", said["TLS failure"], nil), says)
	}
	for name, body := range sections {
		for _, m := range regexp.MustCompile("(?s)```text\n(.*?)```").FindAllStringSubmatch(body, -1) {
			for line := range strings.Lines(m[1]) {
				if !slices.ContainsFunc(said[name], func(l string) bool { return like(line, l) }) {
					t.Errorf("%s: section %s: not in log or trail: %s\n%s", page, name, line, strings.Join(said[name], "\n"))
				}
			}
		}
	}
	for i, a := range list {
		if got := outcome(device(i), said[device(i)], &a); cell(sections[a.section], a.row) != got {
			t.Errorf("%s: section %s: %s: the outcome is %q, the page says %q:\n%s", page, a.section, a.row, got, cell(sections[a.section], a.row),
				strings.Join(said[device(i)], "\n"))
		}
	}
}

// cell returns the right column of a row in a section's table.
func cell(body, row string) string {
	m := regexp.MustCompile(`(?m)^\| ` + row + ` \| (.*) \|$`).FindStringSubmatch(body)
	if m == nil {
		return ""
	}
	return m[1]
}

func device(i int) string { return fmt.Sprintf("device_%d", 1000+i) }

// holdInterval is longer than the time for which outcomes are gathered, so that the two waits can be distinguished.
const holdInterval = 6 * time.Second

// report runs one process that reports two readings per answer, each answer with its own device. It returns the lines of log
// and trail by device and by section.
func report(t *testing.T, list []answer) map[string][]string {
	station := simulator.Station{ID: "station_1234"}
	var config strings.Builder
	stamp := time.Now().Truncate(spec.SlotLength).Add(-spec.SlotLength)
	for i, a := range list {
		station.Devices = append(station.Devices, simulator.Device{ID: device(i), Token: testToken, Parameters: a.parameters,
			Calibrations: []simulator.Calibration{{From: stamp, To: stamp}}})
		config.WriteString(deviceTable(device(i)) + fmt.Sprintf("shared_device = %v\n", a.shared))
	}
	lines := func(i int, stamp time.Time, cod string) string {
		return fmt.Sprintf("etp,ocems_device_id=%[1]s,ocems_unit=mg/L cod=%[2]s %[3]d\netp,ocems_device_id=%[1]s,ocems_unit=pH,ocems_flag=%[4]s ph=7.5 %[3]d\n",
			device(i), cod, stamp.UnixNano(), list[i].flag)
	}
	server := board(t, station)
	board := httptest.NewServer(server)
	t.Cleanup(board.Close)
	head := fmt.Sprintf("endpoint = %q\nalign = false\nhold_interval = %q\nmax_backoff = \"5s\"\n", board.URL+"/v1.0/industry/data", holdInterval)
	trail := func(p *process, n int) {
		t.Helper()
		if !until(patience, func() bool { return len(p.trail()) >= n }) {
			t.Errorf("%d lines in the trail, want %d\n%s", len(p.trail()), n, p.log())
		}
	}
	other, sent := start(t, head+config.String()), 0 // another sender
	for i, a := range list {
		if a.old {
			other.write(lines(i, stamp.Add(-spec.MaxAge), "110.5"))
			sent++
		}
	}
	trail(other, sent)
	for i, a := range list {
		if a.shared {
			other.write(lines(i, stamp, "110.5"))
			sent++
		}
	}
	trail(other, sent)
	other.stop()

	p, sent := start(t, head+config.String()), 0
	for i, a := range list {
		switch {
		case a.before != "":
			p.write(lines(i, stamp, a.before))
		case a.shared: // the board must have accepted a slot
			p.write(lines(i, stamp.Add(-spec.SlotLength), "110.5"))
		default:
			continue
		}
		sent++
	}
	trail(p, sent)
	for i, a := range list {
		if a.fault == "" {
			continue
		}
		fault := fmt.Sprintf(`{"device":%q,%s`, device(i), strings.TrimPrefix(a.fault, "{"))
		resp, err := http.Post(board.URL+"/faults", "application/json", strings.NewReader(fault))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatalf("the fault %s: %s", fault, resp.Status)
		}
	}
	for _, last := range []bool{false, true} {
		for i, a := range list {
			if a.last == last && !a.old {
				p.write(lines(i, stamp, "110.5"))
			}
		}
		missing := func() (names []string) {
			done := map[string]int{}
			for _, e := range p.trail() {
				done[e.Device]++
			}
			for i, a := range list {
				if done[device(i)] < a.ends() && (last || !a.last) {
					names = append(names, fmt.Sprintf("section %s, %s, %s", a.section, a.row, a.fault))
				}
			}
			return names
		}
		if !until(patience, func() bool { return missing() == nil }) {
			t.Errorf("no outcome of %q:\n%s", missing(), p.log())
		}
	}
	p.stop()
	said := map[string][]string{}
	for line := range strings.Lines(other.log() + other.read("state/audit.jsonl") + p.log() + p.read("state/audit.jsonl")) {
		m := regexp.MustCompile(`device"?[=:]"(device_\d+)"`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for i, a := range list {
			if device(i) == m[1] {
				said[m[1]] = append(said[m[1]], line)
				said[a.section] = append(said[a.section], line)
			}
		}
	}
	return said
}

// outcome returns the page's name for the outcome in a device's lines.
func outcome(device string, lines []string, a *answer) string {
	all := strings.Join(lines, "")
	var ends []audit.Entry
	for _, line := range lines {
		var e audit.Entry
		if json.Unmarshal([]byte(line), &e) == nil {
			ends = append(ends, e)
		}
	}
	var last audit.Entry
	if len(ends) > 0 {
		last = ends[len(ends)-1]
	}
	sent := last.Outcome == audit.Delivered
	switch {
	case a != nil && len(ends) == 0:
		return "nothing in the trail"
	case slices.ContainsFunc(ends, func(e audit.Entry) bool { return e.Outcome == audit.Rejected }):
		return "rejected"
	case len(ends) > 0 && !sent:
		return strings.ReplaceAll(string(last.Outcome), "_", " ")
	case strings.Contains(all, "The server's answer contradicts what is known of the slot:"), sent && last.Time.Sub(ends[0].Time) > holdInterval/2:
		return "waits apart"
	case strings.Contains(all, "The server refuses the device:") && sent:
		return "held"
	case strings.Contains(all, "The server refuses a parameter:") && sent && len(ends[0].Readings) == 1:
		return "one parameter left out"
	case strings.Contains(all, "The server says the slot is in the future: waiting") && sent:
		return "waits"
	case strings.Contains(all, "An attempt failed: trying again") && (len(ends) > 0 || a == nil):
		return "tried again"
	case sent && len(ends) == 2:
		return "split"
	case len(ends) == 0:
		return "unknown for " + device
	}
	return "delivered"
}

// untrusted returns the log and trail of a host whose server has an untrusted certificate.
func untrusted(t *testing.T) []string {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	p := start(t, fmt.Sprintf("endpoint = %q\nalign = false\n", server.URL)+deviceTable("device_tls"))
	p.write(fmt.Sprintf("etp,ocems_device_id=device_tls,ocems_unit=mg/L cod=110.5 %d\n", time.Now().Truncate(spec.SlotLength).UnixNano()))
	if !until(patience, func() bool { return strings.Contains(p.log(), "An attempt failed") }) {
		t.Errorf("no attempt has failed:\n%s", p.log())
	}
	p.stop()
	return slices.Collect(strings.Lines(p.log()))
}

func board(t *testing.T, stations ...simulator.Station) *simulator.Server {
	t.Helper()
	text, err := os.ReadFile(testKeys + "industry_test_private.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParsePrivateKey(string(text))
	if err != nil {
		t.Fatal(err)
	}
	server, err := simulator.New(simulator.Config{PrivateKey: key, Registry: &simulator.Registry{Stations: stations}})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func deviceTable(id string) string {
	return fmt.Sprintf("[[outputs.ocems.device]]\nstation_id = \"station_1234\"\ndevice_id = %q\ntoken_id = %q\n", id, testToken)
}

// process is a running ocems-telegraf.
type process struct {
	t       *testing.T
	dir     string
	command *exec.Cmd
	in      io.WriteCloser
	mu      sync.Mutex
	out     bytes.Buffer
}

// Write collects the output of the process on both streams.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := regexp.MustCompile(`(?m)^[WID]! `).ReplaceAllString(p.out.String(), "")
	return strings.ReplaceAll(text, p.dir, "/var/lib/telegraf/ocems")
}

func (p *process) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(p.dir, name))
	return string(b)
}

// trail returns the lines about devices, because the time of lines about the host is not fixed.
func (p *process) trail() (list []audit.Entry) {
	for line := range strings.Lines(p.read("state/audit.jsonl")) {
		var e audit.Entry
		if json.Unmarshal([]byte(line), &e) == nil && e.Device != "" {
			list = append(list, e)
		}
	}
	return list
}

func start(t *testing.T, config string) *process { return startIn(t, t.TempDir(), config) }

func startIn(t *testing.T, dir, config string) *process {
	t.Helper()
	key, err := filepath.Abs(testKeys + "industry_test_public.pem")
	if err != nil {
		t.Fatal(err)
	}
	head := "[[outputs.ocems]]\ncoalesce = \"1s\"\nspread = \"0s\"\n" + fmt.Sprintf("state_directory = %q\npublic_key_file = %q\n", filepath.Join(dir, "state"), key)
	path := filepath.Join(dir, "ocems.conf")
	if err := os.WriteFile(path, []byte(head+config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir, command: exec.Command(program(t, "ocems-telegraf"), "--debug", "--config", path)}
	p.command.Stdout, p.command.Stderr = p, p
	if p.in, err = p.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func (p *process) write(lines string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, lines); err != nil {
		p.t.Fatalf("%v:\n%s", err, p.log())
	}
}

// stop ends the process like Telegraf.
func (p *process) stop() {
	if p.command == nil {
		return
	}
	_ = p.in.Close()
	_ = p.command.Wait()
	p.command = nil
}
