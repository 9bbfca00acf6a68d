// Package install_test installs the packages in a machine of namespaces, on an overlay of this machine's files. There it does the
// steps of a plant: configure, start, report, reload, upgrade, remove.
package install_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const token = "8d97c71e68c2f4eee5fb254fccb49773" // the specification's example

const registry = `
stations:
  - id: station_1234
    devices: [{id: device_5678, token: 8d97c71e68c2f4eee5fb254fccb49773}]
`

const board = `
[Service]
ExecStart=/usr/bin/ocems simulate --registry /root/registry.yaml --private-key /root/keys/private.pem
`

// packages makes a directory with the package as this.deb, and the same package with a later version as next.deb.
func packages(t *testing.T) string {
	list := os.Getenv("OCEMS_PACKAGE")
	if list == "" {
		t.Skip("OCEMS_PACKAGE names no package: make test-packages sets it")
	}
	dir := t.TempDir()
	script := exec.Command("sh", "-ec", `
		cp "$1" this.deb
		dpkg-deb -R this.deb tree
		sed -i "s/^Version: .*/&+next/" tree/DEBIAN/control
		dpkg-deb -Zgzip -z1 --build tree next.deb
		rm -r tree`, "sh", list)
	script.Dir = dir
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// stage is a machine with the board's server, which has one registered device.
func stage(t *testing.T, dir string) *machine {
	m := newMachine(t, "/", dir)
	m.run("dpkg", "-i", "/tmp/host/this.deb")
	m.run("ocems", "keygen", "--out", "/root/keys")
	m.write("/root/registry.yaml", registry)
	m.write("/run/systemd/system/board.service", board)
	m.sh("systemctl daemon-reload; systemctl start board")
	m.until("the board's server answers", func() bool { _, err := m.try("curl", "-fsS", "127.0.0.1:8750/received"); return err == nil })
	m.sh("cp /root/keys/public.pem /etc/ocems/public.pem; umask 027; printf %s " + token + " >/etc/ocems/tokens/device_5678")
	return m
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	m.run("sh", "-ec", `printf %s "$2" >"$1"`, "sh", path, text)
}

// shows waits until a host serves its metrics for Prometheus.
func (m *machine) shows(address, metric string) {
	m.t.Helper()
	m.until(address+" has "+metric, func() bool {
		out, err := m.try("curl", "-fsS", address)
		return err == nil && strings.Contains(out, metric)
	})
}

// received are the values at the board.
func (m *machine) received() (values []float64) {
	m.t.Helper()
	var got struct{ Readings []struct{ Value float64 } }
	if err := json.Unmarshal([]byte(m.run("curl", "-fsS", "127.0.0.1:8750/received")), &got); err != nil {
		m.t.Fatal(err)
	}
	for _, r := range got.Readings {
		values = append(values, r.Value)
	}
	return values
}

func (m *machine) arrive(n int) []float64 {
	m.t.Helper()
	m.until(fmt.Sprintf("%d slots arrive", n), func() bool { return len(m.received()) >= n })
	return m.received()
}

// feed gives the collector one reading of a slot that ended n slots ago.
func (m *machine) feed(n int, value float64) {
	m.t.Helper()
	at := time.Now().Truncate(15 * time.Minute).Add(-time.Duration(n)*15*time.Minute - time.Minute)
	m.run("curl", "-fsS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-H", "Content-Type: application/json", "-d",
		fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"analyser.cod","gauge":{"dataPoints":[{"timeUnixNano":"%d","asDouble":%v}]}}]}]}]}`,
			at.UnixNano(), value), "127.0.0.1:4318/v1/metrics")
}

// secrets searches for the token where it must not be.
func (m *machine) secrets() {
	m.t.Helper()
	if out, err := m.try("sh", "-c", "journalctl --no-pager | grep "+token+"; grep -rl "+token+" /var/lib/ocems"); err == nil {
		m.t.Errorf("the token is in the journal or the state: %s", out)
	}
}

// The manual pages and the completion are checked in the package: a machine may be configured to install no documentation.
func TestManualAndCompletion(t *testing.T) {
	out, err := exec.Command("dpkg-deb", "-c", filepath.Join(packages(t), "this.deb")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, path := range []string{"man/man1/ocems.1.gz", "man/man1/ocems-doctor.1.gz", "man/man1/ocems-telegraf.1.gz",
		"bash-completion/completions/ocems", "zsh/vendor-completions/_ocems", "fish/vendor_completions.d/ocems.fish"} {
		if !strings.Contains(string(out), " ./usr/share/"+path+"\n") {
			t.Errorf("the package has no %s", path)
		}
	}
}

func TestCollectorService(t *testing.T) {
	dir := packages(t)
	t.Parallel()
	m := stage(t, dir)
	const unit = "otelcol-ocems"
	if got, _ := m.try("systemctl", "is-enabled", unit); strings.TrimSpace(got) != "disabled" {
		t.Errorf("the package has enabled the service: %s", got)
	}
	if got := m.property(unit, "ActiveState"); got != "inactive" {
		t.Errorf("before it is configured the service is %s", got)
	}
	m.sh("sed -i 's|public_key_file:|endpoint: http://127.0.0.1:8750/v1.0/industry/data\\n    spread: 1s\\n    coalesce: 500ms\\n    settle: 1s\\n    &|' /etc/ocems/collector.yaml")
	if out, err := m.try("setpriv", "--reuid=nobody", "--clear-groups", "cat", "/etc/ocems/tokens/device_5678"); err == nil {
		t.Errorf("other users may read the token: %s", out)
	}
	m.run("systemctl", "enable", "--now", unit)
	m.feed(8, 41)
	if got := m.arrive(1); got[0] != 41 {
		t.Errorf("the board has %v, want 41", got)
	}
	m.shows("127.0.0.1:8888/metrics", "otelcol_exporter_ocems_parameter_expected{")
	if got, want := m.sh("stat -c '%a %U' /var/lib/ocems /var/lib/ocems/storage /var/lib/ocems/audit.jsonl"), "700 ocems\n700 ocems\n600 ocems\n"; got != want {
		t.Errorf("the state's modes and owners are %q, want %q", got, want)
	}

	t.Log("a mistake fails the reload and stops nothing")
	pid := m.mainPID(unit)
	m.sh("cp /etc/ocems/collector.yaml /root/good.yaml; sed -i 's|unit: mg/L|unit: mg/Lx|' /etc/ocems/collector.yaml")
	if _, err := m.try("systemctl", "reload", unit); err == nil {
		t.Error("a reload with a mistake has succeeded")
	}
	m.until("the journal reports the mistake", func() bool { // it may lag behind
		return strings.Contains(m.run("journalctl", "--no-pager", "-n", "12", "-u", unit), "mg/Lx")
	})
	m.feed(7, 42)
	m.arrive(2)
	m.sh("cp /root/good.yaml /etc/ocems/collector.yaml; systemctl reload " + unit)
	m.feed(6, 43)
	m.arrive(3)
	if now := m.mainPID(unit); now != pid {
		t.Errorf("the reloads have ended process %d, now it is %d", pid, now)
	}

	t.Log("killed, it is started again")
	m.sh("kill -9 " + strconv.Itoa(pid))
	m.until("the service is back", func() bool { return m.mainPID(unit) != pid && m.property(unit, "ActiveState") == "active" })
	m.feed(5, 44)
	m.arrive(4)

	t.Log("an upgrade keeps state and configuration, and the service runs with the new version")
	pid = m.mainPID(unit)
	m.feed(4, 45) // in an open slot while the old version stops
	m.run("dpkg", "-i", "/tmp/host/next.deb")
	if m.mainPID(unit) == pid || m.property(unit, "ActiveState") != "active" {
		t.Error("the new version does not run")
	}
	m.arrive(5)
	if got := m.sh("diff /root/good.yaml /etc/ocems/collector.yaml || true"); got != "" {
		t.Errorf("the upgrade has changed the configuration: %s", got)
	}
	if got := fmt.Sprint(m.received()); got != "[41 42 43 44 45]" {
		t.Errorf("the board has %v", got)
	}

	t.Log("a stop is quick and clean")
	began := time.Now()
	m.run("systemctl", "stop", unit)
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if got := m.property(unit, "Result"); got != "success" {
		t.Errorf("the stop ended with %s", got)
	}
	m.secrets()

	t.Log("removed and purged, it leaves the state")
	m.run("systemctl", "start", unit)
	m.run("dpkg", "-r", "ocems")
	if got := m.property(unit, "ActiveState"); got != "inactive" {
		t.Errorf("after its removal the service is %s", got)
	}
	m.sh("test -f /etc/ocems/collector.yaml")
	m.run("dpkg", "-P", "ocems")
	m.sh("test ! -e /etc/ocems/collector.yaml; test ! -e /etc/systemd/system/multi-user.target.wants/otelcol-ocems.service; test -s /var/lib/ocems/audit.jsonl")
}

// The programs accept their sample configurations if the files exist.
func TestConfigurations(t *testing.T) {
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN does not name the directory of the built programs")
	}
	dir := t.TempDir()
	if out, err := exec.Command(filepath.Join(bin, "ocems"), "keygen", "--out", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "device_5678"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, argv := range map[string][]string{
		"collector.yaml": {"otelcol-ocems", "validate"}, "telegraf.conf": {"telegraf-ocems-small", "config", "check"},
	} {
		text, err := os.ReadFile(filepath.Join("etc", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		here := strings.NewReplacer("/etc/ocems/tokens", dir, "/etc/ocems", dir).Replace(string(text))
		if err := os.WriteFile(path, []byte(here), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(filepath.Join(bin, argv[0]), append(argv[1:], "--config", path)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// A Telegraf with the output built in, in the unit of this folder and in that of InfluxData's package with the drop-in.
func TestTelegrafServices(t *testing.T) {
	dir := packages(t)
	t.Parallel()
	m := stage(t, dir)
	m.sh(`
		sed -i 's|192.168.0.10:502|127.0.0.1:1|; s|state_directory.*|&\n  endpoint = "http://127.0.0.1:8750/v1.0/industry/data"\n  spread = "1s"\n  settle = "1s"\n  coalesce = "500ms"|; s|^\[agent\]|&\n  round_interval = false|; s|flush_interval = ".*"|flush_interval = "1s"|' \
			/etc/ocems/telegraf.conf
		printf '[[inputs.file]]\n  interval = "24h"\n  files = ["/etc/ocems/readings"]\n  data_format = "influx"\n' >>/etc/ocems/telegraf.conf`)
	reading := func(n int, value float64) string {
		at := time.Now().Truncate(15 * time.Minute).Add(-time.Duration(n)*15*time.Minute - time.Minute)
		return fmt.Sprintf("etp_analyser cod=%v %d\n", value, at.UnixNano())
	}
	m.write("/etc/ocems/readings", reading(4, 51))
	m.run("systemctl", "enable", "--now", "telegraf-ocems")
	m.arrive(1)
	m.shows("127.0.0.1:9273/metrics", "internal_ocems_parameter_expected{")
	pid := m.mainPID("telegraf-ocems")
	m.mistake("telegraf-ocems", "/etc/ocems/telegraf.conf")
	m.write("/etc/ocems/readings", reading(3, 52))
	m.run("systemctl", "reload", "telegraf-ocems")
	m.arrive(2)
	if now := m.mainPID("telegraf-ocems"); now != pid {
		t.Errorf("the reloads have ended process %d, now it is %d", pid, now)
	}
	began := time.Now()
	m.run("systemctl", "stop", "telegraf-ocems")
	if took, result := time.Since(began), m.property("telegraf-ocems", "Result"); took > 8*time.Second || result != "success" {
		t.Errorf("the stop took %s and ended with %s", took, result)
	}
	if got, want := m.sh("stat -c '%a %U' /var/lib/ocems /var/lib/ocems/telegraf"), "700 ocems\n700 ocems\n"; got != want {
		t.Errorf("the state's modes and owners are %q, want %q", got, want)
	}

	t.Log("the unit of InfluxData's package with the drop-in")
	m.write("/usr/lib/systemd/system/telegraf.service", stock)
	m.write("/etc/ocems/readings", reading(2, 53))
	m.sh(`
		useradd --system --user-group --home-dir /etc/telegraf telegraf
		mkdir -p /etc/telegraf/telegraf.d /etc/systemd/system/telegraf.service.d
		install -d -m 770 -o root -g telegraf /var/lib/telegraf
		sed 's|/var/lib/ocems/telegraf|/var/lib/telegraf/ocems|; s|/etc/ocems/tokens/|${CREDENTIALS_DIRECTORY}/tokens_|' /etc/ocems/telegraf.conf >/etc/telegraf/telegraf.conf
		cp /usr/share/doc/ocems/examples/install/telegraf.service.d/ocems.conf /etc/systemd/system/telegraf.service.d/
		systemctl daemon-reload
		systemctl enable --now telegraf`)
	m.arrive(3)
	pid = m.mainPID("telegraf")
	m.mistake("telegraf", "/etc/telegraf/telegraf.conf")
	m.write("/etc/ocems/readings", reading(1, 54))
	m.run("systemctl", "reload", "telegraf")
	if got := fmt.Sprint(m.arrive(4)); got != "[51 52 53 54]" {
		t.Errorf("the board has %s", got)
	}
	if now := m.mainPID("telegraf"); now != pid {
		t.Errorf("the reloads have ended process %d, now it is %d", pid, now)
	}
	// With the service's credentials the doctor finds the token.
	told, _ := m.try("systemd-run", "--pipe", "--wait", "-p", "User=telegraf", "-p", "LoadCredential=tokens:/etc/ocems/tokens",
		"ocems", "doctor", "--offline", "--config", "/etc/telegraf/telegraf.conf")
	if !strings.Contains(told, "devices 1, each with a token") {
		t.Errorf("the doctor says:\n%s", told)
	}
	if got, want := m.sh("stat -c '%a %U' /var/lib/telegraf/ocems"), "700 telegraf\n"; got != want {
		t.Errorf("the state's mode and owner are %q, want %q", got, want)
	}
	m.secrets()
}

// mistake makes a mistake in a configuration, which must fail the unit's reload, and corrects it again.
func (m *machine) mistake(unit, config string) {
	m.t.Helper()
	m.sh("cp -p " + config + " /root/good.conf; echo nonsense >>" + config)
	if _, err := m.try("systemctl", "reload", unit); err == nil {
		m.t.Errorf("%s: a reload with a mistake has succeeded", unit)
	}
	m.until("the journal of "+unit+" reports the mistake", func() bool { // it may lag behind
		return strings.Contains(m.run("journalctl", "--no-pager", "-n", "12", "-u", unit), "loading config file "+config+" failed")
	})
	m.sh("cp -p /root/good.conf " + config)
}

// The unit in InfluxData's package of v1.38.3.
const stock = `[Unit]
Description=Telegraf
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=all
EnvironmentFile=-/etc/default/telegraf
User=telegraf
ImportCredential=telegraf.*
ExecStart=/usr/bin/telegraf -config /etc/telegraf/telegraf.conf -config-directory /etc/telegraf/telegraf.d $TELEGRAF_OPTS
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartForceExitStatus=SIGPIPE
KillMode=mixed
LimitMEMLOCK=8M:8M
PrivateMounts=true

