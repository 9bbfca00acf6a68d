package main

import (
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Valid settings that lose or change readings: each gives a warning with a cure, and none after the cure.
func TestDoctorWarnsOfInputs(t *testing.T) {
	modbus := func(keys string) string {
		return "[[inputs.modbus]]\nname = \"plc\"\nslave_id = 1\ncontroller = \"tcp://127.0.0.1:1502\"\n" + keys
	}
	holding := func(field string) string { return modbus("holding_registers = [" + field + "]\n") }
	request := func(field string) string {
		return modbus("configuration_type = \"request\"\n[[inputs.modbus.request]]\nslave_id = 1\nregister = \"holding\"\nfields = [" + field + "]\n")
	}
	status := func(keys string) string {
		return "[[processors.enum]]\n[[processors.enum.mapping]]\nfields = [\"status\"]\ndest = \"ocems_flag\"\n" + keys + "[processors.enum.mapping.value_mappings]\n0 = \"U\"\n1 = \"Z\"\n"
	}
	coils := `discrete_inputs = [{name = "status", address = [0]}]
holding_registers = [{name = "cod", byte_order = "AB", data_type = "UINT16", scale = 1.0, address = [1]}]
`
	known := status("default = \"not mapped\"\n")
	agent := func(keys string) string { return "[agent]\n" + keys }
	const cut, open, elsewhere, late, csv, retained, unit = "makes an integer of the scaled value", "count as U", "the flag reaches no reading", "together exceed grace", "csv_skip_errors", "retained message", "one of them belongs to another instrument"
	for _, c := range []struct{ name, text, want, do string }{
		{"an integer in hundredths", holding(`{name = "cod", byte_order = "AB", data_type = "INT16", scale = 0.01, address = [1]}`), cut, `data_type = "FIXED"`},
		{"one without a sign", holding(`{name = "cod", byte_order = "AB", data_type = "UINT16", scale = 0.1, address = [1]}`), cut, `data_type = "UFIXED"`},
		{"one of a byte", holding(`{name = "cod", byte_order = "AB", data_type = "UINT8L", scale = 0.1, address = [1]}`), cut, `output = "FLOAT64"`},
		{"fixed", holding(`{name = "cod", byte_order = "AB", data_type = "FIXED", scale = 0.01, address = [1]}`), "", ""},
		{"float", holding(`{name = "cod", byte_order = "ABCD", data_type = "FLOAT32-IEEE", scale = 0.01, address = [1, 2]}`), "", ""},
		{"not scaled", holding(`{name = "cod", byte_order = "AB", data_type = "INT16", scale = 1.0, address = [1]}`), "", ""},
		{"not reported", holding(`{name = "pressure_of_oil", byte_order = "AB", data_type = "INT16", scale = 0.01, address = [1]}`), "", ""},
		{"request with an integer's output", request(`{address = 1, name = "cod", type = "INT16", scale = 0.01, output = "INT64"}`), cut, `output = "FLOAT64"`},
		{"request with a scale", request(`{address = 1, name = "cod", type = "INT16", scale = 0.01}`), "", ""},

		{"enum that fails open", status(""), open, `default = "not mapped"`},
		{"enum with a default that is a flag", status("default = \"U\"\n"), open, `default = "not mapped"`},
		{"enum that refuses", known, "", ""},
		{"enum of another field", strings.Replace(status(""), "ocems_flag", "state", 1), "", ""},
		{"enum behind a tagpass", status("") + "#tagpass", "", ""},

		{"flag on a coil", known + modbus(coils), elsewhere, "exclude_register_type_tag = true"},
		{"flag on a coil of one metric", known + modbus("exclude_register_type_tag = true\n"+coils), "", ""},
		{"flag on a register", known + holding(`{name = "status", byte_order = "AB", data_type = "UINT16", scale = 1.0, address = [0]}, {name = "cod", byte_order = "AB", data_type = "UINT16", scale = 1.0, address = [1]}`), "", ""},
		{"flag of another request", known + request(`{address = 1, name = "cod", type = "INT16"}`) + "[[inputs.modbus.request]]\nslave_id = 1\nregister = \"coil\"\nfields = [{address = 1, name = \"status\"}]\n", elsewhere, "exclude_register_type_tag = true"},
		{"flag of another measurement", known + modbus(`holding_registers = [{name = "cod", measurement = "etp", byte_order = "AB", data_type = "UINT16", scale = 1.0, address = [1]}, {name = "status", byte_order = "AB", data_type = "UINT16", scale = 1.0, address = [2]}]`+"\n"), elsewhere, "one measurement"},

		{"jitter", agent("flush_interval = \"25s\"\nflush_jitter = \"29s\"\n"), late, "set flush_interval to 10s and flush_jitter to 0s, or grace to 59s"},
		{"jitter of the output", agent("flush_interval = \"10s\"\n") + "#flush_jitter", late, "grace to 45s"},
		{"little jitter", agent("flush_interval = \"10s\"\nflush_jitter = \"5s\"\n"), "", ""},
		{"no time for the collection", agent("flush_interval = \"28s\"\n"), late, "grace to 33s"},

		{"rows that are lost in silence", "[[inputs.tail]]\nfiles = [\"/srv/x.csv\"]\ndata_format = \"csv\"\ncsv_header_row_count = 1\ncsv_skip_errors = true\n", csv, "remove csv_skip_errors"},
		{"messages without a time", "[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:1883\"]\ntopics = [\"x\"]\ndata_format = \"json\"\n", retained, "publish without the retain flag"},
		{"messages with a time", "[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:1883\"]\ntopics = [\"x\"]\ndata_format = \"json_v2\"\n[[inputs.mqtt_consumer.json_v2]]\ntimestamp_path = \"time\"\ntimestamp_format = \"unix\"\n", "", ""},
		{"a unit of another quantity", "#unit m3/hr", unit, "check parameter and unit"},
		{"a unit of the same", "#unit ppm", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			output := telegrafText(t)
			output = strings.Replace(output, "[agent]\n", "", 1)
			if strings.HasSuffix(c.text, "#tagpass") {
				output += "  [outputs.ocems.tagpass]\n    ocems_flag = [\"U\", \"Z\"]\n"
			}
			if strings.HasSuffix(c.text, "#flush_jitter") {
				output = strings.Replace(output, "[[outputs.ocems]]\n", "[[outputs.ocems]]\n  flush_jitter = \"30s\"\n", 1)
			}
			if unit, ok := strings.CutPrefix(c.text, "#unit "); ok {
				output = strings.Replace(output, `"mg/L"`, fmt.Sprintf("%q", unit), 1)
			}
			code, out, errs := quiet(t, "doctor", "--offline", "--host", "telegraf", "--config", write(t, "telegraf.conf", c.text+"\n"+output))
			if code != 0 {
				t.Fatalf("exit %d: %s%s", code, out, errs)
			}
			for _, kind := range []string{cut, open, elsewhere, late, csv, retained, unit} {
				if got := strings.Contains(out, kind); got != (kind == c.want) {
					t.Errorf("%q: %v in %s", kind, got, out)
				}
			}
			if !strings.Contains(out, c.do) {
				t.Errorf("no %q in %s", c.do, out)
			}
		})
	}
}

