// Package monitoring_test tests the rules and the dashboards of this folder: with promtool, minute by minute, and with a real
// Prometheus that scrapes the real programs.
package monitoring_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var hosts = []string{"collector", "telegraf"}

// prometheus is the path of prometheus or promtool: in the directory OCEMS_PROMETHEUS, or in the PATH.
func prometheus(t *testing.T, program string) string {
	t.Helper()
	if dir := os.Getenv("OCEMS_PROMETHEUS"); dir != "" {
		return filepath.Join(dir, program)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed: make test-monitoring fetches it", program)
	}
	return path
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rule is an alert of a rules file.
type rule struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func rules(t *testing.T, host string) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(read(t, "ocems-"+host+".rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestRules(t *testing.T) {
	promtool := prometheus(t, "promtool")
	for _, host := range hosts {
		for _, args := range [][]string{
			{"check", "rules", "ocems-" + host + ".rules.yaml"},
			{"test", "rules", "ocems-" + host + ".test.yaml"},
		} {
			if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	}
}

// Every alert says what to do, fires in a unit test, and is in the README.
func TestAlertsAreWhole(t *testing.T) {
	rows := map[string]string{"OcemsReadingsDropped": "telegraf", "OcemsSlotsNotHandedOn": "collector"} // alerts of one host only
	for _, host := range hosts {
		tests, readme := read(t, "ocems-"+host+".test.yaml"), read(t, "README.md")
		seen := map[string]bool{}
		for _, r := range rules(t, host) {
			switch {
			case seen[r.Alert]:
				t.Errorf("%s: %s is there twice", host, r.Alert)
			case r.Annotations["summary"] == "" || r.Annotations["description"] == "":
				t.Errorf("%s: %s has no summary or no description", host, r.Alert)
			case r.Labels["severity"] != "warning" && r.Labels["severity"] != "critical":
				t.Errorf("%s: %s has severity %q, want warning or critical", host, r.Alert, r.Labels["severity"])
			case !strings.Contains(tests, fmt.Sprintf(`labels: 'ALERTS{alertname=%q, alertstate="firing", severity=%q`, r.Alert, r.Labels["severity"])):
				t.Errorf("%s: no unit test lets %s fire", host, r.Alert)
			case !strings.Contains(readme, "| `"+r.Alert+"` | "+r.Labels["severity"]+" |"):
				t.Errorf("%s: README.md has no row of %s, %s", host, r.Alert, r.Labels["severity"])
			}
			seen[r.Alert] = true
		}
		for _, row := range regexp.MustCompile("(?m)^\\| `(Ocems[A-Za-z]+)`").FindAllStringSubmatch(readme, -1) {
			if !seen[row[1]] && (rows[row[1]] == "" || rows[row[1]] == host) {
				t.Errorf("%s: README.md has a row of %s, which is no alert", host, row[1])
			}
		}
	}
}

// The configurations in the README are parts of the files that the other tests run.
func TestReadmeShowsTheFiles(t *testing.T) {
	files := read(t, "prometheus.yml") + read(t, "collector.yaml") + read(t, "telegraf.conf")
	blocks := regexp.MustCompile("(?s)```(?:yaml|toml)\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 3 {
		t.Errorf("README.md shows %d configurations, want one of Prometheus, of the collector and of Telegraf", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(files, b[1]) {
			t.Errorf("README.md has a block that is in no file:\n%s", b[1])
		}
	}
}

// dashboard is the part of Grafana's JSON that these tests use.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               *struct{ Type, UID string }
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct {
		Defaults struct{ Unit string }
	}
	Targets []target
}

type target struct {
	RefID, Expr    string
	Datasource     *struct{ Type, UID string }
	Instant, Range bool
}

func dashboards(t *testing.T, host string) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "grafana-"+host+".json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The test does not run Grafana: it checks what would make an import fail.
func TestDashboardsAreSound(t *testing.T) {
	core := []string{"stat", "timeseries", "table", "text"}
	units := []string{"s", "short", "percentunit"}
	uids, titles := map[string]bool{}, map[string][]string{}
	for _, host := range hosts {
		d := dashboards(t, host)
		if d.UID == "" || uids[d.UID] || d.Title == "" || d.SchemaVersion < 39 {
			t.Errorf("%s: uid %q, title %q, schemaVersion %d", host, d.UID, d.Title, d.SchemaVersion)
		}
		uids[d.UID] = true
		variables := []string{"__range"}
		for _, v := range d.Templating.List {
			if variables = append(variables, v.Name); v.Name == "datasource" && (v.Type != "datasource" || v.Query != "prometheus") {
				t.Errorf("%s: the variable datasource is of type %q and query %v", host, v.Type, v.Query)
			}
		}
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			fault := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s, %q: %s", host, p.Title, fmt.Sprintf(format, args...))
			}
			if slices.Contains(titles[host], p.Title) {
				fault("another panel has this title")
			}
			titles[host] = append(titles[host], p.Title)
			if p.ID <= 0 || ids[p.ID] {
				fault("id %d is not its own", p.ID)
			}
			ids[p.ID] = true
			if p.Title == "" || !slices.Contains(core, p.Type) {
				fault("type %q, want one of %q", p.Type, core)
			}
			g := p.GridPos
			if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
				fault("gridPos %+v is not within 24 columns", g)
			}
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %q overlaps %q", host, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "text" {
				continue
			}
			if p.Description == "" || len(p.Targets) == 0 || p.Type != "table" && !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
				fault("%d targets, unit %q, description %q", len(p.Targets), p.FieldConfig.Defaults.Unit, p.Description)
			}
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if q.RefID == "" || refs[q.RefID] || q.Expr == "" || q.Instant == q.Range {
					fault("target %+v", q)
				}
				refs[q.RefID] = true
				for _, source := range []*struct{ Type, UID string }{p.Datasource, q.Datasource} {
					if source == nil || source.Type != "prometheus" || source.UID != "${datasource}" {
						fault("the datasource is %+v, want ${datasource}", source)
					}
				}
				for _, v := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
					if !slices.Contains(variables, v[1]) {
						fault("%s knows no variable %q", q.RefID, v[1])
					}
				}
			}
		}
	}
	if !slices.Equal(titles["collector"], titles["telegraf"]) {
		t.Errorf("the dashboards have different panels: %q and %q", titles["collector"], titles["telegraf"])
	}
}