[Install]
WantedBy=multi-user.target
`

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) `)

// systemd accepts every line of the units, and gives a low exposure.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not here")
	}
	dir := t.TempDir()
	for _, name := range []string{"otelcol-ocems.service", "telegraf-ocems.service"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// The programs need not be installed here.
		text = regexp.MustCompile(`=/usr/(local/)?bin/\S+`).ReplaceAll(text, []byte("=/bin/true"))
		for _, dropIn := range []string{"", "serial.conf"} {
			path := filepath.Join(dir, name)
			whole := text
			if dropIn != "" {
				more, err := os.ReadFile(dropIn)
				if err != nil {
					t.Fatal(err)
				}
				path, whole = filepath.Join(dir, "serial-"+name), append(append([]byte{}, text...), more...)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("verify %s: %v: %s", filepath.Base(path), err, out)
			}
			out, _ := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", path).CombinedOutput()
			found := exposure.FindSubmatch(out)
			if found == nil {
				t.Fatalf("no exposure of %s: %s", filepath.Base(path), out)
			}
			t.Logf("%s: %s", filepath.Base(path), found[1])
			if figure, _ := strconv.ParseFloat(string(found[1]), 64); figure > 2.5 {
				t.Errorf("%s is exposed by %v: %s", filepath.Base(path), figure, out)
			}
		}
	}
}