// An external plugin gets its readings when outputs.execd flushes, as far as tagpass lets them through.
func TestDoctorWarnsOfInputsBeforeAnExternalPlugin(t *testing.T) {
	own := write(t, "ocems.conf", strings.Replace(telegrafText(t), "[agent]\n", "", 1))
	text := func(flush, pass string) string {
		return fmt.Sprintf(`[agent]
flush_interval = "10s"
[[processors.enum]]
[[processors.enum.mapping]]
tags = ["status"]
dest = "ocems_flag"
[processors.enum.mapping.value_mappings]
OK = "U"
[[outputs.execd]]
command = ["/bin/cat"]
data_format = "influx"
[[outputs.execd]]
command = ["/usr/bin/ocems-telegraf", "--config", %q]
data_format = "influx"
use_batch_format = true
restart_delay = "10s"
%s
%s
`, own, flush, pass)
	}
	for _, c := range []struct {
		flush, pass string
		late, open  bool
	}{
		{"", "", false, true},
		{`flush_jitter = "20s"`, "[outputs.execd.tagpass]\nocems_flag = [\"U\"]", true, false},
	} {
		code, out, errs := quiet(t, "doctor", "--offline", "--config", write(t, "telegraf.conf", text(c.flush, c.pass)))
		if code != 0 || strings.Contains(out, "together exceed grace") != c.late || strings.Contains(out, "count as U") != c.open {
			t.Errorf("%+v: exit %d: %s%s", c, code, out, errs)
		}
	}
}

// Files as Windows and spreadsheets save them: unambiguous ones are accepted, all others are reported.
func TestDoctorNamesWhatAFileIs(t *testing.T) {
	public, err := os.ReadFile(publicPath)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(public)
	table := "station_id,device_id,token_id\nstation_1,dev_2," + token + "\n"
	semicolons := strings.ReplaceAll(table, ",", ";")
	utf16 := func(text string) string { return "\xff\xfe" + strings.Join(strings.Split(text, ""), "\x00") + "\x00" }
	for _, c := range []struct{ name, file, text, want string }{
		{"a table of semicolons", "devices.csv", "sep=;\r\n" + semicolons + ";;\r\n", ""},
		{"a table of UTF-16", "devices.csv", utf16(strings.ReplaceAll(table, ",", "\t")), ""},
		{"a table in capitals with a comma at the end", "devices.csv", strings.ToUpper(strings.SplitN(table, "\n", 2)[0]) + ",\n" + strings.SplitN(table, "\n", 2)[1], ""},
		{"a workbook", "devices.csv", "PK\x03\x04\x14", "save it as CSV UTF-8"},
		{"a token of a spreadsheet", "devices.csv", strings.Replace(table, token, "8.97E+31", 1), "a spreadsheet has changed it into a number"},
		{"a short token", "devices.csv", strings.Replace(table, token, token[1:], 1), "dev_2 (a character is missing)"},
		{"a key as DER", "key", string(block.Bytes), ""},
		{"a key of UTF-16", "key", utf16(string(public)), ""},
		{"a key of SSH", "key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 plant@etp\n", "this is an SSH key"},
		{"a key that is cut", "key", string(public[:200]), "it is truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, path := telegrafText(t), write(t, c.file, c.text)
			if c.file == "key" {
				text = strings.Replace(text, publicPath, path, 1)
			} else {
				text = strings.Replace(text, "public_key_file", fmt.Sprintf("devices_file = %q\n  public_key_file", path), 1)
			}
			code, out, errs := quiet(t, "doctor", "--offline", "--config", write(t, "telegraf.conf", text))
			if good := c.want == "" || strings.Contains(c.want, "dev_2"); good != (code == 0) || !strings.Contains(out, c.want) || c.want == "" && strings.Contains(out, "tokens ") {
				t.Errorf("exit %d, want %q: %s%s", code, c.want, out, errs)
			}
			if strings.Contains(out, token[1:]) {
				t.Errorf("the token is shown: %s", out)
			}
		})
	}
}
