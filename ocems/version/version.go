// Package version identifies the build of this project in a program, for --version, status files, the audit trail and the
// server. It reads the build information that the Go command records in the program.
package version

import (
	"fmt"
	"runtime/debug"
	"strings"
)

const module = "github.com/ocems-io/ocems"

// stamp is "version,commit,date". The Makefile sets it in programs with another main module, such as the builder's collector
// or Telegraf, because the Go command records the version of that module.
var stamp string

// Info is one build. Commit and Date are "" if they are not known.
type Info struct {
	Version string // for a release the version of its tag, such as 1.2.3; "devel" if it is not known
	Commit  string
	Date    string // date of the commit, RFC 3339
}

// Read returns the build of this program.
func Read() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return read(info, stamp)
}

func read(info *debug.BuildInfo, stamp string) Info {
	i := Info{Version: "devel"}
	if parts := strings.Split(stamp, ","); len(parts) == 3 {
		i.Commit, i.Date = parts[1], parts[2]
		i.set(parts[0])
		return i
	}
	for _, m := range info.Deps {
		if m.Path == module && m.Replace == nil {
			i.set(m.Version)
		}
	}
	if info.Main.Path != module {
		return i
	}
	i.set(info.Main.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.time":
			i.Date = s.Value
		}
	}
	return i
}

func (i *Info) set(version string) {
	if rest, ok := strings.CutPrefix(version, "v"); ok {
		i.Version = rest
	}
}

// String returns the text that --version prints after a program's name.
func (i Info) String() string {
	if i.Commit == "" {
		return i.Version
	}
	return fmt.Sprintf("%s (commit %.12s, %s)", i.Version, i.Commit, i.Date)
}
