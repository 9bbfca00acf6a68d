package registry

import (
	"testing"

	"github.com/influxdata/toml"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"
)

// A whole number of degrees is a number in each host's language.
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
