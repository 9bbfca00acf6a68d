package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every configuration of the examples and of the README is valid for its program.
func TestConfigurations(t *testing.T) {
	bin := filepath.Dir(program(t, "ocems"))
	dir := t.TempDir()
	built := func(name string) string { return filepath.Join(bin, name) }
	if out, err := exec.Command(built("ocems"), "keygen", "--out", filepath.Join(dir, "keys")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	key := filepath.Join(dir, "keys", "public.pem")
	environment := append(os.Environ(), "OCEMS_PUBLIC_KEY_FILE="+key, "OCEMS_STATE="+dir, "OCEMS_BIN="+bin)
	for _, name := range []string{"OCEMS_TOKEN", "OCEMS_TOKEN_ETP", "OCEMS_TOKEN_FLOW", "OCEMS_TOKEN_STACK", "OCEMS_TOKEN_STACK_1", "OCEMS_TOKEN_STACK_2"} {
		environment = append(environment, name+"=test-token-000000000000000000000000000000000")
	}
	readme, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind, with string) string { // a block of the README, with paths that exist here
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
			if strings.Contains(m[1], with) {
				text := regexp.MustCompile(`/etc/[a-z/-]*public\.pem`).ReplaceAllString(m[1], key)
				path := filepath.Join(dir, "readme."+kind)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
		}
		t.Fatalf("the README has no %s with %s", kind, with)
		return ""
	}
	for _, c := range []struct {
		name string
		argv []string
	}{
		{"collector", []string{built("otelcol-ocems"), "validate", "--config", "collector/config.yaml"}},
		{"telegraf-otlp's collector", []string{built("otelcol-ocems"), "validate", "--config", "telegraf-otlp/collector.yaml"}},
		{"telegraf-otlp", []string{built("tools/telegraf"), "config", "check", "--config", "telegraf-otlp/telegraf.conf"}},
		{"telegraf-execd", []string{built("tools/telegraf"), "config", "check", "--config", "telegraf-execd/telegraf.conf"}},
		{"telegraf-execd's plugin", []string{built("ocems-telegraf"), "--check", "--config", "telegraf-execd/ocems.conf"}},
		{"telegraf-modbus", []string{built("telegraf-ocems-small"), "config", "check", "--config", "telegraf-modbus/telegraf.conf"}},
		{"README, Telegraf", []string{built("telegraf-ocems-small"), "config", "check", "--config", block("toml", "outputs.ocems")}},
		{"README, collector", []string{built("otelcol-ocems"), "validate", "--config", block("yaml", "receivers:")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := exec.Command(c.argv[0], c.argv[1:]...)
			command.Dir = root + "examples"
			command.Env = environment
			if out, err := command.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
