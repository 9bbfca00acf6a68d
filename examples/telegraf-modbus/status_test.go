package telegraf_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/simonvetter/modbus"

	"github.com/ocems-io/ocems/test/loopback"
)

// A reading with an unmapped status is in the trail and not in the mean.
func TestUnknownStatusIsNoReading(t *testing.T) {
	processors := regexp.MustCompile(`(?m)^\[\[processors\.[^\n]*\n(?:(?:[ #].*|\[processors.*|)\n)*`)
	for _, example := range []string{"telegraf-modbus", "telegraf-execd", "telegraf-otlp", "getting-started"} {
		t.Run(example, func(t *testing.T) {
			p := newPlant(t)
			text, err := os.ReadFile(filepath.Join("..", example, "telegraf.conf"))
			if err != nil {
				t.Fatal(err)
			}
			block := strings.Join(processors.FindAllString(string(text), -1), "")
			if !strings.Contains(block, `dest = "ocems_flag"`) {
				t.Fatalf("no mapping: %s", block)
			}
			p.configure(feeding + block + reporting + devicesFile)
			at, lines := past(1), ""
			for i := range 15 {
				value, status := 10, 0
				if i%3 == 2 {
					value, status = 999, 2
				}
				lines += fmt.Sprintf("plant,ocems_device_id=etp-1,ocems_unit=mg/L cod=%d,status=%du %d\n", value, status, at.Add(time.Duration(i)*time.Minute).UnixNano())
			}
			p.write("feed.influx", lines)
			p.plug()
			p.start()
			p.check(p.arrive(1)[0], "etp-1", at.Add(slot), []float64{10})
			p.until("the trail has what was refused", func() bool {
				trail := p.read("state/audit.jsonl")
				return strings.Contains(trail, `"bad_flag","count":5`) && strings.Contains(trail, `not mapped`)
			})
		})
	}
}

// plc is a PLC with its analyser's status in a coil, and with pH times 100.
type plc struct{}

func (plc) HandleCoils(*modbus.CoilsRequest) ([]bool, error) { return []bool{true}, nil }
func (plc) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}
func (plc) HandleHoldingRegisters(*modbus.HoldingRegistersRequest) ([]uint16, error) {
	return []uint16{740}, nil
}
func (plc) HandleInputRegisters(*modbus.InputRegistersRequest) ([]uint16, error) {
	return nil, modbus.ErrIllegalFunction
}

// The doctor's advice relies on how Telegraf reads registers: it truncates an integer, and a coil's flag gets into the registers'
// metric only if coils and registers are in the same metric.
func TestFlagOfACoilAndScaledInteger(t *testing.T) {
	for _, c := range []struct {
		name, keys, dataType, value string
		flagged                     bool
	}{
		{"as it is", "", "INT16", "ph=7i", false},
		{"as the doctor says", "exclude_register_type_tag = true", "FIXED", "ph=7.4", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlant(t)
			address := loopback.Addr(t)
			server, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + address, MaxClients: 5}, plc{})
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Stop() })
			p.write("feed.influx", "")
			p.configure(feeding + fmt.Sprintf(`
[[inputs.modbus]]
  name = "plc"
  name_override = "plant"
  slave_id = 1
  controller = "tcp://%s"
  configuration_type = "register"
  %s
  coils = [{name = "calibration", address = [0]}]
  holding_registers = [{name = "ph", byte_order = "AB", data_type = %q, scale = 0.01, address = [0]}]
[[processors.enum]]
  [[processors.enum.mapping]]
    fields = ["calibration"]
    dest = "ocems_flag"
    default = "not mapped"
    [processors.enum.mapping.value_mappings]
      0 = "U"
      1 = "C"
`, address, c.keys, c.dataType) + reporting + devicesFile)
			p.start()
			p.until("the readings come", func() bool {
				for line := range strings.Lines(p.read("raw.influx")) {
					if strings.Contains(line, c.value) && strings.Contains(line, `ocems_flag="C"`) == c.flagged {
						return true
					}
				}
				return false
			})
		})
	}
}
