package registry

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Number is a float64 that TOML may also write without a point. Telegraf's decoder accepts no integer for a float64.
type Number float64

// UnmarshalText parses a number.
func (n *Number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(string(text)), "_", ""), 64)
	if err != nil {
		return fmt.Errorf("%q is not a number such as 19.076", text)
	}
	*n = Number(v)
	return nil
}

// UnmarshalYAML lets YAML decode the number, so that an error names the line.
func (n *Number) UnmarshalYAML(value *yaml.Node) error { return value.Decode((*float64)(n)) }

// Numbers is a list of numbers. Telegraf's decoder accepts no list that mixes integers and floats.
type Numbers []Number

// UnmarshalTOML parses the source text of a list.
func (l *Numbers) UnmarshalTOML(source []byte) error {
	var text strings.Builder
	for line := range strings.Lines(string(source)) {
		line, _, _ = strings.Cut(line, "#")
		text.WriteString(strings.TrimSpace(line))
	}
	inner, open := strings.CutPrefix(text.String(), "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if !open || !closed {
		return fmt.Errorf("%s is not a list of numbers such as [-9999, 65535]", source)
	}
	*l = Numbers{}
	for word := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(inner), ","), ",") {
		if word = strings.Trim(strings.TrimSpace(word), `"'`); word == "" && len(*l) == 0 {
			continue
		}
		var n Number
		if err := n.UnmarshalText([]byte(word)); err != nil {
			return err
		}
		*l = append(*l, n)
	}
	return nil
}
