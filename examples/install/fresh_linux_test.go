package install_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// limit is the time that a page may take from its first command to the first accepted slot. The person needs the rest of
// five minutes to read and to type.
const limit = 2 * time.Minute

// fresh is a Debian as it is after its installation, used by a person without knowledge of Go.
type fresh struct {
	*machine
	logs string // of the terminals
}

func newFresh(t *testing.T) *fresh {
	root, list := os.Getenv("OCEMS_DEBIAN"), os.Getenv("OCEMS_PACKAGE")
	if root == "" || list == "" {
		t.Skip("OCEMS_DEBIAN and OCEMS_PACKAGE name no Debian and no package: make test-install sets them")
	}
	m := newMachine(t, root, filepath.Dir(list))
	m.sh(`
		! command -v go
		echo "127.0.0.1 localhost $(hostname)" >/etc/hosts
		useradd --create-home --shell /bin/bash engineer
		echo "engineer ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/engineer
		cp /tmp/host/` + filepath.Base(list) + ` /home/engineer`)
	return &fresh{m, t.TempDir()}
}

// command is one that the engineer types in a terminal that is in dir. Only the installation sees the network of this machine.
func (f *fresh) command(dir, text string) *exec.Cmd {
	namespaces := []string{"--target", f.pid, "--mount", "--uts", "--ipc", "--pid", "--cgroup"}
	if !strings.Contains(text, "apt install") {
		namespaces = append(namespaces, "--net")
	}
	return exec.Command("nsenter", append(namespaces, "--", "runuser", "-u", "engineer", "--", "env", "-i", "HOME=/home/engineer", "LANG=C.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin", "DEBIAN_FRONTEND=noninteractive", "bash", "-euc", "cd ~/"+dir+"\n"+text)...)
}

func (f *fresh) types(dir, text string) string {
	f.t.Helper()
	command := f.command(dir, text)
	command.Stdin = strings.NewReader("y\n") // to apt
	out, err := command.CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v: %s", text, err, out)
	}
	return string(out)
}

// commands types those of a page line by line: with a token where one is pasted, an editor that knows the board's address, and
// without waiting for more of the journal.
func (f *fresh) commands(text string) {
	f.t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, "paste the token") {
			line = "echo 0123456789abcdef0123456789abcdef | " + line
		}
		f.types("", "export EDITOR=/usr/local/bin/editor\n"+strings.Replace(line, "journalctl -fu", "journalctl -n 20 --no-pager -u", 1))
	}
}

// install puts a program of this machine there.
func (f *fresh) install(path, as string) {
	f.t.Helper()
	program, err := os.Open(path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer program.Close()
	command := exec.Command("nsenter", "--target", f.pid, "--mount", "--", "sh", "-ec", `cat >"$1"; chmod 755 "$1"`, "sh", as)
	command.Stdin = program
	if out, err := command.CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v: %s", as, err, out)
	}
}

