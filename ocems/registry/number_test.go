package registry

import (
	"testing"

	"github.com/influxdata/toml"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"
)

// A whole number of degrees is a number in both TOML and YAML.
func TestNumberInEachLanguage(t *testing.T) {
	for text, want := range map[string]Number{"28": 28, "-0.5": -0.5, "77.20": 77.2, "1e1": 10} {
		var d DeviceConfig
		require.NoError(t, toml.Unmarshal([]byte("latitude = "+text), &d), text)
		require.Equal(t, want, *d.Latitude, text)
		d = DeviceConfig{}
		require.NoError(t, yaml.Unmarshal([]byte("latitude: "+text), &d), text)
		require.Equal(t, want, *d.Latitude, text)
		d = DeviceConfig{}
		r, err := confmap.NewRetrievedFromYAML([]byte("latitude: " + text))
		require.NoError(t, err)
		conf, err := r.AsConf()
		require.NoError(t, err)
		require.NoError(t, conf.Unmarshal(&d), text)
		require.Equal(t, want, *d.Latitude, text)
	}
	var d DeviceConfig
	require.ErrorContains(t, toml.Unmarshal([]byte(`latitude = "19.076 N"`), &d), `"19.076 N" is not a number such as 19.076`)
	require.Error(t, yaml.Unmarshal([]byte(`latitude: 19.076 N`), &d))
}

// A list may mix integers and floats in both languages, over several lines.
func TestNumbersInEachLanguage(t *testing.T) {
	want := Numbers{0, 0, -9999, 65535, 3.4e38}
	var p ParameterConfig
	require.NoError(t, toml.Unmarshal([]byte("invalid_values = [0, 0.0,\n  -9999, # none\n  65_535,\n  3.4e38,\n]\nmetric = \"m\"\n"), &p))
	require.Equal(t, want, p.InvalidValues)
	require.Equal(t, "m", p.Metric)
	p = ParameterConfig{}
	text := []byte("invalid_values: [0, 0.0,\n  -9999, # none\n  65535, 3.4e+38]\n")
	require.NoError(t, yaml.Unmarshal(text, &p))
	require.Equal(t, want, p.InvalidValues)
	p = ParameterConfig{}
	r, err := confmap.NewRetrievedFromYAML(text)
	require.NoError(t, err)
	conf, err := r.AsConf()
	require.NoError(t, err)
	require.NoError(t, conf.Unmarshal(&p))
	require.Equal(t, want, p.InvalidValues)
	for text, want := range map[string]Numbers{"[]": {}, "[ 7 ]": {7}, "[ ]": {}} {
		require.NoError(t, toml.Unmarshal([]byte("invalid_values = "+text), &p), text)
		require.Equal(t, want, p.InvalidValues, text)
	}
	require.ErrorContains(t, toml.Unmarshal([]byte(`invalid_values = -9999`), &p), "-9999 is not a list of numbers such as [-9999, 65535]")
	require.ErrorContains(t, toml.Unmarshal([]byte(`invalid_values = [1, "none"]`), &p), `"none" is not a number such as 19.076`)
}
