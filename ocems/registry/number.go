package registry

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Number is a float64 that TOML may also write without a point: Telegraf's decoder takes no integer for a float64.
type Number float64

// UnmarshalText reads a number.
func (n *Number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(string(text)), "_", ""), 64)
	if err != nil {
		return fmt.Errorf("%q is not a number such as 19.076", text)
	}
	*n = Number(v)
	return nil
}

// UnmarshalYAML reads a number as YAML has it, so that an error names the line.
func (n *Number) UnmarshalYAML(value *yaml.Node) error { return value.Decode((*float64)(n)) }