// reading sends a collector one of three quarters of an hour ago, by this machine's curl.
func (f *fresh) reading() {
	f.t.Helper()
	out, err := exec.Command("nsenter", "--target", f.pid, "--net", "--", "curl", "-fsS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1",
		"-H", "Content-Type: application/json", "-d", fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"analyser.cod","gauge":{"dataPoints":[{
			"timeUnixNano":"%d","asDouble":41,"attributes":[{"key":"line","value":{"stringValue":"etp-outlet"}}]}]}}]}]}]}`,
			time.Now().Add(-45*time.Minute).UnixNano()), "http://127.0.0.1:4318/v1/metrics").CombinedOutput()
	if err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
}

// terminal is one of its own, whose program runs on.
func (f *fresh) terminal(name, text string) {
	f.t.Helper()
	log, err := os.Create(filepath.Join(f.logs, name))
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close()
	command := f.command("", text)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
}

// accepted waits until the board's terminal shows a slot of that many readings, and says how long it took since began.
func (f *fresh) accepted(way string, began time.Time, readings int) {
	f.t.Helper()
	want := fmt.Sprintf("status=1 readings=%d", readings)
	for said := ""; !strings.Contains(said, want); time.Sleep(100 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(f.logs, "board"))
		if said = string(text); err != nil || time.Since(began) > limit {
			journal, _ := f.try("journalctl", "-n", "60", "--no-pager")
			others, _ := exec.Command("sh", "-c", "tail -n 40 "+f.logs+"/*").CombinedOutput()
			f.t.Fatalf("%s: no slot is accepted within %s: %s\n%s", way, limit, others, journal)
		}
	}
	f.t.Logf("%s: first accepted slot after %s", way, time.Since(began).Round(time.Second))
}

// block is a fenced one of a page, with the comment before it.
type block struct{ about, language, text string }

// section is the blocks under a heading of a page.
func section(t *testing.T, page, heading string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, under, found := strings.Cut(string(text), "\n## "+heading+"\n")
	under, _, _ = strings.Cut(under, "\n## ")
	for _, m := range regexp.MustCompile("(?s)(?:<!-- ([^\n]*) -->\n)?```(\\w+)\n(.*?)```\n").FindAllStringSubmatch(under, -1) {
		all = append(all, block{m[1], m[2], m[3]})
	}
	if !found || len(all) == 0 {
		t.Fatalf("%s has no blocks under %q", page, heading)
	}
	return all
}

// board starts the simulated one as its page does, beside what the page is for.
func (f *fresh) board() {
	f.t.Helper()
	f.types("", "cp -r /usr/share/ocems/getting-started sim; cd sim; ocems keygen --out keys; ./analyser.sh --hour >hour.influx; cp keys/public.pem ..")
	f.terminal("board", "cd sim; ocems simulate --registry registry.yaml --private-key keys/private.pem")
}

const endpoint = "http://127.0.0.1:8750/v1.0/industry/data"

// The page's commands as they are, and then the service.
func TestFirstSlotOfPackage(t *testing.T) {
	f := newFresh(t)
	began := time.Now()
	dir, terminals := "", []string{"board", "telegraf"}
	for _, b := range section(t, "README.md", "The first accepted slot in five minutes") {
		switch {
		case b.language != "sh":
		case strings.Contains(b.about, "terminal"):
			f.terminal(terminals[0], b.text)
			terminals = terminals[1:]
		case dir == "":
			f.types("", b.text)
			dir = "try"
			t.Logf("installed after %s", time.Since(began).Round(time.Second))
		default:
			f.accepted("package", began, 3)
			var said []byte
			f.until("status and report say that all is well", func() bool {
				out, err := f.command(dir, b.text).CombinedOutput()
				said = out
				return err == nil && strings.Contains(string(out), "reached the board")
			})
			t.Logf("%s", said)
		}
	}
	if len(terminals) > 0 {
		t.Errorf("the page has no command for the %s", terminals[0])
	}
}

// The commands for the plant, with the simulated board's address.
func TestFirstSlotOfService(t *testing.T) {
	f := newFresh(t)
	began := time.Now()
	f.types("", "sudo apt install ./ocems_*.deb")
	f.board()
	f.write("/usr/local/bin/editor", "#!/bin/sh\nsed -i 's|public_key_file:|endpoint: "+endpoint+"\\n    &|' \"$1\"\n")
	f.sh("chmod 755 /usr/local/bin/editor")
	f.commands(section(t, "README.md", "The plant")[0].text)
	f.reading()
	f.accepted("package as a service", began, 1)
	t.Log(f.types("", "sudo -u ocems ocems status /var/lib/ocems"))
	f.types("", "sudo systemctl reload otelcol-ocems")
}

// A stock Telegraf that works, and the page of the external plugin.
func TestFirstSlotOfStockTelegraf(t *testing.T) {
	telegraf := os.Getenv("OCEMS_TELEGRAF_STOCK")
	if telegraf == "" {
		t.Skip("OCEMS_TELEGRAF_STOCK names no Telegraf: make test-install sets it")
	}
	f := newFresh(t)
	page := section(t, "../../cmd/ocems-telegraf/README.md", "Set-up")
	f.sh(`useradd --system --user-group --home-dir /etc/telegraf telegraf; mkdir -p /etc/telegraf/telegraf.d`)
	f.install(telegraf, "/usr/bin/telegraf")
	f.write("/usr/lib/systemd/system/telegraf.service", stock)
	f.write("/etc/telegraf/telegraf.conf", `[agent]
  interval = "10s"
  round_interval = false
  flush_interval = "5s"
  omit_hostname = true
