package monitoring_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/status"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

// seven are the parameters of a plant, five of them with a fault. The log, ocems status, the page of ocems serve and ocems report
// must say what is wrong and what to do, and an alert that says what to do must fire.
var seven = []instrument{
	{parameter: "cod", field: "cod"},
	{"bod", "bodd", "", "no reading ever came: .*nearest: .*bod", "correct metric, field or tags of its entry", "OcemsParameterNeverSeen", "correct its entry"},
	{"ph", "ph", "", "the board has refused it since .*119 invalid parameter", "ask the board which key of annexe 3.1", "OcemsParameterRefused", "Correct the entry, or ask the board"},
	{"tss", "tss", "flat_line_after: 1h", "all readings are equal since ", "check that the instrument measures", "OcemsParameterFlat", "check that the instrument measures"},
	{"do", "do", "", "no reading since ", "look at the instrument, its cable and the input", "OcemsParameterSilent", "look at the instrument, its cable and its input"},
	{"toc", "toc", "invalid_values: [-9999]", "invalid value.*, -9999 is one of invalid_values", "look at the instrument, or correct the limits", "OcemsParameterExcluded", "look at the instrument, or correct its entry"},
	{parameter: "no3-n", field: "no3-n"},
}

type instrument struct {
	parameter, field, entry string
	says, cure              string // pattern and text; "" if the parameter reports
	alert, do               string
}

const (
	sevenDevice = "seven-1"
	told        = 63 * time.Second // time after the end of a slot at which it is expected at the board
	lead        = 40 * time.Second // time from the start of a host until then
	ago         = 2 * time.Hour    // age of its first start
)

// TestFiveTroubles checks what a host says about five of seven parameters. By its clock the host is started two hours ago and
// stopped. It is started again when a slot has just ended, and gets the readings of seven slots. The clocks of all programs except
// Prometheus are set so that the test does not wait for the end of a slot. The edge collector has only ocems_slot: without a board no
// parameter is refused, and it hands on its slots.
func TestFiveTroubles(t *testing.T) {
	for _, c := range []struct {
		name, host string
		edge       bool
	}{{"telegraf", "telegraf", false}, {"collector", "collector", false}, {"edge collector", "collector", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &plant{watched: newWatched(t, c.host), edge: c.edge}
			p.write("devices.yaml", p.devices())
			p.config = p.sevenConfig()

			p.off = time.Until(p.clockNow().Add(-ago)).Truncate(time.Second)
			first := p.start(p.config)
			p.await("the host writes its status", func() bool { return p.statusFile() != "" })
			first.Stop()
			now := p.clockNow()
			p.off = time.Until(now).Truncate(time.Second)
			if p.edge { // no server confirms its clock: it would wait for 5 minutes after this step, and for 2 minutes after a first start
				if err := os.Remove(strings.TrimSuffix(p.statusFile(), ".status.json")); err != nil {
					t.Fatal(err)
				}
				second := p.start(p.config)
				p.await("the host writes its status", func() bool { // a host that has not got so far may end without a word
					h, err := status.Read(p.statusFile())
					return err == nil && h.Started.After(now.Add(-time.Minute))
				})
				second.Stop()
			} else {
				p.simulate(fmt.Sprintf("stations:\n  - id: plant\n    devices: [{id: %s, token: %s, parameters: {cod: [], bod: [], tss: [], toc: [], do: [], no3-n: []}}]\n", sevenDevice, token))
			}
			host := p.start(p.config)
			p.scrape(func(rules string) string { return regexp.MustCompile(`for: \d+m`).ReplaceAllString(rules, "for: 1s") })
			p.feedSeven(now)
			p.alertsOfSeven()
			if p.edge {
				p.handsOn(now)
				p.names("processor_ocems_slot")
				return
			}
			p.readers(host)
		})
	}
}

// plant is a host with the seven parameters.
type plant struct {
	*watched
	edge   bool
	config string
	next   atomic.Bool // the next component of the edge collector accepts nothing
}

// clockNow is the time that a host's clock is set to: shortly before the newest slot is reported.
func (p *plant) clockNow() time.Time { return time.Now().Truncate(length).Add(told - lead) }

func (p *plant) statusFile() string {
	found, _ := status.Find(filepath.Join(p.dir, "state"))
	if len(found) == 0 {
		found, _ = status.Find(filepath.Join(p.dir, "state", "storage"))
	}
	return strings.Join(found, "")
}

