package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ocems-io/ocems/ocems/version"
	"github.com/ocems-io/ocems/plugins/outputs/ocems"
)

const testKey = "../../ocems/seal/testdata/industry_test_public.pem"

// minimal is a valid block of 9 lines.
const minimal = `[[outputs.ocems]]
  endpoint = "http://127.0.0.1:1/v1.0/industry/data"
  public_key_file = "` + testKey + `"
  [[outputs.ocems.device]]
    station_id = "etp"
    device_id = "etp-1"
    token_id = "8d97c71e68c2f4eee5fb254fccb49773"
    [[outputs.ocems.device.parameter]]
      metric = "cod"
`

// check runs the program with --check.
func check(t *testing.T, text string) (out string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ocems.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = run(t.Context(), []string{"--config", file, "--check"}, strings.NewReader(""), &b, &b)
	return strings.ReplaceAll(b.String(), file, "FILE"), err
}

func with(line string) string { // inserts line 4
	lines := strings.SplitAfter(minimal, "\n")
	return strings.Join(lines[:3], "") + line + "\n" + strings.Join(lines[3:], "")
}

func TestConfigurationsWithoutMistake(t *testing.T) {
	t.Setenv("TOKEN", "8d97c71e68c2f4eee5fb254fccb49773")
	for name, text := range map[string]string{
		"minimal":                     minimal,
		"byte order mark":             "\uFEFF" + minimal,
		"carriage returns":            strings.ReplaceAll(minimal, "\n", "\r\n"),
		"comment with unset variable": with("# token = \"${UNSET}\" $UNSET @{store:key} [[inputs.cpu]]"),
		"variable":                    strings.Replace(minimal, "8d97c71e68c2f4eee5fb254fccb49773", "${TOKEN}", 1),
		"default":                     strings.Replace(minimal, "127.0.0.1:1", "${UNSET:-127.0.0.1:1}", 1),
		"levels":                      with("alias = \"a\"\nlog_level = \"warn\""),
		"two blocks":                  with("state_directory = \"a\"") + with("state_directory = \"b\""),
		"tags":                        minimal + "[outputs.ocems.device.parameter.tags]\nline = \"1\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := check(t, text)
			if err != nil || !strings.HasPrefix(out, "FILE: ") {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Setenv("INJECT", "x\"\nendpoint = \"http://evil.example\"\n#")
	t.Setenv("LEVEL", "loud")
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":             {with(`endpont = "x"`), `line 4: unknown key "endpont"; nearest: endpoint`},
		"unknown key of a device": {strings.Replace(minimal, "station_id", "station", 1), `line 5: unknown key "station"; nearest: station_id`},
		"unknown key of a parameter": {strings.Replace(minimal, "metric =", "metrics =", 1),
			`line 9: unknown key "metrics"; nearest: metric`},
		"several, in order":  {strings.Replace(with(`endpont = "x"`), "metric =", "metrics =", 1), "line 4: unknown key \"endpont\"; nearest: endpoint"},
		"unknown table":      {"[agent]\n" + minimal, `line 1: "agent" does not belong here; only [[outputs.ocems]] does`},
		"input":              {minimal + "[[inputs.cpu]]\n", `line 10: "inputs" does not belong here`},
		"another output":     {"[[outputs.file]]\n" + minimal, `line 1: [[outputs.file]] does not belong here`},
		"key without table":  {"outputs = 1\n", "there is no [[outputs.ocems]]"},
		"single bracket":     {strings.Replace(minimal, "[[outputs.ocems]]", "[outputs.ocems]", 1), "[[outputs.ocems]]"},
		"device in brackets": {strings.Replace(minimal, "[[outputs.ocems.device]]", "[outputs.ocems.device]", 1), "line 4: device is a list: write [[...device]]"},
		"Telegraf's option":  {with(`namepass = ["x"]`), `line 4: "namepass" is Telegraf's own: set it in the [[outputs.execd]] block`},
		"Telegraf's table":   {minimal + "[outputs.ocems.tagpass]\n", `line 10: "tagpass" is Telegraf's own`},
		"empty":              {"", "there is no [[outputs.ocems]]"},
		"comments only":      {"# x\n", "there is no [[outputs.ocems]]"},
		"syntax":             {with("x = = 8d97"), "line 4: "},
		"unquoted":           {strings.Replace(minimal, `"8d97c71e68c2f4eee5fb254fccb49773"`, "8d97c71e68c2f4eee5fb254fccb49773", 1), "invalid TOML syntax"},
		"unset":              {strings.Replace(minimal, "8d97c71e68c2f4eee5fb254fccb49773", "${UNSET}", 1), `line 1: outputs.ocems: device[0].token_id: "${UNSET}"`},
		"required":           {strings.Replace(minimal, "8d97c71e68c2f4eee5fb254fccb49773", "8d97c71e${UNSET:?the board's}", 1), "line 7: required variable UNSET is missing a value: the board's"},
		"not in effect":      {with(`order = 1`), `line 4: unknown key "order"`}, // Telegraf's loader accepts it, as a key of processors
		"labels":             {with(`labels = {site = "a"}`), `line 4: "labels" is Telegraf's own`},
		"level by name":      {with(`log_level = "${LEVEL}"`), `line 4: log_level: "loud" is unknown`},
		"Init":               {with("max_concurrency = 0\nstate_directory = \"x\""), "line 1: outputs.ocems: max_concurrency: 0 is less than 1; nearest: 1"},
		"Init, 2nd":          {with("state_directory = \"a\"") + with("max_concurrency = 0"), "line 11: outputs.ocems: max_concurrency"},
		"type":               {with("max_concurrency = \"many\""), "line 4: "},
		"duration":           {with(`grace = "soon"`), "line 4: "},
		"alias":              {with("alias = 5"), "line 4: alias: the value is not a string"},
		"level":              {with(`log_level = "warning"`), `line 4: log_level: "warning" is unknown; nearest: warn`},
		"same directory":     {with(`state_directory = "x/"`) + with(`state_directory = "./x"`), `line 11: state_directory: "./x" is also that of the block in line 1; give each block its own`},
		"injection":          {with(`alias = "${INJECT}"` + "\n" + `endpont = ""`), `line 5: unknown key "endpont"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := check(t, c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if !strings.Contains(err.Error(), "ocems.conf: ") {
				t.Errorf("the file is not in %q", err)
			}
			if strings.Contains(err.Error(), "8d97c71e") {
				t.Errorf("a token is in %q", err)
			}
		})
	}
}

// Variables work as in Telegraf's own file.
func TestVariablesAreTelegrafs(t *testing.T) {
	t.Setenv("A", "a")
	t.Setenv("EMPTY", "")
	t.Setenv("NEST", "${A}")
	for in, want := range map[string]string{
		"plain": "plain", "$A": "a", "${A}": "a", "x${A}y$A.z": "xaya.z", "${A:-d}": "a", "${UNSET:-d}": "d", "${UNSET-d}": "d", "${EMPTY:-d}": "d",
		"${EMPTY-d}": "", "${EMPTY}": "", "${A:?say}": "a", "${A:+set}": "set", "$$A": "$A", "pa$$word": "pa$word", "$${A}": "${A}",
		"$UNSET": "$UNSET", "${UNSET}": "${UNSET}", "$": "$", "a$": "a$", "$1": "$1", "${1}": "${1}", "^[a-z]+$": "^[a-z]+$", "${NEST}": "${A}", "# $A": "# a",
	} {
		blocks, err := load([]byte(with("audit_file = \""+in+"\" # ${UNSET:?in a comment}")), "ocems.conf")
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if got := blocks[0].plugin.AuditFile; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Telegraf's loader keeps for the life of the process that a secret has no store.
func TestSecretStoresAreTelegrafs(t *testing.T) {
	p := newPlant(t)
	p.change("${TOKEN}", "@{store:key}")
	r := p.start()
	r.end(1)
	if got := r.err.String(); !strings.Contains(got, `line 13: unknown secret-store for "@{store:key}": secret stores are not available to an external plugin`) {
		t.Errorf("standard error: %q", got)
	}
	t.Setenv("STORED", "@{store:key}")
	p.change("@{store:key}", "${STORED}")
	r = p.start()
	r.end(1)
	if got := r.err.String(); !strings.Contains(got, `ocems.conf: unknown secret-store for "@{store:key}": secret stores are not available`) {
		t.Errorf("standard error: %q", got)
	}
}

// A variable's value cannot end a string or begin a key.
func TestVariableIsOnlyAValue(t *testing.T) {
	value := "x\"\nendpoint = \"http://evil.example\"\n[[outputs.ocems]]\n\\u0041 ${HOME} \x1b'"
	t.Setenv("INJECT", value)
	blocks, err := load([]byte(with("audit_file = \"${INJECT}\"\nalias = \"a${INJECT}b\"\nlocal_address = '${INJECT}'")), "ocems.conf")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 1 {
		t.Fatalf("%d blocks", len(blocks))
	}
	b := blocks[0]
	if b.plugin.Endpoint != "http://127.0.0.1:1/v1.0/industry/data" || b.plugin.AuditFile != value || b.alias != "a"+value+"b" || b.plugin.LocalAddress != value {
		t.Errorf("%q %q %q %q", b.plugin.Endpoint, b.plugin.AuditFile, b.alias, b.plugin.LocalAddress)
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args      []string
		out, want string
	}{
		{[]string{"--version"}, "ocems-telegraf " + version.Read().String() + "\n", ""},
		{[]string{}, "", "--config: missing; give the file with [[outputs.ocems]]"},
		{[]string{"--config", "/nonexistent"}, "", "--config: open /nonexistent: no such file"},
		{[]string{"--config", "/"}, "", "--config: read /: is a directory"},
		{[]string{"--check", "more"}, "", `unexpected argument "more": it takes flags only`},
		{[]string{"-config", "/nonexistent"}, "", "--config: open /nonexistent: no such file"},
		{[]string{"-config=/nonexistent", "-poll_interval", "1s", "-poll_interval_disabled"}, "", "--config: open /nonexistent: no such file"},
		{[]string{"-cnfig", "x"}, "", "unknown flag --cnfig: nearest --config"},
		{[]string{"-usage"}, (&ocems.OCEMS{}).SampleConfig(), ""},
	} {
		var b bytes.Buffer
		err := run(t.Context(), c.args, strings.NewReader(""), &b, &b)
		if b.String() != c.out || (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %q, %v", c.args, b.String(), err)
		}
	}
}

func TestSampleConfigurationIsOne(t *testing.T) {
	var b bytes.Buffer
	if err := run(t.Context(), []string{"--sample-config"}, strings.NewReader(""), &b, &b); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OCEMS_TOKEN", "8d97c71e68c2f4eee5fb254fccb49773")
	if out, err := check(t, strings.Replace(b.String(), "/etc/telegraf/ocems-public.pem", testKey, 1)); err != nil {
		t.Errorf("%s %v", out, err)
	}
}