[[inputs.file]]
  interval = "24h"
  files = ["/etc/telegraf/hour.influx"]
  data_format = "influx"
[[outputs.file]]
  files = ["/dev/null"]
`)
	f.sh("touch /etc/telegraf/hour.influx; systemctl enable --now telegraf")

	began := time.Now()
	f.types("", "sudo apt install ./ocems_*.deb")
	f.board()
	f.types("", "sudo cp sim/hour.influx /etc/telegraf")
	var conf []string
	for _, b := range page {
		if b.language == "toml" {
			conf = append(conf, b.text)
		}
	}
	f.types("", "sudo tee -a /etc/telegraf/telegraf.conf <<'EOF'\n"+conf[0]+"EOF")
	f.types("", "sudo tee /etc/telegraf/ocems.conf <<'EOF'\n"+strings.Replace(conf[1], "[[outputs.ocems]]\n", "[[outputs.ocems]]\n  endpoint = \""+endpoint+"\"\n", 1)+"EOF")
	f.commands(page[len(page)-1].text)
	f.accepted("stock Telegraf with the external plugin", began, 1)
	t.Log(f.types("", "sudo -u telegraf ocems status /var/lib/telegraf/ocems"))
}

// A collector of the plant's own, built anew with the page's lines.
func TestFirstSlotOfOwnCollector(t *testing.T) {
	builder := os.Getenv("OCEMS_BUILDER")
	if builder == "" {
		t.Skip("OCEMS_BUILDER names no builder: make test-install sets it")
	}
	f := newFresh(t)
	version := builder[strings.LastIndexByte(builder, '-')+1:]
	var minor int
	if _, err := fmt.Sscanf(version, "0.%d.", &minor); err != nil {
		t.Fatalf("%s: %v", builder, err)
	}
	out := t.TempDir()
	theirs, lines := map[string]any{}, map[string]any{}
	decode := func(text string, into any) {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	decode(fmt.Sprintf(`
dist: {name: theirs, output_path: %s}
receivers: [{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v%s}]
exporters: [{gomod: go.opentelemetry.io/collector/exporter/debugexporter v%[2]s}]
extensions: [{gomod: github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension v%[2]s}]
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v1.%[3]d.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v1.%[3]d.0
`, out, version, minor-94), &theirs) // the stable modules of v0.149 are v1.55
	page := section(t, "../../exporter/ocemsexporter/README.md", "Your own collector")[0].text
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	decode(strings.Replace(page, "/path/to/your/checkout", checkout, 1), &lines)
	for key, list := range lines {
		have, _ := theirs[key].([]any)
		theirs[key] = append(have, list.([]any)...)
	}
	text, err := yaml.Marshal(theirs)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "builder.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if said, err := exec.Command(builder, "--config", filepath.Join(out, "builder.yaml")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	t.Logf("collector %s: built with the components in %s", version, time.Since(began).Round(time.Second))

	f.types("", "sudo apt install ./ocems_*.deb")
	f.board()
	f.install(filepath.Join(out, "theirs"), "/usr/bin/theirs")
	var config string
	for _, b := range section(t, "../../README.md", "Collector: a complete configuration") {
		config = b.text
	}
	config = strings.NewReplacer("/etc/ocems/public.pem", "public.pem", "/var/lib/ocems/", "", "  ocems:\n", "  ocems:\n    endpoint: "+endpoint+"\n").Replace(config)
	began = time.Now()
	f.types("", "cat >theirs.yaml <<'EOF'\n"+config+"EOF")
	f.terminal("collector", "export OCEMS_TOKEN=0123456789abcdef0123456789abcdef; theirs --config theirs.yaml")
	f.reading()
	f.accepted("collector "+version+" with the components, from its start", began, 1)
}