func (p *plant) devices() string {
	list := fmt.Sprintf("devices:\n  - station_id: plant\n    device_id: %s\n    token_id: %q\n    parameters:\n", sevenDevice, token)
	for _, x := range seven {
		metric := "modbus." + x.field
		if p.host == "telegraf" {
			metric = "modbus, field: " + x.field
		}
		list += fmt.Sprintf("      - {metric: %s, parameter: %s, unit: mg/L, %s}\n", metric, x.parameter, x.entry)
	}
	return list
}

// sevenConfig is the host's configuration, with short waits.
func (p *plant) sevenConfig() string {
	path := p.configure(p.edge)
	text := read(p.T, path)
	switch {
	case p.host == "telegraf":
		text = strings.Replace(text, "[[outputs.ocems]]\n", "[[outputs.ocems]]\n  grace = \"1s\"\n", 1)
	case p.edge:
		next := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if p.next.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		p.Cleanup(next.Close)
		text = regexp.MustCompile(`(?s)exporters:\n  ocems:.*?\n\n`).ReplaceAllLiteralString(text, fmt.Sprintf(`processors:
  ocems_slot:
    grace: 1s
    settle: 1s
    devices_file: ${env:OCEMS_DEVICES_FILE}
    storage: ocems_storage
    audit_file: ${env:OCEMS_STATE}/audit.jsonl

exporters:
  otlp_http:
    endpoint: %s
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}

`, next.URL))
		text = strings.Replace(text, "      exporters: [ocems]\n", "      processors: [ocems_slot]\n      exporters: [otlp_http]\n", 1)
	default:
		text = strings.Replace(text, "  ocems:\n", "  ocems:\n    grace: 1s\n", 1)
	}
	return p.write(filepath.Base(path), text)
}

// feedSeven feeds the readings of the last seven slots in one batch, one reading a minute. It omits the last minute: its readings
// may be live, and would wait until the edge collector's clock is trusted.
func (p *plant) feedSeven(now time.Time) {
	newest := now.Truncate(length)
	var all []reading
	for at := newest.Add(-7 * length); at.Before(newest.Add(-time.Minute)); at = at.Add(time.Minute) {
		lately := at.After(newest.Add(-3 * length))
		for i, name := range []string{"cod", "bod", "ph", "tss", "do", "toc", "no3-n"} {
			r := reading{name, at, float64(at.Minute() + i)}
			switch {
			case name == "tss":
				r.value = 28.4
			case name == "do" && lately:
				continue
			case name == "toc" && lately:
				r.value = -9999
			}
			all = append(all, r)
		}
	}
	p.feedReadings(all...)
}

type reading struct {
	field string
	at    time.Time
	value float64
}

func (p *plant) feedReadings(all ...reading) {
	p.Helper()
	path, kind, body := "/readings", "text/plain", ""
	if p.host == "telegraf" {
		for _, r := range all {
			body += fmt.Sprintf("modbus %s=%v %d\n", r.field, r.value, r.at.UnixNano())
		}
	} else {
		md := pmetric.NewMetrics()
		metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
		for _, r := range all {
			m := metrics.AppendEmpty()
			m.SetName("modbus." + r.field)
			dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
			dp.SetTimestamp(pcommon.NewTimestampFromTime(r.at))
			dp.SetDoubleValue(r.value)
		}
		text, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalJSON()
		if err != nil {
			p.Fatal(err)
		}
		path, kind, body = "/v1/metrics", "application/json", string(text)
	}
	p.await("the host takes the readings", func() bool { return p.post(p.input, path, kind, body) == nil })
}

// firing are the firing alerts of the host, with their texts.
func (p *plant) firing() map[string]string {
	p.Helper()
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels, Annotations map[string]string
				State               string
			}
		}
	}
	if err := p.get("http://"+p.prometheus+"/api/v1/alerts", &answer); err != nil {
		p.Fatal(err)
	}
	found := map[string]string{}
	for _, a := range answer.Data.Alerts {
		if a.Labels["job"] == "ocems-"+p.host && a.State == "firing" {
			found[strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["parameter"])] = a.Annotations["summary"] + " " + a.Annotations["description"]
		}
	}
	return found
}

