package install_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var programs = []string{"ocems", "ocems-telegraf", "otelcol-ocems", "telegraf-ocems"}

// released is the directory of a release's files.
func released(t *testing.T) string {
	dir := os.Getenv("OCEMS_RELEASE")
	if dir == "" {
		t.Skip("OCEMS_RELEASE names no directory of a release's files: make test-archives sets it")
	}
	return dir
}

// files are the files of a release that match a pattern.
func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(released(t), pattern))
	if err != nil || len(found) == 0 && pattern != "*.zip" { // only if the release is also for Windows
		t.Fatalf("%s: %v %v", pattern, found, err)
	}
	return found
}

func output(t *testing.T, name string, argv ...string) string {
	t.Helper()
	out, err := exec.Command(name, argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, argv, err, out)
	}
	return string(out)
}

func TestReleaseChecksums(t *testing.T) {
	check := exec.Command("sha256sum", "--strict", "-c", "SHA256SUMS")
	check.Dir = released(t)
	out, err := check.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, path := range files(t, "*") {
		if name := filepath.Base(path); name != "SHA256SUMS" && !strings.Contains(string(out), name+": OK\n") {
			t.Errorf("SHA256SUMS lacks %s", name)
		}
	}
}

func TestReleaseArchives(t *testing.T) {
	for _, path := range slices.Concat(files(t, "*.tar.gz"), files(t, "*.zip")) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			dir, exe, extract := t.TempDir(), "", []string{"tar", "-xzf", path, "-C"}
			if strings.HasSuffix(path, ".zip") {
				exe, extract = ".exe", []string{"unzip", "-q", path, "-d"}
			}
			output(t, extract[0], append(extract[1:], dir)...)
			root := filepath.Join(dir, strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".tar.gz"), ".zip"))
			for _, name := range []string{"LICENSE", "README.md", "docs/troubleshooting.md", "exporter/ocemsexporter/README.md", "examples/install/README.md", "examples/install/etc/collector.yaml",
				"examples/install/etc/telegraf.conf", "examples/telegraf-execd/ocems.conf"} {
				if got, err := os.Stat(filepath.Join(root, name)); err != nil || got.Size() == 0 || got.Mode().Perm()&0o044 != 0o044 {
					t.Errorf("%s: %v %v", name, got, err)
				}
			}
			version := ""
			if strings.HasSuffix(root, "-linux-"+runtime.GOARCH) {
				version = strings.Fields(output(t, filepath.Join(root, "ocems"), "version"))[1]
			}
			for _, name := range programs {
				program := filepath.Join(root, name+exe)
				if got, err := os.Stat(program); err != nil || exe == "" && got.Mode().Perm() != 0o755 {
					t.Errorf("%s: %v %v", name, got, err)
				} else if strings.HasSuffix(root, "-linux-"+runtime.GOARCH) {
					if got := output(t, program, "--version"); !strings.Contains(got, version) {
						t.Errorf("%s --version: %q lacks the version of ocems, %s", name, got, version)
					}
				}
			}
		})
	}
}

// The package's Telegraf has the plugins for a plant's instruments.
func TestReleaseTelegrafPlugins(t *testing.T) {
	dir := t.TempDir()
	output(t, "tar", "-xzf", files(t, "*-linux-"+runtime.GOARCH+".tar.gz")[0], "--strip-components=1", "-C", dir)
	for kind, want := range map[string][]string{
		"inputs":     {"directory_monitor", "exec", "file", "modbus", "mqtt_consumer", "opcua", "tail"},
		"outputs":    {"ocems", "prometheus_client"},
		"parsers":    {"csv"},
		"processors": {"converter", "enum", "starlark"},
	} {
		got := output(t, filepath.Join(dir, "telegraf-ocems"), "plugins", kind)
		for _, name := range want {
			if !slices.Contains(strings.Fields(got), kind+"."+name) {
				t.Errorf("no %s.%s: %s", kind, name, got)
			}
		}
	}
}

// An image has its programs and everything that they need: they run in it, as its user, without files of this machine.
func TestReleaseImages(t *testing.T) {
	for _, name := range []string{"otelcol-ocems", "telegraf-ocems"} {
		for _, path := range files(t, name+"-*.image.tar") {
			t.Run(filepath.Base(path), func(t *testing.T) {
				dir, root := t.TempDir(), t.TempDir()
				output(t, "tar", "-xf", path, "-C", dir)
				var images []struct {
					Config   string
					RepoTags []string
					Layers   []string
				}
				read(t, filepath.Join(dir, "manifest.json"), &images)
				var config struct {
					Architecture, OS string
					Config           struct {
						User            string
						Entrypoint, Cmd []string
					}
				}
				read(t, filepath.Join(dir, images[0].Config), &config)
				if len(images) != 1 || len(images[0].Layers) != 1 || config.OS != "linux" || config.Config.User != "65532:65532" ||
					!strings.HasPrefix(images[0].RepoTags[0], "ocems/"+name+":") {
					t.Fatalf("the image is %+v with %+v", images, config)
				}
				output(t, "tar", "-xf", filepath.Join(dir, images[0].Layers[0]), "-C", root)
				if got, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")); err != nil || bytes.Count(got, []byte("BEGIN CERTIFICATE")) < 50 {
					t.Errorf("there are too few CA certificates: %d bytes, %v", len(got), err)
				}
				if config.Architecture != runtime.GOARCH || os.Geteuid() != 0 {
					return
				}
				if err := os.Chmod(root, 0o755); err != nil {
					t.Fatal(err)
				}
				// The configuration is a sample: the board's public key does not exist.
				for _, want := range []struct {
					argv []string
					says string
				}{
					{[]string{"/usr/bin/ocems", "--version"}, "ocems"},
					{append(config.Config.Entrypoint, "--version"), ""},
					{append(config.Config.Entrypoint, config.Config.Cmd...), "/etc/ocems/public.pem"},
					{[]string{"/usr/bin/ocems", "keygen", "--out", "/var/lib/ocems/keys"}, ""},
				} {
					command := exec.Command(want.argv[0], want.argv[1:]...)
					command.Dir, command.Env = "/var/lib/ocems", []string{}
					command.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
					out, err := command.CombinedOutput()
					if failed := err != nil; failed != strings.HasPrefix(want.says, "/") || !strings.Contains(string(out), want.says) {
						t.Errorf("%q: %v: %s", want.argv, err, out)
					}
				}
			})
		}
	}
}

// Each list has the version that is built, although a collector and a Telegraf use this module from a folder.
func TestReleaseSBOM(t *testing.T) {
	for program, part := range map[string]string{"ocems": "go.etcd.io/bbolt", "ocems-telegraf": "github.com/influxdata/telegraf",
		"otelcol-ocems": "github.com/ocems-io/ocems", "telegraf-ocems": "github.com/ocems-io/ocems"} {
		for _, path := range files(t, program+"-[0-9]*.cdx.json") {
			var sbom struct {
				BomFormat  string
				Components []struct{ Name, Version string }
			}
			read(t, path, &sbom)
			if sbom.BomFormat != "CycloneDX" || !slices.ContainsFunc(sbom.Components, func(c struct{ Name, Version string }) bool { return c.Name == part }) {
				t.Errorf("%s lacks %s: %d components", filepath.Base(path), part, len(sbom.Components))
			}
		}
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
