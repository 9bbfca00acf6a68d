package version

import (
	"runtime/debug"
	"testing"
)

func TestRead(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-11-27T10:28:38Z"}}
	for _, c := range []struct {
		name, stamp string
		info        debug.BuildInfo
		want        string
	}{
		{"a tag", "", debug.BuildInfo{Main: debug.Module{Path: module, Version: "v1.2.3"}, Settings: vcs}, "1.2.3 (commit 0123456789ab, 2026-11-27T10:28:38Z)"},
		{"no repository", "", debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}}, "devel"},
		{"a collector of a release", "", debug.BuildInfo{Main: debug.Module{Path: "example/collector", Version: "v9.9.9"},
			Deps: []*debug.Module{{Path: module, Version: "v1.2.3"}}, Settings: vcs}, "1.2.3"},
		{"a collector of a checkout", "", debug.BuildInfo{Main: debug.Module{Path: "example/collector"},
			Deps: []*debug.Module{{Path: module, Version: "v0.0.0", Replace: &debug.Module{Path: "../"}}}, Settings: vcs}, "devel"},
		{"our collector", "v1.2.3,fedcba9876543210,2026-11-28T00:00:00Z", debug.BuildInfo{Main: debug.Module{Path: "go.opentelemetry.io/collector/cmd/builder"},
			Deps: []*debug.Module{{Path: module, Version: "v0.0.0", Replace: &debug.Module{Path: "../"}}}, Settings: vcs}, "1.2.3 (commit fedcba987654, 2026-11-28T00:00:00Z)"},
		{"a tarball", ",,", debug.BuildInfo{}, "devel"},
	} {
		if got := read(&c.info, c.stamp).String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