// alertsOfSeven checks that each parameter in trouble has an alert with its name and what to do, and that no other has one.
func (p *plant) alertsOfSeven() {
	p.Helper()
	var missing []string
	defer func() {
		if p.Failed() {
			p.Logf("missing: %q; firing: %q", missing, p.firing())
		}
	}()
	p.await("the alerts of the parameters fire", func() bool {
		missing = nil
		found := p.firing()
		for _, x := range seven {
			says, is := found[x.alert+" "+x.parameter]
			if x.alert != "" && !(p.edge && x.alert == "OcemsParameterRefused") && (!is || !strings.Contains(says, sevenDevice+" "+x.parameter+": ") || !strings.Contains(says, x.do)) {
				missing = append(missing, x.alert)
			}
			delete(found, x.alert+" "+x.parameter)
		}
		for name := range found { // before the host has the readings, all seven parameters are never seen
			if strings.Contains(name, " ") {
				return false
			}
		}
		return missing == nil
	})
}

// handsOn checks that an edge collector has alerts on its slots, and none on an exporter.
func (p *plant) handsOn(now time.Time) {
	p.next.Store(true)
	newest := now.Truncate(length)
	p.feedReadings(reading{"cod", newest.Add(-2*length + time.Second), 1}, reading{"cod", newest.Add(-20 * length), 1})
	p.await("the other alerts fire", func() bool {
		found := p.firing()
		for _, name := range []string{"OcemsSamplesLate", "OcemsSamplesRefused", "OcemsSlotsNotHandedOn"} {
			if found[name] == "" {
				return false
			}
		}
		return true
	})
	for name := range p.firing() {
		if !strings.HasPrefix(name, "OcemsParameter") && !strings.HasPrefix(name, "OcemsSamples") && name != "OcemsSlotsNotHandedOn" {
			p.Errorf("%s fires", name)
		}
	}
}

// readers checks that every text for a person names the five parameters and what to do.
func (p *plant) readers(host *board.Program) {
	p.await("the log has told of the slot", func() bool { return strings.Count(host.Log(), "parameter needs a person: ") >= 5 })
	tool := func(code int, args ...string) string {
		p.Helper()
		program := p.run(slices.Concat([]string{p.tool}, args, []string{"--config", p.config})...)
		if got := program.Ended(); got != code {
			p.Errorf("%q: exit code %d, want %d", args, got, code)
		}
		return program.Log()
	}
	lines := func(text, pattern string) func(parameter string) string {
		return func(parameter string) string {
			return strings.Join(regexp.MustCompile(fmt.Sprintf(pattern, regexp.QuoteMeta(parameter))).FindAllString(text, -1), "\n")
		}
	}
	var hosts []stated
	if err := json.Unmarshal([]byte(tool(2, "status", "--json")), &hosts); err != nil || len(hosts) != 1 {
		p.Fatalf("ocems status --json: %d hosts, %v", len(hosts), err)
	}
	address := loopback.Addr(p.T)
	p.run(p.tool, "serve", "--listen", address, "--config", p.config)
	var page stated
	p.await("the page answers", func() bool { return p.get("http://"+address+"/status.json", &page) == nil })
	for _, reader := range []struct {
		name string
		of   func(parameter string) string
	}{
		{"the log", lines(host.Log(), `(?m)^.*parameter needs a person: .*parameter"?[=:] ?"?%s"?[ ,].*$`)},
		{"ocems status", lines(tool(2, "status"), `(?m)^  (?:failed|warning) +%s .*\n +do: .*$`)},
		{"ocems status --json", hosts[0].of},
		{"the page", page.of},
		{"ocems report", lines(tool(0, "report"), `(?m)^  %s: .*$`)},
	} {
		for _, x := range seven {
			says := reader.of(x.parameter)
			switch {
			case x.says == "" && says != "":
				p.Errorf("%s says of %s, which reports: %s", reader.name, x.parameter, says)
			case x.says != "" && (!regexp.MustCompile(x.says).MatchString(says) || !strings.Contains(says, x.cure)):
				p.Errorf("%s says of %s: %q\nwant %q and %q", reader.name, x.parameter, says, x.says, x.cure)
			}
		}
	}
}

// stated is the JSON of ocems status and the page for a host.
type stated struct {
	Devices []struct {
		Parameters []struct {
			Parameter string
			Verdict   struct{ Level, Text, Cure string }
		}
	}
}

// of is the text for a parameter that is not ok.
func (s stated) of(parameter string) (text string) {
	for _, d := range s.Devices {
		for _, x := range d.Parameters {
			if x.Parameter == parameter && x.Verdict.Level != "ok" {
				text += x.Verdict.Text + "\ndo: " + x.Verdict.Cure
			}
		}
	}
	return text
}
